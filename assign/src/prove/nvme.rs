//! An NVMe controller: it writes a page about itself wherever the Identify command says (NVM Express
//! Base Specification 2.0, section 5.17). It needs no more than its admin queues, and no namespace is
//! touched.

use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use vmm::vfio::probe::{Bar, Pages, Probe};

use super::engine::{Engine, PAGE};

/// Registers (section 3.1.3).
const CAPABILITIES: usize = 0x00;
const CONFIGURATION: usize = 0x14;
const STATUS: usize = 0x1c;
const QUEUE_SIZES: usize = 0x24;
const SUBMISSION_QUEUE: usize = 0x28;
const COMPLETION_QUEUE: usize = 0x30;
const DOORBELLS: usize = 0x1000;

const READY: u32 = 1;
const FATAL: u32 = 1 << 1;
const ENABLE: u32 = 1;
/// Entries of 64 and 16 bytes, as powers of two.
const ENTRY_SIZES: u32 = 6 << 16 | 4 << 20;

const IDENTIFY: u32 = 0x06;
const OF_CONTROLLER: u32 = 1;

/// Entries of each queue: a page of commands has room for 64.
const ENTRIES: u16 = 16;
/// How long a controller may take over a command that cannot get its data to where it should.
const LIMIT: Duration = Duration::from_secs(3);

/// A controller with its admin queues: a page of commands, then one of completions.
pub struct Nvme {
    bar: Bar,
    queues: Arc<Pages>,
    window: u64,
    stride: usize,
    patience: Duration,
    tail: u16,
    head: u16,
    phase: bool,
}

impl Nvme {
    /// Takes the controller.
    pub fn start(probe: &mut Probe, window: u64) -> Result<Nvme, String> {
        let queues = Arc::new(Pages::new(2).map_err(|error| error.to_string())?);
        for page in 0..2 {
            let at = window + page as u64 * PAGE;
            probe.map(at, &queues, page).map_err(|error| error.to_string())?;
        }
        let bar = probe.bar(0).map_err(|error| error.to_string())?;
        let capabilities = bar.read64(CAPABILITIES).map_err(|error| error.to_string())?;
        // DSTRD counts in words of four bytes, TO in halves of a second.
        let stride = 4 << (capabilities >> 32 & 0xf);
        let patience = Duration::from_millis(500 * (capabilities >> 24 & 0xff).max(2));
        let (tail, head, phase) = (0, 0, true);
        let mut nvme = Nvme { bar, queues, window, stride, patience, tail, head, phase };
        nvme.enable()?;
        Ok(nvme)
    }

    fn set(&self, register: usize, value: u32) -> Result<(), String> {
        self.bar.write32(register, value).map_err(|error| error.to_string())
    }

    fn set64(&self, register: usize, value: u64) -> Result<(), String> {
        // In halves, which every controller takes.
        self.set(register, value as u32)?;
        self.set(register + 4, (value >> 32) as u32)
    }

    /// Starts the controller anew, with empty queues.
    fn enable(&mut self) -> Result<(), String> {
        self.disable()?;
        let pages = vec![0; self.queues.length()];
        self.queues.write(0, &pages).map_err(|error| error.to_string())?;
        (self.tail, self.head, self.phase) = (0, 0, true);
        let last = u32::from(ENTRIES - 1);
        self.set(QUEUE_SIZES, last << 16 | last)?;
        self.set64(SUBMISSION_QUEUE, self.window)?;
        self.set64(COMPLETION_QUEUE, self.window + PAGE)?;
        self.set(CONFIGURATION, ENTRY_SIZES | ENABLE)?;
        self.wait_for(true)
    }

    fn disable(&self) -> Result<(), String> {
        self.set(CONFIGURATION, 0)?;
        self.wait_for(false)
    }

    fn wait_for(&self, ready: bool) -> Result<(), String> {
        let end = Instant::now() + self.patience;
        loop {
            let status = self.bar.read32(STATUS).map_err(|error| error.to_string())?;
            if status == u32::MAX {
                return Err("the controller does not answer".to_owned());
            }
            if (status & READY != 0) == ready {
                return Ok(());
            }
            if Instant::now() > end {
                let hint = "a VF has to be online first, with queues and interrupts of its own";
                let what = if ready { "start" } else { "stop" };
                return Err(format!("the controller does not {what} in time: {hint}"));
            }
            sleep(Duration::from_millis(2));
        }
    }

    /// Identify, with its page at `to`. Whether it went well does not matter here: what is in memory
    /// does.
    fn identify(&mut self, to: u64) -> Result<(), String> {
        let mut command = [0_u8; 64];
        // A command of its own id, of no namespace, with one page.
        let first = IDENTIFY | u32::from(self.tail) << 16;
        command[..4].copy_from_slice(&first.to_le_bytes());
        command[24..32].copy_from_slice(&to.to_le_bytes());
        command[40..44].copy_from_slice(&OF_CONTROLLER.to_le_bytes());
        let place = usize::from(self.tail) * command.len();
        self.queues.write(place, &command).map_err(|error| error.to_string())?;
        self.tail = (self.tail + 1) % ENTRIES;
        self.set(DOORBELLS, self.tail.into())?;
        if self.completes()? {
            return Ok(());
        }
        // It hangs on that command, or has given up: from the beginning for the next.
        self.enable()
    }

    /// Whether the command that was sent completes.
    fn completes(&mut self) -> Result<bool, String> {
        let end = Instant::now() + LIMIT;
        let entry = PAGE as usize + usize::from(self.head) * 16;
        loop {
            let status = self.queues.read(entry + 14, 1).map_err(|error| error.to_string())?;
            if status.first().is_some_and(|status| (status & 1 == 1) == self.phase) {
                break;
            }
            let state = self.bar.read32(STATUS).map_err(|error| error.to_string())?;
            if state & FATAL != 0 || Instant::now() > end {
                return Ok(false);
            }
            sleep(Duration::from_millis(2));
        }
        self.head = (self.head + 1) % ENTRIES;
        if self.head == 0 {
            self.phase = !self.phase;
        }
        self.set(DOORBELLS + self.stride, self.head.into())?;
        Ok(true)
    }
}

impl Engine for Nvme {
    fn write(&mut self, to: u64) -> Result<(), String> {
        self.identify(to)
    }

    /// What it reads is data for its namespaces, or commands: neither is to be tried with.
    fn read(&mut self, _from: u64) -> Result<Option<Vec<u8>>, String> {
        Ok(None)
    }

    fn restore(&mut self) -> Result<(), String> {
        self.disable()?;
        self.set(QUEUE_SIZES, 0)?;
        self.set64(SUBMISSION_QUEUE, 0)?;
        self.set64(COMPLETION_QUEUE, 0)
    }
}
