//! What the fuzzers began with and found, for tests that give it to the same functions again. Crates
//! include this file; the fuzzers have no use for it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Much longer than anything here takes, on a busy machine too; a hang takes longer.
pub const SOON: Duration = Duration::from_secs(20);

/// The inputs of a target, of one kind: `seeds` or `corpus`.
pub fn inputs(kind: &str, target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz");
    let folder = fuzz.join(kind).join(target);
    let mut inputs: Vec<_> = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.expect("an entry").path())
        .map(|path| (path.clone(), fs::read(&path).expect("an input")))
        .collect();
    inputs.sort();
    inputs
}

/// The bytes of a target's seeds.
pub fn seeds(target: &str) -> Vec<Vec<u8>> {
    inputs("seeds", target).into_iter().map(|(_, bytes)| bytes).collect()
}

/// Asserts that the target takes each of them, soon.
pub fn takes(target: impl Fn(&[u8]), inputs: Vec<(PathBuf, Vec<u8>)>) {
    for (path, bytes) in inputs {
        let _named = Named(&path);
        let begun = Instant::now();
        target(&bytes);
        assert!(begun.elapsed() < SOON);
    }
}

/// Says which input it was when a test fails on it.
struct Named<'a>(&'a Path);

impl Drop for Named<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the input is {}", self.0.display());
        }
    }
}
