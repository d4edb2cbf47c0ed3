//! Guests that are started again and again in a host whose clock counts instructions.

use std::time::Duration;

use anyhow::Result;
use lab::Host;

/// How long a guest may take on this machine's clock, whatever the host's shows: some 15 s are usual.
pub const LIMIT: Duration = Duration::from_secs(75);

/// The turns of one command: what was measured, and how many of its guests stood still.
pub struct Turns<T> {
    pub measured: Vec<T>,
    hangs: usize,
}

/// Most turns that may hang. On this clock guests of either kind stand still once in a while, with one
/// processor that spins: a turn is made once more then, and it is told.
pub const MOST_HANGS: usize = 3;

impl<T> Turns<T> {
    pub fn new() -> Self {
        Turns { measured: Vec::new(), hangs: 0 }
    }

    /// One more turn in `host`.
    pub fn turn(&mut self, host: &Host, measure: impl Fn() -> Result<T>) {
        while self.hangs < MOST_HANGS {
            match measure() {
                Ok(measured) => return self.measured.push(measured),
                Err(error) => {
                    eprintln!("no guest came up: {error:#}");
                    self.hangs += 1;
                    settle(host);
                }
            }
        }
    }

    /// Forgets the first, which brings files into memory.
    pub fn forget_first(&mut self) {
        self.measured.drain(..self.measured.len().min(1));
    }

    /// How many stood still, for a table: nothing where none did.
    pub fn hung(&self) -> String {
        if self.hangs > 0 { format!(" ({} hung)", self.hangs) } else { String::new() }
    }
}

/// Waits until a guest that was killed is gone, and has let go of its devices and disks.
pub fn settle(host: &Host) {
    let is_gone = "! pidof assign-vmm && ! pgrep -f /opt/qemu/qemu && for group in \
                   /dev/vfio/[0-9]*; do [ ! -e $group ] || : <$group || exit 1; done";
    let wait =
        format!("for i in $(seq 600); do ({is_gone}) && exit 0; usleep 100000; done; exit 1");
    if !host.run_within(&wait, LIMIT).is_ok_and(|output| output.code == 0) {
        eprintln!("a guest that was killed is still there");
    }
}

/// The one in the middle.
pub fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}
