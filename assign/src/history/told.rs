//! From what a launch tells to the things that happened: mostly one, and of some none or several.

use sriov::dma_fault::DmaFault;

use super::event::{How, What};
use crate::choose::{Choice, Connection, DeviceChoice, Given};
use crate::launch::{Interface, Told};

/// What happened to the guest, in order. What a launch tells of itself is none of it.
pub fn happened<'a>(told: &'a Told<'a>) -> Vec<What<'a>> {
    let what = match told {
        Told::Connected { choice, iommu } => return connected(choice, *iommu),
        Told::Console | Told::Timeline(_) => return Vec::new(),
        Told::Attached(devices) => {
            return devices.iter().map(|device| What::Attached { device: *device }).collect();
        }
        Told::Detached(detached) => {
            let mut all = vec![What::Detached { device: detached.device, by: detached.by }];
            all.extend(detached.notes.iter().map(|note| What::note(note)));
            return all;
        }
        Told::Started => What::Started,
        Told::Paused => What::Paused,
        Told::Resumed => What::Resumed,
        Told::Rebooting => What::Ended { how: How::Rebooted, reason: None, failure: None },
        Told::Ended { how, failure: None } => {
            What::Ended { how: *how, reason: None, failure: None }
        }
        Told::Ended { how, failure: Some(failure) } => What::broke(*how, failure),
        Told::NoDevices(reason) => What::NoDevices { reason },
        Told::Wanted(device) => What::Wanted { device: *device },
        Told::DeviceError(device) => What::DeviceError { device },
        Told::DiskError { disk, detail } => What::DiskError { disk, reason: detail },
        Told::NetworkDown { network, reason } => What::NetworkDown { network, reason },
        Told::NetworkUp { network } => What::NetworkUp { network },
        Told::DmaFault(DmaFault { device, blocked }) => What::DmaFault { device: *device, blocked },
        Told::Trouble(failure) => What::trouble(failure),
        Told::Memory(reason) => What::Memory { reason },
        Told::Overcommitted { vcpus, host_cpus } => {
            What::Overcommitted { vcpus: *vcpus, host_cpus: *host_cpus }
        }
        Told::Vsock { cid } => What::Vsock { cid: *cid },
        Told::Boots { disk, entry } => What::Boots { disk, entry },
        Told::Packed(reason) => What::KernelPacked { reason },
        Told::NoSandbox => What::NoSandbox,
        Told::Unwritten(error) => What::Unwritten { reason: error.to_string() },
        Told::FaultsUnheard(error) => What::FaultsUnheard { reason: error.to_string() },
    };
    vec![what]
}

fn connected(choice: &Choice, iommu: Option<Interface>) -> Vec<What<'_>> {
    // "… through vfio (iommufd)"
    let by = iommu.map(|iommu| format!(" ({iommu})")).unwrap_or_default();
    let given = |claim, given: &Given, text: String| What::Connected {
        claim,
        device: given.address,
        text: text + &by,
    };
    let networks = choice.networks.iter().map(|connection| {
        let text = connection.to_string();
        match connection {
            Connection::Vfio { network, given: its } => given(network, its, text),
            Connection::Virtio { network, because: None, .. } => {
                What::Connected { claim: network, device: None, text }
            }
            Connection::Virtio { network, because: Some(because), .. } => {
                What::Fallback { claim: network, reason: because.to_string(), text }
            }
        }
    });
    let devices = choice.devices.iter().map(|choice| {
        let text = choice.to_string();
        match choice {
            DeviceChoice::Given { device, given: its } => given(device, its, text),
            DeviceChoice::Without { device, because } => {
                What::LeftOut { claim: device, reason: because.to_string(), text }
            }
        }
    });
    networks.chain(devices).collect()
}

#[cfg(test)]
mod tests {
    use policies::Virtio;
    use sriov::PciAddress;
    use vmm::spec::Departure;

    use super::*;
    use crate::control::Detached;

    fn told(told: &Told<'_>) -> Vec<String> {
        happened(told).iter().map(|what| what.text("web-1")).collect()
    }

    #[test]
    fn several_things_are_told_one_by_one_and_the_launch_itself_not_at_all() {
        let address = |text: &str| text.parse::<PciAddress>().expect("an address");
        let devices = [address("0000:01:10.0"), address("0000:01:10.2")];
        let attached = ["web-1: has 0000:01:10.0 now", "web-1: has 0000:01:10.2 now"];
        assert_eq!(told(&Told::Attached(&devices)), attached);
        let notes = vec!["0000:01:10.0: is late.".to_owned()];
        let detached = Detached { device: devices[0], by: Departure::Forced, notes };
        assert_eq!(
            told(&Told::Detached(&detached)),
            ["web-1: had to give up 0000:01:10.0", "assign: 0000:01:10.0: is late."]
        );
        let virtio = |network: &str| Connection::Virtio {
            network: network.to_owned(),
            end: Virtio::Bridge { bridge: "br0".to_owned() },
            because: None,
        };
        let networks = vec![virtio("net0"), virtio("net1")];
        let choice = Choice { networks, ..Choice::default() };
        let connected = Told::Connected { choice: &choice, iommu: None };
        assert_eq!(told(&connected), ["web-1: net0: virtio on br0", "web-1: net1: virtio on br0"]);
        assert!(told(&Told::Console).is_empty() && told(&Told::Timeline(&[])).is_empty());
    }
}
