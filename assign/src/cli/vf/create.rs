//! `assign vf create`: gives a PF its VFs.

use clap::{Args, value_parser};
use sriov::snapshot::Scope;
use sriov::{Change, HostSnapshot, PciFunction, Reason, isolation, udev};

use super::super::force::Force;
use super::super::{Context, apply, bind, confirm, device};
use super::drain::Drain;
use super::{by_force, find_pf, going};
use crate::apply::policies::Report;
use crate::failure::Failure;
use crate::plan::{candidates, vfs};
use crate::state::Drive;

/// Arguments of `assign vf create`.
#[derive(Debug, Args)]
pub struct Create {
    /// The PF: a PCI address or an interface name.
    #[arg(value_name = "PF")]
    pf: String,
    /// How many VFs it is to have.
    #[arg(value_name = "N", value_parser = value_parser!(u16).range(1..))]
    count: u16,
    /// Bind all of them to this driver, such as vfio-pci; else the host's drivers take them.
    #[arg(long, value_name = "DRIVER")]
    driver: Option<String>,
    #[command(flatten)]
    force: Force,
    #[command(flatten)]
    drain: Drain,
}

impl Create {
    pub fn run(&self, context: &Context) -> Result<u8, Failure> {
        let asked = self.drain.run(context, &self.pf, self.count, &self.force)?;
        let operation = device::begin(context, "vf create", std::slice::from_ref(&self.pf))?;
        // Where there are no VFs yet, nothing is taken from anybody, and nobody's uses are looked for;
        // but a drive may have to be reset for them, with all it carries.
        let functions = HostSnapshot::read_within(&context.root, Scope::Functions);
        let before = find_pf(&functions, &self.pf)?.1;
        let snapshot = match (before.present, &before.nvme) {
            (0, None) => functions,
            _ => HostSnapshot::read(&context.root),
        };
        let (pf, facts) = find_pf(&snapshot, &self.pf)?;
        if self.count > facts.total {
            let message = format!("cannot have {} VFs: its maximum is {}", self.count, facts.total);
            return Err(Failure::bad_input(Reason::TooManyVfs, pf.address, message)
                .with_remedy(format!("Ask for 1 to {}.", facts.total)));
        }
        if let Some(cause) = candidates::without_vfs(pf) {
            let message = format!("cannot have VFs now: {cause}");
            return Err(Failure::failed(Reason::DriverRefused, pf.address, message).with_remedy(
                "Give it back to its driver with `assign release` or `assign bind`.",
            ));
        }
        let to_guests = self.driver.as_deref().filter(|driver| isolation::is_vfio_driver(driver));
        if to_guests.is_some() && !snapshot.iommu.present {
            let remedy = snapshot.iommu.remedy().to_owned();
            let cause = isolation::NotViable::NoGroup { remedy };
            return Err(Failure::not_viable(pf.address, &cause));
        }
        let mut changes = Vec::new();
        if facts.present != self.count {
            let forced = going(context, &snapshot, facts, &self.force)?;
            changes = vfs::create(&snapshot, pf, self.count, self.driver.as_deref())?;
            by_force(context, &snapshot, facts, &mut changes, &forced);
        }
        if let Some(change) = changes.iter().find(|change| change.is_disruptive() && !asked) {
            confirm::ask(context, &pf.address.to_string(), &change.action().to_string())?;
        }
        let operation = operation.perform_all(&changes)?;
        let mut notes = note_link(&snapshot, pf);
        notes.extend(note_names(context));
        let report = Report { changes: operation.done(), notes };
        let originals = bind::originals(&report.changes, operation.boot_id(), context);
        let drives = Drive::of(&snapshot, &report.changes);
        operation.commit(|state| {
            // Those of VFs that went, or that somebody destroyed by other means.
            let resizes = |change: &Change| matches!(change.plain(), Change::SetVfCount { .. });
            if report.changes.iter().any(resizes) {
                state.forget_originals_below(pf.address)?;
            }
            drives.iter().try_for_each(|drive| state.remember_drive(drive))?;
            originals.iter().try_for_each(|original| state.remember_original(original))
        })?;
        let nothing = format!("nothing to do: it has {} VFs already", self.count);
        apply::show(context, &report, &nothing)?;
        Ok(0)
    }
}

fn note_link(snapshot: &HostSnapshot, pf: &PciFunction) -> Vec<String> {
    let down = snapshot.port_of(pf).filter(|port| !port.up);
    let note = down.map(|port| {
        format!("{} is down: its VFs have no link until `ip link set {} up`", port.name, port.name)
    });
    note.into_iter().collect()
}

/// Interfaces of new VFs have their last names once udev is through with them; the step that made
/// the VFs has waited for that.
fn note_names(context: &Context) -> Option<String> {
    (!udev::is_idle(&context.root)).then(|| {
        "udev is still at work: the names of new interfaces may change in a moment".to_owned()
    })
}
