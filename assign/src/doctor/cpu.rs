//! Can guests run here at all: the CPU, KVM, and the hypervisor above where there is one.

use sriov::facts::platform::kvm::VERSION;
use sriov::facts::platform::{Category, Extension, Kind, Module};

use super::{Facts, Finding, surroundings};

/// CPU, nesting, KVM.
pub fn findings(facts: Facts) -> Vec<Finding> {
    let mut found = Vec::new();
    found.extend(virtualization(facts));
    found.extend(nested(facts));
    found.push(kvm(facts));
    found
}

fn virtualization(facts: Facts) -> Option<Finding> {
    let id = "cpu-virtualization";
    let platform = &facts.snapshot.platform;
    let cpu = &platform.cpu;
    let names = "VMX (VT-x) nor SVM (AMD-V)";
    if let Some(extension) = cpu.extension {
        let module = extension.module();
        let (flag, paging) = match extension {
            Extension::Vmx => ("vmx", "EPT"),
            Extension::Svm => ("svm", "NPT"),
        };
        let title = format!("the CPU can run guests ({})", extension.name());
        let evidence = format!("/proc/cpuinfo has the flag {flag}");
        if cpu.paging.used == Some(false) || cpu.paging.offered == Some(false) {
            let parameter = paging.to_lowercase();
            return Some(Finding::warning(
                id,
                format!("{title}, without nested paging: they will be slow"),
                match cpu.paging.offered {
                    Some(false) => format!("/proc/cpuinfo has no flag {parameter}"),
                    _ => format!("/sys/module/{module}/parameters/{parameter} is off"),
                },
                match cpu.paging.offered {
                    Some(false) => format!("Use a CPU, or a virtual one, that has {paging}."),
                    _ => format!("Load the module with {module}.{parameter}=1."),
                },
            ));
        }
        return Some(Finding::ok(id, title, evidence));
    }
    if platform.kvm_interface.as_ref().is_some_and(|kvm| kvm.error.is_none()) {
        let evidence = format!("neither {names} in /proc/cpuinfo, and yet /dev/kvm opens");
        return Some(Finding::ok(id, "KVM does without the CPU's help", evidence));
    }
    if let Some(extension) = cpu.hardware {
        let name = extension.name();
        return Some(Finding::problem(
            id,
            format!("firmware has switched the CPU's {name} off"),
            format!("CPUID shows {name}, /proc/cpuinfo does not"),
            format!("In the firmware's settings enable {}.", extension.firmware_names()),
        ));
    }
    if cpu.vendor.is_empty() {
        // A tree without /proc/cpuinfo says nothing of its CPU.
        return None;
    }
    let evidence = format!("/proc/cpuinfo shows neither {names}");
    let remedy = match facts.runs_on(Category::Virtual) {
        Some(machine) => match facts.runs_on(Category::Cloud) {
            Some(cloud) => format!(
                "Few virtual machines of {} pass virtualization on: choose one that does, or {}.",
                cloud.kind,
                surroundings::metal(cloud)
            ),
            None => pass_on(machine.kind),
        },
        None => "In the firmware's settings enable Intel Virtualization Technology (VT-x) or SVM \
                 Mode; if there is no such setting, this CPU cannot."
            .to_owned(),
    };
    Some(Finding::problem(id, "the CPU shows no virtualization", evidence, remedy))
}

/// How to get nested virtualization from each hypervisor.
fn pass_on(kind: Kind) -> String {
    let how = match kind {
        Kind::Kvm => "load kvm_intel or kvm_amd there with nested=1, and use `-cpu host`",
        Kind::Qemu => "use `-cpu max`, which emulates AMD's SVM",
        Kind::Hyperv => "`Set-VMProcessor -ExposeVirtualizationExtensions $true`",
        Kind::Vmware => "\"Expose hardware assisted virtualization to the guest OS\"",
        Kind::Virtualbox => "`VBoxManage modifyvm NAME --nested-hw-virt on`",
        _ => "where its hypervisor can",
    };
    format!("Let the host of this virtual machine pass virtualization on to it: {how}.")
}

