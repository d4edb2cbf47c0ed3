//! `assign bind`: gives devices to a driver, and remembers whose they were.

use clap::Args;
use sriov::facts::reader::Reader;
use sriov::facts::variant::Variants;
use sriov::isolation::{self, NotViable};
use sriov::snapshot::Scope;
use sriov::{Change, HostSnapshot, PciAddress, PciFunction, Target, vfio};

use super::force::{self, Force};
use super::{Context, apply, device};
use crate::apply::policies::Report;
use crate::failure::{Failure, OwnReason};
use crate::state::{Original, originals};

mod check;

use check::{Against, Wanted};

/// Stands for vfio-pci, or the variant of it that is made for a device.
const AUTO: &str = "auto";

/// Arguments of `assign bind`.
#[derive(Debug, Args)]
pub struct Bind {
    /// PCI addresses, or interface names.
    #[arg(value_name = "DEVICE", required_unless_present = "force")]
    devices: Vec<String>,
    /// The driver that gets them; auto: vfio-pci, or its variant by the device's vendor.
    #[arg(long, value_name = "DRIVER", default_value = AUTO)]
    driver: String,
    /// Take every other device of their IOMMU groups as well; bridges stay.
    #[arg(long)]
    group: bool,
    #[command(flatten)]
    force: Force,
    /// Without an IOMMU, use the kernel's no-IOMMU mode: the device then reaches all of the host's
    /// memory.
    #[arg(long)]
    no_iommu: bool,
}

impl Bind {
    pub fn run(&self, context: &Context) -> Result<u8, Failure> {
        let names = [self.devices.as_slice(), self.force.names()].concat();
        let operation = device::begin(context, "bind", &names)?;
        let snapshot = HostSnapshot::read(&context.root);
        let functions = self.functions(&snapshot, &names)?;
        let together: Vec<PciAddress> = functions.iter().map(|one| one.address).collect();
        let forced = self.force.find(&snapshot, &together)?;
        let leases = context.state.leases(&context.root)?;
        let wanted = Wanted {
            snapshot: &snapshot,
            leases: &leases,
            together: &together,
            forced: &forced,
            no_iommu: self.no_iommu(context)?,
        };
        let mut notes = isolation_notes(&snapshot);
        let variants = self.variants(context, &mut notes);
        let mut changes = Vec::new();
        for function in functions {
            let driver = self.driver_for(function, &variants);
            if function.driver.as_deref() == Some(driver) {
                continue;
            }
            if let Err(against) = wanted.check(function, driver) {
                return Err(refused(context, &wanted, function, against));
            }
            device::check_open(context, function, &format!("bind it to {driver}"))?;
            let bind = Change::Bind {
                device: Target::Function(function.address),
                from: sriov::act::bind::original(&snapshot, function),
                driver: driver.to_owned(),
            };
            changes.push(force::step(&context.root, &snapshot, bind, &[function.address], &forced));
        }
        let operation = operation.perform_all(&changes)?;
        let report = Report { changes: operation.done(), notes };
        let originals = originals(&report.changes, operation.boot_id(), context);
        operation.commit(|state| {
            originals.iter().try_for_each(|original| state.remember_original(original))
        })?;
        let driver = if self.driver == AUTO { "a vfio driver" } else { &self.driver };
        apply::show(context, &report, &format!("nothing to do: bound to {driver} already"))?;
        Ok(0)
    }

    /// The variants that may be chosen from. A list that cannot be read is noted, since vfio-pci does
    /// for every device.
    fn variants(&self, context: &Context, notes: &mut Vec<String>) -> Variants {
        if self.driver != AUTO {
            return Variants::default();
        }
        let mut reader = Reader::new(&context.root);
        let variants = Variants::read(&mut reader);
        let problems = reader.problems.iter();
        notes.extend(
            problems.map(|problem| format!("no variant driver is known: {}", problem.cause)),
        );
        variants
    }

