//! The VFIO files of a guest: by which of the kernel's interfaces its devices come, and what that
//! takes.
//!
//! A guest has all its devices by one interface, since it has one I/O address space. It is iommufd
//! where this host has that for every one of them, else type1, unless a policy demands one
//! (`isolation: {iommu: …}`).

use std::collections::BTreeSet;
use std::fmt;
use std::io::ErrorKind;
use std::os::fd::OwnedFd;

use policies::{IommuInterface, Isolation, PeerToPeer};
use serde::Serialize;
use sriov::facts::iommu::{Region, RegionKind, reserved_regions};
use sriov::{HostRoot, PciAddress, vfio};

use crate::choose::{self, Device};
use crate::state::unreset::can_reset;

/// By which of the kernel's interfaces a guest has its devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Interface {
    /// A container with groups.
    Type1,
    /// Iommufd with character devices.
    Iommufd,
}

impl fmt::Display for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Interface::Type1 => "type1",
            Interface::Iommufd => "iommufd",
        })
    }
}

/// The open VFIO files of a guest.
#[derive(Debug)]
pub struct VfioFiles {
    /// The interface and its files.
    pub files: Files,
    /// I/O addresses at which a device of the guest cannot reach memory, inclusive at both ends.
    pub reserved: Vec<(u64, u64)>,
    /// Whether the devices may reach each other's registers.
    pub peer_to_peer: bool,
    /// Devices that the kernel knows a way to reset.
    pub resettable: BTreeSet<PciAddress>,
}

/// What an interface takes.
#[derive(Debug)]
pub enum Files {
    /// A container with groups.
    Type1 {
        /// `/dev/vfio/vfio`, with nothing set on it.
        container: OwnedFd,
        /// Number of each group, each once, and its file unless the guest has that already.
        groups: Vec<(u32, Option<OwnedFd>)>,
        /// Each device, and the index of its group in `groups`.
        devices: Vec<(PciAddress, usize)>,
    },
    /// Iommufd with character devices.
    Iommufd {
        /// `/dev/iommu`, with nothing made in it.
        iommu: OwnedFd,
        /// Each device, and its own file.
        devices: Vec<(PciAddress, OwnedFd)>,
    },
}

/// What a guest that runs has.
#[derive(Debug, Clone, Default)]
pub struct Has {
    /// By which interface it has its devices, where it ever had one.
    pub interface: Option<Interface>,
    /// The groups of which it has devices.
    pub groups: BTreeSet<u32>,
}

/// A device whose files could not be opened.
#[derive(Debug)]
pub struct NotOpened {
    /// The device.
    pub address: PciAddress,
    /// The file, the cause and the remedy.
    pub cause: String,
}

impl VfioFiles {
    /// Opens what the chosen devices take, of which `isolation` gives the rules of each one's policy;
    /// `None` where there are none. The guest may run and have devices: a group opens only once, and
    /// all its devices come by one interface.
    ///
    /// # Errors
    /// The first device that could not be opened: another one may be.
    pub fn open(
        root: &HostRoot,
        chosen: &[Device],
        isolation: impl Fn(&Device) -> Isolation,
        has: &Has,
    ) -> Result<Option<VfioFiles>, NotOpened> {
        let Some(first) = chosen.first() else { return Ok(None) };
        let wanted: Vec<_> =
            chosen.iter().map(|device| (device, isolation(device).iommu)).collect();
        let interface = match has.interface {
            Some(interface) => interface,
            None => interface(root, &wanted)?,
        };
        let reserved = reserved(root, chosen)?;
        let files = match interface {
            Interface::Type1 => type1(root, first, chosen, &has.groups)?,
            Interface::Iommufd => iommufd(root, first, chosen)?,
        };
        let allows = |device| isolation(device).peer_to_peer == PeerToPeer::Allow;
        let peer_to_peer = chosen.iter().all(allows);
        let addresses = chosen.iter().map(|device| device.address);
        let resettable = addresses.filter(|address| can_reset(root, *address)).collect();
        Ok(Some(VfioFiles { files, reserved, peer_to_peer, resettable }))
    }

