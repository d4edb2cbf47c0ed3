//! A host that is saved, sent, and looked at elsewhere; and one whose devices come and go while it
//! is looked at.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Result;
use lab::Host;
use sriov::facts::capabilities::Extent;
use sriov::facts::iommu::RegionKind;
use sriov::{HostSnapshot, PciAddress};

fn address(text: &str) -> PciAddress {
    text.parse().expect("an address")
}

#[test]
#[ignore = "boots an emulated host: cargo lab test"]
fn a_saved_host_tells_what_the_host_does() -> Result<()> {
    let host = Host::intel().igb(1).boot()?;
    host.ok("assign vf create eth0 2");
    let note = "Recorded in the emulated host of cargo lab, with an igb card that has two VFs.";
    host.ok(&format!("assign snapshot --note '{note}' > host.json"));
    for looking in ["devices", "devices --tree", "vf list", "groups", "topology", "show eth0"] {
        let (here, saved) = (
            host.ok(&format!("assign {looking}")),
            host.ok(&format!("assign --root host.json {looking}")),
        );
        assert_eq!(here, saved, "{looking}");
    }
    let piped = host.ok("cat host.json | assign --root - vf list -o json");
    assert_eq!(piped.matches("\"address\": \"0000:01:1").count(), 2, "{piped}");
    let refused = host.run("assign --root host.json vf destroy eth0 --yes")?;
    assert_eq!(refused.code, 2, "{}", refused.stderr);
    assert!(refused.stderr.contains("is a saved snapshot"), "{}", refused.stderr);

    let text = host.read("/root/host.json");
    let saved = HostSnapshot::from_json(&text)?;
    assert_eq!(saved.note.as_deref(), Some(note));
    assert_eq!((&saved.problems[..], &saved.gone[..]), (&[][..], &[][..]));
    let pf = saved.function(address("0000:01:00.0")).expect("the PF");
    let known = pf.capabilities.as_ref().expect("its capabilities");
    assert_eq!(known.extent, Extent::Extended);
    let sriov = known.sriov.as_ref().expect("SR-IOV");
    // Seven to the kernel, as its driver wants it; eight to the card.
    assert_eq!((sriov.num, sriov.total, sriov.enabled, sriov.memory), (2, 8, true, true));
    let facts = pf.sriov.as_ref().expect("SR-IOV");
    assert_eq!((sriov.offset, sriov.stride), (facts.offset, facts.stride));
    assert_eq!(known.msix.as_ref().map(|msix| msix.vectors), Some(10));
    assert!(known.pcie.as_ref().is_some_and(|pcie| pcie.flr));
    assert!(pf.link.as_ref().is_some_and(|link| link.speed.is_some() && link.width.is_some()));
    assert!(pf.bars.iter().any(|bar| bar.size == 0x2_0000));
    let vf = saved.function(address("0000:01:10.0")).expect("a VF");
    let known = vf.capabilities.as_ref().expect("its capabilities");
    assert!(!known.dead && known.msix.as_ref().is_some_and(|msix| msix.vectors == 3));
    let group = vf.iommu_group.and_then(|number| saved.iommu.groups.get(&number));
    let group = group.expect("its group");
    assert!(group.kind.is_some());
    assert!(group.reserved.iter().any(|region| region.kind == RegionKind::Msi));

    Ok(())
}

#[test]
#[ignore = "boots an emulated host: cargo lab test"]
fn devices_that_come_and_go_while_they_are_read_are_no_problem() -> Result<()> {
    let host = Host::intel().igb(1).boot()?;
    // All VFs come and go, again and again.
    let storm = host.spawn(
        "cd /sys/bus/pci/devices/0000:01:00.0 && echo 0 > sriov_drivers_autoprobe
         while [ ! -e /tmp/stop ]; do
             echo 7 > sriov_numvfs && sleep 0.3
             echo 0 > sriov_numvfs && sleep 0.1
         done",
    );
    let (mut seen, mut last) = (BTreeSet::new(), None);
    for _ in 0..16 {
        let text = host.ok("assign snapshot");
        let saved = HostSnapshot::from_json(text.as_bytes())?;
        assert_eq!(saved.problems, []);
        let vfs = saved.functions.iter().filter(|function| function.device == 0x10ca).count();
        seen.insert(vfs);
        last = Some(saved);
    }
    host.ok("touch /tmp/stop");
    let storm = storm.wait(Duration::from_secs(60))?;
    assert!(seen.len() > 1, "the VFs never changed: {seen:?}\n{}{}", storm.stdout, storm.stderr);
    assert!(last.is_some_and(|host| host.function(address("0000:01:00.0")).is_some()));
    Ok(())
}
