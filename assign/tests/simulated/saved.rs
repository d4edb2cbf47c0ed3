//! Plans that are kept and carried out later, with steps that change a host.

use std::path::Path;

use sriov::recorded::simulation::Simulation;

use super::{Host, example};

fn lab() -> Host {
    Host::new(Simulation::lab_with_drive)
}

/// Keeps the plan for an example in a file of the host's directory.
fn save(host: &Host, policy: &Path) -> String {
    let kept = host.directory.path().join("plan.json").display().to_string();
    let said = host.done(&["plan", "-f", &policy.display().to_string(), "--save", &kept]);
    assert!(said.contains("steps; `assign apply"), "{said}");
    kept
}

#[test]
fn a_saved_plan_makes_of_a_host_what_a_plain_apply_makes_of_it() {
    let policy = example("edge-node.yaml");
    let (planned, plain) = (lab(), lab());
    let kept = save(&planned, &policy);
    let by_plan = planned.done(&["apply", "--yes", &kept]);
    let by_file = plain.done(&["apply", "--yes", "-f", &policy.display().to_string()]);
    assert!(by_plan.contains("create 1 VF") && by_plan.contains("steps made"), "{by_plan}");
    assert_eq!(by_plan, by_file);
    assert_eq!(planned.snapshot(), plain.snapshot());
    let remembered = |host: &Host| host.state().applied().expect("the state");
    assert_eq!(remembered(&planned), remembered(&plain));
    // Carried out once, it is out of date.
    let again = planned.assign(&["apply", "--yes", &kept]);
    let error = String::from_utf8_lossy(&again.stderr).into_owned();
    assert_eq!(again.status.code(), Some(3), "{error}");
    assert!(error.contains("would be made"), "{error}");
}

#[test]
fn a_plan_of_another_boot_is_not_carried_out() {
    let host = lab();
    let kept = save(&host, &example("edge-node.yaml"));
    let before = host.snapshot();
    host.tree().file("proc/sys/kernel/random/boot_id", "another\n");
    let refused = host.assign(&["apply", "--yes", &kept]);
    let error = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(3), "{error}");
    assert!(error.contains("it was made before this host was booted"), "{error}");
    assert!(error.contains("Plan again"), "{error}");
    assert_eq!(host.snapshot().functions, before.functions);
    assert!(host.state().applied().expect("the state").is_empty());
}
