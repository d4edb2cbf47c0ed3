//! Every file of `examples/` on a simulated host that has what it asks for: planned, applied, compared
//! and taken back. A file without a host in this table fails.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;
use sriov::recorded::simulation::Simulation;

use super::{Host, example, gallery};

/// An example, and a host for it.
struct Example {
    file: &'static str,
    host: fn(&Path) -> Simulation,
    /// Files that it goes with.
    beside: &'static [&'static str],
    /// What is written otherwise in it for this host.
    edit: Option<fn(String) -> String>,
    /// Least steps to the host that it wants.
    steps: usize,
    /// Its claims that get a device, as guest, claim and the pool.
    given: &'static [(&'static str, &'static str, &'static str)],
}

const NONE: Example = Example {
    file: "",
    host: Simulation::lab_with_drive,
    beside: &[],
    edit: None,
    steps: 1,
    given: &[],
};

const EXAMPLES: &[Example] = &[
    Example { file: "edge-node.yaml", steps: 7, ..NONE },
    Example {
        file: "web-1.yaml",
        beside: &["edge-node.yaml"],
        given: &[("web-1", "net0", "lan")],
        ..NONE
    },
    Example {
        file: "web-2.yaml",
        beside: &["edge-node.yaml"],
        given: &[("web-2", "net0", "lan")],
        ..NONE
    },
    Example {
        file: "cloud-1.yaml",
        beside: &["edge-node.yaml"],
        given: &[("cloud-1", "net0", "lan")],
        ..NONE
    },
    Example { file: "nvme-slices.yaml", steps: 8, ..NONE },
    Example {
        file: "whole-gpu.yaml",
        host: gallery::graphics,
        steps: 2,
        given: &[("render-1", "gpu0", "gpu"), ("render-1", "sound0", "gpu-sound")],
        ..NONE
    },
    Example {
        file: "mixed-fallback.yaml",
        steps: 20,
        given: &[("shop", "net0", "tenants"), ("router-1", "uplink", "router")],
        ..NONE
    },
    Example {
        file: "two-numa-nodes.yaml",
        host: gallery::two_nodes,
        steps: 128,
        given: &[
            ("left", "net0", "fast"),
            ("left", "net1", "left-only"),
            ("right", "net0", "fast"),
        ],
        ..NONE
    },
    // The card is the host's, and is only lent: nothing changes before a guest starts.
    Example {
        file: "host-driver.yaml",
        host: gallery::spare_card,
        edit: Some(gallery::with_spare_card),
        steps: 0,
        given: &[("probe", "net0", "lent")],
        ..NONE
    },
];

impl Example {
    /// The arguments that name its files.
    fn files(&self, host: &Host) -> Vec<String> {
        let own = match self.edit {
            Some(edit) => gallery::edited(host, self.file, edit),
            None => example(self.file),
        };
        let beside = self.beside.iter().map(|file| example(file));
        beside.chain([own]).flat_map(|path| ["-f".to_owned(), path.display().to_string()]).collect()
    }

    fn run(&self, host: &Host, words: &[&str]) -> String {
        let files = self.files(host);
        let arguments = words.iter().copied().chain(files.iter().map(String::as_str));
        host.done(&arguments.collect::<Vec<_>>())
    }

    fn check(&self) {
        let (file, host) = (self.file, Host::new(self.host));
        let before = host.snapshot();
        assert_eq!(before.problems, [], "{file}");
        let plan = self.run(&host, &["plan", "-o", "json"]);
        let plan: Value = serde_json::from_str(&plan).expect("JSON");
        let list = |name: &str| plan[name].as_array().cloned().unwrap_or_default();
        assert_eq!(list("refusals"), [] as [Value; 0], "{file}");
        assert!(list("steps").len() >= self.steps, "{file}: {}", list("steps").len());
        let mut given = BTreeSet::new();
        for guest in list("guests") {
            assert_eq!(guest["starts"], true, "{file}: {guest}");
            for claim in guest["claims"].as_array().expect("claims") {
                let text = |of: &Value| of.as_str().unwrap_or_default().to_owned();
                let device = &claim["given"]["pool"];
                assert!(device.is_string(), "{file}: {claim}");
                given.insert((text(&guest["guest"]), text(&claim["claim"]), text(device)));
            }
        }
        let wanted = self.given.iter();
        let wanted = wanted.map(|(guest, claim, pool)| {
            ((*guest).to_owned(), (*claim).to_owned(), (*pool).to_owned())
        });
        assert_eq!(given, wanted.collect(), "{file}");
        assert_eq!(host.snapshot(), before, "{file}: planning changes nothing");

        self.run(&host, &["apply", "--yes"]);
        let applied = host.snapshot();
        assert_eq!(applied == before, self.steps == 0, "{file}");
        assert_eq!(host.state().applied().expect("the state").len(), 1, "{file}");
        // It ends with 4 where something differs.
        self.run(&host, &["diff"]);
        let said = self.run(&host, &["apply"]);
        assert!(said.contains("nothing to do"), "{file}: {said}");
        assert_eq!(host.snapshot(), applied, "{file}");
        self.run(&host, &["remove", "--yes"]);
        assert_eq!(host.snapshot(), before, "{file}");
        assert_eq!(host.state().applied().expect("the state"), [], "{file}");
    }
}

#[test]
fn every_example_is_planned_applied_compared_and_removed() {
    let folder = std::fs::read_dir(example("")).expect("the examples");
    let files =
        folder.map(|entry| entry.expect("a file").file_name().into_string().expect("a name"));
    let files: BTreeSet<String> = files.filter(|name| name.ends_with(".yaml")).collect();
    let known: BTreeSet<String> = EXAMPLES.iter().map(|one| one.file.to_owned()).collect();
    assert_eq!(files, known, "each example needs a host in this table");
    EXAMPLES.iter().for_each(Example::check);
}
