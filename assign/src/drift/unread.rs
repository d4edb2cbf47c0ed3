//! What of a snapshot could not be read: a value that stands for it there is none.

use std::path::Path;

use sriov::{HostSnapshot, PciAddress};

/// The problems of a snapshot, asked by what they are about.
pub(super) struct Unread<'a> {
    problems: Vec<(&'a Path, &'a str)>,
}

impl<'a> Unread<'a> {
    /// Those of this snapshot.
    pub fn of(host: &'a HostSnapshot) -> Unread<'a> {
        let problem = |one: &'a sriov::facts::reader::Problem| (&*one.path, one.cause.as_str());
        Unread { problems: host.problems.iter().map(problem).collect() }
    }

    /// Why one of these attributes of a function could not be read.
    pub fn of_function(&self, device: PciAddress, names: &[&str]) -> Option<String> {
        let device = device.to_string();
        self.find(|path| {
            is_below(path, &device) && names.iter().any(|name| path.ends_with(name))
                // The whole directory.
                || path.ends_with(&device)
        })
    }

    /// Why an attribute of an interface could not be read.
    pub fn of_interface(&self, interface: &str, name: &str) -> Option<String> {
        self.find(|path| path.ends_with(Path::new(interface).join(name)))
    }

    /// Why what an interface has set for its VFs could not be read: the kernel is asked for the
    /// interface, or not at all.
    pub fn of_settings(&self, interface: &str) -> Option<String> {
        self.find(|path| path.ends_with(interface) || path.ends_with("class/net"))
    }

    /// Why a device may be missing from the snapshot, or not be recognized: one could not be read, nor
    /// could a list.
    pub fn any_device(&self, host: &HostSnapshot) -> Option<String> {
        let is_known = |name: &str| {
            name.parse::<PciAddress>().is_ok_and(|address| host.function(address).is_some())
        };
        self.find(|path| {
            let mut names = path.iter().filter_map(|name| name.to_str());
            let of_device = names.any(|name| name.parse::<PciAddress>().is_ok() && !is_known(name));
            of_device
                || ["pci/devices", "class/net", "driver", "sriov_totalvfs"]
                    .iter()
                    .any(|list| path.ends_with(list))
        })
    }

    fn find(&self, is_about: impl Fn(&Path) -> bool) -> Option<String> {
        let found = self.problems.iter().find(|(path, _)| is_about(path));
        found.map(|(_, cause)| (*cause).to_owned())
    }
}

fn is_below(path: &Path, name: &str) -> bool {
    path.parent().is_some_and(|above| above.ends_with(name))
}
