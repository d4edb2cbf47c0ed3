//! What would keep one device from its guest, from the grave to the small, and the first command on
//! the way there.

use serde::Serialize;
use sriov::facts::bars::BarOwner;
use sriov::facts::capabilities::Extent;
use sriov::facts::names;
use sriov::isolation::{self, AcsLack, NotViable, is_vfio_driver};
use sriov::usage::{self, Use, UseKind};
use sriov::{PciAddress, PciFunction};

use super::{Facts, Finding, Level, io, worst};
use crate::topology::standing::lease_of_group;

/// What was found of one device.
#[derive(Debug, Clone, Serialize)]
pub struct Diagnosis {
    /// Where it is.
    pub address: PciAddress,
    /// What people call it.
    pub name: String,
    /// Its driver now.
    pub driver: Option<String>,
    /// Its IOMMU group now.
    pub iommu_group: Option<u32>,
    /// What was looked at.
    pub findings: Vec<Finding>,
    /// What it comes to.
    pub verdict: Verdict,
    /// The first thing to do, where it is a command of assign.
    pub command: Option<String>,
}

/// Whether a device can be given to a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It waits for a guest.
    Ready,
    /// It can be made ready.
    Possible,
    /// Not as the host is now.
    No,
}

/// Looks at one device.
pub fn device(facts: Facts, function: &PciFunction) -> Diagnosis {
    let checks: [fn(Facts, &PciFunction) -> Vec<Finding>; 11] = [
        alive, group, reserved, host_use, lease, vfs, driver, interrupts, path, addresses,
        condition,
    ];
    let mut findings = Vec::new();
    if function.is_bridge() {
        findings.push(Finding::problem(
            "bridge",
            "it is a bridge: the way to other devices",
            format!("class {:04x}", function.class_code()),
            "Choose a device behind it: `assign devices` lists them.",
        ));
    } else {
        findings.extend(checks.into_iter().flat_map(|check| check(facts, function)));
    }
    let bound = function.driver.as_deref().is_some_and(is_vfio_driver);
    let verdict = match worst(&findings) {
        Level::Problem => Verdict::No,
        _ if bound => Verdict::Ready,
        _ => Verdict::Possible,
    };
    Diagnosis {
        address: function.address,
        name: names::device(function),
        driver: function.driver.clone(),
        iommu_group: function.iommu_group,
        command: command(facts, function, &findings, verdict),
        findings,
        verdict,
    }
}

/// The first command on the way to a guest; none where what is in the way is no command's work.
fn command(
    facts: Facts,
    function: &PciFunction,
    findings: &[Finding],
    verdict: Verdict,
) -> Option<String> {
    let address = function.address;
    let can_have_vfs = function.sriov.as_ref().is_some_and(|pf| pf.total > 0 && pf.present == 0);
    let create = || format!("assign vf create {address} 1");
    match verdict {
        Verdict::Ready => Some("assign run -f GUEST.yaml".to_owned()),
        Verdict::Possible if can_have_vfs => Some(create()),
        Verdict::Possible => Some(format!("assign bind {address}")),
        Verdict::No => {
            let problems: Vec<&str> = findings
                .iter()
                .filter(|finding| finding.level == Level::Problem)
                .map(|finding| finding.id)
                .collect();
            match problems.as_slice() {
                // What the host uses it keeps, and guests get VFs of it.
                ["host-use"] if can_have_vfs => Some(create()),
                ["has-vfs"] => Some(format!("assign doctor {}", first_vf(function)?)),
                ["group"] => {
                    let group = together(facts, function)?;
                    let names: Vec<String> = group.iter().map(PciAddress::to_string).collect();
                    Some(format!("assign bind {}", names.join(" ")))
                }
                _ => None,
            }
        }
    }
}

fn first_vf(function: &PciFunction) -> Option<PciAddress> {
    function.sriov.as_ref()?.vfs.values().next().copied()
}

