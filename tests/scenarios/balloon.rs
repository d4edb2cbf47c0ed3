//! Memory that guests give back while they run: because they are asked, or because they do not use it.

use std::time::{Duration, Instant};

use anyhow::Result;
use lab::{Host, Job};
use serde_json::Value;

use crate::documents::{Guest, policy};
use crate::guests;

const GUEST_TIME: Duration = Duration::from_secs(240);
const SOON: Duration = Duration::from_secs(120);
const MIB: u64 = 1 << 20;

fn balloon(host: &Host) -> Result<Value> {
    let stats: Value = serde_json::from_str(&host.ok("assign stats web -o json"))?;
    Ok(stats["balloon"].clone())
}

/// One of the balloon's numbers, in MiB.
fn number(host: &Host, name: &str) -> Result<u64> {
    let balloon = balloon(host)?;
    Ok(balloon[name].as_u64().unwrap_or_else(|| panic!("{name} of {balloon:#}")) / MIB)
}

/// What the guest's process has of the host's memory, in MiB: by its mappings, and by its control group.
fn resident(host: &Host) -> (u64, u64) {
    let rss = host.ok("awk '/^VmRSS/ { print $2 }' /proc/$(pidof assign-vmm)/status");
    let charged = host.ok("cat /sys/fs/cgroup/assign/web/memory.current");
    let number = |text: &str| text.trim().parse::<u64>().expect("a number");
    (number(&rss) / 1024, number(&charged) / MIB)
}

