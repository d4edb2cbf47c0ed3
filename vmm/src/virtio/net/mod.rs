//! virtio-net over a TAP (virtio 1.3, section 5.1), whose frames the event loop moves.
//!
//! ```text
//! queue 0, 2, …   frames to the guest, each pair's from a descriptor of its own
//! queue 1, 3, …   frames from it
//! the last one    commands, where there are several pairs: how many of them the driver uses
//! ```
//! [`receive`] and [`transmit`] move frames, [`control`] has the commands; [`taps`] is the host's end, [`config`]
//! what a driver reads, and [`feature`] what is agreed on. The kernel's way to move frames,
//! [`super::vhost::net`], shares the last four.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use self::receive::Arriving;
use self::taps::Taps;
use super::queue::{self, Progress, Queue};
use super::{Activation, VirtioDevice};
use crate::descriptor::borrow;
use crate::error::{Result, Trying};
use crate::machine::event_loop::{EventLoop, Ready, Trigger};
use crate::warnings::Warnings;

pub mod config;
pub mod control;
pub mod feature;
pub mod receive;
pub mod taps;
pub mod transmit;

pub use config::Config;

/// A network card (virtio 1.3, section 5).
pub(super) const KIND_NET: u16 = 1;
/// The same as a PCI class.
pub(super) const CLASS_ETHERNET: u32 = 0x02_00_00;

/// Of each queue for frames.
const QUEUE_SIZE: u16 = 256;
/// Of that for commands.
const CONTROL_SIZE: u16 = 64;

/// Bytes of `struct virtio_net_hdr_v1`, before each frame.
pub(super) const HEADER: usize = 12;
/// Header and the largest frame a TAP hands out.
const FRAME_MAX: usize = HEADER + (64 << 10);
/// Buffers of a queue before other devices get their turn.
const BATCH: usize = 256;

/// By which the event loop says that there are frames for the first pair; the others follow.
pub(super) const TOKEN_TAP: u32 = 0x1_0000;

/// Sizes of the queues of a card with so many pairs.
pub(super) fn queue_sizes(pairs: u16) -> Vec<u16> {
    let control = (pairs > 1).then_some(CONTROL_SIZE);
    (0..2 * pairs).map(|_| QUEUE_SIZE).chain(control).collect()
}

/// A network card.
pub struct Net {
    taps: Taps,
    /// What its driver reads of it.
    pub(super) config: Arc<Config>,
    sizes: Vec<u16>,
    kicks: Vec<EventFd>,
    work: Mutex<Work>,
    warnings: Warnings,
}

struct Work {
    active: Option<Activation>,
    /// For each pair.
    arriving: Vec<Arriving>,
}

impl Net {
    /// A card on the descriptors of a TAP, one for each pair.
    ///
    /// # Errors
    /// As [`Taps::new`].
    pub fn new(taps: Vec<OwnedFd>, config: Arc<Config>) -> Result<Self> {
        Self::over(Taps::new(taps)?, config)
    }

    /// Test support: a card on sockets that give and take a frame with its header at each call, and do not
    /// block.
    #[cfg(any(test, feature = "simulated"))]
    pub(super) fn on_sockets(sockets: Vec<OwnedFd>, config: Arc<Config>) -> Result<Self> {
        Self::over(Taps::sockets(sockets), config)
    }

    fn over(taps: Taps, config: Arc<Config>) -> Result<Self> {
        let event = || EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK).system("create an event");
        let sizes = queue_sizes(config.pairs());
        let kicks = sizes.iter().map(|_| event()).collect::<Result<_>>()?;
        let arriving = (0..config.pairs()).map(|_| Arriving::default()).collect();
        let work = Mutex::new(Work { active: None, arriving });
        let warnings = Warnings::new(config.name());
        Ok(Net { taps, config, sizes, kicks, work, warnings })
    }

    /// Adds its descriptors to the event loop.
    ///
    /// # Errors
    /// Where they cannot be watched.
    pub fn listen(self: &Arc<Self>, events: &EventLoop) -> Result<()> {
        for (token, kick) in (0..).zip(&self.kicks) {
            events.add(borrow(kick), Trigger::Level, self.clone(), token)?;
        }
        // Frames stay in the TAP while the guest has no buffers for them: edge-triggered, or they
        // would keep the loop awake.
        for (token, tap) in (TOKEN_TAP..).zip(self.taps.all()) {
            events.add(tap, Trigger::Edge, self.clone(), token)?;
        }
        Ok(())
    }

    /// An interface that is gone takes no setting, which its driver sees by its link.
    fn warn(&self, result: Result<()>) {
        if let Err(error) = result
            && !self.taps.are_gone()
        {
            self.warnings.say(error);
        }
    }
}

impl Ready for Net {
    fn ready(&self, token: u32) {
        let of_tap = token.checked_sub(TOKEN_TAP).map(|pair| 2 * pair);
        let index = of_tap.unwrap_or(token) as usize;
        let Some(kick) = self.kicks.get(index) else { return };
        if of_tap.is_none() {
            let _ = kick.read();
        }
        let Work { active, arriving } = &mut *crate::lock(&self.work);
        let (pair, is_receiver) = (index / 2, index.is_multiple_of(2));
        queue::turn(active, kick, |active| {
            if !active.queues.get(index).is_some_and(Queue::is_ready) {
                return Ok(Progress::Done);
            }
            match (self.taps.get(pair), arriving.get_mut(pair)) {
                (Some(tap), Some(arriving)) if is_receiver => {
                    receive::receive(active, index, tap, arriving)
                }
                (Some(tap), Some(_)) => transmit::transmit(active, index, tap),
                _ => {
                    let ready = control::ready_pairs(&active.queues, self.taps.count());
                    control::obey(active, index, ready, |pairs| {
                        self.taps.use_first(pairs).map_err(|error| self.warn(Err(error))).is_ok()
                    })
                }
            }
        });
    }
}

impl VirtioDevice for Net {
    fn name(&self) -> String {
        self.config.name()
    }

    fn kind(&self) -> u16 {
        KIND_NET
    }

    fn class(&self) -> u32 {
        CLASS_ETHERNET
    }

    fn features(&self) -> u64 {
        let own = feature::MAC | feature::STATUS | feature::OFFLOADS | feature::MRG_RXBUF;
        own | feature::of_pairs(self.config.pairs()) | queue::FEATURES
    }

    fn accepts(&self, features: u64) -> bool {
        feature::go_together(features)
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.sizes
    }

    fn kick(&self, index: u16) -> Option<&EventFd> {
        self.kicks.get(usize::from(index))
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        self.config.read(offset, data);
    }

    fn config_generation(&self) -> u8 {
        self.config.generation()
    }

    /// All but the first pair.
    fn may_lack(&self, index: usize) -> bool {
        index >= 2
    }

    fn activate(&self, activation: Activation) {
        let hears = activation.features & feature::STATUS != 0;
        self.config.tells(hears.then(|| activation.changed.clone()));
        self.warn(self.taps.set_offloads(activation.features));
        crate::lock(&self.work).active = Some(activation);
        // Frames may wait already, whose edge has passed.
        for kick in &self.kicks {
            let _ = kick.write(1);
        }
    }

    fn reset(&self) {
        self.config.tells(None);
        let Work { active, arriving } = &mut *crate::lock(&self.work);
        // One whose driver broke a queue is not active, and may have a frame for it still.
        *active = None;
        arriving.iter_mut().for_each(Arriving::clear);
        self.warn(self.taps.use_first(1));
    }
}
