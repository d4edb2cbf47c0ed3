//! The control group of a guest's process that has limits (cgroup v2): what it may use of the host, and
//! has used.
//!
//! ```text
//! /sys/fs/cgroup/          the host's groups; what is not given on here, nobody below can limit
//! └─ assign/               no process is in here, as the kernel demands of what gives controllers on
//!    ├─ web-1/             a guest's process, and nothing else; its launcher holds a lock on it
//!    └─ db/
//! ```
//! It is right below the top and not below the launcher's own group, which is a session's or a service's:
//! that has processes, and systemd clears it away. systemd leaves alone what it has not made, and its
//! services and ours are neighbours. In a container the top is the container's.
//!
//! A group without a lock is what a killed launcher left. Who finds one removes it, which the kernel
//! refuses as long as a process is in it.
//!
//! A guest without limits stays in its launcher's group: moving a process to another one has the kernel wait
//! for all CPUs, which is 10 ms of a start.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use policies::{Guest, Limits};
use sriov::{HostRoot, attribute};

use self::settings::{Controller, PROCESSES, Setting};
use crate::failure::{Failure, OwnReason};

mod settings;
pub mod usage;

/// How long the kernel may take to take a killed process apart, until when its group stays.
const EMPTIES: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// The group of a guest's process. Dropping it removes it; the process has ended by then.
#[derive(Debug)]
pub struct Group {
    directory: PathBuf,
    /// The directory, locked.
    _lock: File,
}

/// The top of the host's groups.
fn top(root: &HostRoot) -> PathBuf {
    root.sys("fs/cgroup")
}

/// Where those of guests are.
fn ours(root: &HostRoot) -> PathBuf {
    top(root).join("assign")
}

/// Where that of `guest` is, if it has one.
pub fn directory(root: &HostRoot, guest: &str) -> PathBuf {
    ours(root).join(guest)
}

impl Group {
    /// Makes the group of `guest`, and sets its limits. None where it has none.
    ///
    /// # Errors
    /// A limit is demanded and cannot be set: why, and what to do about it.
    pub fn make(root: &HostRoot, guest: &Guest) -> Result<Option<Group>, Failure> {
        if !guest.limits.any() {
            return Ok(None);
        }
        let made = Group::limited(root, &guest.name, &guest.limits);
        made.map(Some).map_err(|(cause, remedy)| {
            let message = format!("its `limits` cannot be kept: {cause}");
            Failure::failed(OwnReason::NoLimits, &guest.name, message).with_remedy(remedy)
        })
    }

    /// Cause and remedy where it cannot be made as demanded.
    fn limited(root: &HostRoot, guest: &str, limits: &Limits) -> Result<Group, (String, String)> {
        let (top, ours) = (top(root), ours(root));
        let there = attribute::read(&top.join("cgroup.controllers")).ok().flatten();
        let there = there.ok_or_else(|| not_mounted(&top))?;
        make_directory(&ours).map_err(|error| not_made(&ours, &error))?;
        let settings = settings::of(limits);
        let demands = |one: Controller| settings.iter().any(|setting| setting.controller == one);
        for controller in Controller::ALL {
            // With this one, groups get their CPU time by other rules: not without need.
            if controller == Controller::Cpu && !demands(controller) {
                continue;
            }
            let is_there = there.split_whitespace().any(|one| one == controller.name());
            let given = match is_there {
                true => give_on(root, &[&top, &ours], controller),
                false => Err(not_there(controller, &top)),
            };
            match given {
                Err(why) if demands(controller) => return Err(why),
                // What it counts is not known then, and that is all.
                Ok(()) | Err(_) => {}
            }
        }
        let directory = ours.join(guest);
        let lock = take(&directory).map_err(|error| not_made(&directory, &error))?;
        let group = Group { directory, _lock: lock };
        for Setting { file, value, .. } in &settings {
            let written = attribute::write(root, &group.directory.join(file), value);
            written.map_err(|error| {
                let remedy = error.remedy().unwrap_or("Leave it out of `limits` in its document.");
                (error.to_string(), remedy.to_owned())
            })?;
        }
        Ok(group)
    }

