//! What the doctor finds in facts: each thing that can be wrong, its level and its remedy.

use assign::doctor::{self, Facts, Finding, Level, StateDirectory, Verdict};
use assign::state::{Lease, Owner};
use sriov::facts::bars::{Bar, BarKind, BarOwner};
use sriov::facts::capabilities::{Capabilities, Extent, Pcie, PortKind};
use sriov::facts::iommu::{IommuKind, Region, RegionKind};
use sriov::facts::platform::memory::{Ksm, KsmState, Overcommit};
use sriov::facts::platform::{
    Extension, Finding as Sign, HugePages, Kind, KvmInterface, Module, Modules, Process,
};
use sriov::facts::reader::Problem;
use sriov::recorded::Tree;
use sriov::{HostSnapshot, PciAddress, Scope};

const VF: &str = "0000:01:10.0";
const PF: &str = "0000:01:00.0";
const SHARED: &str = "0000:00:1f.3";
const PORT: &str = "0000:00:01.0";

/// A host on which everything is as it should be, with one VF.
fn good() -> HostSnapshot {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut snapshot =
        HostSnapshot::read_within(&Tree::lab(directory.path(), 1).root(), Scope::Whole);
    let platform = &mut snapshot.platform;
    platform.runs_on = vec![sign(Kind::BareMetal)];
    platform.cpu.vendor = "GenuineIntel".to_owned();
    platform.cpu.extension = Some(Extension::Vmx);
    platform.cpu.hardware = Some(Extension::Vmx);
    let present = Module::Present;
    platform.modules = Modules {
        kvm_intel: present,
        kvm_amd: Module::Loadable,
        vfio_pci: present,
        vfio_iommu_type1: present,
        iommufd: Module::Missing,
        vhost_net: present,
        tun: present,
    };
    platform.io.files = ["kvm", "vfio/vfio", "net/tun"].map(str::to_owned).to_vec();
    platform.io.interrupt_remapping.used = Some(true);
    platform.kvm_interface = Some(KvmInterface { version: Some(12), ..KvmInterface::default() });
    platform.process = Some(Process { user: 0, memlock: Some(64 << 10) });
    platform.memory.total = Some(64 << 30);
    platform.memory.available = Some(60 << 30);
    for function in &mut snapshot.functions {
        function.reset_methods = vec!["flr".to_owned()];
    }
    snapshot
}

fn sign(kind: Kind) -> Sign {
    Sign { kind, evidence: "a sign".to_owned() }
}

fn address(text: &str) -> PciAddress {
    text.parse().expect("an address")
}

fn of_host(snapshot: &HostSnapshot) -> Vec<Finding> {
    doctor::host(Facts { snapshot, leases: &[], state: None })
}

/// The finding of the host with this id, after a change to a good one.
fn host_with(id: &str, change: impl Fn(&mut HostSnapshot)) -> Finding {
    let mut snapshot = good();
    change(&mut snapshot);
    let found = of_host(&snapshot).into_iter().find(|finding| finding.id == id);
    found.unwrap_or_else(|| panic!("no finding {id}"))
}

fn edit<'a>(snapshot: &'a mut HostSnapshot, name: &str) -> &'a mut sriov::PciFunction {
    let found = snapshot.functions.iter_mut().find(|found| found.address == address(name));
    found.expect("the device")
}

fn diagnose(snapshot: &HostSnapshot, name: &str, leases: &[Lease]) -> doctor::Diagnosis {
    let function = snapshot.function(address(name)).expect("the device");
    doctor::device(Facts { snapshot, leases, state: None }, function)
}

/// The finding of a device with this id, after a change to a good host.
fn device_with(name: &str, id: &str, change: impl Fn(&mut HostSnapshot)) -> Finding {
    let mut snapshot = good();
    change(&mut snapshot);
    let found = diagnose(&snapshot, name, &[]).findings;
    let found = found.into_iter().find(|finding| finding.id == id);
    found.unwrap_or_else(|| panic!("no finding {id}"))
}

#[track_caller]
fn assert_finding(finding: &Finding, level: Level, remedy: &str) {
    assert_eq!(finding.level, level, "{finding:?}");
    let told = finding.remedy.clone().unwrap_or_default();
    assert!(told.contains(remedy), "{finding:?}");
    assert!(!finding.title.is_empty() && !finding.evidence.is_empty(), "{finding:?}");
    assert_eq!(level == Level::Ok, finding.remedy.is_none(), "{finding:?}");
}

