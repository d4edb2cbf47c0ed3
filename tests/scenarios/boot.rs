//! The lab itself: if these fail, no other scenario means anything.

use std::time::{Duration, Instant};

use anyhow::Result;
use lab::{Host, boot_guest};

#[test]
#[ignore = "boots an emulated host: cargo lab test"]
fn a_host_has_what_its_shape_says() -> Result<()> {
    let host = Host::intel().igb(2).bridge().file("/etc/motd", "welcome\n").boot()?;
    println!("agent ready after {:.2} s", host.boot_time().as_secs_f64());

    // The agent tells exit code, output and errors apart.
    let output = host.run("echo to-out; echo to-err >&2; exit 7")?;
    assert_eq!(
        (output.code, output.stdout.as_str(), output.stderr.as_str()),
        (7, "to-out\n", "to-err\n")
    );
    assert_eq!(host.run("kill -TERM $$")?.code, 128 + 15);
    assert_eq!(host.run("exec no-such-program")?.code, 127);

    assert_eq!(host.ok("cat /etc/motd"), "welcome\n");
    let bytes: Vec<u8> = (0..300_000u32).map(|n| (n * 7) as u8).collect();
    host.write("/tmp/a/b c/file", &bytes);
    assert_eq!(host.read("/tmp/a/b c/file"), bytes);

    host.ok("test -c /dev/kvm");
    host.ok("test -c /dev/vfio/vfio");
    assert_ne!(host.ok("ls /sys/kernel/iommu_groups"), "");
    for (port, address) in [("eth0", "0000:01:00.0"), ("eth1", "0000:02:00.0")] {
        assert!(host.ok(&format!("readlink /sys/class/net/{port}/device")).contains(address));
        assert_eq!(host.ok(&format!("cat /sys/class/net/{port}/device/sriov_totalvfs")), "7\n");
    }
    host.ok("test -d /sys/class/net/br0/brif/uplink0");

    host.ok("echo 1 > /sys/class/net/eth0/device/sriov_numvfs");
    assert_eq!(host.ok("cat /sys/bus/pci/devices/0000:01:10.0/vendor"), "0x8086\n");
    let group = host.ok("ls /sys/bus/pci/devices/0000:01:10.0/iommu_group/devices");
    assert_eq!(group, "0000:01:10.0\n");
    Ok(())
}

#[test]
#[ignore = "boots an emulated host: cargo lab test"]
fn shapes_leave_out_what_they_say() -> Result<()> {
    let host = Host::no_iommu().no_kvm().shared_group().vmlinux().boot()?;
    assert_eq!(host.ok("ls /sys/kernel/iommu_groups"), "");
    assert_eq!(host.run("test -e /dev/kvm")?.code, 1);
    assert_eq!(host.run("test -e /sys/class/net/br0")?.code, 1);
    assert_eq!(host.ok("head -c 4 /boot/vmlinux | tail -c 3"), "ELF");
    assert_eq!(host.ok("readlink /sys/class/net/eth1/device"), "../../../0000:01:00.1\n");
    Ok(())
}

#[test]
#[ignore = "boots an emulated host: cargo lab test"]
fn two_hosts_run_at_once_and_one_has_a_shared_group() -> Result<()> {
    let (one, other) = std::thread::scope(|scope| {
        let other = scope.spawn(|| Host::intel().shared_group().boot());
        (Host::intel().igb(1).boot(), other.join().expect("no panic"))
    });
    let (one, other) = (one?, other?);
    assert_eq!(one.run("test -e /sys/bus/pci/devices/0000:01:00.1")?.code, 1);
    let group = other.ok("ls /sys/bus/pci/devices/0000:01:00.0/iommu_group/devices");
    assert!(group.ends_with("0000:01:00.0\n0000:01:00.1\n"), "{group}");
    one.ok("touch /tmp/mine");
    assert_eq!(other.run("test -e /tmp/mine")?.code, 1);
    Ok(())
}

