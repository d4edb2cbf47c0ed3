//! Devices by iommufd, and by type1 beside it: on hosts that run the lab's own kernel, whose VFIO devices
//! have files of their own. What other scenarios show of type1 is tried again here.

use std::time::Duration;

use anyhow::Result;
use lab::{Host, Output};

use crate::documents::{Guest, policy};
use crate::{device_errors, devices, hostile, hotplug, isolation};

const GUEST_TIME: Duration = Duration::from_secs(240);

/// A policy of eth0's VFs that demands an interface.
pub fn demanding(vfs: u16, iommu: &str) -> String {
    policy(vfs) + &format!("  isolation: {{iommu: {iommu}}}\n")
}

/// Runs the guest of a file to its end, and returns all that was said.
pub fn run(host: &Host, file: &str) -> Result<String> {
    let command = format!("assign run -f {file} </dev/null");
    let Output { stdout, stderr, code, .. } = host.run_within(&command, GUEST_TIME)?;
    let said = format!("{stdout}\n{stderr}");
    assert_eq!(code, 0, "{said}");
    Ok(said)
}

/// How often it is told that a device comes by this interface.
pub fn devices_by(said: &str, interface: &str) -> usize {
    let end = format!(" through vfio ({interface})");
    said.lines().filter(|line| line.ends_with(&end)).count()
}

pub fn assert_lines(said: &str, lines: &[&str]) {
    for line in lines {
        assert!(said.contains(line), "no {line:?}:\n{said}");
    }
}

const BULK: &[&str] = &[
    "guest: eth0: igbvf at ",
    "guest: eth0: ping 10.0.2.2: 3 of 3 answered",
    "guest: eth0: 1 MiB sent and come back: equal",
];

#[test]
#[ignore = "boots an emulated host with its own kernel: cargo lab test iommufd"]
fn vfs_come_by_iommufd_and_by_type1_and_work_alike() -> Result<()> {
    let one = Guest::new("web", "net lab.bulk").claim().to_string();
    let two = one.replace("web", "pair") + "    - {name: net1, claim: {pool: lan}}\n";
    let host = Host::intel()
        .iommufd()
        .igb(1)
        .file("root/policy.yaml", policy(2))
        .file("root/type1.yaml", demanding(2, "type1"))
        .file("root/iommufd.yaml", demanding(2, "iommufd"))
        .file("root/one.yaml", one)
        .file("root/two.yaml", two)
        .limit(Duration::from_secs(600))
        .boot()?;
    for (file, interface) in
        [("policy.yaml", "iommufd"), ("type1.yaml", "type1"), ("iommufd.yaml", "iommufd")]
    {
        host.ok(&format!("assign apply -f {file}"));
        let said = run(&host, "one.yaml")?;
        assert_eq!(devices_by(&said, interface), 1, "{file}: {said}");
        assert_lines(&said, BULK);
    }
    // Two in one address space.
    let said = run(&host, "two.yaml")?;
    assert_eq!(devices_by(&said, "iommufd"), 2, "{said}");
    assert_eq!(said.matches("ping 10.0.2.2: 3 of 3 answered").count(), 2, "{said}");
    host.ok("assign remove -f iommufd.yaml");
    assert_eq!(host.ok("cat /sys/class/net/eth0/device/sriov_numvfs"), "0\n");
    Ok(())
}

