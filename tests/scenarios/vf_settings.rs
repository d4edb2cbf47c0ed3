//! What a PF sets for its VFs, and the life of VFs that somebody is using.

use std::time::Duration;

use anyhow::Result;
use lab::Host;

/// The settings of a VF of eth0, as `assign vf list` tells programs.
fn listed(host: &Host, vf: usize) -> serde_json::Value {
    let text = host.ok("assign vf list eth0 -o json");
    let list: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    list[vf].clone()
}

/// A command that must not work, with its exit code and the words of its error.
fn refused(host: &Host, command: &str, code: i32, words: &[&str]) -> Result<()> {
    let output = host.run(command)?;
    let told = output.stderr.split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(output.code, code, "{command}: {told}");
    for word in words {
        assert!(told.contains(word), "{command}: {word:?} is not in: {told}");
    }
    Ok(())
}

/// A text without what moves and colours on a terminal.
fn plain(text: &str) -> String {
    let mut parts = text.split('\u{1b}');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |all, part| {
        let end = part.find(|c: char| c.is_ascii_alphabetic()).map_or(part.len(), |at| at + 1);
        all + part.get(end..).unwrap_or_default()
    })
}

#[test]
#[ignore = "boots an emulated host: cargo lab test"]
fn each_setting_is_made_read_back_and_taken_back() -> Result<()> {
    let host = Host::intel().igb(1).boot()?;
    host.ok("ip link set eth0 up");
    host.ok(
        "for i in $(seq 50); do grep -q 1 /sys/class/net/eth0/carrier && exit; usleep 100000; done",
    );
    host.ok("assign vf create eth0 3 --driver vfio-pci");

    // One at a time, several VFs at once, and each form of a VF's name.
    host.ok("assign vf set eth0/0 --mac 02:00:00:00:00:01 --vlan 100:3 --trust on --max-rate 400");
    host.ok("assign vf set 0000:01:00.0/1 0000:01:10.4 --spoof-check off");
    let first = listed(&host, 0);
    assert_eq!(first["name"], "eth0/0");
    assert_eq!(first["mac"], "02:00:00:00:00:01");
    assert_eq!(first["vlan"]["id"], 100);
    assert_eq!((&first["vlan"]["qos"], &first["vlan"]["protocol"]), (&3.into(), &"802.1Q".into()));
    assert_eq!(
        (first["trust"].as_bool(), first["spoof_check"].as_bool()),
        (Some(true), Some(true))
    );
    assert_eq!((&first["rate"]["min"], &first["rate"]["max"]), (&0.into(), &400.into()));
    for vf in [1, 2] {
        assert_eq!(listed(&host, vf)["spoof_check"], false);
    }
    // Only what differs is a step.
    let again = host.ok("assign vf set eth0/0 --vlan 100:3 --trust on");
    assert!(again.contains("nothing to do"), "{again}");
    host.ok("assign vf set eth0/0 --qos 5");
    assert_eq!(listed(&host, 0)["vlan"]["qos"], 5);
    assert_eq!(listed(&host, 0)["vlan"]["id"], 100, "what is not named stays");

    // A terminal of 80 columns is enough, and shows all of it.
    let terminal = host.spawn_on_terminal("assign vf list", 80);
    let table = plain(&terminal.wait(Duration::from_secs(30))?.stdout);
    assert!(table.lines().all(|line| line.trim_end().chars().count() <= 80), "{table}");
    for words in ["eth0/2", "vlan 100:5", "trusted", "max 400 Mbit/s", "no spoof check"] {
        assert!(table.contains(words), "{words:?} is not in\n{table}");
    }

    // A bad value of each, and what the card does not know.
    let before = host.ok("assign vf list eth0 -o json");
    for (options, code, words) in [
        ("--mac 00:00:00:00:00:00", 2, &["none"][..]),
        ("--mac 01:00:5e:00:00:01", 2, &["group"]),
        ("--vlan 4095", 2, &["4095", "0 to 4094"]),
        ("--vlan 5:9", 2, &["5:9"]),
        ("--vlan 5:1 --qos 2", 2, &["--qos"]),
        ("--qos 8", 2, &["8"]),
        ("--vlan none --protocol 802.1ad", 2, &["802.1ad"]),
        ("--trust maybe", 2, &["maybe"]),
        ("--max-rate -5", 2, &["-5"]),
        ("--max-rate 100 --min-rate 200", 2, &["200", "100"]),
        ("--max-rate 100000", 2, &["100000", "eth0", "1000"]),
        ("", 2, &["--mac"]),
        ("--vlan 5:0:802.1ad", 1, &["igb", "802.1ad", "Use 802.1Q"]),
        ("--min-rate 10 --max-rate 100", 1, &["igb", "10 to 100 Mbit/s", "no least rate"]),
        ("--link-state enable", 1, &["keep its link up", "igb", "link state"]),
        ("--msix 5", 1, &["igb", "vectors"]),
        // The second setting fails: the first is taken back.
        ("--vlan 7 --link-state disable", 1, &["igb", "link state", "taken back"]),
    ] {
        refused(&host, &format!("assign vf set eth0/1 {options}"), code, words)?;
        assert_eq!(host.ok("assign vf list eth0 -o json"), before, "{options} changed something");
    }
    refused(&host, "assign vf set eth0/3 --trust on", 2, &["0000:01:00.0", "VF 0 to 2"])?;
    refused(&host, "assign vf set eth0 --trust on", 2, &["no VF", "eth0/0"])?;
    refused(&host, "assign vf set eth0/0 eth0/1 --mac 02:00:00:00:00:07", 2, &["one VF"])?;

    host.ok("assign vf set eth0/0 --vlan none --trust off --max-rate 0 --mac none");
    let first = listed(&host, 0);
    assert_eq!((&first["vlan"]["id"], &first["trust"]), (&0.into(), &false.into()));
    assert_eq!((&first["rate"]["max"], &first["mac"]), (&0.into(), &"00:00:00:00:00:00".into()));

    // A driver of the host hears of it later, which is said.
    host.ok("assign bind 0000:01:10.0 --driver igbvf");
    let noted = host.ok("assign vf set 0000:01:10.0 --mac 02:00:00:00:00:09");
    assert!(noted.contains("igbvf") && noted.contains("next reset"), "{noted}");
    Ok(())
}

