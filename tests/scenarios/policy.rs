//! apply, diff and remove on a real host.

use anyhow::Result;
use lab::Host;

use crate::documents::policy;

/// What apply changes and remove must restore.
const STATE: &str = "cd /sys/class/net/eth0; cat device/sriov_numvfs \
                     device/sriov_drivers_autoprobe operstate; ls -d /sys/bus/pci/devices/*";

#[test]
#[ignore = "boots an emulated host: cargo lab test"]
fn a_second_apply_finds_nothing_to_do_and_remove_takes_it_all_back() -> Result<()> {
    let host = Host::intel().igb(1).file("root/policy.yaml", policy(2)).boot()?;
    let before = host.ok(STATE);
    let differs = host.run("assign diff -f policy.yaml")?;
    assert_eq!(differs.code, 4, "{}", differs.stderr);

    host.ok("assign plan -f policy.yaml");
    assert_eq!(host.ok(STATE), before, "plan changes nothing");
    host.ok("assign apply -f policy.yaml");
    for vf in ["0000:01:10.0", "0000:01:10.2"] {
        let driver = host.ok(&format!("readlink /sys/bus/pci/devices/{vf}/driver"));
        assert!(driver.ends_with("/vfio-pci\n"), "{vf}: {driver}");
    }
    let listed = host.ok("assign vf list eth0 -o json");
    assert!(!listed.contains("00:00:00:00:00:00"), "each VF has an address: {listed}");
    assert_eq!(host.ok("cat /sys/class/net/eth0/device/sriov_drivers_autoprobe"), "1\n");

    let again = host.ok("assign apply -f policy.yaml");
    assert!(again.contains("nothing to do"), "{again}");
    assert_eq!(host.ok("assign vf list eth0 -o json"), listed);
    assert_eq!(host.run("assign diff -f policy.yaml")?.code, 0);

    // Somebody else's hand on the host is seen and put right.
    host.ok("echo > /sys/bus/pci/devices/0000:01:10.2/driver_override; \
             echo 0000:01:10.2 > /sys/bus/pci/drivers/vfio-pci/unbind");
    let differs = host.run("assign diff -f policy.yaml")?;
    assert_eq!(differs.code, 4);
    assert!(differs.stdout.contains("VF 1"), "{}", differs.stdout);
    host.ok("assign apply -f policy.yaml");
    assert_eq!(host.run("assign diff -f policy.yaml")?.code, 0);

    host.ok("assign remove -f policy.yaml");
    assert_eq!(host.ok(STATE), before);
    let again = host.ok("assign remove -f policy.yaml");
    assert!(again.contains("nothing to do"), "{again}");
    Ok(())
}
