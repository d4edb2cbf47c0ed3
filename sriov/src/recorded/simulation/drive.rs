//! A drive that shares its queues and interrupts out (NVM Express 1.4, section 8.5).

use super::{Request, Shared, lock};
use crate::address::PciAddress;
use crate::netlink::attributes::word;
use crate::nvme::command::IDENTIFY_BYTES;
use crate::nvme::{LEAST_INTERRUPTS, LEAST_QUEUES, SecondaryState, Share};

/// Statuses of Virtualization Management (section 5.22) and others, without what is around them.
const INVALID_OPCODE: u32 = 0x001;
const INVALID_FIELD: u32 = 0x002;
const INVALID_CONTROLLER: u32 = 0x11f;
const INVALID_STATE: u32 = 0x120;
const INVALID_NUMBER: u32 = 0x121;
const INVALID_RESOURCE: u32 = 0x122;

/// The drive's side of a PF and its VFs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drive {
    /// Its serial number.
    pub serial: String,
    /// The pool.
    pub pool: Share,
    /// The PF's own beside the pool.
    pub private: Share,
    /// What the PF has of the pool.
    pub primary: Share,
    /// Most that one VF can have.
    pub most: Share,
    /// What the controllers of VF 0 on have; theirs are the numbers from 1 on.
    pub secondaries: Vec<SecondaryState>,
    /// What the PF gets of the pool by its next reset.
    pub next: Option<Share>,
}

impl Drive {
    /// A drive as the lab has it, whose PF has this part of the pool.
    pub fn lab(primary: Share) -> Drive {
        Drive {
            serial: "lab".to_owned(),
            pool: Share { queues: 72, interrupts: 40 },
            private: Share { queues: 5, interrupts: 5 },
            primary,
            most: Share { queues: 8, interrupts: 4 },
            secondaries: vec![SecondaryState::default(); 32],
            next: None,
        }
    }

    pub(super) fn reset(&mut self) {
        self.primary = self.next.take().unwrap_or(self.primary);
    }

    fn assigned(&self) -> Share {
        let sum = |of: fn(&SecondaryState) -> u16| self.secondaries.iter().map(of).sum();
        Share { queues: sum(|one| one.queues), interrupts: sum(|one| one.interrupts) }
    }

    fn identify(&self, dword10: u32) -> Option<Vec<u8>> {
        let mut page = vec![0; IDENTIFY_BYTES];
        let mut put = |at: usize, bytes: &[u8]| page[at..at + bytes.len()].copy_from_slice(bytes);
        match dword10 & 0xff {
            0x01 => {
                put(4, format!("{:20}", self.serial).as_bytes());
                put(256, &0x80u16.to_le_bytes());
            }
            0x14 => {
                put(4, &[3]);
                let assigned = self.assigned();
                for (at, total, assigned, primary, private, most) in [
                    (
                        32,
                        self.pool.queues,
                        assigned.queues,
                        self.primary.queues,
                        self.private.queues,
                        self.most.queues,
                    ),
                    (
                        64,
                        self.pool.interrupts,
                        assigned.interrupts,
                        self.primary.interrupts,
                        self.private.interrupts,
                        self.most.interrupts,
                    ),
                ] {
                    put(at, &u32::from(total).to_le_bytes());
                    put(at + 4, &u32::from(assigned).to_le_bytes());
                    put(at + 8, &primary.to_le_bytes());
                    put(at + 10, &private.to_le_bytes());
                    put(at + 12, &most.to_le_bytes());
                    put(at + 14, &1u16.to_le_bytes());
                }
            }
            0x15 => {
                let first = u16::try_from(dword10 >> 16).expect("16 bits");
                let listed = (1u16..).zip(&self.secondaries).filter(|(id, _)| *id >= first);
                let listed: Vec<_> = listed.take(127).collect();
                put(0, &[u8::try_from(listed.len()).expect("at most 127")]);
                for (place, (id, state)) in listed.into_iter().enumerate() {
                    let at = 32 * (place + 1);
                    put(at, &id.to_le_bytes());
                    put(at + 4, &[u8::from(state.online)]);
                    put(at + 8, &id.to_le_bytes());
                    put(at + 10, &state.queues.to_le_bytes());
                    put(at + 12, &state.interrupts.to_le_bytes());
                }
            }
            _ => return None,
        }
        Some(page)
    }

    fn manage(&mut self, dword10: u32, number: u32) -> Result<(), u32> {
        let (action, queues) = (dword10 & 0xf, dword10 >> 8 & 7 == 0);
        let number = u16::try_from(number).map_err(|_| INVALID_NUMBER)?;
        let of = |share: &Share| if queues { share.queues } else { share.interrupts };
        let (pool, assigned) = (of(&self.pool), of(&self.assigned()));
        if action == 0x1 && number > pool {
            return Err(INVALID_NUMBER);
        }
        if action == 0x1 {
            let mut next = self.next.unwrap_or(self.primary);
            *(if queues { &mut next.queues } else { &mut next.interrupts }) = number;
            self.next = Some(next);
            return Ok(());
        }
        let id = usize::try_from(dword10 >> 16).map_err(|_| INVALID_CONTROLLER)?;
        let (most, primary) = (of(&self.most), of(&self.primary));
        let at = id.checked_sub(1).and_then(|at| self.secondaries.get_mut(at));
        let state = at.ok_or(INVALID_CONTROLLER)?;
        match action {
            0x7 => *state = SecondaryState::default(),
            0x8 if state.online => return Err(INVALID_STATE),
            0x8 => {
                let has = if queues { &mut state.queues } else { &mut state.interrupts };
                if number > most {
                    return Err(INVALID_NUMBER);
                }
                if u32::from(assigned - *has) + u32::from(number) + u32::from(primary)
                    > u32::from(pool)
                {
                    return Err(INVALID_RESOURCE);
                }
                *has = number;
            }
            0x9 if state.queues < LEAST_QUEUES || state.interrupts < LEAST_INTERRUPTS => {
                return Err(INVALID_STATE);
            }
            0x9 => state.online = true,
            _ => return Err(INVALID_FIELD),
        }
        Ok(())
    }
}

/// Status, and a page where it was asked for one.
pub(super) fn answer(shared: &Shared, body: &[u8]) -> Vec<u8> {
    let status = |status: u32| status.to_ne_bytes().to_vec();
    let parsed = (|| {
        let end = body.iter().position(|byte| *byte == 0)?;
        let pf: PciAddress = std::str::from_utf8(&body[..end]).ok()?.parse().ok()?;
        let rest = body.get(end + 1..)?;
        Some((pf, *rest.first()?, word(rest, 1)?, word(rest, 5)?))
    })();
    let Some((pf, opcode, dword10, dword11)) = parsed else { return status(INVALID_FIELD) };
    if shared.ask_before(&Request::Nvme(pf, opcode, dword10)).is_err() {
        // Internal error (section 4.6.1).
        return status(0x006);
    }
    let mut host = lock(&shared.host);
    let Some(drive) = host.drives.get_mut(&pf) else { return status(INVALID_CONTROLLER) };
    match opcode {
        0x06 => match drive.identify(dword10) {
            Some(page) => [status(0), page].concat(),
            None => status(INVALID_FIELD),
        },
        0x1c => status(drive.manage(dword10, dword11).err().unwrap_or(0)),
        _ => status(INVALID_OPCODE),
    }
}
