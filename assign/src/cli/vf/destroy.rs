//! `assign vf destroy`: takes all VFs of a PF away.

use clap::Args;
use sriov::Change;

use super::super::force::Force;
use super::super::{Context, apply, confirm, device};
use super::drain::Drain;
use super::{by_force, find_pf, going};
use crate::apply::policies::Report;
use crate::failure::Failure;
use crate::plan::{candidates, vfs};

/// Arguments of `assign vf destroy`.
#[derive(Debug, Args)]
pub struct Destroy {
    /// The PF: a PCI address or an interface name.
    #[arg(value_name = "PF")]
    pf: String,
    #[command(flatten)]
    force: Force,
    #[command(flatten)]
    drain: Drain,
}

impl Destroy {
    pub fn run(&self, context: &Context) -> Result<u8, Failure> {
        let asked = self.drain.run(context, &self.pf, 0, &self.force)?;
        let operation = device::begin(context, "vf destroy", std::slice::from_ref(&self.pf))?;
        let snapshot = context.state.look(&context.root)?;
        let (pf, facts) = find_pf(&snapshot, &self.pf)?;
        let forced = going(context, &snapshot, facts, &self.force)?;
        let drive = context.state.drive(pf.address)?;
        let mut changes = vfs::destroy(&snapshot, pf, drive.as_ref())?;
        by_force(context, &snapshot, facts, &mut changes, &forced);
        if let Some(change) = changes
            .iter()
            .find(|change| matches!(change, Change::SetNvmePrimary { used: Some(_), .. }))
            .filter(|_| !asked)
        {
            confirm::ask(context, &pf.address.to_string(), &change.action().to_string())?;
        }
        let operation = operation.perform_all(&changes)?;
        let applied = context.state.applied()?;
        let wanting = applied.iter().find(|applied| {
            let mut pools = applied.policy.pools.iter();
            pools.any(|pool| candidates::is_meant(&snapshot, pool, pf))
        });
        let notes = wanting.map(|applied| {
            format!(
                "policy {} wants VFs of it: `assign apply` makes them again",
                applied.policy.name
            )
        });
        let report = Report { changes: operation.done(), notes: notes.into_iter().collect() };
        operation.commit(|state| {
            state.forget_drive(pf.address)?;
            state.forget_originals_below(pf.address)?;
            facts.vfs.values().try_for_each(|vf| state.forget_original(*vf))
        })?;
        apply::show(context, &report, "nothing to do: it has no VFs")?;
        Ok(0)
    }
}
