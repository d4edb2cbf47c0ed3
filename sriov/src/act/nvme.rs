//! Sharing an NVMe drive's queues and interrupts between its functions, and setting the virtual ones
//! online. Each step may have been interrupted in the middle: it is finished, or taken back, from
//! where it stopped.

use super::{Done, function, locate, stale};
use crate::address::{PciAddress, VfRef};
use crate::change::Target;
use crate::facts::iov;
use crate::facts::reader::Reader;
use crate::failure::{ChangeError, Reason};
use crate::isolation::is_vfio_driver;
use crate::nvme::controller::{self, Controller};
use crate::nvme::{LEAST_INTERRUPTS, LEAST_QUEUES, NvmeFacts, Secondary, SecondaryState, Share};
use crate::root::HostRoot;
use crate::vfio;

/// Sets what the primary controller has of the pool, which takes a reset of its function. With VFs
/// that would take them down as well, so there must be none.
pub fn set_primary(
    root: &HostRoot,
    pf: PciAddress,
    from: Share,
    to: Share,
) -> Result<Done, ChangeError> {
    let controller = Controller::open(root, pf)?;
    let facts = controller.facts()?;
    let present = facts.primary();
    if present == to {
        // What an interrupted step has asked for would come with the next reset, and shows nowhere.
        if from != to {
            controller.ask_for(&facts, to)?;
        }
        return Ok(Done::Already);
    }
    if !between(present.queues, from.queues, to.queues)
        || !between(present.interrupts, from.interrupts, to.interrupts)
    {
        return Err(stale(pf, &present.to_string(), &from.to_string()));
    }
    let vfs = iov::vfs(&mut Reader::new(root), pf).len();
    if vfs > 0 {
        let message = format!("will not reset it: that would take its {vfs} VFs down");
        return Err(ChangeError::new(Reason::HasVfs, pf, message)
            .with_remedy(format!("Destroy them with `assign vf destroy {pf}` first.")));
    }
    check_enough_left(pf, &facts, to)?;
    controller.ask_for(&facts, to)?;
    // Held open, the file keeps nobody from anything; but the name may be another's after a reset.
    drop(controller);
    controller::reset(root, pf)?;
    let after = Controller::open(root, pf)?.facts()?.primary();
    if after == to {
        return Ok(Done::Changed);
    }
    let message = format!("its share was set to {to}, and after its reset is {after}");
    Err(ChangeError::new(Reason::NotObserved, pf, message))
}

/// The drive carries what the host put on it: it must go on working.
fn check_enough_left(pf: PciAddress, facts: &NvmeFacts, to: Share) -> Result<(), ChangeError> {
    let queues = u32::from(facts.queues.private) + u32::from(to.queues);
    let interrupts = u32::from(facts.interrupts.private) + u32::from(to.interrupts);
    if queues >= LEAST_QUEUES.into() && interrupts >= LEAST_INTERRUPTS.into() {
        return Ok(());
    }
    let message = format!(
        "will not leave it {queues} queues and {interrupts} interrupts: with less than \
         {LEAST_QUEUES} and {LEAST_INTERRUPTS} its disks would be gone"
    );
    Err(ChangeError::new(Reason::HostUsesDevice, pf, message).with_remedy("Ask for fewer VFs."))
}

/// Gives a VF's controller its share and sets it online, or offline.
pub fn set_secondary(
    root: &HostRoot,
    vf: VfRef,
    id: u16,
    from: SecondaryState,
    to: SecondaryState,
) -> Result<Done, ChangeError> {
    let controller = Controller::open(root, vf.pf)?;
    let facts = controller.facts()?;
    let before = secondary(&facts, vf, id)?;
    let present = before.state;
    if present == to {
        return Ok(Done::Already);
    }
    // On its way it is offline with nothing for a moment.
    let expected = |now, from, to| now == 0 || between(now, from, to);
    if !expected(present.queues, from.queues, to.queues)
        || !expected(present.interrupts, from.interrupts, to.interrupts)
        || (present.online && !from.online && !to.online)
    {
        return Err(stale(vf, &present.to_string(), &from.to_string()));
    }
    check_free(root, vf)?;
    let mut now = before;
    // One that is offline gives back all it has in the same way.
    if present.online || to == SecondaryState::default() {
        controller.set_online(id, false)?;
        now = secondary(&controller.facts()?, vf, id)?;
    }
    controller.assign(&facts, &now, to.share())?;
    if to.online {
        controller.set_online(id, true)?;
    }
    let after = secondary(&controller.facts()?, vf, id)?.state;
    if after == to {
        return Ok(Done::Changed);
    }
    let message = format!("its controller {id} was to have {to}, and has {after}");
    Err(ChangeError::new(Reason::NotObserved, vf, message))
}

fn between(now: u16, from: u16, to: u16) -> bool {
    now == from || now == to
}

/// The secondary controller of a VF, which has to be the one that was planned with.
fn secondary(facts: &NvmeFacts, vf: VfRef, id: u16) -> Result<Secondary, ChangeError> {
    match facts.secondaries.get(&vf.index) {
        Some(secondary) if secondary.controller == id => Ok(*secondary),
        Some(other) => {
            let found = format!("controller {}", other.controller);
            Err(stale(vf, &found, &format!("controller {id}")))
        }
        None => {
            let message = format!("{} has no secondary controller for it", facts.name);
            Err(ChangeError::new(Reason::NoSuchDevice, vf, message))
        }
    }
}

/// Nobody may be at work with a controller that goes offline for a moment, or for good.
fn check_free(root: &HostRoot, vf: VfRef) -> Result<(), ChangeError> {
    // There may be no such VF: what is left of one is cleared away too.
    let Ok(address) = locate(root, Target::Vf(vf)) else { return Ok(()) };
    match function(root, address)?.driver.as_deref() {
        None => Ok(()),
        Some(driver) if is_vfio_driver(driver) => match vfio::users(root, address).first() {
            None => Ok(()),
            Some(user) => {
                let message = format!("will not set it up anew: it is in use by {user}");
                Err(ChangeError::new(Reason::DeviceOpen, vf, message)
                    .with_remedy("Stop the guest that has it first."))
            }
        },
        Some(driver) => {
            let message = format!("will not set it up anew under its driver {driver}");
            Err(ChangeError::new(Reason::HostUsesDevice, vf, message)
                .with_remedy(format!("Unbind it first: `assign bind {address}`.")))
        }
    }
}
