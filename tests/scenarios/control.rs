//! Guests are listed, paused, resumed and stopped from another terminal.

use std::time::Duration;

use anyhow::Result;
use lab::Host;
use serde_json::Value;

use crate::documents::{Guest, policy};
use crate::guests;

const GUEST_TIME: Duration = Duration::from_secs(180);
const VF: &str = "0000:01:10.0";
/// Longer than the guest's watchdog waits for a CPU that is stuck.
const PAUSED: Duration = Duration::from_secs(30);

fn list(host: &Host) -> Vec<Value> {
    let list: Value = serde_json::from_str(&host.ok("assign ps -o json")).expect("JSON");
    list.as_array().expect("a list").clone()
}

fn halts(host: &Host) -> u64 {
    let stats: Value = serde_json::from_str(&host.ok("assign stats web -o json")).expect("JSON");
    stats["exits"]["kernel"].as_u64().expect("a number")
}

#[test]
#[ignore = "boots an emulated host: cargo lab test"]
fn a_guest_is_listed_paused_and_powered_off_from_another_terminal() -> Result<()> {
    let host = Host::intel()
        .igb(1)
        .file("root/policy.yaml", policy(1))
        .file("root/web.yaml", Guest::new("web", "hold").claim().cpus(2).to_string())
        .file("root/deaf.yaml", Guest::new("deaf", "hold lab.stubborn").to_string())
        .limit(Duration::from_secs(500))
        .boot()?;
    host.ok("assign apply -f policy.yaml");
    assert!(list(&host).is_empty());
    let nobody = host.run("assign stop web")?;
    assert_eq!(nobody.code, 2, "{}", nobody.stderr);
    assert!(nobody.stderr.contains("web: no guest of this name runs"), "{}", nobody.stderr);

    let web = guests::start(&host, "assign run -f web.yaml", GUEST_TIME)?;
    let [one] = &list(&host)[..] else { panic!("one guest") };
    assert_eq!((&one["guest"], &one["state"]), (&Value::from("web"), &Value::from("running")));
    assert_eq!((one["cpus"].as_u64(), one["memory_bytes"].as_u64()), (Some(2), Some(256 << 20)));
    assert_eq!(one["devices"], Value::from(vec![VF]));
    println!("{}", host.ok("assign ps"));

    // Held, it does nothing at all, and it does not mind.
    assert_eq!(host.ok("assign pause web"), "web is paused; its devices go on\n");
    assert_eq!(list(&host)[0]["state"], "paused");
    let before = halts(&host);
    std::thread::sleep(PAUSED);
    assert_eq!(halts(&host), before, "no vCPU ran");
    host.ok("assign pause web");
    assert_eq!(host.ok("assign resume web"), "web runs\n");
    assert_eq!(list(&host)[0]["state"], "running");
    web.stdin("ping 10.0.2.2 20\n");
    web.wait_for("guest: ping 10.0.2.2: 20 of 20 answered", GUEST_TIME)?;
    assert!(halts(&host) > before);
    let said = web.output_so_far();
    assert!(!said.contains("soft lockup") && !said.contains("stalls"), "{said}");

    // The reset button: it begins anew, with its device and its launcher, paused or not.
    host.ok("assign pause web");
    let before = list(&host)[0].clone();
    assert_eq!(host.ok("assign reset web"), "web was reset, and starts again\n");
    web.wait_for("web: rebooted, starting again", GUEST_TIME)?;
    guests::await_again(&web, GUEST_TIME);
    let after = list(&host)[0].clone();
    assert_eq!((&after["state"], &after["devices"]), (&"running".into(), &before["devices"]));
    assert_eq!(after["launcher_pid"], before["launcher_pid"]);
    assert_ne!(after["pid"], before["pid"]);

    // The power button, also of a guest that is paused: it ends in order, and its VF is free then.
    host.ok("assign pause web");
    assert_eq!(host.ok("assign stop web --timeout 120"), "web has powered off\n");
    assert!(!host.ok("assign status").contains("web"));
    let ended = web.wait(Duration::from_secs(20))?;
    assert_eq!(ended.code, 0, "{}\n{}", ended.stdout, ended.stderr);
    assert!(ended.stdout.contains("reboot: Power down"), "{}", ended.stdout);
    assert!(list(&host).is_empty());

    // One that does not heed it is ended when the time is over, and at once where that is wanted.
    for (command, told) in [
        ("assign stop deaf --timeout 3", "did not power off within 3 s"),
        ("assign stop deaf --now", "deaf was ended"),
    ] {
        let deaf = guests::start(&host, "assign run -f deaf.yaml", GUEST_TIME)?;
        let said = host.ok(command);
        assert!(said.contains(told), "{said}");
        let ended = deaf.wait(Duration::from_secs(20))?;
        assert_eq!(ended.code, 0, "{}\n{}", ended.stdout, ended.stderr);
    }
    Ok(())
}
