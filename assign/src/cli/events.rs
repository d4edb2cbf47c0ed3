//! `assign events`: follows devices as they come, go, change drivers, and reach for memory that is not
//! theirs, or what happens to guests, one line for each.
//!
//! It ends at what ends a pipeline: a time or a number of events that was asked for, Ctrl-C, or a
//! reader that has gone.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant, SystemTime};

use clap::{ArgGroup, Args};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Serialize;
use sriov::dma_fault::Faults;
use sriov::watch::{HostEvent, Watcher, What};
use sriov::{HostSnapshot, PciAddress};

use super::{Context, Format, output};
use crate::failure::{Failure, OwnReason};
use crate::signals::Signals;
use crate::time;

mod faults;
mod guests;
mod line;

/// Arguments of `assign events`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("of-guests").args(["guests", "guest"]).multiple(true))]
pub struct Events {
    /// Tell only of these, with a PF's VFs and what is on top of them: a PCI address or an
    /// interface name. It need not be there yet.
    #[arg(value_name = "DEVICE", conflicts_with = "of-guests")]
    devices: Vec<String>,
    /// Tell what happens to guests instead, also to those that start later.
    #[arg(long)]
    guests: bool,
    /// The same of one guest, which need not run yet.
    #[arg(long, value_name = "NAME")]
    guest: Option<String>,
    /// Tell what is written down of guests already, and end.
    #[arg(long, requires = "of-guests", conflicts_with_all = ["initial", "count", "limit"])]
    past: bool,
    /// Begin with what is there now; of guests, with what is written down already.
    #[arg(long)]
    initial: bool,
    /// End after this many events, those of --initial not counted.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// End after this time; with --count, fail if fewer events have come by then.
    #[arg(long = "for", value_name = "SECONDS", value_parser = seconds)]
    limit: Option<Duration>,
}

/// An event with the time it was told.
#[derive(Serialize)]
struct Told<'a> {
    time: String,
    #[serde(flatten)]
    event: &'a HostEvent,
    /// Who has the device that an event of this kind is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    guest: Option<String>,
}

/// Why following ended.
enum End {
    Asked,
    Enough,
    TimeOver,
}

/// The events that were asked for.
struct Wanted {
    addresses: BTreeSet<PciAddress>,
    interfaces: BTreeSet<String>,
}

impl Events {
    pub fn run(&self, context: &Context) -> Result<u8, Failure> {
        if self.guests || self.guest.is_some() {
            return self.run_guests(context);
        }
        // Before anything else, so that Ctrl-C is an ordinary end at any time.
        let signals = Signals::hold().map_err(|error| unfollowable(&error))?;
        let mut watcher = Watcher::open(&context.root)?;
        let mut faults = faults::follow(&context.root);
        let wanted = self.wanted(context)?;
        let mut teller = Teller { context, wanted, open: true };
        if self.initial {
            watcher.initial().iter().try_for_each(|event| teller.tell(event).map(drop))?;
        }
        teller.tell(&watcher.following())?;
        let mut left = self.count;
        match self.follow(&mut watcher, &mut faults, &signals, &mut teller, &mut left)? {
            End::Asked | End::Enough => Ok(0),
            End::TimeOver => self.at_the_end("device events", left),
        }
    }

    fn wanted(&self, context: &Context) -> Result<Wanted, Failure> {
        let mut wanted = Wanted { addresses: BTreeSet::new(), interfaces: BTreeSet::new() };
        if self.devices.is_empty() {
            return Ok(wanted);
        }
        let snapshot = HostSnapshot::read(&context.root);
        for name in &self.devices {
            let netdev = snapshot.netdev(name);
            match name.parse::<PciAddress>() {
                Ok(address) if netdev.is_none() => drop(wanted.addresses.insert(address)),
                _ if is_interface_name(name) => {
                    wanted.interfaces.insert(name.clone());
                    wanted.addresses.extend(netdev.and_then(|netdev| netdev.pci));
                }
                _ => {
                    let shown: String = name.chars().take(64).collect();
                    let message = "can be neither an interface nor a PCI address";
                    return Err(Failure::bad_input(sriov::Reason::NoSuchDevice, shown, message)
                        .with_remedy("`assign devices` lists the devices of this host."));
                }
            }
        }
        Ok(wanted)
    }

    /// Tells what comes until something ends it; `left` counts down.
    fn follow(
        &self,
        watcher: &mut Watcher,
        faults: &mut Option<Faults>,
        signals: &Signals,
        teller: &mut Teller<'_>,
        left: &mut Option<u64>,
    ) -> Result<End, Failure> {
        let end = self.limit.and_then(|limit| Instant::now().checked_add(limit));
        loop {
            if !teller.open {
                return Ok(End::Asked);
            }
            let rest = end.map(|end| end.saturating_duration_since(Instant::now()));
            let wait = rest.into_iter().chain(faults::wait(faults)).min();
            let ready = ready(watcher, faults.as_ref(), signals, wait);
            let came = match ready.map_err(|error| unfollowable(&error))? {
                Ready::Signal if signals.came() => return Ok(End::Asked),
                Ready::ReaderGone => return Ok(End::Asked),
                Ready::Signal => continue,
                Ready::Events => watcher.take(),
                Ready::Faults => faults::take(faults, &teller.context.root),
                Ready::TimeOver if end.is_some_and(|end| end <= Instant::now()) => {
                    return Ok(End::TimeOver);
                }
                // Faults were counted long enough.
                Ready::TimeOver => faults::take(faults, &teller.context.root),
            };
            for event in came.map_err(|error| unfollowable(&error))? {
                let counts = teller.tell(&event)? && !event.is_about_watching();
                if counts && let Some(left) = left {
                    *left = left.saturating_sub(1);
                }
                if *left == Some(0) {
                    return Ok(End::Enough);
                }
            }
        }
    }

