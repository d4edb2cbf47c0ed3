//! Opening KVM, and what its Rust interface does not tell.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::slice;

use kvm_bindings::kvm_run;
use kvm_ioctls::{Cap, Kvm, VcpuFd};
use vmm_sys_util::ioctl::ioctl;
use vmm_sys_util::ioctl_io_nr;

use crate::error::{Error, Result, Trying};

/// The type of KVM's ioctls (Linux uapi/linux/kvm.h, `KVMIO`).
const KVMIO: u32 = 0xae;

ioctl_io_nr!(KVM_GET_STATS_FD, KVMIO, 0xce);

/// `KVM_API_VERSION`, which has not changed since Linux 2.6.22.
const API_VERSION: i32 = 12;

/// Takes an open `/dev/kvm` over, and makes sure that it is one and can do what a machine needs.
///
/// # Errors
/// [`Error::Kvm`] saying what it lacks.
pub fn open(descriptor: OwnedFd) -> Result<Kvm> {
    // SAFETY: the number leaves its owner here and becomes the new owner's. A descriptor of
    // another kind only makes the calls below fail.
    let kvm = unsafe { Kvm::from_raw_fd(descriptor.into_raw_fd()) };
    let unusable = |text: String| Error::Kvm { action: "be used", source: io::Error::other(text) };
    let version = kvm.get_api_version();
    if version != API_VERSION {
        return Err(unusable(format!(
            "the API version is {version}, not {API_VERSION}: is it /dev/kvm?"
        )));
    }
    for (capability, name) in [
        (Cap::Irqchip, "in-kernel interrupt controllers"),
        (Cap::Irqfd, "interrupts by events"),
        (Cap::Ioeventfd, "notifications by events"),
        (Cap::UserMemory, "user memory"),
        (Cap::TscDeadlineTimer, "the TSC deadline timer"),
    ] {
        if !kvm.check_extension(capability) {
            let text = format!("this host's KVM lacks {name}; Linux 3.8 or newer has it");
            return Err(unusable(text));
        }
    }
    Ok(kvm)
}

/// The file with KVM's statistics of a VM or vCPU; none where KVM has none (Linux before 5.14) or
/// descriptors are short. Of a vCPU that runs this would wait until it does not.
pub fn stats_file(of: &impl AsRawFd) -> Option<File> {
    // SAFETY: the call has no argument, and touches no memory of ours.
    let descriptor = unsafe { ioctl(of, KVM_GET_STATS_FD()) };
    // SAFETY: the kernel has just opened it for us, and nobody else knows its number.
    (descriptor >= 0).then(|| unsafe { File::from_raw_fd(descriptor) })
}

/// The access to a port for which a vCPU left its guest.
pub struct PortAccess<'a> {
    /// The port.
    pub port: u16,
    /// Bytes of one access: 1, 2 or 4.
    pub size: usize,
    /// The bytes of all accesses: a string instruction with a repeat prefix makes several at the same
    /// port, which KVM hands over together.
    pub data: &'a mut [u8],
}

/// That access, right after [`VcpuFd::run`] has returned with it.
pub fn port_access(vcpu: &mut VcpuFd) -> PortAccess<'_> {
    let run: *mut kvm_run = vcpu.get_kvm_run();
    // SAFETY: the structure is mapped as long as `vcpu`, which is borrowed here, and any bits of this
    // member of its union are valid numbers.
    let io = unsafe { (*run).__bindgen_anon_1.io };
    let length = io.count as usize * usize::from(io.size);
    // SAFETY: KVM puts the data at this offset into the mapping that begins with the structure, and
    // within it (Linux Documentation/virt/kvm/api.rst, `KVM_EXIT_IO`); nobody else refers to it while
    // `vcpu` is borrowed. Neither number is the guest's to choose.
    let data =
        unsafe { slice::from_raw_parts_mut(run.cast::<u8>().add(io.data_offset as usize), length) };
    PortAccess { port: io.port, size: usize::from(io.size).max(1), data }
}

/// The signal that has KVM_RUN come back.
pub fn interruption() -> libc::c_int {
    libc::SIGRTMIN()
}

extern "C" fn interrupted(_: libc::c_int) {}

/// Has that signal interrupt KVM_RUN, which never begins again by itself, and no other call, which
/// does (SA_RESTART of sigaction(2)).
///
/// # Errors
/// [`Error::System`] where the kernel refuses.
pub fn handle_interruption() -> Result<()> {
    // SAFETY: it is a plain structure, in which 0 is a value of every member.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = interrupted as *const () as usize;
    action.sa_flags = libc::SA_RESTART;
    // SAFETY: the handler does nothing, so it may run at any time; the structure lives until the call
    // returns, and nobody asks for what there was before.
    let set = unsafe { libc::sigaction(interruption(), &raw const action, std::ptr::null_mut()) };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }.system("handle a signal")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_has_no_statistics_is_no_error() {
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(stats_file(&file).is_none());
    }

    #[test]
    fn another_file_is_not_taken_for_kvm() {
        let file = std::fs::File::open("/dev/null").unwrap();
        let error = open(file.into()).err().unwrap().to_string();
        assert!(error.contains("is it /dev/kvm?"), "{error}");
    }
}
