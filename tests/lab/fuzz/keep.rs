//! Puts what a fuzzer has found worth keeping into the corpus: what reaches new code, is small, and is not
//! too much. Files of the corpus are never removed or changed.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::target::Target;
use crate::run::capture;

/// Longest input that is kept, in bytes, where a target's are short; others are a few times as long.
const LONGEST: u64 = 512;
/// New inputs of one run, and inputs of a target in all.
const MOST_NEW: usize = 250;
const MOST: usize = 2500;

/// What was put into the corpus.
#[derive(Debug, PartialEq, Eq)]
pub struct Kept {
    new: usize,
    left_out: usize,
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Kept { new, left_out } = self;
        write!(f, "{new} new inputs are in the corpus")?;
        if *left_out > 0 {
            write!(f, ", and {left_out} more are left out")?;
        }
        Ok(())
    }
}

/// Merges inputs of `work` into the corpus of `target`: those that reach what neither it nor the seeds do.
///
/// # Errors
/// Where the target fails on one of them, or files cannot be copied.
pub fn merge(target: &Target, program: &Path, work: &Path) -> Result<Kept> {
    let (merged, small) = (work.with_extension("merged"), work.with_extension("small"));
    for folder in [&merged, &small] {
        // Left by a run that was killed.
        let _ = fs::remove_dir_all(folder);
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    for folder in target.inputs() {
        copy(&inputs(&folder)?, &merged)?;
    }
    let before = names(&merged)?;
    let fits = |(_, length): &(PathBuf, u64)| *length <= longest(target);
    let (fitting, large): (Vec<_>, Vec<_>) = inputs(work)?.into_iter().partition(fits);
    copy(&fitting, &small)?;
    let mut command = Command::new(program);
    command.arg("-merge=1").arg(&merged).arg(&small).args(target.options());
    capture(&mut command)?;
    let mut new = inputs(&merged)?;
    new.retain(|(path, _)| path.file_name().is_some_and(|name| !before.contains(name)));
    let corpus = target.corpus();
    fs::create_dir_all(&corpus).with_context(|| format!("cannot make {}", corpus.display()))?;
    let room = MOST.saturating_sub(inputs(&corpus)?.len()).min(MOST_NEW);
    let left_out = limit(&mut new, room) + large.len();
    copy(&new, &corpus)?;
    for folder in [&merged, &small] {
        fs::remove_dir_all(folder)
            .with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    Ok(Kept { new: new.len(), left_out })
}

/// Longest input that is kept of a target, in bytes.
fn longest(target: &Target) -> u64 {
    (target.longest() as u64 / 4).max(LONGEST)
}

/// Keeps the smallest of `inputs`, as many as there is room for, and counts the others.
fn limit(inputs: &mut Vec<(PathBuf, u64)>, room: usize) -> usize {
    inputs.sort_by(|one, other| (one.1, &one.0).cmp(&(other.1, &other.0)));
    let before = inputs.len();
    inputs.truncate(room);
    before - inputs.len()
}

/// Files of a folder and their lengths.
fn inputs(folder: &Path) -> Result<Vec<(PathBuf, u64)>> {
    let read = || -> io::Result<Vec<_>> {
        fs::read_dir(folder)?
            .map(|entry| entry.and_then(|entry| Ok((entry.path(), entry.metadata()?))))
            .filter_map(|entry| match entry {
                Ok((path, file)) => file.is_file().then_some(Ok((path, file.len()))),
                Err(error) => Some(Err(error)),
            })
            .collect()
    };
    read().with_context(|| format!("cannot read {}", folder.display()))
}

fn names(folder: &Path) -> Result<BTreeSet<OsString>> {
    let inputs = inputs(folder)?;
    Ok(inputs.into_iter().filter_map(|(path, _)| path.file_name().map(OsString::from)).collect())
}

fn copy(inputs: &[(PathBuf, u64)], folder: &Path) -> Result<()> {
    for (path, _) in inputs {
        let Some(name) = path.file_name() else { continue };
        fs::copy(path, folder.join(name))
            .with_context(|| format!("cannot copy {} to {}", path.display(), folder.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_inputs_are_kept_where_there_is_not_room_for_all() {
        let input = |name: &str, length| (PathBuf::from(name), length);
        let mut inputs = vec![input("a", 30), input("b", 10), input("c", 20), input("d", 10)];
        assert_eq!(limit(&mut inputs, 3), 1);
        assert_eq!(inputs, [input("b", 10), input("d", 10), input("c", 20)]);
        assert_eq!((limit(&mut inputs, 9), inputs.len()), (0, 3));
        assert_eq!((limit(&mut inputs, 0), inputs.len()), (3, 0));
    }

    #[test]
    fn what_was_left_out_is_told_of() {
        let kept = |new, left_out| Kept { new, left_out }.to_string();
        assert_eq!(kept(3, 0), "3 new inputs are in the corpus");
        assert_eq!(kept(3, 4), "3 new inputs are in the corpus, and 4 more are left out");
    }
}