/// The whole group, where all of it could go to one guest.
fn together(facts: Facts, function: &PciFunction) -> Option<Vec<PciAddress>> {
    let snapshot = facts.snapshot;
    let group = snapshot.iommu.groups.get(&function.iommu_group?)?;
    let devices = group.members.iter().filter_map(|member| snapshot.function(*member));
    let devices: Vec<&PciFunction> = devices.filter(|member| !member.is_bridge()).collect();
    let free = |member: &&PciFunction| {
        usage::of(snapshot, member).is_empty()
            && member.sriov.as_ref().is_none_or(|pf| pf.present == 0)
            && isolation::reserved(snapshot, member).is_none()
            && isolation::pf_given_away(snapshot, member).is_none()
    };
    let taken =
        |member: &&PciFunction| facts.leases.iter().any(|lease| lease.device == member.address);
    let all =
        group.others.is_empty() && devices.iter().all(|member| free(member) && !taken(member));
    all.then(|| devices.iter().map(|member| member.address).collect())
}

/// A device that answers with all ones is not there, whatever else its files say.
fn alive(_: Facts, function: &PciFunction) -> Vec<Finding> {
    let dead = function.capabilities.as_ref().is_some_and(|found| found.dead);
    let finding = dead.then(|| {
        Finding::problem(
            "dead",
            "it does not answer",
            "its configuration space reads as all ones",
            format!(
                "It is gone, without power, or hangs: `echo 1 > \
                 /sys/bus/pci/devices/{}/remove`, then `echo 1 > /sys/bus/pci/rescan`; if that \
                 does not help, power the machine off and on.",
                function.address
            ),
        )
    });
    finding.into_iter().collect()
}

fn group(facts: Facts, function: &PciFunction) -> Vec<Finding> {
    let snapshot = facts.snapshot;
    let obstacles = isolation::obstacles(snapshot, function, &[]);
    let mut found: Vec<Finding> =
        obstacles.iter().filter_map(|cause| of_group(facts, function, cause)).collect();
    if found.is_empty() {
        let number = function.iommu_group.unwrap_or_default();
        let members = snapshot.iommu.groups.get(&number).map_or(1, |group| group.members.len());
        let evidence = match members {
            1 => format!("it is alone in IOMMU group {number}"),
            _ => format!("no other of the {members} members of group {number} is in use"),
        };
        found.push(Finding::ok("group", "the IOMMU keeps it apart", evidence));
    }
    // What the host lacks for any device.
    let host = [io::vfio_pci(facts), io::dma_mapper(facts)];
    found.extend(host.into_iter().filter(|finding| finding.level == Level::Problem));
    found
}

/// What is wrong with a device's group itself.
fn of_group(facts: Facts, function: &PciFunction, cause: &NotViable) -> Option<Finding> {
    Some(match cause {
        NotViable::NoGroup { remedy } if facts.snapshot.iommu.present => Finding::problem(
            "no-group",
            "no IOMMU is above it",
            "it has no IOMMU group, and other devices of this host have one",
            format!(
                "Its host bridge may be left out of firmware's tables: a firmware update may \
                 help, or another slot. {}",
                if function.iommu_group.is_some() {
                    "Its group is of VFIO's no-IOMMU mode, which isolates nothing."
                } else {
                    remedy.as_str()
                }
            ),
        ),
        NotViable::NoGroup { .. } => {
            let iommu = io::iommu(facts);
            let evidence = format!("it has no IOMMU group; {}", iommu.evidence);
            let remedy = iommu.remedy.unwrap_or_default();
            let title = "nothing would keep it from the host's memory";
            Finding::problem("no-group", title, evidence, remedy)
        }
        NotViable::Neighbours { .. } => {
            let remedy = match together(facts, function) {
                Some(all) => {
                    let all: Vec<String> = all.iter().map(PciAddress::to_string).collect();
                    format!(
                        "Give all of the group to one guest: `assign bind {}`. Or put it into \
                         another slot, below a port with ACS.",
                        all.join(" ")
                    )
                }
                None => "Put it into another slot, below a port with ACS, or choose another \
                         device. The kernel option pcie_acs_override only hides that they reach \
                         each other."
                    .to_owned(),
            };
            let title = "it shares its IOMMU group with devices that the host has";
            Finding::problem("group", title, cause.to_string(), remedy)
        }
        // Told by checks of their own.
        NotViable::Reserved { .. } | NotViable::PfGivenAway { .. } => return None,
    })
}

