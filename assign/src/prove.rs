//! Proving that a device's DMA reaches what is mapped for it and nothing else, on the host at hand.
//!
//! ```text
//! fit ─► lease ─► VFIO files ─► Probe ─► Proof: control, strays ─► closed, reset ─► lease ends
//! ```
//! The device is taken as a guest takes it: nobody else gets it meanwhile, and `assign status` tells
//! who has it.

use std::sync::Arc;

use serde::Serialize;
use sriov::dma_fault::Faults;
use sriov::isolation::{self, is_vfio_driver};
use sriov::{HostRoot, HostSnapshot, PciAddress, PciFunction, Reason, vfio};
use vmm::vfio::probe::{Files, Pages, Probe};

use crate::apply::leases::{self, NotTaken, Used};
use crate::choose::Device;
use crate::failure::{Failure, OwnReason};
use crate::launch::vfio::{self as launch, Has, VfioFiles};
use crate::plan::vfs;
use crate::signals::Signals;
use crate::state::{Lease, State, unreset};

mod edu;
pub mod engine;
mod gate;
mod nvme;
mod proof;
mod step;

use engine::{Kind, PAGE};
use gate::Vfio;
use proof::{Broken, COUNT, KERNEL, Proof};
pub use step::{Outcome, Place, Step, Verdict};

/// Who has the device meanwhile. No guest's name has a space.
const OWNER: &str = "assign prove";

/// What was shown of a device.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The device.
    pub device: PciAddress,
    /// What kind of device it was taken for.
    pub engine: &'static str,
    /// What the steps show.
    pub verdict: Verdict,
    /// What was tried, in order.
    pub steps: Vec<Step>,
    /// What a person should know.
    pub notes: Vec<String>,
}

/// Makes a device try. `told` is told each step as it is done.
///
/// # Errors
/// Refuses a device that a guest has, that the host has, that is not behind an IOMMU, or of which it
/// is not known how to make it; or why it could not be tried.
pub fn prove(
    root: &HostRoot,
    state: &State,
    function: &PciFunction,
    host: &HostSnapshot,
    told: &dyn Fn(&Step),
) -> Result<Report, Failure> {
    let address = function.address;
    let leases = state.leases(root)?;
    let kind = fit(root, function, host, &leases)?;
    let faults = Faults::open_uncounted(root).map_err(|error| {
        let message = format!("/dev/kmsg cannot be read, and it tells of faults: {error}");
        Failure::failed(Reason::KernelRefused, address, message).with_remedy("Run this as root.")
    })?;
    let owner = leases::this_process(root, OWNER)?;
    let group = function.iommu_group;
    let lease = Lease { vf: function.vf_of, group, ..Lease::new(root, address, OWNER, owner) };
    leases::take(root, state, &[lease]).map_err(|error| match error {
        NotTaken::Failed(failure) | NotTaken::Device(_, failure) => failure,
    })?;
    let tried = tried(root, function, kind, faults, told);
    // What did not come to its end may have left something in the device.
    let used = if tried.is_ok() { Used::No } else { Used::Yes };
    let released = leases::release(root, state, &[address], [owner; 2], used);
    let (steps, mut notes) = tried?;
    notes.extend(released?);
    if !unreset::can_reset(root, address) {
        let note = "the kernel knows no way to reset it: what was done to it was undone instead";
        notes.push(note.to_owned());
    }
    Ok(Report { device: address, engine: kind.name(), verdict: Verdict::of(&steps), steps, notes })
}

