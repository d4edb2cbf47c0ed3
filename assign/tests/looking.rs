//! What looks at a host: stable fields for programs, help that fits, completion as a shell asks for
//! it, manual pages.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use sriov::recorded::Tree;

fn assign(root: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_assign"));
    command.env("COLUMNS", "80");
    command.arg("--root").arg(root).args(arguments).output().expect("assign runs")
}

fn lab() -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a temporary directory");
    Tree::lab(directory.path(), 2);
    directory
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Every field with its type, each once; of a field with more than one type, all of them.
fn fields(value: &Value, path: &str, found: &mut BTreeSet<String>) {
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(values) => {
            values.iter().for_each(|value| fields(value, &format!("{path}[]"), found));
            return;
        }
        Value::Object(map) => {
            for (name, value) in map {
                // A map whose keys are numbers is one field.
                let name = if name.parse::<u32>().is_ok() { "N" } else { name };
                fields(value, &format!("{path}.{name}"), found);
            }
            return;
        }
    };
    found.insert(format!("{path}: {kind}"));
}

#[test]
fn programs_can_rely_on_the_fields() {
    let directory = lab();
    for (name, arguments) in [
        ("devices", vec!["devices"]),
        ("tree", vec!["devices", "--tree"]),
        ("groups", vec!["groups"]),
        ("vf_list", vec!["vf", "list"]),
    ] {
        let text = stdout(&assign(directory.path(), &[&["-o", "json"], &arguments[..]].concat()));
        let mut found = BTreeSet::new();
        fields(&serde_json::from_str(&text).expect("JSON"), "", &mut found);
        let lines: Vec<String> = found.into_iter().collect();
        insta::assert_snapshot!(format!("fields_of_{name}"), lines.join("\n"));
    }
    let text = stdout(&assign(directory.path(), &["-o", "json", "show", "eth0"]));
    let value: Value = serde_json::from_str(&text).expect("JSON");
    let names: Vec<&String> = value.as_object().expect("an object").keys().collect();
    let expected = [
        "class",
        "facts",
        "group",
        "interfaces",
        "lease",
        "name",
        "next",
        "not_for",
        "original",
        "path",
        "root",
        "standing",
        "uses",
        "vfs",
    ];
    assert_eq!(names, expected);
    let topology = stdout(&assign(directory.path(), &["-o", "json", "topology"]));
    let tree = stdout(&assign(directory.path(), &["-o", "json", "devices", "--tree"]));
    assert_eq!(topology, tree);
}

#[test]
fn everything_about_a_device() {
    let directory = lab();
    let text = stdout(&assign(directory.path(), &["show", "eth0"]));
    insta::assert_snapshot!("show_a_pf", text);
    let text = stdout(&assign(directory.path(), &["show", "0000:00:1f.3"]));
    assert!(text.contains("shares group 5 with 0000:00:1f.2 (ahci, carries sda → /)"), "{text}");
    let text = stdout(&assign(directory.path(), &["groups", "5"]));
    insta::assert_snapshot!("a_group_of_three", text);
    assert_eq!(assign(directory.path(), &["groups", "77"]).status.code(), Some(2));
}

/// A device that firmware keeps, and a VF whose PF a guest has: every command says so, and the one
/// that would take the device refuses.
#[test]
fn what_cannot_be_given_away_is_told_by_all_alike() {
    let directory = lab();
    let root = directory.path();
    let file = root.join("sys/kernel/iommu_groups/16/reserved_regions");
    std::fs::write(file, "0x00000000bdf6f000 0x00000000bdf7efff direct\n").expect("regions");
    all_say_no(root, "firmware", "wants 0xbdf6f000");

    let directory = lab();
    let root = directory.path();
    let driver = root.join("sys/bus/pci/devices/0000:01:00.0/driver");
    std::fs::remove_file(&driver).expect("the driver");
    std::os::unix::fs::symlink("../../bus/pci/drivers/vfio-pci", driver).expect("a link");
    all_say_no(root, "PF", "0000:01:00.0 is bound to vfio-pci");
}

