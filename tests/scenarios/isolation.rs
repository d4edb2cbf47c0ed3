//! A device reaches the memory of its guest and no other: shown by devices that try.

use std::time::Duration;

use anyhow::Result;
use lab::{Host, Shape};
use serde_json::Value;

use crate::documents::{Guest, cards};

const GUEST_TIME: Duration = Duration::from_secs(240);

/// QEMU's `edu`, whose engine moves data to and from any address below 1 TiB.
const EDU: &str = "0000:00:1c.0";

const POOLS: [(&str, &str); 1] = [("edu", r#"vendor: "1234", device: "11e8""#)];

/// Addresses at which the guest has no memory: right behind its 256 MiB, all over the memory of the
/// host and of the other guest, and beyond all memory.
fn strays() -> Vec<String> {
    let over_the_host = (0..24).map(|step| 0x1234_5000_u64 + step * 0x0600_0000);
    let addresses = [0x1000_0000, 0x1000_1000].into_iter().chain(over_the_host);
    addresses.chain([0xf0_0000_0000]).map(|address| format!("{address:#x}")).collect()
}

fn guest(name: &'static str, verb: &'static str, devices: &str) -> String {
    Guest::new(name, verb).to_string() + devices
}

/// The sum that a guest, or the host, told of its canary.
fn sums(said: &str) -> Vec<&str> {
    said.lines().filter_map(|line| line.split("canary ").nth(1)).map(str::trim_end).collect()
}

#[test]
#[ignore = "boots an emulated host: cargo lab test"]
fn a_guest_that_aims_its_device_elsewhere_changes_nothing_and_is_named() -> Result<()> {
    aim_elsewhere(Host::intel())
}

pub fn aim_elsewhere(shape: Shape) -> Result<()> {
    let strays = strays();
    let verb = format!("hold lab.stray={}", strays.join(","));
    let claim = "  devices:\n    - {name: edu, claim: {pool: edu}}\n";
    let host = shape
        .cards()
        .file("root/policy.yaml", cards(&POOLS))
        .file("root/stray.yaml", guest("stray", verb.leak(), claim))
        .file("root/keeper.yaml", guest("keeper", "hold lab.canary", ""))
        .limit(Duration::from_secs(600))
        .boot()?;
    host.ok("assign apply -f policy.yaml");
    host.ok("head -c 67108864 /dev/urandom >/run/canary");
    let host_sum = || host.ok("sha256sum /run/canary");
    let before = host_sum();
    let keeper = host.spawn("assign run -f keeper.yaml");
    keeper.wait_for("guest: holding", GUEST_TIME)?;

    let events = host.spawn("exec assign events -o json");
    events.wait_for("following", Duration::from_secs(30))?;
    let stray = host.spawn("assign run -f stray.yaml");
    stray.wait_for("guest: holding", GUEST_TIME)?;
    let said = stray.stdout_so_far();
    // The engine works, and reaches the guest's own memory.
    assert!(said.contains("edu: moved 0x20445352 0x20525450"), "{said}");
    let all = format!("edu: strayed to {} addresses", strays.len());
    assert!(said.contains(&all), "{said}");

    // Everybody who should know does: programs, and the guest's own terminal.
    events.signal(2);
    let followed = events.wait(Duration::from_secs(30))?.stdout;
    let lines = followed.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let faults: Vec<Value> = lines.filter(|line| line["kind"] == "dma-fault").collect();
    println!("{followed}");
    assert!(!faults.is_empty(), "{followed}");
    for fault in &faults {
        assert_eq!(fault["device"], EDU, "{fault}");
        assert_eq!(fault["guest"], "stray", "{fault}");
        assert_eq!(fault["access"], "write", "{fault}");
    }
    // The kernel tells the page.
    assert_eq!(faults[0]["address"], strays[0], "{followed}");
    let told =
        format!("stray: {EDU} reached for memory that is not the guest's: write at {}", strays[0]);
    let said = stray.output_so_far();
    assert!(said.contains(&told), "{said}");

    // Nobody is harmed, not even who did it.
    keeper.stdin("stop\n");
    let kept = keeper.wait(Duration::from_secs(120))?;
    assert_eq!(kept.code, 0, "{}\n{}", kept.stdout, kept.stderr);
    let sums = sums(&kept.stdout);
    assert!(sums.len() == 2 && sums[0].len() == 64 && sums[0] == sums[1], "{}", kept.stdout);
    assert_eq!(host_sum(), before);
    stray.stdin("stop\n");
    let ended = stray.wait(Duration::from_secs(60))?;
    assert_eq!(ended.code, 0, "{}\n{}", ended.stdout, ended.stderr);
    Ok(())
}

/// What `assign prove` shows of a device, with its exit code.
fn proof(host: &Host, device: &str) -> Result<(i32, Value)> {
    let output = host.run_within(&format!("assign prove {device} -o json"), GUEST_TIME)?;
    let report = serde_json::from_str(&output.stdout);
    let said = format!("{}\n{}", output.stdout, output.stderr);
    Ok((output.code, report.unwrap_or_else(|error| panic!("{error}: {said}"))))
}

/// Asserts that a device was shown to be isolated, by at least these tries.
#[track_caller]
fn assert_isolated((code, report): &(i32, Value), tries: &[(&str, &str, &str)]) {
    assert_eq!((*code, &report["verdict"]), (0, &Value::from("isolated")), "{report:#}");
    let steps = report["steps"].as_array().expect("steps");
    for (access, place, outcome) in tries {
        let step = steps.iter().find(|step| step["access"] == *access && step["place"] == *place);
        let step = step.unwrap_or_else(|| panic!("no {access} {place}: {report:#}"));
        assert_eq!(step["outcome"], *outcome, "{report:#}");
    }
}

/// Why `assign prove` refuses.
fn refusal(host: &Host, device: &str) -> Result<String> {
    let refused = host.run(&format!("assign prove {device}"))?;
    assert_eq!(refused.code, 3, "{}\n{}", refused.stdout, refused.stderr);
    Ok(refused.stderr)
}

#[test]
#[ignore = "boots an emulated host: cargo lab test"]
fn a_device_is_proven_to_be_isolated_or_it_is_said_why_not() -> Result<()> {
    devices_are_proven_to_be_isolated(Host::intel())
}

/// The same in a host of this kind.
pub fn devices_are_proven_to_be_isolated(shape: Shape) -> Result<()> {
    let claim = "  devices:\n    - {name: edu, claim: {pool: edu}}\n";
    let host = shape
        .cards()
        .nvme()
        .file("root/policy.yaml", cards(&POOLS))
        .file("root/guest.yaml", guest("owner", "hold", claim))
        .limit(Duration::from_secs(600))
        .boot()?;
    let config = format!("od -An -tx1 -N64 /sys/bus/pci/devices/{EDU}/config");

    let refused = refusal(&host, EDU)?;
    assert!(refused.contains(&format!("`assign bind {EDU}`")), "{refused}");
    let refused = refusal(&host, "0000:00:1d.0")?;
    assert!(refused.contains("NVMe controllers"), "{refused}");

    host.ok("assign apply -f policy.yaml");
    let before = host.ok(&config);
    let both = [("mapped", "arrived"), ("translated", "arrived")].into_iter();
    let strays = ["before", "behind", "physical", "taken-away"].map(|place| (place, "blocked"));
    let both: Vec<_> = both
        .chain(strays)
        .flat_map(|(place, outcome)| ["write", "read"].map(|access| (access, place, outcome)))
        .collect();
    assert_isolated(&proof(&host, EDU)?, &both);
    assert_eq!(host.ok(&config), before, "it is left as it was");
    // The same for people; what they see is worth a look.
    let shown = host.run_within(&format!("assign prove {EDU}"), GUEST_TIME)?;
    println!("{}", shown.stdout);
    assert_eq!((shown.code, shown.stderr.as_str()), (0, ""), "{}", shown.stdout);
    assert_eq!(shown.stdout.matches("blocked, and the fault told").count(), 8, "{}", shown.stdout);
    assert!(shown.stdout.contains(&format!("{EDU} (edu): isolated: ")), "{}", shown.stdout);

    // A VF that gets its queues from its PF, and the PF itself. Their engine only writes.
    let writes: Vec<_> = both.iter().copied().filter(|(access, ..)| *access == "write").collect();
    host.ok("assign apply -f /examples/nvme-slices.yaml");
    assert_isolated(&proof(&host, "0000:01:00.1")?, &writes);
    host.ok("assign remove -f /examples/nvme-slices.yaml");
    host.ok("assign bind 0000:01:00.0");
    assert_isolated(&proof(&host, "0000:01:00.0")?, &writes);
    host.ok("assign release 0000:01:00.0");

    let owner = host.spawn("assign run -f guest.yaml");
    owner.wait_for("guest: holding", GUEST_TIME)?;
    let refused = refusal(&host, EDU)?;
    assert!(refused.contains("guest owner"), "{refused}");
    owner.stdin("stop\n");
    assert_eq!(owner.wait(Duration::from_secs(60))?.code, 0);
    Ok(())
}