/// What speaks against it first: who has the device, then what it is, then how it is.
fn fit(
    root: &HostRoot,
    function: &PciFunction,
    host: &HostSnapshot,
    leases: &[Lease],
) -> Result<Kind, Failure> {
    let address = function.address;
    if let Some(lease) = leases.iter().find(|lease| lease.device == address) {
        return Err(vfs::leased(lease, "drive it"));
    }
    let kind = Kind::of(function).ok_or_else(|| {
        let message =
            "cannot be told where to move data: it is not known how such a device is driven";
        Failure::refused(OwnReason::NoEngine, address, message)
            .with_remedy(format!("Choose another device: this knows {}.", engine::SUPPORTED))
    })?;
    if function.iommu_group.is_none() {
        isolation::viability(host, function, &[address])
            .map_err(|cause| Failure::not_viable(address, &cause))?;
    }
    if !function.driver.as_deref().is_some_and(is_vfio_driver) {
        let driver = function.driver.as_deref();
        let has_it = driver.map_or("no driver has it".to_owned(), |name| format!("{name} has it"));
        let message =
            format!("is not bound to vfio-pci, so it cannot be driven from here: {has_it}");
        return Err(Failure::refused(OwnReason::NotBound, address, message)
            .with_remedy(format!("`assign bind {address}` does that.")));
    }
    isolation::viability(host, function, &[address])
        .map_err(|cause| Failure::not_viable(address, &cause))?;
    let number = function.iommu_group.unwrap_or_default();
    if root.dev(&format!("vfio/noiommu-{number}")).exists() {
        let message = "has no IOMMU in front of it (vfio's no-IOMMU mode): it reaches all memory";
        return Err(Failure::refused(OwnReason::NoIommu, address, message)
            .with_remedy("Switch the IOMMU on: `assign doctor` tells how."));
    }
    if let Some(user) = vfio::users(root, address).first() {
        let message = format!("will not drive it: it is in use by {user}");
        return Err(
            Failure::refused(Reason::DeviceOpen, address, message).with_remedy("Stop that first.")
        );
    }
    Ok(kind)
}

/// Opens the device and makes it try.
fn tried(
    root: &HostRoot,
    function: &PciFunction,
    kind: Kind,
    faults: Faults,
    told: &dyn Fn(&Step),
) -> Result<(Vec<Step>, Vec<String>), Failure> {
    let address = function.address;
    let failed = |broken: Broken| match broken {
        Broken::Interrupted => Failure::failed(OwnReason::Interrupted, address, "interrupted")
            .with_remedy("Nothing was shown."),
        Broken::Failed(cause) => {
            Failure::failed(OwnReason::NotProven, address, format!("cannot be driven: {cause}"))
        }
    };
    let signals = Signals::hold().map_err(|error| failed(error.to_string().into()))?;
    let asked_to_end = || signals.is_pending();
    let begin = || -> Result<Proof<'_>, String> {
        let words = |error: vmm::error::Error| error.to_string();
        let files = files(root, function)?;
        let mut probe = Probe::open(&address.to_string(), files).map_err(words)?;
        let target = proof::place(&probe.iova_ranges().map_err(words)?)
            .ok_or("its IOMMU leaves no I/O addresses below 256 MiB")?;
        probe.enable().map_err(words)?;
        let engine = kind.start(&mut probe, target + 2 * PAGE)?;
        let pages = Pages::new(COUNT).map_err(|error| error.to_string())?;
        Ok(Proof {
            device: address,
            engine,
            gate: Box::new(Vfio { probe, faults }),
            pages: Arc::new(pages),
            target,
            pace: KERNEL,
            told,
            asked_to_end: &asked_to_end,
            steps: Vec::new(),
            notes: Vec::new(),
        })
    };
    begin().map_err(Broken::from).and_then(Proof::run).map_err(failed)
}

/// The files by which the device is opened, as for a guest.
fn files(root: &HostRoot, function: &PciFunction) -> Result<Files, String> {
    let address = function.address;
    let (claim, pool, vf) = (OWNER.to_owned(), None, function.vf_of);
    let group = function.iommu_group.unwrap_or_default();
    let device = Device { claim, pool, address, vf, group };
    let opened = VfioFiles::open(root, &[device], |_| Default::default(), &Has::default());
    let none = || "it has no files to open it by".to_owned();
    match opened.map_err(|error| error.cause)?.ok_or_else(none)?.files {
        launch::Files::Type1 { container, groups, .. } => {
            let group = groups.into_iter().find_map(|(_, file)| file).ok_or_else(none)?;
            Ok(Files::Type1 { container, group })
        }
        launch::Files::Iommufd { iommu, devices } => {
            let (_, device) = devices.into_iter().next().ok_or_else(none)?;
            Ok(Files::Iommufd { iommu, device })
        }
    }
}
