//! bind and release on a real host: several devices at once, whole groups, by force, and everything
//! as it was afterwards.

use std::time::Duration;

use anyhow::Result;
use lab::Host;

/// The names of drivers, one a line; empty for a device without.
fn drivers(host: &Host, devices: &[String]) -> Vec<String> {
    let script = format!(
        "for device in {}; do basename \"$(readlink /sys/bus/pci/devices/$device/driver)\"; done",
        devices.join(" ")
    );
    host.ok(&script).lines().map(|line| line.trim_end_matches('.').to_owned()).collect()
}

/// The address of each VF's interface.
fn addresses(host: &Host, vfs: &[String]) -> Vec<String> {
    let script = format!(
        "for device in {}; do cat /sys/bus/pci/devices/$device/net/*/address; done",
        vfs.join(" ")
    );
    host.ok(&script).lines().map(str::to_owned).collect()
}

/// The seven VFs of the first igb port.
fn seven() -> Vec<String> {
    (0..7).map(|index| format!("0000:01:{:02x}.{}", 0x10 + index / 4, 2 * (index % 4))).collect()
}

/// A refusal's text.
fn refused(host: &Host, command: &str) -> Result<String> {
    let output = host.run_within(command, Duration::from_secs(20))?;
    assert_eq!(output.code, 3, "{command}: {}\n{}", output.stdout, output.stderr);
    Ok(output.stderr)
}

#[test]
#[ignore = "boots an emulated host: cargo lab test"]
fn seven_vfs_are_bound_at_once_and_come_back_as_they_were() -> Result<()> {
    let host = Host::intel().igb(2).boot()?;
    let (vfs, list) = (seven(), seven().join(" "));
    // Below a PF that is down no VF learns its address.
    host.ok("ip link set eth0 up; cd /sys/class/net/eth0; \
             for i in $(seq 100); do grep -q 1 carrier && exit 0; usleep 100000; done; exit 1");
    host.ok("assign vf create eth0 7");
    assert_eq!(drivers(&host, &vfs), vec!["igbvf"; 7]);
    // The driver has invented these: it would invent others the next time.
    let before = addresses(&host, &vfs);
    assert_eq!(before.len(), 7, "{before:?}");

    let told = host.ok(&format!("assign bind {list}"));
    assert!(told.contains("7 steps made"), "{told}");
    assert_eq!(drivers(&host, &vfs), vec!["vfio-pci"; 7]);
    let again = host.ok(&format!("assign bind {list}"));
    assert!(again.contains("nothing to do"), "{again}");
    let told = host.ok(&format!("assign release {list}"));
    assert!(told.contains(&format!("give back to igbvf as {}", before[3])), "{told}");
    assert_eq!(drivers(&host, &vfs), vec!["igbvf"; 7]);
    assert_eq!(addresses(&host, &vfs), before);
    let overrides = host.ok("cat /sys/bus/pci/devices/0000:01:1*/driver_override | sort -u");
    assert_eq!(overrides, "(null)\n");

    // A PF with VFs is not for guests; nor are VFs made below one that is a guest's.
    let text = refused(&host, "assign bind 01:00.0")?;
    assert!(text.contains("it has 7 VFs") && text.contains("assign vf destroy"), "{text}");
    host.ok("assign bind 02:00.0");
    let unfit = host.run("assign vf create 02:00.0 2")?;
    assert_eq!(unfit.code, 1, "{}", unfit.stderr);
    assert!(unfit.stderr.contains("bound to vfio-pci"), "{}", unfit.stderr);

    // igb takes its own card and refuses a VF: the card it took first is put back as well.
    host.ok("assign bind 01:10.2");
    let devices = ["0000:02:00.0", "0000:01:10.0", "0000:01:10.2"].map(str::to_owned);
    let failed = host.run(&format!("assign bind --driver igb {}", devices.join(" ")))?;
    assert_eq!(failed.code, 1, "{}", failed.stderr);
    assert!(failed.stderr.contains("cannot be bound to igb"), "{}", failed.stderr);
    assert_eq!(drivers(&host, &devices), ["vfio-pci", "igbvf", "vfio-pci"]);
    assert_eq!(addresses(&host, &vfs[..1]), before[..1], "its address is put back with it");

    // One that a process has open is refused at once, and no other is touched.
    let holder = host.spawn(
        "exec 3<>/dev/vfio/$(basename $(readlink \
         /sys/bus/pci/devices/0000:01:10.2/iommu_group)) && echo open && exec sleep 100",
    );
    holder.wait_for("open", Duration::from_secs(20))?;
    for command in [
        "assign release 02:00.0 01:10.2",
        "assign bind --driver igbvf 02:00.0 01:10.2",
        "assign vf destroy eth0 --yes",
    ] {
        let text = refused(&host, command)?;
        assert!(text.contains("0000:01:10.2") && text.contains("sleep (process "), "{text}");
    }
    assert_eq!(drivers(&host, &devices), ["vfio-pci", "igbvf", "vfio-pci"]);
    holder.signal(9);
    holder.wait(Duration::from_secs(20))?;
    host.ok("assign release 02:00.0 01:10.2");
    assert_eq!(drivers(&host, &devices), ["igb", "igbvf", "igbvf"]);

    // Given away by hand beforehand: not ours to give back.
    host.ok("cd /sys/bus/pci; echo vfio-pci > devices/0000:01:10.4/driver_override; \
             echo 0000:01:10.4 > drivers/igbvf/unbind; echo 0000:01:10.4 > drivers_probe");
    host.ok("assign bind 01:10.0 01:10.4");
    let ours = host.run("assign release 01:10.0 01:10.4")?;
    assert_eq!(ours.code, 2, "{}", ours.stderr);
    host.ok("assign release 01:10.0");
    assert_eq!(drivers(&host, &vfs[..3]), ["igbvf", "igbvf", "vfio-pci"]);

    // Another VF in the place of one that was bound: it is not given to that one's driver.
    host.ok("assign bind 01:10.0");
    host.ok(
        "cd /sys/class/net/eth0/device; echo 0 > sriov_numvfs; echo 0 > sriov_drivers_autoprobe; \
             echo 1 > sriov_numvfs",
    );
    let told = host.ok("assign release 01:10.0");
    assert!(told.contains("nothing to do"), "{told}");
    assert_eq!(drivers(&host, &vfs[..1]), [""]);
    Ok(())
}

