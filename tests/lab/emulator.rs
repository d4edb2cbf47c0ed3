//! Faults of the emulator itself, which say nothing about what runs in it.
//!
//! QEMU 10.0 with two emulated processors now and then tripped over an assertion of its own
//! (`iotlb_to_section`), and more seldom lost one of the processors: it slept and no interrupt
//! woke it again, and the other's kernel reported it as stalled. More seldom still, a processor ran
//! into a breakpoint that the kernel had set while it exchanged an instruction of its own, and had
//! taken away since: QEMU had translated the code in between. Hosts have one processor since, with
//! which none of these has been seen, and still no program in a machine is to be able to do any of
//! them. A scenario that fails in such a machine is tried again; one that fails in a
//! sound machine is not, so that what is rare in our own programs stays visible. The test runner
//! counts such scenarios as flaky and shows what the failed attempt printed.

use std::path::PathBuf;
use std::{env, fs};

use anyhow::{Result, bail};

use crate::machine::{State, contains};

/// What the kernel says, on the console, of a processor that does nothing any more, not even take
/// the interrupts of its clock.
const LOST: [&str; 2] = ["rcu_preempt detected stalls", "(0 ticks this GP)"];

/// What the kernel says of a breakpoint in its own code that it knows nothing of.
const STALE_BREAKPOINT: &str = "Oops: int3: 0000 [";

/// What a guest's kernel says that found its way in from user space without its own GS base, each fault
/// of which leads to the next: it was interrupted in the few instructions before it swaps the two, with
/// interrupts off. KVM alone gives interrupts to guests, by what the processor tells it of that flag; no
/// program of ours can.
const STRAY_INTERRUPT: &str = "BUG: ENTRY_TRAMPOLINE stack guard page was hit";

// The same within the kernel is worse to see: what was interrupted holds a lock, the interrupt's handler
// waits for it, and the guest spins with interrupts off for ever. Nothing outside of a guest ends such a
// loop or begins it. [`crate::monitor::Place::spins`] knows it.

/// What it says where it ends itself for an error in its own code, whichever that is. That it cannot
/// mount what it should, or that its first program ends, it says in other words.
const CRASHED: &str = "Kernel panic - not syncing: Fatal exception";

/// What is wrong with the emulator, if its machine shows it.
pub(crate) fn fault(state: &State) -> Option<&'static str> {
    if state.aborted {
        Some("QEMU has tripped over an assertion of its own")
    } else if LOST.iter().all(|text| contains(&state.console, text)) {
        Some("QEMU has lost one of the machine's processors")
    } else if contains(&state.console, STALE_BREAKPOINT) {
        Some("QEMU has executed an instruction that was no longer there")
    } else if state.jobs.values().any(|job| contains(&job.both, STRAY_INTERRUPT)) {
        Some("QEMU has interrupted a guest that had forbidden it")
    } else if state.spins {
        Some("QEMU has a guest wait for itself, with interrupts off")
    } else {
        None
    }
}

/// As [`fault`], of a machine whose kernel has not started our first program yet: where the kernel
/// crashes then, it is no scenario's doing. One that does so each time fails all the same.
pub(crate) fn boot_fault(state: &State) -> Option<&'static str> {
    let crashed = contains(&state.console, CRASHED);
    fault(state).or(crashed.then_some("the kernel has crashed while it started"))
}

/// Which attempt at a test this is, as the test runner tells it.
struct Attempt {
    /// One run of the runner, in which each test has one name.
    run: String,
    test: String,
    /// From 1.
    number: u32,
}

impl Attempt {
    /// None where no test runner has started us.
    fn this() -> Option<Self> {
        let number = env::var("NEXTEST_ATTEMPT").ok()?.parse().ok()?;
        let test = env::var("NEXTEST_TEST_NAME").ok()?;
        Some(Attempt { run: env::var("NEXTEST_RUN_ID").ok()?, test, number })
    }

    /// Where attempt `number` has left word of a fault.
    fn word(&self, number: u32) -> PathBuf {
        let name = format!("lab-fault-{}-{}-{number}", self.run, self.test.replace("::", "-"));
        env::temp_dir().join(name)
    }
}

/// Leaves word for the next attempt.
pub(crate) fn note(fault: &str) {
    eprintln!("lab: {fault}");
    if let Some(this) = Attempt::this() {
        // Without it the test fails, as it would have anyway.
        let _ = fs::write(this.word(this.number), fault);
    }
}

/// An error in the second attempt at a test that has failed in a sound machine.
pub(crate) fn may_try() -> Result<()> {
    let Some(this) = Attempt::this() else { return Ok(()) };
    if this.number < 2 {
        return Ok(());
    }
    let word = this.word(this.number - 1);
    let Ok(fault) = fs::read_to_string(&word) else {
        bail!(
            "not tried again: the attempt before this one failed, by what it printed, in a \
             machine without a fault"
        );
    };
    eprintln!("lab: tried again, because in the attempt before {fault}");
    // A test may start several machines: each of them asks.
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::JobState;

    #[test]
    fn a_processor_is_lost_when_it_no_longer_ticks() {
        let of = |console: &str| {
            let mut state = State::default();
            state.console = console.as_bytes().to_vec();
            fault(&state).is_some()
        };
        let stall = "rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:\n";
        assert!(of(&format!("{stall}rcu: 0-...!: (0 ticks this GP) idle=4848/0/0x0")));
        assert!(!of(&format!("{stall}rcu: 0-...!: (5249 ticks this GP) idle=4848/0/0x0")));
        assert!(!of("reboot: Power down"));
    }

    #[test]
    fn a_kernel_that_crashes_is_at_fault_only_before_our_programs_run() {
        let mut state = State::default();
        state.console = b"Kernel panic - not syncing: Fatal exception in interrupt".to_vec();
        assert!(boot_fault(&state).is_some());
        assert!(fault(&state).is_none());
        state.console = b"Oops: int3: 0000 [#1] PREEMPT SMP NOPTI".to_vec();
        assert!(fault(&state).is_some());
        state.console = b"Kernel panic - not syncing: Attempted to kill init!".to_vec();
        assert!(boot_fault(&state).is_none());
    }

    #[test]
    fn a_guest_that_crashes_is_no_fault_unless_it_was_interrupted_on_its_way_into_its_kernel() {
        let of = |output: &str| {
            let mut job = JobState::new("assign run".to_owned());
            job.both = output.as_bytes().to_vec();
            let mut state = State::default();
            state.jobs.insert(1, job);
            fault(&state).is_some()
        };
        assert!(of(
            "[    8.314672] BUG: ENTRY_TRAMPOLINE stack guard page was hit at 0000000090037"
        ));
        assert!(!of("[    8.314672] BUG: TASK stack guard page was hit at 00000000900379f6"));
    }

    #[test]
    fn an_assertion_is_a_fault() {
        let mut state = State::default();
        assert!(fault(&state).is_none());
        state.aborted = true;
        assert!(fault(&state).is_some());
    }
}
