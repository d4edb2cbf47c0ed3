//! `assign recover`: what it finds, and what becomes of it.

use assign::state::Entry;
use lab::fault::{self, Fault, How, Scope};
use sriov::Change;
use sriov::recorded::simulation::Simulation;

use super::{Host, example};

fn edge() -> Host {
    Host::new(|directory| Simulation::lab(directory, 0))
}

/// Kills an apply of the edge node after so many calls that change the host; returns how many of
/// them there were.
fn killed(host: &Host, at: usize) -> usize {
    let file = example("edge-node.yaml").display().to_string();
    let mut command = host.command(&["apply", "-f", &file]);
    command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    let ran = fault::run(command, Scope::Host, Some(Fault { at, how: How::KillAfter }));
    host.kernel.settle();
    ran.expect("a program that is traced").points.len()
}

fn planned() -> (sriov::HostSnapshot, Vec<assign::state::Applied>) {
    let host = edge();
    host.done(&["apply", "-f", &example("edge-node.yaml").display().to_string()]);
    (host.snapshot(), host.state().applied().expect("the state"))
}

#[test]
fn what_was_made_to_its_last_step_is_finished() {
    let points = killed(&edge(), usize::MAX);
    let (snapshot, applied) = planned();
    let host = edge();
    killed(&host, points - 1);
    assert!(host.state().applied().expect("the state").is_empty());
    let said = host.done(&["recover"]);
    assert!(said.contains("was interrupted after its last step: it is done now"), "{said}");
    assert_eq!((host.snapshot(), host.state().applied().expect("the state")), (snapshot, applied));
    assert!(host.done(&["recover"]).contains("nothing to recover"));
}

#[test]
fn an_apply_goes_on_from_wherever_it_was_interrupted() {
    let points = killed(&edge(), usize::MAX);
    let (snapshot, _) = planned();
    for at in 0..points {
        let host = edge();
        let before = host.snapshot();
        killed(&host, at);
        let said = host.done(&["recover", "--finish"]);
        assert!(said.contains("done now"), "{at}: {said}");
        assert_eq!(host.snapshot(), snapshot, "{at}");
        assert!(host.state().journal().expect("the journal").is_empty());
        // All that was done is known, before and after.
        host.done(&["remove", "-f", &example("edge-node.yaml").display().to_string()]);
        assert_eq!(host.snapshot(), before, "{at}");
    }
}

#[test]
fn what_does_not_fit_any_more_is_not_finished_and_can_be_taken_back() {
    let host = edge();
    let before = host.snapshot();
    killed(&host, 3);
    // Another card is in its place.
    host.tree().attribute("0000:01:00.0", "device", "0x1521\n");
    let output = host.assign(&["recover", "--finish"]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{error}");
    assert!(error.contains("does not fit this host any more"), "{error}");
    assert!(!host.state().journal().expect("the journal").is_empty(), "as it was found");
    host.tree().attribute("0000:01:00.0", "device", "0x10c9\n");
    host.done(&["recover"]);
    assert_eq!(host.snapshot(), before);
}

#[test]
fn the_next_command_recovers_by_itself_and_json_says_all() {
    let host = edge();
    let before = host.snapshot();
    killed(&host, 4);
    let said = host.done(&["-o", "json", "recover"]);
    let said: serde_json::Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!(said["outcome"], "taken-back", "{said}");
    assert_eq!(said["operation"], "apply edge-node");
    let found = said["found"].as_array().expect("steps").len();
    assert_eq!(said["taken_back"].as_array().expect("steps").len(), found);
    assert_eq!(host.snapshot(), before);

    killed(&host, 4);
    let output = host.assign(&["remove", "-f", &example("edge-node.yaml").display().to_string()]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("an earlier `assign apply edge-node` was interrupted; its"), "{error}");
    assert_eq!(host.snapshot(), before);
}

fn entry(number: u32, operation: &str, boot_id: &str) -> Entry {
    let pf = "0000:01:00.0".parse().expect("an address");
    let change = Change::SetVfCount { pf, from: 0, to: 2 };
    Entry { number, operation: operation.to_owned(), boot_id: boot_id.to_owned(), change }
}

#[test]
fn the_journal_of_another_boot_is_closed_with_a_word() {
    let host = edge();
    let before = host.snapshot();
    host.state().journal_steps(&[entry(0, "apply edge-node", "another")], None).expect("written");
    let said = host.done(&["recover"]);
    assert!(said.contains("on an earlier boot, and nothing is left of it"), "{said}");
    assert_eq!(host.snapshot(), before);
    assert!(host.state().journal().expect("the journal").is_empty());
}

#[test]
fn a_journal_that_makes_no_sense_is_an_error_and_nothing_is_done() {
    let host = Host::new(|directory| Simulation::lab(directory, 2));
    let before = host.snapshot();
    let boot_id = before.platform.boot_id.as_str();
    let entries = [entry(0, "apply edge-node", boot_id), entry(1, "vf create", boot_id)];
    host.state().journal_steps(&entries, None).expect("written");
    for command in [&["recover"][..], &["vf", "destroy", "eth0", "--yes"]] {
        let output = host.assign(command);
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(error.contains("the journal is damaged"), "{error}");
        assert!(error.contains("apply the policies again"), "{error}");
        assert_eq!(host.snapshot(), before);
    }
}
