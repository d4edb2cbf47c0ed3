//! Faults of the IOMMU: a device tried to reach memory that it was not given, and was stopped.
//!
//! ```text
//! /dev/kmsg ──► KernelLog: records of the kernel itself ──► report: which are faults
//!                                                             └──► Tally: the first at once, then counts
//! ```
//!
//! The kernel tells of faults in its log and nowhere else that a program without the device sees. So
//! its lines are read here: the words of Intel VT-d, AMD-Vi and Arm SMMUv3. It limits how many it
//! writes: VT-d ten lines in five seconds for all devices together, AMD-Vi the same for each device.
//! What is counted here is what it told.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::str::FromStr;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::address::PciAddress;
use crate::facts::iov;
use crate::facts::reader::Reader;
use crate::root::HostRoot;
use crate::watch::{HostEvent, Source, What};

mod kernel_log;
pub mod report;

use kernel_log::{KernelLog, Next};

/// Most records that are read before whoever waits gets to see what they hold.
const BATCH: usize = 1024;
/// How long faults of a device are counted before they are told again: as long as the kernel's own
/// limit lasts (include/linux/ratelimit_types.h, `DEFAULT_RATELIMIT_INTERVAL`).
pub const WINDOW: Duration = Duration::from_secs(5);
/// Most devices whose faults are counted; those of more are told one by one.
const MOST_DEVICES: usize = 4096;

/// What a device tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Access {
    /// To read memory.
    Read,
    /// To write memory.
    Write,
}

/// An address as a device uses it: what the IOMMU translates. Written as `0xfee00000`, also in JSON,
/// whose numbers do not hold 64 bits everywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct IoAddress(pub u64);

impl fmt::Display for IoAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl From<IoAddress> for String {
    fn from(address: IoAddress) -> String {
        address.to_string()
    }
}

/// A text that is not an I/O address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an I/O address is 0x and up to 16 hexadecimal digits")]
pub struct NoIoAddress;

impl FromStr for IoAddress {
    type Err = NoIoAddress;

    fn from_str(text: &str) -> Result<IoAddress, NoIoAddress> {
        report::hex(text).map(IoAddress).ok_or(NoIoAddress)
    }
}

impl TryFrom<String> for IoAddress {
    type Error = NoIoAddress;

    fn try_from(text: String) -> Result<IoAddress, NoIoAddress> {
        text.parse()
    }
}

/// Accesses of a device that the IOMMU blocked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blocked {
    /// What it tried; AMD-Vi does not tell of addresses at which nothing is mapped.
    pub access: Option<Access>,
    /// Where, the last time. Some IOMMUs tell the page only.
    pub address: IoAddress,
    /// Why not, in the kernel's words.
    pub reason: Option<String>,
    /// How many faults the kernel has told since this was told the last time.
    pub count: u32,
}

impl fmt::Display for Blocked {
    /// `write at 0x10000000 blocked, 3 times (…)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let access = match self.access {
            Some(Access::Read) => "read",
            Some(Access::Write) => "write",
            None => "access",
        };
        write!(f, "{access} at {} blocked", self.address)?;
        if self.count > 1 {
            write!(f, ", {} times", self.count)?;
        }
        match &self.reason {
            Some(reason) => write!(f, " ({reason})"),
            None => Ok(()),
        }
    }
}

/// A device with its accesses that were blocked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DmaFault {
    /// The function whose id the accesses carried. Behind a bridge to conventional PCI that is the
    /// bridge's.
    pub device: PciAddress,
    /// What it tried.
    pub blocked: Blocked,
}

impl DmaFault {
    /// The same as an event of this host.
    pub fn event(self, root: &HostRoot) -> HostEvent {
        HostEvent {
            source: Source::KernelLog,
            device: Some(self.device),
            vf_of: iov::vf_of(&mut Reader::new(root), self.device),
            what: What::DmaFault(self.blocked),
        }
    }
}

/// Somebody who follows faults.
#[derive(Debug)]
pub struct Faults {
    root: HostRoot,
    log: KernelLog,
    tally: Option<Tally>,
}

/// What came since the last time.
#[derive(Debug, Default)]
pub struct News {
    /// Faults to tell of.
    pub faults: Vec<DmaFault>,
    /// The kernel wrote its log over before it was read: there may have been more.
    pub lost: bool,
}

impl Faults {
    /// Begins to follow the faults of this host that come from now on.
    ///
    /// # Errors
    /// `/dev/kmsg` cannot be opened, as by who may not read the kernel's log.
    pub fn open(root: &HostRoot) -> io::Result<Faults> {
        Ok(Faults { tally: Some(Tally::default()), ..Faults::open_uncounted(root)? })
    }

    /// The same, with each fault told as soon as the kernel tells it.
    ///
    /// # Errors
    /// As [`Faults::open`].
    pub fn open_uncounted(root: &HostRoot) -> io::Result<Faults> {
        Ok(Faults { root: root.clone(), log: KernelLog::open(root)?, tally: None })
    }