/// Memory that firmware wants the device to reach: the kernel does not let such a device go
/// (drivers/iommu/intel/iommu.c, "platform RMRR requirement").
fn reserved(facts: Facts, function: &PciFunction) -> Vec<Finding> {
    let Some(cause) = isolation::reserved(facts.snapshot, function) else { return Vec::new() };
    let NotViable::Reserved { region, .. } = &cause else { return Vec::new() };
    let evidence = format!("its group has a direct region {:#x}-{:#x}", region.start, region.end);
    let title = "firmware has it use memory of its own: the kernel does not give it away";
    vec![Finding::problem("reserved", title, evidence, cause.remedy())]
}

fn host_use(facts: Facts, function: &PciFunction) -> Vec<Finding> {
    let used = usage::of(facts.snapshot, function);
    let Some(gravest) = used.first() else {
        return vec![Finding::ok("host-use", "the host does not use it", "nothing is above it")];
    };
    let chains: Vec<String> = used.iter().map(Use::to_string).collect();
    let evidence = chains.join("; ");
    let vfs = match function.sriov.as_ref().is_some_and(|pf| pf.total > 0) {
        true => " Or leave it to the host, and give guests VFs of it (`assign vf create`).",
        false => "",
    };
    if used.iter().all(|used| used.autoconfigured) {
        let address = function.address;
        let netdev = function.netdevs.first().map_or("its interface", String::as_str);
        return vec![Finding::problem(
            "host-use",
            "the host has taken addresses on it by itself",
            evidence,
            format!(
                "They came by router advertisement, and go when it is down: `ip link set {netdev} \
                 down`. Or take it all the same: `assign bind --force {address}`.{vfs}"
            ),
        )];
    }
    let remedy = match gravest.kind {
        UseKind::Root => "The host lives on it: choose another device.",
        UseKind::Mount => "Unmount it first (`umount`).",
        UseKind::Swap => "Swap elsewhere first (`swapoff`).",
        UseKind::DefaultRoute | UseKind::Route | UseKind::Address => {
            "Move its addresses and routes to another interface first (`ip address`, `ip route`)."
        }
        UseKind::Stack => "Take it out of what is above it first (`ip link set … nomaster`).",
        UseKind::Session => {
            "Log in by another way first: this session would end half way, with whatever it was \
             doing."
        }
        UseKind::Pool => "Export the pool first (`zpool export`).",
        UseKind::Namespace => {
            "End the container that has its interface, or move the interface back \
             (`ip -n NAMESPACE link set … netns 1`)."
        }
        UseKind::Program => "Detach the XDP program first (`ip link set … xdp off`).",
        UseKind::Claimed | UseKind::Open => {
            "End the process or service that has it (`fuser -v` and `lsof` tell which)."
        }
        UseKind::Console => {
            "Boot on another display, or without one (console=ttyS0), and choose the primary \
             display in the firmware's settings."
        }
        UseKind::Holder => "Take it out of the volume or array first.",
        UseKind::Bridge => "Choose a device behind it.",
    };
    vec![Finding::problem("host-use", "the host needs it", evidence, format!("{remedy}{vfs}"))]
}

fn lease(facts: Facts, function: &PciFunction) -> Vec<Finding> {
    let holder = facts.leases.iter().find(|lease| lease.device == function.address);
    let holder = holder.or_else(|| lease_of_group(facts.leases, function));
    let finding = holder.map(|lease| {
        Finding::problem(
            "lease",
            format!("guest {} has it", lease.guest),
            format!("{} is leased to process {}", lease.device, lease.owner.pid),
            format!("Stop {} first, or choose another device.", lease.guest),
        )
    });
    finding.into_iter().collect()
}

