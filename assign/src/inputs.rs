//! What a plan and a choice are made from, beside the host and the documents.

use policies::{Driver, Guest, Policy};
use sriov::facts::reader::Reader;
use sriov::facts::variant::Variants;
use sriov::{HostRoot, HostSnapshot};

use crate::choose::Previous;
use crate::failure::Failure;
use crate::plan::{self, Known, Plan, Reasons};
use crate::state::{Applied, Lease, State};

/// Everything that is known beside the host itself.
#[derive(Debug, Clone, Default)]
pub struct Inputs {
    /// Leases that hold their devices.
    pub leases: Vec<Lease>,
    /// Policies that were applied.
    pub applied: Vec<Applied>,
    /// What guests had before.
    pub previous: Vec<Previous>,
    /// Variants of vfio-pci, where a policy asks for them and somebody knows.
    pub variants: Option<Variants>,
    /// What could not be read and is done without.
    pub notes: Vec<String>,
}

impl Inputs {
    /// Reads what planning for `policies` on a host needs.
    ///
    /// # Errors
    /// The state cannot be read.
    pub fn read(root: &HostRoot, state: &State, policies: &[Policy]) -> Result<Inputs, Failure> {
        let (mut variants, mut notes) = (None, Vec::new());
        // The list of a kernel's modules is long: it is read for those who ask for it.
        if wants_variants(policies) {
            let mut reader = Reader::new(root);
            variants = Some(Variants::read(&mut reader));
            let problems = reader.problems.iter();
            notes.extend(
                problems.map(|problem| format!("no variant driver is known: {}", problem.cause)),
            );
        }
        Ok(Inputs {
            leases: state.leases(root)?,
            applied: state.applied()?,
            previous: state.choices()?,
            variants,
            notes,
        })
    }

    /// The plan for `policies`, and what `guests` would get after it.
    pub fn plan(
        &self,
        host: &HostSnapshot,
        policies: &[Policy],
        guests: &[Guest],
        reasons: Reasons,
    ) -> Plan {
        let mut plan = plan::plan_with(host, policies, guests, self.known(reasons));
        plan.notes.extend(self.notes.iter().cloned());
        plan
    }

    /// The same by reference, for a plan.
    pub fn known(&self, reasons: Reasons) -> Known<'_> {
        Known {
            leases: &self.leases,
            applied: &self.applied,
            previous: &self.previous,
            variants: self.variants.as_ref(),
            reasons,
        }
    }
}

/// Whether a policy leaves the choice of a vfio driver to us.
pub fn wants_variants(policies: &[Policy]) -> bool {
    let mut pools = policies.iter().flat_map(|policy| &policy.pools);
    pools.any(|pool| pool.driver == Driver::Auto)
}
