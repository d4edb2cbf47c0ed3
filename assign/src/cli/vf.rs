//! `assign vf`: virtual functions, one PF at a time.

use clap::{Args, Subcommand, value_parser};
use serde::Serialize;
use sriov::nvme::Secondary;
use sriov::snapshot::Scope;
use sriov::{
    Change, HostSnapshot, MacAddress, PciAddress, PciFunction, PfFacts, Reason, Target, isolation,
};

use super::force::{self, Force};
use super::{Context, Format, apply, bind, confirm, device, output};
use crate::apply::policies::Report;
use crate::failure::Failure;
use crate::plan::{candidates, vfs};
use crate::state::{Drive, Lease};

/// Verbs of `assign vf`.
#[derive(Debug, Subcommand)]
pub enum Vf {
    /// Create VFs on a physical function (PF).
    Create(Create),
    /// List VFs.
    List(List),
    /// Destroy all VFs of a physical function (PF).
    Destroy(Destroy),
}

/// Arguments of `assign vf create`.
#[derive(Debug, Args)]
pub struct Create {
    /// The PF: a PCI address or an interface name.
    #[arg(value_name = "PF")]
    pf: String,
    /// How many VFs it is to have.
    #[arg(value_name = "N", value_parser = value_parser!(u16).range(1..))]
    count: u16,
    /// Bind all of them to this driver, such as vfio-pci; else the host's drivers take them.
    #[arg(long, value_name = "DRIVER")]
    driver: Option<String>,
    #[command(flatten)]
    force: Force,
}

/// Arguments of `assign vf list`.
#[derive(Debug, Args)]
pub struct List {
    /// Only VFs of this PF: a PCI address or an interface name.
    #[arg(value_name = "PF")]
    pf: Option<String>,
}

/// Arguments of `assign vf destroy`.
#[derive(Debug, Args)]
pub struct Destroy {
    /// The PF: a PCI address or an interface name.
    #[arg(value_name = "PF")]
    pf: String,
    #[command(flatten)]
    force: Force,
}

impl Vf {
    pub fn run(&self, context: &Context) -> Result<u8, Failure> {
        match self {
            Vf::Create(verb) => verb.run(context),
            Vf::List(verb) => verb.run(context),
            Vf::Destroy(verb) => verb.run(context),
        }
    }
}

impl Create {
    fn run(&self, context: &Context) -> Result<u8, Failure> {
        let operation = device::begin(context, "vf create", std::slice::from_ref(&self.pf))?;
        // Where there are no VFs yet, nothing is taken from anybody, and nobody's uses are looked for;
        // but a drive may have to be reset for them, with all it carries.
        let functions = HostSnapshot::read_within(&context.root, Scope::Functions);
        let before = find_pf(&functions, &self.pf)?.1;
        let snapshot = match (before.present, &before.nvme) {
            (0, None) => functions,
            _ => HostSnapshot::read(&context.root),
        };
        let (pf, facts) = find_pf(&snapshot, &self.pf)?;
        if self.count > facts.total {
            let message = format!("cannot have {} VFs: its maximum is {}", self.count, facts.total);
            return Err(Failure::bad_input(Reason::TooManyVfs, pf.address, message)
                .with_remedy(format!("Ask for 1 to {}.", facts.total)));
        }
        if let Some(cause) = candidates::unfit(pf) {
            let message = format!("cannot have VFs now: {cause}");
            return Err(Failure::failed(Reason::DriverRefused, pf.address, message).with_remedy(
                "Give it back to its driver with `assign release` or `assign bind`.",
            ));
        }
        let to_guests = self.driver.as_deref().filter(|driver| isolation::is_vfio_driver(driver));
        if to_guests.is_some() && !snapshot.iommu.present {
            let remedy = snapshot.iommu.remedy().to_owned();
            let cause = isolation::NotViable::NoGroup { remedy };
            return Err(Failure::not_viable(pf.address, &cause));
        }
        let mut changes = Vec::new();
        if facts.present != self.count {
            let forced = going(context, &snapshot, facts, &self.force)?;
            changes = vfs::create(&snapshot, pf, self.count, self.driver.as_deref())?;
            by_force(context, &snapshot, facts, &mut changes, &forced);
        }
        if let Some(change) = changes.iter().find(|change| change.is_disruptive()) {
            confirm::ask(context, &pf.address.to_string(), &change.action().to_string())?;
        }
        let operation = operation.perform_all(&changes)?;
        let notes = note_link(&snapshot, pf);
        let report = Report { changes: operation.done(), notes };
        let originals = bind::originals(&report.changes, operation.boot_id(), context);
        let drives = Drive::of(&snapshot, &report.changes);
        operation.commit(|state| {
            drives.iter().try_for_each(|drive| state.remember_drive(drive))?;
            originals.iter().try_for_each(|original| state.remember_original(original))
        })?;
        let nothing = format!("nothing to do: it has {} VFs already", self.count);
        apply::show(context, &report, &nothing)?;
        Ok(0)
    }
}