#[test]
#[ignore = "boots an emulated host: cargo lab test"]
fn groups_are_taken_whole_and_the_hosts_own_only_by_force() -> Result<()> {
    let host = Host::intel().igb(1).shared_group().boot()?;
    let pair = ["0000:02:00.0", "0000:02:00.1"].map(str::to_owned);
    let text = refused(&host, "assign bind 02:00.0")?;
    assert!(text.contains("0000:02:00.1 (e1000e)") && text.contains("--group"), "{text}");
    assert!(text.contains("because 0000:02:00.0 has no ACS"), "{text}");
    assert_eq!(drivers(&host, &pair), ["e1000e"; 2]);
    host.ok("assign bind 02:00.0 --group");
    assert_eq!(drivers(&host, &pair), ["vfio-pci"; 2]);
    host.ok("assign release 02:00.1 --group");
    assert_eq!(drivers(&host, &pair), ["e1000e"; 2]);
    host.ok("assign bind 02:00.0 02:00.1");
    assert_eq!(drivers(&host, &pair), ["vfio-pci"; 2]);
    host.ok("assign release 02:00.0");
    host.ok("assign release 02:00.1");
    assert_eq!(drivers(&host, &pair), ["e1000e"; 2]);

    host.ok("ip addr add 192.0.2.7/24 dev eth0; ip link set eth0 up");
    let pf = ["0000:01:00.0".to_owned()];
    for command in ["assign bind eth0", "assign bind eth0 --yes", "assign bind eth0 --group"] {
        let text = refused(&host, command)?;
        assert!(text.contains("0000:01:00.0 → eth0 → address 192.0.2.7"), "{text}");
        assert!(text.contains("--force 0000:01:00.0"), "{text}");
    }
    let bound = host.run("assign bind --force eth0 -o json")?;
    assert_eq!(bound.code, 0, "{}", bound.stderr);
    assert!(bound.stderr.contains("warning: by force, the host loses"), "{}", bound.stderr);
    assert!(bound.stdout.contains("\"forced\""), "{}", bound.stdout);
    assert_eq!(drivers(&host, &pf), ["vfio-pci"]);
    let told = host.ok("assign release 01:00.0");
    assert!(told.contains("address 192.0.2.7") && told.contains("set that up again"), "{told}");
    assert_eq!(drivers(&host, &pf), ["igb"]);
    host.ok("test -d /sys/class/net/eth0");

    // A VF that the host uses goes with its PF's others only if it is named itself.
    host.ok("assign vf create eth0 2");
    host.ok("ip addr add 192.0.2.8/24 dev $(ls /sys/bus/pci/devices/0000:01:10.2/net)");
    let text = refused(&host, "assign vf destroy eth0 --yes")?;
    assert!(text.contains("address 192.0.2.8"), "{text}");
    let text = refused(&host, "assign vf destroy eth0 --force 01:10.0 --yes")?;
    assert!(text.contains("address 192.0.2.8"), "{text}");
    let other = host.run("assign vf destroy eth0 --force eth0 --yes")?;
    assert_eq!(other.code, 2, "{}", other.stderr);
    host.ok("assign vf destroy eth0 --force 01:10.2 --yes");
    assert_eq!(host.ok("cat /sys/class/net/eth0/device/sriov_numvfs"), "0\n");
    Ok(())
}
