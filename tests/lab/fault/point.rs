//! Which system calls count.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use super::Scope;

/// `NVME_IOCTL_ADMIN_CMD`, and the opcode of Virtualization Management.
const ADMIN_CMD: u64 = 0xc048_4e41;
const VIRTUALIZATION: u8 = 0x1c;
/// uapi/linux/rtnetlink.h
const CHANGES: [u16; 3] = [16, 17, 19];
/// Enough to tell what a message is.
const HEAD: usize = 160;

/// A call as it is about to be made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call {
    pub thread: i32,
    pub number: u64,
    pub arguments: [u64; 3],
}

impl Call {
    /// What it does, where it counts.
    pub(super) fn counts(&self, scope: Scope) -> Option<String> {
        let number = i64::try_from(self.number).ok()?;
        match scope {
            Scope::Host => self.changes_a_host(number),
            Scope::State => self.writes_state(number),
        }
    }

    fn changes_a_host(&self, number: i64) -> Option<String> {
        let [descriptor, second, third] = self.arguments;
        match number {
            libc::SYS_write | libc::SYS_pwrite64 => {
                let path = self.path(descriptor)?;
                let of_kernel = path.starts_with("/sys/") || path.starts_with("/proc/sys/");
                of_kernel.then(|| format!("write {path}"))
            }
            libc::SYS_sendto => self.message(second, third),
            libc::SYS_ioctl if second & 0xffff_ffff == ADMIN_CMD => {
                let command = self.memory(third, 1)?;
                (command.first() == Some(&VIRTUALIZATION)).then(|| "command to a drive".to_owned())
            }
            _ => None,
        }
    }

    /// A message to the kernel, or to one that is simulated.
    fn message(&self, address: u64, length: u64) -> Option<String> {
        let length = usize::try_from(length).ok()?;
        let head = self.memory(address, length.min(HEAD))?;
        let is_change = |head: &[u8], length: usize| {
            let told =
                head.get(..4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_ne_bytes);
            let kind = head.get(4..6).and_then(|bytes| bytes.try_into().ok());
            told.and_then(|told| usize::try_from(told).ok()) == Some(length)
                && kind.is_some_and(|kind| CHANGES.contains(&u16::from_ne_bytes(kind)))
        };
        let (kind, rest) = head.split_first()?;
        let end = rest.iter().position(|byte| *byte == 0);
        let name = end.and_then(|end| std::str::from_utf8(rest.get(..end)?).ok());
        match (kind, name) {
            _ if is_change(&head, length) => Some("change over rtnetlink".to_owned()),
            (b'r', _) if is_change(rest, length - 1) => Some("change over rtnetlink".to_owned()),
            (b'w', Some(path)) if path.starts_with("sys/") || path.starts_with("proc/") => {
                Some(format!("write /{path}"))
            }
            (b'n', Some(name)) => {
                let opcode = rest.get(name.len() + 1)?;
                (*opcode == VIRTUALIZATION).then(|| format!("command to the drive {name}"))
            }
            _ => None,
        }
    }

    fn writes_state(&self, number: i64) -> Option<String> {
        let name = match number {
            libc::SYS_write | libc::SYS_pwrite64 | libc::SYS_writev | libc::SYS_pwritev => "write",
            libc::SYS_fsync | libc::SYS_fdatasync => "sync",
            libc::SYS_ftruncate => "set the length of",
            libc::SYS_rename => return Some("rename".to_owned()),
            _ => return None,
        };
        let path = self.path(self.arguments[0])?;
        path.contains("/state.redb").then(|| format!("{name} {path}"))
    }

    fn path(&self, descriptor: u64) -> Option<String> {
        let link = fs::read_link(format!("/proc/{}/fd/{descriptor}", self.thread)).ok()?;
        link.into_os_string().into_string().ok()
    }

    fn memory(&self, address: u64, length: usize) -> Option<Vec<u8>> {
        let memory = File::open(format!("/proc/{}/mem", self.thread)).ok()?;
        let mut bytes = vec![0; length];
        memory.read_exact_at(&mut bytes, address).ok()?;
        Some(bytes)
    }
}