    fn at_the_end(&self, of: &str, left: Option<u64>) -> Result<u8, Failure> {
        let (Some(left), Some(count), Some(limit)) = (left, self.count, self.limit) else {
            return Ok(0);
        };
        let message = format!(
            "{} of {count} came within {} s",
            count.saturating_sub(left),
            limit.as_secs_f64()
        );
        Err(Failure::failed(OwnReason::TimedOut, of, message)
            .with_remedy("Give them longer with --for."))
    }
}

/// Writes those events that were asked for.
struct Teller<'a> {
    context: &'a Context,
    wanted: Wanted,
    /// Whether somebody still reads.
    open: bool,
}

impl Teller<'_> {
    /// Says whether the event was one of those asked for.
    fn tell(&mut self, event: &HostEvent) -> Result<bool, Failure> {
        if !self.wanted.fits(event) {
            return Ok(false);
        }
        let now = SystemTime::now();
        let guest = match (&event.what, event.device) {
            (What::DmaFault(_), Some(device)) => faults::guest_of(self.context, device),
            _ => None,
        };
        let told = Told { time: time::utc(now), event, guest };
        let text = match self.context.format {
            Format::Table => {
                let guest = told.guest.as_deref();
                line::text(time::of_day(now), event, guest, output::width(io::stdout()))
            }
            Format::Json => {
                serde_json::to_string(&told).map_err(|error| output::unwritable(&error))?
            }
            Format::Yaml => {
                let text =
                    serde_saphyr::to_string(&told).map_err(|error| output::unwritable(&error))?;
                format!("---\n{}", text.trim_end())
            }
        };
        self.open &= output::line_out(&text)?;
        Ok(true)
    }
}

impl Wanted {
    fn fits(&self, event: &HostEvent) -> bool {
        let all = self.addresses.is_empty() && self.interfaces.is_empty();
        all || event.is_about_watching()
            || self.addresses.iter().any(|address| event.concerns(*address))
            || self.interfaces.iter().any(|name| event.is_about_interface(name))
    }
}

enum Ready {
    Events,
    Faults,
    Signal,
    ReaderGone,
    TimeOver,
}

/// Waits for the first thing to attend to.
fn ready(
    watcher: &impl AsFd,
    faults: Option<&Faults>,
    signals: &Signals,
    wait: Option<Duration>,
) -> io::Result<Ready> {
    let stdout = io::stdout();
    let output = stdout.as_fd();
    let mut polled = vec![
        PollFd::new(signals, PollFlags::IN),
        // That nobody reads any more is reported whatever is asked for.
        PollFd::new(&output, PollFlags::empty()),
        PollFd::new(watcher, PollFlags::IN),
    ];
    polled.extend(faults.map(|faults| PollFd::new(faults, PollFlags::IN)));
    let wait = wait.map(|wait| Timespec::try_from(wait).unwrap_or(FOREVER));
    match poll(&mut polled, wait.as_ref()) {
        Err(rustix::io::Errno::INTR) => return Ok(Ready::Signal),
        result => result?,
    };
    let first = polled.iter().position(|polled| !polled.revents().is_empty());
    Ok(match first {
        Some(0) => Ready::Signal,
        Some(1) => Ready::ReaderGone,
        Some(2) => Ready::Events,
        Some(_) => Ready::Faults,
        None => Ready::TimeOver,
    })
}

/// Longer than any host runs.
const FOREVER: Timespec = Timespec { tv_sec: 1 << 32, tv_nsec: 0 };

/// A number of seconds, with a fraction or without.
fn seconds(text: &str) -> Result<Duration, String> {
    let number: f64 = text.parse().map_err(|_| "it is not a number of seconds".to_owned())?;
    match Duration::try_from_secs_f64(number) {
        Ok(duration) if number <= 1e9 => Ok(duration),
        _ => Err("a time is between 0 and 1000000000 seconds".to_owned()),
    }
}

/// What the kernel takes for an interface's name (net/core/dev.c, `dev_valid_name`).
fn is_interface_name(name: &str) -> bool {
    let strange = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
    (1..16).contains(&name.len()) && name != "." && name != ".." && !name.contains(strange)
}

fn unfollowable(error: &io::Error) -> Failure {
    let message = format!("cannot be followed: {error}");
    Failure::failed(sriov::Reason::KernelRefused, "device events", message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_names_are_checked() {
        assert_eq!(seconds("1.5"), Ok(Duration::from_millis(1500)));
        for wrong in ["", "x", "-1", "nan", "inf", "1e300"] {
            assert!(seconds(wrong).is_err(), "{wrong:?} was taken for a time");
        }
        assert!(is_interface_name("enp1s0f0") && is_interface_name("wan.100"));
        for wrong in ["", ".", "..", "a b", "a/b", "0000:01:00.0", "an-interface-too-long"] {
            assert!(!is_interface_name(wrong), "{wrong:?} was taken for an interface");
        }
    }
}
