mod crash;
mod damage;
mod header;
mod model;

use std::collections::BTreeMap;

use super::simulated::{Cluster, Disk, Ram, Shape, check};

/// Room for whatever a test makes.
const ROOM: usize = 64 << 20;

const SMALL: Shape = Shape { version: 3, cluster_bits: 9, count_order: 4, size: 1 << 20 };
const USUAL: Shape = Shape { version: 3, cluster_bits: 16, count_order: 4, size: 8 << 20 };

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 7 + at / 512) as u8 | 1).collect()
}

fn sound(file: &Ram) -> u64 {
    let found = check(&file.bytes());
    assert!(found.errors.is_empty(), "{found:?}");
    found.lost
}

/// A disk with a cluster of each kind.
fn various(shape: Shape) -> BTreeMap<u64, Cluster> {
    let mut clusters = BTreeMap::from([
        (1, Cluster::Data(1)),
        (2, Cluster::Packed(2)),
        (3, Cluster::Packed(3)),
        (4, Cluster::Shared(4)),
    ]);
    if shape.version > 2 {
        clusters.insert(5, Cluster::Zeroes);
    }
    clusters
}

#[test]
fn what_is_written_is_read_back_also_by_the_next_one() {
    for shape in [SMALL, USUAL, Shape { version: 2, ..SMALL }, Shape { cluster_bits: 21, ..USUAL }]
    {
        let file = Ram::new(shape.make(&BTreeMap::new(), false), ROOM);
        let disk = Disk::open(&file, false).unwrap();
        assert_eq!(disk.read(0, 5000).unwrap(), vec![0; 5000]);
        let offset = 100_000;
        disk.write(offset, &pattern(300_000)).unwrap();
        let around = [vec![0; 1000], pattern(300_000), vec![0; 1000]].concat();
        assert!(disk.read(offset - 1000, 302_000).unwrap() == around);
        disk.qcow2.flush().unwrap();
        let next = Disk::open(&file, true).unwrap();
        assert!(next.read(offset - 1000, 302_000).unwrap() == around);
        assert_eq!(sound(&file), 0);
    }
}

#[test]
fn clusters_of_each_kind_are_read_and_written_to() {
    for shape in [SMALL, USUAL, Shape { version: 2, ..SMALL }] {
        let cluster = 1_usize << shape.cluster_bits;
        let file = Ram::new(shape.make(&various(shape), false), ROOM);
        let disk = Disk::open(&file, false).unwrap();
        let numbers: Vec<u8> =
            disk.read(0, 7 * cluster).unwrap().into_iter().step_by(cluster).collect();
        assert_eq!(numbers, [0, 1, 2, 3, 4, 0, 0]);
        for number in 0..7_u64 {
            disk.write(number * cluster as u64 + 100, &[9; 10]).unwrap();
            let mut expected = vec![if number < 5 { number as u8 } else { 0 }; cluster];
            expected[100..110].fill(9);
            assert!(disk.read(number * cluster as u64, cluster).unwrap() == expected, "{number}");
        }
        disk.qcow2.flush().unwrap();
        disk.qcow2.flush().unwrap();
        // What is left is the other reference to the shared cluster.
        assert_eq!(sound(&file), 1);
    }
}

#[test]
fn what_a_snapshot_has_is_copied_and_kept() {
    let clusters = BTreeMap::from([(0, Cluster::Data(1)), (70, Cluster::Packed(2))]);
    let made = SMALL.make(&clusters, true);
    let file = Ram::new(made.clone(), ROOM);
    let disk = Disk::open(&file, false).unwrap();
    disk.write(0, &[9; 100]).unwrap();
    disk.qcow2.zero(70 * 512, 512, false).unwrap();
    disk.write(512, &[8; 512]).unwrap();
    disk.qcow2.flush().unwrap();
    let now = file.bytes();
    // Nothing of what was there is changed, but counts and the L1 table.
    let kept = 3 * 512 + SMALL.size as usize / (512 * 64) * 8;
    assert!(now[kept..made.len()] == made[kept..]);
    assert_eq!(disk.read(0, 100).unwrap(), [9; 100]);
    assert_eq!(disk.read(100, 412).unwrap(), [1; 412]);
    assert_eq!(disk.read(70 * 512, 512).unwrap(), [0; 512]);
    sound(&file);
}

#[test]
fn what_is_discarded_is_used_again_after_a_flush() {
    let file = Ram::new(SMALL.make(&BTreeMap::new(), false), ROOM);
    let disk = Disk::open(&file, false).unwrap();
    disk.write(0, &pattern(1 << 19)).unwrap();
    disk.qcow2.flush().unwrap();
    let size = file.bytes().len();
    for round in 0..20_u64 {
        let offset = (round % 2) << 19;
        disk.qcow2.zero(offset, 1 << 19, false).unwrap();
        disk.qcow2.flush().unwrap();
        disk.write(1 << 19 ^ offset, &pattern(1 << 19)).unwrap();
        disk.qcow2.flush().unwrap();
        assert!(disk.read(offset, 1 << 19).unwrap() == vec![0; 1 << 19]);
    }
    assert!(file.bytes().len() < size + (1 << 17), "{size} {}", file.bytes().len());
    disk.qcow2.flush().unwrap();
    assert_eq!(sound(&file), 0);
}