fn nested(facts: Facts) -> Option<Finding> {
    let machine = facts.runs_on(Category::Virtual)?;
    let extension = facts.snapshot.platform.cpu.extension?;
    let id = "nested-virtualization";
    let evidence = format!("a virtual machine ({}) with {}", machine.kind, extension.name());
    if machine.kind == Kind::Qemu {
        return Some(Finding::warning(
            id,
            "guests run in a guest that is emulated: good for tests, slow for work",
            evidence,
            "For work, run on hardware, or let QEMU use KVM.",
        ));
    }
    Some(Finding::ok(id, "guests can run in this guest", evidence))
}

fn kvm(facts: Facts) -> Finding {
    let id = "kvm";
    let platform = &facts.snapshot.platform;
    if !platform.kvm {
        return no_kvm(facts);
    }
    let Some(interface) = &platform.kvm_interface else {
        return Finding::ok(id, "KVM is there", "there is /dev/kvm; it was not asked");
    };
    if let Some(error) = &interface.error {
        return Finding::problem(
            id,
            "KVM cannot be used",
            format!("/dev/kvm cannot be opened: {error}"),
            "Run assign as root, or join the group that owns the file (`ls -l /dev/kvm`).",
        );
    }
    let lacking = interface.lacking();
    if interface.version != Some(VERSION) || !lacking.is_empty() {
        return Finding::problem(
            id,
            "this KVM lacks what a guest needs",
            format!("version {}, without {}", interface.version.unwrap_or(0), lacking.join(", ")),
            "Boot a newer kernel (6.1 and later are known to do).",
        );
    }
    let cpus = interface.capability("MAX_VCPUS").filter(|count| *count > 0);
    let cpus = cpus.map(|count| format!(", up to {count} CPUs a guest")).unwrap_or_default();
    Finding::ok(id, "KVM is ready", format!("/dev/kvm opens, version {VERSION}{cpus}"))
}

fn no_kvm(facts: Facts) -> Finding {
    let (id, title) = ("kvm", "the kernel has no KVM in use");
    let platform = &facts.snapshot.platform;
    let extension = platform.cpu.extension.or(platform.cpu.hardware);
    let Some(extension) = extension else {
        let remedy = match virtualization(facts) {
            Some(_) => {
                "First have the CPU show virtualization, as said of it above. Then load kvm_intel or \
                 kvm_amd with modprobe."
            }
            None => {
                "What the CPU can is not known here. Load its module with `modprobe kvm_intel` or \
                 `modprobe kvm_amd`; should that fail, enable virtualization (VT-x or SVM) in the \
                 firmware's settings."
            }
        };
        return Finding::problem(id, title, "there is no /dev/kvm", remedy);
    };
    let name = extension.module();
    let module = match extension {
        Extension::Vmx => platform.modules.kvm_intel,
        Extension::Svm => platform.modules.kvm_amd,
    };
    let (state, remedy) = match module {
        Module::Present => (
            "is loaded",
            "The file is missing from /dev: let udev make it, or `mknod /dev/kvm c 10 232`."
                .to_owned(),
        ),
        Module::Loadable | Module::Unknown => (
            "is not loaded",
            format!(
                "Load it with `modprobe {name}`, and for the next boots name it in \
                 /etc/modules-load.d/kvm.conf. If that fails, enable {} in the firmware's settings.",
                extension.firmware_names()
            ),
        ),
        Module::Missing => (
            "is not among its modules",
            "Boot a kernel with CONFIG_KVM: cloud kernels often leave it out, the \
             distribution's generic one has it."
                .to_owned(),
        ),
    };
    Finding::problem(id, title, format!("there is no /dev/kvm, and {name} {state}"), remedy)
}
