//! The files and block devices that are a guest's disks, opened for it alone.

#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};

use policies::{DiskFormat, Guest, GuestDisk};
use vmm::qcow2::{HEADER, Header, MAGIC};

use super::error;
use crate::failure::Failure;

/// Least size of a disk in bytes: a sector.
const LEAST: u64 = 512;

const QCOW2: &str = "a qcow2 image";

/// What a file begins with that is no disk's contents as they are: where, which bytes, and what has
/// them.
const OTHERS: &[(usize, &[u8], &str)] = &[
    (0, &MAGIC, QCOW2),
    (0, b"KDMV", "a VMDK image"),
    (0, b"# Disk DescriptorFile", "a VMDK image's description"),
    (0, b"vhdxfile", "a VHDX image"),
    (0, b"conectix", "a VHD image"),
    (0x40, b"\x7f\x10\xda\xbe", "a VDI image"),
    (0, b"\x1f\x8b\x08", "a gzip file"),
    (0, b"\xfd7zXZ\0", "an xz file"),
    (0, b"\x28\xb5\x2f\xfd", "a zstd file"),
];

/// Why a disk cannot be used, and what to do about it.
#[derive(Debug)]
struct Unusable {
    cause: String,
    remedy: String,
}

/// Opens the disks of `guest`, in their order. As long as one is open, no other guest may write to it,
/// nor does QEMU.
///
/// # Errors
/// Names the guest, the disk and its path, with cause and remedy.
pub fn open(guest: &Guest) -> Result<Vec<OwnedFd>, Failure> {
    let open = |disk: &GuestDisk| {
        open_disk(disk).map(OwnedFd::from).map_err(|Unusable { cause, remedy }| {
            error::disk(guest, &disk.name, &disk.path, &cause).with_remedy(remedy)
        })
    };
    guest.disks.iter().map(open).collect()
}

fn open_disk(disk: &GuestDisk) -> Result<File, Unusable> {
    let unusable = |cause: &str, remedy: String| Unusable { cause: cause.to_owned(), remedy };
    let path = disk.path.display();
    // Looked at before it is opened: opening a pipe would wait for its other end.
    let found = std::fs::metadata(&disk.path).map_err(|error| not_opened(disk, &error))?;
    let is_block = found.file_type().is_block_device();
    if !is_block && !found.is_file() {
        let remedy = "Name a file or a block device.".to_owned();
        return Err(unusable("it is neither a file nor a block device", remedy));
    }
    // A block device that the host has mounted, or that a RAID or volume group is on, is refused by the
    // kernel.
    let flags = if is_block { libc::O_EXCL } else { 0 };
    let file = OpenOptions::new()
        .read(true)
        .write(!disk.read_only)
        .custom_flags(flags)
        .open(&disk.path)
        .map_err(|error| not_opened(disk, &error))?;
    let size = rustix::fs::seek(&file, rustix::fs::SeekFrom::End(0))
        .map_err(|error| not_opened(disk, &error.into()))?;
    if size < LEAST {
        let remedy = format!("`truncate -s 10G {path}` makes it an empty disk of 10 GiB.");
        return Err(unusable(&format!("it has {size} bytes, less than a sector"), remedy));
    }
    if disk.format.is_none()
        && let Some(what) = other_format(&file).map_err(|error| not_opened(disk, &error))?
    {
        // What is read in a file that a guest writes to is said by people, never by the file.
        let remedy = match what {
            QCOW2 => "Write `format: qcow2` beside the path if it is one; or, where a guest's raw disk is \
                      meant to begin so, `format: raw`."
                .to_owned(),
            _ => format!(
                "Make a raw image of it, such as by `qemu-img convert -O raw {path} {path}.raw` or by \
                 unpacking it; or, where its contents are meant to begin so, write `format: raw` beside \
                 the path."
            ),
        };
        return Err(unusable(&format!("it begins like {what}"), remedy));
    }
    if disk.format == Some(DiskFormat::Qcow2) {
        let mut header = [0; HEADER];
        let header = &mut header[..size.min(HEADER as u64) as usize];
        file.read_exact_at(header, 0).map_err(|error| not_opened(disk, &error))?;
        Header::parse(header, !disk.read_only)
            .map_err(|why| unusable(&why.to_string(), why.remedy(&path.to_string())))?;
    }
    lock(&file, disk.read_only).map_err(|error| match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::PermissionDenied => {
            let (others, remedy) = match disk.read_only {
                true => ("writes to it", "Stop that one first."),
                false => (
                    "uses it",
                    "Stop that one first, or give it a copy; several guests can have it together only \
                     where all of them have it `readOnly: true`.",
                ),
            };
            unusable(&format!("another guest or program {others}"), remedy.to_owned())
        }
        _ => unusable(
            &format!("it cannot be locked: {error}"),
            "Put it on a file system that has locks (fcntl, F_OFD_SETLK): without, two guests could write \
             to it and destroy each other's data."
                .to_owned(),
        ),
    })?;
    Ok(file)
}

