//! GRUB's configuration: a script that makes a menu, of which each entry is a script that loads a
//! kernel.
//!
//! ```text
//! grub.cfg ─ words ─► parse ─► run: variables, conditions, `search` ─► entries ─ run one ─► what it loads
//! ```
//! It is carried out as GRUB does, as far as its menu depends on it. What only GRUB has (fonts, keys,
//! a terminal) counts as absent, and what an entry does once, by noting it for the next time, is not
//! done: nothing is written.

mod parse;
mod run;
mod test;
mod words;

use std::rc::Rc;

use self::parse::Statement;
pub use self::run::{SCRIPT_MAX, Script};

/// The filesystems that a script may look for, by their place in a list.
pub trait Devices {
    /// How many there are.
    fn count(&self) -> usize;
    /// The one with this UUID.
    fn by_uuid(&self, uuid: &str) -> Option<usize>;
    /// The one with this label.
    fn by_label(&self, label: &str) -> Option<usize>;
    /// The one on the partition of this number.
    fn by_number(&self, number: Option<u32>) -> Option<usize>;
    /// Whether it has this regular file.
    fn has(&self, device: usize, path: &str) -> bool;
    /// The text of a file of at most [`SCRIPT_MAX`] bytes.
    fn text(&self, device: usize, path: &str) -> Option<String>;
}

/// A file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// The filesystem.
    pub device: usize,
    /// The path there.
    pub path: String,
}

/// An entry of the menu.
#[derive(Debug, Clone)]
pub struct Entry {
    /// How the menu calls it.
    pub title: String,
    /// Its `--id`.
    pub id: Option<String>,
    /// How many menus it is below: entries after a submenu that are deeper are its own.
    pub depth: usize,
    /// Whether it is a menu itself.
    pub is_submenu: bool,
    body: Rc<Vec<Statement>>,
}

/// What an entry loads.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Loads {
    /// The kernel.
    pub kernel: Option<Location>,
    /// Its command line.
    pub cmdline: String,
    /// Its initial RAM disks, one after the other.
    pub initrds: Vec<Location>,
    /// The command that loads something else than Linux.
    pub other: Option<String>,
}

/// The entry that GRUB boots where nobody chooses: `default` is a number, an id or a title, and of an
/// entry of a submenu the way there, such as `1>2`.
pub fn default_of(entries: &[Entry], default: &str) -> Option<usize> {
    let (mut range, mut depth) = (0..entries.len(), 0);
    for step in default.split('>') {
        let level: Vec<usize> = range.filter(|at| entries[*at].depth == depth).collect();
        let by_name = |at: &&usize| {
            let entry = &entries[**at];
            entry.title == step || entry.id.as_deref() == Some(step)
        };
        let by_number = step.parse().ok().and_then(|number: usize| level.get(number));
        // As GRUB, which takes the first one for whatever it does not find.
        let at = *by_number.or_else(|| level.iter().find(by_name)).or(level.first())?;
        if !entries[at].is_submenu {
            return Some(at);
        }
        depth = entries[at].depth + 1;
        range = at + 1..entries.len();
        let end = range.clone().find(|at| entries[*at].depth < depth);
        range.end = end.unwrap_or(range.end);
    }
    // A menu: its first entry.
    range.into_iter().find(|at| !entries[*at].is_submenu)
}

/// The variables of an environment block (`grubenv`).
pub fn environment(text: &str) -> impl Iterator<Item = (String, String)> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| {
        let (name, value) = line.split_once('=')?;
        Some((name.to_owned(), value.replace("\\\\", "\\")))
    })
}

/// How variables call a filesystem.
fn device_name(device: usize) -> String {
    format!("fs{device}")
}

/// The filesystem that a script calls so: by [`device_name`], or by the place of its partition, such as
/// `hd0,gpt2`, on the only disk that there is.
fn device(devices: &impl Devices, name: &str) -> Option<usize> {
    if let Some(number) = name.strip_prefix("fs") {
        return number.parse().ok().filter(|device| *device < devices.count());
    }
    let number = match name.split_once(',') {
        Some((_, part)) => {
            Some(part.trim_start_matches(|c: char| !c.is_ascii_digit()).parse().ok()?)
        }
        None => None,
    };
    devices.by_number(number)
}

#[cfg(test)]
mod tests;
