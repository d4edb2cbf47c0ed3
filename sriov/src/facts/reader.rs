//! Reading attributes with a memory: what could not be read or understood is noted, not lost.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::attribute::{self, ATTRIBUTE_BYTES, AttributeError};
use crate::directory::{Directory, Room};
use crate::root::HostRoot;

/// Something that could not be read, or was not as the kernel writes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The file, or the kernel interface that was asked.
    pub path: PathBuf,
    /// What was wrong with it.
    pub cause: String,
}

/// A tree being read, and the problems met so far.
#[derive(Debug)]
pub struct Reader<'a> {
    /// The tree.
    pub root: &'a HostRoot,
    /// What went wrong so far.
    pub problems: Vec<Problem>,
    /// For the attribute that is being read.
    room: Box<Room>,
}

impl<'a> Reader<'a> {
    /// A reader of `root` without problems yet.
    pub fn new(root: &'a HostRoot) -> Reader<'a> {
        let room = Box::new([0; ATTRIBUTE_BYTES as usize + 1]);
        Reader { root, problems: Vec::new(), room }
    }

    /// Notes a problem.
    pub fn note(&mut self, path: &Path, cause: impl Into<String>) {
        self.problems.push(Problem { path: path.into(), cause: cause.into() });
    }

    /// The value, or its type's nothing with the error noted.
    pub fn accept<T: Default>(&mut self, result: Result<T, AttributeError>) -> T {
        result.unwrap_or_else(|error| {
            self.note(&error.path, error.to_string());
            T::default()
        })
    }

    /// An attribute's text; `None` where it is absent, or unreadable (noted).
    pub fn text(&mut self, path: &Path) -> Option<String> {
        let result = attribute::read(path);
        self.accept(result)
    }

    /// A whole table of procfs.
    pub fn table(&mut self, path: &Path) -> String {
        let result = attribute::read_table(path);
        self.accept(result)
    }

    /// The last component of a link's target.
    pub fn link_name(&mut self, path: &Path) -> Option<String> {
        let result = attribute::link_name(path);
        self.accept(result)
    }

    /// A directory's names.
    pub fn entries(&mut self, path: &Path) -> Vec<String> {
        let result = attribute::entries(path);
        self.accept(result)
    }

    /// A number as sysfs writes it: decimal, or hexadecimal after `0x`.
    pub fn number<T: TryFrom<i64>>(&mut self, path: &Path) -> Option<T> {
        let text = self.text(path)?;
        let number = parse_number(&text).and_then(|number| T::try_from(number).ok());
        if number.is_none() {
            self.note(path, format!("{text:?} is not a number of the expected range"));
        }
        number
    }

    /// A flag, `0` or `1`.
    pub fn flag(&mut self, path: &Path) -> Option<bool> {
        self.number::<u8>(path).map(|value| value != 0)
    }

    /// What `understand` makes of an attribute of an open directory; `None` where it is absent, or
    /// unreadable (noted), or not `expected` (noted).
    pub fn value_in<T>(
        &mut self,
        directory: &Directory,
        name: &str,
        expected: &str,
        understand: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let cause = match directory.read(name, &mut self.room) {
            Ok(None) => return None,
            Ok(Some(bytes)) => {
                // The kernel writes ASCII, which needs no look at each piece.
                let text = match std::str::from_utf8(bytes) {
                    Ok(text) => Cow::Borrowed(text),
                    Err(_) => String::from_utf8_lossy(bytes),
                };
                match understand(&text) {
                    Some(value) => return Some(value),
                    None => format!("{text:?} is not {expected}"),
                }
            }
            Err(error) => error.to_string(),
        };
        self.note(&directory.at(name), cause);
        None
    }

    /// An attribute's text.
    pub fn text_in(&mut self, directory: &Directory, name: &str) -> Option<String> {
        self.value_in(directory, name, "a text", |text| Some(text.to_owned()))
    }

    /// A number as sysfs writes it: decimal, or hexadecimal after `0x`.
    pub fn number_in<T: TryFrom<i64>>(&mut self, directory: &Directory, name: &str) -> Option<T> {
        let number = |text: &str| parse_number(text).and_then(|number| T::try_from(number).ok());
        self.value_in(directory, name, "a number of the expected range", number)
    }

    /// A flag, `0` or `1`.
    pub fn flag_in(&mut self, directory: &Directory, name: &str) -> Option<bool> {
        self.number_in::<u8>(directory, name).map(|value| value != 0)
    }
}

fn parse_number(text: &str) -> Option<i64> {
    match text.strip_prefix("0x") {
        Some(digits) => i64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

/// A number in hexadecimal after `0x`, as the kernel writes addresses: digits only.
pub(crate) fn hexadecimal(text: &str) -> Option<u64> {
    let digits = text.strip_prefix("0x")?;
    let all_digits = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    all_digits.then(|| u64::from_str_radix(digits, 16).ok()).flatten()
}
