//! The unit that restores the host at each boot: what it must say, and must not.

use std::collections::BTreeMap;
use std::process::Command;

const UNIT: &str = include_str!("../systemd/assign.service");

/// Values by section and key, in order; what several lines give is kept together.
fn parsed() -> BTreeMap<(String, String), Vec<String>> {
    let mut values: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
    let mut section = String::new();
    for line in UNIT.lines().map(str::trim).filter(|line| !line.is_empty()) {
        if line.starts_with('#') {
            continue;
        }
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = name.to_owned();
            continue;
        }
        let (key, value) = line.split_once('=').expect("a setting");
        let words = value.split_whitespace().map(str::to_owned);
        values.entry((section.clone(), key.to_owned())).or_default().extend(words);
    }
    values
}

fn words(section: &str, key: &str) -> Vec<String> {
    parsed().remove(&(section.to_owned(), key.to_owned())).unwrap_or_default()
}

#[test]
fn it_runs_before_the_network_and_before_guests_and_after_the_devices_are_there() {
    let before = words("Unit", "Before");
    for unit in ["network-pre.target", "libvirtd.service", "virtqemud.service", "machines.target"] {
        assert!(before.contains(&unit.to_owned()), "{unit}: {before:?}");
    }
    // A target that nobody wants is not reached, and orders nothing.
    assert!(words("Unit", "Wants").contains(&"network-pre.target".to_owned()));
    let after = words("Unit", "After");
    for unit in ["systemd-udev-settle.service", "systemd-modules-load.service", "local-fs.target"] {
        assert!(after.contains(&unit.to_owned()), "{unit}: {after:?}");
    }
    // With the usual dependencies it would come after basic.target, which on hosts with cloud-init
    // comes after the network.
    assert_eq!(words("Unit", "DefaultDependencies"), ["no"]);
    assert_eq!(words("Unit", "Conflicts"), ["shutdown.target"]);
}

#[test]
fn stopping_it_takes_nothing_from_guests() {
    assert_eq!(words("Service", "Type"), ["oneshot"]);
    assert_eq!(words("Service", "RemainAfterExit"), ["yes"]);
    for key in ["ExecStop", "ExecStopPost", "ExecReload"] {
        assert!(words("Service", key).is_empty(), "{key}");
    }
}

#[test]
fn what_shuts_it_in_leaves_it_what_it_needs() {
    // It writes to /sys and /proc/sys, loads modules, and asks drives through /dev.
    for (key, breaks) in [
        ("ProtectKernelTunables", "yes"),
        ("ProtectKernelModules", "yes"),
        ("PrivateDevices", "yes"),
        ("PrivateNetwork", "yes"),
        ("PrivateUsers", "yes"),
        ("PrivateMounts", "yes"),
        ("ProtectClock", "yes"),
        ("ProtectProc", "invisible"),
    ] {
        assert_ne!(words("Service", key), [breaks], "{key}");
    }
    let capabilities = words("Service", "CapabilityBoundingSet");
    for needed in ["CAP_SYS_ADMIN", "CAP_NET_ADMIN", "CAP_SYS_MODULE", "CAP_SYS_PTRACE"] {
        assert!(capabilities.contains(&needed.to_owned()), "{needed}: {capabilities:?}");
    }
    assert!(words("Service", "RestrictAddressFamilies").contains(&"AF_NETLINK".to_owned()));
    assert_eq!(words("Service", "StateDirectory"), ["assign"], "/var/lib/assign stays writable");
}

#[test]
fn its_command_is_one_that_assign_understands() {
    let command = words("Service", "ExecStart");
    let (program, arguments) = command.split_first().expect("a command");
    assert_eq!(program, "/usr/local/bin/assign");
    // An empty host, which has no policies: fine, with a word about it.
    let directory = tempfile::tempdir().expect("a temporary directory");
    let tree = sriov::recorded::Tree::lab(directory.path(), 0);
    let output = Command::new(env!("CARGO_BIN_EXE_assign"))
        .arg("--root")
        .arg(tree.root().directory())
        .args(arguments)
        .output()
        .expect("the program runs");
    let told = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(told.contains("nothing to do"), "{told}");
}

#[test]
fn systemd_finds_nothing_wrong_with_it() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let unit = directory.path().join("assign.service");
    // The program need not be installed where this test runs.
    std::fs::write(&unit, UNIT.replace("/usr/local/bin/assign", "/bin/true")).expect("written");
    let verify = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&unit).output();
    let Ok(output) = verify else {
        eprintln!("systemd-analyze is not here: the unit is not verified by it");
        return;
    };
    let told = String::from_utf8_lossy(&output.stderr);
    let ours: Vec<&str> = told.lines().filter(|line| line.contains("assign.service")).collect();
    assert!(ours.is_empty(), "{told}");
}