#[test]
#[ignore = "boots an emulated host: cargo lab test"]
fn commands_run_side_by_side_and_hanging_ones_are_killed() -> Result<()> {
    let host = Host::intel().limit(Duration::from_secs(30)).boot()?;

    let cat = host.spawn("cat; echo end >&2");
    assert_eq!(host.ok("echo meanwhile"), "meanwhile\n");
    cat.stdin("a line\n");
    cat.wait_for("a line", Duration::from_secs(10))?;
    cat.close_stdin();
    assert_eq!(cat.wait(Duration::from_secs(10))?.stderr, "end\n");

    // On a terminal, a command sees one, and is interrupted from its keyboard.
    let cat = host.spawn_on_terminal("stty size; echo to-err >&2; exec cat", 66);
    cat.wait_for("24 66\r\nto-err\r\n", Duration::from_secs(10))?;
    cat.stdin("typed\r");
    cat.wait_for("typed\r\ntyped\r\n", Duration::from_secs(10))?;
    cat.stdin("\x03");
    assert_eq!(cat.wait(Duration::from_secs(10))?.code, 128 + 2);

    // What a command leaves behind does not keep it from ending, even with its output open.
    let begun = Instant::now();
    assert_eq!(host.ok("sleep 1000 & echo started"), "started\n");
    assert!(begun.elapsed() < Duration::from_secs(10));

    let error = host.run_within("echo hanging; sleep 1000", Duration::from_secs(2)).unwrap_err();
    let report = format!("{error:#}");
    assert!(report.contains("not within 2 s") && report.contains("hanging\n"), "{report}");
    assert!(report.contains("--- console"), "{report}");

    // A host whose time is over ends, and with it whatever waits for something in it.
    let error = host.run_within("sleep 1000", Duration::from_secs(100)).unwrap_err();
    assert!(format!("{error:#}").contains("time limit of 30 s"), "{error:#}");
    assert!(host.run("true").is_err());
    Ok(())
}

#[test]
#[ignore = "boots an emulated host: cargo lab test"]
fn what_a_command_says_last_on_a_terminal_is_seen() -> Result<()> {
    let host = Host::intel().boot()?;
    let expected: String = (1..=12).map(|line| format!("{line}\r\n")).collect();
    host.ok("seq 12 >lines");
    for round in 0..300 {
        // In one piece, by the program that leads the session unless somebody else does.
        let said = host.spawn_on_terminal("exec cat lines", 80).wait(Duration::from_secs(30))?;
        assert_eq!((said.code, said.stdout), (0, expected.clone()), "round {round}");
    }
    let ended = host.spawn_on_terminal("kill -9 $$", 80).wait(Duration::from_secs(30))?;
    assert_eq!(ended.code, 128 + 9);
    Ok(())
}

#[test]
#[ignore = "boots an emulated host: cargo lab test"]
fn the_guest_reports_its_network_and_powers_off() -> Result<()> {
    let guest = boot_guest("net")?;
    guest.wait_for_end(Duration::from_secs(90))?;
    let console = guest.console();
    for line in [
        "guest: eth0: virtio_net at 0000:00:02.0, mac 52:54:00:00:04:00",
        "guest: eth0: lease 10.0.2.15, gateway 10.0.2.2",
        "guest: eth0: ping 10.0.2.2: 3 of 3 answered",
        "(MSI-X), rx ",
        "guest: done, powering off",
    ] {
        assert!(console.contains(line), "{line:?} is not on the console:\n{console}");
    }
    Ok(())
}

#[test]
#[ignore = "boots an emulated host: cargo lab test"]
fn the_guest_holds_until_it_is_told_to_stop() -> Result<()> {
    let guest = boot_guest("hold")?;
    guest.console_wait_for("guest: holding", Duration::from_secs(90))?;
    guest.console_type("stop\n")?;
    guest.wait_for_end(Duration::from_secs(30))?;
    assert!(guest.console().contains("guest: done, powering off"), "{}", guest.console());
    Ok(())
}

#[test]
#[ignore = "boots an emulated host: cargo lab test"]
fn the_demo_tells_its_story_to_the_end() -> Result<()> {
    lab::demo::run(&lab::setup::present()?)
}
