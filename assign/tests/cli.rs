//! The command as it is typed: exit codes, one paragraph per error, and output for programs.

use std::path::Path;
use std::process::{Command, Output};

use sriov::recorded::{Function, Tree};

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

fn assign(root: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_assign"));
    command.arg("--root").arg(root).args(arguments).output().expect("assign runs")
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Exit code and error text.
fn failed(root: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let output = assign(root, arguments);
    (output.status.code(), String::from_utf8_lossy(&output.stderr).trim().to_owned())
}

fn policy(root: &Path, count: u16) -> String {
    let path = root.join("edge.yaml");
    let text = format!(
        "apiVersion: assign/v1\nkind: Policy\nmetadata: {{name: edge}}\nspec:\n  pools:\n    \
         - {{name: lan, from: {{interface: eth0}}, vfs: {{count: {count}}}}}\n"
    );
    std::fs::write(&path, text).expect("a policy");
    path.display().to_string()
}

#[test]
fn devices_are_one_line_each_in_a_pipe() {
    let directory = directory();
    Tree::lab(directory.path(), 2);
    let output = assign(directory.path(), &["devices"]);
    let text = stdout(&output);
    assert_eq!(text.lines().count(), 8, "{text}");
    let pf = text.lines().find(|line| line.starts_with("0000:01:00.0")).expect("the PF");
    let words: Vec<&str> =
        pf.split("  ").filter(|cell| !cell.trim().is_empty()).map(str::trim).collect();
    assert_eq!(
        words,
        [
            "0000:01:00.0",
            "Intel 82576 Gigabit Network Connection",
            "ethernet",
            "igb",
            "8",
            "-",
            "2/7",
            "eth0",
            "-"
        ]
    );
    let disk = text.lines().find(|line| line.starts_with("0000:00:1f.2")).expect("the disk");
    assert!(disk.contains("sda → /"), "{disk}");
}

#[test]
fn filters_narrow_and_json_is_whole() {
    let directory = directory();
    Tree::lab(directory.path(), 2);
    for (filters, count) in [
        (vec!["igb"], 1),
        (vec!["8086:10ca"], 2),
        (vec!["ethernet", "10.2"], 1),
        (vec!["ETH0"], 1),
        (vec!["no such thing"], 0),
    ] {
        let mut arguments = vec!["devices", "-o", "json"];
        arguments.extend(&filters);
        let text = stdout(&assign(directory.path(), &arguments));
        let list: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(list.as_array().map(Vec::len), Some(count), "{filters:?}: {text}");
    }
    let yaml = stdout(&assign(directory.path(), &["devices", "-o", "yaml", "igb"]));
    assert!(yaml.contains("driver: igb"), "{yaml}");
}

#[test]
fn unknown_devices_are_bad_input() {
    let directory = directory();
    Tree::lab(directory.path(), 0);
    for name in ["0000:77:00.0", "eth7", "7:0", "\u{1b}[2J"] {
        let (code, error) = failed(directory.path(), &["vf", "create", name, "2"]);
        assert_eq!(code, Some(2), "{error}");
        assert!(error.contains("`assign devices` lists") && !error.contains('\u{1b}'), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}

#[test]
fn a_count_above_the_maximum_names_it() {
    let directory = directory();
    Tree::lab(directory.path(), 0);
    let (code, error) = failed(directory.path(), &["vf", "create", "eth0", "8"]);
    assert_eq!(code, Some(2));
    assert_eq!(error, "assign: 0000:01:00.0: cannot have 8 VFs: its maximum is 7. Ask for 1 to 7.");
    assert_eq!(failed(directory.path(), &["vf", "create", "eth0", "0"]).0, Some(2));
    assert_eq!(failed(directory.path(), &["vf", "create", "0000:01:10.0", "1"]).0, Some(2));
}

#[test]
fn an_error_for_programs_names_class_and_reason() {
    let directory = directory();
    Tree::lab(directory.path(), 0);
    let (code, error) = failed(directory.path(), &["-o", "json", "bind", "0000:00:1f.2"]);
    assert_eq!(code, Some(3));
    let error: serde_json::Value = serde_json::from_str(&error).expect("JSON");
    let field = |name: &str| error["error"][name].as_str().unwrap_or_default().to_owned();
    assert_eq!(field("class"), "refused");
    assert_eq!(field("reason"), "host-uses-device");
    assert_eq!(field("thing"), "0000:00:1f.2");
    assert!(field("message").contains("0000:00:1f.2 → sda → /"), "{error}");
    assert!(!field("remedy").is_empty());
    let (code, error) = failed(directory.path(), &["-o", "json", "vf", "create"]);
    assert_eq!(code, Some(2));
    assert!(error.contains("\"usage\""), "{error}");
}

#[test]
fn a_group_that_is_not_viable_is_refused() {
    let directory = directory();
    Tree::lab(directory.path(), 0);
    let (code, error) = failed(directory.path(), &["bind", "0000:00:1f.3"]);
    assert_eq!(code, Some(3));
    assert!(error.contains("also holds 0000:00:1f.2 (ahci, carries sda → /)"), "{error}");
    assert!(error.contains("Enable ACS"), "{error}");
}

#[test]
fn plan_and_diff_change_nothing_and_say_so_by_their_exit_code() {
    let directory = directory();
    Tree::lab(directory.path(), 0);
    let file = policy(directory.path(), 2);
    let output = assign(directory.path(), &["plan", "-f", &file]);
    let text = stdout(&output);
    assert_eq!(output.status.code(), Some(0));
    assert!(text.contains("  0000:01:00.0: create 2 VFs\n"), "{text}");
    assert!(text.contains("6 steps; `assign apply` makes them"), "{text}");
    let output = assign(directory.path(), &["diff", "-f", &file]);
    assert_eq!(output.status.code(), Some(4));
    let text = stdout(&output);
    assert!(text.contains("0000:01:00.0: number of VFs is 0, should be 2\n"), "{text}");
    let count = directory.path().join("sys/bus/pci/devices/0000:01:00.0/sriov_numvfs");
    assert_eq!(std::fs::read_to_string(count).expect("the count"), "0\n");
}

#[test]
fn a_disruptive_step_is_not_made_without_a_terminal_or_yes() {
    let directory = directory();
    Tree::lab(directory.path(), 2);
    let (code, error) = failed(directory.path(), &["vf", "create", "eth0", "4"]);
    assert_eq!(code, Some(3));
    assert!(error.contains("this would destroy its 2 VFs") && error.contains("--yes"), "{error}");
    let file = policy(directory.path(), 4);
    let (code, error) = failed(directory.path(), &["apply", "-f", &file]);
    assert_eq!(code, Some(3), "{error}");
}

#[test]
fn a_malformed_policy_is_shown_with_its_place() {
    let directory = directory();
    Tree::lab(directory.path(), 0);
    let path = directory.path().join("wrong.yaml");
    std::fs::write(
        &path,
        "apiVersion: assign/v1\nkind: Policy\nmetadata: {name: x}\nspec: {pool: []}\n",
    )
    .expect("a file");
    let file = path.display().to_string();
    for verb in ["plan", "apply", "diff", "remove"] {
        let (code, error) = failed(directory.path(), &[verb, "-f", &file]);
        assert_eq!(code, Some(2));
        assert!(error.contains("wrong.yaml:4:8"), "{error}");
    }
    let (code, error) = failed(directory.path(), &["plan", "-f", "/no/such/file.yaml"]);
    assert_eq!(code, Some(2));
    assert!(error.contains("does not exist"), "{error}");
}

#[test]
fn without_an_iommu_apply_changes_nothing() {
    let directory = directory();
    let tree = Tree::new(directory.path());
    let nic = Function::new("0000:01:00.0", (0x8086, 0x10c9), 0x02_0000);
    tree.add(nic.driver("igb").netdev("eth0").vfs(7, 0));
    let file = policy(directory.path(), 2);
    let (code, error) = failed(directory.path(), &["apply", "-f", &file]);
    assert_eq!(code, Some(3));
    assert!(error.contains("no IOMMU") && error.contains("intel_iommu=on"), "{error}");
    let count = directory.path().join("sys/bus/pci/devices/0000:01:00.0/sriov_numvfs");
    assert_eq!(std::fs::read_to_string(count).expect("the count"), "0\n");
}

#[test]
fn a_kernel_below_another_directory_is_not_changed() {
    let directory = directory();
    // As a container sees its host: below a directory, and alive.
    std::os::unix::fs::symlink("/", directory.path().join("host")).expect("a link");
    let host = directory.path().join("host");
    let state = directory.path().join("state").display().to_string();
    let (code, error) =
        failed(&host, &["--state", &state, "apply", "-f", &policy(directory.path(), 1)]);
    assert_eq!(code, Some(2), "{error}");
    assert!(
        error.contains("shows a running kernel") && error.contains("without --root"),
        "{error}"
    );
}

#[test]
fn a_command_line_that_is_wrong_is_told_in_the_format_asked_for() {
    let directory = directory();
    let text = |arguments: &[&str]| failed(directory.path(), arguments).1;
    assert!(text(&["-ojson", "plan"]).starts_with('{'));
    assert!(text(&["plan", "--output=yaml"]).starts_with("error:\n"));
    let wrong = text(&["plan", "json"]);
    assert!(wrong.starts_with("assign: plan: takes no argument \"json\""), "{wrong}");
    assert_eq!(wrong.lines().count(), 1, "{wrong}");
    let wrong: serde_json::Value =
        serde_json::from_str(&text(&["-o", "json", "vf", "create", "eth0"])).expect("JSON");
    assert_eq!(wrong["error"]["thing"], "vf create");
    assert_eq!(wrong["error"]["message"], "lacks N");
}

#[test]
fn a_vf_of_a_policy_is_not_released() {
    let directory = directory();
    let tree = Tree::lab(directory.path(), 1);
    let vf = "0000:01:10.0";
    tree.link(&format!("sys/bus/pci/devices/{vf}/driver"), "../../bus/pci/drivers/vfio-pci");
    tree.attribute(vf, "driver_override", "vfio-pci\n");
    let (code, error) = failed(directory.path(), &["release", vf]);
    assert_eq!(code, Some(2), "{error}");
    assert!(error.contains("`assign bind --driver DRIVER`"), "{error}");

    let source = std::fs::read_to_string(policy(directory.path(), 1)).expect("a policy");
    let source = policies::Source { name: "edge.yaml".to_owned(), text: source };
    let policy = policies::parse(&[source]).expect("a right policy").policies.remove(0);
    let pf = "0000:01:00.0".parse().expect("an address");
    let bind = sriov::Change::Bind {
        device: sriov::Target::Vf(sriov::VfRef { pf, index: 0 }),
        from: sriov::Binding::default(),
        driver: "vfio-pci".to_owned(),
    };
    let state = assign::state::State::at(directory.path().join("var/lib/assign"));
    let boot = "11111111-2222-3333-4444-555555555555";
    state.change(|state| state.remember_policy(&policy, boot, &[bind], &[])).expect("remembered");
    let (code, error) = failed(directory.path(), &["release", vf]);
    assert_eq!(code, Some(3), "{error}");
    assert!(error.contains("policy edge") && error.contains("`assign remove`"), "{error}");
    let kept = std::fs::read_to_string(
        directory.path().join(format!("sys/bus/pci/devices/{vf}/driver_override")),
    );
    assert_eq!(kept.expect("the override"), "vfio-pci\n");
}

#[test]
fn events_need_the_running_kernel_and_wrong_arguments_are_told() {
    let directory = directory();
    Tree::lab(directory.path(), 0);
    let (code, error) = failed(directory.path(), &["events"]);
    assert_eq!(code, Some(2), "{error}");
    assert!(error.contains("the running kernel sends them") && error.contains("--root"), "{error}");
    for wrong in [["events", "--for", "-1"], ["events", "--count", "0"]] {
        assert_eq!(failed(directory.path(), &wrong).0, Some(2));
    }
    let live = |arguments: &[&str]| assign(Path::new("/"), arguments);
    let output = live(&["events", "no/device"]);
    assert_eq!(output.status.code(), Some(2));
    let output = live(&["events", "--initial", "--for", "0", "-o", "json"]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let events: Vec<serde_json::Value> = stdout(&output)
        .lines()
        .map(|line| serde_json::from_str(line).expect("each line is an object"))
        .collect();
    assert!(
        events.iter().any(|event| event["kind"] == "interface-added" && event["interface"] == "lo")
    );
    assert_eq!(events.last().map(|event| event["kind"] == "following"), Some(true));
}

#[test]
fn the_schema_is_json_for_each_kind_and_both() {
    let directory = directory();
    let schema = |arguments: &[&str]| -> serde_json::Value {
        let output = assign(directory.path(), &[&["schema"], arguments].concat());
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("JSON")
    };
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/schema.json");
    let kept = std::fs::read(kept).expect("the schema beside the examples");
    assert_eq!(assign(directory.path(), &["schema"]).stdout, kept);
    for (kind, word) in [("policy", "Policy"), ("guest", "Guest")] {
        assert_eq!(schema(&[kind])["properties"]["kind"]["enum"], serde_json::json!([word]));
    }
    assert_eq!(schema(&["-o", "json"]), schema(&[]));
    let yaml = stdout(&assign(directory.path(), &["-o", "yaml", "schema", "guest"]));
    assert!(yaml.contains("title: A guest of assign"), "{yaml}");
    assert_eq!(failed(directory.path(), &["schema", "pod"]).0, Some(2));
}