    /// All of the files.
    pub fn descriptors(&self) -> Vec<&OwnedFd> {
        match &self.files {
            Files::Type1 { container, groups, .. } => {
                let groups = groups.iter().filter_map(|(_, file)| file.as_ref());
                std::iter::once(container).chain(groups).collect()
            }
            Files::Iommufd { iommu, devices } => {
                std::iter::once(iommu).chain(devices.iter().map(|(_, file)| file)).collect()
            }
        }
    }

    /// The interface that was chosen.
    pub fn interface(&self) -> Interface {
        match self.files {
            Files::Type1 { .. } => Interface::Type1,
            Files::Iommufd { .. } => Interface::Iommufd,
        }
    }
}

/// The one that policies demand, else the best that is there for all devices.
fn interface(
    root: &HostRoot,
    wanted: &[(&Device, IommuInterface)],
) -> Result<Interface, NotOpened> {
    let mut demanded: Option<(&Device, Interface)> = None;
    for (device, wanted) in wanted {
        let wanted = match wanted {
            IommuInterface::Auto => continue,
            IommuInterface::Type1 => Interface::Type1,
            IommuInterface::Iommufd => Interface::Iommufd,
        };
        match demanded {
            Some((other, first)) if first != wanted => {
                let cause = format!(
                    "the policy of pool {} demands {wanted}, and that of pool {} demands {first} for \
                     {}, while a guest has all its devices by one: write the same `isolation: \
                     {{iommu: …}}` in both",
                    device.pool.as_deref().unwrap_or_default(),
                    other.pool.as_deref().unwrap_or_default(),
                    other.address
                );
                return Err(NotOpened { address: device.address, cause });
            }
            _ => demanded = Some((device, wanted)),
        }
    }
    let has_iommufd = || {
        root.dev("iommu").exists()
            && wanted.iter().all(|(device, _)| vfio::cdev(root, device.address).is_some())
    };
    Ok(match demanded {
        Some((_, interface)) => interface,
        None if has_iommufd() => Interface::Iommufd,
        None => Interface::Type1,
    })
}

/// What the IOMMU leaves out for one of the devices.
fn reserved(root: &HostRoot, chosen: &[Device]) -> Result<Vec<(u64, u64)>, NotOpened> {
    let mut ranges = Vec::new();
    for device in chosen {
        for Region { start, end, kind } in reserved_regions(root, device.group) {
            match kind {
                // Only until its driver takes the device.
                RegionKind::DirectRelaxable => {}
                RegionKind::Direct => {
                    let cause = format!(
                        "firmware wants it to reach {start:#x} to {end:#x} of the host's memory at all \
                         times (RMRR or IVMD, see reserved_regions of IOMMU group {}), so it cannot \
                         be given away: look for a setting of the firmware, or choose another device",
                        device.group
                    );
                    return Err(NotOpened { address: device.address, cause });
                }
                RegionKind::Reserved | RegionKind::Msi | RegionKind::Unknown => {
                    ranges.push((start, end));
                }
            }
        }
    }
    ranges.sort_unstable();
    ranges.dedup();
    Ok(ranges)
}

fn type1(
    root: &HostRoot,
    first: &Device,
    chosen: &[Device],
    held: &BTreeSet<u32>,
) -> Result<Files, NotOpened> {
    let missing = "load vfio-pci and vfio_iommu_type1";
    let container = open(root, "vfio/vfio", first.address, missing)?;
    let mut groups = Vec::new();
    for number in choose::groups(chosen) {
        let device = chosen.iter().find(|device| device.group == number).unwrap_or(first);
        let open = || open(root, &format!("vfio/{number}"), device.address, missing);
        groups.push((number, (!held.contains(&number)).then(open).transpose()?));
    }
    let position = |group| groups.iter().position(|(number, _)| *number == group);
    let devices = chosen
        .iter()
        .filter_map(|device| Some((device.address, position(device.group)?)))
        .collect();
    Ok(Files::Type1 { container, groups, devices })
}

