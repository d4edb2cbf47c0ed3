//! How fast the time stamp counter of this machine runs, which is that of a host in real time too.
//!
//! A host finds it out for itself twice: roughly as it boots, by counting ticks while QEMU may be kept
//! from a processor, and well two seconds later. KVM that is built in takes the rough one for what the
//! counters of guests are to run at; one part in four thousand off (`kvm.tsc_tolerance_ppm`), it finds
//! its own too fast or too slow for them, and their timers go off tens of seconds late. The host is
//! told instead (`tsc_early_khz`).

use std::arch::x86_64::_rdtsc;
use std::sync::LazyLock;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long it is watched.
const WATCHED: Duration = Duration::from_millis(50);
/// How often the counter is read for one good pair of counter and time.
const READINGS: usize = 16;

/// Thousands of counts in a second of the monotonic clock, to within some parts in a hundred thousand.
pub(crate) fn khz() -> u64 {
    static KHZ: LazyLock<u64> = LazyLock::new(measure);
    *KHZ
}

fn measure() -> u64 {
    let (counted, at) = read();
    sleep(WATCHED);
    let (later, then) = read();
    let nanoseconds = (then - at).as_nanos().max(1);
    u64::try_from(u128::from(later.wrapping_sub(counted)) * 1_000_000 / nanoseconds).unwrap_or(0)
}

/// The counter and the time: of several pairs the one between whose two readings of the counter the
/// least happened.
fn read() -> (u64, Instant) {
    let counter = || {
        // SAFETY: every processor that runs this program in 64-bit mode has the instruction, and it
        // touches no memory.
        unsafe { _rdtsc() }
    };
    let readings = (0..READINGS).map(|_| {
        let before = counter();
        let at = Instant::now();
        let took = counter().wrapping_sub(before);
        (took, before.wrapping_add(took / 2), at)
    });
    let (_, counted, at) = readings.min_by_key(|(took, ..)| *took).expect("more than none");
    (counted, at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_measurements_agree_better_than_kvm_demands() {
        // Where the clock of this machine was set forward between, or no counter runs, this says so.
        let (one, other) = (measure(), measure());
        assert!(one > 100_000, "{one} kHz");
        assert!(one.abs_diff(other) * 8000 < one, "{one} and {other} kHz");
    }
}