/// That all of them say of the first VF that it cannot be given away, and why.
fn all_say_no(root: &Path, who: &str, why: &str) {
    let vf = "0000:01:10.0";
    let says = |arguments: &[&str]| {
        let output = assign(root, arguments);
        let [out, error] =
            [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
        (output.status.code(), format!("{out}{error}"))
    };
    let (_, doctor) = says(&["doctor", vf]);
    assert!(doctor.contains("verdict  it cannot be given to a guest"), "{doctor}");
    let (_, show) = says(&["show", vf]);
    let now = show.lines().find(|line| line.trim_start().starts_with("now")).expect("a line");
    assert!(now.contains(" no: ") && now.contains(who), "{show}");
    assert!(!show.contains("assign bind"), "{show}");
    let (_, tree) = says(&["devices", "--tree", "--all"]);
    let row = tree.lines().find(|line| line.contains(vf)).expect("a row");
    assert!(row.contains("blocked: ") && row.contains(who), "{tree}");
    let (_, groups) = says(&["groups", "16"]);
    assert!(
        groups.contains("group 16  cannot be given away: ") && groups.contains(who),
        "{groups}"
    );
    let (_, svg) = says(&["topology", "--format", "svg"]);
    assert!(svg.contains("blocked") && svg.contains(who), "{svg}");
    let (code, bind) = says(&["bind", vf]);
    assert_eq!(code, Some(3), "{bind}");
    assert!(bind.contains(who) && bind.contains(why), "{bind}");
}

#[test]
fn help_fits_80_columns_and_its_examples_are_right() {
    let directory = lab();
    let top = stdout(&assign(directory.path(), &["--help"]));
    let verbs: Vec<&str> = top
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.strip_prefix("  ").filter(|rest| !rest.starts_with(' ')))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|verb| *verb != "help")
        .collect();
    assert!(verbs.len() > 12, "{verbs:?}");
    let below = stdout(&assign(directory.path(), &["vf", "--help"]));
    for verb in ["create", "list", "set", "destroy"] {
        assert!(below.contains(&format!("\n  {verb} ")), "{below}");
    }
    let mut lines: Vec<Vec<String>> = verbs.iter().map(|verb| vec![(*verb).to_owned()]).collect();
    lines.extend(
        ["create", "list", "set", "destroy"].map(|verb| vec!["vf".to_owned(), verb.to_owned()]),
    );
    lines.push(Vec::new());
    for verb in lines {
        let mut arguments: Vec<&str> = verb.iter().map(String::as_str).collect();
        arguments.push("--help");
        let help = stdout(&assign(directory.path(), &arguments));
        for line in help.lines() {
            assert!(line.chars().count() <= 80, "{verb:?}: {line}");
        }
        let examples = help.lines().filter_map(|line| line.trim().strip_prefix("assign "));
        // Of several ways to write a command, each has a line that begins like an example.
        let examples = examples.filter(|line| !line.contains("[OPTIONS]"));
        for example in examples.filter(|_| !help.contains("Usage: assign vf <")) {
            let line = example.split("  ").next().unwrap_or_default();
            let line = line.split(['|', ')', '>']).next().unwrap_or_default();
            // The words are right if asking for help with them is.
            let mut words: Vec<&str> = line.split_whitespace().collect();
            words.push("--help");
            let output = assign(directory.path(), &words);
            assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        }
    }
}

/// The words offered after `line`, split at blanks; its last word is being typed.
fn offered(root: &Path, line: &str) -> Vec<String> {
    let root = root.display().to_string();
    let mut words = vec!["__complete", "--", "--root", root.as_str()];
    words.extend(line.split(' '));
    let text = stdout(&assign(Path::new("/nowhere"), &words));
    text.lines().skip(1).filter_map(|line| line.split('\t').next()).map(str::to_owned).collect()
}

#[test]
fn a_shell_is_offered_what_the_host_has() {
    let directory = lab();
    let root = directory.path();
    assert_eq!(offered(root, "vf create "), ["0000:01:00.0", "eth0"]);
    assert_eq!(offered(root, "bind 0000:01:1"), ["0000:01:10.0", "0000:01:10.2"]);
    assert_eq!(offered(root, "bind 01:10.0 01:1"), ["01:10.2"]);
    assert_eq!(offered(root, "bind --driver v"), ["vfio-pci"]);
    assert_eq!(offered(root, "bind --driver=v"), ["--driver=vfio-pci"]);
    assert_eq!(offered(root, "groups 1"), ["1", "16", "17"]);
    assert_eq!(offered(root, "-o y"), ["yaml"]);
    assert_eq!(offered(root, "vf l"), ["list"]);
    assert_eq!(offered(root, "devices --tr"), ["--tree"]);
    assert!(offered(root, "devices --tree --t").is_empty());
    assert!(offered(root, "show 0000:01:00.0 ").is_empty());
    assert!(offered(root, "no-such-verb ").len() < 40);
}

