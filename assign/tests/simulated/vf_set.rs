//! What PFs set for their VFs, and VFs that come in smaller numbers than asked for, by the program
//! itself: also what the lab's card does not know.

use serde_json::{Value, json};
use sriov::recorded::simulation::{Request, Simulation};
use sriov::recorded::{Config, VfKind};
use sriov::{HostSnapshot, Scope};

use super::Host;

const PF: &str = "0000:01:00.0";
const FIRST: &str = "0000:01:10.0";

fn lab() -> Host {
    Host::new(|directory| Simulation::lab(directory, 2))
}

/// A card whose driver gives its VFs 3 of a pool of vectors each, and more when told to.
fn with_pool() -> Host {
    let config = Config::new((0x8086, 0x10ca), 0x02_0000).msix(3, 3).bytes();
    let host = Host::new(|directory| {
        let kind = VfKind { driver: Some("igbvf"), config: Some(config), ..VfKind::default() };
        Simulation::lab_with_vfs(directory, 2, kind)
    });
    host.tree().attribute(PF, "sriov_vf_total_msix", "16\n");
    host.tree().attribute(FIRST, "sriov_vf_msix_count", "");
    host
}

impl Host {
    /// What `assign vf list` tells of a VF.
    fn listed(&self, index: usize) -> Value {
        let text = self.done(&["vf", "list", "eth0", "-o", "json"]);
        let list: Value = serde_json::from_str(&text).expect("JSON");
        list.get(index).expect("a VF").clone()
    }