fn note_link(snapshot: &HostSnapshot, pf: &PciFunction) -> Vec<String> {
    let down = snapshot.port_of(pf).filter(|port| !port.up);
    let note = down.map(|port| {
        format!("{} is down: its VFs have no link until `ip link set {} up`", port.name, port.name)
    });
    note.into_iter().collect()
}

impl Destroy {
    fn run(&self, context: &Context) -> Result<u8, Failure> {
        let operation = device::begin(context, "vf destroy", std::slice::from_ref(&self.pf))?;
        let snapshot = HostSnapshot::read(&context.root);
        let (pf, facts) = find_pf(&snapshot, &self.pf)?;
        let forced = going(context, &snapshot, facts, &self.force)?;
        let drive = context.state.drive(pf.address)?;
        let mut changes = vfs::destroy(&snapshot, pf, drive.as_ref())?;
        by_force(context, &snapshot, facts, &mut changes, &forced);
        if let Some(change) = changes
            .iter()
            .find(|change| matches!(change, Change::SetNvmePrimary { used: Some(_), .. }))
        {
            confirm::ask(context, &pf.address.to_string(), &change.action().to_string())?;
        }
        let operation = operation.perform_all(&changes)?;
        let applied = context.state.applied()?;
        let wanting = applied.iter().find(|applied| {
            let mut pools = applied.policy.pools.iter();
            pools.any(|pool| pool.from.matches(pf).is_ok())
        });
        let notes = wanting.map(|applied| {
            format!(
                "policy {} wants VFs of it: `assign apply` makes them again",
                applied.policy.name
            )
        });
        let report = Report { changes: operation.done(), notes: notes.into_iter().collect() };
        operation.commit(|state| {
            state.forget_drive(pf.address)?;
            facts.vfs.values().try_for_each(|vf| state.forget_original(*vf))
        })?;
        apply::show(context, &report, "nothing to do: it has no VFs")?;
        Ok(0)
    }
}

/// All VFs of a PF are to go: refuses where one is in use that is not to be taken by force; returns
/// those that are.
fn going(
    context: &Context,
    snapshot: &HostSnapshot,
    facts: &PfFacts,
    force: &Force,
) -> Result<Vec<PciAddress>, Failure> {
    let vfs: Vec<PciAddress> = facts.vfs.values().copied().collect();
    let forced = force.find(snapshot, &vfs)?;
    let leases = context.state.leases(&context.root)?;
    for function in vfs.iter().filter_map(|vf| snapshot.function(*vf)) {
        if let Some(lease) = leases.iter().find(|lease| lease.device == function.address) {
            return Err(vfs::leased(lease, "destroy it with the other VFs of its PF"));
        }
        if let Some(failure) = force::carries(snapshot, function, &forced) {
            return Err(failure);
        }
    }
    Ok(forced)
}

/// Marks the steps that take VFs by force as such.
fn by_force(
    context: &Context,
    snapshot: &HostSnapshot,
    facts: &PfFacts,
    changes: &mut [Change],
    forced: &[PciAddress],
) {
    let all: Vec<PciAddress> = facts.vfs.values().copied().collect();
    for change in changes {
        let taken = match &*change {
            Change::SetVfCount { to: 0, .. } => all.clone(),
            // Before that, the host's driver lets go of it.
            Change::Restore { device: Target::Vf(vf), to, .. } if to.driver.is_none() => {
                facts.vfs.get(&vf.index).into_iter().copied().collect()
            }
            _ => continue,
        };
        *change = force::step(&context.root, snapshot, change.clone(), &taken, forced);
    }
}

fn find_pf<'a>(
    snapshot: &'a HostSnapshot,
    name: &str,
) -> Result<(&'a PciFunction, &'a PfFacts), Failure> {
    let function = device::find(snapshot, name)?;
    match &function.sriov {
        Some(facts) => Ok((function, facts)),
        None => {
            let (message, remedy) = match function.vf_of {
                Some(vf) => ("is a VF itself".to_owned(), format!("Name its PF, {}.", vf.pf)),
                None => (
                    "has no SR-IOV capability, so it cannot have VFs".to_owned(),
                    "`assign devices` shows how many VFs each device can have; some cards need \
                     SR-IOV enabled in their firmware first."
                        .to_owned(),
                ),
            };
            Err(Failure::bad_input(Reason::NotSriov, function.address, message).with_remedy(remedy))
        }
    }
}

