//! Devices that come and go while the guest runs.
//!
//! ```text
//! attach   device opened ─ memory pinned ─ on the bus, BARs without places ─ guest told
//! detach   guest asked ─► its driver lets go ─► it ejects the slot ─┐
//! force    ─────────────────────────────────────────────────────────┴─► off the bus ─ BARs hidden
//!          ─ interrupts cut ─ device closed, which resets it ─ its group closed ─ reported
//! ```
//! Whoever asks waits for the report, and decides how long: a guest may never answer.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use kvm_ioctls::VmFd;

use super::board::{Board, Present};
use super::check::check_vfio;
use super::latch::Latch;
use crate::descriptor::Inherited;
use crate::devices::hotplug::{Controller, Eject};
use crate::error::{Error, Result, Trying};
use crate::event::Reporter;
use crate::pci::bar::Allocator;
use crate::spec::{Departure, GuestEvent, Vfio, VfioDevice};
use crate::vfio::arrival::Opening;
use crate::vfio::device::VfioFunction;
use crate::vfio::dma::IoSpace;
use crate::vfio::notices::Notices;
use crate::vfio::sys::Device;

/// How long accesses of vCPUs to a device that was taken away may go on: each ends by itself.
const LAST_ACCESS: Duration = Duration::from_secs(2);

/// Brings devices to the running guest and takes them away.
pub struct Hotplug {
    vm: Arc<VmFd>,
    board: Board,
    controller: Arc<Controller>,
    reporter: Arc<Reporter>,
    state: Mutex<State>,
    leaving: Sender<Leaving>,
}

/// Where the devices' memory is mapped, once there is a device, and the devices on the bus.
#[derive(Default)]
struct State {
    space: Option<Arc<IoSpace>>,
    present: Vec<Watched>,
}

/// A device on the bus, and what the host says of it.
struct Watched {
    present: Present,
    notices: Notices,
}

/// A device that is off the bus, to be closed.
struct Leaving {
    device: Watched,
    by: Departure,
}

impl Hotplug {
    /// Without devices yet. A thread of its own closes those that leave.
    ///
    /// # Errors
    /// Where the thread cannot be made.
    pub fn new(
        vm: Arc<VmFd>,
        board: Board,
        controller: Arc<Controller>,
        reporter: Arc<Reporter>,
    ) -> Result<Arc<Self>> {
        let (leaving, to_close) = channel();
        let state = Mutex::default();
        let hotplug = Arc::new(Hotplug { vm, board, controller, reporter, state, leaving });
        let closing = hotplug.clone();
        thread::Builder::new()
            .name("close".into())
            .spawn(move || closing.close_all(to_close))
            .system("start a thread")?;
        hotplug.controller.serve(hotplug.clone());
        Ok(hotplug)
    }

    /// The machine as devices see it.
    pub fn board(&self) -> &Board {
        &self.board
    }

    /// Puts the devices of the machine's start on the bus: all, or none. The guest has not looked for
    /// devices yet. They reach memory once `pinned` opens; their BARs get places from `allocator`.
    ///
    /// # Errors
    /// The first device's that failed.
    pub fn settle(
        &self,
        space: Arc<IoSpace>,
        pinned: Arc<Latch>,
        devices: Vec<(VfioDevice, Device)>,
        allocator: &mut Allocator,
    ) -> Result<()> {
        let added = self.add_all(&space, &pinned, devices, |function| function.place(allocator))?;
        let mut state = crate::lock(&self.state);
        state.space = Some(space);
        state.present.extend(added);
        Ok(())
    }

    /// Gives the guest the devices of `wanted`, whose descriptors are among `received`: all, or none.
    /// They are opened and reset, and reach guest memory, before the guest is told.
    ///
    /// # Errors
    /// The first thing that is wrong or refused, naming the device.
    pub fn attach(&self, wanted: &Vfio, received: &mut Inherited) -> Result<()> {
        check_vfio(wanted)?;
        let state = crate::lock(&self.state);
        let there = state.space.clone();
        let has = |address: &str| {
            state.present.iter().any(|one| one.present.function.address() == address)
        };
        if let Some(double) = wanted.devices.iter().find(|device| has(&device.address)) {
            let (device, reason) = (double.address.clone(), "the guest has it already".into());
            return Err(Error::Unfit { device, reason });
        }
        drop(state);
        let (space, arrivals) = match there {
            Some(space) => {
                let arrivals = space.admit(wanted, received)?;
                (space, arrivals)
            }
            None => IoSpace::new(&self.vm, wanted, received)?,
        };
        let devices = Opening::begin(arrivals, &Arc::default())?.wait()?;
        space.map_memory(&self.board.memory)?;
        let pinned = Arc::new(Latch::default());
        pinned.open();
        let devices = wanted.devices.iter().cloned().zip(devices);
        let added = self.add_all(&space, &pinned, devices, |_| Ok(()))?;
        let mut state = crate::lock(&self.state);
        state.space = Some(space);
        let slots: Vec<usize> = added.iter().map(|device| device.present.slot).collect();
        state.present.extend(added);
        drop(state);
        slots.into_iter().try_for_each(|slot| self.controller.announce(slot))
    }

