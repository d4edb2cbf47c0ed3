//! What a controller answers, from its bytes. A controller may answer anything: whatever is read
//! here is bounded, and what cannot be meant is an error that says so.

use serde::{Deserialize, Serialize};

use super::SecondaryState;
use super::command::IDENTIFY_BYTES;

/// An Identify structure as it came.
pub type Page = [u8; IDENTIFY_BYTES];

/// Most entries of one Secondary Controller List (NVM Express 1.4, section 5.15, CNS 15h).
pub const MOST_ENTRIES: usize = 127;
/// Bytes of an entry, and of what comes before the first.
const ENTRY: usize = 32;

fn u16_at(page: &Page, at: usize) -> u16 {
    u16::from_le_bytes([page[at], page[at + 1]])
}

fn u32_at(page: &Page, at: usize) -> u32 {
    u32::from(u16_at(page, at)) | u32::from(u16_at(page, at + 2)) << 16
}

/// What is needed of Identify Controller (CNS 01h).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Controller identifier (CNTLID, bytes 79 to 78).
    pub controller: u16,
    /// Serial number (SN, bytes 23 to 4), which is ASCII with spaces after it.
    pub serial: String,
    /// Whether it knows Virtualization Management (OACS, bytes 257 to 256, bit 7).
    pub manages_virtualization: bool,
}

impl Identity {
    /// Reads Identify Controller.
    pub fn parse(page: &Page) -> Identity {
        let printable =
            |byte: &u8| if (0x20..0x7f).contains(byte) { char::from(*byte) } else { '?' };
        let serial: String = page[4..24].iter().map(printable).collect();
        Identity {
            controller: u16_at(page, 78),
            serial: serial.trim().to_owned(),
            manages_virtualization: u16_at(page, 256) & 1 << 7 != 0,
        }
    }
}

/// One kind of resource that a primary controller shares with its secondaries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    /// Whether this kind is shared at all; else every controller has what it has.
    pub flexible: bool,
    /// The primary's own, beside the pool (VQPRT, VIPRT).
    pub private: u16,
    /// Size of the pool (VQFRT, VIFRT).
    pub total: u32,
    /// What of it the primary has now (VQRFAP, VIRFAP).
    pub primary: u16,
    /// What of it secondaries have (VQRFA, VIRFA).
    pub assigned: u32,
    /// Most that one secondary can have (VQFRSM, VIFRSM).
    pub most: u16,
    /// The controller prefers multiples of this (VQGRAN, VIGRAN); at least 1.
    pub step: u16,
}

impl Pool {
    /// What nobody has.
    pub fn free(&self) -> u32 {
        self.total.saturating_sub(self.primary.into()).saturating_sub(self.assigned)
    }

    /// The two kinds lie alike, from bytes 32 and 64 on (CNS 14h).
    fn parse(page: &Page, at: usize, flexible: bool) -> Pool {
        Pool {
            flexible,
            total: u32_at(page, at),
            assigned: u32_at(page, at + 4),
            primary: u16_at(page, at + 8),
            private: u16_at(page, at + 10),
            most: u16_at(page, at + 12),
            step: u16_at(page, at + 14).max(1),
        }
    }
}

/// Primary Controller Capabilities (CNS 14h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// Whose they are (CNTLID, bytes 1 to 0).
    pub controller: u16,
    /// Its queues.
    pub queues: Pool,
    /// Its interrupts.
    pub interrupts: Pool,
}

impl Capabilities {
    /// Reads them. Controller Resource Types (CRT, byte 4) says which kinds are shared.
    pub fn parse(page: &Page) -> Capabilities {
        Capabilities {
            controller: u16_at(page, 0),
            queues: Pool::parse(page, 32, page[4] & 1 != 0),
            interrupts: Pool::parse(page, 64, page[4] & 2 != 0),
        }
    }
}

/// An entry of the Secondary Controller List (CNS 15h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// The secondary controller (SCID).
    pub controller: u16,
    /// Its primary (PCID).
    pub primary: u16,
    /// The number of its VF, from 1 on; 0 for one that is no VF.
    pub vf: u16,
    /// What it has.
    pub state: SecondaryState,
}

