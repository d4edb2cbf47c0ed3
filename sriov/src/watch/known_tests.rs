//! What messages mean, against recorded trees. The messages are as a kernel 6.12 sends them when
//! an igb NIC gets VFs and loses them again.

use super::*;
use crate::recorded::{Function as Recorded, Tree};

const PF: &str = "/devices/pci0000:00/0000:00:01.0/0000:01:00.0";
const VF: &str = "/devices/pci0000:00/0000:00:01.0/0000:01:10.0";

/// A message with these properties beside what all have.
fn message(action: &str, path: &str, subsystem: &str, more: &[&str]) -> Uevent {
    let mut text = format!("{action}@{path}\0ACTION={action}\0DEVPATH={path}\0");
    text.push_str(&format!("SUBSYSTEM={subsystem}\0"));
    for property in more {
        text.push_str(property);
        text.push('\0');
    }
    Uevent::of_kernel(text.as_bytes()).expect("a message")
}

fn pci(action: &str, path: &str, more: &[&str]) -> Uevent {
    let ids = if path == VF { "PCI_ID=8086:10CA" } else { "PCI_ID=8086:10C9" };
    message(action, path, "pci", &[&["PCI_CLASS=20000", ids], more].concat())
}

struct Host {
    directory: tempfile::TempDir,
    known: Known,
}

impl Host {
    fn with_vfs(vfs: u16) -> Host {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let known = Known::read(&Tree::lab(directory.path(), vfs).root());
        Host { directory, known }
    }

    fn root(&self) -> HostRoot {
        HostRoot::at(self.directory.path())
    }

    fn take(&mut self, message: &Uevent) -> Vec<HostEvent> {
        let root = self.root();
        self.known.take(&root, Source::Kernel, message).expect("an event")
    }

    /// The one event that a message means, as JSON without what all have.
    fn told(&mut self, message: &Uevent) -> String {
        let events = self.take(message);
        let [event] = events.as_slice() else { panic!("not one event: {events:?}") };
        brief(event)
    }
}

fn brief(event: &HostEvent) -> String {
    let json = serde_json::to_string(event).expect("plain data");
    json.replace("\"source\":\"kernel\",", "").replace('"', "")
}

#[test]
fn the_life_of_a_vf() {
    let mut host = Host::with_vfs(1);
    let before = tempfile::tempdir().expect("a temporary directory");
    host.known = Known::read(&Tree::lab(before.path(), 0).root());
    let vf = "device:0000:01:10.0,vf_of:{pf:0000:01:00.0,index:0}";
    // The new function's directory is there; its link to the PF is not yet.
    let link = "sys/bus/pci/devices/0000:01:10.0/physfn";
    std::fs::remove_file(host.directory.path().join(link)).expect("the link");
    let described = "id:8086:10ca,name:Intel 82576 Virtual Function,class:ethernet";
    assert_eq!(
        host.told(&pci("add", VF, &[])),
        format!("{{{vf},kind:device-added,{described},driver:null}}")
    );
    assert_eq!(host.take(&pci("add", VF, &[])), [], "udevadm trigger says it again");
    assert_eq!(
        host.told(&pci("bind", VF, &["DRIVER=igbvf"])),
        format!("{{{vf},kind:bound,from:null,to:igbvf}}")
    );
    let eth1 = format!("{VF}/net/eth1");
    let net = |action, name: &str, path: &str| {
        message(action, path, "net", &[&format!("INTERFACE={name}"), "IFINDEX=5"])
    };
    assert_eq!(
        host.told(&net("add", "eth1", &eth1)),
        format!("{{{vf},kind:interface-added,interface:eth1,index:5}}")
    );
    assert_eq!(
        host.told(&net("move", "lan0", &format!("{VF}/net/lan0"))),
        format!("{{{vf},kind:interface-renamed,from:eth1,to:lan0,index:5}}")
    );
    assert_eq!(
        host.told(&pci("change", PF, &["DRIVER=igb"])),
        "{device:0000:01:00.0,vf_of:null,kind:vfs-changed,from:0,to:1}"
    );
    assert_eq!(
        host.told(&net("remove", "lan0", &format!("{VF}/net/lan0"))),
        format!("{{{vf},kind:interface-removed,interface:lan0,index:5}}")
    );
    assert_eq!(
        host.told(&pci("unbind", VF, &[])),
        format!("{{{vf},kind:unbound,from:igbvf,to:null}}")
    );
    assert_eq!(host.take(&pci("unbind", VF, &[])), []);
    assert_eq!(
        host.told(&pci("bind", VF, &["DRIVER=vfio-pci"])),
        format!("{{{vf},kind:bound,from:igbvf,to:vfio-pci}}")
    );
    let group = message("add", "/devices/virtual/vfio/16", "vfio", &["DEVNAME=vfio/16"]);
    assert_eq!(
        host.told(&group),
        format!("{{{vf},kind:vfio-added,file:vfio/16,devices:[0000:01:10.0]}}")
    );
    let group = message("remove", "/devices/virtual/vfio/16", "vfio", &["DEVNAME=/dev/vfio/16"]);
    assert_eq!(
        host.told(&group),
        format!("{{{vf},kind:vfio-removed,file:vfio/16,devices:[0000:01:10.0]}}")
    );
    host.take(&pci("unbind", VF, &[]));
    let gone: Vec<String> = host.take(&pci("remove", VF, &[])).iter().map(brief).collect();
    assert_eq!(
        gone,
        [
            format!("{{{vf},kind:device-removed,{described},driver:null}}"),
            "{device:0000:01:00.0,vf_of:null,kind:vfs-changed,from:1,to:0}".to_owned()
        ]
    );
    assert_eq!(host.take(&pci("remove", VF, &[])), []);
}