#[test]
fn a_good_host_has_no_problem_and_no_warning() {
    let found = of_host(&good());
    let bad: Vec<&Finding> = found.iter().filter(|found| found.level != Level::Ok).collect();
    assert!(bad.is_empty(), "{bad:#?}");
    let mut ids: Vec<&str> = found.iter().map(|found| found.id).collect();
    ids.sort_unstable();
    let count = ids.len();
    ids.dedup();
    assert_eq!(ids.len(), count, "an id twice");
}

#[test]
fn a_cpu_without_guests_has_three_remedies() {
    let id = "cpu-virtualization";
    let off = host_with(id, |host| {
        host.platform.cpu.extension = None;
        host.platform.kvm_interface = None;
    });
    assert_finding(&off, Level::Problem, "Intel Virtualization Technology");
    let nested = host_with(id, |host| {
        host.platform.cpu.extension = None;
        host.platform.cpu.hardware = None;
        host.platform.kvm_interface = None;
        host.platform.runs_on = vec![sign(Kind::Kvm)];
    });
    assert_finding(&nested, Level::Problem, "nested=1");
    let slow = host_with(id, |host| host.platform.cpu.paging.used = Some(false));
    assert_finding(&slow, Level::Warning, "kvm_intel.ept=1");
}

#[test]
fn kvm_is_loaded_opened_and_able() {
    let missing = |module| {
        host_with("kvm", move |host| {
            host.platform.kvm = false;
            host.platform.modules.kvm_intel = module;
        })
    };
    assert_finding(&missing(Module::Loadable), Level::Problem, "modprobe kvm_intel");
    assert_finding(&missing(Module::Missing), Level::Problem, "CONFIG_KVM");
    assert_finding(&missing(Module::Present), Level::Problem, "mknod /dev/kvm");
    let with = |change: fn(&mut KvmInterface)| {
        host_with("kvm", move |host| host.platform.kvm_interface.iter_mut().for_each(change))
    };
    let denied = with(|kvm| kvm.error = Some("Permission denied".to_owned()));
    assert_finding(&denied, Level::Problem, "as root");
    let lacking = with(|kvm| {
        kvm.capabilities.insert("IRQFD".to_owned(), 0);
    });
    assert_finding(&lacking, Level::Problem, "newer kernel");
    assert!(lacking.evidence.contains("IRQFD"), "{lacking:?}");
}

#[test]
fn where_it_runs_decides_what_to_do() {
    let on = |id: &str, kinds: &[Kind], iommu: bool| {
        host_with(id, |host| {
            host.platform.runs_on = kinds.iter().copied().map(sign).collect();
            host.iommu.present = iommu;
        })
    };
    let container = on("container", &[Kind::Kvm, Kind::Docker], true);
    assert_finding(&container, Level::Problem, "on the host itself");
    assert_finding(&on("platform", &[Kind::Hyperv, Kind::Wsl], false), Level::Problem, "on Linux");
    let dom0 = on("platform", &[Kind::Xen, Kind::XenDom0], true);
    assert_finding(&dom0, Level::Problem, "without Xen");
    let cloud = on("iommu", &[Kind::Kvm, Kind::Aws], false);
    assert_finding(&cloud, Level::Problem, ".metal");
    assert_finding(&on("iommu", &[Kind::Qemu], false), Level::Problem, "-device intel-iommu");
    assert_finding(&on("platform", &[Kind::Qemu], false), Level::Ok, "");
    assert_finding(&on("nested-virtualization", &[Kind::Qemu], true), Level::Warning, "KVM");
    assert_finding(&on("nested-virtualization", &[Kind::Vmware], true), Level::Ok, "");
}

#[test]
fn an_iommu_is_offered_and_used() {
    let without = |firmware, told: &str| {
        host_with("iommu", |host| {
            host.iommu.present = false;
            host.iommu.firmware = firmware;
            host.platform.command_line = told.to_owned();
        })
    };
    let intel = without(Some(IommuKind::Intel), "quiet intel_iommu=off");
    assert_finding(&intel, Level::Problem, "intel_iommu=on");
    assert!(intel.evidence.contains("booted with intel_iommu=off"), "{intel:?}");
    let pretended = host_with("acs-override", |host| {
        host.platform.command_line = "pcie_acs_override=downstream".to_owned();
    });
    assert_finding(&pretended, Level::Warning, "whole groups");
    let amd = without(Some(IommuKind::Amd), "");
    assert_finding(&amd, Level::Problem, "amd_iommu=off");
    assert_finding(&without(None, ""), Level::Problem, "VT-d");
}

