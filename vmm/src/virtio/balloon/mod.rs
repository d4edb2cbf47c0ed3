//! virtio-balloon (virtio 1.3, section 5.5): memory that the guest can do without goes back to the host.
//!
//! ```text
//! asked      target ─ the driver is told ─► it takes pages from its system ─ inflate queue ─► given back
//!            a smaller one ─► it gives them to its system again ─ deflate queue; so it does where its
//!            system has nothing left (DEFLATE_ON_OOM), whatever the target
//! unasked    pages that are free ─ reporting queue ─► given back, until the guest uses them again
//! ```
//! A page that was given back is zeroes in a new page of the host's as soon as anybody touches it, so that
//! nobody need tell the host before it is used again. The guest's system is trusted in nothing: it can
//! destroy what is in its own RAM, as it can anyway, and nothing of it is relied on here. What it says of
//! itself is handed on as what it says.
//!
//! How much of a buffer is done in a turn is bounded in [`buffers`]; a larger one takes several.

mod buffers;
#[allow(unsafe_code)]
mod give_back;

use std::io;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use self::buffers::{Giving, hear};
use super::queue::{self, Fate, Head, Progress, work_off};
use super::{Activation, VirtioDevice, read_bytes};
use crate::descriptor::borrow;
use crate::error::{Error, Result, Trying};
use crate::machine::event_loop::{EventLoop, Ready, Trigger};
use crate::spec::{BALLOON_PAGE, BalloonStats, GuestSays, MIN_MEMORY};
use crate::warnings::Warnings;

const KIND_BALLOON: u16 = 5;
/// None of the classes that there are.
const CLASS_OTHER: u32 = 0xff_00_00;

/// Feature bits (virtio 1.3, 5.5.3).
const F_STATS: u64 = 1 << 1;
const F_DEFLATE_ON_OOM: u64 = 1 << 2;
const F_REPORTING: u64 = 1 << 5;

/// The queues. There is none for hints of free pages (number 3 of virtio 1.3, 5.5.2), and drivers differ in
/// whether the next one has its number then, so that both are for reports; a driver has one of them, or none.
const INFLATE: usize = 0;
const DEFLATE: usize = 1;
const STATS: usize = 2;
const REPORT: usize = 3;
const QUEUES: usize = 5;
/// Linux reports up to 32 pieces of memory at a time.
const QUEUE_SIZES: [u16; QUEUES] = [128; QUEUES];
/// Buffers of which little is to be done, before other devices get their turn.
const BATCH: usize = 16;

/// The configuration (virtio 1.3, 5.5.4): how many pages the driver is to give, and, written by it, how many
/// it has given.
const ACTUAL: u64 = 4;
const CONFIG_SIZE: u64 = 8;

/// How long a driver that is asked for statistics may take.
const SAYS_WITHIN: Duration = Duration::from_millis(500);

/// A balloon.
pub struct Balloon {
    kicks: [EventFd; QUEUES],
    /// Pages of RAM.
    ram: u64,
    /// Pages that are wanted, and above them (see [`GENERATION`]) how often that has changed.
    wanted: AtomicU64,
    /// Pages that the driver says it has given.
    actual: AtomicU32,
    state: Mutex<State>,
    /// The driver has said something.
    heard: Condvar,
    warnings: Warnings,
}

/// Where the generation of the configuration is in [`Balloon::wanted`], so that nobody sees one without
/// the other.
const GENERATION: u32 = 32;

#[derive(Default)]
struct State {
    active: Option<Activation>,
    inflating: Giving,
    /// Of both queues.
    reporting: [Giving; 2],
    /// The buffer by which the driver is asked for statistics.
    held: Option<Head>,
    said: Option<(Instant, GuestSays)>,
}

impl State {
    /// Without a driver, or with a new one. What the host got stays counted.
    fn begin_anew(&mut self, active: Option<Activation>) {
        self.active = active;
        self.inflating.begin_anew();
        self.reporting.iter_mut().for_each(Giving::begin_anew);
        self.held = None;
        self.said = None;
    }
}

