//! One directory of sysfs, held open while its attributes are read: the way to it is walked once,
//! and what is read belongs to one device, whatever takes its place meanwhile.

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access as Permission, AtFlags, CWD, Mode, OFlags, RawDir, SeekFrom};
use rustix::io::Errno;

use crate::attribute::{ATTRIBUTE_BYTES, Access, AttributeError};

/// Room for an attribute, and one byte more to see that it is too long.
pub type Room = [u8; ATTRIBUTE_BYTES as usize + 1];

/// An open directory.
#[derive(Debug)]
pub struct Directory {
    descriptor: OwnedFd,
    path: PathBuf,
}

impl Directory {
    /// Opens it; `None` where there is none.
    ///
    /// # Errors
    /// It is there and cannot be opened.
    pub fn open(path: &Path) -> Result<Option<Directory>, AttributeError> {
        opened(rustix::fs::openat(CWD, path, directory(), Mode::empty()), path)
    }

    /// Opens one below; `None` where there is none, or the link to it leads nowhere.
    ///
    /// # Errors
    /// It is there and cannot be opened.
    pub fn below(&self, name: &str) -> Result<Option<Directory>, AttributeError> {
        let found = rustix::fs::openat(&self.descriptor, name, directory(), Mode::empty());
        opened(found, &self.path.join(name))
    }

    /// Where a file of it is.
    pub fn at(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Whether it has this file now.
    pub fn has(&self, name: &str) -> bool {
        rustix::fs::accessat(&self.descriptor, name, Permission::EXISTS, AtFlags::empty()).is_ok()
    }

    /// Opens a file of it.
    ///
    /// # Errors
    /// There is none, or it cannot be opened.
    pub fn file(&self, name: &str) -> io::Result<File> {
        Ok(File::from(rustix::fs::openat(&self.descriptor, name, file(), Mode::empty())?))
    }

    /// An attribute's bytes without its last newline; `None` as in
    /// [`attribute::read`](crate::attribute::read).
    ///
    /// # Errors
    /// It is there and cannot be read, or it is longer than an attribute can be.
    pub fn read<'a>(
        &self,
        name: &str,
        room: &'a mut Room,
    ) -> Result<Option<&'a [u8]>, AttributeError> {
        let mut read = || -> Result<usize, Errno> {
            let file = rustix::fs::openat(&self.descriptor, name, file(), Mode::empty())?;
            // One read gives a whole attribute, and a whole file of a recorded tree.
            loop {
                match rustix::io::read(&file, &mut room[..]) {
                    Err(Errno::INTR) => {}
                    result => return result,
                }
            }
        };
        let failed =
            |source| Err(AttributeError { path: self.at(name), access: Access::Read, source });
        match read() {
            Ok(length) if length == room.len() => {
                failed(io::Error::other(format!("longer than {ATTRIBUTE_BYTES} bytes")))
            }
            Ok(length) => Ok(room.get(..length).map(trimmed)),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::INVAL | Errno::NODEV) => Ok(None),
            Err(error) => failed(error.into()),
        }
    }

    /// The last component of what a link points to; `None` where there is no link.
    ///
    /// # Errors
    /// It is there and cannot be read.
    pub fn link_name(&self, name: &str) -> Result<Option<String>, AttributeError> {
        Ok(self
            .link_target(name)?
            .and_then(|target| target.file_name().map(|name| name.to_string_lossy().into_owned())))
    }

    /// What a link points to, as written in it; `None` where there is no link.
    ///
    /// # Errors
    /// It is there and cannot be read.
    pub fn link_target(&self, name: &str) -> Result<Option<PathBuf>, AttributeError> {
        let mut room = [const { MaybeUninit::uninit() }; 4096];
        match rustix::fs::readlinkat_raw(&self.descriptor, name, &mut room) {
            Ok((target, _)) => Ok(Some(PathBuf::from(std::ffi::OsStr::from_bytes(target)))),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::INVAL) => Ok(None),
            Err(error) => Err(AttributeError {
                path: self.at(name),
                access: Access::Read,
                source: error.into(),
            }),
        }
    }

    /// Its names, in no order.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn names(&self) -> Result<Vec<String>, AttributeError> {
        let failed = |error: Errno| AttributeError {
            path: self.path.clone(),
            access: Access::Read,
            source: error.into(),
        };
        // It may have been listed before.
        rustix::fs::seek(&self.descriptor, SeekFrom::Start(0)).map_err(failed)?;
        let mut room = [const { MaybeUninit::uninit() }; 8192];
        let mut entries = RawDir::new(&self.descriptor, &mut room);
        let mut names = Vec::new();
        while let Some(entry) = entries.next() {
            // Names the kernel makes are ASCII; another one cannot be one of ours.
            match entry.map_err(failed)?.file_name().to_str() {
                Ok("." | "..") | Err(_) => {}
                Ok(name) => names.push(name.to_owned()),
            }
        }
        Ok(names)
    }
}

/// Neither a terminal nor a pipe that somebody put into a recorded tree holds up the reader.
fn file() -> OFlags {
    OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY
}

fn directory() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC
}

fn opened(
    result: Result<OwnedFd, Errno>,
    path: &Path,
) -> Result<Option<Directory>, AttributeError> {
    match result {
        Ok(descriptor) => Ok(Some(Directory { descriptor, path: path.to_owned() })),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::NODEV) => Ok(None),
        Err(error) => {
            Err(AttributeError { path: path.into(), access: Access::Read, source: error.into() })
        }
    }
}

fn trimmed(mut bytes: &[u8]) -> &[u8] {
    while let Some(rest) = bytes.strip_suffix(b"\n").or_else(|| bytes.strip_suffix(b"\0")) {
        bytes = rest;
    }
    bytes
}
