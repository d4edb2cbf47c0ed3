//! A disk is a row of bytes, whatever is done with it and however it is kept.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::qcow2::simulated::{Action, Model, carry_out};

pub fn shape() -> impl Strategy<Value = Shape> {
    (2..=3_u32, 9..=13_u32, 0..=6_u32, 1..200_u64).prop_map(
        |(version, cluster_bits, order, size)| {
            let count_order = if version == 2 { 4 } else { order };
            // A bit counts to one.
            Shape { version, cluster_bits, count_order, size: size * 1536 }
        },
    )
}

pub fn clusters(shape: Shape) -> impl Strategy<Value = BTreeMap<u64, Cluster>> {
    let what = (0..5, any::<u8>()).prop_map(move |(kind, byte)| match kind {
        // Two references are none of a bit.
        0 if shape.count_order > 0 => Cluster::Shared(byte),
        1 if shape.version > 2 => Cluster::Zeroes,
        2 | 3 => Cluster::Packed(byte),
        _ => Cluster::Data(byte),
    });
    let count = shape.size.div_ceil(1 << shape.cluster_bits);
    // What one refcount block of 64 bits reaches, less the tables.
    proptest::collection::btree_map(0..count, what, 0..20)
}

pub fn action(size: u64) -> impl Strategy<Value = Action> {
    let length = prop_oneof![1..64_u64, 1..20_000_u64, Just(1_u64 << 30)];
    (0..8, 0..size, length, any::<u8>(), any::<bool>()).prop_map(
        move |(kind, offset, length, byte, aligned)| {
            let offset = if aligned { offset / 4096 * 4096 } else { offset };
            let length = length.min(size - offset);
            match kind {
                0..=3 => Action::Write(offset, length, byte),
                4 => Action::Read(offset, length),
                5 => Action::Zero(offset, length, byte % 2 == 0),
                6 => Action::Zero(offset, length, false),
                _ => Action::Flush,
            }
        },
    )
}

fn case() -> impl Strategy<Value = (Shape, BTreeMap<u64, Cluster>, Vec<Action>, bool)> {
    shape().prop_flat_map(|shape| {
        let actions = proptest::collection::vec(action(shape.size), 1..40);
        // With a snapshot everything is shared.
        (Just(shape), clusters(shape), actions, any::<bool>()).prop_map(
            |(shape, clusters, actions, shared)| {
                (shape, clusters, actions, shared && shape.count_order > 0)
            },
        )
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    #[test]
    fn a_disk_is_a_row_of_bytes((shape, clusters, actions, is_shared) in case()) {
        let file = Ram::new(shape.make(&clusters, is_shared), ROOM);
        let before = check(&file.bytes());
        prop_assert!(before.errors.is_empty(), "{:?}", before);
        let mut model = Model::of(&shape, &clusters);
        let mut disk = Disk::open(&file, false).unwrap();
        for action in actions {
            let read = carry_out(&disk, action).unwrap();
            model.carry_out(action);
            if let (Action::Read(offset, length), Some(read)) = (action, read) {
                prop_assert!(read == model.0[offset as usize..(offset + length) as usize]);
            }
            if let Action::Flush = action {
                prop_assert!(check(&file.bytes()).errors.is_empty());
                disk = Disk::open(&file, false).unwrap();
            }
        }
        // The second one writes what the first one freed.
        disk.qcow2.flush().unwrap();
        disk.qcow2.flush().unwrap();
        prop_assert!(disk.read(0, model.0.len()).unwrap() == model.0);
        let next = Disk::open(&file, true).unwrap();
        prop_assert!(next.read(0, model.0.len()).unwrap() == model.0);
        let after = check(&file.bytes());
        prop_assert!(after.errors.is_empty(), "{:?}", after);
    }
}
