//! The one system call: an admin command through a controller's character device, which the kernel
//! queues like its own (uapi/linux/nvme_ioctl.h, drivers/nvme/host/ioctl.c).

use std::ffi::c_void;
use std::fs::File;
use std::io;

use rustix::ioctl::{self, Ioctl, IoctlOutput, Opcode, opcode};

use super::command::{Command, Status};
use super::identify::Page;

/// `struct nvme_passthru_cmd`.
#[repr(C)]
#[derive(Default)]
struct PassthruCmd {
    opcode: u8,
    flags: u8,
    rsvd1: u16,
    nsid: u32,
    cdw2: u32,
    cdw3: u32,
    metadata: u64,
    addr: u64,
    metadata_len: u32,
    data_len: u32,
    cdw10: u32,
    cdw11: u32,
    cdw12: u32,
    cdw13: u32,
    cdw14: u32,
    cdw15: u32,
    /// 0 for the driver's own limit (60 s): it resets a controller that a command takes too long on,
    /// which is not for us to bring about sooner.
    timeout_ms: u32,
    result: u32,
}

/// `NVME_IOCTL_ADMIN_CMD`.
const ADMIN_CMD: Opcode = opcode::read_write::<PassthruCmd>(b'N', 0x41);

/// A command on its way. It answers with the status field of the completion.
struct AdminCommand<'a> {
    command: PassthruCmd,
    /// What `command.addr` points to, held as long as the kernel may write to it.
    _page: Option<&'a mut Page>,
}

// SAFETY: `as_ptr` points to a `struct nvme_passthru_cmd`, which is what NVME_IOCTL_ADMIN_CMD reads
// and writes (its `result`), and its `addr` is null or points to `data_len` bytes that are borrowed
// mutably for as long as `self` lives. IS_MUTATING says that memory is written to. The call answers
// with a number, so `output_from_ptr` reads no memory.
unsafe impl Ioctl for AdminCommand<'_> {
    type Output = u16;

    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        ADMIN_CMD
    }

    fn as_ptr(&mut self) -> *mut c_void {
        (&raw mut self.command).cast()
    }

    unsafe fn output_from_ptr(out: IoctlOutput, _: *mut c_void) -> rustix::io::Result<u16> {
        // A status field has 15 bits.
        u16::try_from(out).map_err(|_| rustix::io::Errno::PROTO)
    }
}

/// Gives a command, with what the controller is to write its answer to. The kernel has the
/// controller write no more than a page there, whatever it does.
pub(super) fn submit(file: &File, command: Command, mut page: Option<&mut Page>) -> io::Result<()> {
    let mut passthru = PassthruCmd {
        opcode: command.opcode,
        cdw10: command.dword10,
        cdw11: command.dword11,
        ..PassthruCmd::default()
    };
    if let Some(page) = &mut page {
        passthru.addr = page.as_mut_ptr().expose_provenance() as u64;
        // A page is 4096 bytes.
        passthru.data_len = page.len() as u32;
    }
    let command = AdminCommand { command: passthru, _page: page };
    // SAFETY: `AdminCommand` is right about this call (see its `Ioctl`). Of the commands there are,
    // Identify writes to the borrowed page and Virtualization Management to no memory. On a file
    // that is no NVMe controller the kernel knows no such call, or it is another driver's with the
    // same number: `Controller::open` makes sure that the file is a controller's.
    match Status::failure(unsafe { ioctl::ioctl(file, command) }?) {
        None => Ok(()),
        Some(status) => Err(io::Error::other(status.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_call_has_the_number_of_the_kernels_header() {
        assert_eq!(size_of::<PassthruCmd>(), 72);
        assert_eq!(ADMIN_CMD, 0xc048_4e41);
    }
}
