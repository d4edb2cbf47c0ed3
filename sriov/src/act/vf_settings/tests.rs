use std::io;

use super::*;
use crate::failure::Class;
use crate::recorded::{Config, Function, Tree};
use crate::vf_settings::{LinkState, Rate, Vlan};

fn vf() -> VfRef {
    VfRef { pf: "0000:01:00.0".parse().expect("an address"), index: 1 }
}

fn answer(errno: i32, said: Option<&str>) -> NetlinkError {
    let source = io::Error::from_raw_os_error(errno);
    NetlinkError { source, said: said.map(str::to_owned) }
}

#[test]
fn each_answer_names_attribute_driver_and_remedy() {
    let link = VfSetting::LinkState(Step { from: LinkState::Auto, to: LinkState::Enable });
    let rate = VfSetting::Rate(Step { from: Rate::default(), to: Rate { min: 10, max: 100 } });
    let vlan =
        VfSetting::Vlan(Step { from: Vlan::default(), to: Vlan { id: 5, ..Vlan::default() } });
    for (asked, errno, reason, words) in [
        (
            Asked::Setting(link),
            EOPNOTSUPP,
            Reason::NotSupported,
            &["keep its link up", "driver igb", "link state", "Leave this setting out"][..],
        ),
        (Asked::Setting(vlan), EPROTONOSUPPORT, Reason::NotSupported, &["802.1ad", "Use 802.1Q"]),
        (
            Asked::Setting(rate),
            EINVAL,
            Reason::KernelRefused,
            &["10 to 100 Mbit/s", "driver igb", "has a link", "no least rate"],
        ),
        (
            Asked::Mac(MacAddress([0; 6])),
            EINVAL,
            Reason::KernelRefused,
            &["clear its address", "another one"],
        ),
        (
            Asked::Mac(MacAddress([2, 0, 0, 0, 0, 1])),
            EADDRNOTAVAIL,
            Reason::KernelRefused,
            &["02:00:00:00:00:01", "one station"],
        ),
        (Asked::Setting(link), EPERM, Reason::NotPermitted, &["as root"]),
        (Asked::Setting(link), ENETDOWN, Reason::KernelRefused, &["down or busy", "up"]),
        (Asked::Setting(link), EBUSY, Reason::KernelRefused, &["down or busy", "again"]),
        (Asked::Setting(link), 5, Reason::KernelRefused, &["dmesg"]),
    ] {
        let error = explain(vf(), Some("igb"), asked, &answer(errno, None));
        assert_eq!(error.reason, reason, "{error}");
        let text = error.to_string();
        assert!(text.starts_with("0000:01:00.0 VF 1: cannot "), "{text}");
        for word in words {
            assert!(text.contains(word), "{word:?} is not in {text}");
        }
        // What was not begun leaves nothing to be taken back.
        assert_eq!(error.reason.is_before_acting(), reason == Reason::NotSupported);
    }
    let said = explain(vf(), None, Asked::Setting(link), &answer(EINVAL, Some("no such queue")));
    assert!(said.message.ends_with("(no such queue)"), "{said}");
}

#[test]
fn a_setting_that_is_not_told_is_not_set() {
    let trust = VfSetting::Trust(Step { from: false, to: true });
    assert_eq!(trust.from_now(&VfSettings::default()), None);
    let error = untold(vf(), Some("igb"), trust);
    assert_eq!(error.reason, Reason::NotSupported);
    assert!(error.to_string().contains("driver igb does not report the trust"), "{error}");
}

#[test]
fn only_what_differs_is_set_again() {
    let had = VfSettings {
        mac: MacAddress([2, 0, 0, 0, 0, 9]),
        vlan: Vlan { id: 7, ..Vlan::default() },
        trust: Some(true),
        spoof_check: Some(true),
        ..VfSettings::default()
    };
    let new = VfSettings { trust: Some(false), spoof_check: Some(true), ..VfSettings::default() };
    let values: Vec<VfValue> = missing(&new, &had).into_iter().map(|(_, value)| value).collect();
    assert_eq!(values, [VfValue::Mac(had.mac), VfValue::Vlan(had.vlan), VfValue::Trust(true)]);
    assert!(missing(&had, &had).is_empty());
    let silent = VfSettings { trust: None, spoof_check: None, ..had };
    assert!(missing(&silent, &had).is_empty(), "what the driver does not tell is left alone");
}

