//! The kernel's log, record by record (Linux Documentation/ABI/testing/dev-kmsg).
//!
//! Whoever may write to it can add records, and a container often may. Those never have the kernel's
//! facility, and are not believed.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;

use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::root::HostRoot;

/// As long as a record can be (include/linux/printk.h, `CONSOLE_EXT_LOG_MAX`): a shorter buffer would
/// be refused.
const LONGEST: usize = 8 << 10;

/// The log, open at its end.
#[derive(Debug)]
pub struct KernelLog {
    file: File,
    buffer: Vec<u8>,
}

/// What comes next in the log.
#[derive(Debug, PartialEq, Eq)]
pub enum Next<'a> {
    /// A message of the kernel.
    Message(&'a str),
    /// A record that is of no interest.
    Other,
    /// Records were written over before they were read; those that are left come next.
    Lost,
    /// There is no more.
    Nothing,
}

impl KernelLog {
    /// Opens it at its end.
    ///
    /// # Errors
    /// There is none, or this user may not read it.
    pub fn open(root: &HostRoot) -> io::Result<KernelLog> {
        let nonblock = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
        let path = root.dev("kmsg");
        let mut file = OpenOptions::new().read(true).custom_flags(nonblock).open(path)?;
        file.seek(SeekFrom::End(0))?;
        Ok(KernelLog { file, buffer: vec![0; LONGEST] })
    }

    /// The next record, without waiting.
    ///
    /// # Errors
    /// The kernel's.
    pub fn next(&mut self) -> io::Result<Next<'_>> {
        let length = match self.file.read(&mut self.buffer) {
            Ok(0) => return Ok(Next::Nothing),
            Ok(length) => length,
            Err(error) => {
                return match Errno::from_io_error(&error) {
                    Some(Errno::AGAIN) => Ok(Next::Nothing),
                    Some(Errno::PIPE) => Ok(Next::Lost),
                    Some(Errno::INTR | Errno::INVAL) => Ok(Next::Other),
                    _ => Err(error),
                };
            }
        };
        let record = self.buffer.get(..length).unwrap_or_default();
        Ok(message(record).map_or(Next::Other, Next::Message))
    }
}

impl AsFd for KernelLog {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// The message of a record that the kernel itself wrote: `6,1234,5678,-;MESSAGE`, and on further lines
/// which device it is about.
fn message(record: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(record).ok()?;
    let (head, rest) = text.split_once(';')?;
    let priority: u32 = head.split(',').next()?.parse().ok()?;
    // Facility and level, as in syslog: three bits of level, and the kernel is facility 0.
    (priority < 8).then(|| rest.split('\n').next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_kernel_wrote_is_a_message() {
        let record =
            b"3,812,4567890,-;DMAR: text; more\n SUBSYSTEM=pci\n DEVICE=+pci:0000:00:1c.0\n";
        assert_eq!(message(record), Some("DMAR: text; more"));
        // As anybody's who writes to the log: facility 1 or more.
        assert_eq!(message(b"12,813,4567891,-;DMAR: text\n"), None);
        for wrong in [&b""[..], b"3", b";x", b"x,1,2,-;y", b"-1,1,2,-;y", b"3,1,2,-;\xff\n"] {
            assert_eq!(message(wrong), None, "{wrong:?}");
        }
        assert_eq!(message(b"3;"), Some(""));
    }

    #[test]
    fn a_file_in_its_place_is_read_to_its_end_and_no_further() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(folder.path().join("dev")).expect("a folder");
        let root = HostRoot::at(folder.path());
        assert!(KernelLog::open(&root).is_err());
        std::fs::write(root.dev("kmsg"), "3,1,2,-;before\n").expect("a file");
        let mut log = KernelLog::open(&root).expect("a log");
        assert_eq!(log.next().expect("nothing"), Next::Nothing);
    }
}
