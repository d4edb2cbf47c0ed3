//! A guest's sockets with its host: `/dev/vhost-vsock`, and the address (CID) by which the host's programs
//! reach the guest.
//!
//! The kernel sees to it that no two guests have the same one: a CID is a guest's from when it is set until
//! the file is closed, which is with the end of the guest's process. It is set here, since a process that
//! is shut in cannot.

#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;

use policies::{FIRST_CID, Guest, LAST_CID};
use rustix::io::Errno;
use rustix::ioctl::{Setter, ioctl, opcode};
use sriov::HostRoot;

use super::{error, handles};
use crate::control::route::Route;
use crate::control::{self, Running, client};
use crate::failure::{Failure, OwnReason};

/// `VHOST_VSOCK_SET_GUEST_CID` (uapi/linux/vhost.h).
const SET_GUEST_CID: rustix::ioctl::Opcode = opcode::write::<u64>(0xaf, 0x60);
/// How many CIDs there are for guests.
const COUNT: u64 = (LAST_CID - FIRST_CID) as u64 + 1;
/// CIDs that are tried for a guest: more than a host has guests.
const MOST_TRIES: usize = 4096;

/// A guest's sockets, as far as they are open.
#[derive(Debug)]
pub struct Vsock {
    /// An open `/dev/vhost-vsock`, on which the CID is set.
    pub vhost: OwnedFd,
    /// The guest's CID.
    pub cid: u32,
}

/// Opens `/dev/vhost-vsock` for a guest that is to have sockets; where the file is there, that loads the
/// kernel's module. Nothing else is touched.
///
/// # Errors
/// Cause and remedy.
pub fn open(root: &HostRoot, guest: &Guest) -> Result<Option<OwnedFd>, Failure> {
    if guest.vsock.is_none() {
        return Ok(None);
    }
    let path = root.dev("vhost-vsock");
    let opened = OpenOptions::new().read(true).write(true).open(&path);
    opened.map(|file| Some(OwnedFd::from(file))).map_err(|error| {
        let (cause, remedy) = not_opened(&error);
        let message = format!("cannot have a vsock: {}: {cause}", path.display());
        Failure::failed(OwnReason::NoVsock, &guest.name, message).with_remedy(remedy)
    })
}

fn not_opened(error: &io::Error) -> (String, &'static str) {
    // A file left in /dev by hand answers ENXIO or ENODEV while nothing is behind it.
    let absent = error.kind() == ErrorKind::NotFound
        || matches!(error.raw_os_error(), Some(libc::ENXIO | libc::ENODEV));
    match error.kind() {
        _ if absent => (
            "the kernel's module for it is not loaded".to_owned(),
            "Load it with `modprobe vhost_vsock`, or leave `vsock` out of the guest's document.",
        ),
        ErrorKind::PermissionDenied => {
            ("this user may not open it".to_owned(), "Run assign as root.")
        }
        _ => (error.to_string(), "The kernel's log (dmesg) may say more."),
    }
}

/// Gives `guest` the CID that its document asks for, or one that is free: the one that it had `before`, or
/// else the first from the one that its name leads to, so that it has the same each time on any host where
/// that is free.
///
/// # Errors
/// That the CID is somebody else's, whose where that is known; or the kernel's.
pub fn claim(
    root: &HostRoot,
    guest: &Guest,
    vhost: OwnedFd,
    before: Option<u32>,
) -> Result<Vsock, Failure> {
    let file = File::from(vhost);
    let asked = guest.vsock.and_then(|vsock| vsock.cid);
    let found = first_free(candidates(&guest.name, asked, before), |cid| set(&file, cid));
    match found.map_err(|error| error::system(guest, "give it a CID", &error))? {
        Some(cid) => Ok(Vsock { vhost: file.into(), cid }),
        None => Err(taken(guest, asked, || asked.and_then(|cid| holder(root, cid)))),
    }
}

/// CIDs that will do, in the order in which they are to be tried.
fn candidates(name: &str, asked: Option<u32>, before: Option<u32>) -> impl Iterator<Item = u32> {
    let tries = if asked.is_some() { 0 } else { MOST_TRIES };
    let chosen = from(handles::hash(name.bytes())).take(tries);
    asked.into_iter().chain(before.filter(|_| asked.is_none())).chain(chosen)
}

/// All CIDs from the one that a number leads to, and round again.
fn from(number: u64) -> impl Iterator<Item = u32> {
    let start = number % COUNT;
    (0..COUNT).map(move |more| FIRST_CID + ((start + more) % COUNT) as u32)
}

/// The first that can be set; none where all of them are somebody's.
fn first_free(
    mut candidates: impl Iterator<Item = u32>,
    set: impl Fn(u32) -> io::Result<()>,
) -> io::Result<Option<u32>> {
    let tried = candidates.find_map(|cid| match set(cid) {
        Ok(()) => Some(Ok(cid)),
        Err(error) if error.kind() == ErrorKind::AddrInUse => None,
        Err(error) => Some(Err(error)),
    });
    tried.transpose()
}

