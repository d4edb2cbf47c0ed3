//! A fault at every single point at which an apply changes the host or writes its state: as an error,
//! and as a kill before and after. Whatever it was, `assign recover` leaves the host as planned or as
//! it was before, and nothing behind.

use std::path::Path;
use std::process::{Command, Stdio};

use assign::state::Applied;
use lab::fault::{self, Fault, How, Ran, Scope};
use sriov::HostSnapshot;
use sriov::recorded::simulation::{Drive, Simulation};

use super::gallery::{self, edited, replaced, with_spare_card};
use super::{Host, example};

const EIO: i32 = 5;
const EBUSY: i32 = 16;
const ENOSPC: i32 = 28;

/// An apply to be tried, and the host it happens on.
struct Case {
    name: &'static str,
    build: fn(&Path) -> Simulation,
    files: &'static [&'static str],
    /// What is written otherwise in them for this host.
    edit: Option<fn(String) -> String>,
    /// What was done on the host before.
    prepare: fn(&Host),
}

/// All there is to compare of a host and of what is remembered about it.
#[derive(Debug, PartialEq)]
struct Everything {
    snapshot: HostSnapshot,
    applied: Vec<Applied>,
    drives: Vec<Drive>,
    drives_remembered: Vec<Option<assign::state::Drive>>,
}

fn everything(host: &Host) -> Everything {
    let snapshot = host.snapshot();
    assert_eq!(snapshot.problems, []);
    let state = host.state();
    let pfs = snapshot.functions.iter().filter(|function| function.sriov.is_some());
    let remembered = pfs.map(|pf| state.drive(pf.address).expect("the state")).collect();
    Everything {
        applied: state.applied().expect("the state"),
        drives: host.kernel.drives(),
        drives_remembered: remembered,
        snapshot,
    }
}

impl Case {
    fn host(&self) -> Host {
        let host = Host::new(self.build);
        (self.prepare)(&host);
        host
    }

