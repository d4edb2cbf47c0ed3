//! Which platform a host is: each of `tests/hosts/platforms` is laid out, read and compared.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use sriov::facts::platform::cpuid::Cpuid;
use sriov::facts::platform::{
    Evidence, Extension, Feature, HugePages, Kind, Module, Platform, detect,
};
use sriov::facts::reader::Reader;
use sriov::recorded::Tree;
use sriov::{HostRoot, HostSnapshot, Scope};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fixture {
    about: String,
    source: String,
    /// What hypervisors sign, none on bare metal; null where the CPU is not asked.
    cpuid: Option<Vec<String>>,
    files: BTreeMap<String, String>,
    #[serde(default)]
    links: BTreeMap<String, String>,
    expect: Vec<Kind>,
}

impl Fixture {
    fn lay_out(&self, directory: &Path) -> HostRoot {
        std::fs::create_dir_all(directory).expect("a directory");
        let root = HostRoot::at(directory);
        for (path, text) in &self.files {
            let path = directory.join(path);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("directories");
            std::fs::write(path, text).expect("a file");
        }
        for (path, target) in &self.links {
            let path = directory.join(path);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("directories");
            std::os::unix::fs::symlink(target, path).expect("a link");
        }
        root
    }
}

fn fixtures() -> Vec<(String, Fixture)> {
    let directory = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/hosts/platforms"));
    let entries = std::fs::read_dir(directory).expect("the fixtures");
    let mut fixtures: Vec<(String, Fixture)> = entries
        .map(|entry| {
            let path = entry.expect("an entry").path();
            let text = std::fs::read_to_string(&path).expect("a fixture");
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let fixture = serde_json::from_str(&text);
            (name.clone(), fixture.unwrap_or_else(|error| panic!("{name}: {error}")))
        })
        .collect();
    fixtures.sort_by(|(one, _), (other, _)| one.cmp(other));
    fixtures
}

#[test]
fn each_platform_is_known_by_its_signs() {
    let mut covered = BTreeSet::new();
    for (name, fixture) in fixtures() {
        assert!(!fixture.about.is_empty() && !fixture.source.is_empty(), "{name}");
        let directory = tempfile::tempdir().expect("a temporary directory");
        let root = fixture.lay_out(directory.path());
        let mut reader = Reader::new(&root);
        let cpuid = fixture.cpuid.clone().map(|signatures| Cpuid {
            hypervisor: !signatures.is_empty(),
            signatures,
            ..Cpuid::default()
        });
        let evidence = Evidence::read(&mut reader, cpuid);
        let found = detect::detect(&evidence);
        let kinds: Vec<Kind> = found.iter().map(|finding| finding.kind).collect();
        assert_eq!(kinds, fixture.expect, "{name}: {found:#?}");
        for finding in &found {
            let evidence = &finding.evidence;
            assert!(!evidence.is_empty() && evidence.chars().count() < 400, "{name}: {evidence}");
            assert!(!evidence.contains(char::is_control), "{name}: {evidence:?}");
        }
        covered.extend(kinds);
    }
    let missing: Vec<Kind> = Kind::ALL.into_iter().filter(|kind| !covered.contains(kind)).collect();
    assert_eq!(missing, [], "no fixture shows these");
}

#[test]
fn a_recorded_host_is_not_asked_for_the_cpu_that_reads_it() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let snapshot = HostSnapshot::read_within(&Tree::new(directory.path()).root(), Scope::Whole);
    let platform = &snapshot.platform;
    assert_eq!((&platform.evidence.cpuid, &platform.kvm_interface), (&None, &None));
    assert_eq!((platform.process, platform.cpu.hardware, platform.cpu.asids), (None, None, None));
    assert!(platform.runs_on.is_empty(), "{:?}", platform.runs_on);
}

#[test]
fn words_are_the_same_in_tables_and_files() {
    for kind in Kind::ALL {
        let written = serde_json::to_value(kind).expect("written");
        assert_eq!(written, serde_json::Value::from(kind.word()));
    }
}

const MIB: u64 = 1 << 20;

fn lay_out(directory: &Path, files: &[(&str, &str)]) -> Tree {
    let tree = Tree::new(directory);
    for (path, text) in files {
        tree.file(path, text);
    }
    tree
}

/// The host that these files describe, and that they had no oddity.
fn platform(files: &[(&str, &str)]) -> Platform {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let snapshot =
        HostSnapshot::read_within(&lay_out(directory.path(), files).root(), Scope::Whole);
    assert_eq!(snapshot.problems, []);
    let text = serde_json::to_string(&snapshot).expect("serialized");
    let back: HostSnapshot = serde_json::from_str(&text).expect("read back");
    assert_eq!(back, snapshot);
    snapshot.platform
}

