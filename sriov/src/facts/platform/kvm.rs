//! What KVM answers when it is asked: its version and the capabilities a guest with a device needs.

use std::collections::BTreeMap;

use kvm_bindings as kvm;
use kvm_ioctls::Kvm;
use serde::{Deserialize, Serialize};

use crate::facts::reader::Reader;

/// KVM's side of `/dev/kvm`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct KvmInterface {
    /// Why `/dev/kvm` could not be opened.
    pub error: Option<String>,
    /// Its version: 12 on every kernel since 2.6.22.
    pub version: Option<i32>,
    /// What it answers for each capability that matters here, by its name without `KVM_CAP_`; 0
    /// where it has none (Documentation/virt/kvm/api.rst, 4.4).
    pub capabilities: BTreeMap<String, i32>,
}

/// The one version there is.
pub const VERSION: i32 = 12;

/// Names, numbers, and whether a guest of ours cannot do without.
const CAPABILITIES: [(&str, u32, bool); 21] = [
    ("USER_MEMORY", kvm::KVM_CAP_USER_MEMORY, true),
    ("NR_MEMSLOTS", kvm::KVM_CAP_NR_MEMSLOTS, true),
    ("NR_VCPUS", kvm::KVM_CAP_NR_VCPUS, false),
    ("MAX_VCPUS", kvm::KVM_CAP_MAX_VCPUS, false),
    ("IRQCHIP", kvm::KVM_CAP_IRQCHIP, true),
    ("SPLIT_IRQCHIP", kvm::KVM_CAP_SPLIT_IRQCHIP, false),
    ("IRQ_ROUTING", kvm::KVM_CAP_IRQ_ROUTING, true),
    ("SIGNAL_MSI", kvm::KVM_CAP_SIGNAL_MSI, false),
    ("IRQFD", kvm::KVM_CAP_IRQFD, true),
    ("IRQFD_RESAMPLE", kvm::KVM_CAP_IRQFD_RESAMPLE, false),
    ("IOEVENTFD", kvm::KVM_CAP_IOEVENTFD, true),
    ("IOEVENTFD_ANY_LENGTH", kvm::KVM_CAP_IOEVENTFD_ANY_LENGTH, false),
    ("X2APIC_API", kvm::KVM_CAP_X2APIC_API, false),
    ("TSC_DEADLINE_TIMER", kvm::KVM_CAP_TSC_DEADLINE_TIMER, true),
    ("READONLY_MEM", kvm::KVM_CAP_READONLY_MEM, false),
    ("SYNC_MMU", kvm::KVM_CAP_SYNC_MMU, false),
    ("EXT_CPUID", kvm::KVM_CAP_EXT_CPUID, false),
    ("IMMEDIATE_EXIT", kvm::KVM_CAP_IMMEDIATE_EXIT, false),
    ("XSAVE", kvm::KVM_CAP_XSAVE, false),
    ("MAX_VCPU_ID", kvm::KVM_CAP_MAX_VCPU_ID, false),
    ("HALT_POLL", kvm::KVM_CAP_HALT_POLL, false),
];

/// Asks it. Only where its device is registered: opening a file left in `/dev` by hand would load a
/// module, and reading facts changes nothing.
pub fn ask(reader: &Reader) -> Option<KvmInterface> {
    if !reader.root.sys("class/misc/kvm").exists() {
        return None;
    }
    let opened = match Kvm::new() {
        Ok(opened) => opened,
        Err(error) => {
            let error = std::io::Error::from_raw_os_error(error.errno()).to_string();
            return Some(KvmInterface { error: Some(error), ..KvmInterface::default() });
        }
    };
    let ask = |number: u32| opened.check_extension_raw(u64::from(number)).max(0);
    let capabilities = CAPABILITIES.iter();
    let capabilities = capabilities.map(|(name, number, _)| ((*name).to_owned(), ask(*number)));
    Some(KvmInterface {
        error: None,
        version: Some(opened.get_api_version()),
        capabilities: capabilities.collect(),
    })
}

impl KvmInterface {
    /// Capabilities that a guest of ours cannot do without, and that are not there.
    pub fn lacking(&self) -> Vec<&'static str> {
        let lacks = |name: &str| self.capabilities.get(name) == Some(&0);
        let needed = CAPABILITIES.iter().filter(|(_, _, needed)| *needed);
        needed.map(|(name, _, _)| *name).filter(|name| lacks(name)).collect()
    }

    /// What it answers for a capability; `None` where it was not asked.
    pub fn capability(&self, name: &str) -> Option<i32> {
        self.capabilities.get(name).copied()
    }
}
