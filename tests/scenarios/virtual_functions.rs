//! A guest on a real VF, the project's main job, and VFs by hand.

use std::time::Duration;

use anyhow::Result;
use lab::Host;

use crate::documents::{Guest, policy};

/// The number before `unit` in a line of the guest's report, such as "rx 12 packets".
fn count(line: &str, before: &str) -> u64 {
    let rest = line.split_once(before).unwrap_or_else(|| panic!("no {before:?} in {line:?}")).1;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap_or_else(|_| panic!("no number after {before:?} in {line:?}"))
}

#[test]
#[ignore = "boots an emulated host: cargo lab test"]
fn a_guest_reaches_its_network_through_a_vf() -> Result<()> {
    let host = Host::intel()
        .igb(1)
        .bridge()
        .file("root/policy.yaml", policy(2))
        .file("root/guest.yaml", Guest::new("web", "net").claim_or_bridge().to_string())
        .boot()?;
    host.ok("assign apply -f policy.yaml");
    let mac = host.ok("assign vf list eth0 -o json");

    let output =
        host.run_within("assign run -f guest.yaml </dev/null", Duration::from_secs(120))?;
    assert_eq!(output.code, 0, "{}\n{}", output.stdout, output.stderr);
    let console = &output.stdout;
    let line = |what: &str| {
        let found = console.lines().find(|line| line.contains(what));
        found.unwrap_or_else(|| panic!("{what:?} is not on the console:\n{console}"))
    };
    // The VF, by its own driver, under the address that the policy gave it.
    let card = line("guest: eth0: igbvf at ");
    let address = card.rsplit(' ').next().unwrap_or_default();
    assert!(mac.contains(address), "the guest has {address}, the host says {mac}");
    line("guest: eth0: lease 10.0.2.");
    line("guest: eth0: ping 10.0.2.2: 3 of 3 answered");
    let report = line("guest: eth0: interrupts ");
    assert!(report.contains("(MSI-X)"), "{report}");
    assert!(count(report, "interrupts ") >= 3, "{report}");
    assert!(count(report, "rx ") >= 3 && count(report, "tx ") >= 3, "{report}");

    // No other way: no second card in the guest, nothing sent to itself, no TAP on the host.
    assert!(!console.contains("guest: eth1"), "{console}");
    line("guest: lo: rx 0 packets, tx 0 packets");
    assert!(!output.stderr.contains("virtio"), "{}", output.stderr);
    assert!(output.stderr.contains("web: net0: VF 0 of eth0 (0000:01:10.0, "), "{}", output.stderr);
    Ok(())
}

#[test]
#[ignore = "boots an emulated host: cargo lab test"]
fn vfs_are_made_bound_released_and_unmade_by_hand() -> Result<()> {
    let host = Host::intel().igb(1).boot()?;
    host.ok("assign vf create eth0 3");
    let listed = host.ok("assign vf list eth0");
    assert_eq!(listed.matches("0000:01:1").count(), 3, "{listed}");
    let driver = "basename $(readlink /sys/bus/pci/devices/0000:01:10.2/driver)";
    assert_eq!(host.ok(driver), "igbvf\n");

    host.ok("assign bind 01:10.2");
    assert_eq!(host.ok(driver), "vfio-pci\n");
    assert_eq!(host.ok("cat /sys/bus/pci/devices/0000:01:10.2/driver_override"), "vfio-pci\n");
    host.ok("assign release 0000:01:10.2");
    assert_eq!(host.ok(driver), "igbvf\n");
    assert_eq!(host.ok("cat /sys/bus/pci/devices/0000:01:10.2/driver_override"), "(null)\n");

    host.ok("assign vf destroy eth0 --yes");
    assert_eq!(host.ok("cat /sys/class/net/eth0/device/sriov_numvfs"), "0\n");
    Ok(())
}
