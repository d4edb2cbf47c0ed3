//! Single changes: what is refused, with which words, and that nothing is written then. What the
//! kernel does with a change is tried in the lab.

use sriov::recorded::{Function, Tree};
use sriov::{Binding, Change, ChangeError, Class, PciAddress, Reason, Target, Undo, VfRef};

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

fn address(text: &str) -> PciAddress {
    text.parse().expect("an address")
}

fn set_count(from: u16, to: u16) -> Change {
    Change::SetVfCount { pf: address("0000:01:00.0"), from, to }
}

fn bind(device: &str, from: Option<&str>) -> Change {
    Change::Bind {
        device: Target::Function(address(device)),
        from: Binding { driver: from.map(str::to_owned), ..Binding::default() },
        driver: "vfio-pci".to_owned(),
    }
}

fn refused(tree: &Tree, change: &Change) -> ChangeError {
    change.perform(&tree.root()).expect_err("the change is refused")
}

fn attribute(tree: &Tree, device: &str, name: &str) -> String {
    let path = tree.root().pci_attribute(address(device), name);
    std::fs::read_to_string(path).expect("an attribute")
}

#[test]
fn the_dry_run_text_and_the_way_back() {
    let vf = VfRef { pf: address("0000:01:00.0"), index: 3 };
    let bind = Change::Bind {
        device: Target::Vf(vf),
        from: Binding::default(),
        driver: "vfio-pci".to_owned(),
    };
    assert_eq!(bind.to_string(), "0000:01:00.0 VF 3: bind to vfio-pci");
    let Undo::Change(back) = bind.undo() else { panic!("a bind can be undone") };
    assert_eq!(back.to_string(), "0000:01:00.0 VF 3: give back without a driver");
    assert_eq!(set_count(0, 4).to_string(), "0000:01:00.0: create 4 VFs");
    assert_eq!(set_count(0, 4).undo(), Undo::Change(set_count(4, 0)));
    let text = serde_json::to_string(&bind).expect("serialized");
    assert_eq!(serde_json::from_str::<Change>(&text).expect("read back"), bind);
}

#[test]
fn a_count_above_the_maximum_names_the_maximum() {
    let directory = directory();
    let error = refused(&Tree::lab(directory.path(), 0), &set_count(0, 8));
    assert_eq!((error.reason, error.reason.class()), (Reason::TooManyVfs, Class::BadInput));
    assert_eq!(
        error.to_string(),
        "0000:01:00.0: cannot create 8 VFs: it can have at most 7. Ask for 1 to 7."
    );
}

#[test]
fn a_plan_that_is_stale_is_not_carried_out() {
    let directory = directory();
    let tree = Tree::lab(directory.path(), 2);
    let error = refused(&tree, &set_count(0, 4));
    assert_eq!(error.reason, Reason::Stale, "{error}");
    assert_eq!(attribute(&tree, "0000:01:00.0", "sriov_numvfs"), "2\n");
    assert_eq!(refused(&tree, &bind("0000:00:1f.3", Some("i801_smbus"))).reason, Reason::Stale);
}

#[test]
fn what_is_as_wanted_is_left_alone() {
    let directory = directory();
    let tree = Tree::lab(directory.path(), 4);
    let done = set_count(0, 4).perform(&tree.root()).expect("nothing to do");
    assert_eq!(done, Undo::Nothing);
}

#[test]
fn a_count_is_written_and_read_back() {
    let directory = directory();
    let tree = Tree::lab(directory.path(), 0);
    // The file takes the number, as a kernel without a failure would.
    set_count(0, 4).perform(&tree.root()).expect("written and read back");
    assert_eq!(attribute(&tree, "0000:01:00.0", "sriov_numvfs"), "4\n");
}