#[test]
fn the_refcount_table_grows_with_the_image() {
    // Its one cluster has 64 entries, which reach 64 * 64 clusters of 64 bits: 2 MiB.
    let shape = Shape { count_order: 6, size: 12 << 20, ..SMALL };
    let file = Ram::new(shape.make(&BTreeMap::new(), false), ROOM);
    let disk = Disk::open(&file, false).unwrap();
    for at in (0..shape.size).step_by(1 << 20) {
        disk.write(at, &pattern(1 << 20)).unwrap();
    }
    disk.qcow2.flush().unwrap();
    disk.qcow2.flush().unwrap();
    assert_eq!(sound(&file), 0);
    let next = Disk::open(&file, false).unwrap();
    for at in (0..shape.size).step_by(1 << 20) {
        assert!(next.read(at, 1 << 20).unwrap() == pattern(1 << 20));
    }
}

#[test]
fn a_full_file_system_is_an_error_and_nothing_is_lost() {
    let made = USUAL.make(&BTreeMap::new(), false);
    let file = Ram::new(made.clone(), made.len() + (300 << 10));
    let disk = Disk::open(&file, false).unwrap();
    disk.write(0, &[1; 100_000]).unwrap();
    let full = disk.write(1 << 20, &[2; 1 << 20]).unwrap_err();
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    disk.qcow2.flush().unwrap();
    sound(&file);
    assert!(disk.read(0, 100_000).unwrap() == [1; 100_000]);
    // What is discarded makes room at once.
    disk.qcow2.zero(0, 1 << 17, false).unwrap();
    disk.write(2 << 20, &[3; 1 << 17]).unwrap();
    assert!(disk.read(2 << 20, 1 << 17).unwrap() == vec![3; 1 << 17]);
    file.limit(ROOM);
    disk.write(1 << 20, &[2; 1 << 20]).unwrap();
    disk.qcow2.flush().unwrap();
    disk.qcow2.flush().unwrap();
    assert_eq!(sound(&file), 0);
}

#[test]
fn a_cluster_that_somebody_transfers_is_nobody_elses() {
    let clusters = BTreeMap::from([(0, Cluster::Data(1))]);
    let file = Ram::new(SMALL.make(&clusters, false), ROOM);
    let disk = Disk::open(&file, false).unwrap();
    disk.read(0, 1).unwrap();
    let (at, lease) = disk.qcow2.place(0, 512, true).unwrap();
    disk.qcow2.zero(0, 512, false).unwrap();
    disk.qcow2.flush().unwrap();
    disk.write(8192, &pattern(4096)).unwrap();
    // It was under way all the time.
    super::Storage::write(&&file, at, &[0xaa; 512]).unwrap();
    drop(lease);
    assert!(!disk.qcow2.leases().has(at / 512));
    assert!(disk.read(8192, 4096).unwrap() == pattern(4096));
    assert_eq!(disk.read(0, 512).unwrap(), [0; 512]);
    disk.qcow2.flush().unwrap();
    disk.qcow2.flush().unwrap();
    assert_eq!(sound(&file), 0);
}

#[test]
fn a_disk_that_is_read_only_is_read_and_not_written_to() {
    let made = USUAL.make(&various(USUAL), false);
    let file = Ram::new(made.clone(), ROOM);
    let disk = Disk::open(&file, true).unwrap();
    assert_eq!(disk.read(1 << 16, 10).unwrap(), [1; 10]);
    assert!(disk.write(1 << 16, &[9; 10]).is_err() && disk.qcow2.zero(0, 512, false).is_err());
    disk.qcow2.flush().unwrap();
    assert!(file.bytes() == made);
}

#[test]
fn who_writes_clears_what_others_have_promised_before_anything_else() {
    let mut made = SMALL.make(&BTreeMap::from([(0, Cluster::Data(1))]), false);
    made[95] = 3;
    let file = Ram::recording(made, ROOM);
    let disk = Disk::open(&file, false).unwrap();
    disk.read(0, 512).unwrap();
    assert!(file.steps().is_empty() && file.bytes()[95] == 3);
    disk.write(0, &[2; 512]).unwrap();
    let steps = file.steps();
    assert!(
        matches!(&steps[..2], [super::simulated::Step::Write(88, _), super::simulated::Step::Sync]),
        "{steps:?}"
    );
    assert_eq!(file.bytes()[95], 0);
}
