//! What is said of policies and of who has what.

use std::path::Path;
use std::process::Command;

use assign::state::{Lease, Owner, State};
use serde_json::Value;
use sriov::HostRoot;
use sriov::recorded::simulation::Simulation;

const BOOT: &str = "11111111-2222-3333-4444-555555555555";

struct Lab {
    directory: tempfile::TempDir,
    _kernel: sriov::recorded::simulation::Kernel,
}

impl Lab {
    fn new() -> Lab {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let kernel = Simulation::lab(directory.path(), 0).start();
        let text = "apiVersion: assign/v1\nkind: Policy\nmetadata: {name: edge}\nspec:\n  pools:\n    \
                    - {name: lan, from: {interface: eth0}, vfs: {count: 2}}\n";
        std::fs::create_dir_all(directory.path().join("etc/assign")).expect("a folder");
        std::fs::write(directory.path().join("etc/assign/edge.yaml"), text).expect("a file");
        Lab { directory, _kernel: kernel }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_assign"));
        command.arg("--root").arg(self.path()).args(arguments);
        command
    }

    fn assign(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().expect("the program runs");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {error}");
        String::from_utf8(output.stdout).expect("text")
    }

    fn status(&self) -> Value {
        serde_json::from_str(&self.assign(&["status", "-o", "json"])).expect("JSON")
    }

    fn state(&self) -> State {
        State::at(self.path().join("var/lib/assign"))
    }

    /// A guest that runs, with the first VF.
    fn lease(&self, alive: bool) {
        let root = HostRoot::at(self.path());
        let stat = "7 (a) S 1 1 1 0 -1 1 1 0 0 0 1 1 0 0 20 0 1 0 7 1 1 1\n";
        std::fs::create_dir_all(self.path().join("proc/7")).expect("a folder");
        std::fs::write(self.path().join("proc/7/stat"), stat).expect("a file");
        let owner = Owner { pid: 7, started: 7 };
        let lease = Lease::new(&root, "0000:01:10.0".parse().expect("an address"), "web", owner);
        self.state().take_leases(&root, &[lease]).expect("free");
        if !alive {
            std::fs::remove_file(self.path().join("proc/7/stat")).expect("gone");
        }
    }
}

/// "TYPE STATUS REASON" of the only policy.
fn conditions(status: &Value) -> Vec<String> {
    let one = |one: &Value| {
        let text = |name: &str| one[name].as_str().unwrap_or_default().to_owned();
        format!("{} {} {}", text("type"), text("status"), text("reason"))
    };
    let list = status["policies"][0]["conditions"].as_array().expect("conditions");
    list.iter().map(one).collect()
}

#[test]
fn each_stage_of_a_policy_is_told_with_since_when() {
    let lab = Lab::new();
    let status = lab.status();
    assert_eq!(
        conditions(&status),
        [
            "Applied False NotApplied",
            "InSync False Drifted",
            "Available False Missing",
            "Interrupted False Settled"
        ],
        "it is in a file only"
    );
    assert!(!lab.path().join("var/lib/assign").exists(), "looking writes nothing");

    lab.assign(&["apply", "--all", "--yes"]);
    let status = lab.status();
    let expected = [
        "Applied True Applied",
        "InSync True InSync",
        "Available True Free",
        "Interrupted False Settled",
    ];
    assert_eq!(conditions(&status), expected);
    let since = &status["policies"][0]["conditions"][0]["since"];
    assert!(since.as_u64().is_some_and(|at| at > 1_500_000_000), "{since}");
    let available = &status["policies"][0]["conditions"][2]["since"];
    assert!(available.as_u64().is_some_and(|at| at > 1_500_000_000), "{available}");
    let pool = &status["policies"][0]["pools"][0];
    let counts = ["wanted", "there", "free", "leased"].map(|name| pool[name].as_u64());
    assert_eq!(counts, [2, 2, 2, 0].map(Some));

    // Applied again, it is so since the same moment.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    lab.assign(&["apply", "--all", "--yes"]);
    assert_eq!(&lab.status()["policies"][0]["conditions"][0]["since"], since);

    lab.lease(true);
    let status = lab.status();
    let device = &status["devices"][0];
    assert_eq!(device["state"], "leased");
    assert_eq!((&device["owner"]["guest"], &device["owner"]["pid"]), (&"web".into(), &7.into()));
    assert!(device["owner"]["since"].as_u64().is_some());
    let table = lab.assign(&["status"]);
    assert!(table.contains("web (pid 7)") && table.contains("lan: 1 of 2 free"), "{table}");

    // Somebody's hand, and a command that was cut off: nobody noted since when.
    let root = HostRoot::at(lab.path());
    std::fs::remove_file(root.pci_attribute("0000:01:10.2".parse().expect("one"), "driver"))
        .expect("unbound");
    let change = sriov::Change::SetVfCount {
        pf: "0000:01:00.0".parse().expect("an address"),
        from: 2,
        to: 0,
    };
    let (operation, boot_id) = ("apply edge".to_owned(), BOOT.to_owned());
    let entry = assign::state::Entry { number: 0, operation, boot_id, change };
    lab.state().journal_steps(&[entry], None).expect("written");
    let status = lab.status();
    assert_eq!(
        conditions(&status),
        [
            "Applied True Applied",
            "InSync False Drifted",
            "Available False NoneFit",
            "Interrupted True Interrupted"
        ]
    );
    let since =
        |status: &Value, at: usize| status["policies"][0]["conditions"][at]["since"].clone();
    assert!(since(&status, 1).is_null(), "whoever only looks at the status writes nothing");
    // Whoever compares the host has seen it, and says since when.
    let compared = lab.command(&["diff"]).output().expect("the program runs");
    assert_eq!(compared.status.code(), Some(4), "{compared:?}");
    let status = lab.status();
    for at in 1..4 {
        assert!(since(&status, at).as_u64().is_some_and(|at| at > 1_500_000_000), "{status}");
    }
    assert_eq!(status["devices"][1]["state"], "drifted");
    let _changing = lab.state().lock_host().expect("free");
    assert!(conditions(&lab.status()).contains(&"Interrupted False Changing".to_owned()));
}

#[test]
fn another_boot_leaves_policies_that_do_not_hold() {
    let lab = Lab::new();
    lab.assign(&["apply", "--all", "--yes"]);
    lab.lease(false);
    let boot = lab.path().join("proc/sys/kernel/random/boot_id");
    std::fs::write(boot, "another\n").expect("booted");
    let status = lab.status();
    assert_eq!(conditions(&status)[0], "Applied False OtherBoot");
    assert!(
        status["devices"].as_array().expect("devices").iter().all(|one| one["owner"].is_null())
    );
}
