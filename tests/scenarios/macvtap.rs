//! Virtio networks without a bridge: on an interface that the guest shares with the host, and on a TAP
//! interface that the host has already.

use std::cell::Cell;
use std::time::Duration;

use anyhow::Result;
use lab::{Host, Job};

use crate::documents::Guest;
use crate::guests;

const GUEST_TIME: Duration = Duration::from_secs(180);
const SOON: Duration = Duration::from_secs(60);

/// The interfaces of ours that the host has.
fn ours(host: &Host) -> String {
    host.ok("cd /sys/class/net; ls -d as-* 2>/dev/null || true").trim().to_owned()
}

/// So many pings by a guest, each time another number, and waits for the answers.
fn ping(guest: &Job, address: &str, count: u32) -> Result<()> {
    guest.stdin(&format!("ping {address} {count}\n"));
    guest.wait_for(&format!("guest: ping {address}: {count} of {count} answered"), SOON)
}

#[test]
#[ignore = "boots an emulated host: cargo lab test"]
fn a_guest_shares_an_interface_without_a_bridge() -> Result<()> {
    let web = Guest::new("web", "hold").connected_to("{macvtap: eth0}");
    let other = Guest::new("other", "net").connected_to("{macvtap: br0}");
    let host = Host::intel()
        .igb(1)
        .bridge()
        .file("root/web.yaml", web.to_string())
        .file("root/other.yaml", other.to_string())
        .limit(Duration::from_secs(900))
        .boot()?;
    host.ok("ip link set eth0 up");

    let web = guests::start(&host, "assign run -f web.yaml", GUEST_TIME)?;
    web.wait_for("web: lan: virtio on eth0 (macvtap)", SOON)?;
    web.wait_for("guest: eth0: lease 10.0.2.", SOON)?;
    ping(&web, "10.0.2.2", 3)?;
    let name = ours(&host);
    assert!(name.starts_with("as-mv") && !name.contains('\n'), "{name}");
    let facts = host.ok(&format!(
        "cd /sys/class/net/{name}; cat ifalias; cat /proc/sys/net/ipv6/conf/{name}/disable_ipv6"
    ));
    assert_eq!(facts, "assign: network lan of guest web\n1\n");

    // Nobody takes the card from under the guest.
    let refused = host.run("assign bind 01:00.0")?;
    assert_eq!(refused.code, 3, "{refused:?}");
    assert!(refused.stderr.contains(&format!("eth0 → {name}")), "{}", refused.stderr);

    let asked = Cell::new(0);
    let change = |command: &str, told: &str, carrier: u8| -> Result<()> {
        host.ok(command);
        web.wait_for(&format!("web: lan: the link is {told}"), SOON)?;
        asked.set(asked.get() + 1);
        web.stdin(&format!("carrier eth0 {carrier}\n"));
        let answer = format!("guest: carrier eth0: {carrier}, asked {} times", asked.get());
        web.wait_for(&answer, SOON)
    };
    let shared = "eth0, the interface that it shares,";
    change("ip link set eth0 down", &format!("down: {shared} is set down"), 0)?;
    change("ip link set eth0 up", "up again", 1)?;
    ping(&web, "10.0.2.2", 4)?;
    let gone = format!("down: {name}, its interface on the host, was deleted");
    change(&format!("ip link del {name}"), &gone, 0)?;

    // The guest's next life has another one.
    host.ok("assign reset web");
    guests::await_again(&web, GUEST_TIME);
    ping(&web, "10.0.2.2", 5)?;
    assert_eq!(ours(&host), name);

    // It goes with the guest, and with a launcher that was killed at the next command.
    guests::stop(&web)?;
    assert_eq!(ours(&host), "");
    let web = guests::start(&host, "assign run -f web.yaml", GUEST_TIME)?;
    host.ok("kill -9 $(pidof assign)");
    drop(web);
    guests::wait_until_none(&host);
    assert_eq!(ours(&host), name);
    host.ok("assign recover");
    assert_eq!(ours(&host), "");

    // A bridge can be shared as well, a port of one cannot: then the bridge is what to name.
    let output = host.run_within("assign run -f other.yaml </dev/null", GUEST_TIME)?;
    assert_eq!(output.code, 0, "{}\n{}", output.stdout, output.stderr);
    assert!(output.stdout.contains("guest: eth0: lease 10.0.3."), "{}", output.stdout);
    let port = host.ok("ls /sys/class/net/br0/brif").trim().to_owned();
    host.ok(&format!("sed -i 's/macvtap: br0/macvtap: {port}/' other.yaml"));
    let refused = host.run("assign run -f other.yaml </dev/null")?;
    assert_eq!(refused.code, 1, "{refused:?}");
    let told = format!(
        "other: lan cannot be connected to {port} (macvtap): {port} is a port of br0, and cannot be shared \
         beside that. Put the guest on that: virtio: {{bridge: br0}}."
    );
    assert!(refused.stderr.contains(&told), "{}", refused.stderr);
    assert_eq!(ours(&host), "");
    Ok(())
}

#[test]
#[ignore = "boots an emulated host: cargo lab test"]
fn a_guest_has_a_tap_interface_that_was_made_for_it() -> Result<()> {
    let web = Guest::new("web", "hold").connected_to("{tap: lan0}");
    let host = Host::intel()
        .bridge()
        .file("root/web.yaml", web.to_string())
        .file("root/other.yaml", web.to_string().replace("name: web", "name: other"))
        .boot()?;
    let refused = host.run("assign run -f web.yaml </dev/null")?;
    assert_eq!(refused.code, 1, "{refused:?}");
    let told = "web: lan cannot be connected to lan0: the host has no interface lan0. Create it with `ip \
                tuntap add lan0 mode tap`";
    assert!(refused.stderr.contains(told), "{}", refused.stderr);

    // It is down and on no bridge, and that is its owner's business.
    host.ok("tunctl -t lan0");
    let web = guests::start(&host, "assign run -f web.yaml", GUEST_TIME)?;
    web.wait_for("web: lan: the link is down: lan0, its interface on the host, is set down", SOON)?;
    assert_eq!(host.ok("cat /sys/class/net/lan0/operstate").trim(), "down");
    let refused = host.run("assign run -f other.yaml </dev/null")?;
    assert!(refused.stderr.contains("another program has lan0"), "{}", refused.stderr);

    host.ok("ip link set lan0 master br0 && ip link set lan0 up");
    web.wait_for("web: lan: the link is up again", SOON)?;
    host.ok("assign reset web");
    guests::await_again(&web, GUEST_TIME);
    ping(&web, "10.0.3.2", 3)?;
    guests::stop(&web)?;
    // It stays as it was.
    assert!(host.ok("ls /sys/class/net/br0/brif").contains("lan0"));
    Ok(())
}