    /// Runs a command that has to fail with this exit code; returns why, in one line.
    fn failed(&self, code: i32, arguments: &[&str]) -> String {
        let output = self.assign(arguments);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// How many vectors a VF has, and its driver.
    fn vectors(&self, vf: &str) -> (Option<u16>, Option<String>) {
        let snapshot = HostSnapshot::read_within(&self.root(), Scope::Whole);
        let function = snapshot.function(vf.parse().expect("an address")).expect("a VF");
        let msix = function.capabilities.as_ref().and_then(|found| found.msix.as_ref());
        (msix.map(|msix| msix.vectors), function.driver.clone())
    }
}

#[test]
fn each_setting_is_made_read_back_and_no_step_the_second_time() {
    let host = lab();
    let settings: [(&[&str], &str, Value, &str); 5] = [
        (&["--link-state", "enable"], "link_state", json!("enable"), "keep its link up"),
        (&["--link-state", "disable"], "link_state", json!("disable"), "keep its link down"),
        (
            &["--min-rate", "100", "--max-rate", "500"],
            "rate",
            json!({"min": 100, "max": 500}),
            "let it send",
        ),
        (
            &["--vlan", "200:3:802.1ad"],
            "vlan",
            json!({"id": 200, "qos": 3, "protocol": "802.1ad"}),
            "put it into VLAN 200",
        ),
        (&["--trust", "on"], "trust", json!(true), "trust it"),
    ];
    for (options, field, value, step) in &settings {
        let command = [&["vf", "set", "eth0/1"], *options].concat();
        let said = host.done(&command);
        assert!(said.contains(step) && said.contains("1 step made"), "{options:?}: {said}");
        assert_eq!(&host.listed(1)[*field], value, "{options:?}");
        assert!(host.done(&command).contains("nothing to do"), "{options:?}");
    }
    // One of the two stays where only the other is named, and nothing of this was the other VF's.
    host.done(&["vf", "set", "eth0/1", "--max-rate", "700"]);
    assert_eq!(host.listed(1)["rate"], json!({"min": 100, "max": 700}));
    let other = host.listed(0);
    assert_eq!((&other["rate"], &other["trust"]), (&json!({"min": 0, "max": 0}), &json!(false)));
    host.done(&["vf", "set", "eth0/1", "--link-state", "auto", "--vlan", "none"]);
    assert_eq!(host.listed(1)["link_state"], "auto");
    let why = host.failed(2, &["vf", "set", "eth0/1", "--min-rate", "800"]);
    assert!(why.contains("800") && why.contains("700"), "{why}");
}

#[test]
fn a_fault_in_the_middle_is_taken_back() {
    let host = lab();
    host.done(&["vf", "set", "eth0/0", "--vlan", "7", "--max-rate", "100"]);
    let before = (host.listed(0), host.listed(1));
    // Of six settings of two VFs, each in turn.
    for which in 0..6 {
        let seen = std::sync::atomic::AtomicUsize::new(0);
        host.kernel.before(move |request| match request {
            Request::SetLink(_) => {
                let this = seen.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == which;
                if this { Err(std::io::Error::from_raw_os_error(22)) } else { Ok(()) }
            }
            _ => Ok(()),
        });
        let command = ["vf", "set", "eth0/0", "eth0/1", "--vlan", "200:1:802.1ad"];
        let rest = ["--link-state", "enable", "--min-rate", "10", "--max-rate", "900"];
        let why = host.failed(1, &[command.as_slice(), &rest].concat());
        assert!(why.contains("VF ") && why.contains("does not accept this value"), "{why}");
        assert_eq!((host.listed(0), host.listed(1)), before, "{which}: {why}");
    }
    host.kernel.before(|_| Ok(()));
    assert!(host.done(&["recover"]).contains("nothing"));
}

#[test]
fn vectors_are_set_while_the_driver_is_away_and_it_has_the_vf_again() {
    let host = with_pool();
    let bound = |vectors: u16| (Some(vectors), Some("igbvf".to_owned()));
    assert_eq!(host.vectors(FIRST), bound(3));
    let said = host.done(&["vf", "set", "eth0/0", "--msix", "8"]);
    assert!(said.contains("give it 8 MSI-X vectors") && said.contains("3 steps made"), "{said}");
    assert_eq!(host.vectors(FIRST), bound(8));
    assert!(host.done(&["vf", "set", "eth0/0", "--msix", "8"]).contains("nothing to do"));

    // More than there are, and a fault of the kernel: what was set before it is taken back, and the
    // driver has the VF again.
    let why = host.failed(1, &["vf", "set", "eth0/0", "--max-rate", "50", "--msix", "17"]);
    assert!(why.contains("has not that many to give"), "{why}");
    assert_eq!(host.vectors(FIRST), bound(8));
    assert_eq!(host.listed(0)["rate"]["max"], 0);
    host.kernel.before(|request| match request {
        Request::Write(path, _) if path.ends_with("sriov_vf_msix_count") => {
            Err(std::io::Error::from_raw_os_error(95))
        }
        _ => Ok(()),
    });
    let why = host.failed(1, &["vf", "set", "eth0/0", "--msix", "4"]);
    assert!(why.contains("EOPNOTSUPP"), "{why}");
    assert_eq!(host.vectors(FIRST), bound(8));
    host.kernel.before(|_| Ok(()));
    host.done(&["vf", "set", "eth0/0", "--msix", "0"]);
    assert_eq!(host.vectors(FIRST), bound(3));
    // Its neighbour's file is not there, as with a driver that gives it none.
    let why = host.failed(1, &["vf", "set", "eth0/1", "--msix", "4"]);
    assert!(why.contains("MSI-X"), "{why}");
    assert_eq!(host.vectors("0000:01:10.2"), bound(3));
}

#[test]
fn fewer_vfs_than_asked_for_are_an_error_that_leaves_what_was_there() {
    let host = lab();
    let mac = "02:00:00:00:00:05";
    host.done(&["vf", "set", "eth0/0", "--mac", mac, "--vlan", "9", "--link-state", "enable"]);
    let before = (host.snapshot(), host.listed(0), host.listed(1));
    host.kernel.enable_at_most(PF.parse().expect("an address"), 3);
    let why = host.failed(1, &["vf", "create", "eth0", "5", "--yes"]);
    assert!(why.contains("3") && why.contains("5 VFs"), "{why}");
    assert_eq!((host.snapshot(), host.listed(0), host.listed(1)), before);
    assert!(host.done(&["recover"]).contains("nothing"));
    host.done(&["vf", "create", "eth0", "3", "--yes"]);
    assert_eq!(host.listed(2)["index"], 2);

    let none = Host::new(|directory| Simulation::lab(directory, 0));
    let before = none.snapshot();
    none.kernel.enable_at_most(PF.parse().expect("an address"), 3);
    let why = none.failed(1, &["vf", "create", "eth0", "5", "--driver", "vfio-pci"]);
    assert!(why.contains("3"), "{why}");
    assert_eq!(none.snapshot(), before);
}
