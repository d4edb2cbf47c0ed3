//! `assign stop`: ends a running guest.

use std::thread::sleep;
use std::time::{Duration, Instant};

use clap::Args;
use vmm::spec::Departure;

use super::{Context, Format, output};
use crate::control::route::Route;
use crate::control::{PATIENCE, Running, Stop as Wanted, Stopped, client};
use crate::failure::{Failure, OwnReason};
use crate::state::Owner;

/// How long giving the devices back may take once the guest has ended.
const GIVEN_BACK_WITHIN: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Arguments of `assign stop`.
#[derive(Debug, Args)]
pub struct Stop {
    /// The guest's name.
    #[arg(value_name = "GUEST")]
    guest: String,
    /// How long the guest may take to power off after its power button was pressed. Then it is ended,
    /// and what it has not written to its disks is lost.
    #[arg(long, value_name = "SECONDS", default_value_t = PATIENCE)]
    timeout: u64,
    /// Ends it at once, as if its power were cut.
    #[arg(long, conflicts_with = "timeout")]
    now: bool,
}

impl Stop {
    pub fn run(&self, context: &Context) -> Result<u8, Failure> {
        let root = &context.root;
        let wanted = Wanted { timeout: if self.now { 0 } else { self.timeout } };
        let running: Running = client::ask(root, &self.guest, Route::State, None::<&()>)?;
        let launcher = Owner::of(root, running.launcher_pid);
        let stopped: Stopped = client::ask(root, &self.guest, Route::Stop, Some(&wanted))?;
        self.await_devices(context, launcher)?;
        output::value(context.format, &stopped)?;
        if context.format == Format::Table {
            output::text_out(&self.told(&stopped))?;
        }
        Ok(0)
    }

    fn told(&self, stopped: &Stopped) -> String {
        let guest = &self.guest;
        match stopped.by {
            Departure::Guest => format!("{guest} has powered off"),
            Departure::Forced if self.now => format!("{guest} was ended"),
            Departure::Forced => format!(
                "{guest} did not power off within {} s after its power button was pressed, and was ended",
                self.timeout
            ),
        }
    }

    /// Its devices and its name are free for others when this returns: its launcher has ended.
    fn await_devices(&self, context: &Context, launcher: Option<Owner>) -> Result<(), Failure> {
        let Some(launcher) = launcher else { return Ok(()) };
        let limit = Instant::now() + GIVEN_BACK_WITHIN;
        while Owner::of(&context.root, launcher.pid) == Some(launcher) {
            if Instant::now() >= limit {
                let message = "has ended, and its launcher still gives its devices back";
                return Err(Failure::failed(OwnReason::TimedOut, &self.guest, message)
                    .with_remedy("`assign status` shows what it holds."));
            }
            sleep(LOOK_AGAIN);
        }
        Ok(())
    }
}