    /// What is to be told at this time, without waiting.
    ///
    /// # Errors
    /// The kernel's, from reading its log.
    pub fn take(&mut self, now: Instant) -> io::Result<News> {
        let due = self.tally.as_mut().map(|tally| tally.due(now));
        let mut news = News { faults: due.unwrap_or_default(), lost: false };
        for _ in 0..BATCH {
            match self.log.next()? {
                Next::Nothing => break,
                Next::Lost => news.lost = true,
                Next::Other => {}
                Next::Message(message) => {
                    let Some(report) = report::parse(message) else { continue };
                    let fault = report.fault(&self.root);
                    news.faults.extend(match &mut self.tally {
                        Some(tally) => tally.add(fault, now),
                        None => Some(fault),
                    });
                }
            }
        }
        Ok(news)
    }

    /// How long until [`Faults::take`] has something to tell though nothing new comes.
    pub fn wait(&self, now: Instant) -> Option<Duration> {
        self.tally.as_ref()?.next().map(|next| next.saturating_duration_since(now))
    }
}

impl AsFd for Faults {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.log.as_fd()
    }
}

/// Faults by device: the first is told at once, more of them as a count each [`WINDOW`].
#[derive(Debug, Default)]
struct Tally(BTreeMap<(PciAddress, Option<Access>), Window>);

/// What came since a fault was told.
#[derive(Debug)]
struct Window {
    end: Instant,
    more: Option<DmaFault>,
}

impl Tally {
    /// Takes in a fault; returns it where it is told now.
    fn add(&mut self, fault: DmaFault, now: Instant) -> Option<DmaFault> {
        let key = (fault.device, fault.blocked.access);
        if let Some(window) = self.0.get_mut(&key) {
            let before = window.more.as_ref().map_or(0, |more| more.blocked.count);
            let more = window.more.insert(fault);
            more.blocked.count = more.blocked.count.saturating_add(before);
            return None;
        }
        if self.0.len() < MOST_DEVICES {
            self.0.insert(key, Window { end: now + WINDOW, more: None });
        }
        Some(fault)
    }

    /// What was counted long enough.
    fn due(&mut self, now: Instant) -> Vec<DmaFault> {
        let mut due = Vec::new();
        self.0.retain(|_, window| {
            if window.end > now {
                return true;
            }
            let more = window.more.take();
            let goes_on = more.is_some();
            due.extend(more);
            window.end = now + WINDOW;
            goes_on
        });
        due
    }

    /// When something is due next.
    fn next(&self) -> Option<Instant> {
        self.0.values().filter(|window| window.more.is_some()).map(|window| window.end).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(device: &str, access: Access, address: u64) -> DmaFault {
        let device = device.parse().expect("an address");
        let address = IoAddress(address);
        DmaFault {
            device,
            blocked: Blocked { access: Some(access), address, reason: None, count: 1 },
        }
    }

    #[test]
    fn the_first_fault_is_told_at_once_and_more_as_a_count() {
        let (mut tally, begin) = (Tally::default(), Instant::now());
        let at = |seconds| begin + Duration::from_secs(seconds);
        let (one, other) = ("0000:01:10.0", "0000:01:10.2");
        let write = |address| fault(one, Access::Write, address);
        assert_eq!(tally.add(write(0x1000), begin), Some(write(0x1000)));
        assert_eq!(tally.next(), None, "nothing is left to tell");
        assert_eq!(tally.add(write(0x2000), at(1)), None);
        assert_eq!(tally.add(write(0x3000), at(2)), None);
        // Others are told beside it.
        assert!(tally.add(fault(other, Access::Write, 0x4000), at(2)).is_some());
        assert!(tally.add(fault(one, Access::Read, 0x5000), at(2)).is_some());
        assert_eq!(tally.due(at(4)), []);
        assert_eq!(tally.next(), Some(at(5)));
        let told = tally.due(at(5));
        assert_eq!(told.len(), 1, "{told:?}");
        assert_eq!((told[0].blocked.count, told[0].blocked.address), (2, IoAddress(0x3000)));
        // It went on, so it is counted on; when it has been quiet, the next is told at once.
        assert_eq!(tally.add(write(0x6000), at(6)), None);
        assert_eq!(tally.due(at(10)).len(), 1);
        assert_eq!(tally.due(at(15)), []);
        assert!(tally.add(write(0x7000), at(16)).is_some());
    }

    #[test]
    fn no_more_devices_are_counted_than_there_is_room_for() {
        let (mut tally, now) = (Tally::default(), Instant::now());
        for number in 0..MOST_DEVICES + 10 {
            let (bus, device) = (number / 256 % 256, number / 8 % 32);
            let address = format!("{:04x}:{bus:02x}:{device:02x}.{}", number / 256, number % 8);
            assert!(tally.add(fault(&address, Access::Read, 0), now).is_some(), "{address}");
        }
        assert_eq!(tally.0.len(), MOST_DEVICES);
    }

    #[test]
    fn io_addresses_are_texts_in_json() {
        let text = serde_json::to_string(&IoAddress(u64::MAX)).expect("JSON");
        assert_eq!(text, "\"0xffffffffffffffff\"");
        assert_eq!(serde_json::from_str::<IoAddress>(&text).expect("an address").0, u64::MAX);
        assert!(serde_json::from_str::<IoAddress>("\"-1\"").is_err());
    }
}