#[test]
fn no_sriov_and_no_such_device_are_bad_input() {
    let directory = directory();
    let tree = Tree::lab(directory.path(), 1);
    for (pf, reason) in [
        ("0000:00:1f.2", Reason::NotSriov),
        ("0000:01:10.0", Reason::NotSriov),
        ("0000:77:00.0", Reason::NoSuchDevice),
    ] {
        let error = refused(&tree, &Change::SetVfCount { pf: address(pf), from: 0, to: 1 });
        assert_eq!((error.reason, error.reason.class()), (reason, Class::BadInput), "{error}");
        assert!(error.remedy.is_some());
    }
}

#[test]
fn vfs_that_a_guest_has_open_are_not_destroyed() {
    let directory = directory();
    let tree = Tree::lab(directory.path(), 2);
    tree.link("sys/bus/pci/devices/0000:01:10.2/driver", "../../bus/pci/drivers/vfio-pci");
    tree.file("dev/vfio/17", "");
    tree.link("proc/4711/fd/7", "/dev/vfio/17");
    tree.file("proc/4711/comm", "assign-vmm\n");
    let error = refused(&tree, &set_count(2, 0));
    assert_eq!(error.reason.class(), Class::Refused);
    assert_eq!(
        error.to_string(),
        "0000:01:00.0: will not destroy its VFs: 0000:01:10.2 is in use by assign-vmm (process \
         4711). Stop the guest that has it first."
    );
    assert_eq!(attribute(&tree, "0000:01:00.0", "sriov_numvfs"), "2\n");
}

#[test]
fn what_the_host_needs_is_not_bound() {
    let directory = directory();
    let tree = Tree::lab(directory.path(), 0);
    for (device, driver) in [("0000:00:1f.2", Some("ahci")), ("0000:00:01.0", Some("pcieport"))] {
        let error = refused(&tree, &bind(device, driver));
        assert_eq!(error.reason, Reason::HostUsesDevice, "{error}");
        assert_eq!(attribute(&tree, device, "driver_override"), "(null)\n");
    }
}

#[test]
fn a_pf_with_vfs_is_not_bound() {
    let directory = directory();
    let tree = Tree::lab(directory.path(), 3);
    let error = refused(&tree, &bind("0000:01:00.0", Some("igb")));
    assert_eq!(error.reason, Reason::HasVfs, "{error}");
}

#[test]
fn a_device_that_no_driver_takes_is_put_back() {
    let directory = directory();
    let tree = Tree::lab(directory.path(), 1);
    let error = refused(&tree, &bind("0000:01:10.0", None));
    assert_eq!(error.reason, Reason::DriverRefused, "{error}");
    assert!(error.message.contains("it has no driver again"), "{error}");
    assert_eq!(attribute(&tree, "0000:01:10.0", "driver_override"), "\n");
}

#[test]
fn a_driver_that_is_not_loaded_is_named() {
    let directory = directory();
    let tree = Tree::new(directory.path());
    tree.add(Function::new("0000:02:00.0", (0x1234, 0x11e8), 0x00_ff00).group(2));
    let error = refused(&tree, &bind("0000:02:00.0", None));
    assert!(error.to_string().contains("modprobe vfio-pci"), "{error}");
}

#[test]
fn a_recorded_tree_has_no_kernel_to_set_links_by() {
    let directory = directory();
    let tree = Tree::lab(directory.path(), 1);
    let pf = address("0000:01:00.0");
    let up = Change::SetLink { pf, netdev: "eth0".to_owned(), from: false, to: true };
    assert_eq!(refused(&tree, &up).reason, Reason::NotThisHost);
}

#[test]
fn an_interface_is_kept_from_listening_to_routers_and_listens_again() {
    let directory = directory();
    let tree = Tree::lab(directory.path(), 0);
    let file = "proc/sys/net/ipv6/conf/eth0/accept_ra";
    let pf = address("0000:01:00.0");
    let deaf = Change::SetAcceptRa { pf, netdev: "eth0".to_owned(), from: 1, to: 0 };
    assert_eq!(refused(&tree, &deaf).reason, Reason::NoInterface, "a kernel without IPv6");
    tree.file(file, "1\n");
    let value = || std::fs::read_to_string(directory.path().join(file)).expect("the value");
    let Ok(Undo::Change(back)) = deaf.perform(&tree.root()) else { panic!("it can be undone") };
    assert_eq!(value(), "0\n");
    assert_eq!(deaf.perform(&tree.root()).expect("nothing to do"), Undo::Nothing);
    back.perform(&tree.root()).expect("undone");
    assert_eq!(value(), "1\n");
    tree.file(file, "2\n");
    assert_eq!(refused(&tree, &deaf).reason, Reason::Stale);
}

