//! Disks with filesystems, whole and damaged.

mod build;

use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::fs::FileExt;

use super::*;
use crate::qcow2::simulated::{self, Ram, Shape};
use crate::spec::DiskFormat;
use build::{disk, ext, fat, file, gpt, mbr, part};

/// What was read: the entry, the kernel and the initial RAM disk.
type Booted = Result<(FoundEntry, String, Vec<u8>), Unbootable>;

fn boot(contents: &[u8], wanted: Option<&str>) -> Booted {
    boot_from(&disk(contents), wanted)
}

fn boot_from(disk: &Disk, wanted: Option<&str>) -> Booted {
    let file = || tempfile::tempfile().expect("a file");
    let (mut kernel, mut initrd) = (file(), file());
    let found = read(disk, wanted, &mut kernel, &mut initrd)?;
    let bytes = |mut file: File| {
        let mut bytes = Vec::new();
        io::Seek::rewind(&mut file).expect("a file");
        file.read_to_end(&mut bytes).expect("a file");
        bytes
    };
    let kernel = String::from_utf8_lossy(&bytes(kernel)).into_owned();
    Ok((found, kernel, bytes(initrd)))
}

fn cause(why: Unbootable) -> String {
    match why {
        Unbootable::BadEntry { cause, .. } | Unbootable::Unreadable { cause } => cause,
        Unbootable::NoFilesystem { found } | Unbootable::NoEntries { found } => found.join(", "),
        Unbootable::NoSuchEntry { entries } => entries.join(", "),
    }
}

#[test]
fn debians_default_is_found_wherever_its_filesystem_is() {
    let ext = ext();
    for (how, contents) in
        [("whole", ext.clone()), ("GPT", gpt(&[(1, &ext)])), ("MBR", mbr(&[(0x83, &ext)]))]
    {
        let (found, kernel, initrd) = boot(&contents, None).expect(how);
        assert_eq!(found.title, "Debian GNU/Linux", "{how}");
        assert_eq!(found.cmdline, "root=PARTUUID=1 ro console=ttyS0", "{how}");
        assert_eq!(kernel, "the kernel", "{how}");
        assert!(found.has_initrd);
        // The second begins where the kernel looks for it.
        assert_eq!(initrd, b"first\0\0\0second", "{how}");
    }
}

#[test]
fn an_entry_that_cannot_be_booted_says_why() {
    let ext = ext();
    for (wanted, expected) in [
        ("Gone", "/boot/gone of the whole disk: ext4: "),
        ("Loop", "too many levels of symbolic links"),
        ("Folder", "directory"),
        ("Empty", "it is empty"),
        ("Windows", "no Linux kernel (chainloader)"),
    ] {
        let why = cause(boot(&ext, Some(wanted)).expect_err(wanted));
        assert!(why.contains(expected), "{wanted}: {why}");
    }
    let names = cause(boot(&ext, Some("no such")).expect_err("no entry"));
    assert_eq!(names, "gnulinux-simple (Debian GNU/Linux), Gone, Loop, Folder, Empty, Windows");
    assert!(boot(&ext, Some("gnulinux-simple")).is_ok());
}

#[test]
fn entries_of_the_specification_are_found_on_fat() {
    for bits in [12, 16, 32] {
        let fat = fat(
            bits,
            &[
                ("loader/loader.conf", b"timeout 3\ndefault arch-*\n"),
                (
                    "loader/entries/arch-6.1-with-a-long-name.conf",
                    b"title Arch\nlinux /vmlinuz-linux\n\
              initrd /ucode.img\ninitrd /initramfs-linux.img\noptions root=LABEL=a$b rw\n",
                ),
                ("loader/entries/other.conf", b"title Other\nsort-key a\nlinux /VMLINUZ-LINUX\n"),
                ("vmlinuz-linux", &b"k".repeat(5000)),
                ("ucode.img", b"microcode"),
                ("initramfs-linux.img", &b"i".repeat(1500)),
            ],
        );
        let disk = gpt(&[(1, &fat)]);
        let (found, kernel, initrd) = boot(&disk, None).expect("an entry");
        assert_eq!(
            (found.title.as_str(), kernel.len(), initrd.len()),
            ("Arch", 5000, 1512),
            "{bits}"
        );
        // There is no GRUB to have variables.
        assert_eq!(found.cmdline, "root=LABEL=a$b rw");
        let (found, ..) = boot(&disk, Some("other.conf")).expect("an entry");
        assert_eq!((found.title.as_str(), found.has_initrd), ("Other", false));
    }
}