    /// A file to which a process writes `0` to be in the group.
    ///
    /// # Errors
    /// The kernel's.
    pub fn entrance(&self) -> io::Result<OwnedFd> {
        OpenOptions::new().write(true).open(self.directory.join(PROCESSES)).map(OwnedFd::from)
    }

    /// Why the kernel ended a process of it for lack of memory, if it did.
    pub fn out_of_memory(&self) -> Option<usage::OutOfMemory> {
        usage::out_of_memory(&self.directory)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // What stays is removed by the next command: the lock goes with us.
        remove(&self.directory, Instant::now() + EMPTIES).ok();
    }
}

/// Removes the groups of guests whose launchers have gone. One that still has a process stays.
pub fn tidy(root: &HostRoot) {
    // Nobody's groups are in a tree that somebody recorded.
    if root.is_live() {
        tidy_below(&ours(root));
    }
}

fn tidy_below(ours: &Path) {
    for name in attribute::entries(ours).unwrap_or_default() {
        let directory = ours.join(name);
        if !directory.is_dir() {
            continue;
        }
        let locked = File::open(&directory).map(|lock| lock.try_lock().is_ok().then_some(lock));
        if let Ok(Some(_lock)) = locked {
            std::fs::remove_dir(&directory).ok();
        }
    }
}

fn make_directory(directory: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o755).create(directory) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists && directory.is_dir() => Ok(()),
        made => made,
    }
}

/// Makes the group anew and locks it. A guest has one launcher at most, so that whatever is there is of
/// one that has gone.
fn take(directory: &Path) -> io::Result<File> {
    let limit = Instant::now() + EMPTIES;
    loop {
        match remove(directory, limit) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        make_directory(directory)?;
        let lock = match File::open(directory) {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            opened => opened?,
        };
        lock.lock()?;
        // Between the two, somebody may have taken it for what a killed launcher left.
        let still = std::fs::metadata(directory).is_ok_and(|now| {
            lock.metadata().is_ok_and(|own| (own.dev(), own.ino()) == (now.dev(), now.ino()))
        });
        if still {
            return Ok(lock);
        }
    }
}

/// Removes the group when its last process has gone, for which it waits until `limit`.
fn remove(directory: &Path, limit: Instant) -> io::Result<()> {
    loop {
        match std::fs::remove_dir(directory) {
            Err(error) if error.kind() == ErrorKind::ResourceBusy && Instant::now() < limit => {
                sleep(LOOK_AGAIN);
            }
            removed => return removed,
        }
    }
}

/// Has each of these groups give `controller` on to those below it.
fn give_on(
    root: &HostRoot,
    groups: &[&Path],
    controller: Controller,
) -> Result<(), (String, String)> {
    for group in groups {
        let file = group.join("cgroup.subtree_control");
        let given = attribute::read(&file).ok().flatten().unwrap_or_default();
        if given.split_whitespace().any(|one| one == controller.name()) {
            continue;
        }
        let written = attribute::write(root, &file, &format!("+{}", controller.name()));
        written.map_err(|error| {
            let remedy = match error.source.kind() {
                // cgroup-v2.rst, "No Internal Process Constraint".
                ErrorKind::ResourceBusy => format!(
                    "Processes are in {} itself, as in a container: move them to a group below it.",
                    group.display()
                ),
                ErrorKind::InvalidInput if controller == Controller::Cpu => {
                    "This kernel has it only while no process outside the top is a realtime one \
                     (CONFIG_RT_GROUP_SCHED): end these first."
                        .to_owned()
                }
                _ => error.remedy().unwrap_or("The kernel's log (dmesg) may say more.").to_owned(),
            };
            (error.to_string(), remedy)
        })?;
    }
    Ok(())
}

fn not_mounted(top: &Path) -> (String, String) {
    (
        format!("cgroup v2 is not mounted at {}", top.display()),
        format!(
            "Mount it with `mount -t cgroup2 none {}`, boot a host that has cgroup v1 there with \
             `systemd.unified_cgroup_hierarchy=1`, or leave `limits` out of its document.",
            top.display()
        ),
    )
}

