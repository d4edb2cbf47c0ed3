//! A guest always starts: virtio where no VF can be given, with the reason told.

use std::time::Duration;

use anyhow::Result;
use lab::Host;

use crate::documents::{Guest, policy};
use crate::guests;

const GUEST_TIME: Duration = Duration::from_secs(120);

#[test]
#[ignore = "boots an emulated host: cargo lab test"]
fn without_an_iommu_the_network_is_virtio() -> Result<()> {
    let host = Host::no_iommu()
        .igb(1)
        .bridge()
        .file("root/policy.yaml", policy(1))
        .file("root/guest.yaml", Guest::new("web", "net").claim_or_bridge().to_string())
        .boot()?;
    let refused = host.run("assign apply -f policy.yaml")?;
    assert_eq!(refused.code, 3, "{}", refused.stderr);
    assert!(refused.stderr.contains("IOMMU"), "{}", refused.stderr);
    assert_eq!(host.ok("cat /sys/class/net/eth0/device/sriov_numvfs"), "0\n");

    let command = "assign run -f policy.yaml -f guest.yaml </dev/null";
    let output = host.run_within(command, GUEST_TIME)?;
    assert_eq!(output.code, 0, "{}\n{}", output.stdout, output.stderr);
    let reason = output.stderr.lines().find(|line| line.contains("virtio on br0, because"));
    let reason = reason.unwrap_or_else(|| panic!("no reason is told: {}", output.stderr));
    assert!(reason.starts_with("web: net0: ") && reason.contains("no IOMMU"), "{reason}");
    for line in [
        "guest: eth0: virtio_net at ",
        "guest: eth0: lease 10.0.3.",
        "guest: eth0: ping 10.0.3.2: 3 of 3 answered",
    ] {
        assert!(output.stdout.contains(line), "{line:?} is missing:\n{}", output.stdout);
    }
    assert!(!host.ok("ls /sys/class/net").contains("as-"), "the TAP is gone with the guest");
    Ok(())
}

#[test]
#[ignore = "boots an emulated host: cargo lab test"]
fn where_memory_cannot_be_pinned_the_guest_starts_without_its_vf() -> Result<()> {
    let host = Host::intel()
        .igb(1)
        .bridge()
        .file("root/policy.yaml", policy(2))
        .file("root/guest.yaml", Guest::new("web", "net").claim_or_bridge().to_string())
        .file("root/strict.yaml", Guest::new("strict", "net").claim().to_string())
        .boot()?;
    host.ok("assign apply -f policy.yaml");
    let limit = "/sys/module/vfio_iommu_type1/parameters/dma_entry_limit";
    let before = host.ok(&format!("cat {limit}"));
    host.ok(&format!("echo 0 > {limit}"));

    let output = host.run_within("assign run -f guest.yaml </dev/null", GUEST_TIME)?;
    assert_eq!(output.code, 0, "{}\n{}", output.stdout, output.stderr);
    let told = &output.stderr;
    for text in [
        "web: net0: VF ",
        "assign: web: starting again without: /dev/vfio/vfio: cannot pin guest memory",
        "web: net0: virtio on br0, because",
    ] {
        assert!(told.contains(text), "{text:?} is missing:\n{told}");
    }
    assert!(told.contains("dma_entry_limit"), "the remedy: {told}");
    assert!(!output.stdout.contains("igbvf"), "it saw no VF: {}", output.stdout);
    assert!(output.stdout.contains("guest: eth0: ping 10.0.3.2: 3 of 3"), "{}", output.stdout);

    // Without a fallback it does not start, and says why.
    let refused = host.run("assign run -f strict.yaml </dev/null")?;
    assert_eq!(refused.code, 1, "{}", refused.stderr);
    assert!(refused.stderr.contains("cannot pin guest memory"), "{}", refused.stderr);

    // Both have given their VFs back.
    host.ok(&format!("echo {} > {limit}", before.trim()));
    let output = host.run_within("assign run -f strict.yaml </dev/null", GUEST_TIME)?;
    assert_eq!(output.code, 0, "{}\n{}", output.stdout, output.stderr);
    assert!(output.stdout.contains("guest: eth0: igbvf at "), "{}", output.stdout);
    Ok(())
}

#[test]
#[ignore = "boots an emulated host: cargo lab test"]
fn with_the_pool_exhausted_the_second_guest_is_on_virtio() -> Result<()> {
    let host = Host::intel()
        .igb(1)
        .bridge()
        .file("root/policy.yaml", policy(1))
        .file("root/first.yaml", Guest::new("first", "hold").claim_or_bridge().to_string())
        .file("root/second.yaml", Guest::new("second", "net").claim_or_bridge().to_string())
        .file("root/strict.yaml", Guest::new("strict", "net").claim().to_string())
        .boot()?;
    host.ok("assign apply -f policy.yaml");
    let first = guests::start(&host, "assign run -f first.yaml", GUEST_TIME)?;
    assert!(first.output_so_far().contains("guest: eth0: igbvf at "));

    let output = host.run_within("assign run -f second.yaml </dev/null", GUEST_TIME)?;
    assert_eq!(output.code, 0, "{}\n{}", output.stdout, output.stderr);
    let told = &output.stderr;
    assert!(
        told.contains("second: net0: virtio on br0, because pool lan has no free VF"),
        "{told}"
    );
    assert!(told.contains("leased to first"), "{told}");
    assert!(output.stdout.contains("guest: eth0: ping 10.0.3.2: 3 of 3"), "{}", output.stdout);

    // A guest that names no fallback is told why it cannot start, and starts nothing.
    let refused = host.run("assign run -f strict.yaml </dev/null")?;
    assert_ne!(refused.code, 0);
    assert!(refused.stderr.contains("leased to first"), "{}", refused.stderr);
    assert!(!refused.stdout.contains("guest:"), "{}", refused.stdout);

    guests::stop(&first)?;

    // The VF is free again.
    let output = host.run_within("assign run -f strict.yaml </dev/null", GUEST_TIME)?;
    assert_eq!(output.code, 0, "{}\n{}", output.stdout, output.stderr);
    assert!(output.stdout.contains("guest: eth0: ping 10.0.2.2: 3 of 3"), "{}", output.stdout);
    Ok(())
}
