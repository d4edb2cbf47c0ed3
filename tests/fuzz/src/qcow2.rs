//! A disk in a qcow2 image, and what is done with it. The fuzzer calls this, and so does a test of the crate
//! `vmm` with all seeds and the corpus, which is why this file is part of both.
//!
//! ```text
//! m │ shape: 3 bytes │ n │ n clusters: number, kind, byte │ steps: 6 bytes each
//! i │ n │ n steps │ the image
//! step: kind, offset in 64 bytes (16 bits), length (16 bits), byte
//! ```
//! A disk that was made (`m`) must hold what a row of bytes would, and be sound in the end. An image of any
//! bytes (`i`) must be left no worse than it was: its header is as before, and it can be opened again.

use std::collections::BTreeMap;

use vmm::qcow2::simulated::{Action, Cluster, Disk, Model, Ram, Shape, carry_out, check};

/// Bytes that an image may grow by: several of all but the largest clusters, which take long to write and
/// are no different.
const ROOM: usize = 1 << 20;
/// Steps beyond these tell nothing new, and take time.
const MOST_STEPS: usize = 48;
/// Clusters of a disk that is made: those of more than one table, where a table is small.
const MOST_CLUSTERS: u64 = 96;
const STEP: usize = 6;
/// Bytes of a step: more than a table has room for clusters, where these are small.
const LONGEST: u64 = 20 << 10;

/// See the top of this file: how many steps were done without an error.
pub fn qcow2(bytes: &[u8]) -> usize {
    match bytes.split_first() {
        Some((b'm', bytes)) => made(bytes).unwrap_or_default(),
        Some((b'i', [steps, bytes @ ..])) => {
            let end = (usize::from(*steps) * STEP).min(bytes.len());
            let (steps, image) = bytes.split_at(end);
            any(image, steps)
        }
        _ => 0,
    }
}

fn steps(bytes: &[u8], size: u64) -> impl Iterator<Item = Action> {
    bytes.chunks_exact(STEP).take(MOST_STEPS).map(move |step| {
        let number = |at: usize| u64::from(u16::from_le_bytes([step[at], step[at + 1]]));
        let offset = number(1) * 64 % size;
        let length = number(3).min(LONGEST).min(size - offset);
        match step[0] % 6 {
            0 | 1 => Action::Write(offset, length, step[5]),
            2 => Action::Read(offset, length),
            3 => Action::Zero(offset, length, false),
            4 => Action::Zero(offset, length, true),
            _ => Action::Flush,
        }
    })
}

fn made(bytes: &[u8]) -> Option<usize> {
    let ([shape, order, size, count], bytes) = bytes.split_first_chunk()?;
    let version = 2 + u32::from(shape & 1);
    let count_order = if version == 2 { 4 } else { u32::from(order % 7) };
    let cluster_bits = 9 + u32::from(shape >> 1) % 5;
    let size = (1024 + u64::from(*size) * 1024).min(MOST_CLUSTERS << cluster_bits);
    let shape = Shape { version, cluster_bits, count_order, size };
    // A bit counts no second reference.
    let may_share = count_order > 0;
    let clusters = shape.size.div_ceil(1 << cluster_bits);
    let count = usize::from(count % 24).min(bytes.len() / 3);
    let (laid, bytes) = bytes.split_at(count * 3);
    let laid = laid.chunks_exact(3).map(|cluster| {
        let what = match cluster[1] % 4 {
            0 if may_share => Cluster::Shared(cluster[2]),
            1 if version > 2 => Cluster::Zeroes,
            2 => Cluster::Packed(cluster[2]),
            _ => Cluster::Data(cluster[2]),
        };
        (u64::from(cluster[0]) % clusters, what)
    });
    let laid: BTreeMap<u64, Cluster> = laid.collect();
    let file = Ram::new(shape.make(&laid, order >> 7 == 1 && may_share), 64 << 20);
    let mut model = Model::of(&shape, &laid);
    let disk = Disk::open(&file, false).expect("a good image");
    let mut done = 0;
    for action in steps(bytes, shape.size) {
        let read = carry_out(&disk, action).expect("nothing is wrong with it");
        model.carry_out(action);
        if let (Action::Read(offset, length), Some(read)) = (action, read) {
            assert!(read == model.0[offset as usize..(offset + length) as usize]);
        }
        done += 1;
    }
    // The second one writes what the first one freed.
    disk.qcow2.flush().expect("there is room");
    disk.qcow2.flush().expect("there is room");
    let next = Disk::open(&file, true).expect("a good image");
    assert!(next.read(0, model.0.len()).expect("nothing is wrong with it") == model.0);
    let found = file.with(check);
    assert!(found.errors.is_empty(), "{found:?}");
    Some(done)
}

fn any(image: &[u8], bytes: &[u8]) -> usize {
    let file = Ram::new(image.to_vec(), image.len() + ROOM);
    if let Ok(disk) = Disk::open(&file, true) {
        for action in steps(bytes, disk.qcow2.size()) {
            let _ = carry_out(&disk, action);
        }
        assert!(file.with(|now| now == image), "it was to be read only");
    }
    let Ok(disk) = Disk::open(&file, false) else { return 0 };
    let mut done = 0;
    for action in steps(bytes, disk.qcow2.size()) {
        done += usize::from(carry_out(&disk, action).is_ok());
    }
    let _ = disk.qcow2.flush();
    file.with(|now| {
        for kept in [0..48, 60..72] {
            assert!(now[kept.clone()] == image[kept.clone()], "{kept:?} of the header");
        }
    });
    Disk::open(&file, false).expect("it is no worse than before");
    done
}