#[test]
fn disks_and_errors() {
    let mut host = Host::with_vfs(0);
    let disk = "/devices/pci0000:00/0000:00:03.0/virtio1/block/vda";
    assert_eq!(
        host.told(&message("add", disk, "block", &["DEVTYPE=disk", "DEVNAME=vda"])),
        "{device:0000:00:03.0,vf_of:null,kind:disk-added,disk:vda,partition_of:null,\
         devices:[0000:00:03.0]}"
    );
    let part = format!("{disk}/vda1");
    assert_eq!(
        host.told(&message("add", &part, "block", &["DEVTYPE=partition", "DEVNAME=vda1"])),
        "{device:0000:00:03.0,vf_of:null,kind:disk-added,disk:vda1,partition_of:vda,\
         devices:[0000:00:03.0]}"
    );
    assert_eq!(host.take(&message("change", disk, "block", &["DEVTYPE=disk"])), []);
    assert_eq!(
        host.told(&message("remove", disk, "block", &["DEVTYPE=disk", "DEVNAME=vda"])),
        "{device:0000:00:03.0,vf_of:null,kind:disk-removed,disk:vda,partition_of:null,\
         devices:[0000:00:03.0]}"
    );
    for (text, stage) in [
        ("BEGIN_RECOVERY", "begun"),
        ("SUCCESSFUL_RECOVERY", "succeeded"),
        ("FAILED_RECOVERY", "failed"),
    ] {
        assert_eq!(
            host.told(&pci("change", PF, &[&format!("ERROR_EVENT={text}"), "DEVICE_ONLINE=0"])),
            format!("{{device:0000:01:00.0,vf_of:null,kind:recovery,stage:{stage}}}")
        );
    }
}

#[test]
fn what_a_message_lacks_is_named_and_other_subsystems_do_not_matter() {
    let mut host = Host::with_vfs(0);
    let root = host.root();
    let mut take = |message: Uevent| host.known.take(&root, Source::Udev, &message);
    let no_ids = message("add", "/devices/pci0000:00/0000:00:09.0", "pci", &[]);
    assert_eq!(take(no_ids), Err(Malformed::Missing("PCI_ID")));
    assert_eq!(take(pci("bind", PF, &[])), Err(Malformed::Missing("DRIVER")));
    let net = message("add", "/devices/virtual/net/x", "net", &["IFINDEX=-7", "INTERFACE=x"]);
    assert_eq!(take(net), Err(Malformed::Missing("IFINDEX")));
    assert_eq!(take(message("add", "/devices/pci0000:00", "pci", &[])), Ok(Vec::new()));
    assert_eq!(take(message("add", "/module/igb", "module", &[])), Ok(Vec::new()));
    assert_eq!(take(message("add", "..", "block", &[])), Ok(Vec::new()));
}

