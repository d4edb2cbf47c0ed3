//! Bad input: files, trees, messages and snapshots as no kernel writes them. Whatever comes, reading
//! ends soon, nothing panics, and what is odd is named.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Instant;

use proptest::prelude::*;
use proptest::sample::{Index, select};
use sriov::recorded::Tree;
use sriov::snapshot::Scope;
use sriov::{HostRoot, HostSnapshot, isolation, usage};

#[path = "../../tests/fuzz/src/lib.rs"]
mod targets;

#[path = "../../tests/fuzz/src/replay.rs"]
mod replay;

use replay::{SOON, seeds};

#[test]
fn what_the_fuzzers_found_does_no_harm() {
    for (name, target) in targets::TARGETS {
        let mut inputs = replay::inputs("seeds", name);
        inputs.extend(replay::inputs("corpus", name));
        assert!(inputs.len() > 3, "{name} has hardly any inputs");
        replay::takes(target, inputs);
    }
}

/// An input like a good one: some bytes changed, and cut off or doubled somewhere.
fn mutated(seeds: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let changes = proptest::collection::vec((any::<Index>(), any::<u8>()), 0..8);
    (select(seeds), changes, any::<Index>(), 0..3_u8).prop_map(|(mut bytes, changes, at, how)| {
        for (at, byte) in changes {
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
        }
        let at = at.index(bytes.len() + 1);
        match how {
            0 => bytes.truncate(at),
            1 => bytes.extend_from_within(at..),
            _ => {}
        }
        bytes
    })
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), 0..4200)
}

/// A snapshot of the recorded lab, as it is saved.
static SAVED: LazyLock<serde_json::Value> = LazyLock::new(|| {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let tree = Tree::lab(directory.path(), 1);
    tree.virtual_netdev("bond0", 3);
    tree.stack("eth0", "bond0");
    let snapshot = HostSnapshot::read_within(&tree.root(), Scope::Whole);
    serde_json::to_value(&snapshot).expect("plain data")
});

/// Places in a snapshot and what could be there instead.
fn other_values() -> impl Strategy<Value = Vec<(Index, serde_json::Value)>> {
    let value = select(vec![
        serde_json::json!(null),
        serde_json::json!(-1),
        serde_json::json!(0),
        serde_json::json!(255),
        serde_json::json!(65535),
        serde_json::json!(4_294_967_295_u32),
        serde_json::json!(""),
        serde_json::json!("eth0"),
        serde_json::json!("bond0"),
        serde_json::json!("sda"),
        serde_json::json!("0000:01:00.0"),
        serde_json::json!([]),
        serde_json::json!(["eth0", "bond0", "eth0"]),
        serde_json::json!({}),
        serde_json::json!(true),
    ]);
    proptest::collection::vec((any::<Index>(), value), 1..6)
}

/// JSON pointers (RFC 6901) to everything that has no parts.
fn places(value: &serde_json::Value, at: &str, found: &mut Vec<String>) {
    match value {
        serde_json::Value::Array(values) if !values.is_empty() => {
            for (number, value) in values.iter().enumerate() {
                places(value, &format!("{at}/{number}"), found);
            }
        }
        serde_json::Value::Object(fields) if !fields.is_empty() => {
            for (name, value) in fields {
                places(
                    value,
                    &format!("{at}/{}", name.replace('~', "~0").replace('/', "~1")),
                    found,
                );
            }
        }
        _ => found.push(at.to_owned()),
    }
}

proptest! {
    #[test]
    fn any_configuration_space(image in prop_oneof![bytes(), mutated(seeds("config_space"))]) {
        targets::config_space(&image);
    }

    #[test]
    fn any_device_event(message in prop_oneof![bytes(), mutated(seeds("device_event"))]) {
        targets::device_event(&message);
    }

    #[test]
    fn any_word(text in prop_oneof![bytes(), mutated(seeds("text")), "\\PC{0,40}".prop_map(String::into_bytes)]) {
        targets::text(&text);
    }

    #[test]
    fn any_content_of_a_file(
        number in 0..targets::FILES.len(),
        content in prop_oneof![bytes(), mutated(seeds("attribute"))],
    ) {
        let number = u8::try_from(number).expect("few files");
        targets::attribute(&[&[number], content.as_slice()].concat());
    }

    #[test]
    fn a_saved_snapshot_with_other_values(changes in other_values()) {
        let mut value = SAVED.clone();
        let mut all = Vec::new();
        places(&value, "", &mut all);
        for (at, other) in changes {
            if let Some(place) = value.pointer_mut(at.get::<String>(&all)) {
                *place = other;
            }
        }
        targets::snapshot(&serde_json::to_vec(&value).expect("JSON"));
    }
}

/// What can lie where a file should be.
#[derive(Debug, Clone, Copy)]
enum Odd {
    Empty,
    Ones,
    Garbage,
    Negative,
    Huge,
    TooLong,
    Zeros,
    Directory,
    Dangling,
    Circle,
    Pipe,
    Gone,
}

const ODD: [Odd; 12] = [
    Odd::Empty,
    Odd::Ones,
    Odd::Garbage,
    Odd::Negative,
    Odd::Huge,
    Odd::TooLong,
    Odd::Zeros,
    Odd::Directory,
    Odd::Dangling,
    Odd::Circle,
    Odd::Pipe,
    Odd::Gone,
];

