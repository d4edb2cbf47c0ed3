//! What assign says of a host, and of a device that cannot be given away there.

use anyhow::Result;
use lab::Host;

#[test]
#[ignore = "boots an emulated host: cargo lab test"]
fn host_and_doctor() -> Result<()> {
    let host = Host::intel().igb(1).shared_group().boot()?;

    let page = host.ok("assign host");
    let has = |label: &str, text: &str| {
        let found = page.lines().any(|line| line.contains(label) && line.contains(text));
        assert!(found, "no {label:?} with {text:?} in\n{page}");
    };
    has("runs on", "qemu (software emulation): CPUID leaf 0x40000000 says TCGTCGTCGTCG");
    has("virtualization", "SVM");
    has("nested paging (NPT)", "used");
    has("version", "12");
    has("capabilities", "IRQFD");
    has("IOMMU", "VT-d (ACPI table DMAR), in use, dmar0");
    has("interrupt remapping", "yes: /proc/interrupts names IR-");
    has("vfio-pci", "loaded");
    let asids = host.ok("assign host -o json");
    assert!(asids.contains("\"asids\": ") && !asids.contains("\"asids\": null"), "{asids}");

    // The machine is ready: whatever is not as it should be is a warning at most.
    let doctor = host.ok("assign doctor");
    for line in [
        "the CPU can run guests (SVM)",
        "KVM is ready",
        "an IOMMU is in use",
        "interrupts are remapped",
        "devices can be bound to vfio-pci",
        "1 card can have VFs",
    ] {
        let found = doctor.lines().any(|found| found.starts_with("ok") && found.contains(line));
        assert!(found, "no ok with {line:?} in\n{doctor}");
    }
    assert!(!doctor.lines().any(|line| line.starts_with("problem")), "{doctor}");

    // A VF fits, and the doctor's first command makes it so.
    host.ok("assign vf create eth0 1 --yes");
    let vf = host.ok("assign doctor 01:10.0");
    assert!(vf.contains("Begin with: assign bind 0000:01:10.0"), "{vf}");
    assert!(vf.contains("it interrupts by MSI-X (3 vectors)"), "{vf}");
    host.ok("assign bind 01:10.0");
    let vf = host.ok("assign doctor 01:10.0");
    assert!(vf.contains("it waits for a guest"), "{vf}");

    let ends = |code: i32, command: &str| -> Result<String> {
        let output = host.run(command)?;
        assert_eq!(output.code, code, "{command}: {}{}", output.stdout, output.stderr);
        Ok(output.stdout)
    };
    // The card itself has a VF, and two functions that share a group keep each other from a guest.
    let card = ends(1, "assign doctor eth0")?;
    assert!(card.contains("it has VFs, which would go with it (1 of 7 VFs)"), "{card}");
    let shared = ends(1, "assign doctor 02:00.0")?;
    let group = "also holds 0000:02:00.1 (e1000e)";
    assert!(shared.lines().any(|l| l.starts_with("problem") && l.contains(group)), "{shared}");
    assert!(shared.contains("Begin with: assign bind 0000:02:00.0 0000:02:00.1"), "{shared}");
    ends(2, "assign doctor 77:00.0")?;
    Ok(())
}
