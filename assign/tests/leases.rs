//! Devices that change hands with a guest: lent, killed at any point, returned, and never taken from
//! their next owner.

use std::path::Path;

use assign::apply::Operation;
use assign::apply::leases::{self, NotTaken, Used};
use assign::state::{Lease, Loan, Owner, State};
use assign::{OwnReason, Reason};
use proptest::prelude::*;
use sriov::recorded::{Function, Tree, VfKind};
use sriov::{Binding, HostRoot, PciAddress, VfRef};

const PF: &str = "0000:01:00.0";
const FIRST: &str = "0000:01:10.0";
const SECOND: &str = "0000:01:10.2";

fn address(text: &str) -> PciAddress {
    text.parse().expect("an address")
}

/// The lab's host with two VFs that the host's igbvf has.
struct Lab {
    directory: tempfile::TempDir,
    tree: Tree,
    root: HostRoot,
    state: State,
}

impl Lab {
    fn new() -> Lab {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let tree = Tree::lab(directory.path(), 0);
        tree.driver("igbvf");
        let igb = Function::new(PF, (0x8086, 0x10c9), 0x02_0000)
            .below("0000:00:01.0")
            .driver("igb")
            .group(8)
            .vfs(7, 0)
            .vf_kind(VfKind { driver: Some("igbvf"), ..VfKind::default() });
        tree.behave(igb, Ok);
        let root = tree.root();
        let state = State::at(directory.path().join("state"));
        let lab = Lab { directory, tree, root, state };
        lab.count(2);
        lab.process(std::process::id(), 1);
        lab
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    /// As the kernel makes and unmakes VFs; each can be reset.
    fn count(&self, count: u16) {
        let pf = address(PF);
        let present = sriov::attribute::read(&self.root.pci_attribute(pf, "sriov_numvfs"));
        let present: u16 = present.expect("read").expect("there").parse().expect("a number");
        if present > 0 {
            let change = sriov::Change::SetVfCount { pf, from: present, to: 0 };
            change.perform(&self.root).expect("unmade");
        }
        if count > 0 {
            let change = sriov::Change::SetVfCount { pf, from: 0, to: count };
            change.perform(&self.root).expect("made");
        }
        for vf in [FIRST, SECOND].into_iter().take(usize::from(count)) {
            self.tree.attribute(vf, "reset", "");
        }
    }

    fn process(&self, pid: u32, started: u64) -> Owner {
        let fields = "1 1 1 0 -1 4194304 1 0 0 0 1 1 0 0 20 0 1 0";
        let stat = format!("{pid} (a) S {fields} {started} 1 1 1\n");
        self.tree.file(&format!("proc/{pid}/stat"), &stat);
        Owner { pid, started }
    }

    fn kill(&self, pid: u32) {
        std::fs::remove_file(self.path().join(format!("proc/{pid}/stat"))).ok();
    }

    fn lease(&self, device: &str, guest: &str, owner: Owner) -> Lease {
        let from = Binding { driver: Some("igbvf".to_owned()), ..Binding::default() };
        let index = u16::from(device == SECOND);
        Lease {
            vf: Some(VfRef { pf: address(PF), index }),
            pool: Some("lan".to_owned()),
            group: Some(16 + u32::from(index)),
            loan: Some(Loan { from, driver: "vfio-pci".to_owned(), by_force: None }),
            ..Lease::new(&self.root, address(device), guest, owner)
        }
    }

    /// Driver and override.
    fn has(&self, device: &str) -> (Option<String>, String) {
        let at = |name| self.root.pci_attribute(address(device), name);
        let driver = sriov::attribute::link_name(&at("driver")).expect("readable");
        let text = std::fs::read_to_string(at("driver_override")).unwrap_or_default();
        (driver, text.trim().replace("(null)", ""))
    }

    fn with_host(&self, device: &str) -> bool {
        self.has(device) == (Some("igbvf".to_owned()), String::new())
    }

    fn with_guest(&self, device: &str) -> bool {
        self.has(device) == (Some("vfio-pci".to_owned()), "vfio-pci".to_owned())
    }

    fn take(&self, lease: &Lease) -> Result<(), NotTaken> {
        leases::take(&self.root, &self.state, std::slice::from_ref(lease))
    }

    /// Any command that changes the host.
    fn next_command(&self) {
        Operation::begin(&self.root, &self.state, "test")
            .expect("nothing is in its way")
            .commit(|_| Ok(()))
            .expect("nothing to remember");
    }
}

#[test]
fn a_lent_device_is_the_guests_for_its_life_and_the_hosts_again() {
    let lab = Lab::new();
    assert!(lab.with_host(FIRST));
    let owner = lab.process(100, 5);
    lab.take(&lab.lease(FIRST, "web", owner)).expect("free");
    assert!(lab.with_guest(FIRST) && lab.with_host(SECOND));
    let other = lab.lease(FIRST, "db", lab.process(200, 6));
    assert!(matches!(lab.take(&other), Err(NotTaken::Failed(failure))
        if failure.reason == Reason::Own(OwnReason::Leased)));

    let notes = leases::release(&lab.root, &lab.state, &[address(FIRST)], [owner; 2], Used::Yes);
    assert!(notes.expect("released").is_empty());
    assert!(lab.with_host(FIRST));
    assert!(lab.state.leases_ever().expect("leases").is_empty());
}

#[test]
fn a_kill_at_any_point_is_made_good_by_the_next_command() {
    type Half = fn(&Lab);
    let points: [(&str, Half); 6] = [
        ("leased", |_| {}),
        ("overridden", |lab| lab.tree.attribute(FIRST, "driver_override", "vfio-pci\n")),
        ("unbound", |lab| {
            lab.tree.attribute(FIRST, "driver_override", "vfio-pci\n");
            lab.tree.remove(&format!("sys/bus/pci/devices/{FIRST}/driver"));
        }),
        ("bound", |lab| {
            let lease = lab.state.lease_on(address(FIRST)).expect("readable").expect("a lease");
            lease.bind().expect("lent").perform(&lab.root).expect("bound");
        }),
        ("given back but for its override", |lab| {
            lab.tree.attribute(FIRST, "driver_override", "igbvf\n");
        }),
        ("given back", |_| {}),
    ];
    for (point, half) in points {
        let lab = Lab::new();
        let owner = lab.process(100, 5);
        lab.state.take_leases(&lab.root, &[lab.lease(FIRST, "web", owner)]).expect("free");
        half(&lab);
        // While its owner lives, nobody touches it.
        let before = lab.has(FIRST);
        lab.next_command();
        assert_eq!(lab.has(FIRST), before, "{point}");
        lab.kill(100);
        assert_eq!(lab.state.leases(&lab.root).expect("leases").len(), 1, "{point}: not back yet");
        lab.next_command();
        assert!(lab.with_host(FIRST), "{point}: {:?}", lab.has(FIRST));
        assert!(lab.state.leases_ever().expect("leases").is_empty(), "{point}");
        lab.take(&lab.lease(FIRST, "db", lab.process(200, 6))).expect("free for the next");
        assert!(lab.with_guest(FIRST), "{point}");
    }
}

#[test]
fn a_late_release_does_not_touch_the_next_guests_device() {
    let lab = Lab::new();
    let (launcher, machine) = (lab.process(100, 5), lab.process(101, 6));
    lab.take(&lab.lease(FIRST, "web", launcher)).expect("free");
    lab.state.set_lease_owner(&lab.root, &[address(FIRST)], &launcher, 101).expect("handed over");
    // The machine dies; before its launcher comes to it, others return the device and take it.
    lab.kill(101);
    lab.take(&lab.lease(FIRST, "db", lab.process(200, 7))).expect("returned, and free");
    let late = || {
        leases::release(&lab.root, &lab.state, &[address(FIRST)], [launcher, machine], Used::Yes)
    };
    late().expect("nothing of its own is left");
    assert!(lab.with_guest(FIRST));
    let held = lab.state.leases(&lab.root).expect("leases");
    assert_eq!(held.iter().map(|lease| lease.guest.as_str()).collect::<Vec<_>>(), ["db"]);
    // Nor does it get the lease back for the guest's next life.
    lab.state
        .set_lease_owner(&lab.root, &[address(FIRST)], &machine, 100)
        .expect_err("not its own");

    // Whoever is returning it is its owner meanwhile: the launcher that comes then gets nothing.
    lab.kill(200);
    let dead = lab.state.lease_on(address(FIRST)).expect("readable").expect("a lease");
    let me = Owner::this(&lab.root).expect("this process");
    assert!(lab.state.claim_dead_lease(&lab.root, &dead, me).expect("claimed"));
    assert!(!lab.state.claim_dead_lease(&lab.root, &dead, me).expect("claimed once"));
    lab.state
        .set_lease_owner(&lab.root, &[address(FIRST)], &dead.owner, 100)
        .expect_err("too late");
}

#[test]
fn a_device_that_went_and_another_in_its_place_are_left_alone() {
    let lab = Lab::new();
    lab.take(&lab.lease(SECOND, "web", lab.process(100, 5))).expect("free");
    lab.count(0);
    lab.kill(100);
    lab.next_command();
    assert!(lab.state.leases_ever().expect("leases").is_empty());

    // As if the VF that was leased had gone and come again, and somebody had bound the new one by
    // hand. (A new directory of this tree may have the number of the old one; sysfs gives each its own.)
    lab.count(2);
    let lease = lab.lease(SECOND, "web", lab.process(100, 5));
    let gone = lease.instance.map(|instance| instance + 1);
    lab.take(&Lease { instance: gone, ..lease }).expect("free");
    lab.kill(100);
    lab.next_command();
    assert!(lab.with_guest(SECOND), "another device is not given back");
    assert!(lab.state.leases_ever().expect("leases").is_empty());
}

#[test]
fn another_boot_has_taken_all_of_it_back() {
    let lab = Lab::new();
    lab.take(&lab.lease(FIRST, "web", lab.process(100, 5))).expect("free");
    lab.tree.file("proc/sys/kernel/random/boot_id", "another\n");
    assert!(lab.state.leases(&lab.root).expect("leases").is_empty());
    lab.next_command();
    assert!(lab.with_guest(FIRST), "whoever bound it on this boot");
    assert!(lab.state.leases_ever().expect("leases").is_empty());
}

#[test]
fn what_cannot_be_reset_is_for_its_last_guest_only() {
    let lab = Lab::new();
    lab.tree.remove(&format!("sys/bus/pci/devices/{FIRST}/reset"));
    let owner = lab.process(100, 5);
    lab.take(&lab.lease(FIRST, "web", owner)).expect("free");
    let notes = leases::release(&lab.root, &lab.state, &[address(FIRST)], [owner; 2], Used::Yes);
    let notes = notes.expect("released");
    assert!(notes[0].contains("cannot be reset, so only web may have it again"), "{notes:?}");

    let Err(NotTaken::Device(device, failure)) =
        lab.take(&lab.lease(FIRST, "db", lab.process(200, 6)))
    else {
        panic!("another guest has it")
    };
    assert_eq!((device, failure.reason), (address(FIRST), Reason::Own(OwnReason::NotReset)));
    assert!(failure.to_string().contains("was not reset since guest web had it"), "{failure}");
    assert!(lab.with_host(FIRST), "nothing was touched");
    lab.take(&lab.lease(FIRST, "web", owner)).expect("its own guest may");
    lab.kill(100);
    lab.next_command();
    assert_eq!(lab.state.unreset(&lab.root).expect("readable").len(), 1);

    // Made anew, it is another device: sysfs gives it another number, and so does this tree where
    // the old ones are taken.
    lab.count(0);
    (0..64).for_each(|number| lab.tree.directory(&format!("taken/{number}")));
    lab.count(2);
    lab.take(&lab.lease(FIRST, "db", lab.process(200, 6))).expect("new");
    // One that no guest came to run with is as it was.
    lab.tree.remove(&format!("sys/bus/pci/devices/{SECOND}/reset"));
    let owner = lab.process(300, 7);
    lab.take(&lab.lease(SECOND, "web", owner)).expect("free");
    leases::release(&lab.root, &lab.state, &[address(SECOND)], [owner; 2], Used::No)
        .expect("released");
    assert!(
        lab.state
            .unreset(&lab.root)
            .expect("readable")
            .iter()
            .all(|one| { one.device != address(SECOND) })
    );
}

/// What may happen, in any order, to two guests and two devices.
#[derive(Debug, Clone)]
enum Event {
    Take { guest: usize, device: usize },
    HandOver { guest: usize },
    KillMachine { guest: usize },
    KillLauncher { guest: usize },
    Release { guest: usize },
    Command,
}

fn event() -> impl Strategy<Value = Event> {
    let guest = || 0..2_usize;
    prop_oneof![
        3 => (guest(), 0..2_usize).prop_map(|(guest, device)| Event::Take { guest, device }),
        2 => guest().prop_map(|guest| Event::HandOver { guest }),
        2 => guest().prop_map(|guest| Event::KillMachine { guest }),
        1 => guest().prop_map(|guest| Event::KillLauncher { guest }),
        2 => guest().prop_map(|guest| Event::Release { guest }),
        2 => Just(Event::Command),
    ]
}

/// A launcher as it goes on: what it believes to hold, which may be wrong.
#[derive(Clone, Copy)]
struct Launcher {
    own: Owner,
    machine: Owner,
    lives: bool,
    believes: Option<&'static str>,
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn in_whatever_order_a_device_has_one_owner_and_comes_back(
        events in proptest::collection::vec(event(), 1..24)
    ) {
        let lab = Lab::new();
        let devices = [FIRST, SECOND];
        let mut started = 10;
        let mut launchers = [0_u32, 1].map(|guest| {
            started += 2;
            let own = lab.process(100 + 10 * guest, started);
            Launcher { own, machine: own, lives: true, believes: None }
        });
        for event in events {
            match event {
                Event::Take { guest, device } => {
                    let one = &mut launchers[guest];
                    if !one.lives {
                        // Another launcher of the same guest.
                        started += 1;
                        one.own = lab.process(one.own.pid, started);
                        *one = Launcher { machine: one.own, lives: true, believes: None, ..*one };
                    }
                    let name = ["web", "db"][guest];
                    let lease = lab.lease(devices[device], name, one.own);
                    if one.believes.is_none() && lab.take(&lease).is_ok() {
                        one.believes = Some(devices[device]);
                    }
                }
                Event::HandOver { guest } => {
                    let one = &mut launchers[guest];
                    if let (true, Some(device)) = (one.lives && one.machine == one.own, one.believes) {
                        started += 1;
                        lab.process(one.own.pid + 1, started);
                        let pid = one.own.pid + 1;
                        let handed =
                            lab.state.set_lease_owner(&lab.root, &[address(device)], &one.own, pid);
                        if let Ok(machine) = handed {
                            one.machine = machine;
                        }
                    }
                }
                Event::KillMachine { guest } => lab.kill(launchers[guest].own.pid + 1),
                Event::KillLauncher { guest } => {
                    lab.kill(launchers[guest].own.pid);
                    lab.kill(launchers[guest].own.pid + 1);
                    launchers[guest].lives = false;
                }
                Event::Release { guest } => {
                    let one = &mut launchers[guest];
                    if let (true, Some(device)) = (one.lives, one.believes.take()) {
                        // It reaps its machine first.
                        lab.kill(one.own.pid + 1);
                        let owners = [one.own, one.machine];
                        leases::release(
                            &lab.root, &lab.state, &[address(device)], owners, Used::Yes,
                        ).expect("released, or somebody else's");
                        one.machine = one.own;
                    }
                }
                Event::Command => lab.next_command(),
            }
            for device in devices {
                let lease = lab.state.lease_on(address(device)).expect("readable");
                match lease {
                    Some(lease) => prop_assert!(
                        !lease.is_alive(&lab.root) || lab.with_guest(device),
                        "{device} is leased to {} and has {:?}", lease.guest, lab.has(device)
                    ),
                    None => prop_assert!(lab.with_host(device), "{device}: {:?}", lab.has(device)),
                }
            }
        }
        for one in launchers {
            lab.kill(one.own.pid);
            lab.kill(one.own.pid + 1);
        }
        lab.next_command();
        prop_assert!(devices.iter().all(|device| lab.with_host(device)));
        prop_assert!(lab.state.leases_ever().expect("readable").is_empty());
    }
}
