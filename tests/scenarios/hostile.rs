//! A guest that does to its devices what no driver would: it harms itself at most.

use std::time::Duration;

use anyhow::Result;
use lab::{Host, Shape};

use crate::documents::{Guest, policy};
use crate::guests;

const GUEST_TIME: Duration = Duration::from_secs(120);

/// What the host keeps in memory while that guest runs, to be found as it was.
const CANARY: &str = "head -c 67108864 /dev/urandom >/tmp/canary; sha256sum </tmp/canary";

#[test]
#[ignore = "boots an emulated host: cargo lab test"]
fn a_guest_that_writes_anything_anywhere_harms_itself_only() -> Result<()> {
    write_anything_anywhere(Host::intel())
}

pub fn write_anything_anywhere(shape: Shape) -> Result<()> {
    let mut shape = shape
        .igb(1)
        .limit(Duration::from_secs(340))
        .file("root/edge.yaml", policy(3))
        .file("root/web.yaml", Guest::new("web", "hold").claim().to_string())
        .file("root/next.yaml", Guest::new("next", "net").claim().claim_as("net1").to_string());
    let verbs = ["hostile lab.seed=1", "hostile lab.seed=2"];
    for (number, verb) in verbs.into_iter().enumerate() {
        // Two, so that one can lie over the other.
        let guest = Guest::new("hostile", verb).claim().claim_as("net1");
        shape = shape.file(&format!("root/hostile{number}.yaml"), guest.to_string());
    }
    let host = shape.boot()?;
    host.ok("assign apply -f edge.yaml");
    let canary = host.ok(CANARY);
    let web = guests::start(&host, "assign run -f web.yaml", GUEST_TIME)?;

    for number in 0..verbs.len() {
        let guest = host.spawn(&format!("assign run -f hostile{number}.yaml"));
        guest.close_stdin();
        guest.wait_for("guest: hostile: 100 writes", GUEST_TIME)?;
        let output = guest.wait(GUEST_TIME);
        // It may have written over its own memory, and then it may crash, or do nothing any more.
        match output {
            Ok(output) => {
                let said = format!("{}\n{}", output.stdout, output.stderr);
                assert!(!said.contains("virtual machine failed"), "{said}");
                assert!(!said.contains("panicked"), "{said}");
                let ended = said.contains("hostile: done") || said.contains("crashed");
                assert!(ended, "{said}");
            }
            Err(_) => {
                guest.signal(15);
                guest.wait(Duration::from_secs(30))?;
            }
        }
        assert!(!host.ok("assign status").contains("hostile"), "its VFs are free");
        assert_eq!(host.ok("sha256sum </tmp/canary"), canary);
    }

    // The neighbour has noticed nothing, and whoever comes next finds the VFs in order.
    guests::stop(&web)?;
    let output = host.run_within("assign run -f next.yaml </dev/null", GUEST_TIME)?;
    assert_eq!(output.code, 0, "{}\n{}", output.stdout, output.stderr);
    let answered = output.stdout.matches("ping 10.0.2.2: 3 of 3 answered").count();
    assert_eq!(answered, 2, "{}", output.stdout);
    let log = host.ok("dmesg");
    for trouble in ["BUG", "Oops", "WARNING", "Call Trace"] {
        assert!(!log.contains(trouble), "{log}");
    }
    Ok(())
}
