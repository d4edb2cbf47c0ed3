//! One file of sysfs or procfs: read with a bound, written with one call, and an error that says
//! which file, what was tried, what the kernel answered and what to do about it.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::root::HostRoot;
use crate::simulated::Kernel;

/// The kernel hands out at most a page per attribute.
pub(crate) const ATTRIBUTE_BYTES: u64 = 4096;
/// Bound for the tables of procfs (mounts, routes): a full routing table fits.
const TABLE_BYTES: u64 = 64 << 20;

/// What was tried on an attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Access {
    /// Reading it.
    Read,
    /// Writing this value, shown without its newline.
    Write(String),
}

impl std::fmt::Display for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Access::Read => f.write_str("cannot read"),
            Access::Write(value) if value.is_empty() => f.write_str("cannot clear"),
            Access::Write(value) => write!(f, "cannot write {value:?} to"),
        }
    }
}

/// A read or write that failed.
#[derive(Debug, thiserror::Error)]
#[error("{access} {path}: {source}", path = path.display())]
pub struct AttributeError {
    /// The file.
    pub path: PathBuf,
    /// What was tried.
    pub access: Access,
    /// What the kernel answered.
    pub source: io::Error,
}

impl AttributeError {
    /// What a person can do about it, where the errno alone tells.
    pub fn remedy(&self) -> Option<&'static str> {
        match self.source.kind() {
            ErrorKind::PermissionDenied => Some("Run assign as root."),
            ErrorKind::ReadOnlyFilesystem => {
                Some("/sys is mounted read-only, as in a container: run assign on the host.")
            }
            _ => None,
        }
    }
}

/// An attribute's value without its last newline; `None` where there is no such file, where what it is
/// of went between opening and reading it (ENODEV) or, as the kernel does for some attributes of an
/// interface that is down, where it has no value now (EINVAL).
pub fn read(path: &Path) -> Result<Option<String>, AttributeError> {
    match read_bounded(path, ATTRIBUTE_BYTES) {
        Ok(text) => Ok(Some(text.trim_end_matches(['\n', '\0']).to_owned())),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::InvalidInput) => {
            Ok(None)
        }
        Err(error) if error.kind() == ErrorKind::NotADirectory => Ok(None),
        Err(error) if error.raw_os_error() == Some(Errno::NODEV.raw_os_error()) => Ok(None),
        Err(source) => Err(AttributeError { path: path.into(), access: Access::Read, source }),
    }
}

/// A whole table of procfs, empty where there is none (a kernel without IPv6, say).
pub fn read_table(path: &Path) -> Result<String, AttributeError> {
    match read_bounded(path, TABLE_BYTES) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(String::new()),
        Err(source) => Err(AttributeError { path: path.into(), access: Access::Read, source }),
        Ok(text) => Ok(text),
    }
}

/// The first bytes of a table whose beginning is enough, cut after its last whole line: the kernel
/// makes such a table as it is read, so that the rest costs nothing. Empty where there is none.
pub fn read_head(path: &Path, bytes: u64) -> Result<String, AttributeError> {
    let read = || -> io::Result<Vec<u8>> {
        let mut head = Vec::new();
        open(path)?.take(bytes).read_to_end(&mut head)?;
        Ok(head)
    };
    match read() {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(String::new()),
        Err(source) => Err(AttributeError { path: path.into(), access: Access::Read, source }),
        Ok(mut head) => {
            if head.len() as u64 == bytes {
                let whole = head.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
                head.truncate(whole);
            }
            Ok(String::from_utf8_lossy(&head).into_owned())
        }
    }
}

/// Opens a file to read it, without waiting: a tree that somebody sent may have a pipe there that
/// nobody writes to.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    let at_once = OFlags::NONBLOCK.bits().cast_signed();
    OpenOptions::new().read(true).custom_flags(at_once).open(path)
}

/// Longer than `limit` is an error rather than a cut-off value; what is not UTF-8 is replaced.
fn read_bounded(path: &Path, limit: u64) -> io::Result<String> {
    let mut bytes = Vec::new();
    open(path)?.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::other(format!("longer than {limit} bytes")));
    }
    Ok(match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
    })
}