/// A VF with 3 vectors whose PF's driver divides vectors.
fn divided(directory: &std::path::Path) -> Tree {
    let tree = Tree::lab(directory, 2);
    let config = |vectors: u16| {
        let control = (vectors - 1).to_le_bytes();
        let registers = [control.as_slice(), &[3, 0, 0, 0], &[3, 0x20, 0, 0]].concat();
        Config::new((0x8086, 0x10ca), 0x02_0000).standard(0x11, &registers).bytes()
    };
    let vf = "sys/bus/pci/devices/0000:01:10.2";
    tree.attribute("0000:01:00.0", "sriov_vf_total_msix", "64\n");
    tree.file(&format!("{vf}/sriov_vf_msix_count"), "");
    tree.bytes(&format!("{vf}/config"), &config(3));
    let kernel = tree.clone();
    let pf = Function::new("0000:01:00.0", (0x8086, 0x10c9), 0x02_0000).below("0000:00:01.0");
    tree.behave(pf, Ok);
    tree.answer_vectors(move |wanted| {
        let given = match wanted {
            12.. => return Err(io::Error::from_raw_os_error(EINVAL)),
            // A driver that gives another number than asked.
            9 => 4,
            0 => 3,
            wanted => wanted,
        };
        kernel.bytes(&format!("{vf}/config"), &config(given));
        Ok(())
    });
    tree
}

fn msix(from: u16, to: u16) -> VfSetting {
    VfSetting::Msix(Step { from, to })
}

#[test]
fn vectors_are_set_while_no_driver_has_the_vf_and_read_back() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let tree = divided(directory.path());
    let root = tree.root();
    assert_eq!(set(&root, vf(), msix(3, 3)).ok(), Some(Done::Already));
    assert_eq!(set(&root, vf(), msix(3, 8)).ok(), Some(Done::Changed));
    assert_eq!(vectors(&root, "0000:01:10.2".parse().expect("an address")), Some(8));
    assert_eq!(set(&root, vf(), msix(8, 0)).ok(), Some(Done::Changed));
    // And back from what the driver chose, whatever that was.
    assert_eq!(set(&root, vf(), msix(0, 8)).ok(), Some(Done::Changed));
    for (step, reason) in [
        (msix(3, 5), Reason::Stale),
        (msix(8, 12), Reason::OutOfVectors),
        (msix(8, 9), Reason::NotObserved),
    ] {
        let error = set(&root, vf(), step).expect_err("not set");
        assert_eq!(error.reason, reason, "{error}");
    }
    tree.link("sys/bus/pci/devices/0000:01:10.2/driver", "../../bus/pci/drivers/vfio-pci");
    let error = set(&root, vf(), msix(4, 2)).expect_err("a driver has it");
    assert_eq!(
        (error.reason, error.reason.class()),
        (Reason::HasDriver, Class::Refused),
        "{error}"
    );
    assert!(error.message.contains("vfio-pci has it"), "{error}");
}

#[test]
fn vectors_that_the_driver_does_not_divide_are_a_clear_error() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let tree = Tree::lab(directory.path(), 2);
    // Not there at all (before 5.13), and there without a meaning.
    for pool in [None, Some("0\n")] {
        if let Some(pool) = pool {
            tree.attribute("0000:01:00.0", "sriov_vf_total_msix", pool);
            tree.attribute("0000:01:10.2", "sriov_vf_msix_count", "");
        }
        let error = set(&tree.root(), vf(), msix(3, 5)).expect_err("no such driver");
        assert_eq!(error.reason, Reason::NotSupported);
        assert!(error.message.contains("driver igb of its PF does not divide vectors"), "{error}");
    }
}

#[test]
fn a_recorded_tree_has_no_kernel_to_set_vfs_by() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let tree = Tree::lab(directory.path(), 2);
    let step = VfSetting::Trust(Step { from: false, to: true });
    let error = set(&tree.root(), vf(), step).expect_err("no kernel");
    assert_eq!(error.reason, Reason::NotThisHost, "{error}");
}
