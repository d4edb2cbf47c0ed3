//! What a guest's process may use of its host: in force, told, and gone with the guest.

use std::time::Duration;

use anyhow::Result;
use lab::Host;
use serde_json::Value;

use crate::documents::Guest;
use crate::guests;

const GUEST_TIME: Duration = Duration::from_secs(240);
const SOON: Duration = Duration::from_secs(60);
const GROUPS: &str = "/sys/fs/cgroup/assign";

fn file(host: &Host, guest: &str, name: &str) -> String {
    host.ok(&format!("cat {GROUPS}/{guest}/{name}")).trim().to_owned()
}

fn groups(host: &Host) -> String {
    host.ok(&format!("cd {GROUPS} && find . -mindepth 1 -type d"))
}

#[test]
#[ignore = "boots an emulated host: cargo lab test"]
fn a_guests_process_keeps_to_its_limits_in_a_group_that_goes_with_it() -> Result<()> {
    let limits = "{cpu: 40%, cpuWeight: 50, memory: 384MiB, tasks: 64}";
    let host = Host::intel()
        .file("root/web.yaml", Guest::new("web", "hold").limits(limits).to_string())
        .file("root/db.yaml", Guest::new("db", "hold").limits("{tasks: 32}").to_string())
        .limit(Duration::from_secs(600))
        .boot()?;

    // In force, for the guest's process alone.
    let web = guests::start(&host, "assign run -f web.yaml", GUEST_TIME)?;
    let pid = host.ok("pidof assign-vmm").trim().to_owned();
    assert_eq!(file(&host, "web", "cgroup.procs"), pid);
    assert_eq!(host.ok(&format!("cat /proc/{pid}/cgroup")), "0::/assign/web\n");
    for (name, value) in [
        ("cpu.max", "40000 100000"),
        ("cpu.weight", "50"),
        ("memory.max", "402653184"),
        ("pids.max", "64"),
    ] {
        assert_eq!(file(&host, "web", name), value, "{name}");
    }
    // A guest that boots wants all of a CPU.
    let stats: Value = serde_json::from_str(&host.ok("assign stats web -o json"))?;
    let usage = |name: &str| {
        let number = stats["usage"][name].as_u64();
        number.unwrap_or_else(|| panic!("{name} of {:#}", stats["usage"]))
    };
    assert!(usage("held_back_us") > 1_000_000, "{stats:#}");
    let up_s = serde_json::from_str::<Value>(&host.ok("assign ps -o json"))?[0]["up_s"].as_u64();
    let most = (up_s.expect("it runs") + 2) * 400_000;
    assert!(usage("cpu_us") > 1_000_000 && usage("cpu_us") <= most, "{most}: {stats:#}");
    assert!(usage("memory_bytes") > 32 << 20, "{stats:#}");
    assert_eq!(usage("memory_bytes_limit"), 384 << 20);
    assert!((3..64).contains(&usage("tasks")), "{stats:#}");
    let page = host.ok("assign stats web");
    assert!(page.contains(", at most 40% of a CPU, held back for "), "{page}");

    // Another has its own, without what its document does not limit, and both go with their guests.
    let db = guests::start(&host, "assign run -f db.yaml", GUEST_TIME)?;
    assert_eq!((&*file(&host, "db", "memory.max"), groups(&host).lines().count()), ("max", 2));
    guests::stop(&web)?;
    assert_eq!(groups(&host), "./db\n");

    // What a killed launcher leaves is removed by the next command that changes the host.
    db.signal(9);
    guests::wait_until_none(&host);
    assert_eq!(groups(&host), "./db\n");
    host.ok("assign recover");
    assert_eq!(groups(&host), "");
    Ok(())
}

#[test]
#[ignore = "boots an emulated host: cargo lab test"]
fn a_guest_that_reaches_its_memory_limit_is_ended_and_told_why() -> Result<()> {
    let limits = "{memory: 384MiB}";
    let host = Host::intel()
        .file("root/web.yaml", Guest::new("web", "hold").limits(limits).to_string())
        .file("root/db.yaml", Guest::new("db", "hold").to_string())
        .limit(Duration::from_secs(600))
        .boot()?;
    let web = guests::start(&host, "assign run -f web.yaml", GUEST_TIME)?;
    // Its document leaves room for all of its memory, so that it needs help.
    host.ok(&format!("echo 32M > {GROUPS}/web/memory.max"));
    let ended = web.wait(SOON)?;
    assert_eq!(ended.code, 1, "{}", ended.stderr);
    let why = "assign: web: was ended: it reached its memory limit of 32 MiB. Raise `limits: \
               {memory: …}` in its document.";
    let told = ended.stderr.replace("\r\n", "\n");
    assert!(told.lines().any(|line| line == why), "{told}");
    assert_eq!(groups(&host), "");

    // Without control groups a guest has no limits, or does not start.
    host.ok("umount /sys/fs/cgroup");
    let refused = host.run("assign run -f web.yaml")?;
    assert_eq!(refused.code, 1, "{}", refused.stderr);
    let why =
        "web: its `limits` cannot be kept: cgroup v2 is not mounted at /sys/fs/cgroup. Mount it";
    assert!(refused.stderr.contains(why), "{}", refused.stderr);
    let db = guests::start(&host, "assign run -f db.yaml", GUEST_TIME)?;
    let stats: Value = serde_json::from_str(&host.ok("assign stats db -o json"))?;
    assert_eq!(stats["usage"], Value::Null, "{stats:#}");
    guests::stop(&db)?;
    Ok(())
}