fn not_there(controller: Controller, top: &Path) -> (String, String) {
    let name = controller.name();
    (
        format!("the control groups of {} have no {name} controller", top.display()),
        format!(
            "The kernel is built or booted without it (`cgroup_disable={name}`), or cgroup v1 has it, or \
             the container is not given it. Leave {} out of `limits` in its document.",
            controller.fields()
        ),
    )
}

fn not_made(directory: &Path, error: &io::Error) -> (String, String) {
    let remedy = match error.kind() {
        ErrorKind::PermissionDenied => "Run assign as root.",
        ErrorKind::ReadOnlyFilesystem => {
            "It is mounted read-only, as in a container: run assign on the host."
        }
        ErrorKind::ResourceBusy => {
            "Processes of the guest's last life are in it still: its `cgroup.procs` names them."
        }
        _ => "The kernel's log (dmesg) may say more.",
    };
    (format!("{} cannot be made: {error}", directory.display()), remedy.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A host whose groups have these controllers, as far as files can be a kernel's.
    fn host(controllers: &str) -> (tempfile::TempDir, HostRoot) {
        let folder = tempfile::tempdir().expect("a folder");
        let top = folder.path().join("sys/fs/cgroup");
        std::fs::create_dir_all(&top).expect("room");
        std::fs::write(top.join("cgroup.controllers"), controllers).expect("room");
        std::fs::write(top.join("cgroup.subtree_control"), controllers).expect("room");
        let root = HostRoot::at(folder.path());
        (folder, root)
    }

    fn guest(limits: &str) -> Guest {
        let text = format!(
            "{{apiVersion: assign/v1, kind: Guest, metadata: {{name: web-1}}, spec: {{memory: {{size: \
             64MiB}}, boot: {{kernel: k}}{limits}}}}}"
        );
        let source = policies::Source { name: "web-1.yaml".to_owned(), text };
        let mut documents = policies::parse(&[source]).unwrap_or_else(|errors| panic!("{errors}"));
        documents.guests.remove(0)
    }

    #[test]
    fn where_limits_cannot_be_kept_the_cause_and_the_remedy_are_named() {
        let (folder, root) = host("cpuset io memory");
        let failed = |limits: &str| {
            let made = Group::make(&root, &guest(&format!(", limits: {limits}")));
            let failure = made.expect_err("there is no such controller");
            assert_eq!((failure.exit_code(), failure.thing.as_str()), (1, "web-1"));
            failure.to_string().replace(&folder.path().display().to_string(), "")
        };
        assert_eq!(
            failed("{cpuWeight: 50}"),
            "web-1: its `limits` cannot be kept: the control groups of /sys/fs/cgroup have no cpu \
             controller. The kernel is built or booted without it (`cgroup_disable=cpu`), or cgroup v1 has \
             it, or the container is not given it. Leave `cpu` and `cpuWeight` out of `limits` in its \
             document."
        );
        assert!(failed("{tasks: 64}").contains("no pids controller"));

        std::fs::remove_file(top(&root).join("cgroup.controllers")).expect("it is there");
        let told = failed("{memory: 128MiB}");
        assert!(
            told.contains("cgroup v2 is not mounted at /sys/fs/cgroup. Mount it with"),
            "{told}"
        );
        // Without limits nothing is amiss.
        assert!(Group::make(&root, &guest("")).expect("no limits").is_none());
    }

    #[test]
    fn a_group_is_removed_with_its_guest_and_what_killed_launchers_left_is_found() {
        let (_folder, root) = host("memory");
        // As if the kernel had given controllers on already.
        std::fs::create_dir(ours(&root)).expect("room");
        std::fs::write(ours(&root).join("cgroup.subtree_control"), "memory").expect("room");
        let group = Group::limited(&root, "web-1", &Limits::default()).expect("a group");
        let left = directory(&root, "left");
        std::fs::create_dir(&left).expect("room");
        tidy_below(&ours(&root));
        assert!(!left.exists() && directory(&root, "web-1").exists());
        drop(group);
        assert!(!directory(&root, "web-1").exists());

        // Its next launcher takes over what is left under its own name.
        std::fs::create_dir(directory(&root, "web-1")).expect("room");
        drop(Group::limited(&root, "web-1", &Limits::default()).expect("a group"));
        assert!(!directory(&root, "web-1").exists());
    }
}
