//! What a header may say.

use super::*;
use crate::qcow2::{HEADER, Header, Unusable};

fn of(change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut file = SMALL.make(&BTreeMap::new(), false);
    change(&mut file);
    file.truncate(HEADER);
    file
}

fn refusal(written: bool, change: impl FnOnce(&mut [u8])) -> String {
    match Header::parse(&of(change), written) {
        Ok(_) => "accepted".to_owned(),
        Err(why) => format!("{why}. {}", why.remedy("/disks/a")),
    }
}

#[test]
fn what_cannot_be_used_is_refused_with_a_remedy() {
    for (at, byte, cause, remedy) in [
        (0, 0, "it is no qcow2 image", "qemu-img info /disks/a"),
        (7, 4, "version 4", "qemu-img convert -O qcow2 /disks/a /disks/a.new"),
        (15, 8, "has a backing file", "qemu-img rebase -b \"\" /disks/a"),
        (35, 1, "encrypted", "--object secret"),
        (79, 1, "dirty bit", "qemu-img check -r all /disks/a"),
        (79, 2, "marked as corrupt", "qemu-img check -r all /disks/a"),
        (79, 4, "external data file", "qemu-img convert -O qcow2 /disks/a"),
        (79, 16, "extended L2 entries", "qemu-img convert -O qcow2 /disks/a"),
        (79, 32, "incompatible features 0x20", "qemu-img convert"),
        (79, 8, "compression is of type 0", "qemu-img check"),
        (23, 8, "2^8 bytes", "qemu-img check"),
        (23, 22, "2^22 bytes", "qemu-img check"),
        (26, 1, "too small for a disk of", "-o cluster_size=64k"),
        (24, 0x80, "bytes", "qemu-img check"),
        (38, 0xff, "accepted", ""),
        (39, 1, "L1 table has 1 entries; its disk needs 32", "qemu-img check"),
        (47, 1, "L1 table is at 0x601", "qemu-img check"),
        (55, 1, "refcount table is at 0x201", "qemu-img check"),
        (59, 0, "refcount table has 0 clusters", "qemu-img check"),
        (57, 1, "refcount table has 65537 clusters", "qemu-img check"),
        (99, 7, "2^7 bits", "qemu-img check"),
        (103, 96, "header has 96 bytes", "qemu-img check"),
    ] {
        let text = refusal(true, |file| file[at] = byte);
        assert!(text.contains(cause) && text.contains(remedy), "{at} {byte}: {text}");
    }
    assert!(refusal(true, |file| file[24..32].fill(0)).contains("disk has 0 bytes"));
    assert_eq!(
        Header::parse(&of(|_| {})[..100], true),
        Err(Unusable::Damaged("it ends within its header".into()))
    );
    assert_eq!(Header::parse(b"QFI", true), Err(Unusable::Other));
}

#[test]
fn what_only_harms_who_writes_may_be_read() {
    for bits in [1, 2, 3] {
        assert_eq!(refusal(false, |file| file[79] = bits), "accepted");
    }
}

#[test]
fn zstd_is_said_twice() {
    let zstd = |file: &mut [u8]| {
        file[79] = 8;
        file[103] = 112;
        file[104] = 1;
    };
    assert_eq!(refusal(true, zstd), "accepted");
    let gone = refusal(true, |file| {
        zstd(file);
        file[79] = 0;
    });
    assert!(gone.contains("compression is of type 1"), "{gone}");
}
