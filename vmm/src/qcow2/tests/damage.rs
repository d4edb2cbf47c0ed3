//! Images that contradict themselves: whatever they say, tables are not written over.

use super::*;

/// The first levels of [`SMALL`]: counts, a block of them, and the map.
const BLOCK: usize = 2 * 512;
const MAP: usize = 3 * 512;

fn put(file: &mut [u8], at: usize, number: u64) {
    file[at..at + 8].copy_from_slice(&number.to_be_bytes());
}

/// An image whose second cluster is as `change` makes it, and where its L2 table is.
fn damaged(change: impl FnOnce(&mut [u8], usize)) -> Vec<u8> {
    let mut file =
        SMALL.make(&BTreeMap::from([(0, Cluster::Data(1)), (1, Cluster::Data(2))]), false);
    let table = u64::from_be_bytes(file[MAP..MAP + 8].try_into().unwrap()) as usize & 0xff_ffff;
    change(&mut file, table);
    file
}

const OWNED: u64 = 1 << 63;

#[test]
fn entries_that_lead_nowhere_are_errors_of_who_comes_there() {
    for entry in [
        OWNED,
        OWNED | 1 << 55,
        OWNED | 512 << 20,
        512 | 1 << 56,
        512 | 2,
        OWNED | 1 << 62 | 512,
        1 << 62 | 1 << 50,
        1 << 62,
        u64::MAX,
    ] {
        let made = damaged(|file, table| put(file, table + 8, entry));
        let file = Ram::new(made, ROOM);
        let disk = Disk::open(&file, false).unwrap();
        let error = disk.read(512, 1).expect_err("an impossible entry").to_string();
        assert!(error.contains("damaged") && error.contains("qemu-img check"), "{error}");
        assert!(disk.write(512, &[9; 512]).is_err(), "{entry:#x}");
        assert!(disk.qcow2.zero(512, 512, false).is_err(), "{entry:#x}");
        assert!(disk.qcow2.zero(512, 100, true).is_err(), "{entry:#x}");
        // Its neighbours are as good as ever.
        assert_eq!(disk.read(0, 512).unwrap(), [1; 512]);
        disk.write(1024, &[3; 512]).unwrap();
        disk.write(0, &[4; 512]).unwrap();
        disk.qcow2.flush().unwrap();
        assert_eq!(disk.read(0, 512).unwrap(), [4; 512]);
    }
}

#[test]
fn a_compressed_cluster_that_cannot_be_unpacked_is_an_error() {
    let entry = 1 << 62 | 1 << 61 | 0x40;
    let file = Ram::new(damaged(|file, table| put(file, table + 8, entry)), ROOM);
    let disk = Disk::open(&file, false).unwrap();
    assert!(disk.read(512, 1).unwrap_err().to_string().contains("unpacked"));
    assert_eq!(disk.read(0, 1).unwrap(), [1]);
}

#[test]
fn data_is_never_written_over_tables() {
    let tables = [0, 512, BLOCK as u64, MAP as u64];
    for place in tables {
        for flags in [OWNED, 0] {
            let made = damaged(|file, table| put(file, table + 8, place | flags));
            if place | flags == 0 {
                continue;
            }
            let file = Ram::new(made.clone(), ROOM);
            let disk = Disk::open(&file, false).unwrap();
            assert!(disk.write(512, &[9; 512]).is_err(), "{place:#x}");
            assert!(disk.qcow2.zero(512, 512, false).is_err(), "{place:#x}");
            assert!(disk.qcow2.zero(512, 512, true).is_err(), "{place:#x}");
            disk.qcow2.flush().unwrap();
            assert!(file.bytes() == made, "{place:#x}");
        }
    }
    // The L2 table itself.
    let made = damaged(|file, table| put(file, table + 8, table as u64 | OWNED));
    let file = Ram::new(made.clone(), ROOM);
    let disk = Disk::open(&file, false).unwrap();
    assert!(disk.write(512, &[9; 512]).is_err());
    assert!(file.bytes() == made);
}

#[test]
fn clusters_are_not_taken_where_counts_lie() {
    // Nothing is counted: what would be taken first is the refcount table.
    let made = damaged(|file, _| file[BLOCK..BLOCK + 512].fill(0));
    let file = Ram::new(made.clone(), ROOM);
    let disk = Disk::open(&file, false).unwrap();
    let error = disk.write(4096, &[9; 512]).unwrap_err().to_string();
    assert!(error.contains("has no reference count"), "{error}");
    assert!(disk.qcow2.zero(0, 1024, false).is_err());
    disk.qcow2.flush().unwrap();
    assert!(file.bytes() == made);
    // What has its cluster is as good as ever.
    disk.write(0, &[5; 512]).unwrap();
    assert_eq!(disk.read(0, 512).unwrap(), [5; 512]);
}

#[test]
fn a_cluster_of_two_that_is_counted_once_is_let_go_once() {
    let made = damaged(|file, table| file.copy_within(table..table + 8, table + 8));
    let file = Ram::new(made, ROOM);
    let disk = Disk::open(&file, false).unwrap();
    disk.qcow2.zero(0, 512, false).unwrap();
    assert!(disk.qcow2.zero(512, 512, false).is_err());
}

#[test]
fn tables_that_overlap_or_are_not_there_are_told_at_once() {
    let refusal = |made: Vec<u8>| {
        let file = Ram::new(made, ROOM);
        Disk::open(&file, false).err().map(|error| error.to_string()).unwrap_or_default()
    };
    let entry = |at: usize, entry: u64| damaged(|file, _| put(file, at, entry));
    assert!(refusal(entry(MAP + 8, OWNED | 512)).contains("two of its tables"));
    assert!(refusal(entry(MAP + 8, OWNED | 512 << 20)).contains("L1 table has an entry"));
    assert!(refusal(entry(MAP + 8, 1 << 57)).contains("L1 table has an entry"));
    assert!(refusal(entry(512 + 8, BLOCK as u64)).contains("two of its tables"));
    assert!(refusal(entry(512 + 8, 1)).contains("refcount table has an entry"));
    assert!(refusal(entry(48, MAP as u64)).contains("refcount table has an entry"));
    assert!(refusal(entry(40, 1 << 40)).contains("beyond the end"));
    // Whoever only reads what is in order needs no counts.
    let file = Ram::new(entry(512 + 8, 1), ROOM);
    assert_eq!(Disk::open(&file, true).unwrap().read(0, 1).unwrap(), [1]);
}