fn not_opened(disk: &GuestDisk, error: &io::Error) -> Unusable {
    let path = disk.path.display();
    let (cause, remedy) = match (error.kind(), error.raw_os_error()) {
        (ErrorKind::NotFound, _) => (
            "there is no such file".to_owned(),
            format!(
                "Correct `path` of the disk; a relative one starts from the document's folder. `truncate \
                 -s 10G {path}` makes an empty disk."
            ),
        ),
        (_, Some(libc::EBUSY)) => (
            "the host uses it: it is mounted, or belongs to a RAID, a volume group or the swap space"
                .to_owned(),
            format!("`lsblk {path}` shows by what. Free it first, or name another device."),
        ),
        (ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem, _) if !disk.read_only => (
            error.to_string(),
            "Write `readOnly: true` beside the path, or make it writable.".to_owned(),
        ),
        _ => (error.to_string(), "Make it readable.".to_owned()),
    };
    Unusable { cause, remedy }
}

/// What the file begins like, if that is no disk.
fn other_format(file: &File) -> io::Result<Option<&'static str>> {
    let mut start = [0; LEAST as usize];
    file.read_exact_at(&mut start, 0)?;
    let has = |(at, bytes, _): &&(usize, &[u8], &str)| start[*at..].starts_with(bytes);
    Ok(OTHERS.iter().find(has).map(|(_, _, what)| *what))
}

/// Bytes of an image that QEMU locks, none of which says anything about the image's contents there:
/// what somebody does with it, and, 100 later, what nobody else may do (block/file-posix.c,
/// `RAW_LOCK_PERM_BASE` and `RAW_LOCK_SHARED_BASE`). In each, byte 1 is writing.
const QEMU: Bytes = Bytes { first: 100, count: 200 };
const READS: Bytes = Bytes { first: 100, count: 1 };
const WRITES: Bytes = Bytes { first: 101, count: 1 };
const NOBODY_WRITES: Bytes = Bytes { first: 201, count: 1 };

#[derive(Clone, Copy)]
struct Bytes {
    first: i64,
    count: i64,
}

/// Locks the file as long as it is open, here or in a process that inherits it: for us alone, or to be
/// read by several. The same locks keep our own guests apart, and QEMU's from ours.
///
/// # Errors
/// `EAGAIN` or `EACCES` where somebody else has it, and the file system's.
fn lock(file: &File, read_only: bool) -> io::Result<()> {
    if !read_only {
        return set(file, libc::F_OFD_SETLK, libc::F_WRLCK, QEMU).map(drop);
    }
    set(file, libc::F_OFD_SETLK, libc::F_RDLCK, READS)?;
    set(file, libc::F_OFD_SETLK, libc::F_RDLCK, NOBODY_WRITES)?;
    // QEMU's guests share these locks, and look afterwards what others do.
    let found = set(file, libc::F_OFD_GETLK, libc::F_WRLCK, WRITES)?;
    if found == libc::F_UNLCK { Ok(()) } else { Err(ErrorKind::WouldBlock.into()) }
}