#[test]
fn interrupts_are_remapped_or_vfio_is_told() {
    let with = |used, told| {
        host_with("interrupt-remapping", |host| {
            host.platform.io.interrupt_remapping.used = used;
            host.platform.io.interrupt_remapping.evidence = "a chip".to_owned();
            host.platform.io.unsafe_interrupts = told;
        })
    };
    assert_finding(&with(Some(false), Some(false)), Level::Problem, "allow_unsafe_interrupts");
    assert_finding(&with(Some(false), Some(true)), Level::Warning, "could raise interrupts");
    assert_finding(&with(None, None), Level::Warning, "dmesg");
    let no_iommu = {
        let mut host = good();
        host.iommu.present = false;
        of_host(&host)
    };
    assert!(no_iommu.iter().all(|finding| finding.id != "interrupt-remapping"));
}

#[test]
fn what_the_kernel_offers_devices_and_guests() {
    let module = |id: &str, change: fn(&mut Modules)| {
        host_with(id, move |host| change(&mut host.platform.modules))
    };
    let missing = module("vfio-pci", |modules| modules.vfio_pci = Module::Missing);
    assert_finding(&missing, Level::Problem, "CONFIG_VFIO_PCI");
    let loadable = module("vfio-pci", |modules| modules.vfio_pci = Module::Loadable);
    assert_finding(&loadable, Level::Ok, "");
    let missing = module("vfio-type1", |modules| modules.vfio_iommu_type1 = Module::Missing);
    assert_finding(&missing, Level::Problem, "CONFIG_VFIO_IOMMU_TYPE1");
    let tun = module("tun", |modules| modules.tun = Module::Missing);
    assert_finding(&tun, Level::Warning, "CONFIG_TUN");
    let vhost = module("vhost-net", |modules| modules.vhost_net = Module::Unknown);
    assert_finding(&vhost, Level::Warning, "modprobe vhost_net");
    let file = host_with("vfio-type1", |host| host.platform.io.files.clear());
    assert_finding(&file, Level::Problem, "mknod /dev/vfio/vfio");
    let unsafe_mode = host_with("no-iommu-mode", |host| host.platform.io.no_iommu = Some(true));
    assert_finding(&unsafe_mode, Level::Warning, "enable_unsafe_noiommu_mode");
}

#[test]
fn memory_is_there_in_the_right_pages() {
    let little = host_with("memory", |host| host.platform.memory.available = Some(100 << 20));
    assert_finding(&little, Level::Warning, "more memory");
    let never = host_with("transparent-huge-pages", |host| {
        host.platform.memory.transparent_huge_pages = Some("never".to_owned());
    });
    assert_finding(&never, Level::Warning, "echo madvise");
    let ksm = host_with("samepage-merging", |host| {
        host.platform.memory.ksm = Some(Ksm { state: KsmState::Running, ..Ksm::default() });
    });
    assert_finding(&ksm, Level::Warning, "echo 2");
    let swap = host_with("swap", |host| {
        (host.platform.memory.swap_total, host.platform.memory.swap_free) = (Some(100), Some(10));
    });
    assert_finding(&swap, Level::Warning, "fewer guests");
    let promises = host_with("overcommit", |host| {
        let memory = &mut host.platform.memory;
        memory.overcommit = Some(Overcommit::Never);
        (memory.commit_limit, memory.committed) = (Some(1 << 30), Some(1 << 30));
    });
    assert_finding(&promises, Level::Warning, "overcommit_ratio");
    let pool =
        |node, free| HugePages { size: 2 << 20, node, total: 8, free, ..HugePages::default() };
    let used = host_with("huge-pages", |host| {
        host.platform.memory.huge_pages = vec![pool(None, 0)];
    });
    assert_finding(&used, Level::Warning, "hugepagesz=2M");
    let lopsided = host_with("huge-pages", |host| {
        host.platform.memory.huge_pages = vec![pool(None, 8), pool(Some(0), 8), pool(Some(1), 0)];
    });
    assert_finding(&lopsided, Level::Warning, "node1/hugepages");
}

