//! A guest that goes on without a terminal, and terminals that come to it and go.

use std::time::Duration;

use anyhow::Result;
use lab::Host;

use crate::documents::{Guest, policy};
use crate::guests;

const GUEST_TIME: Duration = Duration::from_secs(180);
const SOON: Duration = Duration::from_secs(30);

#[test]
#[ignore = "boots an emulated host: cargo lab test"]
fn a_detached_guest_is_watched_typed_to_and_left_over_a_reboot() -> Result<()> {
    let host = Host::intel()
        .igb(1)
        .file("root/policy.yaml", policy(1))
        .file("root/web.yaml", Guest::new("web", "hold").claim().to_string())
        .file("root/lost.yaml", Guest::new("lost", "hold").kernel("/nowhere").to_string())
        .limit(Duration::from_secs(500))
        .boot()?;
    host.ok("assign apply -f policy.yaml");

    // One that does not start says so here, as without --detach.
    let lost = host.run("assign run -f lost.yaml --detach")?;
    assert_eq!(lost.code, 2, "{lost:?}");
    assert!(lost.stderr.contains("/nowhere") && lost.stdout.is_empty(), "{lost:?}");

    // The command returns when it runs, and leaves nothing of itself behind on its terminal.
    let told = host.run_within("assign run -f web.yaml --detach", GUEST_TIME)?;
    assert_eq!((told.code, told.stdout.as_str()), (0, ""), "{told:?}");
    assert!(told.stderr.contains("web: net0: VF 0 of eth0"), "{told:?}");
    let line = "web: runs; `assign console web` shows its console\n";
    assert!(told.stderr.ends_with(line), "{told:?}");
    assert!(host.ok("assign ps").contains("running"));
    let each = "for at in 0 1 2; do readlink /proc/$(pidof assign)/fd/$at; done";
    let open = host.ok(each);
    assert_eq!(open, "/dev/null\n".repeat(3));

    // Two watch, and one of them types.
    let ann = host.spawn("assign console web --lines 200");
    ann.wait_for("guest: holding", GUEST_TIME)?;
    let bob = host.spawn("assign console web --read-only --lines 0");
    ann.stdin("ping 10.0.2.2 5\n");
    let answer = "guest: ping 10.0.2.2: 5 of 5 answered";
    ann.wait_for(answer, GUEST_TIME)?;
    bob.wait_for(answer, SOON)?;
    assert!(!bob.output_so_far().contains("guest: holding"), "from now on only");

    // Who leaves takes nothing along, and finds what was said meanwhile.
    ann.signal(2);
    assert_eq!(ann.wait(SOON)?.code, 0);
    let typed = host.spawn("assign console web --lines 0");
    typed.stdin("ping 10.0.2.2 7\n");
    typed.close_stdin();
    typed.wait_for("guest: ping 10.0.2.2: 7 of 7 answered", GUEST_TIME)?;
    typed.signal(15);
    let again = host.spawn("assign console web --lines 3");
    again.wait_for("7 of 7 answered", SOON)?;
    assert!(!again.output_so_far().contains("guest: holding"), "the last lines only");

    // Its next life is on the same consoles.
    again.stdin("reboot\n");
    again.wait_for("guest: holding", GUEST_TIME)?;
    bob.wait_for("guest: holding", SOON)?;

    // A foreground guest is watched as well, and each ends with its guest.
    assert_eq!(host.ok("assign stop web --timeout 120"), "web has powered off\n");
    for viewer in [&again, &bob] {
        assert_eq!(viewer.wait(SOON)?.code, 0);
    }
    let nobody = host.run("assign console web")?;
    assert_eq!(nobody.code, 2, "{nobody:?}");
    assert!(nobody.stderr.contains("web: no guest of this name runs"), "{nobody:?}");
    let kept = host.ok("assign console web --log");
    assert_eq!(kept.matches("guest: up after").count(), 2, "{kept}");
    assert!(kept.contains("reboot: Power down"), "to its last words: {kept}");
    let happened = host.ok("cut -d' ' -f2- /var/lib/assign/guests/web/events.log");
    for line in ["web: runs", "web: rebooted, starting again", "web: powered off"] {
        assert!(happened.lines().any(|one| one == line), "{line}: {happened}");
    }
    assert_eq!(host.run("assign console nobody --log")?.code, 2);

    // The one in front, too; and the terminals of others do not end it.
    let web = guests::start(&host, "assign run -f web.yaml", GUEST_TIME)?;
    let ann = host.spawn("assign console web");
    ann.wait_for("guest: holding", SOON)?;
    ann.stdin("ping 10.0.2.2 2\n");
    web.wait_for("2 of 2 answered", GUEST_TIME)?;
    ann.signal(2);
    ann.wait(SOON)?;
    guests::stop(&web)?;

    // A launcher that is killed takes its guest along, and its name is free.
    host.run_within("assign run -f web.yaml --detach", GUEST_TIME)?;
    host.ok("kill -9 $(pidof assign)");
    guests::wait_until_none(&host);
    assert_eq!(host.ok("assign ps -o json").trim(), "[]");
    let told = host.run_within("assign run -f web.yaml --detach", GUEST_TIME)?;
    assert!(told.code == 0 && told.stderr.contains("web: net0: VF 0 of eth0"), "{told:?}");
    host.ok("assign stop web --now");
    Ok(())
}