/// A PF and its VFs, or a VF and its PF.
fn vfs(facts: Facts, function: &PciFunction) -> Vec<Finding> {
    let mut found = Vec::new();
    if let Some(pf) = function.sriov.as_ref().filter(|pf| pf.total > 0) {
        let evidence = format!("{} of {} VFs", pf.present, pf.total);
        found.push(if pf.present > 0 {
            Finding::problem(
                "has-vfs",
                "it has VFs, which would go with it",
                evidence,
                format!(
                    "Give its VFs to guests. To give the whole card: `assign vf destroy {}` first.",
                    function.address
                ),
            )
        } else {
            Finding::warning(
                "could-have-vfs",
                "it could have VFs, one for each guest",
                evidence,
                format!(
                    "`assign vf create {} N` makes them, and the host keeps the card; given whole, \
                     one guest has all of it.",
                    function.address
                ),
            )
        });
    }
    if let Some(vf) = function.vf_of {
        let Some(pf) = facts.snapshot.function(vf.pf) else { return found };
        if let Some(cause) = isolation::pf_given_away(facts.snapshot, function) {
            let title = "its PF is a guest's, or about to be";
            found.push(Finding::problem("pf", title, cause.to_string(), cause.remedy()));
        } else if let Some(port) = facts.snapshot.port_of(pf).filter(|port| !port.up) {
            found.push(Finding::warning(
                "pf",
                "its PF's interface is down, so that it has no link",
                format!("{} of {} is not set up", port.name, pf.address),
                format!("`ip link set {} up`; `assign apply` does it too.", port.name),
            ));
        } else {
            let evidence = format!("VF {} of {}", vf.index, pf.address);
            found.push(Finding::ok("pf", "its PF stays with the host", evidence));
        }
    }
    found
}

fn driver(_: Facts, function: &PciFunction) -> Vec<Finding> {
    let id = "driver";
    let vfio = |driver: &Option<String>| driver.as_deref().is_some_and(is_vfio_driver);
    let finding = match (&function.driver, &function.driver_override) {
        (Some(driver), _) if is_vfio_driver(driver) => {
            Finding::ok(id, "it is bound for guests", format!("its driver is {driver}"))
        }
        (_, over @ Some(name)) if !vfio(over) => Finding::warning(
            id,
            "it is reserved for a driver of the host",
            format!("its driver_override is {name}"),
            "`assign bind` replaces it, and `assign release` brings it back.",
        ),
        (Some(driver), _) => Finding::ok(
            id,
            "binding takes it from its driver, and release gives it back",
            format!("its driver is {driver}"),
        ),
        (None, _) => Finding::ok(id, "no driver has it", "it has no link to a driver"),
    };
    vec![finding]
}

/// How it interrupts. All ways work; a line is the oldest one.
fn interrupts(_: Facts, function: &PciFunction) -> Vec<Finding> {
    let id = "interrupts";
    let Some(capabilities) = &function.capabilities else { return Vec::new() };
    if capabilities.dead {
        return Vec::new();
    }
    let vectors = |count: u16| format!("{count} vector{}", if count == 1 { "" } else { "s" });
    let finding = match (&capabilities.msix, &capabilities.msi) {
        (Some(msix), _) => Finding::ok(id, "it interrupts by MSI-X", vectors(msix.vectors)),
        (None, _) if capabilities.extent < Extent::Standard => Finding::warning(
            id,
            "how it interrupts cannot be seen",
            "only the header of its configuration space can be read",
            "Run it as root.",
        ),
        (None, Some(msi)) => Finding::ok(id, "it interrupts by MSI", vectors(msi.vectors.into())),
        (None, None) => Finding::warning(
            id,
            "it interrupts by a line at most (INTx)",
            "its capabilities have neither MSI-X nor MSI",
            "A guest can use it, more slowly. Should the host's line be shared with another device \
             and this one unable to mask its own, another slot helps.",
        ),
    };
    vec![finding]
}