/// Writes `value` in one call, as the kernel wants it. The file must be there, and below `root`.
pub fn write(root: &HostRoot, path: &Path, value: &str) -> Result<(), AttributeError> {
    let attempt = || {
        // A test's tree may behave like a kernel; one that somebody recorded is files and no more.
        if let Some(kernel) = Kernel::of(root)? {
            kernel.write(root, path, value)?;
            return Ok(value.len());
        }
        #[cfg(any(test, feature = "recorded"))]
        if let Some(kept) = crate::recorded::kernel::written(root, path, value)? {
            root.open_to_write(path)?.write_all(kept.as_bytes())?;
            return Ok(value.len());
        }
        root.open_to_write(path)?.write(value.as_bytes())
    };
    let source = match attempt() {
        Ok(written) if written == value.len() => return Ok(()),
        Ok(written) => io::Error::other(format!("the kernel took {written} bytes only")),
        Err(source) => source,
    };
    let shown = value.trim_end().to_owned();
    Err(AttributeError { path: path.into(), access: Access::Write(shown), source })
}

/// The last component of what a link points to, such as the name of a device's driver; `None`
/// where there is no link.
pub fn link_name(path: &Path) -> Result<Option<String>, AttributeError> {
    Ok(link_target(path)?
        .and_then(|target| target.file_name().map(|name| name.to_string_lossy().into_owned())))
}

/// What a link points to, as written in it; `None` where there is no link.
pub fn link_target(path: &Path) -> Result<Option<PathBuf>, AttributeError> {
    match std::fs::read_link(path) {
        Ok(target) => Ok(Some(target)),
        // InvalidInput: there is something, but no link.
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::InvalidInput
            ) =>
        {
            Ok(None)
        }
        Err(source) => Err(AttributeError { path: path.into(), access: Access::Read, source }),
    }
}

/// Names in a directory, sorted; none where there is no such directory.
pub fn entries(path: &Path) -> Result<Vec<String>, AttributeError> {
    let failed = |source| AttributeError { path: path.into(), access: Access::Read, source };
    let directory = match std::fs::read_dir(path) {
        Ok(directory) => directory,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        Err(source) => return Err(failed(source)),
    };
    let mut names = Vec::new();
    for entry in directory {
        // Names the kernel makes are ASCII; another one cannot be one of ours.
        if let Ok(name) = entry.map_err(failed)?.file_name().into_string() {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_is_not_an_error_and_garbage_is_bounded() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("value");
        assert!(matches!(read(&path), Ok(None)));
        std::fs::write(&path, b"\xff\xfe\n").expect("written");
        assert_eq!(read(&path).ok().flatten().as_deref(), Some("\u{fffd}\u{fffd}"));
        std::fs::write(&path, vec![b'x'; 5000]).expect("written");
        let error = read(&path).expect_err("too long");
        assert!(error.to_string().contains("longer than 4096 bytes"), "{error}");
    }

    #[test]
    fn a_write_never_creates_a_file_and_its_error_shows_the_value() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("sriov_numvfs");
        for root in [HostRoot::live(), HostRoot::at(directory.path())] {
            let error = write(&root, &path, "4\n").expect_err("no such attribute");
            assert!(error.to_string().starts_with("cannot write \"4\" to "), "{error}");
            assert!(!path.exists());
        }
    }

    #[test]
    fn a_write_to_a_recorded_tree_stays_within_it() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let (tree, outside) = (directory.path().join("tree"), directory.path().join("outside"));
        std::fs::create_dir_all(tree.join("sys/real")).expect("directories");
        for path in [&outside, &tree.join("sys/real/value")] {
            std::fs::write(path, "before").expect("a file");
        }
        std::os::unix::fs::symlink("real", tree.join("sys/inside")).expect("a link");
        std::os::unix::fs::symlink("../../outside", tree.join("sys/up")).expect("a link");
        std::os::unix::fs::symlink(&outside, tree.join("sys/absolute")).expect("a link");
        let root = HostRoot::at(&tree);
        write(&root, &tree.join("sys/inside/value"), "after").expect("within the tree");
        for path in [tree.join("sys/up"), tree.join("sys/absolute"), outside.clone()] {
            let error = write(&root, &path, "after").expect_err("out of the tree");
            assert!(error.to_string().contains("leads out of the recorded tree"), "{error}");
        }
        assert_eq!(std::fs::read_to_string(outside).expect("the file"), "before");
    }
}
