//! A virtio network card whose frames the kernel moves, and the same guest on a host without that.

use std::time::Duration;

use anyhow::Result;
use lab::Host;
use serde_json::Value;

use crate::documents::Guest;
use crate::guests;

const GUEST_TIME: Duration = Duration::from_secs(180);
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