/// Whether what it sends to a neighbour goes past the IOMMU.
fn path(facts: Facts, function: &PciFunction) -> Vec<Finding> {
    let (id, gaps) = ("acs", isolation::acs_path(facts.snapshot, function));
    let (unread, open): (Vec<_>, Vec<_>) =
        gaps.into_iter().partition(|gap| gap.lack == AcsLack::Unread);
    let finding = if !open.is_empty() {
        let open: Vec<String> = open.iter().map(ToString::to_string).collect();
        Finding::warning(
            id,
            "access control (ACS) is missing on the way to it",
            open.join(", "),
            "What shares that place could be reached past the IOMMU; the kernel's groups reckon \
             with it. Where firmware has a setting for ACS, enable it, or use another slot.",
        )
    } else if !unread.is_empty() || function.iommu_group.is_none() {
        return Vec::new();
    } else {
        let evidence = "everything on the way to it has access control (ACS)";
        Finding::ok(id, "it cannot reach its neighbours past the IOMMU", evidence)
    };
    vec![finding]
}

fn addresses(facts: Facts, function: &PciFunction) -> Vec<Finding> {
    let without = io::unassigned(facts, function);
    let (own, vfs): (Vec<_>, Vec<_>) =
        without.into_iter().partition(|bar| bar.owner == BarOwner::Function);
    let mut found = Vec::new();
    if let Some(bar) = own.first() {
        let evidence = format!("BAR {} of {} bytes begins at 0", bar.index, bar.size);
        let title = "the host found no room for its addresses";
        found.push(Finding::problem("addresses", title, evidence, io::REALLOC));
    }
    if let Some(bar) = vfs.first() {
        let evidence = format!("BAR {} of its VFs, {} bytes, begins at 0", bar.index, bar.size);
        let title = "the host found no room for its VFs' addresses";
        found.push(Finding::warning("vf-addresses", title, evidence, io::REALLOC));
    }
    found
}

/// Reset, power and place.
fn condition(facts: Facts, function: &PciFunction) -> Vec<Finding> {
    let mut found = Vec::new();
    let methods = function.reset_methods.join(", ");
    found.push(match function.reset_methods.as_slice() {
        [] => Finding::warning(
            "reset",
            "the kernel cannot reset it",
            "it has no reset_method",
            "The next guest finds it as the last one left it, and so does the host. Give it to \
             one guest only, and power the machine off in between.",
        ),
        [only] if only == "bus" => Finding::ok(
            "reset",
            "it can be reset, together with all of its bus",
            "its only reset_method is bus",
        ),
        _ => Finding::ok("reset", "it can be reset between guests", format!("by {methods}")),
    });
    if function.power_state.as_deref() == Some("D3cold") {
        found.push(Finding::warning(
            "power",
            "it sleeps without power",
            "its power_state is D3cold",
            format!(
                "Some devices do not wake up for a guest: `echo on > \
                 /sys/bus/pci/devices/{}/power/control` keeps it awake.",
                function.address
            ),
        ));
    }
    let nodes = &facts.snapshot.platform.topology.nodes;
    if nodes.len() > 1 {
        found.push(match function.numa_node {
            Some(number) => {
                let cpus = nodes.iter().find(|node| node.number == number);
                let cpus = cpus.map(|node| format!(", with CPUs {}", node.cpus));
                let evidence = format!("NUMA node {number}{}", cpus.unwrap_or_default());
                Finding::ok("numa", "its place is known, for a guest beside it", evidence)
            }
            None => Finding::warning(
                "numa",
                "which node it is near is not known",
                "firmware names no NUMA node for it",
                "A guest may run far from its device; a firmware update may tell.",
            ),
        });
    }
    found
}
