//! The machine as a whole: what it is, what it can do for guests, and which boot this is.

use serde::{Deserialize, Serialize};

use super::reader::Reader;
use crate::root::HostRoot;

pub mod cpu;
pub mod cpuid;
pub mod detect;
pub mod evidence;
pub mod io;
pub mod kvm;
pub mod memory;
pub mod modules;
pub mod numa;
pub mod process;

pub use cpu::{Cpu, Extension, Feature};
pub use detect::{Category, Finding, Kind};
pub use evidence::Evidence;
pub use io::{InterruptRemapping, Io};
pub use kvm::KvmInterface;
pub use memory::{HugePages, Memory};
pub use modules::{Module, Modules};
pub use numa::{CpuSet, Node, Topology};
pub use process::Process;

/// Facts that are not about a device.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Platform {
    /// Whether `/dev/kvm` is there.
    pub kvm: bool,
    /// The kernel's release (`/proc/sys/kernel/osrelease`).
    pub kernel: String,
    /// The kernel's command line.
    pub command_line: String,
    /// Which boot this is; addresses, groups and bindings hold for one boot only.
    pub boot_id: String,
    /// What this kernel runs on, each with the sign that tells it. This and what follows is only in
    /// a snapshot that was read whole.
    pub runs_on: Vec<Finding>,
    /// The signs.
    pub evidence: Evidence,
    /// What the CPUs have for guests.
    pub cpu: Cpu,
    /// Which CPUs there are, and what memory is near them.
    pub topology: Topology,
    /// Memory.
    pub memory: Memory,
    /// What the kernel offers for giving devices away.
    pub io: Io,
    /// The kernel's modules that matter, and whether they are there.
    pub modules: Modules,
    /// What KVM answers; `None` where it was not asked (a recorded tree) or is not there.
    pub kvm_interface: Option<KvmInterface>,
    /// The process that read all this; `None` for a recorded tree.
    pub process: Option<Process>,
    /// How far the kernel is locked down against its own administrator
    /// (`/sys/kernel/security/lockdown`): none, integrity or confidentiality.
    pub lockdown: Option<String>,
}

/// What a decision needs: the kernel, its boot, and whether there is KVM.
pub fn read(reader: &mut Reader) -> Platform {
    let mut text = |file| reader.text(&reader.root.proc(file)).unwrap_or_default();
    let (kernel, command_line) = (text("sys/kernel/osrelease"), text("cmdline"));
    let (kvm, boot_id) = (reader.root.dev("kvm").exists(), boot_id(reader.root));
    Platform { kvm, kernel, command_line, boot_id, ..Platform::default() }
}

/// Everything. CPUID, KVM and the limits of this process are asked on the live host only: a
/// recorded tree is of another machine.
pub fn read_whole(reader: &mut Reader) -> Platform {
    let basics = read(reader);
    let live = reader.root.is_live();
    let cpuid = live.then(cpuid::of_this_cpu).flatten();
    let evidence = Evidence::read(reader, cpuid.clone());
    let lockdown = reader.root.sys("kernel/security/lockdown");
    let lockdown = reader.text(&lockdown);
    Platform {
        runs_on: detect::detect(&evidence),
        cpu: Cpu::read(reader, cpuid.as_ref()),
        topology: Topology::read(reader),
        memory: Memory::read(reader),
        io: Io::read(reader),
        modules: Modules::read(reader, &basics.kernel),
        kvm_interface: live.then(|| kvm::ask(reader)).flatten(),
        process: live.then(Process::of_this),
        lockdown: lockdown.and_then(|text| chosen(&text)),
        evidence,
        ..basics
    }
}

/// The boot's id alone; empty where the kernel does not say.
pub fn boot_id(root: &HostRoot) -> String {
    let path = root.proc("sys/kernel/random/boot_id");
    crate::attribute::read(&path).ok().flatten().unwrap_or_default()
}

/// The word in brackets, by which the kernel shows a choice: `always [madvise] never`.
fn chosen(text: &str) -> Option<String> {
    let (_, rest) = text.split_once('[')?;
    let (word, _) = rest.split_once(']')?;
    (word.len() <= 64).then(|| word.to_owned())
}

impl Platform {
    /// What it runs on, of one category.
    pub fn of(&self, category: Category) -> impl Iterator<Item = &Finding> {
        self.runs_on.iter().filter(move |finding| finding.kind.category() == category)
    }

    /// Whether the kernel was told so at boot: a whole word of its command line.
    pub fn is_told(&self, word: &str) -> bool {
        self.command_line.split_ascii_whitespace().any(|told| told == word)
    }
}
