//! A disk in a qcow2 image, by both engines: `vmm/src/qcow2` has the tests of images themselves.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;

use super::disk::{
    DATA, DISCARD, FAILED, FLUSH, FLUSHES, HEADER, Machine, OK, READ, WRITE, WRITE_ZEROES, pattern,
};
use super::{DESCRIPTOR_NEXT, DESCRIPTOR_WRITE, DEVICE, QUEUE_SIZE};
use crate::bus::Access;
use crate::qcow2::simulated::{Cluster, Shape, check};
use crate::spec::DiskFormat;

const SHAPE: Shape = Shape { version: 3, cluster_bits: 12, count_order: 4, size: 1 << 20 };
/// Sectors of a cluster.
const CLUSTER: u64 = 8;

fn machine(read_only: bool, by_calls: bool) -> Machine {
    let clusters = BTreeMap::from([
        (0, Cluster::Packed(1)),
        (1, Cluster::Data(2)),
        (2, Cluster::Zeroes),
        (3, Cluster::Shared(4)),
    ]);
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(&SHAPE.make(&clusters, false), 0).unwrap();
    Machine::over(file, DiskFormat::Qcow2, read_only, by_calls).started(u64::MAX)
}

fn both() -> [Machine; 2] {
    [false, true].map(|by_calls| machine(false, by_calls))
}

/// Counts that are too high, in an image that is sound.
fn lost(guest: &Machine) -> u64 {
    let mut bytes = vec![0; guest.file.metadata().unwrap().len() as usize];
    guest.file.read_exact_at(&mut bytes, 0).unwrap();
    let found = check(&bytes);
    assert!(found.errors.is_empty(), "{found:?}");
    found.lost
}

fn reads(guest: &mut Machine, sector: u64, expected: &[u8]) {
    guest.put(DATA, &vec![0xee; expected.len()]);
    assert_eq!(guest.ask(READ, sector, expected.len() as u32).0, OK);
    assert!(guest.get(DATA, expected.len()) == expected, "{sector}");
}

#[test]
fn what_is_written_to_an_image_is_read_back() {
    for mut guest in both() {
        let mut contents =
            [vec![1; 4096], vec![2; 4096], vec![0; 4096], vec![4; 4096], vec![0; 8192]].concat();
        reads(&mut guest, 0, &contents);
        // Into clusters of each kind, then where these are by then.
        for (sector, length) in [(2, 512), (7, 16384), (40, 4096), (7, 16384), (0, 512)] {
            guest.put(DATA, &pattern(length));
            assert_eq!(guest.ask(WRITE, sector, length as u32).0, OK);
            contents[sector as usize * 512..][..length].copy_from_slice(&pattern(length));
            reads(&mut guest, 0, &contents);
        }
        assert_eq!(guest.ask(FLUSH, 0, 0).0, OK);
        assert_eq!(guest.ask(FLUSH, 0, 0).0, OK);
        assert_eq!(lost(&guest), 1);
        guest.block.close();
    }
}

#[test]
fn what_is_discarded_in_an_image_reads_as_zeroes() {
    for mut guest in both() {
        for (kind, flags) in [(DISCARD, 0), (WRITE_ZEROES, 0), (WRITE_ZEROES, 1)] {
            guest.put(DATA, &pattern(6 * 4096));
            assert_eq!(guest.ask(WRITE, 8, 6 * 4096).0, OK);
            assert_eq!(guest.erase(kind, 9, 25, flags), OK);
            let mut expected = pattern(6 * 4096);
            expected[512..][..25 * 512].fill(0);
            reads(&mut guest, 8, &expected);
        }
        guest.block.close();
        lost(&guest);
    }
}

#[test]
fn without_flushes_all_that_is_written_to_an_image_stays() {
    for mut guest in both() {
        guest.start(!FLUSHES);
        guest.put(DATA, &pattern(8192));
        assert_eq!(guest.ask(WRITE, 4 * CLUSTER, 8192).0, OK);
        let image = guest.file.try_clone().unwrap();
        let size = image.metadata().unwrap().len();
        let disk = crate::qcow2::Qcow2::open(image, size, true).unwrap();
        let mut bytes = vec![0; 8192];
        disk.read_bytes(4 * 4096, &mut bytes).unwrap();
        assert!(bytes == pattern(8192));
    }
}

#[test]
fn the_driver_learns_the_size_of_the_disk_and_not_of_the_image() {
    for guest in both() {
        let config = |offset: u64, width: usize| {
            let mut data = [0; 8];
            guest.bar.read(DEVICE + offset, &mut data[..width]);
            u64::from_le_bytes(data)
        };
        assert_eq!((config(0, 8), config(44, 4)), (SHAPE.size / 512, CLUSTER));
    }
}

#[test]
fn damage_is_an_error_of_who_comes_there_and_is_told() {
    for mut guest in both() {
        // The L2 entry of the second cluster leads nowhere.
        let mut place = [0; 8];
        guest.file.read_exact_at(&mut place, 3 * 4096).unwrap();
        let table = u64::from_be_bytes(place) & 0xff_ffff;
        guest.file.write_all_at(&(1_u64 << 63 | 1 << 50).to_be_bytes(), table + 8).unwrap();
        assert_eq!(guest.ask(READ, CLUSTER, 512), (FAILED, 1));
        assert_eq!(guest.ask(WRITE, CLUSTER, 512), (FAILED, 1));
        reads(&mut guest, 0, &[1; 512]);
        let mut line = String::new();
        BufReader::new(guest.reports.try_clone().unwrap()).read_line(&mut line).unwrap();
        for part in
            ["disk-error", "read 512 bytes at 4096", "the image is damaged", "qemu-img check"]
        {
            assert!(line.contains(part), "{line}");
        }
    }
}

#[test]
fn an_image_that_is_read_only_is_never_written_to() {
    for by_calls in [false, true] {
        let mut guest = machine(true, by_calls);
        let before = lost(&guest);
        assert_eq!(guest.ask(WRITE, CLUSTER, 512), (FAILED, 1));
        reads(&mut guest, CLUSTER, &[2; 512]);
        assert_eq!(guest.ask(FLUSH, 0, 0).0, OK);
        guest.block.close();
        assert_eq!(lost(&guest), before);
    }
}

#[test]
fn many_requests_to_an_image_at_a_time_all_come_back() {
    for mut guest in both() {
        guest.describe(0, HEADER, 16, DESCRIPTOR_NEXT);
        guest.describe(1, DATA, 512, DESCRIPTOR_NEXT);
        guest.describe(2, DATA + 0x10000, 1, DESCRIPTOR_WRITE);
        for round in 0..200_u64 {
            let mut header = WRITE.to_le_bytes().to_vec();
            header.extend([0; 4]);
            header.extend((round * 7 % (SHAPE.size / 512)).to_le_bytes());
            guest.put(HEADER, &header);
            guest.offer(&[0; QUEUE_SIZE as usize]);
            assert!(guest.wait());
        }
        guest.block.close();
        lost(&guest);
    }
}
