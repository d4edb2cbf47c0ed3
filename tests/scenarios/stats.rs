//! What is counted of a running guest: that the traffic of a VF goes past user space, and what the
//! start took.

use std::time::Duration;

use anyhow::Result;
use lab::Host;
use serde_json::Value;

use crate::documents::{Guest, policy};
use crate::guests;

const GUEST_TIME: Duration = Duration::from_secs(180);
const FLOOD_TIME: Duration = Duration::from_secs(300);
/// Sent as fast as they are answered.
const PINGS: u64 = 10_000;
/// What a VMM may have in memory beside the guest's own, with a VF and a virtio network card.
const BESIDE: u64 = 4 << 20;

fn stats(host: &Host, guest: &str) -> Value {
    serde_json::from_str(&host.ok(&format!("assign stats {guest} -o json"))).expect("JSON")
}

fn number(stats: &Value, pointer: &str) -> u64 {
    let number = stats.pointer(pointer).and_then(Value::as_u64);
    number.unwrap_or_else(|| panic!("{pointer} of {stats:#}"))
}

/// The phases and when each began and ended, in milliseconds.
fn phases(stats: &Value) -> Vec<(String, f64, f64)> {
    let phase = |entry: &Value| {
        let (start, took) = (entry["start_ms"].as_f64(), entry["took_ms"].as_f64());
        let (start, took) = (start.expect("a start"), took.expect("it is over"));
        (entry["phase"].as_str().expect("a word").to_owned(), start, start + took)
    };
    stats["timeline"].as_array().expect("a list").iter().map(phase).collect()
}

/// Each of `wanted` is there and begins no earlier than the one before has ended.
fn in_order(phases: &[(String, f64, f64)], wanted: &[&str]) {
    let mut ended = 0.0;
    for wanted in wanted {
        let found = phases.iter().find(|(phase, ..)| phase == wanted);
        let (_, start, end) = found.unwrap_or_else(|| panic!("{wanted}: {phases:#?}"));
        // Both are rounded to the microsecond.
        assert!(*start >= ended - 0.01, "{wanted}: {phases:#?}");
        ended = *end;
    }
}

#[test]
#[ignore = "boots an emulated host: cargo lab test"]
fn stats_show_that_a_vfs_traffic_goes_past_user_space() -> Result<()> {
    let host = Host::intel()
        .igb(1)
        .bridge()
        .file("root/policy.yaml", policy(1))
        .file("root/web.yaml", Guest::new("web", "hold").claim().bridge().to_string())
        .file("root/bare.yaml", Guest::new("bare", "hold").to_string())
        .limit(Duration::from_secs(600))
        .boot()?;
    host.ok("assign apply -f policy.yaml");
    let unknown = host.run("assign stats web")?;
    assert_eq!(unknown.code, 2, "{}", unknown.stderr);
    assert!(unknown.stderr.contains("web: no guest of this name runs"), "{}", unknown.stderr);

    let guest = guests::start(&host, "assign run -f web.yaml --timeline", GUEST_TIME)?;
    let before = stats(&host, "web");
    guest.stdin(&format!("ping 10.0.2.2 {PINGS}\n"));
    guest.wait_for(&format!("guest: ping 10.0.2.2: {PINGS} of {PINGS} answered"), FLOOD_TIME)?;
    let after = stats(&host, "web");

    let device = &after["devices"][0];
    assert_eq!(device["address"], "0000:01:10.0", "{after:#}");
    assert_eq!(device["guest_address"], "0000:00:01.0");
    let grown = |pointer: &str| number(&after, pointer) - number(&before, pointer);
    let interrupts = grown("/devices/0/interrupts");
    let (user_space, kernel) = (grown("/exits/user_space"), grown("/exits/kernel"));
    println!("{interrupts} interrupts, {user_space} exits to user space, {kernel} in the kernel");
    // A packet there and one back, seldom with one interrupt for both.
    assert!(interrupts >= PINGS, "{after:#}");
    // What the console says, what goes over the bridge meanwhile, and what the driver of the VF does
    // once in a while.
    assert!(user_space < PINGS / 20, "{before:#}\n{after:#}");
    assert!(kernel > interrupts, "{after:#}");
    assert!(number(&after, "/exits/vcpus/0/config_read") > 0, "{after:#}");
    assert_eq!(grown("/devices/0/exits"), 0, "no register of it is trapped: {after:#}");
    assert!(number(&after, "/exits/kvm/vcpus/halt_exits") > 0, "{after:#}");

    let ram = 256 << 20;
    let ram_bytes = number(&after, "/memory/ram_bytes");
    assert_eq!((ram_bytes, number(&after, "/memory/ram_pinned_bytes")), (ram, ram));
    assert!(number(&after, "/memory/locked_bytes") >= ram, "{after:#}");
    let beside = number(&after, "/memory/vmm_bytes");
    assert!(beside > 0 && beside <= BESIDE, "{after:#}");

    let phases = phases(&after);
    let launcher = ["read-documents", "open-boot-files", "return-leftovers", "unpack-kernel"];
    let chooses = ["read-host", "choose-devices", "lease-devices", "open-devices"];
    let starts = ["connect-networks", "start-vmm"];
    in_order(&phases, &[&launcher[..], &chooses, &starts].concat());
    in_order(&phases, &["lease-devices", "create-vm", "load-kernel", "create-vcpus", "run-vcpus"]);
    in_order(&phases, &["create-vm", "open-device", "add-devices"]);
    in_order(&phases, &["create-vm", "populate-memory", "pin-memory"]);

    // For people: what was told at the start, and all of it, in 80 columns.
    let told = guest.output_so_far();
    println!("{told}");
    for line in ["web: what its start took:", "host read", "memory pinned", "first vCPU runs"] {
        assert!(told.contains(line), "{line}: {told}");
    }
    let page = host.ok("assign stats web");
    println!("{page}");
    assert!(page.lines().all(|line| line.chars().count() <= 80), "{page}");
    guests::stop(&guest)?;

    // A guest without a device has neither pins nor interrupts, and its kernel is in the cache.
    let bare = guests::start(&host, "assign run -f bare.yaml --timeline -o json", GUEST_TIME)?;
    let counted = stats(&host, "bare");
    assert_eq!(counted["devices"], Value::Array(Vec::new()), "{counted:#}");
    assert_eq!(number(&counted, "/memory/ram_pinned_bytes"), 0);
    let told = bare.output_so_far();
    let event = told.lines().find(|line| line.contains("\"event\":\"timeline\""));
    let event: Value = serde_json::from_str(event.unwrap_or_else(|| panic!("{told}")))?;
    assert_eq!(event["timeline"], counted["timeline"]);
    in_order(&self::phases(&counted), &["kernel-from-cache", "start-vmm", "run-vcpus"]);
    guests::stop(&bare)?;
    Ok(())
}