    /// Puts opened devices on the bus. Where one fails, those before it are taken off again; the guest
    /// has not been told of any.
    fn add_all(
        &self,
        space: &Arc<IoSpace>,
        pinned: &Arc<Latch>,
        devices: impl IntoIterator<Item = (VfioDevice, Device)>,
        mut place: impl FnMut(&VfioFunction) -> Result<()>,
    ) -> Result<Vec<Watched>> {
        let mut added: Vec<Watched> = Vec::new();
        for (description, device) in devices {
            let one = self
                .board
                .add_passed(space, pinned, device, &description, &mut place)
                .and_then(|present| self.watch(present));
            match one {
                Ok(one) => added.push(one),
                Err(error) => {
                    added.into_iter().for_each(|one| self.take_off(one));
                    return Err(error);
                }
            }
        }
        Ok(added)
    }

    fn watch(&self, present: Present) -> Result<Watched> {
        let notices = Notices::listen(&present.function, &self.board.events, &self.reporter);
        match notices {
            Ok(notices) => Ok(Watched { present, notices }),
            Err(error) => {
                self.board.root.take(present.slot);
                present.function.shut_down();
                Err(error)
            }
        }
    }

    /// Asks the guest to let a device go. When it has, that is reported.
    ///
    /// # Errors
    /// [`Error::Unfit`] where the guest does not have it.
    pub fn ask(&self, address: &str) -> Result<()> {
        let state = crate::lock(&self.state);
        let device = state.present.iter().find(|one| one.present.function.address() == address);
        let slot = device.ok_or_else(|| absent(address))?.present.slot;
        self.controller.ask(slot)
    }

    /// Takes a device away without asking the guest, and reports that when it is closed.
    ///
    /// # Errors
    /// [`Error::Unfit`] where the guest does not have it.
    pub fn force(&self, address: &str) -> Result<()> {
        let device = self.remove(|one| one.function.address() == address);
        self.leave(device.ok_or_else(|| absent(address))?, Departure::Forced);
        Ok(())
    }

    /// Bytes of guest memory that are pinned for devices.
    pub fn pinned_bytes(&self) -> u64 {
        let space = crate::lock(&self.state).space.clone();
        space.map_or(0, |space| space.pinned_bytes())
    }

    /// Takes a device off the bus.
    fn remove(&self, which: impl Fn(&Present) -> bool) -> Option<Watched> {
        let mut state = crate::lock(&self.state);
        let at = state.present.iter().position(|one| which(&one.present))?;
        let device = state.present.remove(at);
        self.board.root.take(device.present.slot);
        Some(device)
    }

    fn leave(&self, device: Watched, by: Departure) {
        // The other end is in a thread that ends with the process.
        let _ = self.leaving.send(Leaving { device, by });
    }

    /// Closes what leaves, one after the other.
    fn close_all(&self, leaving: Receiver<Leaving>) {
        for Leaving { device, by } in leaving {
            let device_at = device.present.function.address().to_owned();
            self.take_off(device);
            self.reporter.send(&GuestEvent::Detached { device: device_at, by });
        }
    }

    /// Cuts a device off and closes it.
    fn take_off(&self, device: Watched) {
        let Watched { present, notices } = device;
        self.board.root.take(present.slot);
        notices.end(&self.board.events);
        present.function.shut_down();
        let open = present.function.device();
        drop(present);
        // A vCPU that was in the middle of an access closes the device, not we.
        let limit = Instant::now() + LAST_ACCESS;
        while open.strong_count() > 0 && Instant::now() < limit {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

fn absent(address: &str) -> Error {
    Error::Unfit { device: address.to_owned(), reason: "the guest does not have it".into() }
}

impl Eject for Hotplug {
    fn eject(&self, slot: usize) {
        // Emulated devices stay: a guest that ejects one has taken leave of it by itself.
        if let Some(device) = self.remove(|one| one.slot == slot) {
            self.leave(device, Departure::Guest);
        }
    }
}