#[test]
#[ignore = "boots an emulated host with its own kernel: cargo lab test iommufd"]
fn an_iommufd_device_that_another_process_has_is_left_alone() -> Result<()> {
    let host = Host::intel()
        .iommufd()
        .igb(1)
        .bridge()
        .file("root/policy.yaml", policy(1))
        .file("root/guest.yaml", Guest::new("web", "net").claim_or_bridge().to_string())
        .limit(Duration::from_secs(400))
        .boot()?;
    host.ok("assign apply -f policy.yaml");

    // Its own file can be opened by many, and its group does not tell: unbinding it would wait.
    let file = host.ok("echo /dev/vfio/devices/$(ls /sys/bus/pci/devices/0000:01:10.0/vfio-dev)");
    let holder = host.spawn(&format!("exec 3<>{}; echo holding; exec sleep 600", file.trim()));
    holder.wait_for("holding", Duration::from_secs(10))?;
    let refused = host.run("assign bind 01:10.0 --driver igbvf")?;
    assert_eq!(refused.code, 3, "{}", refused.stderr);
    assert!(refused.stderr.contains("in use by sleep (process "), "{}", refused.stderr);
    holder.kill();

    // With its group open, it cannot be bound to an iommufd: the guest starts without it.
    let group = host.ok("basename $(readlink /sys/bus/pci/devices/0000:01:10.0/iommu_group)");
    let holder =
        host.spawn(&format!("exec 3<>/dev/vfio/{}; echo holding; exec sleep 600", group.trim()));
    holder.wait_for("holding", Duration::from_secs(10))?;
    let said = run(&host, "guest.yaml")?;
    assert_lines(
        &said,
        &["web: net0: virtio on br0, because ", "guest: eth0: ping 10.0.3.2: 3 of 3 answered"],
    );
    holder.kill();
    let said = run(&host, "guest.yaml")?;
    assert_eq!(devices_by(&said, "iommufd"), 1, "{said}");
    Ok(())
}

#[test]
#[ignore = "boots an emulated host with its own kernel: cargo lab test iommufd"]
fn an_nvme_vf_comes_by_iommufd() -> Result<()> {
    let guest = Guest::new("reader", "net lab.write").claim().to_string();
    let host = Host::intel()
        .iommufd()
        .nvme()
        .file("root/guest.yaml", guest.replace("pool: lan", "pool: disks"))
        .limit(Duration::from_secs(400))
        .boot()?;
    host.ok("assign apply -f /examples/nvme-slices.yaml");
    let said = run(&host, "guest.yaml")?;
    assert_eq!(devices_by(&said, "iommufd"), 1, "{said}");
    assert_lines(&said, &["1 MiB written and read back: equal"]);
    host.ok("assign remove -f /examples/nvme-slices.yaml");
    Ok(())
}

#[test]
#[ignore = "boots an emulated host with its own kernel: cargo lab test iommufd"]
fn one_guest_drives_devices_of_every_kind() -> Result<()> {
    devices::drive_devices_of_every_kind(Host::intel().iommufd(), "iommufd")
}

#[test]
#[ignore = "boots an emulated host with its own kernel: cargo lab test iommufd"]
fn devices_come_to_a_running_guest_and_leave_it() -> Result<()> {
    hotplug::devices_come_and_leave(Host::intel().iommufd())
}

#[test]
#[ignore = "boots an emulated host with its own kernel: cargo lab test iommufd"]
fn a_device_is_taken_where_the_guest_keeps_it_or_the_host_wants_it() -> Result<()> {
    hotplug::devices_are_taken(Host::intel().iommufd())
}

#[test]
#[ignore = "boots an emulated host with its own kernel: cargo lab test iommufd"]
fn a_device_is_proven_to_be_isolated_or_it_is_said_why_not() -> Result<()> {
    isolation::devices_are_proven_to_be_isolated(Host::intel().iommufd())
}

#[test]
#[ignore = "boots an emulated host with its own kernel: cargo lab test iommufd"]
fn what_an_uncorrectable_error_does_is_the_guests_own_choice() -> Result<()> {
    device_errors::meet_uncorrectable_errors(Host::intel().iommufd())
}

#[test]
#[ignore = "boots an emulated host with its own kernel: cargo lab test iommufd"]
fn a_guest_that_writes_anything_anywhere_harms_itself_only() -> Result<()> {
    hostile::write_anything_anywhere(Host::intel().iommufd())
}

#[test]
#[ignore = "boots an emulated host with its own kernel: cargo lab test iommufd"]
fn a_guest_that_aims_its_device_elsewhere_changes_nothing_and_is_named() -> Result<()> {
    isolation::aim_elsewhere(Host::intel().iommufd())
}