#[test]
fn a_user_who_is_not_root_is_told() {
    let user = Process { user: 1000, memlock: Some(64 << 10) };
    let as_user = |id: &str| host_with(id, |host| host.platform.process = Some(user));
    assert_finding(&as_user("privilege"), Level::Warning, "sudo");
    assert_finding(&as_user("lock-limit"), Level::Warning, "LimitMEMLOCK");
    let snapshot = good();
    let error = Some("read-only".to_owned());
    let state = StateDirectory { path: "/var/lib/assign".to_owned(), error };
    let facts = Facts { snapshot: &snapshot, leases: &[], state: Some(&state) };
    let found = doctor::host(facts).into_iter().find(|finding| finding.id == "state");
    assert_finding(&found.expect("the state"), Level::Problem, "--state");
    let unread = host_with("unread", |host| {
        host.problems = vec![Problem { path: "/sys/x".into(), cause: "odd".to_owned() }];
    });
    assert_finding(&unread, Level::Warning, "assign snapshot");
}

#[test]
fn addresses_that_found_no_room_are_told() {
    let bar = |owner| Bar {
        owner,
        index: 0,
        start: 0,
        size: 0x4000,
        kind: BarKind::Memory64,
        prefetchable: false,
    };
    let host = host_with("addresses", |host| edit(host, PF).bars = vec![bar(BarOwner::Vfs)]);
    assert_finding(&host, Level::Warning, "pci=realloc");
    let own =
        device_with(VF, "addresses", |host| edit(host, VF).bars = vec![bar(BarOwner::Function)]);
    assert_finding(&own, Level::Problem, "pci=realloc");
    // Who is not root sees zeros everywhere.
    let mut snapshot = good();
    edit(&mut snapshot, VF).bars = vec![bar(BarOwner::Function)];
    snapshot.platform.process = Some(Process { user: 1, memlock: None });
    assert!(diagnose(&snapshot, VF, &[]).findings.iter().all(|found| found.id != "addresses"));
}

#[test]
fn a_vf_that_waits_is_ready_and_a_free_one_can_be() {
    let mut snapshot = good();
    let free = diagnose(&snapshot, VF, &[]);
    assert_eq!(free.verdict, Verdict::Possible, "{free:#?}");
    assert_eq!(free.command.as_deref(), Some("assign bind 0000:01:10.0"));
    edit(&mut snapshot, VF).driver = Some("vfio-pci".to_owned());
    assert_eq!(diagnose(&snapshot, VF, &[]).verdict, Verdict::Ready);
}

#[test]
fn a_pf_is_better_parted() {
    let snapshot = good();
    let whole = diagnose(&snapshot, PF, &[]);
    assert_eq!(whole.verdict, Verdict::No);
    assert_eq!(whole.command.as_deref(), Some("assign doctor 0000:01:10.0"));
    let mut snapshot = good();
    let sriov = edit(&mut snapshot, PF).sriov.as_mut().expect("SR-IOV");
    sriov.present = 0;
    let whole = diagnose(&snapshot, PF, &[]);
    assert_eq!(whole.verdict, Verdict::Possible);
    assert_eq!(whole.command.as_deref(), Some("assign vf create 0000:01:00.0 1"));
    let with_guest = device_with(VF, "pf", |host| {
        edit(host, PF).driver = Some("vfio-pci".to_owned());
    });
    assert_finding(&with_guest, Level::Problem, "assign release 0000:01:00.0");
}

#[test]
fn neighbours_that_the_host_needs_keep_a_device() {
    let snapshot = good();
    let shared = diagnose(&snapshot, SHARED, &[]);
    assert_eq!((shared.verdict, shared.command), (Verdict::No, None));
    let group = shared.findings.iter().find(|found| found.id == "group").expect("its group");
    assert_finding(group, Level::Problem, "another slot");
    assert!(group.evidence.contains("0000:00:1f.2 (ahci, carries sda → /)"), "{group:?}");
    // A group of which nothing is needed could go as a whole.
    let mut snapshot = good();
    snapshot.blocks.clear();
    let shared = diagnose(&snapshot, SHARED, &[]);
    assert_eq!(shared.command.as_deref(), Some("assign bind 0000:00:1f.2 0000:00:1f.3"));
}

