//! QEMU's edu (its docs/specs/edu.rst): an engine that moves bytes between a buffer of its own and any
//! address within its mask, a tenth of a second after it is told to.

use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use vmm::vfio::probe::{Bar, Pages, Probe};

use super::engine::Engine;

const SOURCE: usize = 0x80;
const DESTINATION: usize = 0x88;
const COUNT: usize = 0x90;
const COMMAND: usize = 0x98;
const RUN: u64 = 1;
const FROM_DEVICE: u64 = 2;

/// Where its buffer is, as it counts.
const BUFFER: u64 = 0x4_0000;
/// Its buffer has a page. QEMU before 9.1 ends itself at a transfer that fills it to the last byte.
const BYTES: usize = 4088;
const LIMIT: Duration = Duration::from_secs(5);

/// What it writes.
const WRITTEN: u8 = 0xed;
/// What is in its buffer before it reads.
const UNREAD: u8 = 0x0d;

/// The engine, with a page in which it and we meet.
pub struct Edu {
    bar: Bar,
    page: Arc<Pages>,
    window: u64,
    before: [u64; 3],
}

impl Edu {
    /// Takes the device.
    pub fn start(probe: &mut Probe, window: u64) -> Result<Edu, String> {
        let words = |error: std::io::Error| error.to_string();
        let page = Arc::new(Pages::new(1).map_err(words)?);
        probe.map(window, &page, 0).map_err(|error| error.to_string())?;
        let bar = probe.bar(0).map_err(|error| error.to_string())?;
        let mut before = [0; 3];
        for (value, register) in before.iter_mut().zip([SOURCE, DESTINATION, COUNT]) {
            *value = bar.read64(register).map_err(words)?;
        }
        let edu = Edu { bar, page, window, before };
        edu.wait()?;
        Ok(edu)
    }

    fn set(&self, register: usize, value: u64) -> Result<(), String> {
        self.bar.write64(register, value).map_err(|error| error.to_string())
    }

    fn transfer(&self, from: u64, to: u64, command: u64) -> Result<(), String> {
        self.set(SOURCE, from)?;
        self.set(DESTINATION, to)?;
        self.set(COUNT, BYTES as u64)?;
        self.set(COMMAND, command)?;
        self.wait()
    }

    fn wait(&self) -> Result<(), String> {
        let end = Instant::now() + LIMIT;
        while self.bar.read64(COMMAND).map_err(|error| error.to_string())? & RUN != 0 {
            if Instant::now() > end {
                return Err(format!("its engine has not ended after {} s", LIMIT.as_secs()));
            }
            sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Puts this byte all over its buffer.
    fn load(&self, byte: u8) -> Result<(), String> {
        self.page.write(0, &[byte; BYTES]).map_err(|error| error.to_string())?;
        self.transfer(self.window, BUFFER, RUN)
    }
}

impl Engine for Edu {
    fn write(&mut self, to: u64) -> Result<(), String> {
        self.load(WRITTEN)?;
        self.transfer(BUFFER, to, RUN | FROM_DEVICE)
    }

    fn read(&mut self, from: u64) -> Result<Option<Vec<u8>>, String> {
        self.load(UNREAD)?;
        self.transfer(from, BUFFER, RUN)?;
        self.page.write(0, &[0; BYTES]).map_err(|error| error.to_string())?;
        self.transfer(BUFFER, self.window, RUN | FROM_DEVICE)?;
        self.page.read(0, BYTES).map(Some).map_err(|error| error.to_string())
    }

    fn restore(&mut self) -> Result<(), String> {
        self.load(0)?;
        for (register, value) in [SOURCE, DESTINATION, COUNT].into_iter().zip(self.before) {
            self.set(register, value)?;
        }
        Ok(())
    }
}
