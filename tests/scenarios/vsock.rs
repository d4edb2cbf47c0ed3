//! Sockets between guests and their host, without a network.

use std::time::Duration;

use anyhow::Result;
use lab::{Host, image};
use serde_json::Value;

use crate::documents::Guest;
use crate::guests;

const GUEST_TIME: Duration = Duration::from_secs(180);
/// Longer than a guest takes for an answer.
const PAUSED: Duration = Duration::from_secs(3);
/// Sends a MiB to the guest with a CID and compares what comes back.
const STREAM: &str = "head -c 1048576 /dev/urandom >random; lab-vsock send $CID 1234 <random >back && cmp random \
                      back && echo equal";
const MESSAGE: &str = "echo a message | lab-vsock send $CID 1235 messages";

fn cid(host: &Host, guest: &str) -> u64 {
    let all: Value = serde_json::from_str(&host.ok("assign ps -o json")).expect("JSON");
    let all = all.as_array().expect("a list");
    let one = all.iter().find(|one| one["guest"] == guest).expect("it runs");
    one["cid"].as_u64().expect("a CID")
}

#[test]
#[ignore = "boots an emulated host: cargo lab test"]
fn programs_of_guests_and_host_speak_without_a_network() -> Result<()> {
    let guest = |name, vsock| {
        let guest = Guest::new(name, "hold lab.vsock").initrd("/boot/vsock.cpio").vsock(vsock);
        guest.to_string()
    };
    let host = Host::intel()
        .file("boot/vsock.cpio", image::guest_with("lab-vsock")?)
        .file("root/web.yaml", guest("web", "true"))
        .file("root/db.yaml", guest("db", "{cid: 42}"))
        .file("root/late.yaml", guest("late", "{cid: 42}"))
        .limit(Duration::from_secs(600))
        .boot()?;
    let equal = |cid: u64| {
        assert_eq!(host.ok(&format!("CID={cid}; {STREAM}")), "equal\n");
        assert_eq!(host.ok(&format!("CID={cid}; {MESSAGE}")), "a message\n");
    };

    // A host without: nothing is done, and the remedy is one.
    let refused = host.run("assign run -f web.yaml")?;
    assert_eq!(refused.code, 1, "{refused:?}");
    let told =
        "web: cannot have a vsock: /dev/vhost-vsock: the kernel's module for it is not loaded.";
    assert!(refused.stderr.contains(told), "{refused:?}");
    assert!(refused.stderr.contains("`modprobe vhost_vsock`"), "{refused:?}");
    host.ok("modprobe vhost_vsock");

    // One is told the CID that was chosen, and both ways are open.
    let web = guests::start(&host, "assign run -f web.yaml", GUEST_TIME)?;
    let chosen = cid(&host, "web");
    let said = web.output_so_far();
    assert!(said.contains(&format!("web: vsock: CID {chosen}")), "{said}");
    assert!(said.contains("vsock: listens on port 1234 listens on port 1235"), "{said}");
    let listed = host.ok("assign ps");
    assert!(listed.contains("CID") && listed.contains(&chosen.to_string()), "{listed}");
    println!("{listed}");
    equal(chosen);
    let echo = host.spawn("lab-vsock echo 7");
    echo.wait_for("listens on port 7", GUEST_TIME)?;
    web.stdin("vsock 2 7\n");
    web.wait_for("guest: vsock 2 7: equal", GUEST_TIME)?;

    // Neither a notification nor an interrupt comes to the guest's process.
    let stats = || -> Value {
        let stats = host.ok("assign stats web -o json");
        serde_json::from_str::<Value>(&stats).expect("JSON")["devices"][0].clone()
    };
    let before = stats();
    equal(chosen);
    let after = stats();
    assert_eq!((&after["exits"], &after["interrupts"]), (&before["exits"], &Value::Null));

    // A second guest with a CID of its own, beside the first, which it cannot reach; and nobody else gets
    // that CID.
    let db = guests::start(&host, "assign run -f db.yaml", GUEST_TIME)?;
    assert_eq!(cid(&host, "db"), 42);
    equal(42);
    equal(chosen);
    web.stdin("vsock 42 1234\n");
    web.wait_for("guest: vsock 42 1234: DIFFERENT", GUEST_TIME)?;
    let late = host.run("assign run -f late.yaml")?;
    assert_eq!(late.code, 1, "{late:?}");
    assert!(late.stderr.contains("late: cannot have CID 42: db has it."), "{late:?}");

    // Nor does somebody who has taken over a guest's process (SIGSYS).
    assert_eq!(host.run("lab-walls 'choose a CID'")?.code, 128 + 31);

    // Held and let go, it has lost nothing.
    let line = host.spawn("lab-vsock send 42 1234");
    line.stdin("before\n");
    line.wait_for("before", GUEST_TIME)?;
    host.ok("assign pause db");
    line.stdin("meanwhile\n");
    std::thread::sleep(PAUSED);
    assert_eq!(line.stdout_so_far(), "before\n", "nobody sends it back");
    host.ok("assign resume db");
    line.wait_for("meanwhile", GUEST_TIME)?;

    // After a reset it has the same CID, and connections of its former life are over.
    host.ok("assign reset db");
    let over = line.wait(GUEST_TIME)?;
    assert!(over.stderr.contains("Connection reset"), "{over:?}");
    guests::await_again(&db, GUEST_TIME);
    assert_eq!(cid(&host, "db"), 42);
    equal(42);
    db.stdin("vsock 2 7\n");
    db.wait_for("guest: vsock 2 7: equal", GUEST_TIME)?;

    // What ended is nobody's.
    guests::stop(&db)?;
    let late = guests::start(&host, "assign run -f late.yaml", GUEST_TIME)?;
    equal(42);
    guests::stop(&late)?;
    guests::stop(&web)?;
    echo.kill();
    Ok(())
}
