//! Snapshots that were saved, perhaps by somebody else, read again.
//!
//! Others may rely on what a snapshot promises, as with one that was just read: functions are found
//! by binary search, a VF's PF by its reference, and whoever follows parents upward comes to an
//! end. So what does not hold together is rejected, and says where.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::address::PciAddress;
use crate::facts::iommu::IommuGroup;
use crate::facts::pci::PciFunction;
use crate::facts::tree;
use crate::snapshot::{HostSnapshot, SCHEMA};

/// The longest text that is taken: 65,536 functions fit.
pub const LONGEST: usize = 512 << 20;

/// A text that is no snapshot.
#[derive(Debug, thiserror::Error)]
pub enum SavedError {
    /// More than [`LONGEST`] bytes.
    #[error("it is longer than {} MiB", LONGEST >> 20)]
    TooLong,
    /// No JSON, or other fields than a snapshot has.
    #[error("it is not a saved snapshot: {0}")]
    Malformed(serde_json::Error),
    /// A later version of this program wrote it.
    #[error("a newer version of assign wrote it (schema {0}, this one knows {SCHEMA})")]
    Newer(u32),
    /// Its parts do not fit each other.
    #[error("it does not hold together: {0}")]
    Broken(String),
}

impl SavedError {
    /// What a person can do about it.
    pub fn remedy(&self) -> &'static str {
        match self {
            SavedError::Newer(_) => "Read it with that version.",
            _ => "Save one with `assign snapshot > host.json`.",
        }
    }
}

/// What every version has.
#[derive(Deserialize)]
struct Head {
    schema: u32,
}

impl HostSnapshot {
    /// A snapshot from the JSON that one was saved as. Fields that are not known are left out.
    ///
    /// # Errors
    /// It is not one, or not one that can be relied on.
    pub fn from_json(text: &[u8]) -> Result<HostSnapshot, SavedError> {
        if text.len() > LONGEST {
            return Err(SavedError::TooLong);
        }
        // Its version first: a newer one may have anything else in another form.
        let head: Head = serde_json::from_slice(text).map_err(SavedError::Malformed)?;
        if head.schema > SCHEMA {
            return Err(SavedError::Newer(head.schema));
        }
        let snapshot: HostSnapshot = serde_json::from_slice(text).map_err(SavedError::Malformed)?;
        snapshot.check().map_err(SavedError::Broken)?;
        Ok(snapshot)
    }

    /// Whether it keeps what it promises, or what it breaks.
    ///
    /// # Errors
    /// The first place where it does not hold together.
    pub fn check(&self) -> Result<(), String> {
        ascending("functions", &self.functions, |function| function.address)?;
        ascending("netdevs", &self.netdevs, |netdev| &netdev.name)?;
        ascending("blocks", &self.blocks, |block| &block.name)?;
        ascending("gone", &self.gone, |address| *address)?;
        for function in &self.functions {
            self.check_function(function)
                .map_err(|broken| format!("function {}: {broken}", function.address))?;
        }
        if let Some(address) = tree::circles(&self.functions).first() {
            return Err(format!("function {address}: the bridges above it lead in a circle"));
        }
        check_groups(&self.iommu.groups, &self.functions)
    }

    fn check_function(&self, function: &PciFunction) -> Result<(), String> {
        if function.class > 0xff_ffff {
            return Err(format!("its class {:#x} has more than 24 bits", function.class));
        }
        if let Some(vf) = function.vf_of {
            let pf =
                self.function(vf.pf).ok_or_else(|| format!("it is {vf}, and no PF is there"))?;
            let listed = pf.sriov.as_ref().and_then(|pf| pf.vfs.get(&vf.index));
            if listed != Some(&function.address) {
                return Err(format!("it is {vf}, which the PF does not list"));
            }
            if pf.vf_of.is_some() {
                return Err(format!("it is {vf}, and that PF is a VF itself"));
            }
        }
        for name in &function.netdevs {
            match self.netdev(name) {
                Some(netdev) if netdev.pci == Some(function.address) => {}
                _ => return Err(format!("its interface {name:?} is not listed as its own")),
            }
        }
        match function.iommu_group {
            Some(number) if !self.iommu.groups.contains_key(&number) => {
                Err(format!("its IOMMU group {number} is not listed"))
            }
            _ => Ok(()),
        }
    }
}

/// A group has the functions that name it, and no others.
fn check_groups(
    groups: &BTreeMap<u32, IommuGroup>,
    functions: &[PciFunction],
) -> Result<(), String> {
    let mut members: BTreeMap<u32, Vec<PciAddress>> = BTreeMap::new();
    for function in functions {
        if let Some(number) = function.iommu_group {
            members.entry(number).or_default().push(function.address);
        }
    }
    for (number, group) in groups {
        if members.remove(number).unwrap_or_default() != group.members {
            return Err(format!("IOMMU group {number} has other members than name it"));
        }
    }
    Ok(())
}

fn ascending<'a, T, K: Ord + std::fmt::Display + 'a>(
    what: &str,
    list: &'a [T],
    key: impl Fn(&'a T) -> K,
) -> Result<(), String> {
    match list.windows(2).find_map(|pair| match pair {
        [before, after] if key(before) >= key(after) => Some(key(after)),
        _ => None,
    }) {
        Some(key) => Err(format!("{what} are not sorted, each once: see {key}")),
        None => Ok(()),
    }
}
