//! Whole devices of every kind in one guest, each driven by the guest's own driver: all ways to
//! interrupt, memory and I/O BARs, a group of several functions.

use std::time::Duration;

use anyhow::Result;
use lab::{Host, Shape};

use crate::iommufd::devices_by;

const POLICY: &str = r#"
apiVersion: assign/v1
kind: Policy
metadata: {name: cards}
spec:
  pools:
    - {name: line, devices: {address: "0000:00:1a.0"}}
    - {name: usb, devices: {class: "0c03"}}
    - {name: edu, devices: {vendor: "1234", device: "11e8"}}
    - {name: virtio, devices: {address: "0000:00:1d.0"}}
    - {name: port, devices: {interface: eth0}}
    - {name: twins, devices: {vendor: "8086", device: "10d3"}, expect: {min: 2, max: 2}}
    - {name: drive, devices: {serial: lab-nvme}}
"#;

const GUEST: &str = r#"
apiVersion: assign/v1
kind: Guest
metadata: {name: many}
spec:
  memory: {size: 256MiB}
  boot: {kernel: /boot/vmlinuz, initrd: /boot/guest.cpio, cmdline: "console=ttyS0 quiet lab=net lab.bulk lab.write"}
  devices:
    - {name: line, claim: {pool: line}}
    - {name: usb, claim: {pool: usb}}
    - {name: edu, claim: {pool: edu}}
    - {name: virtio, claim: {pool: virtio}}
    - {name: port, claim: {pool: port}}
    - {name: twin0, claim: {pool: twins}}
    - {name: twin1, claim: {pool: twins}}
    - {name: drive, claim: {pool: drive}}
"#;

#[test]
#[ignore = "boots an emulated host: cargo lab test"]
fn one_guest_drives_devices_of_every_kind() -> Result<()> {
    drive_devices_of_every_kind(Host::intel(), "type1")
}

/// Tries all of them in a host of this kind, where they come by this interface.
pub fn drive_devices_of_every_kind(shape: Shape, interface: &str) -> Result<()> {
    let shape = shape.igb(1).shared_group().nvme().cards().limit(Duration::from_secs(340));
    let host = shape.file("root/policy.yaml", POLICY).file("root/guest.yaml", GUEST).boot()?;
    // Interfaces come back under the name that is free then: giving names is udev's business.
    let drivers = "cd /sys/bus/pci/devices; for at in *; do \
                   echo $at $(readlink $at/driver) $(cat $at/driver_override); done";
    let before = host.ok(drivers);
    host.ok("assign apply -f policy.yaml");
    // The card's interface and the drive's serial number went with their drivers: they are meant all
    // the same.
    let again = host.ok("assign apply -f policy.yaml");
    assert!(again.contains("nothing to do"), "{again}");
    assert_eq!(host.run("assign diff")?.code, 0);
    let output =
        host.run_within("assign run -f guest.yaml </dev/null", Duration::from_secs(240))?;
    let said = format!("{}\n{}", output.stdout, output.stderr);
    assert_eq!(output.code, 0, "{said}");
    assert_eq!(devices_by(&said, interface), 8, "{said}");
    // Which interface is which is the guest kernel's affair.
    for driver in ["e1000", "virtio_net", "igb", "e1000e"] {
        let at = said.lines().find(|line| line.contains(&format!(": {driver} at ")));
        let at = at.unwrap_or_else(|| panic!("no {driver}:\n{said}"));
        let interface = at.split(' ').nth(1).unwrap_or_default();
        let line = |text: &str| {
            let begin = format!("guest: {interface} {text}");
            let found = said.lines().find(|line| line.starts_with(&begin));
            found.unwrap_or_else(|| panic!("no {begin:?}:\n{said}"))
        };
        assert!(line("ping").ends_with("3 of 3 answered"), "{said}");
        assert!(line("1 MiB sent").ends_with("equal"), "{said}");
        let kind = if driver == "e1000" { "(INTx)" } else { "(MSI-X)" };
        assert!(line("interrupts").contains(kind), "{driver}: {said}");
        assert!(!line("interrupts").contains("interrupts 0 "), "{driver}: {said}");
    }
    assert_eq!(said.matches(": e1000e at ").count(), 2, "{said}");
    let written = said.matches("1 MiB written and read back: equal").count();
    assert_eq!(written, 3, "a stick and the drive's two disks: {said}");
    assert!(said.lines().any(|line| line.ends_with("(MSI)") && !line.contains("interrupts 0 ")));
    for line in [
        "edu: 0x12345678 turned round is 0xEDCBA987",
        "edu: moved 0x20445352 0x20525450",
        "edu: interrupt 1",
        "edu: interrupt 2",
    ] {
        assert!(said.contains(line), "no {line:?}:\n{said}");
    }
    host.ok("assign remove -f policy.yaml");
    assert_eq!(host.ok(drivers), before);
    Ok(())
}
