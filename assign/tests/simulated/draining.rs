//! `--drain`: guests end in order before their VFs go. The guests are processes that run, and stand
//! in the host's /proc as they do in this one's.

use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};

use assign::state::{Lease, Owner};
use rustix::process::Signal;
use sriov::VfRef;
use sriov::recorded::simulation::Simulation;

use super::Host;

const PF: &str = "0000:01:00.0";

/// Something that ends when it is asked to, or does not.
struct Guest(Child);

impl Guest {
    fn start(script: &str) -> Guest {
        let script = format!("{script}; echo ready; while :; do sleep 0.1; done");
        let mut command = Command::new("sh");
        command.args(["-c", &script]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("a shell");
        let mut line = String::new();
        let stdout = child.stdout.as_mut().expect("a pipe");
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        assert_eq!(line, "ready\n");
        Guest(child)
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    /// The signal that it ended by, if it has ended.
    fn ended_by(&mut self) -> Option<i32> {
        self.0.try_wait().expect("a child").and_then(|status| status.signal())
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.0.kill().and_then(|()| self.0.wait()).ok();
    }
}

impl Host {
    /// The guest has the VF of this number.
    fn lend(&self, index: u16, name: &str, guest: &Guest, launcher: Option<&Guest>) {
        let root = self.root();
        for process in [Some(guest), launcher].into_iter().flatten() {
            let pid = process.pid();
            let place = self.directory.path().join(format!("proc/{pid}"));
            if !place.exists() {
                std::os::unix::fs::symlink(format!("/proc/{pid}"), place).expect("a link");
            }
        }
        let owner = |of: &Guest| Owner::of(&root, of.pid()).expect("a process that runs");
        let device = format!("0000:01:10.{}", 2 * index).parse().expect("an address");
        let pf = PF.parse().expect("an address");
        let mut lease = Lease::new(&root, device, name, owner(guest));
        lease.vf = Some(VfRef { pf, index });
        lease.launcher = launcher.map(owner).or(lease.launcher);
        self.state().take_leases(&root, &[lease]).expect("free");
    }

    fn vfs(&self) -> u16 {
        let snapshot = self.snapshot();
        let pf = snapshot.function(PF.parse().expect("an address")).expect("the PF");
        pf.sriov.as_ref().expect("SR-IOV").present
    }

    /// Runs a command; its exit code and what it said on standard error, in one line.
    fn said(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let output = self.assign(arguments);
        let text = String::from_utf8_lossy(&output.stderr);
        (output.status.code(), text.split_whitespace().collect::<Vec<_>>().join(" "))
    }
}

fn lab() -> Host {
    Host::new(|directory| Simulation::lab(directory, 2))
}

#[test]
fn guests_are_asked_to_end_and_their_vfs_go() {
    let host = lab();
    let (mut web, mut db) = (Guest::start(":"), Guest::start(":"));
    let mut launcher = Guest::start(":");
    host.lend(0, "web", &web, None);
    host.lend(1, "db", &db, Some(&launcher));
    let refused = host.said(&["vf", "destroy", "eth0", "--yes"]);
    assert_eq!(refused.0, Some(3), "{}", refused.1);
    assert!(refused.1.contains("in use by guest web"), "{}", refused.1);
    let asked = host.said(&["vf", "destroy", "eth0", "--drain"]);
    assert_eq!(asked.0, Some(3), "{}", asked.1);
    let guests = format!("guest web (process {}) and guest db (process {})", web.pid(), db.pid());
    assert!(
        asked.1.contains(&format!("this would end {guests}, and destroy its 2 VFs")),
        "{asked:?}"
    );
    assert_eq!((web.ended_by(), db.ended_by(), launcher.ended_by()), (None, None, None));

    // The machine of `db` ends as its launcher sees to it: it is the launcher that is asked.
    let machine = db.pid();
    let end = std::thread::spawn(move || {
        while launcher.ended_by().is_none() {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        let untouched = db.ended_by().is_none();
        drop(db);
        (launcher.ended_by(), untouched)
    });
    let done = host.said(&["vf", "destroy", "eth0", "--drain=60", "--yes"]);
    assert_eq!(done.0, Some(0), "{}", done.1);
    assert!(done.1.contains(&format!("asked guest db (process {machine}) to end")), "{}", done.1);
    assert_eq!(web.ended_by(), Some(Signal::TERM.as_raw()));
    assert_eq!(end.join().expect("a thread"), (Some(Signal::TERM.as_raw()), true));
    assert_eq!(host.vfs(), 0);
}

#[test]
fn one_that_does_not_end_in_time_keeps_all_vfs() {
    let host = lab();
    let mut stubborn = Guest::start("trap '' TERM");
    host.lend(1, "db", &stubborn, None);
    let before = host.snapshot();
    for command in [["vf", "destroy", "eth0"].as_slice(), &["vf", "create", "eth0", "5"]] {
        let (code, said) = host.said(&[command, &["--drain=1", "--yes"]].concat());
        assert_eq!(code, Some(3), "{said}");
        let holds = format!("guest db (process {}) was asked to end 1 second ago", stubborn.pid());
        assert!(said.contains(&holds), "{said}");
        assert_eq!(stubborn.ended_by(), None);
        assert_eq!(host.snapshot(), before);
    }
    drop(stubborn);
    host.done(&["vf", "create", "eth0", "5", "--drain=1", "--yes"]);
    assert_eq!(host.vfs(), 5);
}

#[test]
fn no_guest_ends_for_nothing() {
    let host = lab();
    let mut web = Guest::start(":");
    host.lend(0, "web", &web, None);
    // More than there can be, as many as there are, and a VF that the host needs.
    let (code, said) = host.said(&["vf", "create", "eth0", "9", "--drain", "--yes"]);
    assert_eq!((code, said.contains("its maximum is 7")), (Some(2), true), "{said}");
    assert!(
        host.done(&["vf", "create", "eth0", "2", "--drain", "--yes"]).contains("nothing to do")
    );
    let tree = host.tree();
    tree.netdev("eth9", 9, "devices/pci0000:00/0000:00:01.0/0000:01:10.2/net/eth9");
    tree.file("proc/net/if_inet6", "20010db8000000000000000000000001 09 40 00 80     eth9\n");
    let (code, said) = host.said(&["vf", "destroy", "eth0", "--drain", "--yes"]);
    assert_eq!((code, said.contains("eth9")), (Some(3), true), "{said}");
    assert_eq!(web.ended_by(), None);
    // Whoever has the id of a process that has gone is not the guest.
    let lease = host.state().leases(&host.root()).expect("leases").remove(0);
    let other = Owner { started: lease.owner.started + 1, ..lease.owner };
    assert!(!Lease { owner: other, ..lease }.is_alive(&host.root()));
}