fn iommufd(root: &HostRoot, first: &Device, chosen: &[Device]) -> Result<Files, NotOpened> {
    let missing = "iommufd takes Linux 6.6 or newer with CONFIG_IOMMUFD and \
                   CONFIG_VFIO_DEVICE_CDEV; without, write `isolation: {iommu: auto}` in its policy";
    let iommu = open(root, "iommu", first.address, missing)?;
    let open_device = |device: &Device| {
        let address = device.address;
        let file = vfio::cdev(root, address).ok_or_else(|| {
            let sysfs = root.pci_attribute(address, "vfio-dev");
            let cause = format!("{}: it has no file of its own: {missing}", sysfs.display());
            NotOpened { address, cause }
        })?;
        Ok((address, open(root, &file, address, missing)?))
    };
    let devices = chosen.iter().map(open_device).collect::<Result<_, _>>()?;
    Ok(Files::Iommufd { iommu, devices })
}

fn open(
    root: &HostRoot,
    file: &str,
    address: PciAddress,
    missing: &str,
) -> Result<OwnedFd, NotOpened> {
    let path = root.dev(file);
    let opened = vfio::open(&path);
    opened.map(OwnedFd::from).map_err(|error| {
        let cause = match error.kind() {
            ErrorKind::NotFound => format!("there is no such file: {missing}"),
            ErrorKind::ResourceBusy => "another process has it open".to_owned(),
            ErrorKind::PermissionDenied => {
                "this user may not open it: run assign as root".to_owned()
            }
            _ => error.to_string(),
        };
        NotOpened { address, cause: format!("{}: {cause}", path.display()) }
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    const VF: &str = "0000:01:10.0";
    const OTHER: &str = "0000:01:10.2";

    fn device(address: &str, pool: &str, group: u32) -> Device {
        let address = address.parse().expect("an address");
        Device { claim: "net0".to_owned(), pool: Some(pool.to_owned()), address, vf: None, group }
    }

    fn devices() -> [Device; 2] {
        [device(VF, "lan", 8), device(OTHER, "wan", 9)]
    }

    fn file(root: &Path, path: &str, content: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("folders");
        fs::write(path, content).expect("a file");
    }

    fn has_cdev(root: &Path, address: &str, name: &str) {
        file(root, &format!("sys/bus/pci/devices/{address}/vfio-dev/{name}/dev"), "");
        file(root, &format!("dev/vfio/devices/{name}"), "");
    }

    fn host() -> (tempfile::TempDir, HostRoot) {
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["vfio", "8", "9"] {
            file(folder.path(), &format!("dev/vfio/{name}"), "");
        }
        let root = HostRoot::at(folder.path());
        (folder, root)
    }

    fn demanding(iommu: IommuInterface) -> impl Fn(&Device) -> Isolation {
        move |_| Isolation { iommu, ..Isolation::default() }
    }

    fn opened(root: &HostRoot, iommu: IommuInterface) -> Result<Interface, String> {
        VfioFiles::open(root, &devices(), demanding(iommu), &Has::default())
            .map(|files| files.expect("two devices").interface())
            .map_err(|error| format!("{}: {}", error.address, error.cause))
    }

    #[test]
    fn iommufd_is_taken_where_all_of_it_is_there() {
        let (folder, root) = host();
        let auto = IommuInterface::Auto;
        assert_eq!(opened(&root, auto), Ok(Interface::Type1));
        file(folder.path(), "dev/iommu", "");
        assert_eq!(opened(&root, auto), Ok(Interface::Type1));
        has_cdev(folder.path(), VF, "vfio0");
        assert_eq!(opened(&root, auto), Ok(Interface::Type1), "one device has no file");
        has_cdev(folder.path(), OTHER, "vfio1");
        assert_eq!(opened(&root, auto), Ok(Interface::Iommufd));
        assert_eq!(opened(&root, IommuInterface::Type1), Ok(Interface::Type1));
        fs::remove_file(folder.path().join("dev/iommu")).expect("a file");
        assert_eq!(opened(&root, auto), Ok(Interface::Type1));
    }

    #[test]
    fn what_is_demanded_and_not_there_is_told_with_its_remedy() {
        let (folder, root) = host();
        let error = opened(&root, IommuInterface::Iommufd).expect_err("no iommufd");
        assert!(error.starts_with("0000:01:10.0: ") && error.contains("/dev/iommu: "), "{error}");
        assert!(error.contains("CONFIG_IOMMUFD"), "{error}");
        file(folder.path(), "dev/iommu", "");
        has_cdev(folder.path(), VF, "vfio0");
        let error = opened(&root, IommuInterface::Iommufd).expect_err("a device without a file");
        assert!(error.starts_with("0000:01:10.2: "), "{error}");
        assert!(error.contains("CONFIG_VFIO_DEVICE_CDEV"), "{error}");
        fs::remove_file(folder.path().join("dev/vfio/9")).expect("a file");
        let error = opened(&root, IommuInterface::Type1).expect_err("a group without a file");
        assert!(error.starts_with("0000:01:10.2: ") && error.contains("load vfio-pci"), "{error}");
    }

    #[test]
    fn policies_that_contradict_each_other_are_named() {
        let (_folder, root) = host();
        let rules = |device: &Device| {
            let lan = device.pool.as_deref() == Some("lan");
            let iommu = if lan { IommuInterface::Type1 } else { IommuInterface::Iommufd };
            Isolation { iommu, ..Isolation::default() }
        };
        let error = VfioFiles::open(&root, &devices(), rules, &Has::default())
            .expect_err("a contradiction");
        assert_eq!(error.address, devices()[1].address);
        let named = ["pool wan demands iommufd", "pool lan demands type1 for 0000:01:10.0"];
        assert!(named.iter().all(|name| error.cause.contains(name)), "{}", error.cause);
    }

    #[test]
    fn devices_reach_each_other_where_all_their_policies_allow_it() {
        let (_folder, root) = host();
        let allowed = |by: &'static [&'static str]| {
            let rules = |device: &Device| {
                let allows = by.contains(&device.pool.as_deref().unwrap_or_default());
                let peer_to_peer = if allows { PeerToPeer::Allow } else { PeerToPeer::Deny };
                Isolation { peer_to_peer, ..Isolation::default() }
            };
            let files = VfioFiles::open(&root, &devices(), rules, &Has::default()).expect("files");
            files.expect("two devices").peer_to_peer
        };
        assert!(!allowed(&[]) && !allowed(&["lan"]) && allowed(&["lan", "wan"]));
    }

    #[test]
    fn what_firmware_reserves_is_passed_on_or_stands_in_the_way() {
        let (folder, root) = host();
        let group = |number: u32, regions: &str| {
            let path = format!("sys/kernel/iommu_groups/{number}/reserved_regions");
            file(folder.path(), &path, regions);
        };
        let open = || VfioFiles::open(&root, &devices(), |_| Isolation::default(), &Has::default());
        let msi = "0x00000000fee00000 0x00000000feefffff msi\n";
        group(8, &format!("0x00000000000e0000 0x00000000000effff direct-relaxable\n{msi}"));
        group(9, &format!("{msi}0x000000fd00000000 0x000000ffffffffff reserved\n"));
        let files = open().expect("files").expect("two devices");
        let expected = [(0xfee0_0000, 0xfeef_ffff), (0xfd_0000_0000, 0xff_ffff_ffff)];
        assert_eq!(files.reserved, expected);
        group(9, "0x00000000bdf6f000 0x00000000bdf7efff direct\n");
        let error = open().expect_err("an RMRR");
        assert_eq!(error.address, devices()[1].address);
        assert!(error.cause.contains("0xbdf6f000 to 0xbdf7efff"), "{}", error.cause);
    }
}
