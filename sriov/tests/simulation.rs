//! A simulated host behaves as the kernel does, as far as the changes of this crate see it.

use sriov::nvme::{SecondaryState, Share};
use sriov::recorded::simulation::{Kernel, Request, Simulation};
use sriov::{
    Binding, Change, HostRoot, HostSnapshot, MacAddress, PciAddress, Reason, Step, Target, Undo,
    VfRef, VfSetting, Vlan,
};

fn address(text: &str) -> PciAddress {
    text.parse().expect("an address")
}

fn pf() -> PciAddress {
    address("0000:01:00.0")
}

fn vf(index: u16) -> VfRef {
    VfRef { pf: pf(), index }
}

fn host() -> (tempfile::TempDir, Kernel, HostRoot) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let kernel = Simulation::lab_with_drive(directory.path()).start();
    let root = HostRoot::at(directory.path());
    (directory, kernel, root)
}

fn perform(root: &HostRoot, changes: &[Change]) {
    for change in changes {
        let undo = change.perform(root).unwrap_or_else(|error| panic!("{change}: {error}"));
        assert_ne!(undo, Undo::Nothing, "{change}");
        assert_eq!(change.perform(root).expect("done already"), Undo::Nothing, "{change}");
    }
}

#[test]
fn every_change_to_a_card_is_made_seen_and_taken_back() {
    let (_directory, _kernel, root) = host();
    let before = HostSnapshot::read(&root);
    assert_eq!(before.problems, []);
    let vlan = Step { from: Vlan::default(), to: Vlan { id: 7, ..Vlan::default() } };
    let bind = Change::Bind {
        device: Target::Vf(vf(1)),
        from: Binding::default(),
        driver: "vfio-pci".to_owned(),
    };
    let mac = MacAddress([2, 0, 0, 0, 0, 1]);
    let changes = [
        Change::SetAcceptRa { pf: pf(), netdev: "eth0".to_owned(), from: 1, to: 0 },
        Change::SetLink { pf: pf(), netdev: "eth0".to_owned(), from: false, to: true },
        Change::SetAutoprobe { pf: pf(), from: true, to: false },
        Change::SetVfCount { pf: pf(), from: 0, to: 3 },
        bind,
        Change::SetVfMac { vf: vf(1), from: MacAddress([0; 6]), to: mac },
        Change::SetVf { vf: vf(1), setting: VfSetting::Vlan(vlan) },
        Change::SetVf { vf: vf(2), setting: VfSetting::Trust(Step { from: false, to: true }) },
    ];
    perform(&root, &changes);
    let after = HostSnapshot::read(&root);
    let facts = after.function(pf()).and_then(|pf| pf.sriov.clone()).expect("a PF");
    assert_eq!(facts.vfs.len(), 3);
    assert_eq!(facts.vf_settings[&1].mac, mac);
    assert_eq!(facts.vf_settings[&1].vlan.id, 7);
    assert_eq!(facts.vf_settings[&2].trust, Some(true));
    let bound = after.function(facts.vfs[&1]).and_then(|vf| vf.driver.clone());
    assert_eq!(bound.as_deref(), Some("vfio-pci"));
    for change in changes.iter().rev() {
        let Undo::Change(back) = change.undo() else { panic!("{change} can be undone") };
        back.perform(&root).unwrap_or_else(|error| panic!("{back}: {error}"));
    }
    assert_eq!(HostSnapshot::read(&root), before);
}

#[test]
fn a_drive_shares_out_and_takes_back() {
    let (_directory, _kernel, root) = host();
    let before = HostSnapshot::read(&root);
    let pf = address("0000:02:00.0");
    let (all, left) = (Share { queues: 72, interrupts: 40 }, Share { queues: 56, interrupts: 32 });
    let facts = |root: &HostRoot| {
        let snapshot = HostSnapshot::read(root);
        snapshot.function(pf).and_then(|pf| pf.sriov.clone()?.nvme).expect("a drive")
    };
    assert_eq!(facts(&root).primary(), all);
    let online = SecondaryState { online: true, queues: 8, interrupts: 4 };
    let changes = [
        Change::SetAutoprobe { pf, from: true, to: false },
        Change::SetNvmePrimary { pf, from: all, to: left, used: None },
        Change::SetVfCount { pf, from: 0, to: 2 },
        Change::SetNvmeSecondary {
            vf: VfRef { pf, index: 1 },
            controller: 2,
            from: SecondaryState::default(),
            to: online,
        },
    ];
    perform(&root, &changes);
    let now = facts(&root);
    assert_eq!((now.primary(), now.secondaries[&1].state), (left, online));
    assert_eq!(now.queues.free(), 8);
    for change in changes.iter().rev() {
        let Undo::Change(back) = change.undo() else { panic!("{change} can be undone") };
        back.perform(&root).unwrap_or_else(|error| panic!("{back}: {error}"));
    }
    assert_eq!(HostSnapshot::read(&root), before);
}

#[test]
fn the_kernel_says_no_where_a_kernel_does() {
    let (_directory, kernel, root) = host();
    let make = Change::SetVfCount { pf: pf(), from: 0, to: 3 };
    kernel.before(|request| match request {
        Request::Write(path, _) if path.ends_with("sriov_numvfs") => {
            Err(std::io::Error::from_raw_os_error(12))
        }
        _ => Ok(()),
    });
    let error = make.perform(&root).expect_err("no room");
    assert_eq!(error.reason, Reason::OutOfAddressSpace, "{error}");
    kernel.before(|_| Ok(()));
    make.perform(&root).expect("made");
    // The host's driver takes new VFs, as nobody said otherwise.
    let snapshot = HostSnapshot::read(&root);
    let vf = snapshot.function(address("0000:01:10.0")).expect("VF 0");
    assert_eq!(vf.driver.as_deref(), Some("igbvf"));
    kernel.settle();
    drop(kernel);
    let error =
        Change::SetVfMac { vf: self::vf(0), from: MacAddress([0; 6]), to: MacAddress([2; 6]) }
            .perform(&root)
            .expect_err("a tree without a kernel");
    assert_eq!(error.reason, Reason::NotThisHost, "{error}");
}
