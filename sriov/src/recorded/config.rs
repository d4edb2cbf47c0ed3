//! Configuration spaces built from a few words.

use crate::facts::capabilities::{AcsControls, PortKind};

/// The first standard capability; each has room for this many bytes.
const FIRST: usize = 0x40;
const ROOM: usize = 0x18;
/// The first extended capability, and the room of each.
const EXTENDED: usize = 0x100;
const EXTENDED_ROOM: usize = 0x40;

/// A configuration space in the making.
#[derive(Debug, Clone)]
pub struct Config {
    bytes: Vec<u8>,
    /// Where the pointer to the next standard capability is to be written, and where that goes.
    pointer: usize,
    next: usize,
    /// The last extended capability, and where the next goes.
    last_extended: Option<usize>,
    next_extended: usize,
}

impl Config {
    /// A space of 4096 bytes without capabilities, with these ids and a class of 24 bits.
    pub fn new(id: (u16, u16), class: u32) -> Config {
        let mut config = Config {
            bytes: vec![0; 4096],
            pointer: 0x34,
            next: FIRST,
            last_extended: None,
            next_extended: EXTENDED,
        };
        config.put(0, &id.0.to_le_bytes());
        config.put(2, &id.1.to_le_bytes());
        config.put(8, &(class << 8).to_le_bytes());
        if class >> 8 == 0x0604 {
            config.put(0x0e, &[1]);
        }
        config
    }

    /// Only this much of it can be read: 64 bytes without privilege, 256 on conventional PCI.
    #[must_use]
    pub fn cut(mut self, length: usize) -> Config {
        self.bytes.truncate(length);
        self
    }

    /// These bytes at this place, whatever they break.
    #[must_use]
    pub fn with(mut self, at: usize, bytes: &[u8]) -> Config {
        self.put(at, bytes);
        self
    }

    /// A standard capability: its id, and its registers from 2 on.
    #[must_use]
    pub fn standard(mut self, id: u8, registers: &[u8]) -> Config {
        let at = self.next;
        self.put(0x06, &[0x10]);
        self.put(self.pointer, &[u8::try_from(at).expect("within 256 bytes")]);
        self.put(at, &[id, 0]);
        self.put(at + 2, registers);
        self.pointer = at + 1;
        self.next = at + ROOM;
        self
    }

    /// An extended capability: its id, and its registers from 4 on.
    #[must_use]
    pub fn extended(mut self, id: u16, registers: &[u8]) -> Config {
        let at = self.next_extended;
        if let Some(last) = self.last_extended {
            let word = u16::try_from(at << 4 | 1).expect("within 4096 bytes");
            self.put(last + 2, &word.to_le_bytes());
        }
        self.put(at, &id.to_le_bytes());
        self.put(at + 2, &[1, 0]);
        self.put(at + 4, registers);
        self.last_extended = Some(at);
        self.next_extended = at + EXTENDED_ROOM;
        self
    }

    /// Message-signalled interrupts of 64 bits, with 2 to this power of vectors.
    #[must_use]
    pub fn msi(self, power: u8) -> Config {
        self.standard(0x05, &[0x80 | power << 1, 0])
    }

    /// MSI-X with this many vectors: its table at the begin of a BAR, its pending bits at 0x2000.
    #[must_use]
    pub fn msix(self, vectors: u16, bar: u8) -> Config {
        let [low, high] = (vectors - 1).to_le_bytes();
        self.standard(0x11, &[low, high, bar, 0, 0, 0, bar, 0x20, 0, 0])
    }

    /// PCI Express, with or without a reset of its own, and a link of this speed (1 is 2.5 GT/s, 4
    /// is 16 GT/s) and width.
    #[must_use]
    pub fn pcie(self, port: PortKind, flr: bool, speed: u8, width: u8) -> Config {
        let kind = match port {
            PortKind::Endpoint => 0,
            PortKind::LegacyEndpoint => 1,
            PortKind::RootPort => 4,
            PortKind::UpstreamPort => 5,
            PortKind::DownstreamPort => 6,
            PortKind::PcieToPciBridge => 7,
            PortKind::PciToPcieBridge => 8,
            PortKind::RootComplexEndpoint => 9,
            PortKind::EventCollector => 10,
            PortKind::Unknown => 15,
        };
        let link = (u32::from(speed) | u32::from(width) << 4).to_le_bytes();
        let mut registers = [0; 18];
        registers[0] = kind << 4 | 2;
        registers[5] = u8::from(flr) << 4;
        registers[10..14].copy_from_slice(&link);
        registers[16..18].copy_from_slice(&link[..2]);
        self.standard(0x10, &registers)
    }

    /// Access control: what it could, and what it does.
    #[must_use]
    pub fn acs(self, supported: AcsControls, enabled: AcsControls) -> Config {
        let byte = |controls: AcsControls| {
            [
                controls.source_validation,
                controls.translation_blocking,
                controls.request_redirect,
                controls.completion_redirect,
                controls.upstream_forwarding,
                controls.egress_control,
                controls.direct_translated,
            ]
            .iter()
            .enumerate()
            .fold(0, |byte, (bit, on)| byte | u8::from(*on) << bit)
        };
        self.extended(0x000d, &[byte(supported), 0, byte(enabled), 0])
    }

    /// Access control that isolates, and is on.
    #[must_use]
    pub fn isolating(self) -> Config {
        let controls = AcsControls {
            source_validation: true,
            request_redirect: true,
            completion_redirect: true,
            upstream_forwarding: true,
            ..AcsControls::default()
        };
        self.acs(AcsControls { translation_blocking: true, ..controls }, controls)
    }

    /// Alternative routing, with this function next.
    #[must_use]
    pub fn ari(self, next_function: u8) -> Config {
        self.extended(0x000e, &[0, next_function, 0, 0])
    }

    /// Address translation, with a queue of 32.
    #[must_use]
    pub fn ats(self, enabled: bool) -> Config {
        self.extended(0x000f, &[0, 0, 0, u8::from(enabled) << 7])
    }

    /// SR-IOV: most VFs, VFs now, offset and stride, and the VFs' device id.
    #[must_use]
    pub fn sriov(self, total: u16, num: u16, place: (u16, u16), vf_device: u16) -> Config {
        let mut registers = [0; 0x3c];
        registers[4] = if num > 0 { 0b1001 } else { 0 };
        for (at, word) in [
            (0x0c, total),
            (0x0e, total),
            (0x10, num),
            (0x14, place.0),
            (0x16, place.1),
            (0x1a, vf_device),
            (0x1c, 0x553),
            (0x20, 1),
        ] {
            registers[at - 4..at - 2].copy_from_slice(&word.to_le_bytes());
        }
        self.extended(0x0010, &registers)
    }

    /// One BAR whose size can be chosen: the sizes as bits from 1 MiB on, and the size it has as a
    /// power of two times 1 MiB.
    #[must_use]
    pub fn resizable_bar(self, bar: u8, sizes: u32, current: u8) -> Config {
        let mut registers = [0; 8];
        registers[..4].copy_from_slice(&(sizes << 4).to_le_bytes());
        registers[4] = 1 << 5 | bar;
        registers[5] = current;
        self.extended(0x0015, &registers)
    }

    /// The space as it is.
    pub fn bytes(self) -> Vec<u8> {
        self.bytes
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }
}