impl Balloon {
    /// Of a guest with `ram` bytes, which is to give `target` bytes at first.
    ///
    /// # Errors
    /// As [`Balloon::set_target`], or where events are short.
    pub fn new(ram: u64, target: u64) -> Result<Self> {
        let event = || EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK).system("create an event");
        let balloon = Balloon {
            kicks: [event()?, event()?, event()?, event()?, event()?],
            ram: ram / BALLOON_PAGE,
            wanted: AtomicU64::new(0),
            actual: AtomicU32::new(0),
            state: Mutex::default(),
            heard: Condvar::new(),
            warnings: Warnings::new("virtio-balloon"),
        };
        balloon.set_target(target)?;
        Ok(balloon)
    }

    /// Adds its descriptors to the event loop.
    ///
    /// # Errors
    /// Where they cannot be watched.
    pub fn listen(self: &Arc<Self>, events: &EventLoop) -> Result<()> {
        for (token, kick) in (0..).zip(&self.kicks) {
            events.add(borrow(kick), Trigger::Level, self.clone(), token)?;
        }
        Ok(())
    }

    /// Asks the guest to give `target` bytes in all. Its driver does so over time, as far as it can.
    ///
    /// # Errors
    /// [`Error::Spec`] where that is no whole number of pages, or leaves less than [`MIN_MEMORY`].
    pub fn set_target(&self, target: u64) -> Result<()> {
        let pages = check_target(self.ram * BALLOON_PAGE, target).map_err(Error::Spec)?;
        let change = |wanted: u64| {
            let generation = (wanted >> GENERATION).wrapping_add(1);
            (wanted as u32 != pages).then_some(generation << GENERATION | u64::from(pages))
        };
        let changed = self.wanted.fetch_update(Ordering::AcqRel, Ordering::Acquire, change).is_ok();
        let state = crate::lock(&self.state);
        if let Some(active) = state.active.as_ref().filter(|_| changed) {
            active.changed.tell();
        }
        Ok(())
    }

    /// How it is. A driver that can be asked what it has to say is, and is waited for no longer than a
    /// person would: not to be called by the event loop, which hears it.
    pub fn stats(&self) -> BalloonStats {
        let asked = Instant::now();
        if self.ask() {
            let is_awaited = |state: &mut State| {
                state.active.is_some() && state.said.is_none_or(|(when, _)| when < asked)
            };
            let state = crate::lock(&self.state);
            drop(self.heard.wait_timeout_while(state, SAYS_WITHIN, is_awaited));
        }
        self.known()
    }

    /// Gives the driver the buffer back by which it is asked for statistics; whether there was one.
    pub fn ask(&self) -> bool {
        let State { active, held, .. } = &mut *crate::lock(&self.state);
        let (Some(activation), Some(head)) = (active.as_mut(), held.take()) else { return false };
        let given = queue::give_back(activation, STATS, head);
        if given.is_err() {
            activation.failure.report();
            *active = None;
        }
        given.is_ok()
    }

    /// How it is, as far as the driver has said it.
    pub fn known(&self) -> BalloonStats {
        let state = crate::lock(&self.state);
        let said = state.said.map(|(when, says)| {
            let age = when.elapsed().as_millis();
            GuestSays { age_ms: u64::try_from(age).unwrap_or(u64::MAX), ..says }
        });
        let reported = state.reporting.iter().map(|giving| giving.given);
        BalloonStats {
            driven: state.active.is_some(),
            target: u64::from(self.wanted.load(Ordering::Acquire) as u32) * BALLOON_PAGE,
            actual: u64::from(self.actual.load(Ordering::Acquire)).min(self.ram) * BALLOON_PAGE,
            inflated: state.inflating.given,
            reported: reported.fold(0, u64::saturating_add),
            said,
        }
    }

    fn warn(&self, error: &io::Error) {
        self.warnings.say(format_args!("the host does not take memory back: {error}"));
    }
}