/// Waits until `is` says so of what is resident, and returns it.
fn await_resident(host: &Host, what: &str, is: impl Fn(u64) -> bool) -> (u64, u64) {
    let end = Instant::now() + SOON;
    loop {
        let now = resident(host);
        if is(now.0) && is(now.1) {
            return now;
        }
        assert!(Instant::now() < end, "{what}: {now:?} MiB, {:#}", balloon(host).expect("stats"));
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// Waits until the guest, or its next life, says that it has given so many MiB.
fn await_given(host: &Host, mib: u64, limit: Duration) -> Result<()> {
    let end = Instant::now() + limit;
    loop {
        let stats = host.run("assign stats web -o json")?;
        let told = serde_json::from_str::<Value>(&stats.stdout).unwrap_or_default();
        if told["balloon"]["given_bytes"] == mib * MIB {
            return Ok(());
        }
        assert!(Instant::now() < end, "{:#} {}", told["balloon"], stats.stderr);
        std::thread::sleep(Duration::from_secs(1));
    }
}

fn ask(guest: &Job, what: &str, answer: &str) -> Result<()> {
    guest.stdin(&format!("{what}\n"));
    guest.wait_for(&format!("guest: {answer}: done"), SOON)?;
    Ok(())
}

#[test]
#[ignore = "boots an emulated host: cargo lab test"]
fn a_guest_gives_memory_back_and_takes_it_when_it_has_none_left() -> Result<()> {
    let host = Host::intel()
        .file(
            "root/web.yaml",
            Guest::new("web", "hold")
                .memory("{size: 256MiB, pages: 4KiB, balloon: true}")
                .disk("name: data, path: /root/data.raw")
                .limits("{tasks: 64}")
                .to_string(),
        )
        .limit(Duration::from_secs(900))
        .boot()?;
    host.ok("truncate -s 96M /root/data.raw");
    let web = guests::start(&host, "assign run -f web.yaml", GUEST_TIME)?;
    let stats = balloon(&host)?;
    assert_eq!((&stats["driven"], &stats["given_bytes"]), (&true.into(), &0.into()), "{stats:#}");
    let total = stats["said"]["total_bytes"].as_u64().expect("it says that") / MIB;
    assert!((200..256).contains(&total), "{stats:#}");

    // What a program of its had used comes back by itself.
    web.stdin("eat 96 20\n");
    await_resident(&host, "a program uses memory", |mib| mib > 150);
    web.wait_for("guest: eat 96: done", SOON)?;
    let less = await_resident(&host, "a program has ended", |mib| mib < 110);
    assert_eq!(number(&host, "given_bytes")?, 0);
    assert!(number(&host, "reported_bytes")? >= 80, "{:#}", balloon(&host)?);

    // What it uses to keep files at hand comes back when it is asked for.
    ask(&web, "cache vda", "cache vda")?;
    await_resident(&host, "files are at hand", |mib| mib > less.0 + 80);
    let told = host.ok("assign balloon web 96MiB");
    let asked = "web is to keep 96 MiB and give 160 MiB back; so far it has given ";
    assert!(told.starts_with(asked), "{told}");
    await_given(&host, 160, SOON)?;
    await_resident(&host, "they are given back", |mib| mib < less.0 + 30);
    let page = host.ok("assign stats web");
    assert!(page.contains("160 MiB, has given 160 MiB"), "{page}");
    assert!(number(&host, "inflated_bytes")? >= 160);

    // A program that needs more than is left has it, and nothing is ended.
    ask(&web, "eat 95 1", "eat 95")?;
    let given = number(&host, "given_bytes")?;
    assert!(given < 140, "{given} MiB");

    // In its next life it is asked for as much as before.
    let pid = host.ok("pidof assign-vmm");
    web.stdin("reboot\n");
    host.ok(&format!(
        "for i in $(seq 600); do [ \"$(pidof assign-vmm)\" = {} ] || exit 0; usleep 100000; done; exit 1",
        pid.trim()
    ));
    await_given(&host, 160, GUEST_TIME)?;
    assert_eq!(number(&host, "target_bytes")?, 160);
    await_resident(&host, "it has little again", |mib| mib < 110);
    let told = host.ok("assign balloon web all");
    assert!(told.starts_with("web is to keep all of its 256 MiB; so far it has given "), "{told}");
    await_given(&host, 0, SOON)?;
    ask(&web, "eat 128 0", "eat 128")?;

    for (size, why) in [
        (
            "32MiB",
            "web: cannot do with 32 MiB of memory. Name what it is to keep: 64MiB to 256MiB.",
        ),
        ("257MiB", "web: has 256 MiB of memory, and cannot keep more."),
    ] {
        let refused = host.run(&format!("assign balloon web {size}"))?;
        assert!(refused.code == 2 && refused.stderr.contains(why), "{}", refused.stderr);
    }
    assert_eq!(number(&host, "target_bytes")?, 0);
    guests::stop(&web)?;
    Ok(())
}

/// A device pins all of its guest's memory, so that the two exclude each other, from whichever side one
/// comes.
#[test]
#[ignore = "boots an emulated host: cargo lab test"]
fn a_guest_with_a_balloon_has_no_device() -> Result<()> {
    let gives = "{size: 256MiB, balloon: true}";
    let host = Host::intel()
        .igb(1)
        .file("root/policy.yaml", policy(1))
        .file("root/web.yaml", Guest::new("web", "hold").memory(gives).to_string())
        .file("root/plain.yaml", Guest::new("plain", "hold").claim().to_string())
        .file("root/claims.yaml", Guest::new("claims", "hold").memory(gives).claim().to_string())
        .limit(Duration::from_secs(600))
        .boot()?;
    for command in ["validate policy.yaml claims.yaml", "run -f policy.yaml -f claims.yaml"] {
        let refused = host.run(&format!("assign {command}"))?;
        let why = "the guest claims a device, which pins all of its memory, and of pinned memory nothing is \
                   given back";
        assert!(refused.code == 2 && refused.stderr.contains(why), "{}", refused.stderr);
    }
    host.ok("assign apply -f policy.yaml");
    let web = guests::start(&host, "assign run -f web.yaml", GUEST_TIME)?;
    let refused = host.run("assign attach web --pool lan")?;
    let why = "web: can have no device: one pins all of the guest's memory, which its document lets the host \
               have back (balloon: true). Write `balloon: false` in its document";
    assert!(refused.code == 3 && refused.stderr.contains(why), "{}", refused.stderr);
    let page = host.ok("assign show 01:10.0");
    let words = page.split_whitespace().collect::<Vec<_>>().join(" ");
    let why = "not for web, whose memory it would pin: its document has `balloon: true`";
    assert!(words.contains(why), "{page}");

    let plain = guests::start(&host, "assign run -f plain.yaml", GUEST_TIME)?;
    let refused = host.run("assign balloon plain 128MiB")?;
    let why = "plain: has no balloon, so that nothing of its memory can be asked back. Write `memory: \
               {balloon: true}`";
    assert!(refused.code == 2 && refused.stderr.contains(why), "{}", refused.stderr);
    guests::stop(&web)?;
    guests::stop(&plain)?;
    Ok(())
}