#[test]
fn what_intels_and_amds_cpus_offer_and_kvm_uses() {
    let feature = |offered, used| Feature { offered, used };
    let (yes, no) = (Some(true), Some(false));
    let intel = "vendor_id\t: GenuineIntel\nmodel name\t: Xeon\n\
         flags\t\t: fpu vmx pdpe1gb ept vpid\n\
         vmx flags\t: vnmi posted_intr ept_1gb flexpriority apicv ept vpid shadow_vmcs\n\n";
    let parameters = "sys/module/kvm_intel/parameters";
    let found = platform(&[
        ("proc/cpuinfo", intel),
        (&format!("{parameters}/ept"), "Y\n"),
        (&format!("{parameters}/enable_apicv"), "N\n"),
        (&format!("{parameters}/nested"), "1\n"),
        (&format!("{parameters}/vpid"), "Y\n"),
    ]);
    let cpu = &found.cpu;
    assert_eq!((cpu.extension, cpu.gib_pages, cpu.asids), (Some(Extension::Vmx), yes, None));
    assert_eq!((cpu.paging, cpu.tags), (feature(yes, yes), feature(yes, yes)));
    assert_eq!((cpu.interrupts, cpu.nested), (feature(yes, no), feature(yes, yes)));
    assert_eq!(found.modules.kvm_intel, Module::Present);

    let amd = "vendor_id\t: AuthenticAMD\nflags\t\t: fpu svm npt avic pdpe1gb\n\n";
    let found = platform(&[("proc/cpuinfo", amd), ("sys/module/kvm_amd/parameters/avic", "0\n")]);
    let cpu = &found.cpu;
    assert_eq!((cpu.extension, cpu.gib_pages), (Some(Extension::Svm), yes));
    assert_eq!((cpu.paging, cpu.interrupts), (feature(yes, None), feature(yes, no)));

    // An older kernel has no line "vmx flags": unknown is not the same as no.
    let old = "flags\t\t: fpu vmx ept vpid\n\n";
    let cpu = platform(&[("proc/cpuinfo", old)]).cpu;
    assert_eq!((cpu.gib_pages, cpu.interrupts), (None, feature(None, None)));
    assert_eq!(platform(&[("proc/cpuinfo", "flags : fpu\n")]).cpu.extension, None);
}

#[test]
fn memory_by_node_and_page_size() {
    let pool = |place: &str, name: &str, total: &str, free: &str| {
        let at = |file: &str| format!("{place}/hugepages-{name}/{file}");
        [(at("nr_hugepages"), total.to_owned()), (at("free_hugepages"), free.to_owned())]
    };
    let (host, node) = ("sys/kernel/mm/hugepages", "sys/devices/system/node/node1");
    let mut files: Vec<(String, String)> = Vec::new();
    files.extend(pool(host, "1048576kB", "2\n", "1\n"));
    files.extend(pool(host, "2048kB", "512\n", "500\n"));
    files.extend(pool(&format!("{node}/hugepages"), "2048kB", "512\n", "500\n"));
    for (path, text) in [
        (format!("{node}/cpulist"), "2-3\n"),
        (format!("{node}/distance"), "21 10\n"),
        (
            format!("{node}/meminfo"),
            "Node 1 MemTotal:       2097152 kB\nNode 1 MemFree:        1048576 kB\n",
        ),
        (
            "proc/meminfo".to_owned(),
            "MemTotal:  4194304 kB\nMemAvailable: 2097152 kB\nSwapTotal: 0 kB\n",
        ),
        ("proc/sys/vm/overcommit_memory".to_owned(), "2\n"),
        ("sys/kernel/mm/ksm/run".to_owned(), "1\n"),
        ("sys/kernel/mm/transparent_hugepage/enabled".to_owned(), "always [madvise] never\n"),
        ("sys/devices/system/cpu/online".to_owned(), "0-3\n"),
    ] {
        files.push((path, text.to_owned()));
    }
    for (cpu, core) in [(0, "0-1"), (1, "0-1"), (2, "2-3"), (3, "2-3")] {
        let topology = format!("sys/devices/system/cpu/cpu{cpu}/topology");
        files.push((format!("{topology}/core_cpus_list"), format!("{core}\n")));
        files.push((format!("{topology}/package_cpus_list"), "0-3\n".to_owned()));
    }
    let files: Vec<(&str, &str)> = files.iter().map(|(p, t)| (p.as_str(), t.as_str())).collect();
    let found = platform(&files);
    let memory = &found.memory;
    assert_eq!((memory.total, memory.available), (Some(4096 * MIB), Some(2048 * MIB)));
    let of = |size, node| {
        memory.huge_pages.iter().find(|pool: &&HugePages| (pool.size, pool.node) == (size, node))
    };
    assert_eq!(of(1024 * MIB, None).map(|pool| (pool.total, pool.free)), Some((2, 1)));
    assert_eq!(of(2 * MIB, Some(1)).map(|pool| (pool.total, pool.free)), Some((512, 500)));
    assert_eq!(memory.transparent_huge_pages.as_deref(), Some("madvise"));
    let topology = &found.topology;
    assert_eq!((topology.sockets, topology.cores), (Some(1), Some(2)));
    assert_eq!(topology.threads_per_core(), Some(2));
    let [node] = topology.nodes.as_slice() else { panic!("{:?}", topology.nodes) };
    assert_eq!((node.number, node.cpus.count(), node.memory), (1, 2, Some(2048 * MIB)));
    assert_eq!(node.distances, [21, 10]);
}

