//! The guest's own image, started by QEMU without a host in between: what it does there it must do
//! in our VMM as well, so a difference is the VMM's.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::machine::Machine;
use crate::scratch::Scratch;
use crate::{image, setup, shape};

/// Boots the guest's kernel and file system with one virtio network card, in whose network 10.0.2.2
/// hands out leases. `verb` is what the guest is to do (see guest-init.sh).
pub fn boot_guest(verb: &str) -> Result<Machine> {
    let ready = setup::present()?;
    let scratch = Scratch::new()?;
    let initrd = scratch.path().join("guest.cpio");
    std::fs::write(&initrd, image::guest(&ready.kit)?)
        .with_context(|| format!("cannot write {}", initrd.display()))?;
    let mut command = shape::base(&ready, "q35", shape::ONE, "512M");
    command.arg("-kernel").arg(ready.kit.vmlinux()).arg("-initrd").arg(&initrd);
    command.args(["-append", &format!("{} lab={verb}", shape::CMDLINE)]);
    command.args(["-netdev", "user,id=lan"]);
    command.args(["-device", "virtio-net-pci,netdev=lan,addr=0x2,mac=52:54:00:00:04:00,romfile="]);
    let machine = Machine::start(command, Duration::from_secs(120), None)?;
    // QEMU has the image open once it runs the kernel; the folder goes with this function.
    machine.console_wait_for("guest: up", Duration::from_secs(90))?;
    Ok(machine)
}
