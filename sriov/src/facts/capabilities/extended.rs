//! Capabilities from byte 256 on.

use super::walk::Walk;
use super::{Acs, AcsControls, Ari, Ats, ResizableBar, SriovCapability};
use crate::facts::config_space::ConfigSpace;
use crate::facts::serial::DEVICE_SERIAL_NUMBER;

const ACS: u16 = 0x000d;
const ARI: u16 = 0x000e;
const ATS: u16 = 0x000f;
const SRIOV: u16 = 0x0010;
const RESIZABLE_BAR: u16 = 0x0015;
const VF_RESIZABLE_BAR: u16 = 0x0024;
/// BARs of a function.
const BARS: usize = 6;

/// Takes in the capability `id` at `at`.
pub fn read<S: ConfigSpace>(walk: &mut Walk<'_, S>, id: u16, at: usize) {
    match id {
        // A place that is left empty.
        0 => {}
        ACS => {
            let acs = walk.registers("ACS", at).map(acs);
            walk.keep("ACS", |found| &mut found.acs, acs);
        }
        ARI => {
            let ari = walk.registers("ARI", at).map(ari);
            walk.keep("ARI", |found| &mut found.ari, ari);
        }
        ATS => {
            let ats = walk.registers("ATS", at).map(ats);
            walk.keep("ATS", |found| &mut found.ats, ats);
        }
        SRIOV => {
            let sriov = walk.registers("SR-IOV", at).map(|registers| sriov(&registers));
            walk.keep("SR-IOV", |found| &mut found.sriov, sriov);
        }
        DEVICE_SERIAL_NUMBER => {
            let serial = walk.registers::<12>("serial number", at);
            // The header comes first.
            let serial = serial.map(|[_, _, _, _, rest @ ..]| u64::from_le_bytes(rest));
            walk.keep("serial number", |found| &mut found.serial, serial);
        }
        RESIZABLE_BAR => {
            let bars = resizable(walk, "resizable BAR", at);
            walk.found.resizable_bars.extend(bars);
        }
        VF_RESIZABLE_BAR => {
            let bars = resizable(walk, "VF resizable BAR", at);
            walk.found.vf_resizable_bars.extend(bars);
        }
        _ => walk.found.extended.push(id),
    }
}

/// Capability at 4, control at 6, the same bits in both.
fn acs([_, _, _, _, c0, c1, e0, e1]: [u8; 8]) -> Acs {
    let controls = |register: u16| AcsControls {
        source_validation: register & 1 != 0,
        translation_blocking: register & 1 << 1 != 0,
        request_redirect: register & 1 << 2 != 0,
        completion_redirect: register & 1 << 3 != 0,
        upstream_forwarding: register & 1 << 4 != 0,
        egress_control: register & 1 << 5 != 0,
        direct_translated: register & 1 << 6 != 0,
    };
    Acs {
        supported: controls(u16::from_le_bytes([c0, c1])),
        enabled: controls(u16::from_le_bytes([e0, e1])),
    }
}

/// Capability at 4, with the next function in bits 15 to 8.
fn ari([_, _, _, _, _, next_function, _, _]: [u8; 8]) -> Ari {
    Ari { next_function }
}

/// Capability at 4, with the depth in bits 4 to 0, where 0 is 32; control at 6, with the switch in
/// bit 15.
fn ats([_, _, _, _, low, _, _, control]: [u8; 8]) -> Ats {
    let depth = low & 0x1f;
    Ats { enabled: control & 0x80 != 0, queue_depth: if depth == 0 { 32 } else { depth } }
}

/// Control at 8, numbers from 12 on, page sizes at 28 and 32.
fn sriov(registers: &[u8; 36]) -> SriovCapability {
    let mut registers = registers.as_slice();
    // All within the 36 bytes.
    let mut word = |at| registers.word(at).unwrap_or_default();
    let control = word(0x08);
    let (initial, total, num) = (word(0x0c), word(0x0e), word(0x10));
    let (offset, stride, vf_device) = (word(0x14), word(0x16), word(0x1a));
    SriovCapability {
        enabled: control & 1 != 0,
        memory: control & 1 << 3 != 0,
        ari_hierarchy: control & 1 << 4 != 0,
        initial,
        total,
        num,
        offset,
        stride,
        vf_device,
        supported_page_sizes: registers.double(0x1c).unwrap_or_default(),
        page_size: registers.double(0x20).unwrap_or_default(),
    }
}

/// Pairs of capability and control from 4 on; the first control says in bits 7 to 5 how many.
fn resizable<S: ConfigSpace>(walk: &mut Walk<'_, S>, name: &str, at: usize) -> Vec<ResizableBar> {
    let Some(first) = walk.registers::<12>(name, at) else { return Vec::new() };
    let count = usize::from(first[8] >> 5);
    if !(1..=BARS).contains(&count) {
        walk.odd(format!("its {name} capability counts {count} BARs"));
        return Vec::new();
    }
    let mut bars = Vec::new();
    for pair in 0..count {
        let registers = match pair {
            0 => Some(first),
            // Read as if it were a capability of its own, whose header is the pair before.
            _ => walk.registers::<12>(name, at + 8 * pair),
        };
        let Some([_, _, _, _, c0, c1, c2, c3, e0, e1, e2, e3]) = registers else { break };
        let capability = u32::from_le_bytes([c0, c1, c2, c3]);
        let control = u32::from_le_bytes([e0, e1, e2, e3]);
        let bar = (control & 7) as u8;
        let power = control >> 8 & 0x3f;
        if usize::from(bar) >= BARS || power >= 44 {
            walk.odd(format!("its {name} capability has an entry that cannot be"));
            continue;
        }
        // From 1 MiB on: 28 sizes in the capability's bits 31 to 4, 16 in the control's 31 to 16.
        let masks = u64::from(capability >> 4) | u64::from(control >> 16) << 28;
        let sizes =
            (0..44).filter(|bit| masks & 1 << bit != 0).map(|bit| 1 << (20 + bit)).collect();
        bars.push(ResizableBar { bar, sizes, current: 1 << (20 + power) });
    }
    bars
}