impl Odd {
    fn put(self, path: &Path) {
        if fs::symlink_metadata(path).is_ok_and(|found| found.is_dir()) {
            fs::remove_dir_all(path).expect("a directory of the tree");
        } else if let Err(error) = fs::remove_file(path) {
            // What was above it is something else by now.
            assert!(!path.exists(), "{}: {error}", path.display());
            return;
        }
        let write = |bytes: &[u8]| fs::write(path, bytes).expect("a file");
        match self {
            Odd::Empty => write(b""),
            Odd::Ones => write(&[0xff; 4096]),
            Odd::Garbage => {
                write(&(0..4096_u32).map(|n| ((n * n) >> 3) as u8).collect::<Vec<u8>>())
            }
            Odd::Negative => write(b"-1\n"),
            Odd::Huge => write(b"99999999999999999999999999\n"),
            Odd::TooLong => write(&[b'7'; 70_000]),
            Odd::Zeros => write(&[0; 4096]),
            Odd::Directory => fs::create_dir(path).expect("a directory"),
            Odd::Dangling => symlink("nowhere", path).expect("a link"),
            Odd::Circle => symlink(path.file_name().expect("a name"), path).expect("a link"),
            Odd::Pipe => {
                use rustix::fs::{CWD, FileType, Mode, mknodat};
                mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).expect("a pipe");
            }
            Odd::Gone => {}
        }
    }
}

/// Everything in a tree but directories that were made to hold something.
fn all_below(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut todo = vec![directory.to_owned()];
    while let Some(folder) = todo.pop() {
        for entry in fs::read_dir(folder).expect("a directory of the tree") {
            let entry = entry.expect("an entry");
            match entry.file_type().expect("its type").is_dir() {
                true => todo.push(entry.path()),
                false => found.push(entry.path()),
            }
        }
    }
    found.sort();
    found
}

/// A tree with every file that is read.
fn whole_tree(directory: &Path) {
    targets::host(directory);
}

/// Reads a tree, and concludes from it what is concluded from any.
fn read_soon(directory: &Path) -> HostSnapshot {
    let begun = Instant::now();
    let host = HostSnapshot::read_within(&HostRoot::at(directory), Scope::Whole);
    for function in &host.functions {
        usage::of(&host, function);
        let _ = isolation::viability(&host, function, &[]);
    }
    assert!(begun.elapsed() < SOON, "it took {:?}", begun.elapsed());
    for problem in &host.problems {
        assert!(problem.path.starts_with(directory), "{problem:?} is not of this tree");
        assert!(!problem.cause.is_empty(), "{problem:?}");
    }
    host
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 64, ..ProptestConfig::default() })]

    #[test]
    fn a_tree_with_many_odd_files(
        odd in proptest::collection::vec((any::<Index>(), select(&ODD[..])), 1..40),
    ) {
        let directory = tempfile::tempdir().expect("a temporary directory");
        whole_tree(directory.path());
        let files = all_below(directory.path());
        for (at, odd) in odd {
            odd.put(at.get::<PathBuf>(&files));
        }
        let host = read_soon(directory.path());
        let text = serde_json::to_string(&host).expect("plain data");
        prop_assert_eq!(serde_json::from_str::<HostSnapshot>(&text).expect("read again"), host);
    }
}

#[test]
fn a_tree_in_which_everything_is_odd() {
    for odd in ODD {
        let directory = tempfile::tempdir().expect("a temporary directory");
        whole_tree(directory.path());
        for file in all_below(directory.path()) {
            // Without its links a tree shows nothing: they are left to the other test.
            if fs::symlink_metadata(&file).is_ok_and(|found| found.is_file()) {
                odd.put(&file);
            }
        }
        eprintln!("{odd:?}");
        let host = read_soon(directory.path());
        assert!(host.functions.is_empty(), "{odd:?}: a function that says nothing of itself");
    }
}

#[test]
fn one_odd_device_is_named_and_hides_no_other() {
    for odd in ODD {
        let directory = tempfile::tempdir().expect("a temporary directory");
        whole_tree(directory.path());
        let before = read_soon(directory.path());
        let vf = "sys/bus/pci/devices/0000:01:10.2";
        let real = fs::canonicalize(directory.path().join(vf)).expect("the VF");
        for file in all_below(&real) {
            odd.put(&file);
        }
        let after = read_soon(directory.path());
        let others = |host: &HostSnapshot| -> Vec<_> {
            let functions =
                host.functions.iter().filter(|f| f.address.to_string() != "0000:01:10.2");
            functions.cloned().collect()
        };
        assert_eq!(others(&after), others(&before), "{odd:?}");
        let new = after.problems.iter().filter(|problem| !before.problems.contains(problem));
        for problem in new {
            let path = problem.path.to_string_lossy();
            assert!(path.contains("0000:01:10.2"), "{odd:?}: {problem:?}");
        }
    }
}

#[test]
fn stacks_that_bite_their_tails_end() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let tree = Tree::lab(directory.path(), 0);
    for (index, name) in [(3, "bond0"), (4, "br0")] {
        tree.virtual_netdev(name, index);
    }
    tree.stack("eth0", "bond0");
    tree.stack("bond0", "br0");
    tree.link("sys/class/net/br0/upper_bond0", "../bond0");
    for (name, number) in [("dm-0", "253:0"), ("dm-1", "253:1")] {
        tree.file(&format!("sys/devices/virtual/block/{name}/dev"), &format!("{number}\n"));
        tree.link(
            &format!("sys/class/block/{name}"),
            &format!("../../devices/virtual/block/{name}"),
        );
    }
    tree.link("sys/class/block/sda/holders/dm-0", "../../dm-0");
    tree.link("sys/class/block/dm-0/holders/dm-1", "../../dm-1");
    tree.link("sys/class/block/dm-1/holders/dm-0", "../../dm-0");
    let host = read_soon(directory.path());
    let carried = |address: &str| {
        let function = host.function(address.parse().expect("an address")).expect("the function");
        usage::of(&host, function).len()
    };
    assert!(carried("0000:01:00.0") > 0 && carried("0000:00:1f.2") > 0);
}
