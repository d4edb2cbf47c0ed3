//! The seeds of the target `bus`, by what they do, as those of `programs.rs`.

use vmm::vfio::simulated::WINDOWS;
use vmm::virtio::structures::BAR_SIZE;

use super::bus::Outcome;
use super::programs::Seed;

/// In the high window, this many eighths of a BAR from its start.
fn high(card: u8, eighths: u16) -> Vec<u8> {
    [&[3 | card << 4][..], &eighths.to_le_bytes()].concat()
}

/// In the low window, this many eighths of a BAR before its end.
fn low(card: u8, eighths: u16) -> Vec<u8> {
    [&[4 | card << 4][..], &eighths.to_le_bytes()].concat()
}

/// Memory decodes, or not.
fn decode(card: u8, is_on: bool) -> Vec<u8> {
    vec![2 | card << 4, if is_on { 6 } else { 4 }, 0]
}

/// MSI-X is on, and so is the first vector of a queue.
fn vectors(card: u8) -> Vec<u8> {
    let entry = |at: u8, data: [u8; 8]| [&[8 | (card | 1) << 4, 1, at][..], &data].concat();
    let on = [7 | card << 4, 0x80];
    [&on[..], &entry(0, [0, 0, 0xe0, 0xfe, 0, 0, 0, 0]), &entry(8, [0x41, 0, 0, 0, 0, 0, 0, 0])]
        .concat()
}

/// Each with where its cards are in the end.
pub fn bus() -> Vec<Seed<Outcome>> {
    let (start, end) = (WINDOWS.high.start, WINDOWS.low.end);
    let at =
        |decodes: &[Option<u64>], interrupts| Outcome { decodes: decodes.to_vec(), interrupts };
    vec![
        ("two-cards", [&[2][..], &decode(0, true), &decode(1, true)].concat(), {
            at(&[Some(start), Some(start + BAR_SIZE)], 0)
        }),
        (
            "one-over-the-other",
            [&[2][..], &decode(0, true), &decode(1, true), &high(1, 4)].concat(),
            at(&[Some(start), None], 0),
        ),
        (
            "one-in-the-others-place",
            [&[2][..], &decode(0, true), &high(1, 0), &decode(0, false), &decode(1, true)].concat(),
            at(&[None, Some(start)], 0),
        ),
        (
            "one-waits-for-the-other",
            [
                &[2][..],
                &decode(0, true),
                &high(1, 0),
                &decode(1, true),
                &low(0, 8),
                &decode(1, true),
            ]
            .concat(),
            at(&[Some(end - BAR_SIZE), Some(start)], 0),
        ),
        (
            "out-of-the-window",
            [&[1][..], &decode(0, true), &low(0, 0), &[9, 0x12, 0]].concat(),
            at(&[None], 0),
        ),
        (
            "vectors-are-live",
            // The second card's is at an odd place: its vector is written by eight bytes.
            [&[2][..], &decode(1, true), &vectors(1), &[14 | 1 << 4, 4], &[13 | 1 << 4, 0]]
                .concat(),
            at(&[None, Some(start + BAR_SIZE)], 1),
        ),
        (
            "all-kinds-and-what-is-not-there",
            [&[6 | 3 << 3][..], &[15, 9, 0, 0], &[15, 1, 0, 0x10], &[11 | 3 << 4; 9]].concat(),
            at(&[None; 6], 0),
        ),
    ]
}