fn set(file: &File, cid: u32) -> io::Result<()> {
    // SAFETY: VHOST_VSOCK_SET_GUEST_CID reads one u64, which outlives the call, and keeps no pointer.
    let set = unsafe { ioctl(file, Setter::<SET_GUEST_CID, u64>::new(cid.into())) };
    set.map_err(|error: Errno| error.into())
}

/// The guest that has `cid`, if it is one of ours that can be asked.
fn holder(root: &HostRoot, cid: u32) -> Option<String> {
    let has = |guest: &String| {
        let state = client::ask::<Running>(root, guest, Route::State, None::<&()>);
        state.is_ok_and(|running| running.cid == Some(cid))
    };
    control::guests(root).into_iter().find(has)
}

fn taken(guest: &Guest, asked: Option<u32>, holder: impl FnOnce() -> Option<String>) -> Failure {
    let Some(cid) = asked else {
        let message =
            format!("cannot have a vsock: {MOST_TRIES} CIDs were tried, and all are taken");
        return Failure::failed(OwnReason::CidTaken, &guest.name, message)
            .with_remedy("Ask for one that is free by `vsock: {cid: …}`.");
    };
    let whose = match holder() {
        Some(holder) => format!("{holder} has it"),
        None => "a program of this host has it, such as another VMM, or the host itself as a guest"
            .to_owned(),
    };
    Failure::failed(OwnReason::CidTaken, &guest.name, format!("cannot have CID {cid}: {whose}"))
        .with_remedy("Write another one, or `vsock: true` for one that is free.")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guest(vsock: &str) -> Guest {
        let text = format!(
            "apiVersion: assign/v1\nkind: Guest\nmetadata: {{name: web-1}}\nspec: {{memory: {{size: 64MiB}}, \
             boot: {{kernel: k}}, vsock: {vsock}}}\n"
        );
        let source = policies::Source { name: "guest.yaml".to_owned(), text };
        policies::parse(&[source]).unwrap_or_else(|errors| panic!("{errors}")).guests.remove(0)
    }

    #[test]
    fn the_language_and_the_machine_have_the_same_limits() {
        use vmm::spec;
        assert_eq!((FIRST_CID, LAST_CID), (spec::FIRST_CID, spec::LAST_CID));
        assert_eq!(SET_GUEST_CID, 0x4008_af60);
    }

    #[test]
    fn a_host_without_is_named_with_the_remedy() {
        let root = HostRoot::at("/nonexistent");
        assert!(open(&root, &guest("false")).expect("it wants none").is_none());
        let told = open(&root, &guest("true")).expect_err("there is no such host").to_string();
        assert_eq!(
            told,
            "web-1: cannot have a vsock: /nonexistent/dev/vhost-vsock: the kernel's module for it is not \
             loaded. Load it with `modprobe vhost_vsock`, or leave `vsock` out of the guest's document."
        );
        for number in [libc::ENXIO, libc::ENODEV] {
            let (cause, _) = not_opened(&io::Error::from_raw_os_error(number));
            assert!(cause.contains("not loaded"), "{cause}");
        }
    }

    #[test]
    fn a_cid_follows_from_the_name_and_goes_on_to_the_next() {
        let first = |name| candidates(name, None, None).next().expect("there are some");
        assert_eq!(first("web-1"), first("web-1"));
        assert_ne!(first("web-1"), first("web-2"));
        let all: Vec<u32> = candidates("web-1", None, Some(7)).collect();
        assert_eq!((all.len(), all[0], all[1]), (4097, 7, first("web-1")));
        assert!(all.iter().all(|cid| (FIRST_CID..=LAST_CID).contains(cid)));
        assert_eq!(candidates("web-1", Some(42), Some(7)).collect::<Vec<_>>(), [42]);
        // The last one is followed by the first.
        let last = from(u64::from(LAST_CID - FIRST_CID) + COUNT).take(2);
        assert_eq!(last.collect::<Vec<_>>(), [LAST_CID, FIRST_CID]);
    }

    #[test]
    fn what_is_taken_is_passed_over_and_another_error_is_not() {
        let taken = |cid: u32| match cid {
            1 | 2 => Err(io::Error::from_raw_os_error(libc::EADDRINUSE)),
            9 => Err(io::Error::from_raw_os_error(libc::EINVAL)),
            _ => Ok(()),
        };
        assert_eq!(first_free([1, 2, 3, 4].into_iter(), taken).expect("one is free"), Some(3));
        assert_eq!(first_free([1, 2].into_iter(), taken).expect("none is free"), None);
        first_free([1, 9, 3].into_iter(), taken).expect_err("the kernel wants no 9");
    }

    #[test]
    fn who_has_a_cid_is_named_where_that_is_known() {
        let told = |holder: Option<&str>| {
            taken(&guest("{cid: 42}"), Some(42), || holder.map(str::to_owned)).to_string()
        };
        assert_eq!(
            told(Some("web-2")),
            "web-1: cannot have CID 42: web-2 has it. Write another one, or `vsock: true` for one that is \
             free."
        );
        assert!(told(None).contains("a program of this host has it"), "{}", told(None));
        let chosen = taken(&guest("true"), None, || None).to_string();
        assert!(chosen.contains("4096 CIDs were tried"), "{chosen}");
    }
}