#[test]
#[ignore = "boots an emulated host: cargo lab test"]
fn vfs_go_only_when_nobody_uses_them_and_everybody_agrees() -> Result<()> {
    const COUNT: &str = "cat /sys/class/net/eth0/device/sriov_numvfs";
    let host = Host::intel().igb(1).boot()?;
    host.ok("ip link set eth0 up");
    host.ok("assign vf create eth0 3 --driver vfio-pci");
    host.ok("assign vf set eth0/1 --mac 02:00:00:00:00:05 --vlan 9");

    // As many as there are is nothing to do; another number is asked about.
    assert!(host.ok("assign vf create eth0 3").contains("nothing to do"));
    refused(&host, "assign vf create eth0 5 </dev/null", 3, &["destroy its 3 VFs", "--yes"])?;
    assert_eq!(host.ok(COUNT), "3\n");

    // Somebody has one open: neither another number nor none, and its settings stay.
    let holder = host.spawn(
        "exec 3<>/dev/vfio/$(basename $(readlink \
        /sys/bus/pci/devices/0000:01:10.2/iommu_group)); echo held; read line",
    );
    holder.wait_for("held", Duration::from_secs(20))?;
    for command in [
        "assign vf create eth0 5 --yes",
        "assign vf destroy eth0 --yes",
        "assign vf set eth0/1 --vlan none",
        "assign vf set eth0/1 --mac none",
    ] {
        refused(&host, command, 3, &["0000:01:10.2", "in use by"])?;
    }
    host.ok("assign vf set eth0/0 --vlan 8");
    assert_eq!(host.ok(COUNT), "3\n");
    holder.stdin("\n");
    holder.wait(Duration::from_secs(20))?;

    // On a terminal: the question, the steps, and none of the old ones left.
    let terminal = host.spawn_on_terminal("assign vf create eth0 5", 100);
    terminal.wait_for("Go on? [y/N]", Duration::from_secs(20))?;
    terminal.stdin("y\r");
    let told = terminal.wait(Duration::from_secs(60))?;
    assert_eq!(told.code, 0, "{}", told.stdout);
    for words in [
        "0000:01:00.0 VF 1: remember what it has: vfio-pci, 02:00:00:00:00:05, VLAN 9 ... done",
        "0000:01:00.0: destroy its 3 VFs ... ",
        "0000:01:00.0: create 5 VFs ... ",
    ] {
        assert!(told.stdout.contains(words), "{words:?} is not in {}", told.stdout);
    }
    // Going takes igb a second: the line lives meanwhile.
    assert!(told.stdout.contains(" s, "), "{}", told.stdout);
    assert_eq!(host.ok(COUNT), "5\n");
    let drivers = host
        .ok("for at in /sys/bus/pci/devices/0000:01:1*/driver; do basename $(readlink $at); done");
    assert_eq!(drivers, "igbvf\n".repeat(5));
    assert_eq!(listed(&host, 1)["vlan"]["id"], 0);

    // The host lives on one of them.
    let name = host.ok("ls /sys/bus/pci/devices/0000:01:10.4/net").trim().to_owned();
    host.ok(&format!("ip addr add 192.0.2.1/24 dev {name}"));
    refused(&host, "assign vf destroy eth0 --yes", 3, &["0000:01:10.4", &name, "192.0.2.1"])?;
    refused(&host, &format!("assign vf set {name} --vlan 4"), 3, &["0000:01:10.4", "192.0.2.1"])?;
    host.ok(&format!("ip addr del 192.0.2.1/24 dev {name}"));

    host.ok("assign vf destroy eth0 --yes && assign vf create eth0 2 --driver vfio-pci");
    host.ok("assign vf set eth0/0 --mac 02:00:00:00:00:0a --vlan 12 --trust on");
    let before = host.ok("assign vf list eth0 -o json");
    // Ctrl-C while the kernel is at work: it is waited for, the choice is asked, and what was there
    // before comes back.
    let asked = host.spawn_on_terminal("assign vf create eth0 4 --driver vfio-pci --yes", 100);
    asked.wait_for("destroy its 2 VFs", Duration::from_secs(30))?;
    asked.stdin("\u{3}");
    asked.wait_for("[B/g/l]", Duration::from_secs(30))?;
    asked.stdin("b\r");
    let told = asked.wait(Duration::from_secs(60))?;
    assert_eq!(told.code, 1, "{}", told.stdout);
    assert!(told.stdout.contains("was interrupted"), "{}", told.stdout);
    assert_eq!(host.ok("assign vf list eth0 -o json"), before);

    // Killed half way: it comes back with the next command, with its drivers and settings.
    let killed = host.spawn("assign vf create eth0 6 --driver vfio-pci --yes");
    host.ok("for i in $(seq 200); do test $(cat /sys/class/net/eth0/device/sriov_numvfs) = 2 || break; usleep 20000; done");
    killed.kill();
    killed.wait(Duration::from_secs(30))?;
    refused(&host, "assign bind 0000:00:00.0", 3, &[])?;
    assert_eq!(host.ok("assign vf list eth0 -o json"), before);
    Ok(())
}