#[test]
fn whether_interrupts_are_remapped_is_told_or_left_open() {
    let remapped = "  0:  9  0  IR-IO-APIC    2-edge      timer\n";
    let plain = "  0:  9  0  IO-APIC    2-edge      timer\n";
    let found = |files: &[(&str, &str)]| platform(files).io.interrupt_remapping;
    assert_eq!(found(&[("proc/interrupts", remapped)]).used, Some(true));
    let off = found(&[("proc/interrupts", plain), ("proc/cmdline", "quiet intremap=off\n")]);
    assert_eq!(off.used, Some(false));
    assert!(off.evidence.contains("booted with intremap=off"), "{}", off.evidence);
    let ecap = ("sys/class/iommu/dmar0/intel-iommu/ecap", "f00f42\n");
    let off = found(&[("proc/interrupts", plain), ecap]);
    assert!(off.evidence.contains("dmar0 cannot do it (ecap f00f42)"), "{}", off.evidence);
    assert_eq!(found(&[]).used, None);
}

#[test]
fn modules_are_there_or_to_be_loaded_or_missing() {
    let dep = "kernel/drivers/vfio/pci/vfio-pci.ko.xz: kernel/drivers/vfio/vfio.ko.xz\n";
    let modules = platform(&[
        ("lib/modules/6.12.0-test/modules.dep", dep),
        ("lib/modules/6.12.0-test/modules.builtin", "kernel/drivers/net/tun.ko\n"),
        ("sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts", "N\n"),
    ])
    .modules;
    assert_eq!((modules.vfio_pci, modules.tun), (Module::Loadable, Module::Loadable));
    assert_eq!(modules.vfio_iommu_type1, Module::Present);
    assert_eq!(modules.iommufd, Module::Missing);
    // A release that leads elsewhere leads nowhere.
    let release = ("proc/sys/kernel/osrelease", "../../etc\n");
    assert_eq!(platform(&[release]).modules.vfio_pci, Module::Unknown);
}

#[test]
fn nonsense_is_noted_and_left_out() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let tree = lay_out(
        directory.path(),
        &[
            ("sys/devices/system/cpu/online", "0-4294967295\n"),
            ("sys/kernel/mm/ksm/run", "7\n"),
            ("proc/sys/vm/overcommit_memory", "many\n"),
            ("sys/kernel/mm/hugepages/hugepages-99999999999999999999kB/nr_hugepages", "1\n"),
            ("sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "-1\n"),
            ("proc/meminfo", "MemTotal: 99999999999999999999 kB\nSwapTotal\n"),
            ("proc/cpuinfo", "flags : svm\n"),
            ("sys/module/kvm_amd/parameters/npt", "maybe\n"),
            ("sys/devices/system/node/node4294967296/cpulist", "0\n"),
            ("sys/devices/system/node/node0/distance", "10 x 20\n"),
        ],
    );
    let snapshot = HostSnapshot::read_within(&tree.root(), Scope::Whole);
    assert_eq!(snapshot.problems.len(), 5, "{:#?}", snapshot.problems);
    let platform = &snapshot.platform;
    assert!(platform.topology.online.is_empty() && platform.memory.ksm.is_none());
    assert_eq!(platform.memory.total, None);
    assert_eq!(platform.topology.nodes.len(), 1);
    assert_eq!(platform.memory.pools().count(), 1);
}

#[test]
fn a_snapshot_of_an_earlier_version_is_still_read() {
    let old = r#"{"kvm": true, "kernel": "6.12", "command_line": "quiet", "boot_id": "1"}"#;
    let platform: Platform = serde_json::from_str(old).expect("the platform");
    assert!(platform.kvm && platform.runs_on.is_empty());
}
