//! A card with more registers than a PC has room for below 4 GiB, and a ROM.

use std::time::Duration;

use anyhow::Result;
use lab::{Host, LARGE_BAR, ROM};

use crate::documents::{Guest, cards};

const CARD: &str = "0000:00:1e.0";

const CONFIG: &str = "/sys/bus/pci/devices/0000:00:1e.0/config";

/// What the guest writes.
const WRITTEN: &str = "0x6C61737420776F72";

const POOLS: [(&str, &str); 1] = [("large", r#"vendor: "1af4", device: "1110""#)];

#[test]
#[ignore = "boots an emulated host: cargo lab test"]
fn a_guest_reaches_registers_above_4_gib_to_their_end_and_the_rom() -> Result<()> {
    let claim = "  devices:\n    - {name: large, claim: {pool: large}}\n";
    let host = Host::intel()
        .large_bar()
        .file("root/policy.yaml", cards(&POOLS))
        .file("root/guest.yaml", Guest::new("web", "net").to_string() + claim)
        .boot()?;
    host.ok("assign apply -f policy.yaml");
    // What the first leaves at the end of the memory, the second finds there.
    for found in ["0x0000000000000000", WRITTEN] {
        let output =
            host.run_within("assign run -f guest.yaml </dev/null", Duration::from_secs(240))?;
        let said = format!("{}\n{}", output.stdout, output.stderr);
        assert_eq!(output.code, 0, "{said}");
        let memory = said.lines().find(|line| line.starts_with("guest: memory of"));
        let memory = memory.unwrap_or_else(|| panic!("{said}"));
        let size = format!("of {} GiB at 0x", LARGE_BAR >> 30);
        assert!(memory.contains(&size), "{said}");
        let start = memory.split(" at 0x").nth(1).and_then(|rest| rest.split(',').next());
        let start = u64::from_str_radix(start.unwrap_or_default(), 16)?;
        assert!(start >= 4 << 30 && start % LARGE_BAR == 0, "{start:#x}: {said}");
        assert!(memory.ends_with(&format!("its end was {found}")), "{said}");
        assert!(said.contains(&format!("guest: memory: its end is {WRITTEN}")), "{said}");
        assert!(said.contains(&format!("guest: ROM of 1024 bytes: {ROM}")), "{said}");
    }
    // It is the card's memory, and no copy.
    host.ok(&format!("printf '\\002' | dd of={CONFIG} bs=1 seek=4 conv=notrunc 2>/dev/null"));
    let resource = host.ok(&format!("sed -n 3p /sys/bus/pci/devices/{CARD}/resource"));
    let end = resource.split(' ').nth(1).and_then(|end| end.strip_prefix("0x"));
    let end = u64::from_str_radix(end.unwrap_or_default(), 16)?;
    assert_eq!(format!("{:#018X}", host.physical(end - 7)?).replace('X', "x"), WRITTEN);
    Ok(())
}
