//! A virtio network card whose frames the kernel moves, and the same guest on a host without that.

use std::cell::Cell;
use std::time::Duration;

use anyhow::Result;
use lab::Host;
use serde_json::Value;

use crate::documents::Guest;
use crate::guests;

const GUEST_TIME: Duration = Duration::from_secs(180);
const SOON: Duration = Duration::from_secs(60);
const FLOOD_TIME: Duration = Duration::from_secs(300);
/// Sent as fast as they are answered.
const PINGS: u64 = 5000;

/// How many accesses of the card's BAR, and interrupts that its process raised for it: none are counted
/// where the kernel raises them.
fn counted(host: &Host) -> (u64, Option<u64>) {
    let stats = host.ok("assign stats web -o json");
    let stats: Value = serde_json::from_str(&stats).expect("JSON");
    let card = &stats["devices"][0];
    (card["exits"].as_u64().expect("a number"), card["interrupts"].as_u64())
}

#[test]
#[ignore = "boots an emulated host: cargo lab test"]
fn the_kernel_moves_a_guests_frames_where_it_can() -> Result<()> {
    let host = Host::intel()
        .bridge()
        .file("root/web.yaml", Guest::new("web", "hold").bridge().to_string())
        .limit(Duration::from_secs(900))
        .boot()?;
    let opened = "ls -l /proc/$(pidof assign-vmm)/fd";
    let flood = |guest: &lab::Job| -> Result<(u64, Option<u64>)> {
        let before = counted(&host);
        guest.stdin(&format!("ping 10.0.3.2 {PINGS}\n"));
        guest
            .wait_for(&format!("guest: ping 10.0.3.2: {PINGS} of {PINGS} answered"), FLOOD_TIME)?;
        let after = counted(&host);
        let interrupts = after.1.zip(before.1).map(|(after, before)| after - before);
        Ok((after.0 - before.0, interrupts))
    };

    let web = guests::start(&host, "assign run -f web.yaml", GUEST_TIME)?;
    let files = host.ok(opened);
    assert!(files.contains("/dev/vhost-net"), "{files}");
    let (exits, interrupts) = flood(&web)?;
    // Neither a notification nor an interrupt of a frame comes to the process.
    assert_eq!((exits, interrupts), (0, None));
    guests::stop(&web)?;

    host.ok("rmmod vhost_net && rm -f /dev/vhost-net");
    let web = guests::start(&host, "assign run -f web.yaml", GUEST_TIME)?;
    let files = host.ok(opened);
    assert!(!files.contains("vhost"), "{files}");
    let (exits, interrupts) = flood(&web)?;
    // Notifications are events there too, and its process raises the interrupts.
    assert!(
        exits == 0 && interrupts >= Some(PINGS / 2),
        "{exits} exits, {interrupts:?} interrupts"
    );
    guests::stop(&web)?;
    Ok(())
}

/// A host's interface that is set down, and up again, and deleted, under a guest that runs.
fn lose_the_interface(host: &Host) -> Result<()> {
    let web = guests::start(host, "assign run -f web.yaml", GUEST_TIME)?;
    let asked = Cell::new(0);
    let has_carrier = |value: u8| {
        asked.set(asked.get() + 1);
        web.stdin(&format!("carrier eth0 {value}\n"));
        web.wait_for(&format!("guest: carrier eth0: {value}, asked {} times", asked.get()), SOON)
    };
    let change = |command: &str, told: &str, carrier: u8| -> Result<()> {
        host.ok(command);
        web.wait_for(&format!("web: service: the link is {told}"), SOON)?;
        has_carrier(carrier)
    };
    has_carrier(1)?;
    change("ip link set br0 down", "down: br0, the bridge that it is on, is set down", 0)?;
    change("ip link set br0 up", "up again", 1)?;
    web.stdin("ping 10.0.3.2 3\n");
    web.wait_for("guest: ping 10.0.3.2: 3 of 3 answered", FLOOD_TIME)?;
    change("ip link set as-tap0 down", "down: as-tap0, its interface on the host, is set down", 0)?;
    change("ip link del as-tap0", "down: as-tap0, its interface on the host, was deleted", 0)?;
    // Nothing is told of the interface's end with its guest.
    guests::stop(&web)?;
    let events = host.ok("tail -n +1 /var/lib/assign/guests/web/events.jsonl | grep '\"network-'");
    host.ok("rm /var/lib/assign/guests/web/events.jsonl");
    let kinds: Vec<String> = events
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON")["kind"].to_string())
        .collect();
    let [down, up] = ["\"network-down\"", "\"network-up\""];
    assert_eq!(kinds, [down, up, down, down], "{events}");
    Ok(())
}

#[test]
#[ignore = "boots an emulated host: cargo lab test"]
fn a_guest_whose_interface_goes_away_sees_no_carrier_and_goes_on() -> Result<()> {
    let host = Host::intel()
        .bridge()
        .file("root/web.yaml", Guest::new("web", "hold").bridge().to_string())
        .limit(Duration::from_secs(900))
        .boot()?;
    lose_the_interface(&host)?;
    host.ok("rmmod vhost_net && rm -f /dev/vhost-net");
    lose_the_interface(&host)
}

/// A guest with two vCPUs, each of which has queues of its own.
fn use_two_queues(host: &Host) -> Result<()> {
    let web = guests::start(host, "assign run -f two.yaml", GUEST_TIME)?;
    let taps = host.ok("ls /sys/class/net/as-tap0/queues");
    assert_eq!(taps.split_whitespace().collect::<Vec<_>>(), ["rx-0", "rx-1", "tx-0", "tx-1"]);
    for cpu in [0, 1] {
        web.stdin(&format!("pingon {cpu} 10.0.3.2 200\n"));
        web.wait_for(&format!("guest: pingon {cpu} 10.0.3.2: 200 of 200 answered"), FLOOD_TIME)?;
    }
    web.stdin("queues eth0\n");
    let queues = "guest: queues eth0: rx-0 rx-1 tx-0 tx-1 used by";
    web.wait_for(queues, SOON)?;
    web.wait_for("virtio0-input.0 virtio0-input.1", SOON)?;
    guests::stop(&web)
}

#[test]
#[ignore = "boots an emulated host: cargo lab test"]
fn each_cpu_of_a_guest_sends_and_receives_by_a_queue_of_its_own() -> Result<()> {
    let host = Host::intel()
        .bridge()
        .file("root/two.yaml", Guest::new("two", "hold").cpus(2).queues(2).to_string())
        .limit(Duration::from_secs(900))
        .boot()?;
    use_two_queues(&host)?;
    host.ok("rmmod vhost_net && rm -f /dev/vhost-net");
    use_two_queues(&host)
}
