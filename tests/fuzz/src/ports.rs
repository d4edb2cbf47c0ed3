//! A hostile guest and the devices of its machine that are always there: console, power, keyboard
//! controller, hot-plug registers, and the PCI bus with nothing but its host bridge. The fuzzer calls
//! this, and so does a test of the crate `assign-vmm` with all seeds and the corpus, which is why this
//! file is part of both.
//!
//! The bytes are actions until they end, zero there, each: what (bits 0 to 3) and how (bits 4 to 7, see
//! `act`), then its operands.
//!
//! Whatever the guest does: where nothing is, all ones are read; only what stops a machine stops it;
//! the host bridge is not ejected; and the console prints no more than was written to it.

use std::fs::File;
use std::io::{PipeWriter, Seek, Write, pipe};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

use vmm::bus::{Access, Bus};
use vmm::devices::hotplug::{self, Controller, Eject};
use vmm::devices::power::{self, Keyboard, Power, Stop};
use vmm::devices::serial::{self, Console};
use vmm::machine::event_loop::Ready;
use vmm::machine::layout::{ECAM_BASE, ECAM_SIZE};
use vmm::pci::gate::Gate;
use vmm::pci::root::{RootComplex, SLOTS};
use vmm::spec::StopReason;
use vmm::timeline::Timeline;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::input::Input;

/// Actions beyond these tell nothing new, and take time.
const MOST_ACTIONS: usize = 512;

/// Where devices are: first port and how many.
const TAKEN: [(u16, u16); 4] = [
    (serial::PORT, serial::PORTS),
    (power::PORT, power::PORTS),
    (hotplug::PORT, hotplug::PORTS),
    (power::KEYBOARD_PORT, 1),
];

thread_local! {
    /// What is printed: one for all machines of a thread, one after the other.
    static PRINTED: File = tempfile::tempfile().expect("a file");
}

/// Slots that the guest has let go.
#[derive(Default)]
struct Ejected(Mutex<Vec<usize>>);

impl Eject for Ejected {
    fn eject(&self, slot: usize) {
        self.0.lock().expect("nobody panicked").push(slot);
    }
}

struct Machine {
    ports: Bus,
    memory: Bus,
    console: Arc<Console>,
    controller: Arc<Controller>,
    power: Arc<Power>,
    stop: Arc<Stop>,
    ejected: Arc<Ejected>,
    /// What is typed, and what was printed.
    typed: PipeWriter,
    printed: File,
    outcome: Outcome,
    stops: Option<StopReason>,
}

/// What came of it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Bytes that were written to the console's ports.
    pub written: u64,
    /// Bytes that the console printed.
    pub printed: u64,
    /// Slots that were emptied.
    pub ejected: usize,
    /// Why the machine is to stop.
    pub stopped: Option<StopReason>,
}

/// Any bytes.
pub fn ports(bytes: &[u8]) {
    run(bytes);
}

/// The same, and what came of it.
pub fn run(bytes: &[u8]) -> Outcome {
    let mut input = Input(bytes);
    let mut machine = Machine::new();
    for _ in 0..MOST_ACTIONS {
        if input.0.is_empty() {
            break;
        }
        machine.act(&mut input);
        assert_eq!(machine.stop.reason(), machine.stops);
    }
    machine.end()
}

impl Machine {
    fn new() -> Machine {
        let event = || EventFd::new(EFD_NONBLOCK).expect("an event");
        let (input, typed) = pipe().expect("a pipe");
        let mut printed = PRINTED.with(File::try_clone).expect("a copy");
        printed.set_len(0).expect("an empty file");
        printed.rewind().expect("its beginning");
        let output = printed.try_clone().expect("a copy");
        let input = File::from(OwnedFd::from(input));
        let console = Arc::new(Console::new(event(), Some(input), output).expect("a console"));
        let stop = Arc::new(Stop::new(event()));
        let (power, controller) = (Power::new(stop.clone(), event()), Controller::new(event()));
        let (power, controller) = (Arc::new(power), Arc::new(controller));
        let ejected = Arc::new(Ejected::default());
        controller.serve(ejected.clone());
        let gate = Gate::new(Arc::new(RootComplex::new()), Arc::new(Timeline::default()));
        gate.open();
        let (ports, memory) = (Bus::default(), Bus::default());
        let devices: [Arc<dyn Access>; 4] =
            [console.clone(), power.clone(), controller.clone(), Arc::new(Keyboard(stop.clone()))];
        for ((port, count), device) in TAKEN.into_iter().zip(devices) {
            ports.insert(port.into(), count.into(), device).expect("room");
        }
        memory.insert(ECAM_BASE, ECAM_SIZE, Arc::new(gate)).expect("room");
        let (outcome, stops) = (Outcome::default(), None);
        Machine {
            ports,
            memory,
            console,
            controller,
            power,
            stop,
            ejected,
            typed,
            printed,
            outcome,
            stops,
        }
    }

