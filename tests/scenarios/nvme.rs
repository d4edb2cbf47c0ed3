//! An NVMe drive that divides itself.

use anyhow::Result;
use lab::Host;

#[test]
#[ignore = "boots an emulated host: cargo lab test"]
fn an_nvme_drive_has_disks_that_carry_file_systems() -> Result<()> {
    let host = Host::intel().nvme().boot()?;
    let pf = "/sys/bus/pci/devices/0000:01:00.0";
    assert_eq!(host.ok(&format!("cat {pf}/sriov_totalvfs")), "32\n");
    for disk in ["nvme0n1", "nvme0n2"] {
        host.ok(&format!("mke2fs -q /dev/{disk} && mount -t ext4 /dev/{disk} /mnt"));
        host.ok("echo kept > /mnt/file && umount /mnt");
        host.ok(&format!("mount -t ext4 /dev/{disk} /mnt && grep kept /mnt/file && umount /mnt"));
    }
    Ok(())
}
