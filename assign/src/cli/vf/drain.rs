//! `--drain`: guests that have VFs of a PF end before these VFs go.
//!
//! ```text
//! 1 what else would keep the VFs from going is told    no guest ends for nothing
//! 2 the question                                       ending guests is disruptive
//! 3 each guest's launcher is asked to end              SIGTERM, as from systemctl stop
//! 4 wait until the processes are gone                  in time, or nothing is done to the VFs
//! ```
//!
//! All this is before the lock on changing the host, which launchers need to give devices back. A
//! guest that is started meanwhile has its VF: the command that drained is refused then, as ever.

use std::io;
use std::time::{Duration, Instant};

use clap::{Args, value_parser};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use sriov::{HostRoot, HostSnapshot, Reason};

use super::super::force::Force;
use super::super::output::text;
use super::super::{Context, confirm};
use super::{find_pf, held, unused};
use crate::failure::{Failure, OwnReason};
use crate::state::{Lease, Owner};

/// How often it is looked whether guests have ended.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Whether guests are to end, and how long that may take.
#[derive(Debug, Args)]
pub struct Drain {
    /// Ask the guests that have its VFs to end, and wait for them at most so long [default: 60]
    #[arg(
        id = "drain",
        long = "drain",
        value_name = "SECONDS",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "60",
        value_parser = value_parser!(u64).range(1..=86_400)
    )]
    seconds: Option<u64>,
}

/// A guest with VFs, and the processes that are gone when it has ended.
#[derive(Debug)]
struct Holder {
    guest: String,
    /// Ends the guest in order when it is asked to.
    launcher: Owner,
    /// What has the devices open: the launcher itself, or the guest's machine.
    owner: Owner,
}

impl Drain {
    /// Lets the guests end that have VFs of this PF, if that is wanted and it is to have another
    /// number of VFs. Says whether it was agreed that its VFs go.
    ///
    /// # Errors
    /// Refuses where the VFs could not go all the same, where that is not agreed to, and, naming the
    /// guests, where they have not ended in time.
    pub fn run(
        &self,
        context: &Context,
        pf: &str,
        to: u16,
        force: &Force,
    ) -> Result<bool, Failure> {
        let Some(seconds) = self.seconds.filter(|_| context.root.has_kernel()) else {
            return Ok(false);
        };
        let snapshot = HostSnapshot::read(&context.root);
        let (pf, facts) = find_pf(&snapshot, pf)?;
        let leases = held(context, facts)?;
        let holders = holders(&leases);
        // What cannot be is told by the command itself.
        if holders.is_empty() || to == facts.present || to > facts.total {
            return Ok(false);
        }
        unused(&snapshot, facts, force, &leases)?;
        let count = text::counted(facts.present.into(), "VF");
        let what = format!("end {}, and destroy its {count}", named(&holders));
        confirm::ask(context, &pf.address.to_string(), &what)?;
        for holder in &holders {
            ask(holder.launcher).map_err(|error| not_asked(holder, &error))?;
            anstream::eprintln!("assign: asked {} to end", named(std::slice::from_ref(holder)));
        }
        let left = wait(&context.root, holders, Duration::from_secs(seconds));
        if left.is_empty() {
            return Ok(true);
        }
        let asked = format!("{} asked to end", if left.len() == 1 { "was" } else { "were" });
        let time = text::counted(seconds, "second");
        let message = format!("keeps its {count}: {} {asked} {time} ago, and runs", named(&left));
        Err(Failure::refused(OwnReason::Leased, pf.address, message)
            .with_remedy("Give it more time with --drain=SECONDS, or stop it by other means."))
    }
}

/// Who has to end, each once. Of a dead lease nobody is left; its device is returned before others
/// change.
fn holders(leases: &[Lease]) -> Vec<Holder> {
    let mut holders: Vec<Holder> = Vec::new();
    for lease in leases {
        if holders.iter().all(|holder| holder.owner != lease.owner) {
            let launcher = lease.launcher.unwrap_or(lease.owner);
            holders.push(Holder { guest: lease.guest.clone(), launcher, owner: lease.owner });
        }
    }
    holders
}

/// `guest web (process 12) and guest db (process 34)`.
fn named(holders: &[Holder]) -> String {
    let names: Vec<String> = holders
        .iter()
        .map(|holder| format!("guest {} (process {})", holder.guest, holder.owner.pid))
        .collect();
    names.join(" and ")
}

/// Asks a process to end; that it has ended already is as good.
fn ask(process: Owner) -> io::Result<()> {
    let Some(pid) = i32::try_from(process.pid).ok().and_then(Pid::from_raw) else { return Ok(()) };
    let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
        Err(rustix::io::Errno::SRCH) => return Ok(()),
        opened => opened?,
    };
    // Whoever has the id now keeps the descriptor: if that is who was meant, nobody else can get the
    // signal from here on.
    if Owner::of(&HostRoot::live(), process.pid) != Some(process) {
        return Ok(());
    }
    match pidfd_send_signal(&pidfd, Signal::TERM) {
        Err(rustix::io::Errno::SRCH) => Ok(()),
        sent => Ok(sent?),
    }
}

fn not_asked(holder: &Holder, error: &io::Error) -> Failure {
    let message = format!("process {} cannot be asked to end: {error}", holder.launcher.pid);
    let reason = match error.kind() {
        io::ErrorKind::PermissionDenied => Reason::NotPermitted,
        _ => Reason::KernelRefused,
    };
    Failure::failed(reason, format!("guest {}", holder.guest), message)
        .with_remedy("Stop it by other means, and try again.")
}

/// Waits until they are gone; returns those that are not in time.
fn wait(root: &HostRoot, mut holders: Vec<Holder>, most: Duration) -> Vec<Holder> {
    let begun = Instant::now();
    let runs = |process: Owner| Owner::of(root, process.pid) == Some(process);
    loop {
        holders.retain(|holder| runs(holder.owner) || runs(holder.launcher));
        if holders.is_empty() || begun.elapsed() >= most {
            return holders;
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}
