//! The two lists, followed with a memory of where they have been.

use super::{Capabilities, Extent, extended, standard};
use crate::facts::config_space::{ConfigSpace, EXTENDED, HEADER, SPACE};

/// Vendor and device ID come first, the class at 8; a virtual function's ids read as ones, and yet
/// it has a class (PCIe section 9.3.4.1).
const DEAD: [u8; 16] = [0xff; 16];
/// Status register, and its bit for a list of capabilities.
const STATUS: usize = 0x06;
const HAS_LIST: u16 = 1 << 4;
/// Header type: 2 is a CardBus bridge, which has its pointer elsewhere.
const HEADER_TYPE: usize = 0x0e;
const CARDBUS: u8 = 2;
const POINTER: usize = 0x34;
const CARDBUS_POINTER: usize = 0x14;
/// More would be the same again.
const MOST_ODDITIES: usize = 16;

/// Reads what `space` says.
pub fn walk(space: &mut impl ConfigSpace) -> (Capabilities, Vec<String>) {
    let mut walk = Walk::new(space);
    let Some(header) = walk.space.bytes::<16>(0) else {
        walk.odd("its configuration space cannot be read".to_owned());
        return (walk.found, walk.odd);
    };
    if header == DEAD {
        walk.found.dead = true;
        return (walk.found, walk.odd);
    }
    if walk.space.byte(HEADER - 1).is_some() {
        walk.found.extent = Extent::Header;
    }
    // Without a list there is nothing that privilege would show.
    if !walk.has_list() || walk.space.byte(HEADER).is_some() {
        walk.found.extent = Extent::Standard;
        walk.standard_list();
    }
    if let Some(first) = walk.space.double(EXTENDED) {
        walk.found.extent = Extent::Extended;
        // A device without any has zeros or ones here.
        if first != 0 && first != u32::MAX {
            walk.extended_list();
        }
    }
    (walk.found, walk.odd)
}

/// A walk along a function's capabilities.
pub struct Walk<'a, S> {
    space: &'a mut S,
    /// What was found so far.
    pub found: Capabilities,
    odd: Vec<String>,
    /// One flag for each double word that a capability has.
    taken: [bool; SPACE / 4],
}

impl<'a, S: ConfigSpace> Walk<'a, S> {
    fn new(space: &'a mut S) -> Walk<'a, S> {
        let found = Capabilities::default();
        Walk { space, found, odd: Vec::new(), taken: [false; SPACE / 4] }
    }

    /// Notes what is not as it should be.
    pub fn odd(&mut self, text: String) {
        if self.odd.len() < MOST_ODDITIES {
            self.odd.push(text);
        }
    }

    fn has_list(&mut self) -> bool {
        self.space.word(STATUS).is_some_and(|status| status & HAS_LIST != 0)
    }

    fn standard_list(&mut self) {
        let has_list = self.has_list();
        let kind = self.space.byte(HEADER_TYPE).unwrap_or_default() & 0x7f;
        let pointer = if kind == CARDBUS { CARDBUS_POINTER } else { POINTER };
        let mut next = self.space.byte(pointer).filter(|_| has_list).unwrap_or_default();
        // Each turn takes a double word, of which there are 48.
        while let Some(at) = self.step(usize::from(next & !3), HEADER) {
            let Some([id, following]) = self.space.bytes(at) else { return };
            if id == 0xff {
                return self.odd(format!("its capability at {at:#04x} answers with all ones"));
            }
            standard::read(self, id, at);
            next = following;
        }
    }

    fn extended_list(&mut self) {
        let mut next = EXTENDED;
        // Each turn takes a double word, of which there are 960.
        while let Some(at) = self.step(next, EXTENDED) {
            let Some(header) = self.space.double(at) else { return };
            if header == u32::MAX {
                return self.odd(format!("its capability at {at:#05x} answers with all ones"));
            }
            // Id in bits 15 to 0, version in 19 to 16, next in 31 to 20 (PCIe section 7.6.3).
            extended::read(self, (header & 0xffff) as u16, at);
            next = (header >> 20) as usize & !3;
        }
    }

    /// The place of the next capability, `None` where the list ends, as it should or not.
    fn step(&mut self, at: usize, least: usize) -> Option<usize> {
        if at == 0 {
            return None;
        }
        if at < least {
            self.odd(format!("its capability list leads to {at:#04x}, where none can be"));
            return None;
        }
        let taken = self.taken.get_mut(at / 4)?;
        if std::mem::replace(taken, true) {
            self.odd(format!("its capability list leads back to {at:#04x}"));
            return None;
        }
        Some(at)
    }

    /// The registers of the capability at `at`, which are `N` bytes with its header; `None` (noted)
    /// where they do not fit. A list that leads into them is at its end.
    pub fn registers<const N: usize>(&mut self, name: &str, at: usize) -> Option<[u8; N]> {
        let limit = if at < EXTENDED { EXTENDED } else { SPACE };
        let registers = self.space.bytes::<N>(at).filter(|_| at + N <= limit);
        if registers.is_none() {
            self.odd(format!("its {name} capability at {at:#04x} is cut off"));
            return None;
        }
        let mut others = self.taken.iter_mut().take((at + N).div_ceil(4)).skip(at / 4 + 1);
        if others.any(|taken| std::mem::replace(taken, true)) {
            self.odd(format!("its {name} capability at {at:#04x} overlaps another"));
        }
        registers
    }

    /// Takes a capability that a function has once.
    pub fn keep<T>(
        &mut self,
        name: &str,
        slot: fn(&mut Capabilities) -> &mut Option<T>,
        capability: Option<T>,
    ) {
        let slot = slot(&mut self.found);
        match capability {
            Some(_) if slot.is_some() => {
                self.odd(format!("it has more than one {name} capability"))
            }
            Some(capability) => *slot = Some(capability),
            None => {}
        }
    }
}