/// Reads a Secondary Controller List.
///
/// # Errors
/// It says it has more than 127 entries, or they do not ascend from `first` on, as they have to:
/// what cannot be trusted in one place is not believed in another.
pub fn secondaries(page: &Page, first: u16) -> Result<Vec<Entry>, String> {
    let count = usize::from(page[0]);
    if count > MOST_ENTRIES {
        return Err(format!("its list of secondary controllers claims {count} entries"));
    }
    let mut entries = Vec::with_capacity(count);
    let mut least = u32::from(first);
    for at in (1..=count).map(|number| number * ENTRY) {
        let entry = Entry {
            controller: u16_at(page, at),
            primary: u16_at(page, at + 2),
            vf: u16_at(page, at + 8),
            state: SecondaryState {
                online: page[at + 4] & 1 != 0,
                queues: u16_at(page, at + 10),
                interrupts: u16_at(page, at + 12),
            },
        };
        if u32::from(entry.controller) < least {
            return Err("its list of secondary controllers is out of order".to_owned());
        }
        least = u32::from(entry.controller) + 1;
        entries.push(entry);
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn page(parts: &[(usize, &[u8])]) -> Page {
        let mut page = [0; IDENTIFY_BYTES];
        for (at, bytes) in parts {
            page[*at..at + bytes.len()].copy_from_slice(bytes);
        }
        page
    }

    #[test]
    fn a_controllers_identity_is_read_from_its_places() {
        let serial = b"  S4  \x1b[31m           ";
        let identity =
            Identity::parse(&page(&[(4, serial), (78, &[0x41, 0x02]), (256, &[0x80, 0])]));
        assert_eq!((identity.controller, identity.manages_virtualization), (0x241, true));
        assert_eq!(identity.serial, "S4  ?[31m", "what would move the cursor is replaced");
        assert!(!Identity::parse(&page(&[(256, &[0x7f, 0xff])])).manages_virtualization);
    }

    #[test]
    fn both_pools_are_read_from_their_places() {
        let queues = [72, 0, 1, 0, 16, 0, 0, 0, 56, 0, 5, 0, 8, 0, 2, 0];
        let interrupts = [40, 0, 0, 0, 8, 0, 0, 0, 32, 0, 6, 0, 4, 0, 0, 0];
        let read = Capabilities::parse(&page(&[
            (0, &[7, 1]),
            (4, &[2]),
            (32, &queues),
            (64, &interrupts),
        ]));
        assert_eq!(read.controller, 0x107);
        let expected = Pool {
            flexible: false,
            private: 5,
            total: 65_608,
            primary: 56,
            assigned: 16,
            most: 8,
            step: 2,
        };
        assert_eq!(read.queues, expected);
        let expected = Pool {
            flexible: true,
            private: 6,
            total: 40,
            primary: 32,
            assigned: 8,
            most: 4,
            step: 1,
        };
        assert_eq!(read.interrupts, expected, "no step is a step of one");
        assert_eq!(read.interrupts.free(), 0);
    }

    /// An entry: its controller, whether it is online, its VF, queues and interrupts.
    fn entry(controller: u16, online: u8, vf: u8, queues: u8, interrupts: u8) -> [u8; ENTRY] {
        let mut entry = [0; ENTRY];
        entry[..2].copy_from_slice(&controller.to_le_bytes());
        entry[4] = online;
        (entry[8], entry[10], entry[12]) = (vf, queues, interrupts);
        entry
    }

    #[test]
    fn secondaries_are_read_in_order_and_nothing_else_is_believed() {
        let list = page(&[(0, &[2]), (32, &entry(1, 0xfe, 1, 0, 0)), (64, &entry(9, 1, 2, 8, 4))]);
        let read = secondaries(&list, 1).expect("a list");
        let ids: Vec<_> = read.iter().map(|entry| (entry.controller, entry.vf)).collect();
        assert_eq!(ids, [(1, 1), (9, 2)]);
        assert_eq!(read[0].state, SecondaryState::default());
        assert_eq!(read[1].state, SecondaryState { online: true, queues: 8, interrupts: 4 });
        let told = secondaries(&list, 2).expect_err("an entry before the first that was asked for");
        assert_eq!(told, "its list of secondary controllers is out of order");
        assert!(secondaries(&page(&[(0, &[128])]), 0).is_err(), "more than fit");
        assert!(secondaries(&[0xff; IDENTIFY_BYTES], 0).is_err());
        assert!(secondaries(&page(&[(0, &[2])]), 0).is_err(), "the same controller twice");
        assert_eq!(secondaries(&page(&[]), 0), Ok(Vec::new()));
    }

    proptest! {
        #[test]
        fn whatever_a_controller_answers_is_bounded(
            bytes in proptest::collection::vec(any::<u8>(), IDENTIFY_BYTES),
            first in any::<u16>(),
        ) {
            let page: Page = bytes.try_into().expect("a page");
            prop_assert!(Identity::parse(&page).serial.chars().all(|c| !c.is_control()));
            let read = Capabilities::parse(&page);
            for pool in [read.queues, read.interrupts] {
                prop_assert!(pool.step > 0 && pool.free() <= pool.total);
            }
            if let Ok(entries) = secondaries(&page, first) {
                prop_assert!(entries.len() <= MOST_ENTRIES);
                prop_assert!(entries.iter().all(|entry| entry.controller >= first));
                prop_assert!(entries.is_sorted_by(|one, next| one.controller < next.controller));
            }
        }
    }
}
