//! The CPUs of a guest: where they run, how they lie, and what they can do.

use std::time::Duration;

use anyhow::Result;
use lab::Host;

use crate::documents::Guest;
use crate::guests;

const GUEST_TIME: Duration = Duration::from_secs(180);

/// Where the thread of this name runs, of the only guest.
fn allowed(host: &Host, thread: &str) -> String {
    let threads = host
        .ok("for task in /proc/$(pidof assign-vmm)/task/*; do echo $(cat $task/comm) $(grep \
         Cpus_allowed_list $task/status); done");
    let line = threads.lines().find(|line| line.starts_with(&format!("{thread} ")));
    line.and_then(|line| line.split(' ').nth(2)).unwrap_or_else(|| panic!("{threads}")).to_owned()
}

#[test]
#[ignore = "boots an emulated host: cargo lab test"]
fn threads_run_on_the_cpus_that_a_document_names_and_others_are_refused() -> Result<()> {
    let pinned = Guest::new("pinned", "hold").cpus_as("{count: 2, pin: {0: 0}}");
    let apart = Guest::new("apart", "hold").cpus_as("{count: 1, pin: {0: 0}, emulator: 0}");
    let far = Guest::new("far", "hold").cpus_as("{count: 2, pin: {0: 0, 1: \"0,7\"}}");
    let off = Guest::new("off", "hold").cpus_as("{count: 1, emulator: \"0-1\"}");
    let host = Host::intel()
        .offline_cpu()
        .limit(Duration::from_secs(400))
        .file("root/off.yaml", off.to_string())
        .file("root/pinned.yaml", pinned.to_string())
        .file("root/apart.yaml", apart.to_string())
        .file("root/far.yaml", far.to_string())
        .boot()?;
    let refused = host.run("assign run -f far.yaml </dev/null")?;
    assert_eq!(refused.code, 2, "{}", refused.stderr);
    assert!(
        refused
            .stderr
            .contains("far: vCPU 1 cannot run on CPU 7 of this host, which does not have it"),
        "{}",
        refused.stderr
    );
    let refused = host.run("assign run -f off.yaml </dev/null")?;
    assert_eq!(refused.code, 1, "{}", refused.stderr);
    assert!(
        refused
            .stderr
            .contains("off: all but its vCPUs cannot run on CPU 1 of this host, which is offline"),
        "{}",
        refused.stderr
    );
    host.ok("! pidof assign-vmm");

    let guest = guests::start(&host, "assign run -f pinned.yaml", GUEST_TIME)?;
    assert_eq!(allowed(&host, "vcpu0"), "0");
    assert_eq!(
        (allowed(&host, "vcpu1"), allowed(&host, "assign-vmm")),
        ("0-1".into(), "0-1".into())
    );
    let listed = host.ok("assign ps -o json");
    assert!(listed.contains("\"0\": \"0\""), "{listed}");
    guests::stop(&guest)?;
    let guest = guests::start(&host, "assign run -f apart.yaml", GUEST_TIME)?;
    for thread in ["vcpu0", "assign-vmm", "control"] {
        assert_eq!(allowed(&host, thread), "0", "{thread}");
    }
    assert!(host.ok("assign ps").contains("1 on 0"));
    guests::stop(&guest)?;
    Ok(())
}
