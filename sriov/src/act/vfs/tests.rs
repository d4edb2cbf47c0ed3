use std::io;

use super::*;
use crate::attribute::Access;
use crate::change::Change;
use crate::failure::Class;
use crate::recorded::{Function, Tree};

fn pf() -> PciAddress {
    "0000:01:00.0".parse().expect("an address")
}

/// The igb NIC of the emulated lab.
fn igb(present: u16) -> Function {
    Function::new("0000:01:00.0", (0x8086, 0x10c9), 0x02_0000)
        .below("0000:00:01.0")
        .driver("igb")
        .group(8)
        .netdev("eth0")
        .vfs(7, present)
}

fn present(tree: &Tree) -> (u16, usize) {
    let facts = sriov(&function(&tree.root(), pf()).expect("the PF")).expect("a PF");
    (facts.present, facts.vfs.len())
}

#[test]
fn each_answer_of_the_kernel_names_cause_and_remedy() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let tree = Tree::lab(directory.path(), 0);
    for (errno, reason, words) in [
        (ENOMEM, Reason::OutOfAddressSpace, ["ENOMEM", "pci=realloc", "ARI"]),
        (ENOSPC, Reason::OutOfVectors, ["ENOSPC", "MSI-X", "fewer"]),
        (ENOENT, Reason::DriverRefused, ["ENOENT", "does not support VFs", "driver"]),
        (ERANGE, Reason::TooManyVfs, ["ERANGE", "most", "assign devices"]),
        (EBUSY, Reason::KernelRefused, ["EBUSY", "busy", "up"]),
        (EIO, Reason::KernelRefused, ["os error 5", "not ready", "ip link set"]),
        (ENODEV, Reason::KernelRefused, ["os error 19", "not ready", "ip link set"]),
        (ENETDOWN, Reason::KernelRefused, ["os error 100", "not ready", "ip link set"]),
        (EAGAIN, Reason::KernelRefused, ["os error 11", "not ready", "try again"]),
        (EINVAL, Reason::DriverRefused, ["os error 22", "firmware", "dmesg"]),
        (EOPNOTSUPP, Reason::DriverRefused, ["os error 95", "firmware", "dmesg"]),
        (EPERM, Reason::DriverRefused, ["os error 1", "does not do it", "root"]),
        (13, Reason::NotPermitted, ["sriov_numvfs", "os error 13", "as root"]),
        (30, Reason::KernelRefused, ["sriov_numvfs", "read-only", "on the host"]),
    ] {
        // As the kernel answers the write, so that nothing lies between it and the words.
        tree.behave(igb(0), move |_| Err(io::Error::from_raw_os_error(errno)));
        let error = set_count_plain(&tree, 0, 4).expect_err("an error");
        assert_eq!(error.reason, reason, "{error}");
        let text = error.to_string();
        assert!(text.starts_with("0000:01:00.0: cannot create 4 VFs: "), "{text}");
        for word in words {
            assert!(text.contains(word), "{word:?} is not in {text}");
        }
        assert_eq!(present(&tree), (0, 0));
        let facts = sriov(&function(&tree.root(), pf()).expect("the PF")).expect("a PF");
        let source = io::Error::from_raw_os_error(errno);
        let path = tree.root().pci_attribute(pf(), "sriov_numvfs");
        let written = AttributeError { path, access: Access::Write("4".to_owned()), source };
        assert_eq!(explain(pf(), &facts, 4, &written).to_string(), text);
    }
}

fn set_count_plain(tree: &Tree, from: u16, to: u16) -> Result<crate::Undo, ChangeError> {
    Change::SetVfCount { pf: pf(), from, to }.perform(&tree.root())
}

