//! A guest that is killed while it starts, at any moment: its process, or the one that started it.

use std::time::Duration;

use anyhow::Result;
use lab::Host;

use crate::documents::{Guest, policy};
use crate::guests;

const GUEST_TIME: Duration = Duration::from_secs(120);

/// What a guest could leave behind: interfaces, what they are part of, control groups, sockets, drivers of
/// VFs, and who has which device. Name spaces are gone with the last process in them.
const FACTS: &str = "ls /sys/class/net; ls /sys/class/net/br0/brif; \
                     find /sys/fs/cgroup/assign -mindepth 1 -type d; find /run/assign/guests -type s; \
                     for vf in /sys/class/net/eth0/device/virtfn*; do \
                     basename $(readlink $vf/driver); cat $vf/driver_override; done; \
                     assign status -o json";

/// From one moment to the next, in microseconds; a guest starts within some hundred of these.
const STEP: u32 = 60_000;
/// Moments at which the launcher is killed, from its start on.
const OF_LAUNCHER: u32 = 18;
/// Moments at which the guest's process is, from its start on.
const OF_GUEST: u32 = 10;

#[test]
#[ignore = "boots an emulated host: cargo lab test"]
fn a_guest_that_is_killed_at_any_moment_leaves_nothing_behind() -> Result<()> {
    let web = Guest::new("web", "hold")
        .claim()
        .bridge()
        .connected_to("{macvtap: br0}")
        .limits("{memory: 384MiB, tasks: 64}");
    let host = Host::intel()
        .igb(1)
        .bridge()
        .file("root/policy.yaml", policy(2))
        .file("root/web.yaml", web.to_string())
        .limit(Duration::from_secs(900))
        .boot()?;
    host.ok("assign apply -f policy.yaml");
    let guest = guests::start(&host, "assign run -f web.yaml", GUEST_TIME)?;
    let running = host.ok(FACTS);
    guests::stop(&guest)?;
    let before = host.ok(FACTS);
    assert_ne!(running, before);
    let run = "assign run -f web.yaml </dev/null >/dev/null 2>&1 &";

    // Its process: the launcher is there to clear up, and says how the guest ended.
    for at in 0..OF_GUEST {
        let (wait, moment) = ("until pidof assign-vmm; do usleep 2000; done", at * STEP);
        let ended = host
            .run(&format!("{run} {wait}; usleep {moment}; kill -9 $(pidof assign-vmm); wait $!"))?;
        assert_eq!(ended.code, 1, "{moment} µs: {ended:?}");
        assert_eq!(host.ok(FACTS), before, "{moment} µs after its process began");
    }

    // The launcher: its guest goes with it, and the rest is for the next command.
    let mut left = 0;
    for at in 0..OF_LAUNCHER {
        let moment = at * STEP;
        host.ok(&format!("{run} usleep {moment}; kill -9 $!; wait $!; true"));
        guests::wait_until_none(&host);
        left += usize::from(host.ok(FACTS) != before);
        host.ok("assign recover");
        assert_eq!(host.ok(FACTS), before, "{moment} µs after the launcher began");
    }
    println!("{OF_GUEST} guests and {OF_LAUNCHER} launchers were killed; {left} left something");
    assert!(left >= 3, "they were killed too early to have done anything: {left}");

    let guest = guests::start(&host, "assign run -f web.yaml", GUEST_TIME)?;
    guests::stop(&guest)?;
    assert_eq!(host.ok(FACTS), before);
    Ok(())
}