#[test]
fn what_cannot_be_seen_counts_as_a_use() {
    let directory = directory();
    let tree = Tree::lab(directory.path(), 0);
    // A mount table that cannot be read: not a file.
    tree.remove("proc/self/mountinfo");
    tree.directory("proc/self/mountinfo");
    let error = refused(&tree, &bind("0000:00:1f.2", Some("ahci")));
    assert_eq!((error.reason, error.reason.class()), (Reason::UseUnknown, Class::Refused));
    assert!(error.message.contains("self/mountinfo"), "{error}");
    assert_eq!(attribute(&tree, "0000:00:1f.2", "driver_override"), "(null)\n");
}

#[test]
fn no_write_follows_a_link_out_of_a_recorded_tree() {
    let directory = directory();
    let tree = Tree::lab(directory.path(), 0);
    let outside = directory.path().with_extension("outside");
    std::fs::write(&outside, "0\n").expect("a file");
    let count = "sys/bus/pci/devices/0000:01:00.0/sriov_numvfs";
    tree.remove(count);
    tree.link(count, outside.to_str().expect("a path"));
    let error = refused(&tree, &set_count(0, 4));
    assert!(error.message.contains("leads out of the recorded tree"), "{error}");
    assert_eq!(std::fs::read_to_string(&outside).expect("the file"), "0\n");
    std::fs::remove_file(outside).expect("the file");
}

fn forced(step: Change, device: &str) -> Change {
    let lost = vec![format!("{device} → sda → /")];
    Change::Forced { step: Box::new(step), devices: vec![address(device)], lost, because: None }
}

#[test]
fn binding_goes_by_the_override_and_never_by_new_id() {
    let directory = directory();
    let tree = Tree::lab(directory.path(), 1);
    let new_id = "sys/bus/pci/drivers/vfio-pci/new_id";
    tree.file(new_id, "untouched");
    // The tree's kernel answers nothing, as one whose driver does not want the device.
    let error = refused(&tree, &bind("0000:01:10.0", None));
    assert!(error.message.contains("no driver took it"), "{error}");
    let probed = |file: &str| std::fs::read_to_string(directory.path().join(file)).expect("a file");
    assert_eq!(probed("sys/bus/pci/drivers_probe"), "0000:01:10.0");
    assert_eq!(probed("sys/bus/pci/drivers/vfio-pci/bind"), "0000:01:10.0");
    assert_eq!(probed(new_id), "untouched");
    assert_eq!(attribute(&tree, "0000:01:10.0", "driver_override"), "\n", "cleared by a newline");
}

#[test]
fn what_was_bound_beforehand_is_left_alone() {
    let directory = directory();
    let tree = Tree::lab(directory.path(), 1);
    let vf = "0000:01:10.0";
    tree.link(&format!("sys/bus/pci/devices/{vf}/driver"), "../../bus/pci/drivers/vfio-pci");
    // By vfio-pci.ids, so without an override; whatever the plan thought before.
    for from in [None, Some("igbvf")] {
        assert_eq!(bind(vf, from).perform(&tree.root()).expect("nothing to do"), Undo::Nothing);
    }
    assert_eq!(attribute(&tree, vf, "driver_override"), "(null)\n");
}

