//! Examples that no other scenario applies: those of the card and the drive are in `policy`, `nvme`
//! and `faults`, and all of them are planned and applied on simulated hosts
//! (assign/tests/simulated/examples.rs).

use anyhow::Result;
use lab::Host;
use serde_json::Value;

const FILE: &str = "/examples/mixed-fallback.yaml";
/// All that the policy changes on its card, and what the host says of its devices.
const FACTS: &str = "cd /sys/class/net/eth0; cat device/sriov_numvfs device/sriov_drivers_autoprobe \
                     flags /proc/sys/net/ipv6/conf/eth0/accept_ra; cat \
                     /sys/bus/pci/devices/*/driver_override; assign devices -o json; assign vf list \
                     -o json";

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
#[ignore = "boots an emulated host: cargo lab test"]
fn two_pools_of_one_card_are_applied_compared_and_removed() -> Result<()> {
    let host = Host::intel().igb(1).boot()?;
    let before = host.ok(FACTS);
    let plan = json(&host.ok(&format!("assign plan -f {FILE} -o json")));
    let guests = plan["guests"].as_array().expect("guests");
    assert!(guests.len() == 2 && guests.iter().all(|guest| guest["starts"] == true), "{plan}");
    assert_eq!(guests[0]["networks"][0]["pool"], "tenants");
    assert_eq!(guests[1]["networks"][0]["pool"], "router");

    host.ok(&format!("assign apply -f {FILE}"));
    let list = json(&host.ok("assign vf list eth0 -o json"));
    let vfs = list.as_array().expect("a list");
    assert_eq!(vfs.len(), 4, "{list}");
    for (index, vf) in vfs.iter().enumerate() {
        let is_router = index == 3;
        assert_eq!(vf["driver"], "vfio-pci", "{vf}");
        assert_eq!(vf["trust"].as_bool(), Some(is_router), "{vf}");
        assert_eq!(vf["spoof_check"].as_bool(), Some(!is_router), "{vf}");
        let (vlan, rate) = if is_router { (None, 0) } else { (Some(100), 500) };
        assert_eq!(vf["vlan"]["id"].as_u64().filter(|id| *id != 0), vlan, "{vf}");
        assert_eq!(vf["rate"]["max"], rate, "{vf}");
    }
    assert_eq!(host.run(&format!("assign diff -f {FILE}"))?.code, 0);
    assert!(host.ok(&format!("assign apply -f {FILE}")).contains("nothing to do"));

    // What a tenant must not have is named, and taken from it again.
    host.ok("assign vf set eth0/1 --trust on --vlan 7");
    let differs = host.run(&format!("assign diff -f {FILE}"))?;
    assert_eq!(differs.code, 4, "{}", differs.stderr);
    for difference in ["VF 1: VLAN is 7, should be 100", "VF 1: trust is on, should be off"] {
        assert!(differs.stdout.contains(difference), "{}", differs.stdout);
    }
    assert!(host.ok(&format!("assign apply -f {FILE}")).contains("2 steps made"));
    assert_eq!(json(&host.ok("assign vf list eth0 -o json")), list);

    host.ok(&format!("assign remove -f {FILE}"));
    assert_eq!(host.ok(FACTS), before);
    Ok(())
}
