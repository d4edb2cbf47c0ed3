//! Capabilities of the first 256 bytes.

use super::walk::Walk;
use super::{BarPlace, Msi, Msix, Pcie, PortKind};
use crate::facts::config_space::ConfigSpace;

const MSI: u8 = 0x05;
const PCIE: u8 = 0x10;
const MSIX: u8 = 0x11;

/// Takes in the capability `id` at `at`.
pub fn read<S: ConfigSpace>(walk: &mut Walk<'_, S>, id: u8, at: usize) {
    match id {
        MSI => {
            let msi = walk.registers("MSI", at).and_then(|registers| msi(walk, registers));
            walk.keep("MSI", |found| &mut found.msi, msi);
        }
        MSIX => {
            let msix = walk.registers("MSI-X", at).and_then(|registers| msix(walk, registers));
            walk.keep("MSI-X", |found| &mut found.msix, msix);
        }
        PCIE => {
            let pcie = walk.registers("PCI Express", at).map(pcie);
            walk.keep("PCI Express", |found| &mut found.pcie, pcie);
        }
        _ => walk.found.others.push(id),
    }
}

/// Control at 2: vectors in bits 3 to 1 as a power of two, 64 bits in bit 7, masks in bit 8.
fn msi<S: ConfigSpace>(walk: &mut Walk<'_, S>, [_, _, low, high]: [u8; 4]) -> Option<Msi> {
    let control = u16::from_le_bytes([low, high]);
    let power = control >> 1 & 7;
    if power > 5 {
        walk.odd("its MSI capability has a reserved number of vectors".to_owned());
        return None;
    }
    Some(Msi { vectors: 1 << power, maskable: control & 1 << 8 != 0, wide: control & 1 << 7 != 0 })
}

/// Control at 2 with the last vector's number in bits 10 to 0, table at 4, pending bits at 8.
fn msix<S: ConfigSpace>(walk: &mut Walk<'_, S>, registers: [u8; 12]) -> Option<Msix> {
    let [_, _, low, high, t0, t1, t2, t3, p0, p1, p2, p3] = registers;
    let vectors = (u16::from_le_bytes([low, high]) & 0x7ff) + 1;
    let mut place = |register: u32| {
        // BAR in bits 2 to 0, of which 6 and 7 are reserved.
        let bar = (register & 7) as u8;
        if bar > 5 {
            walk.odd(format!("its MSI-X capability names BAR {bar}, which no function has"));
            return None;
        }
        Some(BarPlace { bar, offset: register & !7 })
    };
    let table = place(u32::from_le_bytes([t0, t1, t2, t3]))?;
    let pending = place(u32::from_le_bytes([p0, p1, p2, p3]))?;
    Some(Msix { vectors, table, pending })
}

/// Capabilities at 2, device capabilities at 4, link capabilities at 12, link status at 18.
fn pcie(registers: [u8; 20]) -> Pcie {
    let [_, _, c0, c1, d0, d1, d2, d3, _, _, _, _, l0, l1, l2, l3, _, _, s0, s1] = registers;
    let capabilities = u16::from_le_bytes([c0, c1]);
    let device = u32::from_le_bytes([d0, d1, d2, d3]);
    let link = u32::from_le_bytes([l0, l1, l2, l3]);
    let status = u16::from_le_bytes([s0, s1]);
    Pcie {
        port: port(capabilities >> 4 & 0xf),
        slot: capabilities & 1 << 8 != 0,
        flr: device & 1 << 28 != 0,
        max_speed: speed(link & 0xf),
        // Six bits.
        max_width: (link >> 4 & 0x3f) as u8,
        speed: speed(u32::from(status & 0xf)),
        width: (status >> 4 & 0x3f) as u8,
    }
}

fn port(kind: u16) -> PortKind {
    match kind {
        0 => PortKind::Endpoint,
        1 => PortKind::LegacyEndpoint,
        4 => PortKind::RootPort,
        5 => PortKind::UpstreamPort,
        6 => PortKind::DownstreamPort,
        7 => PortKind::PcieToPciBridge,
        8 => PortKind::PciToPcieBridge,
        9 => PortKind::RootComplexEndpoint,
        10 => PortKind::EventCollector,
        _ => PortKind::Unknown,
    }
}

/// The place of the speed in the vector of speeds, which so far have one meaning each (PCIe section
/// 7.5.3.18).
fn speed(place: u32) -> Option<u32> {
    match place {
        1 => Some(2500),
        2 => Some(5000),
        3 => Some(8000),
        4 => Some(16_000),
        5 => Some(32_000),
        6 => Some(64_000),
        _ => None,
    }
}
