//! An apply that is killed at every call by which it changes a real kernel's devices. What every
//! other fault does to it is tried on simulated hosts (assign/tests/simulated).

use std::time::Duration;

use anyhow::Result;
use lab::Host;

/// All that the example changes on its card, and what the host says of its devices and policies.
const FACTS: &str = "cd /sys/class/net/eth0; cat device/sriov_numvfs \
                     device/sriov_drivers_autoprobe flags /proc/sys/net/ipv6/conf/eth0/accept_ra; \
                     cat /sys/bus/pci/devices/*/driver_override; assign devices -o json; \
                     assign vf list -o json";
const APPLY: &str = "assign apply -f /examples/edge-node.yaml";

#[test]
#[ignore = "boots an emulated host: cargo lab test"]
fn an_apply_that_is_killed_at_any_point_leaves_the_host_as_planned_or_as_before() -> Result<()> {
    let host = Host::intel().igb(1).boot()?;
    let long = |command: &str| host.run_within(command, Duration::from_secs(120));
    let before = host.ok(FACTS);
    let counted = long(&format!("lab-fault host count -- {APPLY}"))?;
    assert_eq!(counted.code, 0, "{}{}", counted.stdout, counted.stderr);
    let is_point = |line: &&str| line.starts_with("write /") || line.starts_with("change over");
    let points: Vec<&str> = counted.stdout.lines().filter(is_point).collect();
    assert!(points.len() >= 7, "{points:?}");
    assert!(points.iter().any(|point| point.ends_with("/sriov_numvfs")), "{points:?}");
    assert!(points.contains(&"change over rtnetlink"), "{points:?}");
    let planned = host.ok(FACTS);
    assert_ne!(planned, before);
    host.ok("assign remove -f /examples/edge-node.yaml");
    assert_eq!(host.ok(FACTS), before, "removing it");

    // Before each point, which is after the one before, and after the last one.
    let faults = (0..points.len()).map(|at| ("before", at)).chain([("after", points.len() - 1)]);
    let mut tried = 0;
    for (how, at) in faults {
        let killed = long(&format!("lab-fault host {how} {at} -- {APPLY}"))?;
        assert_eq!(killed.code, 137, "{how} {at}: {}{}", killed.stdout, killed.stderr);
        let recovered = long("assign recover")?;
        assert_eq!(recovered.code, 0, "{how} {at}: {}", recovered.stderr);
        let facts = host.ok(FACTS);
        if facts == planned {
            assert!(recovered.stdout.contains("it is done now"), "{}", recovered.stdout);
            host.ok("assign remove -f /examples/edge-node.yaml");
        } else {
            assert_eq!(facts, before, "{how} {at} ({})\n{}", points[at], recovered.stdout);
        }
        assert!(host.ok("assign recover").contains("nothing to recover"), "{how} {at}");
        tried += 1;
    }
    println!("edge-node in the lab: {} points, {tried} kills", points.len());

    // And it can be applied all the same.
    host.ok(APPLY);
    assert_eq!(host.ok(FACTS), planned);
    Ok(())
}
