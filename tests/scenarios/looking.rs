//! Looking at a host: what people read before they change anything. Nothing here changes a thing
//! but the VFs that are there to be looked at.

use std::time::Duration;

use anyhow::Result;
use lab::Host;

/// What a command shows on a terminal of this many columns.
fn shown(host: &Host, command: &str, columns: u16) -> Result<String> {
    let job = host.spawn_on_terminal(command, columns);
    let output = job.wait(Duration::from_secs(60))?;
    assert_eq!(output.code, 0, "{command}: {}", output.stdout);
    Ok(output.stdout.replace('\r', ""))
}

/// Columns a line takes, without the codes that colour it.
fn width(line: &str) -> usize {
    let mut width = 0;
    let mut code = false;
    for c in line.chars() {
        match (code, c) {
            (false, '\x1b') => code = true,
            (false, _) => width += 1,
            (true, 'm') => code = false,
            (true, _) => {}
        }
    }
    width
}

#[test]
#[ignore = "boots an emulated host: cargo lab test"]
fn a_host_is_listed_drawn_saved_and_replayed() -> Result<()> {
    let host = Host::intel().igb(1).shared_group().boot()?;
    host.ok("assign vf create eth0 7 --driver vfio-pci");

    // Every listing fits the terminal it goes to.
    for command in [
        "assign devices",
        "assign devices --tree",
        "assign groups",
        "assign show eth0",
        "assign vf list",
        "assign host",
        "assign topology",
    ] {
        for columns in [80, 200] {
            let text = shown(&host, command, columns)?;
            println!("# {command} ({columns} columns)\n{text}");
            let long = text.lines().find(|line| width(line) > usize::from(columns));
            assert_eq!(long, None, "{command} in {columns} columns");
        }
        let piped = host.ok(command);
        assert!(!piped.contains('\x1b'), "{command} colours a pipe: {piped}");
    }

    // What is wrong with this host, if anything is, is said in as little room.
    for (command, word) in [("assign doctor", "IOMMU"), ("assign doctor 02:00.0", "02:00.1")] {
        for columns in [80, 200] {
            let job = host.spawn_on_terminal(command, columns);
            let output = job.wait(Duration::from_secs(60))?;
            assert!(output.code <= 1, "{command}: {}", output.stdout);
            let text = output.stdout.replace('\r', "");
            println!("# {command} ({columns} columns)\n{text}");
            assert!(text.contains(word), "{command}: {text}");
            let long = text.lines().find(|line| width(line) > usize::from(columns));
            assert_eq!(long, None, "{command} in {columns} columns");
        }
    }

    let tree = host.ok("assign devices --tree");
    assert!(tree.contains("0000:01:00.0") && tree.contains("vfio-pci"), "{tree}");
    let shared = host.ok("assign groups 02:00.0");
    assert!(shared.contains("0000:02:00.0") && shared.contains("0000:02:00.1"), "{shared}");
    let port = host.ok("assign show eth0");
    assert!(port.contains("82576") && port.contains("7 of 7"), "{port}");

    // The picture has each function, and is a file that an XML parser takes (its tests say more).
    let picture = host.ok("assign topology --format svg");
    assert!(picture.starts_with("<?xml") || picture.starts_with("<svg"), "{picture}");
    for place in ["0000:01:00.0", "0000:02:00.1", "7 of 7 VFs"] {
        assert!(picture.contains(place), "{place} is not in the picture");
    }

    // Saved, and looked at again after the host has changed.
    host.ok("assign snapshot > /tmp/host.json");
    let before = host.ok("assign vf list -o json");
    host.ok("assign vf destroy eth0 --yes");
    assert_eq!(host.ok("assign vf list -o json --root /tmp/host.json"), before);
    assert_eq!(host.ok("assign devices --tree --root /tmp/host.json"), tree);
    let refused = host.run("assign vf destroy eth0 --yes --root /tmp/host.json")?;
    assert_eq!(refused.code, 2, "{}", refused.stderr);

    // Pages and completions are made by the program itself.
    host.ok("mkdir /tmp/man && assign man /tmp/man && test -s /tmp/man/assign.1 && test -s /tmp/man/assign-vf-set.1");
    host.ok("assign completions bash | grep -q assign");
    Ok(())
}
