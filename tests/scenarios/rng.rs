//! Random numbers of the host's for guests.

use std::time::Duration;

use anyhow::Result;
use lab::Host;

use crate::documents::Guest;

const GUEST_TIME: Duration = Duration::from_secs(120);

#[test]
#[ignore = "boots an emulated host: cargo lab test"]
fn a_guest_gets_random_numbers_and_another_one_none() -> Result<()> {
    let host = Host::intel()
        .file("root/web.yaml", Guest::new("web", "net lab.rng").rng().to_string())
        .file("root/plain.yaml", Guest::new("plain", "net lab.rng").to_string())
        .boot()?;
    let told = |file: &str| -> Result<String> {
        let output = host.run_within(&format!("assign run -f {file} </dev/null"), GUEST_TIME)?;
        let said = format!("{}\n{}", output.stdout, output.stderr);
        assert_eq!(output.code, 0, "{said}");
        let line = said.lines().find_map(|line| line.strip_prefix("guest: rng: "));
        Ok(line.unwrap_or_else(|| panic!("{said}")).to_owned())
    };
    let both = [told("web.yaml")?, told("web.yaml")?];
    for line in &both {
        assert!(line.starts_with("virtio_rng.0, 262144 bytes, "), "{line}");
        let compressed = line.split("compressed ").nth(1).and_then(|rest| rest.split(',').next());
        let compressed: usize = compressed.unwrap_or_default().parse()?;
        assert!(compressed >= 262_144, "they have a pattern: {line}");
    }
    assert_ne!(both[0], both[1]);
    let none = told("plain.yaml")?;
    assert!(!none.contains("virtio_rng") && none.contains(" 0 bytes"), "{none}");
    Ok(())
}
