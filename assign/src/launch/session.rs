//! The time while a guest runs: one loop that waits for the guest's end, its events, and whoever
//! asks for its end.

use std::io;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use sriov::dma_fault::{DmaFault, Faults};
use sriov::netlink::{Changed, LinkNews};
use vmm::spec::{GuestEvent, StopReason};

use super::process::Vmm;
use crate::signals::Signals;

/// How a guest's session ended. The process is reaped in either case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// By itself.
    Guest(StopReason),
    /// Its process was, by this signal, and nobody asked us for it.
    Killed(i32),
    /// A signal or the key at the console asked for it.
    Asked,
    /// Because of this device of it, as its document demands.
    DeviceError(String),
}

/// What the host tells, as far as anybody listens.
#[derive(Debug, Default)]
pub struct Host {
    /// Faults of the IOMMU.
    pub faults: Option<Faults>,
    /// Interfaces that change.
    pub links: Option<LinkNews>,
}

/// Stays with the guest until its process has ended. `hear` is told what happens meanwhile, and
/// breaks off where the guest must not go on: that is how it ends then. `blocked` is told of faults of
/// the IOMMU, whosever devices they are, and `changed` of interfaces that are not as before. When one of the counters `asks` becomes readable, the guest is
/// ended, as by a signal.
///
/// # Errors
/// The kernel's, from waiting; the process is killed then.
pub fn attend(
    mut vmm: Vmm,
    signals: &Signals,
    asks: [BorrowedFd<'_>; 2],
    mut host: Host,
    hear: impl Fn(GuestEvent) -> ControlFlow<Ending>,
    blocked: impl Fn(DmaFault),
    changed: impl Fn(Changed),
) -> io::Result<Ending> {
    let mut asked: Option<Ending> = None;
    let mut has_events = true;
    loop {
        let wait = host.faults.as_ref().and_then(|faults| faults.wait(Instant::now()));
        let ready = ready(&vmm, signals, asks, has_events, &host, wait)?;
        match host.faults.as_mut().map(|faults| faults.take(Instant::now())).transpose() {
            Ok(news) => news.into_iter().flat_map(|news| news.faults).for_each(&blocked),
            // The guest goes on without.
            Err(_) => host.faults = None,
        }
        if ready.links {
            match host.links.as_ref().map(LinkNews::take).transpose() {
                Ok(news) => news.into_iter().for_each(&changed),
                Err(_) => host.links = None,
            }
        }
        if ready.events {
            has_events = vmm.events.read()?;
            if let ControlFlow::Break(ending) =
                vmm.events.take_news().into_iter().try_for_each(&hear)
            {
                vmm.kill();
                asked.get_or_insert(ending);
            }
        }
        if ready.ended {
            let ending = vmm.reap()?;
            return Ok(asked.unwrap_or(ending));
        }
        let asked_by = |one: &BorrowedFd<'_>| rustix::io::read(*one, &mut [0; 8]).is_ok();
        if (ready.signal && signals.came())
            || (ready.asked && asks.iter().filter(|one| asked_by(one)).count() > 0)
        {
            vmm.kill();
            asked.get_or_insert(Ending::Asked);
        }
    }
}

#[derive(Debug, Default)]
struct Ready {
    ended: bool,
    events: bool,
    signal: bool,
    asked: bool,
    links: bool,
}

fn ready(
    vmm: &Vmm,
    signals: &Signals,
    asks: [BorrowedFd<'_>; 2],
    has_events: bool,
    host: &Host,
    wait: Option<Duration>,
) -> io::Result<Ready> {
    let [ends, leaves] = asks;
    let always = [vmm.pidfd.as_fd(), signals.as_fd(), ends, leaves];
    let watch = |descriptor| PollFd::from_borrowed_fd(descriptor, PollFlags::IN);
    let mut watched: Vec<PollFd<'_>> = always.into_iter().map(watch).collect();
    let events = has_events.then(|| {
        watched.push(watch(vmm.events.pipe.as_fd()));
        watched.len() - 1
    });
    let links = host.links.as_ref().map(|links| {
        watched.push(watch(links.as_fd()));
        watched.len() - 1
    });
    // What it holds is taken at each turn.
    watched.extend(host.faults.as_ref().map(|faults| PollFd::new(faults, PollFlags::IN)));
    let wait = wait.and_then(|wait| Timespec::try_from(wait).ok());
    match poll(&mut watched, wait.as_ref()) {
        Ok(_) => {}
        Err(rustix::io::Errno::INTR) => return Ok(Ready::default()),
        Err(error) => return Err(error.into()),
    }
    let is_ready = |place: Option<usize>| {
        let flags = place.and_then(|place| watched.get(place)).map(PollFd::revents);
        flags.is_some_and(|flags| !flags.is_empty())
    };
    Ok(Ready {
        ended: is_ready(Some(0)),
        signal: is_ready(Some(1)),
        asked: is_ready(Some(2)) || is_ready(Some(3)),
        events: is_ready(events),
        links: is_ready(links),
    })
}
