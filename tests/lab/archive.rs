//! The archives that Linux unpacks into its first root file system.
//!
//! They are cpio archives in the "newc" form, not compressed: decompressing costs an emulated
//! machine more than reading. Linux takes several in a row, so what all hosts share is written once
//! and what one host adds is appended.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use cpio::newc;

/// Archives begin at multiples of this many bytes.
const ALIGNMENT: usize = 512;

enum Entry {
    Folder,
    File { mode: u32, content: Vec<u8> },
    Link { target: String },
}

/// A tree of files to be archived. Paths are relative to the root, without a leading slash; the
/// folders they lie in come by themselves.
#[derive(Default)]
pub struct Tree {
    // Sorted by path, so that a folder comes before what it holds.
    entries: BTreeMap<String, Entry>,
}

impl Tree {
    /// Adds an empty folder.
    pub fn folder(&mut self, path: &str) {
        self.insert(path, Entry::Folder);
    }

    /// Adds a file that can be read.
    pub fn file(&mut self, path: &str, content: impl Into<Vec<u8>>) {
        self.insert(path, Entry::File { mode: 0o644, content: content.into() });
    }

    /// Adds a file that can be executed.
    pub fn program(&mut self, path: &str, content: impl Into<Vec<u8>>) {
        self.insert(path, Entry::File { mode: 0o755, content: content.into() });
    }

    /// Adds a symbolic link.
    pub fn link(&mut self, path: &str, target: &str) {
        self.insert(path, Entry::Link { target: target.to_owned() });
    }

    /// Adds a file of this machine, with its permissions.
    pub fn copy(&mut self, path: &str, from: &Path) -> Result<()> {
        let content = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
        let mode = fs::metadata(from)?.permissions().mode() & 0o777;
        self.insert(path, Entry::File { mode, content });
        Ok(())
    }

    fn insert(&mut self, path: &str, entry: Entry) {
        let path = path.trim_matches('/');
        for (at, _) in path.match_indices('/') {
            self.entries.entry(path[..at].to_owned()).or_insert(Entry::Folder);
        }
        self.entries.insert(path.to_owned(), entry);
    }

    /// Writes the archive, padded so that another may follow.
    pub fn archive(&self) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        for (number, (path, entry)) in self.entries.iter().enumerate() {
            let (mode, content) = match entry {
                Entry::Folder => (0o040755, [].as_slice()),
                Entry::File { mode, content } => (0o100000 | mode, content.as_slice()),
                Entry::Link { target } => (0o120777, target.as_bytes()),
            };
            let size = u32::try_from(content.len())
                .with_context(|| format!("{path} is too big for an archive (4 GiB)"))?;
            let mut writer =
                newc::Builder::new(path).ino(number as u32 + 1).mode(mode).write(&mut out, size);
            writer.write_all(content)?;
            writer.finish()?;
        }
        newc::trailer(&mut out)?;
        out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_come_before_what_they_hold() {
        let mut tree = Tree::default();
        tree.file("/a/b/c", "text");
        tree.link("a/link", "b/c");
        let archive = tree.archive().unwrap();
        assert_eq!(archive.len() % ALIGNMENT, 0);
        let mut names = Vec::new();
        let mut rest = archive.as_slice();
        loop {
            let reader = newc::Reader::new(rest).unwrap();
            if reader.entry().is_trailer() {
                break;
            }
            names.push(reader.entry().name().to_owned());
            rest = reader.finish().unwrap();
        }
        assert_eq!(names, ["a", "a/b", "a/b/c", "a/link"]);
    }
}