/// One of the calls for locks of open files (fcntl(2)); the kind of lock that is there afterwards.
fn set(file: &File, call: i32, kind: i32, bytes: Bytes) -> io::Result<i32> {
    let mut lock = libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: bytes.first,
        l_len: bytes.count,
        l_pid: 0,
    };
    // SAFETY: the structure is whole, and lives until the call returns; it is all that the call reads or
    // writes.
    let done = unsafe { libc::fcntl(file.as_raw_fd(), call, &raw mut lock) };
    if done == 0 { Ok(lock.l_type.into()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    struct Folder(tempfile::TempDir);

    impl Folder {
        fn new() -> Folder {
            Folder(tempfile::tempdir().expect("a folder"))
        }

        fn image(&self, contents: &[u8]) -> GuestDisk {
            let path = self.0.path().join("root.raw");
            std::fs::write(&path, contents).expect("a file");
            disk(&path)
        }
    }

    fn disk(path: &Path) -> GuestDisk {
        GuestDisk {
            name: "root".to_owned(),
            path: path.to_owned(),
            read_only: false,
            format: None,
            serial: "root".to_owned(),
            queues: None,
        }
    }

    fn refusal(disk: &GuestDisk) -> String {
        let Unusable { cause, remedy } = open_disk(disk).expect_err("it is refused");
        format!("{cause}. {remedy}")
    }

    #[test]
    fn what_is_no_disk_is_refused_with_its_remedy() {
        let folder = Folder::new();
        for (path, expected) in [
            ("/nonexistent/root.raw", "no such file. Correct `path`"),
            ("/dev", "neither a file nor a block device"),
            ("/dev/null", "neither a file nor a block device"),
        ] {
            let text = refusal(&disk(Path::new(path)));
            assert!(text.contains(expected), "{text}");
        }
        let text = refusal(&folder.image(&[0; 511]));
        assert!(
            text.contains("511 bytes, less than a sector") && text.contains("truncate"),
            "{text}"
        );
    }

    #[test]
    fn an_image_of_another_format_is_not_taken_for_a_disk_unless_that_is_said() {
        let folder = Folder::new();
        for (at, bytes, what) in OTHERS {
            let mut contents = vec![0; 1024];
            contents[*at..at + bytes.len()].copy_from_slice(bytes);
            let mut disk = folder.image(&contents);
            let text = refusal(&disk);
            assert!(text.contains(what) && text.contains("`format: raw`"), "{text}");
            assert_eq!(text.contains("`format: qcow2`"), *what == QCOW2, "{text}");
            disk.format = Some(policies::DiskFormat::Raw);
            assert!(open_disk(&disk).is_ok(), "{what}");
        }
    }

    #[test]
    fn a_qcow2_image_is_one_that_can_be_used() {
        let folder = Folder::new();
        let mut contents = vec![0; 1024];
        contents[..4].copy_from_slice(&MAGIC);
        for (version, backing, expected) in [
            (9, 0, "version 9; 2 and 3 are known here. `qemu-img convert"),
            (
                3,
                1,
                "has a backing file, and contents of other files are not read. `qemu-img rebase",
            ),
        ] {
            (contents[7], contents[15]) = (version, backing);
            contents[23] = 16;
            contents[102..104].copy_from_slice(&[0, 104]);
            let disk = GuestDisk { format: Some(DiskFormat::Qcow2), ..folder.image(&contents) };
            let text = refusal(&disk);
            assert!(text.contains(expected), "{text}");
        }
        let raw = GuestDisk { format: Some(DiskFormat::Qcow2), ..folder.image(&[0; 1024]) };
        assert!(refusal(&raw).contains("it is no qcow2 image. Leave `format` out"));
    }

    #[test]
    fn who_writes_has_it_alone_and_readers_share_it() {
        let folder = Folder::new();
        let writes = folder.image(&[0; 1024]);
        let reads = GuestDisk { read_only: true, ..writes.clone() };
        let open = |disk: &GuestDisk| open_disk(disk).expect("it is free");
        let writer = open(&writes);
        let copy = writer.try_clone().expect("a descriptor");
        drop(writer);
        assert!(refusal(&writes).contains("another guest or program uses it"));
        assert!(refusal(&reads).contains("another guest or program writes to it"));
        drop(copy);
        let (first, second) = (open(&reads), open(&reads));
        assert!(refusal(&writes).contains("uses it"));
        drop((first, second));
        open(&writes);
    }

    /// As QEMU does (block/file-posix.c): it shares all of its locks, and looks for others'.
    #[test]
    fn qemu_and_our_guests_keep_out_of_each_others_way() {
        let folder = Folder::new();
        let writes = folder.image(&[0; 1024]);
        let reads = GuestDisk { read_only: true, ..writes.clone() };
        let qemu = || OpenOptions::new().read(true).write(true).open(&writes.path).expect("a file");
        let locks = |bytes: &[i64]| {
            let file = qemu();
            for byte in bytes {
                let byte = Bytes { first: *byte, count: 1 };
                set(&file, libc::F_OFD_SETLK, libc::F_RDLCK, byte).expect("a lock");
            }
            file
        };
        // Its writer: reads, writes and resizes, and lets nobody write.
        let writer = locks(&[100, 101, 103, 201]);
        assert!(open_disk(&writes).is_err() && open_disk(&reads).is_err());
        drop(writer);
        let reader = locks(&[100, 201]);
        assert!(open_disk(&writes).is_err() && open_disk(&reads).is_ok());
        drop(reader);
        let held = |byte| {
            let byte = Bytes { first: byte, count: 1 };
            set(&qemu(), libc::F_OFD_GETLK, libc::F_WRLCK, byte).expect("an answer")
                != libc::F_UNLCK
        };
        let ours = open_disk(&writes).expect("it is free");
        assert!(held(100) && held(201) && held(200), "it finds that we write");
        drop(ours);
        let ours = open_disk(&reads).expect("it is free");
        assert!(held(201) && !held(200) && !held(101), "it finds that we let others read");
        drop(ours);
    }
}
