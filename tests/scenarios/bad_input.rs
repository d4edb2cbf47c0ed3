//! What is wrong is told in one paragraph with thing, cause and remedy, and changes nothing.

use anyhow::Result;
use lab::Host;

use crate::documents::{Guest, policy};

/// A command that must fail, its exit code, and what its message must name.
type Case = (&'static str, i32, &'static [&'static str]);

fn refuse(host: &Host, cases: &[Case]) -> Result<()> {
    const STATE: &str = "ls -l /sys/bus/pci/devices/*/driver /sys/class/net; \
                         cat /sys/bus/pci/devices/*/sriov_numvfs \
                             /sys/bus/pci/devices/*/sriov_drivers_autoprobe \
                             /sys/bus/pci/devices/*/driver_override 2>/dev/null";
    let before = host.ok(STATE);
    for (command, code, named) in cases {
        let output = host.run(command)?;
        let told = output.stderr.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(output.code, *code, "{command}: {told}");
        for word in *named {
            assert!(told.contains(word), "{command}: {word:?} is not in: {told}");
        }
        assert!(!told.contains("panicked"), "{command}: {told}");
        assert_eq!(host.ok(STATE), before, "{command} changed the host");
    }
    Ok(())
}

#[test]
#[ignore = "boots an emulated host: cargo lab test"]
fn wrong_devices_counts_files_and_groups_are_refused() -> Result<()> {
    let missing = Guest::new("web", "net").kernel("/boot/nowhere").claim_or_bridge().to_string();
    let nonsense = Guest::new("odd", "net").kernel("/etc/nonsense").to_string();
    let host = Host::intel()
        .igb(1)
        .shared_group()
        .bridge()
        .file("etc/nonsense", vec![7; 100_000])
        .file("root/many.yaml", policy(9))
        .file("root/typo.yaml", policy(1).replace("driver:", "drivr:"))
        .file("root/broken.yaml", "apiVersion: assign/v1\nkind: [Policy\n")
        .file("root/missing.yaml", missing)
        .file("root/nonsense.yaml", nonsense)
        .boot()?;
    refuse(
        &host,
        &[
            ("assign vf create 0000:42:00.0 1", 2, &["0000:42:00.0", "assign devices"]),
            ("assign vf create nosuch0 1", 2, &["nosuch0"]),
            ("assign bind 0000:42:00.0", 2, &["0000:42:00.0"]),
            ("assign vf create eth0 9", 2, &["0000:01:00.0", "9", "7"]),
            ("assign apply -f many.yaml", 2, &["9", "7"]),
            ("assign vf create uplink0 1", 2, &["SR-IOV"]),
            ("assign apply -f typo.yaml", 2, &["typo.yaml:9:", "drivr", "driver", "^"]),
            ("assign validate broken.yaml", 2, &["broken.yaml:", "^"]),
            ("assign plan -f nowhere.yaml", 2, &["nowhere.yaml"]),
            ("assign run -f missing.yaml </dev/null", 2, &["/boot/nowhere"]),
            ("assign run -f nonsense.yaml </dev/null", 1, &["bzImage", "/boot/vmlinuz"]),
            // One of two devices of a group; the other one carries on with its own driver.
            ("assign bind 0000:02:00.0", 3, &["0000:02:00.0", "0000:02:00.1", "group"]),
            // What the host itself needs.
            ("assign bind uplink0 --yes", 3, &["uplink0", "br0"]),
        ],
    )
}

#[test]
#[ignore = "boots an emulated host: cargo lab test"]
fn a_host_without_kvm_says_what_to_do() -> Result<()> {
    let guest = Guest::new("web", "net").claim_or_bridge().to_string();
    let host = Host::intel().igb(1).bridge().no_kvm().file("root/guest.yaml", guest).boot()?;
    refuse(&host, &[("assign run -f guest.yaml </dev/null", 1, &["/dev/kvm", "kvm_amd"])])
}