#[test]
fn force_takes_what_the_host_uses_and_neither_bridges_nor_open_devices() {
    let directory = directory();
    let tree = Tree::lab(directory.path(), 1);
    let disk = "0000:00:1f.2";
    // As far as a tree without a kernel goes: it came to the driver.
    let error = refused(&tree, &forced(bind(disk, Some("ahci")), disk));
    assert_eq!(error.reason, Reason::DriverRefused, "{error}");
    let bridge = "0000:00:01.0";
    let error = refused(&tree, &forced(bind(bridge, Some("pcieport")), bridge));
    assert_eq!(error.reason, Reason::HostUsesDevice, "{error}");
    tree.link("sys/bus/pci/devices/0000:01:10.0/driver", "../../bus/pci/drivers/vfio-pci");
    tree.file("dev/vfio/16", "");
    tree.link("proc/4711/fd/7", "/dev/vfio/16");
    let to_host = Change::Bind {
        device: Target::Function(address("0000:01:10.0")),
        from: Binding { driver: Some("vfio-pci".to_owned()), ..Binding::default() },
        driver: "igb".to_owned(),
    };
    let error = refused(&tree, &forced(to_host, "0000:01:10.0"));
    assert_eq!(error.reason, Reason::DeviceOpen, "{error}");
}

#[test]
fn a_forced_step_says_so_and_what_is_lost() {
    let disk = "0000:00:1f.2";
    let step = forced(bind(disk, Some("ahci")), disk);
    assert_eq!(
        step.to_string(),
        "0000:00:1f.2: bind to vfio-pci instead of ahci, by force: the host loses 0000:00:1f.2 → \
         sda → /"
    );
    assert!(step.is_disruptive());
    let Undo::Change(back) = step.undo() else { panic!("it can be undone") };
    assert_eq!(back.to_string(), "0000:00:1f.2: give back to ahci", "the way back needs no force");
    let text = serde_json::to_string(&step).expect("serialized");
    assert_eq!(serde_json::from_str::<Change>(&text).expect("read back"), step);
    // What no command makes, but a damaged file may have.
    let directory = directory();
    let tree = Tree::lab(directory.path(), 0);
    assert_eq!(refused(&tree, &forced(step, disk)).reason, Reason::Stale);
}

#[test]
fn a_variant_driver_is_told_as_one_and_an_address_that_is_given_back_too() {
    let bind = |driver: &str| Change::Bind {
        device: Target::Function(address("0000:01:10.0")),
        from: Binding { driver: Some("mlx5_core".to_owned()), ..Binding::default() },
        driver: driver.to_owned(),
    };
    assert_eq!(
        bind("mlx5_vfio_pci").action().to_string(),
        "bind to mlx5_vfio_pci (the variant of vfio-pci for this device) instead of mlx5_core"
    );
    assert_eq!(bind("igb").action().to_string(), "bind to igb instead of mlx5_core");
    let mac = "02:00:00:00:00:07".parse().ok();
    let to = Binding { driver: Some("igbvf".to_owned()), driver_override: None, mac, shown: None };
    let device = Target::Function(address("0000:01:10.0"));
    let back = Change::Restore { device, from: Binding::forced("vfio-pci"), to };
    assert_eq!(back.action().to_string(), "give back to igbvf as 02:00:00:00:00:07");
}

#[test]
fn an_address_is_given_back_before_the_driver_or_nothing_is() {
    let directory = directory();
    let tree = Tree::lab(directory.path(), 1);
    let vf = "0000:01:10.0";
    tree.link(&format!("sys/bus/pci/devices/{vf}/driver"), "../../bus/pci/drivers/vfio-pci");
    tree.driver("igbvf");
    let to = Binding {
        shown: None,
        driver: Some("igbvf".to_owned()),
        driver_override: None,
        mac: "02:00:00:00:00:07".parse().ok(),
    };
    let device = Target::Function(address(vf));
    let back = Change::Restore { device, from: Binding::forced("vfio-pci"), to };
    // A tree has no kernel to set the address by.
    assert_eq!(refused(&tree, &back).reason, Reason::NotThisHost);
    assert_eq!(attribute(&tree, vf, "driver_override"), "(null)\n", "nothing was begun");
}