    fn command(&self, host: &Host, verb: &str) -> Command {
        let mut command = host.command(&[verb, "--yes"]);
        for file in self.files {
            let path = match self.edit {
                Some(edit) => edited(host, file, edit),
                None => example(file),
            };
            command.arg("-f").arg(path);
        }
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    fn run(&self, host: &Host, scope: Scope, fault: Option<Fault>) -> Ran {
        let ran = fault::run(self.command(host, "apply"), scope, fault);
        let ran = ran.expect("a program that is traced");
        host.kernel.settle();
        ran
    }

    /// Tries every point of a scope; returns how many there are, and how many faults were tried.
    fn torture(&self, scope: Scope, hows: &[How]) -> (usize, usize) {
        let host = self.host();
        let before = everything(&host);
        let counted = self.run(&host, scope, None);
        assert_eq!(counted.code, Some(0), "{}", self.name);
        let planned = everything(&host);
        assert_ne!(before, planned, "{}", self.name);
        let mut tried = 0;
        for how in hows {
            for at in 0.. {
                let host = self.host();
                let ran = self.run(&host, scope, Some(Fault { at, how: *how }));
                if !ran.hit {
                    // Lanes race, so that a point more or less is no surprise, a half is.
                    assert!(
                        at >= counted.points.len() / 2 && at > 0,
                        "{} {how:?}: {at}",
                        self.name
                    );
                    assert_eq!(ran.code, Some(0));
                    break;
                }
                tried += 1;
                self.check(&host, &ran, *how, &before, &planned, at);
            }
        }
        let name = self.name;
        println!("{name}: {} points of {scope:?}, {tried} faults tried", counted.points.len());
        (counted.points.len(), tried)
    }

    fn check(
        &self,
        host: &Host,
        ran: &Ran,
        how: How,
        before: &Everything,
        planned: &Everything,
        at: usize,
    ) {
        let told = format!("{}: {how:?} at {at}, {:?}", self.name, ran.points.get(at));
        match how {
            How::Fail(_) => assert!(ran.code.is_some(), "{told}: it died"),
            How::KillBefore | How::KillAfter => assert_eq!(ran.code, None, "{told}: it lives"),
        }
        let recovered = host.assign(&["recover"]);
        let said = String::from_utf8_lossy(&recovered.stdout).into_owned();
        let error = String::from_utf8_lossy(&recovered.stderr).into_owned();
        assert!(recovered.status.success(), "{told}: {error}");
        let now = everything(host);
        let as_planned = now == *planned;
        if !as_planned {
            assert_same(&now, before, &format!("{told}\n{said}{error}"));
        }
        if ran.code == Some(0) {
            assert!(as_planned, "{told}: it said that all was well");
        }
        let state = host.state();
        assert!(state.journal().expect("the journal").is_empty(), "{told}");
        assert!(state.leases_ever().expect("leases").is_empty(), "{told}");
        let boot_id = now.snapshot.platform.boot_id.clone();
        for original in state.originals(&host.root(), &boot_id).expect("originals") {
            let function = now.snapshot.function(original.device).expect("it is there");
            assert_eq!(function.driver.as_ref(), Some(&original.given_to), "{told}");
        }
        // And nothing keeps the next one from its work.
        if at.is_multiple_of(7) {
            let status = self.command(host, "apply").status().expect("assign runs");
            assert!(status.success(), "{told}");
            assert_same(&everything(host), planned, &told);
        }
    }
}

fn assert_same(now: &Everything, expected: &Everything, told: &str) {
    assert_eq!(now.applied, expected.applied, "{told}");
    assert_eq!(now.drives, expected.drives, "{told}");
    assert_eq!(now.drives_remembered, expected.drives_remembered, "{told}");
    for (now, expected) in now.snapshot.functions.iter().zip(&expected.snapshot.functions) {
        assert_eq!(now, expected, "{told}");
    }
    assert_eq!(now.snapshot, expected.snapshot, "{told}");
}

const HOST: &[How] = &[How::KillBefore, How::KillAfter, How::Fail(EIO), How::Fail(EBUSY)];
const STATE: &[How] = &[How::KillBefore, How::KillAfter, How::Fail(EIO), How::Fail(ENOSPC)];

const EDGE: Case = Case {
    name: "edge-node",
    build: |directory| Simulation::lab(directory, 0),
    files: &["edge-node.yaml"],
    edit: None,
    prepare: |_| {},
};

/// VFs that the host uses otherwise, with settings of their own, go and come back.
const EDGE_RESIZED: Case = Case {
    name: "edge-node over 3 VFs",
    build: |directory| Simulation::lab(directory, 3),
    files: &["edge-node.yaml"],
    edit: None,
    prepare: |host| {
        host.done(&["vf", "set", "eth0/1", "--mac", "02:00:00:00:00:77", "--vlan", "7"]);
        host.done(&["vf", "set", "eth0/2", "--trust", "on"]);
        host.done(&["bind", "01:10.4"]);
    },
};

const NVME: Case = Case {
    name: "nvme-slices",
    build: Simulation::lab_with_drive,
    files: &["nvme-slices.yaml"],
    edit: None,
    prepare: |_| {},
};

/// Slices that are vfio-pci's, and another number of them.
const NVME_RESIZED: Case = Case {
    name: "nvme-slices over 3 VFs",
    build: Simulation::lab_with_drive,
    files: &["nvme-slices.yaml"],
    edit: None,
    prepare: |host| {
        host.done(&["--yes", "vf", "create", "02:00.0", "3", "--driver", "vfio-pci"]);
    },
};

/// Two PFs at the same time.
const BOTH: Case = Case {
    name: "edge-node and nvme-slices",
    build: Simulation::lab_with_drive,
    files: &["edge-node.yaml", "nvme-slices.yaml"],
    edit: None,
    prepare: |_| {},
};

const MIXED: Case = Case {
    name: "mixed-fallback",
    build: |directory| Simulation::lab(directory, 0),
    files: &["mixed-fallback.yaml"],
    edit: None,
    prepare: |_| {},
};

const GPU: Case = Case {
    name: "whole-gpu",
    build: gallery::graphics,
    files: &["whole-gpu.yaml"],
    edit: None,
    prepare: |_| {},
};

/// With 5 VFs on each card in place of 64, which are bound in the same way: each card has VFs of
/// each pool, and some of none.
const NUMA: Case = Case {
    name: "two-numa-nodes",
    build: gallery::two_nodes,
    files: &["two-numa-nodes.yaml"],
    edit: Some(|text| {
        let text = replaced(text, "count: 64", "count: 5");
        let text = replaced(text, "\"16-63\"", "\"2-4\"");
        replaced(text, "\"0-15\"", "\"0-1\"")
    }),
    prepare: |_| {},
};

/// The card was for guests before the policy gave it back to the host.
const RETURNED: Case = Case {
    name: "host-driver",
    build: gallery::spare_card,
    files: &["host-driver.yaml"],
    edit: Some(with_spare_card),
    prepare: |host| {
        let bound = |text| replaced(with_spare_card(text), "driver: host\n", "driver: vfio-pci\n");
        let file = edited(host, "host-driver.yaml", bound).display().to_string();
        host.done(&["apply", "--yes", "-f", &file]);
        assert_eq!(gallery::spare_driver(host).as_deref(), Some("vfio-pci"));
    },
};

/// VFs for guests beside one of the host's.
const LENT: Case = Case {
    name: "lent",
    build: |directory| Simulation::lab(directory, 0),
    files: &["../assign/tests/simulated/lent.yaml"],
    edit: None,
    prepare: |_| {},
};

/// The same where that one was for guests before.
const SWITCHED: Case = Case {
    name: "lent, and bound before",
    prepare: |host| {
        let bound = example("../assign/tests/simulated/bound.yaml").display().to_string();
        host.done(&["apply", "--yes", "-f", &bound]);
    },
    ..LENT
};

#[test]
fn what_the_host_keeps_survives_every_fault() {
    let (points, _) = LENT.torture(Scope::Host, HOST);
    assert!(points >= 10, "{points}");
    let (points, _) = SWITCHED.torture(Scope::Host, HOST);
    assert!(points >= 2, "{points}");
}

#[test]
fn mixed_fallback_survives_every_fault() {
    let (points, _) = MIXED.torture(Scope::Host, HOST);
    assert!(points >= 24, "{points}");
}

#[test]
fn whole_gpu_survives_every_fault() {
    let (points, _) = GPU.torture(Scope::Host, HOST);
    assert!(points >= 6, "{points}");
    GPU.torture(Scope::State, STATE);
}

#[test]
fn two_numa_nodes_survive_every_fault() {
    let (points, tried) = NUMA.torture(Scope::Host, HOST);
    assert!(points >= 30 && tried >= 4 * points - 8, "{points} {tried}");
}

#[test]
fn host_driver_survives_every_fault() {
    let (points, _) = RETURNED.torture(Scope::Host, HOST);
    assert!(points >= 2, "{points}");
    RETURNED.torture(Scope::State, STATE);
}

#[test]
fn edge_node_survives_every_fault() {
    let (points, _) = EDGE.torture(Scope::Host, HOST);
    assert!(points >= 7, "{points}");
    let (points, _) = EDGE.torture(Scope::State, STATE);
    assert!(points >= 8, "{points}");
}

#[test]
fn edge_node_over_other_vfs_survives_every_fault() {
    EDGE_RESIZED.torture(Scope::Host, HOST);
}

#[test]
fn nvme_slices_survive_every_fault() {
    let (points, _) = NVME.torture(Scope::Host, HOST);
    assert!(points >= 14, "{points}");
}

#[test]
fn nvme_slices_over_others_survive_every_fault() {
    NVME_RESIZED.torture(Scope::Host, HOST);
}

#[test]
fn two_lanes_survive_every_fault() {
    BOTH.torture(Scope::Host, &[How::KillBefore, How::KillAfter, How::Fail(EIO)]);
    BOTH.torture(Scope::State, &[How::KillAfter, How::Fail(ENOSPC)]);
}

/// Recovering is interrupted as well, at every point, and begins anew.
#[test]
fn a_recovery_that_is_killed_is_recovered() {
    let mut tried = 0;
    for case in [&EDGE_RESIZED, &NVME_RESIZED] {
        let host = case.host();
        let before = everything(&host);
        let points = case.run(&host, Scope::Host, None).points;
        let planned = everything(&host);
        // When the old VFs are gone and new ones are there, the most is to be undone.
        for first in [points.len() / 3, points.len() / 2, points.len() - 1] {
            for at in 0.. {
                let host = case.host();
                let fault = Fault { at: first, how: How::KillAfter };
                assert!(case.run(&host, Scope::Host, Some(fault)).hit);
                let mut recover = host.command(&["recover"]);
                recover.stdout(Stdio::null()).stderr(Stdio::null());
                let how = if at % 2 == 0 { How::KillAfter } else { How::KillBefore };
                let ran = fault::run(recover, Scope::Host, Some(Fault { at, how }));
                let ran = ran.expect("a program that is traced");
                host.kernel.settle();
                if !ran.hit {
                    break;
                }
                tried += 1;
                case.check(&host, &ran, how, &before, &planned, at);
            }
        }
    }
    println!("{tried} recoveries were killed");
    assert!(tried > 20, "{tried}");
}