    /// One action. A port is one of a device, or any.
    fn act(&mut self, input: &mut Input<'_>) {
        let action = input.byte();
        let how = usize::from(action >> 4);
        match action & 15 {
            kind @ 0..=3 => {
                let width = [1, 2, 4][how / 4 % 3];
                let port = match kind & 1 {
                    0 => TAKEN[how % 4].0 + u16::from(input.byte() & 15),
                    _ => input.short(),
                };
                match kind & 2 {
                    0 => self.read_port(port, width),
                    _ => self.write_port(port, &input.bytes::<4>()[..width]),
                }
            }
            kind @ 4..=7 => {
                let width = how % 8 + 1;
                let address = match kind & 1 {
                    0 => ECAM_BASE + u64::from(input.word()) % (ECAM_SIZE + 0x1000),
                    _ => input.long(),
                };
                match kind & 2 {
                    0 => self.read_memory(address, width),
                    _ => self.memory.write(address, &input.bytes::<8>()[..width]),
                }
            }
            8 => {
                self.typed.write_all(&input.few(how + 1)).expect("room in the pipe");
                self.console.ready(0);
            }
            9 => self.console.ready(1),
            10 => self.power.press().expect("an event"),
            11 => self.controller.announce(input.byte().into()).expect("an event"),
            12 => self.controller.ask(input.byte().into()).expect("an event"),
            _ => self.read_port(serial::PORT, 1),
        }
    }

    fn read_port(&self, port: u16, width: usize) {
        let mut data = [0; 4];
        self.ports.read(port.into(), &mut data[..width]);
        if device_at(port, width).is_none() {
            assert!(data[..width].iter().all(|byte| *byte == 0xff), "{port:#x} answers {data:x?}");
        }
    }

    fn write_port(&mut self, port: u16, data: &[u8]) {
        self.ports.write(port.into(), data);
        match device_at(port, data.len()) {
            Some(0) => self.outcome.written += data.len() as u64,
            Some(1) => {
                let stops = match port - power::PORT {
                    power::SLEEP_CONTROL if data[0] & 0x3c == 0x34 => StopReason::PowerOff,
                    power::RESET if data[0] == power::RESET_VALUE => StopReason::Reboot,
                    _ => return,
                };
                self.stops.get_or_insert(stops);
            }
            Some(3) if data[0] == 0xfe => {
                self.stops.get_or_insert(StopReason::Reboot);
            }
            _ => {}
        }
    }

    fn read_memory(&self, address: u64, width: usize) {
        let mut data = [0; 8];
        let data = &mut data[..width];
        self.memory.read(address, data);
        // The bridge has configuration space of the first function of the first slot.
        let offset = address.checked_sub(ECAM_BASE);
        if offset.is_none_or(|offset| offset + width as u64 > 0x1000) {
            assert!(data.iter().all(|byte| *byte == 0xff), "{address:#x} answers {data:x?}");
        }
    }

    fn end(self) -> Outcome {
        let ejected = self.ejected.0.lock().expect("nobody panicked");
        assert!(ejected.iter().all(|slot| (1..SLOTS).contains(slot)));
        let printed = self.printed.metadata().expect("a file").len();
        assert!(printed <= self.outcome.written, "{printed} bytes are printed");
        Outcome { printed, ejected: ejected.len(), stopped: self.stop.reason(), ..self.outcome }
    }
}

/// Which of the devices answers an access: none if it crosses a device's end.
fn device_at(port: u16, width: usize) -> Option<usize> {
    let end = usize::from(port) + width;
    TAKEN.iter().position(|(first, count)| {
        *first <= port && end <= usize::from(*first) + usize::from(*count)
    })
}
