//! `assign vf`: virtual functions, one PF at a time.
//!
//! A VF is named by its address, by its PF and number (`eth0/0`), or by its own interface.

use clap::Subcommand;
use sriov::{Change, HostSnapshot, PciAddress, PciFunction, PfFacts, Reason, Target, VfRef};

use super::force::{self, Force};
use super::{Context, device};
use crate::failure::Failure;
use crate::plan::vfs;
use crate::state::Lease;

mod create;
mod destroy;
mod drain;
mod list;
mod set;

/// Verbs of `assign vf`.
#[derive(Debug, Subcommand)]
pub enum Vf {
    /// Create VFs on a physical function (PF).
    Create(create::Create),
    /// List VFs with their settings.
    List(list::List),
    /// Set address, VLAN, trust, rates and more of VFs.
    Set(set::Set),
    /// Destroy all VFs of a physical function (PF).
    Destroy(destroy::Destroy),
}

impl Vf {
    pub fn run(&self, context: &Context) -> Result<u8, Failure> {
        match self {
            Vf::Create(verb) => verb.run(context),
            Vf::List(verb) => verb.run(context),
            Vf::Set(verb) => verb.run(context),
            Vf::Destroy(verb) => verb.run(context),
        }
    }
}

/// All VFs of a PF are to go: refuses where one is in use that is not to be taken by force; returns
/// those that are.
fn going(
    context: &Context,
    snapshot: &HostSnapshot,
    facts: &PfFacts,
    force: &Force,
) -> Result<Vec<PciAddress>, Failure> {
    let leases = held(context, facts)?;
    let forced = unused(snapshot, facts, force, &leases)?;
    match leases.first() {
        Some(lease) => Err(vfs::leased(lease, "destroy it with the other VFs of its PF")),
        None => Ok(forced),
    }
}

/// The leases on the VFs of a PF.
fn held(context: &Context, facts: &PfFacts) -> Result<Vec<Lease>, Failure> {
    let mut leases = context.state.leases(&context.root)?;
    leases.retain(|lease| facts.vfs.values().any(|vf| *vf == lease.device));
    Ok(leases)
}

/// Refuses where the host uses one of the VFs that no guest has and that is not to be taken by force;
/// returns those that are.
fn unused(
    snapshot: &HostSnapshot,
    facts: &PfFacts,
    force: &Force,
    leases: &[Lease],
) -> Result<Vec<PciAddress>, Failure> {
    let vfs: Vec<PciAddress> = facts.vfs.values().copied().collect();
    let forced = force.find(snapshot, &vfs)?;
    let is_leased = |vf: &PciAddress| leases.iter().any(|lease| lease.device == *vf);
    let functions = vfs.iter().filter(|vf| !is_leased(vf)).filter_map(|vf| snapshot.function(*vf));
    for function in functions {
        if let Some(failure) = force::carries(snapshot, function, &forced) {
            return Err(failure);
        }
    }
    Ok(forced)
}

/// Marks the steps that take VFs by force as such.
fn by_force(
    context: &Context,
    snapshot: &HostSnapshot,
    facts: &PfFacts,
    changes: &mut [Change],
    forced: &[PciAddress],
) {
    let all: Vec<PciAddress> = facts.vfs.values().copied().collect();
    for change in changes {
        let taken = match &*change {
            Change::SetVfCount { to: 0, .. } => all.clone(),
            // Before that, the host's driver lets go of it.
            Change::Restore { device: Target::Vf(vf), to, .. } if to.driver.is_none() => {
                facts.vfs.get(&vf.index).into_iter().copied().collect()
            }
            _ => continue,
        };
        *change = force::step(&context.root, snapshot, change.clone(), &taken, forced);
    }
}

fn find_pf<'a>(
    snapshot: &'a HostSnapshot,
    name: &str,
) -> Result<(&'a PciFunction, &'a PfFacts), Failure> {
    let function = device::find(snapshot, name)?;
    match &function.sriov {
        Some(facts) => Ok((function, facts)),
        None => {
            let (message, remedy) = match function.vf_of {
                Some(vf) => ("is a VF itself".to_owned(), format!("Name its PF, {}.", vf.pf)),
                None => (
                    "has no SR-IOV capability, so it cannot have VFs".to_owned(),
                    "`assign devices` shows how many VFs each device can have; some cards need \
                     SR-IOV enabled in their firmware first."
                        .to_owned(),
                ),
            };
            Err(Failure::bad_input(Reason::NotSriov, function.address, message).with_remedy(remedy))
        }
    }
}

/// A VF that is there now.
#[derive(Debug, Clone, Copy)]
struct Found<'a> {
    vf: VfRef,
    function: &'a PciFunction,
    pf: &'a PciFunction,
    facts: &'a PfFacts,
}

/// The VF that a person means by `PF/N`, by its address or by its interface.
///
/// # Errors
/// There is no such PF or VF, or it is no VF.
fn find_vf<'a>(snapshot: &'a HostSnapshot, name: &str) -> Result<Found<'a>, Failure> {
    let absent = |thing: String, message: String| {
        Failure::bad_input(Reason::NoSuchDevice, thing, message)
            .with_remedy("`assign vf list` lists the VFs there are.")
    };
    let address = match name.split_once('/') {
        // No interface has a slash in its name.
        Some((pf, index)) => {
            let (pf, facts) = find_pf(snapshot, pf)?;
            let number =
                index.bytes().all(|byte| byte.is_ascii_digit()).then(|| index.parse().ok());
            let at = number.flatten().and_then(|index: u16| facts.vfs.get(&index));
            *at.ok_or_else(|| {
                let shown: String = index.chars().filter(|c| !c.is_control()).take(16).collect();
                let has = match facts.present {
                    0 => "it has none".to_owned(),
                    1 => "it has VF 0 only".to_owned(),
                    present => format!("it has VF 0 to {}", present - 1),
                };
                absent(pf.address.to_string(), format!("has no VF {shown:?}: {has}"))
            })?
        }
        None => device::find(snapshot, name)?.address,
    };
    let found = || {
        let function = snapshot.function(address)?;
        let vf = function.vf_of?;
        let pf = snapshot.function(vf.pf)?;
        Some(Found { vf, function, pf, facts: pf.sriov.as_ref()? })
    };
    found().ok_or_else(|| {
        absent(address.to_string(), "is no VF".to_owned())
            .with_remedy("Name a VF, such as eth0/0; `assign vf list` lists those there are.")
    })
}

/// How a VF is named for `vf set` and the like: `eth0/3`, or by the address of its PF.
fn name_of(snapshot: &HostSnapshot, pf: PciAddress, index: u16) -> String {
    let port = snapshot.function(pf).and_then(|pf| snapshot.port_of(pf));
    match port {
        Some(port) => format!("{}/{index}", port.name),
        None => format!("{pf}/{index}"),
    }
}