/// One VF as listed.
#[derive(Debug, Serialize)]
struct Listed {
    pf: PciAddress,
    index: u16,
    address: PciAddress,
    driver: Option<String>,
    iommu_group: Option<u32>,
    mac: Option<MacAddress>,
    interfaces: Vec<String>,
    /// Its controller, where it is an NVMe one that has to be set up.
    #[serde(skip_serializing_if = "Option::is_none")]
    nvme: Option<Secondary>,
    owner: Option<Lease>,
}

impl List {
    fn run(&self, context: &Context) -> Result<u8, Failure> {
        let snapshot = HostSnapshot::read(&context.root);
        let leases = context.state.leases(&context.root)?;
        let only = self.pf.as_deref().map(|name| find_pf(&snapshot, name)).transpose()?;
        let mut listed = Vec::new();
        for function in &snapshot.functions {
            if only.is_some_and(|(pf, _)| pf.address != function.address) {
                continue;
            }
            let Some(facts) = &function.sriov else { continue };
            let vfs = facts.vfs.iter();
            listed.extend(
                vfs.map(|(index, vf)| {
                    list(&snapshot, function.address, facts, *index, *vf, &leases)
                }),
            );
        }
        output::value(context.format, &listed)?;
        if context.format == Format::Table {
            show(&listed)?;
        }
        Ok(0)
    }
}

fn list(
    snapshot: &HostSnapshot,
    pf: PciAddress,
    facts: &PfFacts,
    index: u16,
    address: PciAddress,
    leases: &[Lease],
) -> Listed {
    let function = snapshot.function(address);
    Listed {
        pf,
        index,
        address,
        driver: function.and_then(|vf| vf.driver.clone()),
        iommu_group: function.and_then(|vf| vf.iommu_group),
        mac: facts.vf_settings.get(&index).map(|settings| settings.mac),
        interfaces: function.map(|vf| vf.netdevs.clone()).unwrap_or_default(),
        nvme: facts.nvme.as_ref().and_then(|drive| drive.secondaries.get(&index)).copied(),
        owner: leases.iter().find(|lease| lease.device == address).cloned(),
    }
}

fn show(listed: &[Listed]) -> Result<(), Failure> {
    if listed.is_empty() {
        return output::text_out("no VFs; `assign vf create PF N` makes some");
    }
    let nvme = listed.iter().any(|vf| vf.nvme.is_some());
    let mut headings = vec!["PF", "VF", "ADDRESS", "DRIVER", "GROUP"];
    match nvme {
        true => headings.extend(["ID", "STATE", "QUEUES", "INTERRUPTS"]),
        false => headings.extend(["MAC", "INTERFACE"]),
    }
    headings.push("OWNER");
    if nvme && listed.iter().any(|vf| vf.nvme.is_none()) {
        headings.extend(["MAC", "INTERFACE"]);
    }
    let mut table = output::Table::new(&headings, &[0, 1, 2, 4, 5]);
    for vf in listed {
        let cell = |heading: &&str| match *heading {
            "PF" => vf.pf.to_string(),
            "VF" => vf.index.to_string(),
            "ADDRESS" => vf.address.to_string(),
            "DRIVER" => vf.driver.clone().unwrap_or_default(),
            "GROUP" => vf.iommu_group.map(|group| group.to_string()).unwrap_or_default(),
            "MAC" => vf.mac.map(|mac| mac.to_string()).unwrap_or_default(),
            "INTERFACE" => vf.interfaces.join(" "),
            "OWNER" => vf.owner.as_ref().map(|lease| lease.guest.clone()).unwrap_or_default(),
            other => vf.nvme.map(|secondary| controller(other, &secondary)).unwrap_or_default(),
        };
        table.row(&headings.iter().map(cell).collect::<Vec<String>>());
    }
    table.print()
}

/// What of an NVMe VF's controller stands below a heading.
fn controller(heading: &str, secondary: &Secondary) -> String {
    let state = secondary.state;
    match heading {
        "ID" => secondary.controller.to_string(),
        "STATE" => if state.online { "online" } else { "offline" }.to_owned(),
        "QUEUES" => state.queues.to_string(),
        _ => state.interrupts.to_string(),
    }
}
