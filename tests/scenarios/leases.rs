//! One owner for a device, also when the owner dies.

use std::time::Duration;

use anyhow::Result;
use lab::Host;

use crate::documents::{Guest, policy};
use crate::guests;

const GUEST_TIME: Duration = Duration::from_secs(120);

#[test]
#[ignore = "boots an emulated host: cargo lab test"]
fn what_a_guest_holds_is_not_taken_from_it() -> Result<()> {
    let host = Host::intel()
        .igb(1)
        .file("root/policy.yaml", policy(1))
        .file("root/guest.yaml", Guest::new("web", "hold").claim().to_string())
        .boot()?;
    host.ok("assign apply -f policy.yaml");
    let guest = guests::start(&host, "assign run -f guest.yaml", GUEST_TIME)?;

    for command in [
        "assign vf destroy eth0 --yes",
        "assign release 0000:01:10.0 --yes",
        "assign remove -f policy.yaml --yes",
        "assign vf create eth0 3 --yes",
    ] {
        let refused = host.run(command)?;
        assert_eq!(refused.code, 3, "{command}: {}", refused.stderr);
        assert!(refused.stderr.contains("web"), "{command}: {}", refused.stderr);
    }
    assert_eq!(host.ok("cat /sys/class/net/eth0/device/sriov_numvfs"), "1\n");
    let listed = host.ok("assign vf list");
    assert!(listed.contains("web"), "the owner is shown: {listed}");

    guests::stop(&guest)?;
    host.ok("assign vf destroy eth0 --yes");

    // Unless it is told to: then the guest is asked to end, and does so in order.
    host.ok("assign apply -f policy.yaml");
    let guest = guests::start(&host, "assign run -f guest.yaml", GUEST_TIME)?;
    let asked = host.run("assign vf destroy eth0 --drain")?;
    assert_eq!(asked.code, 3, "{}", asked.stderr);
    assert!(asked.stderr.contains("would end guest web"), "{}", asked.stderr);
    let drained = host.run_within("assign vf destroy eth0 --drain --yes", GUEST_TIME)?;
    assert_eq!(drained.code, 0, "{}", drained.stderr);
    assert!(drained.stderr.contains("asked guest web"), "{}", drained.stderr);
    let ended = guest.wait(Duration::from_secs(60))?;
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert!(ended.stderr.contains("web: stopped"), "{}", ended.stderr);
    assert_eq!(host.ok("cat /sys/class/net/eth0/device/sriov_numvfs"), "0\n");
    assert!(!host.ok("assign status").contains("web"));
    Ok(())
}

#[test]
#[ignore = "boots an emulated host: cargo lab test"]
fn a_guest_killed_with_sigkill_leaves_its_vf_usable() -> Result<()> {
    let host = Host::intel()
        .igb(1)
        .file("root/policy.yaml", policy(1))
        .file("root/hold.yaml", Guest::new("web", "hold").claim().to_string())
        .file("root/again.yaml", Guest::new("again", "net").claim().to_string())
        .boot()?;
    host.ok("assign apply -f policy.yaml");

    // The VMM alone: its launcher sees it and gives the VF back.
    let guest = guests::start(&host, "assign run -f hold.yaml", GUEST_TIME)?;
    host.ok("kill -9 $(pidof assign-vmm)");
    let ended = guest.wait(Duration::from_secs(30))?;
    assert_eq!(ended.code, 1, "{}", ended.stderr);
    assert!(ended.stderr.contains("signal 9"), "the reason is told: {}", ended.stderr);
    let output = host.run_within("assign run -f again.yaml </dev/null", GUEST_TIME)?;
    assert_eq!(output.code, 0, "{}\n{}", output.stdout, output.stderr);
    assert!(output.stdout.contains("guest: eth0: ping 10.0.2.2: 3 of 3"), "{}", output.stdout);

    // Launcher and VMM: nobody is left to tidy up, so the next command notices.
    let guest = guests::start(&host, "assign run -f hold.yaml", GUEST_TIME)?;
    host.ok("kill -9 $(pidof assign)");
    assert_eq!(guest.wait(Duration::from_secs(30))?.code, 128 + 9);
    guests::wait_until_none(&host);
    host.ok("assign remove -f policy.yaml --yes");
    host.ok("assign apply -f policy.yaml");
    let output = host.run_within("assign run -f again.yaml </dev/null", GUEST_TIME)?;
    assert_eq!(output.code, 0, "{}\n{}", output.stdout, output.stderr);
    assert!(output.stdout.contains("guest: eth0: ping 10.0.2.2: 3 of 3"), "{}", output.stdout);
    Ok(())
}
