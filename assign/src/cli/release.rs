//! `assign release`: gives devices back to the drivers they had before `assign bind`.

use clap::Args;
use sriov::{Change, HostSnapshot, PciAddress, PciFunction, Target};

use super::force::{self, Force};
use super::{Context, apply, device};
use crate::apply::policies::Report;
use crate::failure::{Failure, OwnReason};
use crate::plan::vfs;
use crate::state::{Applied, Original};

/// Arguments of `assign release`.
#[derive(Debug, Args)]
pub struct Release {
    /// PCI addresses, or interface names.
    #[arg(value_name = "DEVICE", required_unless_present = "force")]
    devices: Vec<String>,
    /// Give back every other device of their IOMMU groups as well.
    #[arg(long)]
    group: bool,
    #[command(flatten)]
    force: Force,
}

impl Release {
    pub fn run(&self, context: &Context) -> Result<u8, Failure> {
        let names = [self.devices.as_slice(), self.force.names()].concat();
        let operation = device::begin(context, "release", &names)?;
        let snapshot = HostSnapshot::read(&context.root);
        let named = device::find_all(&snapshot, &names)?;
        let functions = match self.group {
            true => device::with_groups(&snapshot, &named),
            false => named.clone(),
        };
        let devices: Vec<PciAddress> = functions.iter().map(|function| function.address).collect();
        let forced = self.force.find(&snapshot, &devices)?;
        let leases = context.state.leases(&context.root)?;
        let applied = context.state.applied()?;
        let originals = context.state.originals(&context.root, operation.boot_id())?;
        let (mut changes, mut notes) = (Vec::new(), Vec::new());
        for function in &functions {
            if let Some(lease) = leases.iter().find(|lease| lease.device == function.address) {
                return Err(vfs::leased(lease, "give it back"));
            }
            let original = originals.iter().find(|known| known.device == function.address);
            if original.is_none() && !named.contains(function) {
                // Of the group, and nothing of ours.
                continue;
            }
            let Some(change) = restore(function, original, &applied)? else { continue };
            if let Some(failure) = force::carries(&snapshot, function, &forced) {
                return Err(failure);
            }
            device::check_open(context, function, "give it back")?;
            changes.push(force::step(
                &context.root,
                &snapshot,
                change,
                &[function.address],
                &forced,
            ));
            notes.extend(original.and_then(set_up_again));
        }
        let operation = operation.perform_all(&changes)?;
        let report = Report { changes: operation.done(), notes };
        operation
            .commit(|state| devices.iter().try_for_each(|device| state.forget_original(*device)))?;
        apply::show(context, &report, "nothing to do: assign did not bind them")?;
        Ok(0)
    }
}

/// A device comes back by itself, what it carried does not.
fn set_up_again(original: &Original) -> Option<String> {
    let lost = original.lost.join(", ");
    (!lost.is_empty())
        .then(|| format!("the host lost {lost} when it was taken by force: set that up again"))
}

/// How one device is given back. A VF of an applied policy is the policy's: releasing it would only
/// make the host differ from what it says.
fn restore(
    function: &PciFunction,
    original: Option<&Original>,
    applied: &[Applied],
) -> Result<Option<Change>, Failure> {
    let device = Target::Function(function.address);
    let from = sriov::act::bind::binding(function);
    match original {
        Some(original) if original.binding.same_hands(&from) => Ok(None),
        Some(original) => Ok(Some(Change::Restore { device, from, to: original.binding.clone() })),
        None if function.driver_override.is_none() => Ok(None),
        None => Err(match applied.iter().find(|applied| has(applied, function)) {
            Some(applied) => of_policy(function, &applied.policy.name),
            None => unknown(function),
        }),
    }
}

/// Whether a policy bound this VF, on whichever boot.
fn has(applied: &Applied, function: &PciFunction) -> bool {
    applied.changes.iter().any(|change| match (change.plain(), function.vf_of) {
        (Change::Bind { device: Target::Vf(vf), .. }, Some(own)) => *vf == own,
        _ => false,
    })
}

fn of_policy(function: &PciFunction, policy: &str) -> Failure {
    let message = format!("will not be given back: policy {policy}, which is applied, has it");
    Failure::refused(OwnReason::UsedByPolicy, function.address, message).with_remedy(format!(
        "`assign remove` with the file of {policy} gives back all it has. To lend this one to the \
         host, use `assign bind --driver DRIVER {}`; `assign release` ends that.",
        function.address
    ))
}

fn unknown(function: &PciFunction) -> Failure {
    let message = "was not bound with `assign bind` on this boot, so whose it was is not known";
    Failure::bad_input(OwnReason::NotApplied, function.address, message)
        .with_remedy("Name the driver that is to have it with `assign bind --driver DRIVER`.")
}
