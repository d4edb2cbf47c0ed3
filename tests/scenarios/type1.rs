//! Hosts without iommufd, whose devices come by type1.

use std::time::Duration;

use anyhow::Result;
use lab::Host;

use crate::documents::{Guest, policy};
use crate::iommufd::{assert_lines, demanding, devices_by, run};

#[test]
#[ignore = "boots an emulated host: cargo lab test"]
fn a_host_that_lacks_it_takes_type1_and_tells_who_demands_more() -> Result<()> {
    let peers = policy(2) + "  isolation: {peerToPeer: allow}\n";
    let one = Guest::new("web", "net lab.bulk").claim_or_bridge().to_string();
    let two = one.replace("web", "pair") + "    - {name: net1, claim: {pool: lan}}\n";
    let host = Host::intel()
        .igb(1)
        .bridge()
        .file("root/peers.yaml", peers)
        .file("root/iommufd.yaml", demanding(2, "iommufd"))
        .file("root/one.yaml", one)
        .file("root/two.yaml", two)
        .limit(Duration::from_secs(600))
        .boot()?;
    host.ok("assign apply -f peers.yaml");
    let said = run(&host, "two.yaml")?;
    assert_eq!(devices_by(&said, "type1"), 2, "{said}");
    assert_eq!(said.matches("ping 10.0.2.2: 3 of 3 answered").count(), 2, "{said}");
    assert!(!said.contains("registers"), "they reach each other: {said}");

    host.ok("assign apply -f iommufd.yaml");
    let said = run(&host, "one.yaml")?;
    assert_lines(
        &said,
        &[
            "web: net0: virtio on br0, because ",
            "/dev/iommu: there is no such file: iommufd takes Linux 6.6",
            "guest: eth0: ping 10.0.3.2: 3 of 3 answered",
        ],
    );
    Ok(())
}