#[test]
fn fewer_than_asked_is_an_error_and_leaves_none() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let tree = Tree::lab(directory.path(), 0);
    tree.behave(igb(0), |wanted| Ok(wanted.min(4)));
    let error = set_count_plain(&tree, 0, 6).expect_err("fewer than asked");
    assert_eq!((error.reason, error.reason.class()), (Reason::OtherVfCount, Class::Failed));
    assert_eq!(
        error.to_string(),
        "0000:01:00.0: asked for 6 VFs, the kernel made 4; they were destroyed again. The kernel's \
         log (dmesg) says why; ask for fewer VFs."
    );
    assert_eq!(present(&tree), (0, 0));
    set_count_plain(&tree, 0, 4).expect("as many as there can be");
    assert_eq!(present(&tree), (4, 4));
    tree.behave(igb(0), |_| Ok(0));
    set_count_plain(&tree, 4, 0).expect("destroyed");
    let error = set_count_plain(&tree, 0, 2).expect_err("none made");
    assert!(error.message.contains("asked for 2 VFs, the kernel made none"), "{error}");
}

#[test]
fn a_pf_without_its_driver_is_refused_with_the_way_out() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let tree = Tree::lab(directory.path(), 0);
    let driver = "sys/bus/pci/devices/0000:01:00.0/driver";
    tree.remove(driver);
    let error = set_count_plain(&tree, 0, 2).expect_err("no driver");
    assert!(error.to_string().contains("no driver is bound"), "{error}");
    tree.link(driver, "../../bus/pci/drivers/vfio-pci");
    let error = set_count_plain(&tree, 0, 2).expect_err("a guest's driver");
    assert!(error.to_string().contains("assign release"), "{error}");
    assert_eq!(error.reason, Reason::DriverRefused);
}

#[test]
fn vfs_are_in_the_order_of_their_numbers() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let tree = Tree::lab(directory.path(), 0);
    let root = tree.root();
    let mut sixteen = igb(0);
    sixteen.vfs = Some((16, 0));
    tree.attribute("0000:01:00.0", "sriov_totalvfs", "16\n");
    tree.behave(sixteen, Ok);
    set_count_plain(&tree, 0, 12).expect("made");
    let vfs = iov::vfs(&mut Reader::new(&root), pf());
    let indexes: Vec<u16> = vfs.keys().copied().collect();
    assert_eq!(indexes, (0..12).collect::<Vec<_>>());
    assert_eq!(vfs.get(&10).map(ToString::to_string).as_deref(), Some("0000:01:12.4"));
    // The kernel's own list has virtfn10 and virtfn11 between virtfn1 and virtfn2.
    let names = attribute::entries(&root.pci_device(pf())).expect("names");
    let at = |name: &str| names.iter().position(|entry| entry == name);
    assert!(at("virtfn10") < at("virtfn2"));
}

#[test]
fn a_representor_is_not_the_port_that_vfs_are_set_by() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let tree = Tree::new(directory.path());
    let pf = Function::new("0000:03:00.0", (0x15b3, 0x101d), 0x02_0000)
        .driver("mlx5_core")
        .netdev("a_rep")
        .vfs(4, 2);
    tree.add(pf);
    let place = "devices/pci0000:00/0000:03:00.0/net";
    tree.file(&format!("sys/{place}/a_rep/phys_port_name"), "pf0vf0\n");
    tree.netdev("b_uplink", 3, &format!("{place}/b_uplink"));
    tree.file(&format!("sys/{place}/b_uplink/phys_port_name"), "p0\n");
    tree.netdev("c_rep", 4, &format!("{place}/c_rep"));
    tree.file(&format!("sys/{place}/c_rep/phys_port_name"), "c1pf0vf1\n");
    let root = tree.root();
    let address = "0000:03:00.0".parse().expect("an address");
    let port = net::port(&mut Reader::new(&root), address).expect("a port");
    assert_eq!(port.name, "b_uplink");
    let snapshot = crate::HostSnapshot::read(&root);
    let function = snapshot.function(address).expect("the PF");
    assert_eq!(snapshot.port_of(function).map(|port| port.name.as_str()), Some("b_uplink"));
    // Where only representors are left, there is no port, and not the wrong one.
    tree.file(&format!("sys/{place}/b_uplink/phys_port_name"), "pf0sf7\n");
    assert_eq!(net::port(&mut Reader::new(&root), address), None);
}