#[test]
fn a_comparison_tells_all_that_differs_and_nothing_twice() {
    let mut host = Host::with_vfs(2);
    let all = host.known.all();
    assert!(all.iter().all(|event| event.source == Source::Initial));
    let kinds = |events: &[HostEvent]| events.iter().map(brief).collect::<Vec<_>>().join("\n");
    assert_eq!(kinds(&all).matches("kind:device-added").count(), 7, "{all:#?}");
    assert_eq!(kinds(&all).matches("kind:disk-added,disk:sda").count(), 1, "{all:#?}");

    let other = tempfile::tempdir().expect("a temporary directory");
    let tree = Tree::lab(other.path(), 3);
    tree.driver("igbvf");
    tree.link("sys/bus/pci/devices/0000:01:10.0/driver", "../../bus/pci/drivers/igbvf");
    tree.remove("sys/bus/pci/devices/0000:00:1f.3");
    tree.add(Recorded::new("0000:00:1f.3", (0x1b36, 0x0001), 0x06_0400));
    tree.remove("sys/class/block/sda");
    tree.netdev("lan0", 2, "devices/pci0000:00/0000:00:01.0/0000:01:00.0/net/lan0");
    tree.remove("sys/class/net/eth0");
    let told = host.known.compare(Known::read(&tree.root()));
    assert!(told.iter().all(|event| event.source == Source::Comparison));
    let told: Vec<String> = told
        .iter()
        .map(|event| {
            let text = brief(event).replace("source:comparison,", "");
            text.chars().take(96).collect()
        })
        .collect();
    assert_eq!(told.len(), 7, "{told:#?}");
    for (at, expected) in [
        "{device:0000:00:1f.2,vf_of:null,kind:disk-removed,disk:sda",
        "{device:0000:00:1f.3,vf_of:null,kind:device-removed,id:8086:2930",
        "{device:0000:00:1f.3,vf_of:null,kind:device-added,id:1b36:0001",
        "{device:0000:01:10.4,vf_of:{pf:0000:01:00.0,index:2},kind:device-added,id:8086:10ca",
        "{device:0000:01:00.0,vf_of:null,kind:vfs-changed,from:2,to:3}",
        "{device:0000:01:10.0,vf_of:{pf:0000:01:00.0,index:0},kind:bound,from:null,to:igbvf}",
        "{device:0000:01:00.0,vf_of:null,kind:interface-renamed,from:eth0,to:lan0,index:2}",
    ]
    .iter()
    .enumerate()
    {
        assert!(told.get(at).is_some_and(|told| told.starts_with(expected)), "{at}: {told:#?}");
    }
    assert_eq!(host.known.compare(Known::read(&tree.root())), []);
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig {
        cases: 64,
        ..proptest::prelude::ProptestConfig::default()
    })]

    /// Whatever messages say, in whatever order, what is told follows from what was told before.
    #[test]
    fn any_messages_are_told_consistently(
        messages in proptest::collection::vec((0..6_usize, 0..8_usize, 0..6_usize, ".{0,12}"), 1..40),
    ) {
        let mut host = Host::with_vfs(2);
        let root = host.root();
        let mut told: std::collections::BTreeSet<PciAddress> =
            host.known.all().iter().filter_map(|event| event.device).collect();
        for (action, path, subsystem, text) in messages {
            let text = text.replace('\0', "");
            let action = ["add", "remove", "change", "bind", "unbind", "move"][action];
            let subsystem = ["pci", "pci", "net", "block", "vfio", "vfio-dev"][subsystem];
            let path = [
                PF.to_owned(),
                VF.to_owned(),
                "/devices/pci0000:00/0000:00:09.0".to_owned(),
                format!("{VF}/net/{text}"),
                format!("{PF}/nvme/nvme0/{text}"),
                format!("/devices/virtual/{text}"),
                "/../../..".to_owned(),
                text.clone(),
            ][path].clone();
            let properties = [
                format!("DRIVER={text}"), "PCI_ID=8086:10CA".into(), "PCI_CLASS=20000".into(),
                format!("INTERFACE={text}"), "IFINDEX=7".into(), format!("DEVNAME=vfio/{text}"),
                "DEVTYPE=partition".into(), format!("ERROR_EVENT={text}"),
            ];
            let message = message(action, &path, subsystem, &properties.each_ref().map(String::as_str));
            for event in host.known.take(&root, Source::Kernel, &message).unwrap_or_default() {
                let Some(device) = event.device else { continue };
                match event.what {
                    What::DeviceAdded(_) => assert!(told.insert(device), "{device} added twice"),
                    What::DeviceRemoved(_) => assert!(told.remove(&device), "{device} unknown"),
                    What::Bound(change) => assert!(change.from != change.to || change.from.is_some()),
                    What::VfsChanged { from, to } => assert_ne!(from, to),
                    _ => {}
                }
            }
        }
        host.known.compare(Known::read(&root));
        assert_eq!(host.known.compare(Known::read(&root)), []);
    }
}
