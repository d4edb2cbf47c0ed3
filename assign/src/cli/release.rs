//! `assign release`: gives devices back to the drivers they had before `assign bind`.

use clap::Args;
use sriov::{Change, HostSnapshot, PciAddress, PciFunction, Target};

use super::{Context, apply, device};
use crate::apply::Operation;
use crate::apply::policies::Report;
use crate::failure::{Failure, OwnReason};
use crate::plan::vfs;
use crate::state::Original;

/// Arguments of `assign release`.
#[derive(Debug, Args)]
pub struct Release {
    /// PCI addresses, or interface names.
    #[arg(value_name = "DEVICE", required = true)]
    devices: Vec<String>,
}

impl Release {
    pub fn run(&self, context: &Context) -> Result<u8, Failure> {
        device::find_all(&HostSnapshot::read(&context.root), &self.devices)?;
        let mut operation = Operation::begin(&context.root, &context.state, "release")?;
        let snapshot = HostSnapshot::read(&context.root);
        let leases = context.state.leases(&context.root)?;
        let mut changes = Vec::new();
        let functions = device::find_all(&snapshot, &self.devices)?;
        for function in &functions {
            if let Some(lease) = leases.iter().find(|lease| lease.device == function.address) {
                return Err(vfs::leased(lease, "give it back"));
            }
            let original = context.state.original(function.address, operation.boot_id())?;
            changes.extend(restore(function, original)?);
        }
        for change in &changes {
            if let Err(error) = operation.perform(change) {
                return Err(operation.roll_back(error));
            }
        }
        let report = Report { changes: operation.done(), notes: Vec::new() };
        let devices: Vec<PciAddress> = functions.iter().map(|function| function.address).collect();
        operation
            .commit(|state| devices.iter().try_for_each(|device| state.forget_original(*device)))?;
        apply::show(context, &report, "nothing to do: the host has them already")?;
        Ok(0)
    }
}

fn restore(function: &PciFunction, original: Option<Original>) -> Result<Option<Change>, Failure> {
    let device = Target::Function(function.address);
    let from = sriov::act::bind::binding(function);
    match original {
        Some(original) if original.binding == from => Ok(None),
        Some(original) => Ok(Some(Change::Restore { device, from, to: original.binding })),
        None if function.driver_override.is_none() => Ok(None),
        None => {
            let message = "was not bound with `assign bind` on this boot, so whose it was is not \
                           known";
            Err(Failure::bad_input(OwnReason::NotApplied, function.address, message).with_remedy(
                "If a policy bound it, use `assign remove`; else name the driver with `assign \
                 bind --driver`.",
            ))
        }
    }
}