/// The pages of a target, where a guest with `ram` bytes can have it; or why not, in words.
pub fn check_target(ram: u64, target: u64) -> Result<u32, String> {
    let left = ram.checked_sub(target);
    if target > 0 && left.is_none_or(|left| left < MIN_MEMORY) {
        return Err(format!("to give {target} bytes would leave less than {MIN_MEMORY} of {ram}"));
    }
    let pages = u32::try_from(target / BALLOON_PAGE).ok();
    pages
        .filter(|_| target.is_multiple_of(BALLOON_PAGE))
        .ok_or_else(|| format!("{target} bytes are no pages of {BALLOON_PAGE} that can be counted"))
}

impl Ready for Balloon {
    fn ready(&self, token: u32) {
        let index = token as usize;
        let Some(kick) = self.kicks.get(index) else { return };
        let _ = kick.read();
        let warn = |error| self.warn(&error);
        let State { active, inflating, reporting, held, said } = &mut *crate::lock(&self.state);
        queue::turn(active, kick, |active| {
            if !active.queues[index].is_ready() {
                return Ok(Progress::Done);
            }
            match index {
                INFLATE => work_off(active, index, 1, |memory, chain| {
                    inflating.inflate(memory, chain, warn)
                }),
                // The pages are the guest's again when it touches them.
                DEFLATE => work_off(active, index, BATCH, |_, _| Ok(Fate::Used(0))),
                STATS => {
                    let mut surplus = None;
                    let progress = work_off(active, index, 1, |memory, chain| {
                        let head = chain.head();
                        *said = Some((Instant::now(), hear(memory, chain)?));
                        surplus = held.replace(head);
                        Ok(Fate::Held)
                    })?;
                    // A driver has one buffer here; of two, it gets the first one back.
                    surplus.map_or(Ok(()), |head| queue::give_back(active, index, head))?;
                    Ok(progress)
                }
                _ => work_off(active, index, 1, |memory, chain| {
                    reporting[index - REPORT].report(memory, chain, warn)
                }),
            }
        });
        if index == STATS {
            self.heard.notify_all();
        }
    }
}

impl VirtioDevice for Balloon {
    fn name(&self) -> String {
        "virtio-balloon".to_owned()
    }

    fn kind(&self) -> u16 {
        KIND_BALLOON
    }

    fn class(&self) -> u32 {
        CLASS_OTHER
    }

    fn features(&self) -> u64 {
        F_STATS | F_DEFLATE_ON_OOM | F_REPORTING | queue::FEATURES
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn kick(&self, index: u16) -> Option<&EventFd> {
        self.kicks.get(usize::from(index))
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let wanted = (self.wanted.load(Ordering::Acquire) as u32).to_le_bytes();
        let actual = self.actual.load(Ordering::Acquire).to_le_bytes();
        read_bytes([wanted, actual].as_flattened(), offset, data);
    }

    /// Only how much was given is the driver's to write.
    fn write_config(&self, offset: u64, data: &[u8]) {
        for (at, byte) in (offset..).zip(data).filter(|(at, _)| (ACTUAL..CONFIG_SIZE).contains(at))
        {
            let shift = 8 * (at - ACTUAL);
            let change = |actual: u32| Some(actual & !(0xff << shift) | u32::from(*byte) << shift);
            let _ = self.actual.fetch_update(Ordering::AcqRel, Ordering::Acquire, change);
        }
    }

    fn config_generation(&self) -> u8 {
        (self.wanted.load(Ordering::Acquire) >> GENERATION) as u8
    }

    /// What it has no feature for, and the second of those for reports.
    fn may_lack(&self, index: usize) -> bool {
        index >= STATS
    }

    fn activate(&self, activation: Activation) {
        crate::lock(&self.state).begin_anew(Some(activation));
        // Buffers may be there already.
        for kick in &self.kicks {
            let _ = kick.write(1);
        }
    }

    /// Its pages are the guest's again, which knows of none that it gave.
    fn reset(&self) {
        crate::lock(&self.state).begin_anew(None);
        self.actual.store(0, Ordering::Release);
    }
}