#[test]
fn what_the_host_lives_on_is_its_own() {
    let disk = device_with("0000:00:1f.2", "host-use", |_| {});
    assert_finding(&disk, Level::Problem, "choose another device");
    let mounted = device_with("0000:00:1f.2", "host-use", |host| {
        host.blocks.iter_mut().for_each(|block| block.mounts = vec!["/srv".to_owned()]);
    });
    assert_finding(&mounted, Level::Problem, "umount");
    let bridge = diagnose(&good(), PORT, &[]);
    assert_eq!(bridge.verdict, Verdict::No);
    assert!(matches!(bridge.findings.as_slice(), [only] if only.id == "bridge"));
    let route = device_with(PF, "host-use", |host| {
        edit(host, PF).sriov.iter_mut().for_each(|pf| pf.present = 0);
        host.netdevs.iter_mut().for_each(|netdev| netdev.default_route = true);
    });
    assert_finding(&route, Level::Problem, "assign vf create");
    // What routers gave is lost all the same, and `assign bind` refuses it.
    let advertised = device_with(PF, "host-use", |host| {
        edit(host, PF).sriov.iter_mut().for_each(|pf| pf.present = 0);
        for netdev in &mut host.netdevs {
            netdev.addresses = vec!["2001:db8::1".parse().expect("an address")];
            netdev.autoconfigured = true;
        }
    });
    assert_finding(&advertised, Level::Problem, "ip link set eth0 down");
}

#[test]
fn without_a_group_nothing_goes() {
    let change = |host: &mut HostSnapshot| {
        edit(host, VF).iommu_group = None;
    };
    assert_finding(&device_with(VF, "no-group", change), Level::Problem, "another slot");
    let none = device_with(VF, "no-group", |host| {
        host.iommu.present = false;
        host.iommu.groups.clear();
    });
    assert_finding(&none, Level::Problem, "VT-d");
    let direct = device_with(VF, "reserved", |host| {
        let number = host.function(address(VF)).and_then(|vf| vf.iommu_group).expect("a group");
        let group = host.iommu.groups.get_mut(&number).expect("the group");
        let region = Region { start: 0x1000, end: 0x1fff, kind: RegionKind::Direct };
        group.reserved = vec![region];
    });
    assert_finding(&direct, Level::Problem, "firmware's settings");
}

#[test]
fn the_device_itself_must_do() {
    let capable = |change: fn(&mut Capabilities)| {
        move |host: &mut HostSnapshot| {
            let mut found = Capabilities { extent: Extent::Extended, ..Capabilities::default() };
            change(&mut found);
            edit(host, VF).capabilities = Some(found);
        }
    };
    let line = device_with(VF, "interrupts", capable(|_| {}));
    assert_finding(&line, Level::Warning, "another slot");
    let dead = device_with(VF, "dead", capable(|found| found.dead = true));
    assert_finding(&dead, Level::Problem, "rescan");
    let hidden = device_with(VF, "interrupts", capable(|found| found.extent = Extent::Header));
    assert_finding(&hidden, Level::Warning, "as root");
    let no_reset = device_with(VF, "reset", |host| edit(host, VF).reset_methods.clear());
    assert_finding(&no_reset, Level::Warning, "one guest only");
    let asleep = device_with(VF, "power", |host| {
        edit(host, VF).power_state = Some("D3cold".to_owned());
    });
    assert_finding(&asleep, Level::Warning, "power/control");
}

#[test]
fn a_port_without_acs_is_named() {
    let port = |host: &mut HostSnapshot| {
        let pcie = Pcie {
            port: PortKind::RootPort,
            slot: true,
            flr: false,
            max_speed: None,
            max_width: 1,
            speed: None,
            width: 0,
        };
        let extent = Extent::Extended;
        edit(host, PORT).capabilities =
            Some(Capabilities { extent, pcie: Some(pcie), ..Capabilities::default() });
    };
    let open = device_with(VF, "acs", port);
    assert_finding(&open, Level::Warning, "ACS");
    assert!(open.evidence.contains(PORT), "{open:?}");
    // A tree that leads back to itself ends.
    let mut looped = good();
    port(&mut looped);
    edit(&mut looped, PORT).parent = Some(address(PORT));
    diagnose(&looped, VF, &[]);
}

#[test]
fn a_leased_device_is_a_guests() {
    let snapshot = good();
    let lease = Lease {
        device: address(VF),
        vf: None,
        pool: None,
        group: snapshot.function(address(VF)).and_then(|vf| vf.iommu_group),
        guest: "web-1".to_owned(),
        owner: Owner { pid: 42, started: 7 },
        launcher: None,
        boot_id: String::new(),
        created: 0,
        instance: None,
        loan: None,
    };
    let found = diagnose(&snapshot, VF, &[lease]);
    assert_eq!(found.verdict, Verdict::No);
    let lease = found.findings.iter().find(|found| found.id == "lease").expect("the lease");
    assert_finding(lease, Level::Problem, "Stop web-1");
}
