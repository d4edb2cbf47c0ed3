//! The host loses its power after any step: all that was synced is there, and of what came after it any
//! part. The image must be sound then, and hold what was flushed.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::model::{action, clusters, shape};
use super::*;
use crate::qcow2::simulated::{Action, Model, Step, apply, carry_out};

/// Bytes that may be at a place of the disk after the power went: those of the last flush, and those
/// that were written since.
struct Flushed {
    /// After this number of steps.
    steps: usize,
    model: Model,
    /// What was written since, in order.
    since: Vec<Action>,
}

fn case() -> impl Strategy<Value = (Shape, BTreeMap<u64, Cluster>, Vec<Action>, u64)> {
    shape().prop_flat_map(|shape| {
        let actions = proptest::collection::vec(action(shape.size), 1..14);
        (Just(shape), clusters(shape), actions, any::<u64>())
    })
}

/// The file as it may be after `cut` of these steps. Of those after the last sync some are missing, by
/// chance that begins with `lost`; none where the process was killed and the host goes on.
fn cut(made: &[u8], steps: &[Step], cut: usize, lost: Option<u64>) -> Vec<u8> {
    let mut file = made.to_vec();
    let done = &steps[..cut];
    let synced = done.iter().rposition(|step| matches!(step, Step::Sync)).map_or(0, |at| at + 1);
    let mut chance = lost.unwrap_or_default();
    for (at, step) in done.iter().enumerate() {
        chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        if at < synced || lost.is_none() || chance >> 63 == 0 {
            apply(&mut file, step);
        }
    }
    file
}

fn expect_sound(file: &[u8], flushed: &Flushed) {
    let found = check(file);
    assert!(found.errors.is_empty(), "{found:?}");
    let file = Ram::new(file.to_vec(), ROOM);
    let disk = Disk::open(&file, false).expect("it can be opened");
    let now = disk.read(0, flushed.model.0.len()).expect("it can be read");
    let mut may = flushed.model.clone();
    // What was written since may be there, or not, or in part.
    for action in &flushed.since {
        if let Action::Write(offset, length, _) | Action::Zero(offset, length, _) = action {
            let range = *offset as usize..(offset + length) as usize;
            may.0[range.clone()].copy_from_slice(&now[range]);
        }
    }
    assert!(now == may.0, "what was flushed is not there");
}

#[test]
fn a_loss_of_power_as_the_refcount_table_grows_does_no_harm() {
    // Its first table reaches 2 MiB.
    let shape = Shape { count_order: 6, size: 3 << 20, ..SMALL };
    let made = shape.make(&BTreeMap::new(), false);
    let file = Ram::recording(made.clone(), ROOM);
    let disk = Disk::open(&file, false).unwrap();
    let mut model = Model::of(&shape, &BTreeMap::new());
    let mut flushed = None;
    for offset in (0..shape.size).step_by(1 << 16) {
        let action = Action::Write(offset, 1 << 16, 7);
        let before = (file.steps().len(), model.clone());
        carry_out(&disk, action).unwrap();
        carry_out(&disk, Action::Flush).unwrap();
        let is_growth = |step: &Step| matches!(step, Step::Write(48, _));
        if file.steps()[before.0..].iter().any(is_growth) {
            flushed = Some(Flushed { steps: before.0, model: before.1, since: vec![action] });
            break;
        }
        model.carry_out(action);
    }
    let (flushed, steps) = (flushed.expect("it grows"), file.steps());
    for at in flushed.steps..=steps.len() {
        for lost in 0..8_u64 {
            let lost = lost.checked_sub(1).map(|lost| lost.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            expect_sound(&cut(&made, &steps, at, lost), &flushed);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(60) })]

    #[test]
    fn after_a_loss_of_power_the_image_is_sound((shape, clusters, actions, lost) in case()) {
        let made = shape.make(&clusters, false);
        let file = Ram::recording(made.clone(), ROOM);
        let disk = Disk::open(&file, false).unwrap();
        let model = Model::of(&shape, &clusters);
        let mut points = vec![Flushed { steps: 0, model: model.clone(), since: Vec::new() }];
        let mut model = model;
        for action in actions {
            carry_out(&disk, action).unwrap();
            model.carry_out(action);
            match action {
                Action::Flush => {
                    let steps = file.steps().len();
                    points.push(Flushed { steps, model: model.clone(), since: Vec::new() });
                }
                action => points.iter_mut().for_each(|point| point.since.push(action)),
            }
        }
        let steps = file.steps();
        // Every point, as long as they are not too many.
        for at in (0..=steps.len()).step_by(1 + steps.len() / 60) {
            let flushed = points.iter().rfind(|point| point.steps <= at).expect("the first");
            // The process is killed: what was written is there.
            expect_sound(&cut(&made, &steps, at, None), flushed);
            for round in 0..3 {
                expect_sound(&cut(&made, &steps, at, Some(lost ^ round)), flushed);
            }
        }
    }
}