    /// The devices that were named, and with `--group` all endpoints that share a group with one.
    fn functions<'a>(
        &self,
        snapshot: &'a HostSnapshot,
        names: &[String],
    ) -> Result<Vec<&'a PciFunction>, Failure> {
        let named = device::find_all(snapshot, names)?;
        Ok(if self.group { device::with_groups(snapshot, &named) } else { named })
    }

    /// One that has a vfio driver was given away already, by whatever way: `auto` is content with it.
    fn driver_for<'a>(&'a self, function: &'a PciFunction, variants: &'a Variants) -> &'a str {
        match (self.driver.as_str(), function.driver.as_deref()) {
            (AUTO, Some(driver)) if isolation::is_vfio_driver(driver) => driver,
            (AUTO, _) => variants.best_for(function),
            (driver, _) => driver,
        }
    }

    fn no_iommu(&self, context: &Context) -> Result<bool, Failure> {
        if self.no_iommu && !vfio::no_iommu_mode(&context.root) {
            let message = "has its no-IOMMU mode off, or vfio is not loaded";
            let failure = Failure::refused(OwnReason::NoIommu, "the kernel", message);
            return Err(failure.with_remedy(
                "If devices may reach all of the host's memory: `modprobe vfio \
                 enable_unsafe_noiommu_mode=1`.",
            ));
        }
        Ok(self.no_iommu)
    }
}

/// The refusal to bind a device, with what this command could do about it.
fn refused(
    context: &Context,
    wanted: &Wanted<'_>,
    function: &PciFunction,
    against: Against,
) -> Failure {
    match against {
        Against::Protected(failure) => failure,
        Against::NotViable(cause) => {
            not_viable(context, function, explained(context, wanted, function, cause))
        }
    }
}

/// The cause again, with the access controls of the devices themselves: for a refusal they are worth
/// waking for.
fn explained(
    context: &Context,
    wanted: &Wanted<'_>,
    function: &PciFunction,
    cause: NotViable,
) -> NotViable {
    if !matches!(cause, NotViable::Neighbours { .. }) {
        return cause;
    }
    let whole = HostSnapshot::read_within(&context.root, Scope::Whole);
    let again = whole.function(function.address);
    let again = again.map(|device| isolation::viability(&whole, device, wanted.together));
    again.and_then(Result::err).unwrap_or(cause)
}

/// A device that cannot be given away by itself, with what could be done by this command.
fn not_viable(context: &Context, function: &PciFunction, cause: NotViable) -> Failure {
    let failure = Failure::not_viable(function.address, &cause);
    let remedy = cause.remedy();
    match cause {
        NotViable::NoGroup { .. } if vfio::no_iommu_mode(&context.root) => {
            failure.with_remedy(format!(
                "{remedy} The kernel's no-IOMMU mode, which is on, isolates nothing; `--no-iommu` \
                 says that you want it all the same."
            ))
        }
        NotViable::NoGroup { .. } | NotViable::Reserved { .. } | NotViable::PfGivenAway { .. } => {
            failure
        }
        NotViable::Neighbours { .. } => {
            failure.with_remedy(format!("{remedy} `--group` takes all devices of the group."))
        }
    }
}

/// What makes groups look smaller than they are.
fn isolation_notes(snapshot: &HostSnapshot) -> Vec<String> {
    isolation::pretended(snapshot).map(str::to_owned).into_iter().collect()
}

/// How the devices of the bindings among `changes` were before.
pub fn originals(changes: &[Change], boot_id: &str, context: &Context) -> Vec<Original> {
    let original = |change: &Change| {
        let Change::Bind { device, from, driver } = change.plain() else { return None };
        let address = sriov::act::locate(&context.root, *device).ok()?;
        let lost = match change {
            Change::Forced { lost, .. } => lost.clone(),
            _ => Vec::new(),
        };
        Some(Original {
            device: address,
            vf: device::vf_of(&context.root, *device),
            instance: originals::instance(&context.root, address),
            binding: from.clone(),
            given_to: driver.clone(),
            lost,
            boot_id: boot_id.to_owned(),
        })
    };
    changes.iter().filter_map(original).collect()
}
