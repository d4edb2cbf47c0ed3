//! Giving up what root may do, for good.

use std::io;

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, Ruleset, RulesetAttr, Scope,
};
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Resource, Rlimit, Signal};
use rustix::thread::{
    CapabilitySet, remove_capability_from_bounding_set, set_no_new_privs, set_thread_groups,
    set_thread_res_gid, set_thread_res_uid,
};

use crate::spec::Sandbox;

/// Becomes another user, without any capability, none of which can be had again.
///
/// # Errors
/// The kernel's.
pub fn drop(sandbox: &Sandbox) -> io::Result<()> {
    let Sandbox { user, group } = *sandbox;
    if user == 0 || group == 0 {
        return Err(io::Error::other("its user or group is root"));
    }
    set_no_new_privs(true)?;
    for capability in CapabilitySet::all().iter() {
        match remove_capability_from_bounding_set(capability) {
            // One that this kernel does not know.
            Ok(()) | Err(Errno::INVAL) => {}
            Err(error) => return Err(error.into()),
        }
    }
    // The guest's memory belongs in no core dump.
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    rustix::process::setrlimit(Resource::Core, none)?;
    let (user, group) =
        (rustix::process::Uid::from_raw(user), rustix::process::Gid::from_raw(group));
    set_thread_groups(&[])?;
    set_thread_res_gid(group, group, group)?;
    // The kernel takes all capabilities along.
    set_thread_res_uid(user, user, user)?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    // The change of user has undone this.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    Ok(())
}

/// Has Landlock (Linux 5.13 or newer) refuse all files, and where it can (6.7, 6.12) TCP ports, abstract
/// sockets and signals to others. A kernel without it has the other walls.
///
/// # Errors
/// The kernel's.
pub fn close_files() -> io::Result<()> {
    let refused = |error: landlock::RulesetError| io::Error::other(error);
    Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(ABI::V6))
        .and_then(|rules| rules.handle_access(AccessNet::from_all(ABI::V6)))
        .and_then(|rules| rules.scope(Scope::from_all(ABI::V6)))
        .and_then(Ruleset::create)
        .and_then(landlock::RulesetCreated::restrict_self)
        .map(std::mem::drop)
        .map_err(refused)
}