#[test]
fn a_script_on_an_efi_system_partition_leads_to_the_one_that_counts() {
    let stub = b"search.fs_uuid 6e5bd3a0-0f4f-4d39-8d30-111111111111 root hd0,gpt1\n\
                 set prefix=($root)'/etc'\nset default=1\nconfigfile $prefix/no\n\
                 configfile ($root)/boot/grub/grub.cfg\n";
    // Without the usual place of the script, the stub is all that there is.
    let fat = fat(16, &[("EFI/debian/grub.cfg", stub)]);
    let ext = ext();
    let volumes = Volumes::find(&disk(&gpt(&[(1, &fat), (2, &ext)])).whole()).expect("filesystems");
    assert_eq!(
        volumes.all.iter().map(volume::Volume::name).collect::<Vec<_>>(),
        ["partition 1: FAT", "partition 2: ext4"]
    );
    let mut menu = Menu::find(&volumes).expect("a menu").expect("a menu");
    assert_eq!(menu.items[menu.default].title, "Debian GNU/Linux");
    let loads = menu.load(menu.default).expect("an entry");
    assert_eq!(loads.kernel.expect("a kernel").device, 1);
}

#[test]
fn what_holds_no_boot_loader_is_told_as_what_it_is() {
    let with = |at: usize, bytes: &[u8]| {
        let mut contents = vec![0; 1 << 20];
        contents[at..at + bytes.len()].copy_from_slice(bytes);
        contents
    };
    for (contents, expected) in [
        (with(0, b"XFSB"), "the whole disk: XFS"),
        (gpt(&[(3, &with(0x1_0040, b"_BHRfS_M"))]), "partition 3: btrfs"),
        (mbr(&[(0x83, &with(0, b"LUKS\xba\xbe\0\x02"))]), "partition 1: encrypted (LUKS)"),
        (gpt(&[(2, &fat(12, &[("a", b"b")]))]), "partition 2: FAT"),
        (with(0, b""), ""),
        (Vec::new(), ""),
    ] {
        assert_eq!(cause(boot(&contents, None).expect_err("nothing")), expected);
    }
}

#[test]
fn a_damaged_partition_table_is_told() {
    let whole = gpt(&[(1, &ext())]);
    for (at, expected) in
        [(512 + 20, "checksum of its header"), (512 + 13, "length"), (1024 + 40, "entries")]
    {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x40;
        let why = cause(boot(&damaged, None).expect_err("damaged"));
        assert!(why.contains("(GPT) is damaged") && why.contains(expected), "{why}");
    }
    // A partition that is not there is left out.
    let cut = boot(&whole[..1 << 20], None).expect_err("no filesystem");
    assert!(matches!(cut, Unbootable::NoFilesystem { .. }), "{cut:?}");
}

#[test]
fn a_disk_in_an_image_is_read_as_well() {
    let contents = ext();
    let shape = Shape { version: 3, cluster_bits: 12, count_order: 4, size: contents.len() as u64 };
    let image = Ram::new(shape.make(&BTreeMap::new(), false), 64 << 20);
    let disk = simulated::Disk::open(&image, false).expect("an empty disk");
    disk.write(0, &contents).expect("room");
    disk.qcow2.flush().expect("room");
    let open = |format| {
        let bytes = image.bytes();
        Disk::open(file(&bytes), bytes.len() as u64, format).expect("a disk")
    };
    let plain = boot(&contents, None).expect("an entry").0;
    assert_eq!(boot_from(&open(DiskFormat::Qcow2), None).expect("an entry").0, plain);
    assert!(boot_from(&open(DiskFormat::Raw), None).is_err(), "nobody looks what it is");
}

/// Whatever is on a disk, there is an answer. The bytes that are changed are those that are not zero.
#[test]
fn damage_never_does_more_than_harm_the_result() {
    for contents in
        [ext(), fat(12, &[("loader/entries/a-long-name.conf", b"linux /k\n"), ("k", b"k")])]
    {
        let places: Vec<usize> = (0..contents.len()).filter(|at| contents[*at] != 0).collect();
        let file = file(&contents);
        let shared = file.try_clone().expect("a file");
        let size = contents.len() as u64;
        let disk = Disk::open(shared, size, DiskFormat::Raw).expect("a raw disk is as it is");
        // Every so many, for time.
        let step = places.len() / 400 + 1;
        for at in places.into_iter().step_by(step) {
            for value in [0, 1, 0x7f, 0xff, contents[at]] {
                file.write_all_at(&[value], at as u64).expect("room");
                let _ = boot_from(&disk, None);
            }
        }
        assert!(boot_from(&disk, None).is_ok(), "whole again");
    }
}

#[test]
fn parts_do_not_leave_their_disk() {
    let part = part(&[7; 1000]);
    assert!(part.part(999, 1).is_some() && part.part(999, 2).is_none());
    assert!(part.part(0, 0).is_none() && part.part(u64::MAX, 2).is_none());
    let inner = part.part(500, 100).expect("within");
    assert!(inner.read(99, &mut [0; 2]).is_err() && inner.read(u64::MAX, &mut [0; 2]).is_err());
    assert!(inner.part(50, 51).is_none() && inner.has(98, &[7, 7]));
}