#[test]
fn bash_completes_addresses_although_it_splits_them() {
    let directory = lab();
    let script = format!(
        "PATH={}:$PATH; source <(assign completions bash)\n\
         compopt() {{ :; }}\n\
         COMP_LINE='assign --root {root} bind 0000:01:1' COMP_TYPE=9 COMP_CWORD=8\n\
         COMP_WORDS=(assign --root {root} bind 0000 : 01 : 1)\n\
         _assign assign; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        Path::new(env!("CARGO_BIN_EXE_assign")).parent().expect("a folder").display(),
        root = directory.path().display()
    );
    let output = Command::new("bash").args(["--norc", "-c", &script]).output().expect("bash runs");
    assert_eq!(stdout(&output), "10.0\n10.2\n", "{}", String::from_utf8_lossy(&output.stderr));
}

/// Runs a script in a shell that not every machine has; `None` where this one has not.
fn in_shell(shell: &str, arguments: &[&str], script: &str) -> Option<Output> {
    let programs = Path::new(env!("CARGO_BIN_EXE_assign")).parent().expect("a folder");
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new(shell);
    command.args(arguments).arg(script).env("PATH", format!("{}:{path}", programs.display()));
    match command.output() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            eprintln!("{shell} is not installed: its completion is not tried");
            None
        }
        output => Some(output.expect("the shell runs")),
    }
}

#[test]
fn zsh_completes_by_its_script() {
    let directory = lab();
    // What belongs to its completion system, and is there only while a person types.
    let script = format!(
        "compdef() {{ :; }}; _files() {{ print files $*; }}\n\
         compadd() {{ while [[ $1 != -a ]]; do shift; done; print -l -- ${{(P)2}}; }}\n\
         source <(assign completions zsh)\n\
         words=(assign --root {root} bind 0000:01:1) CURRENT=5; _assign\n\
         words=(assign --root {root} plan -f '') CURRENT=6; _assign",
        root = directory.path().display()
    );
    let Some(output) = in_shell("zsh", &["-f", "-c"], &script) else { return };
    let text = stdout(&output);
    assert_eq!(text, "0000:01:10.0\n0000:01:10.2\nfiles\n", "{output:?}");
}

#[test]
fn fish_completes_by_its_script() {
    let directory = lab();
    let root = directory.path().display();
    let script = format!(
        "source (assign completions fish | psub)\n\
         complete -C 'assign --root {root} bind 0000:01:1'\n\
         complete -C 'assign --root {root} vf l'"
    );
    let Some(output) = in_shell("fish", &["--no-config", "-c"], &script) else { return };
    let text = stdout(&output);
    let words: Vec<&str> = text.lines().filter_map(|line| line.split('\t').next()).collect();
    assert_eq!(words, ["0000:01:10.0", "0000:01:10.2", "list"], "{output:?}");
}

#[test]
fn manual_pages_have_their_sections() {
    let directory = lab();
    let place = directory.path().display().to_string();
    stdout(&assign(directory.path(), &["man", &place]));
    let page =
        std::fs::read_to_string(directory.path().join("assign-vf-create.1")).expect("a page");
    for section in
        ["NAME", "SYNOPSIS", "OPTIONS", "\"EXIT STATUS\"", "FILES", "EXAMPLES", "SEE ALSO"]
    {
        let plain = section.trim_matches('"');
        assert!(page.contains(&format!(".SH {plain}\n")), "{section}: {page}");
    }
    assert!(!directory.path().join("assign-__complete.1").exists());
    let read = |name: &str| std::fs::read_to_string(directory.path().join(name)).expect("a page");
    let set = read("assign-vf-set.1");
    for text in [
        "\\fBassign vf set\\fR [OPTIONS] \\fIVF\\fR...\n",
        ".SH EXAMPLES\n",
        "\nA VF is named by its PF and number",
        ".SH GLOBAL OPTIONS\n",
    ] {
        let quoted = text.replace("GLOBAL OPTIONS", "\"GLOBAL OPTIONS\"");
        assert!(set.contains(text) || set.contains(&quoted), "{text}: {set}");
    }
    assert!(page.contains("loses them first, as the kernel knows no other way"), "{page}");
    assert!(page.contains(".BR assign\\-vf\\-set (1)"), "{page}");
    for option in ["--all", "--file", "PLAN"] {
        assert!(read("assign-apply.1").replace('\\', "").contains(option), "{option}");
    }
    assert_eq!(assign(directory.path(), &["man", "/no/such/folder"]).status.code(), Some(1));
}
