//! `assign detach`: takes a device from a running guest.

use clap::Args;
use sriov::HostSnapshot;

use super::{Context, Format, confirm, device, output};
use crate::control::route::Route;
use crate::control::{Detach as Wanted, Detached, PATIENCE, client};
use crate::failure::Failure;

/// Arguments of `assign detach`.
#[derive(Debug, Args)]
pub struct Detach {
    /// The guest's name.
    #[arg(value_name = "GUEST")]
    guest: String,
    /// A PCI address of this host.
    #[arg(value_name = "DEVICE")]
    device: String,
    /// How long the guest may take to let it go.
    #[arg(long, value_name = "SECONDS", default_value_t = PATIENCE)]
    timeout: u64,
    /// Then take it all the same. What the guest's driver has under way with it is lost: packets, or
    /// writes to a disk that the guest takes for done. The guest's kernel may crash.
    #[arg(long)]
    force: bool,
}

impl Detach {
    pub fn run(&self, context: &Context) -> Result<u8, Failure> {
        let snapshot = HostSnapshot::read(&context.root);
        let device = device::find(&snapshot, &self.device)?.address;
        if self.force {
            let what = format!(
                "take {device} from {} whatever its guest does with it, losing what is under way",
                self.guest
            );
            confirm::ask(context, &self.guest, &what)?;
        }
        let wanted = Wanted { device, timeout: self.timeout, force: self.force };
        let detached: Detached =
            client::ask(&context.root, &self.guest, Route::Detach, Some(&wanted))?;
        output::value(context.format, &detached)?;
        if context.format == Format::Table {
            output::text_out(&format!("{} {}", self.guest, detached.told()))?;
            detached.notes.iter().try_for_each(|note| output::text_out(note))?;
        }
        Ok(0)
    }
}
