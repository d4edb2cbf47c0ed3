//! Which fuzz targets there are, and what libFuzzer is told of each.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::binaries;

/// Longest input, in bytes, of a target of which nothing else is said.
const LENGTH: usize = 4096;

/// A fuzz target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Of the program, and of the folders with its inputs.
    pub name: String,
}

/// Where the targets are.
pub fn folder() -> PathBuf {
    binaries::workspace().join("tests/fuzz")
}

/// All targets, by name.
///
/// # Errors
/// Where their folder cannot be read.
pub fn all() -> Result<Vec<Target>> {
    let folder = folder().join("fuzz_targets");
    let entries =
        fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut all = Vec::new();
    for entry in entries {
        let path = entry.with_context(|| format!("cannot read {}", folder.display()))?.path();
        if path.extension().is_some_and(|extension| extension == "rs")
            && let Some(name) = path.file_stem()
        {
            all.push(Target { name: name.to_string_lossy().into_owned() });
        }
    }
    all.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(all)
}

/// Those of them that are `wanted`: all where none is.
///
/// # Errors
/// Where one is not among them.
pub fn choose(all: &[Target], wanted: &[String]) -> Result<Vec<Target>> {
    let stranger = wanted.iter().find(|name| !all.iter().any(|target| target.name == **name));
    if let Some(name) = stranger {
        let names: Vec<_> = all.iter().map(|target| target.name.as_str()).collect();
        bail!("there is no fuzz target {name}, but there are {}", names.join(", "));
    }
    let is_wanted = |target: &&Target| wanted.is_empty() || wanted.contains(&target.name);
    Ok(all.iter().filter(is_wanted).cloned().collect())
}

impl Target {
    /// Its part of the corpus.
    pub fn corpus(&self) -> PathBuf {
        folder().join("corpus").join(&self.name)
    }

    /// Folders that it begins with and does not write to: those that are there.
    pub fn inputs(&self) -> Vec<PathBuf> {
        let mut folders = vec![self.corpus(), folder().join("seeds").join(&self.name)];
        if self.name == "policy" {
            folders.push(binaries::workspace().join("examples"));
        }
        folders.retain(|folder| folder.is_dir());
        folders
    }

    /// What libFuzzer is told of it alone.
    pub fn options(&self) -> Vec<String> {
        let mut options = vec![format!("-max_len={}", self.longest())];
        if let Some(dictionary) = self.dictionary().filter(|path| path.is_file()) {
            options.push(format!("-dict={}", dictionary.display()));
        }
        if self.warns() {
            // What it prints by itself, as much as many inputs a second have to say.
            options.push("-close_fd_mask=2".into());
        }
        options
    }

    /// The words of its language, where inputs have one: they are hardly found by chance.
    fn dictionary(&self) -> Option<PathBuf> {
        Some(folder().join(Path::new(&self.name).with_extension("dict")))
    }

    /// Whether what it runs prints warnings.
    fn warns(&self) -> bool {
        matches!(&*self.name, "passthrough" | "virtio" | "bus" | "ports")
    }

    /// Longest input in bytes. What tells nothing new beyond some length is kept below it, since a long
    /// input takes long; what begins with something large needs room for that.
    pub fn longest(&self) -> usize {
        match &*self.name {
            "text" => 256,
            "ports" | "bus" | "passthrough" => 512,
            "virtio" => 640,
            "attribute" => LENGTH + 1,
            "qcow2" | "snapshot" => 8 << 10,
            "kernel" => 12 << 10,
            "image" => 32 << 10,
            _ => LENGTH,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn targets(names: &[&str]) -> Vec<Target> {
        names.iter().map(|name| Target { name: (*name).to_owned() }).collect()
    }

    #[test]
    fn all_are_wanted_where_none_is_named() {
        let all = targets(&["kernel", "policy", "qcow2"]);
        assert_eq!(choose(&all, &[]).unwrap(), all);
        let wanted = ["qcow2".to_owned(), "kernel".to_owned()];
        assert_eq!(choose(&all, &wanted).unwrap(), targets(&["kernel", "qcow2"]));
    }

    #[test]
    fn a_target_that_is_not_there_is_an_error_that_names_those_that_are() {
        let error = choose(&targets(&["kernel", "qcow2"]), &["quow2".to_owned()]).unwrap_err();
        assert_eq!(error.to_string(), "there is no fuzz target quow2, but there are kernel, qcow2");
    }

    #[test]
    fn each_target_of_the_checkout_is_a_program_with_seeds() {
        let all = all().unwrap();
        assert!(all.len() > 12, "{all:?}");
        let manifest = fs::read_to_string(folder().join("Cargo.toml")).unwrap();
        assert_eq!(manifest.matches("[[bin]]").count(), all.len());
        for target in &all {
            let path = format!("path = \"fuzz_targets/{}.rs\"", target.name);
            assert!(manifest.contains(&path), "{path}");
            assert!(!target.inputs().is_empty(), "{} has no seeds", target.name);
        }
    }

    #[test]
    fn inputs_that_are_there_are_no_longer_than_what_is_tried() {
        for target in all().unwrap() {
            let folders = [target.corpus(), folder().join("seeds").join(&target.name)];
            for entry in folders.iter().filter_map(|folder| fs::read_dir(folder).ok()).flatten() {
                let entry = entry.unwrap();
                let length = entry.metadata().unwrap().len() as usize;
                assert!(length <= target.longest(), "{} is cut off", entry.path().display());
            }
        }
    }
}
