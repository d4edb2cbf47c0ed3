//! The seeds of the targets `virtio`, `ports` and `kernel`, by what they do. A test of the crate
//! `assign-vmm` compares them with the files, and writes these where UPDATE_SEEDS is set.

use super::ports;
use vmm::devices::power;
use vmm::spec::StopReason;

/// A seed: its name, its bytes, and what comes of it.
pub type Seed<T> = (&'static str, Vec<u8>, T);

const CARD: &[u8] = &[0];
const DISK: &[u8] = &[1];
const READ_ONLY_DISK: &[u8] = &[2];
const NUMBERS: &[u8] = &[3];
const SOCKETS: &[u8] = &[4];
const BALLOON: &[u8] = &[5];
/// The good driver that comes in the end has packed rings.
const CARD_PACKED: &[u8] = &[8];
const DISK_PACKED: &[u8] = &[9];
const NUMBERS_PACKED: &[u8] = &[11];
const BALLOON_PACKED: &[u8] = &[13];
const CARD_OF_TWO_PAIRS: &[u8] = &[6];
const PORTS: &[u8] = &[7];
const KERNEL_CARD: &[u8] = &[16];
const TURN: &[u8] = &[11];
const FIRST: u8 = 0;
const SECOND: u8 = 1;
const THIRD: u8 = 2;
const FOURTH: u8 = 3;
const FIFTH: u8 = 4;
const SIXTH: u8 = 5;

/// Each with how many buffers its device gives back.
pub fn virtio() -> Vec<Seed<usize>> {
    [split(), packed()].concat()
}

fn split() -> Vec<Seed<usize>> {
    let read = |queue, sector, length| request(queue, 0, sector, length);
    let write = |queue, sector, length| request(queue, 1, sector, length);
    let range = put(0x8100, &[[1, 0, 0, 0, 0, 0, 0, 0], [8, 0, 0, 0, 0, 0, 0, 0]].concat());
    let window = [config(2, 0x8c, 0x14), config(2, 0x90, 1), config(0, 0x94, 0)].concat();
    vec![
        ("card-sends", join(&[CARD, &begin(8), &write(SECOND, 0, 112), TURN]), 1),
        ("card-receives", join(&[CARD, &begin(8), &read(FIRST, 0, 2048), &frame(100), TURN]), 1),
        (
            "card-has-too-small-a-buffer",
            join(&[CARD, &[5 | 3 << 4, 16], &read(FIRST, 0, 64), &frame(500), &frame(20), TURN]),
            1,
        ),
        (
            "card-receives-in-two-buffers",
            join(&[
                CARD,
                &begin(8),
                &describe(FIRST, 0, 0x8000, 64, 2, 0),
                &describe(FIRST, 1, 0x8100, 200, 2, 0),
                &[9 | FIRST << 4, 0, 9 | FIRST << 4, 1, 10 | FIRST << 4],
                &frame(100),
                TURN,
            ]),
            2,
        ),
        (
            "card-of-two-pairs-is-told-so",
            join(&[
                CARD_OF_TWO_PAIRS,
                &begin(8),
                &put(0x8000, &[4, 0, 2, 0]),
                &describe(FIFTH, 0, 0x8000, 4, 1, 1),
                &describe(FIFTH, 1, 0x8010, 1, 2, 0),
                &[9 | FIFTH << 4, 0, 10 | FIFTH << 4],
                TURN,
            ]),
            1,
        ),
        (
            "card-without-event-indexes",
            join(&[CARD, &[5 | 3 << 4, 3], &write(SECOND, 0, 112), TURN, &vectors(8, 0), TURN]),
            1,
        ),
        (
            "card-set-up-by-hand",
            join(&[
                CARD,
                &vectors(8, 0),
                &[15],
                &u64::MAX.to_le_bytes(),
                &lay(FIRST, 4, [0x0000, 0x1000, 0x1400]),
                &lay(SECOND, 4, [0x4000, 0x5000, 0x5400]),
                &[7, 15],
                &describe(SECOND, 3, 0x8000, 60, 1, 4),
                &describe(SECOND, 4, 0x2_0000, 60, 0, 0),
                &[9 | SECOND << 4, 3, 10 | SECOND << 4],
                TURN,
            ]),
            1,
        ),
        (
            "card-with-a-table-of-descriptors",
            join(&[
                CARD,
                &begin(8),
                &put(0x9000, &[0, 0x80, 0, 0, 0, 0, 0, 0, 90, 0, 0, 0, 0, 0, 0, 0]),
                &describe(SECOND, 0, 0x9000, 16, 4, 0),
                &[9 | SECOND << 4, 0, 10 | SECOND << 4],
                TURN,
            ]),
            1,
        ),
        (
            "card-with-rings-in-one-place",
            join(&[
                CARD,
                &[15],
                &u64::MAX.to_le_bytes(),
                &lay(FIRST, 3, [0x1000; 3]),
                &lay(SECOND, 3, [0x1000; 3]),
                &[7, 15],
                &write(SECOND, 0, 112),
                TURN,
                TURN,
            ]),
            // One, in both of them.
            2,
        ),
        (
            "disk-writes-and-reads",
            join(&[
                DISK,
                &begin(8),
                &write(FIRST, 3, 512),
                TURN,
                &request(FIRST, 2, 0, 0),
                TURN,
                &read(FIRST, 3, 1024),
                TURN,
            ]),
            3,
        ),
        (
            "disk-erases",
            join(&[
                DISK,
                &begin(4),
                &range,
                &request(FIRST, 4, 0, 16),
                TURN,
                &request(FIRST, 5, 0, 16),
                TURN,
            ]),
            2,
        ),
        (
            "disk-says-no",
            join(&[
                DISK,
                &[5 | 3 << 4, 4],
                &request(FIRST, 3, 0, 20),
                &request(FIRST, 6, 0, 0),
                TURN,
                &read(FIRST, 63, 1024),
                TURN,
            ]),
            3,
        ),
        (
            "disk-of-two-queues",
            join(&[READ_ONLY_DISK, &begin(8), &read(SECOND, 9, 512), &write(FIRST, 9, 512), TURN]),
            2,
        ),
        (
            "disk-into-the-hole",
            join(&[DISK, &begin(8), &read(FIRST, 0, 0x8000), TURN, &read(FIRST, 0, 0x7e00), TURN]),
            2,
        ),
        ("numbers", join(&[NUMBERS, &begin(64), &read(FIRST, 0, 5000), TURN]), 1),
        (
            "numbers-after-a-broken-ring",
            join(&[
                NUMBERS,
                &begin(8),
                &put(0x1002, &[99, 0]),
                &[10],
                TURN,
                &begin(2),
                &read(FIRST, 0, 64),
                TURN,
            ]),
            1,
        ),
        (
            "numbers-by-another-way",
            join(&[
                NUMBERS,
                &config(1, 0x04, 0),
                &window,
                &config(2, 0x10, 0x0010_0000),
                &config(1, 0x04, 6),
                &[1, 0x14, 0],
                &begin(8),
                &read(FIRST, 0, 64),
                TURN,
            ]),
            1,
        ),
        ("sockets-send", join(&[SOCKETS, &begin(8), &write(SECOND, 0, 44), TURN]), 1),
        (
            "sockets-after-a-broken-ring",
            join(&[
                SOCKETS,
                &vectors(8, 0),
                &begin(8),
                &put(0x5002, &[99, 0]),
                &[10 | SECOND << 4],
                TURN,
                &begin(4),
                &read(FIRST, 0, 4096),
                &write(SECOND, 0, 44),
                TURN,
            ]),
            1,
        ),
        (
            "sockets-without-a-queue-for-events",
            join(&[
                SOCKETS,
                &[15],
                &u64::MAX.to_le_bytes(),
                &lay(FIRST, 4, [0x0000, 0x1000, 0x1400]),
                &lay(SECOND, 4, [0x4000, 0x5000, 0x5400]),
                &[7, 15],
                &write(SECOND, 0, 44),
                TURN,
            ]),
            0,
        ),
        (
            "sockets-with-a-ring-across-the-hole",
            join(&[
                SOCKETS,
                &[15],
                &u64::MAX.to_le_bytes(),
                &lay(FIRST, 4, [0x0000, 0x1000, 0x1400]),
                &lay(SECOND, 8, [0xf800, 0x5000, 0x6000]),
                &lay(2, 4, [0x2_0000, 0x2_1000, 0x2_1400]),
                &[7, 15],
                &write(SECOND, 0, 44),
                TURN,
            ]),
            0,
        ),
        ("kernel-card-sends", join(&[KERNEL_CARD, &begin(8), &write(SECOND, 0, 112), TURN]), 1),
        (
            "kernel-card-hears-without-vectors-and-with-them",
            join(&[
                KERNEL_CARD,
                &begin(8),
                &write(SECOND, 0, 112),
                &vectors(8, 0),
                TURN,
                &vectors(8, 1),
                &write(SECOND, 0, 112),
                TURN,
                &vectors(0, 0),
                &write(SECOND, 0, 112),
                TURN,
            ]),
            3,
        ),
        (
            "balloon-takes-pages-and-gives-them-back",
            join(&[
                BALLOON,
                &begin(8),
                // The last page of RAM, one in the hole, and one far away.
                &put(0x8000, &[0xf, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0, 0x80, 9, 0, 0, 0]),
                &write(FIRST, 0, 16),
                TURN,
                &write(SECOND, 0, 16),
                TURN,
            ]),
            2,
        ),
        (
            "balloon-takes-many-pages",
            join(&[BALLOON, &begin(8), &write(FIRST, 0, 0x1000), TURN, TURN, TURN, TURN]),
            1,
        ),
        (
            "balloon-hears-of-free-pages",
            join(&[
                BALLOON,
                &begin(8),
                &describe(FOURTH, 0, 0xa000, 0x2000, 3, 1),
                &describe(FOURTH, 1, 0x2_2800, 0x1800, 2, 0),
                &[9 | FOURTH << 4, 0, 10 | FOURTH << 4],
                TURN,
                // Over the end of RAM.
                &describe(FOURTH, 0, 0x2_3000, 0x2000, 2, 0),
                &[9 | FOURTH << 4, 0, 10 | FOURTH << 4],
                TURN,
            ]),
            1,
        ),
        (
            "balloon-says-how-it-is",
            join(&[
                BALLOON,
                &begin(8),
                &put(0x8000, &[4, 0, 1, 2, 3, 4, 5, 6, 7, 8, 5, 0, 9, 9]),
                &write(THIRD, 0, 20),
                TURN,
                &asked(100, true),
                &write(THIRD, 0, 20),
                &asked(200, false),
                TURN,
            ]),
            1,
        ),
        (
            "balloon-without-event-indexes",
            join(&[
                BALLOON,
                &[5 | 3 << 4, 3],
                &[3 << 4],
                &0x2004u16.to_le_bytes(),
                &[1, 2, 3, 4],
                &write(FIRST, 0, 64),
                &asked(7, true),
                TURN,
                &vectors(8, 0),
            ]),
            1,
        ),
        (
            "ports-are-told-of",
            join(&[
                PORTS,
                &begin(8),
                &message(0, 0, 1),
                &read(THIRD, 0x100, 64),
                TURN,
                &read(THIRD, 0x100, 8),
                &happens(1, 0, 0),
                TURN,
                &message(1, 3, 1),
                &read(THIRD, 0x100, 64),
                TURN,
                &read(THIRD, 0x100, 3),
                TURN,
            ]),
            6,
        ),
        (
            "ports-speak-and-listen",
            join(&[
                PORTS,
                &begin(8),
                &message(1, 3, 1),
                &happens(1, 0, 0),
                &read(THIRD, 0x100, 64),
                TURN,
                &read(THIRD, 0x100, 64),
                &message(1, 6, 1),
                TURN,
                &happens(1, 2, 500),
                &read(FIFTH, 0x200, 100),
                &read(FIFTH, 0x200, 1000),
                TURN,
                &write(SIXTH, 0, 5000),
                TURN,
                &happens(1, 3, 0),
                &happens(1, 1, 0),
                &write(SIXTH, 0, 60),
                TURN,
            ]),
            7,
        ),
        (
            "ports-are-full",
            join(&[
                PORTS,
                &begin(8),
                &happens(0, 0, 0),
                &happens(0, 0, 0),
                &write(SECOND, 0, 0x2fff),
                TURN,
                &[15],
                &(1u64 << 32).to_le_bytes(),
                &lay(FIRST, 4, [0x0000, 0x1000, 0x1400]),
                &lay(SECOND, 4, [0x4000, 0x5000, 0x5400]),
                &[7, 15],
                &happens(0, 2, 9),
                &read(FIRST, 0x100, 4),
                &read(FIRST, 0x100, 64),
                TURN,
            ]),
            3,
        ),
    ]
}

/// The same by packed rings.
fn packed() -> Vec<Seed<usize>> {
    let read = |queue, sector, length| request(queue, 0, sector, length);
    let write = |queue, sector, length| request(queue, 1, sector, length);
    let many = [read(FIRST, 0, 512), TURN.to_vec()].concat().repeat(12);
    // Descriptors in the ring itself: one that is available, and one that ends no list.
    let (available, endless) = (32 | 8 | 2, 32 | 8 | 1);
    let circle: Vec<u8> =
        (0..7).flat_map(|index| describe(FIRST, index, 0x8000, 64, endless, 1)).collect();
    vec![
        (
            "packed-card-sends-and-receives",
            join(&[
                CARD_PACKED,
                &begin_packed(8),
                &write(SECOND, 0, 112),
                &read(FIRST, 0, 2048),
                TURN,
                &frame(100),
                TURN,
            ]),
            2,
        ),
        (
            "packed-card-with-a-table",
            join(&[
                CARD_PACKED,
                &begin_packed(8),
                &put(0x9000, &[0, 0x80, 0, 0, 0, 0, 0, 0, 90, 0, 0, 0, 7, 7, 0, 0]),
                &describe(SECOND, 0, 0x9000, 16, 4, 0),
                &[9 | SECOND << 4, 0, 10 | SECOND << 4],
                TURN,
            ]),
            1,
        ),
        ("packed-disk-goes-round", join(&[DISK_PACKED, &begin_packed(16), &many]), 12),
        (
            "packed-disk-without-event-indexes",
            join(&[DISK_PACKED, &[5 | 3 << 4, 2 | 8], &many, &vectors(8, 0)]),
            12,
        ),
        (
            "packed-numbers-by-the-ring-alone",
            join(&[
                NUMBERS_PACKED,
                &begin_packed(8),
                &describe(FIRST, 0, 0x8000, 64, available, 3),
                &[10],
                TURN,
                &circle,
                &[10],
                TURN,
            ]),
            1,
        ),
        (
            "packed-balloon-says-how-it-is",
            join(&[
                BALLOON_PACKED,
                &begin_packed(8),
                &put(0x8000, &[4, 0, 1, 2, 3, 4, 5, 6, 7, 8, 5, 0, 9, 9]),
                &write(THIRD, 0, 20),
                TURN,
                &asked(100, true),
                &write(THIRD, 0, 20),
                &asked(200, false),
                TURN,
            ]),
            1,
        ),
    ]
}

/// A message about a port of a console.
fn message(port: u8, event: u8, value: u8) -> Vec<u8> {
    join(&[&put(0x8000, &[port, 0, 0, 0, event, 0, value, 0]), &request(FOURTH, 1, 0, 8)])
}

/// At a port of a console a program of the host comes (0), leaves (1), says so many bytes (2) or takes some (3).
fn happens(port: u8, what: u8, length: u16) -> Vec<u8> {
    join(&[&[12], &length.to_le_bytes(), &[port | what << 1]])
}

/// A balloon's guest is asked for so many pages, and what it has to say.
fn asked(pages: u16, statistics: bool) -> Vec<u8> {
    join(&[&[12], &pages.to_le_bytes(), &[statistics.into()]])
}

fn join(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

/// Good queues of `size`, a power of two.
fn begin(size: u16) -> Vec<u8> {
    vec![5 | (size.ilog2() as u8) << 4, 0]
}

/// Good packed rings of a size that is one less than `size`, a power of two.
fn begin_packed(size: u16) -> Vec<u8> {
    vec![5 | (size.ilog2() as u8) << 4, 8]
}

fn request(queue: u8, kind: u8, sector: u16, length: u16) -> Vec<u8> {
    join(&[&[13 | queue << 4, kind], &sector.to_le_bytes(), &length.to_le_bytes()])
}

/// A frame from outside.
fn frame(length: u16) -> Vec<u8> {
    join(&[&[12], &length.to_le_bytes(), &[7]])
}

/// Up to 16 bytes of RAM.
fn put(address: u32, bytes: &[u8]) -> Vec<u8> {
    join(&[&[4 | (bytes.len() as u8 - 1) << 4], &address.to_le_bytes(), bytes])
}

/// A write of 1, 2 or 4 bytes, by `width` 0 to 2.
fn config(width: u8, offset: u16, value: u32) -> Vec<u8> {
    join(&[&[2 | width << 4], &offset.to_le_bytes(), &value.to_le_bytes()])
}

fn lay(queue: u8, size: u8, at: [u32; 3]) -> Vec<u8> {
    let at = at.map(|at| ((at >> 2) as u16).to_le_bytes()).concat();
    join(&[&[6 | queue << 4, size], &at])
}

fn describe(queue: u8, index: u8, address: u32, length: u16, flags: u8, next: u8) -> Vec<u8> {
    let place = join(&[&address.to_le_bytes(), &length.to_le_bytes()]);
    join(&[&[8 | queue << 4, index], &place, &[flags, next]])
}

fn vectors(control: u8, mask: u8) -> Vec<u8> {
    vec![14 | control << 4, mask]
}

/// Each with what the machine has done.
pub fn ports() -> Vec<Seed<ports::Outcome>> {
    let nothing = ports::Outcome::default;
    let text = b"hi\r\n".map(|byte| out(0, 0, 0, &[byte])).concat();
    let kept = |written, printed| ports::Outcome { written, printed, ..nothing() };
    vec![
        (
            "console-prints",
            join(&[&out(0, 0, 3, &[0x80]), &out(0, 1, 0, &[1, 0]), &out(0, 0, 3, &[3]), &text]),
            kept(8, 4),
        ),
        (
            "console-hears",
            join(&[&out(0, 0, 1, &[1]), &[8 | 2 << 4], b"ls\n", &[0, 5, 13, 13, 13, 0, 2, 9]]),
            kept(1, 0),
        ),
        ("console-hears-itself", join(&[&out(0, 0, 4, &[0x10]), &text, &[13, 13]]), kept(5, 0)),
        (
            "power-button-and-off",
            join(&[&[10, 0x01 << 4, 3], &out(1, 0, 0, &[0x34])]),
            ports::Outcome { stopped: Some(StopReason::PowerOff), ..nothing() },
        ),
        (
            "reset-by-keyboard-controller",
            join(&[&out(3, 0, 0, &[0xfe]), &out(1, 0, 2, &[power::RESET_VALUE])]),
            ports::Outcome { stopped: Some(StopReason::Reboot), ..nothing() },
        ),
        (
            "devices-come-and-go",
            join(&[&[11, 3, 12, 4, 10 << 4, 0, 10 << 4, 4], &out(2, 2, 8, &[0x19, 0, 0, 0])]),
            ports::Outcome { ejected: 2, ..nothing() },
        ),
        (
            "bus-is-searched",
            join(&[
                &[4 | 3 << 4, 0, 0, 0, 0, 4 | 3 << 4, 0, 0x80, 0, 0, 6 | 1 << 4, 4, 0, 0, 0],
                &[6, 0, 0, 0, 0, 0, 0, 0, 5 | 7 << 4, 0xfc, 0xff, 0xff, 0xff, 0, 0, 0, 0],
                &[1, 0xf8, 0x0c, 3, 0xff, 0xff, 1, 2, 3, 4],
            ]),
            nothing(),
        ),
    ]
}

/// A write of 1, 2 or 4 bytes, by `width` 0 to 2, to a port of a device.
fn out(device: u8, width: u8, port: u8, bytes: &[u8]) -> Vec<u8> {
    let mut data = [0; 4];
    data[..bytes.len()].copy_from_slice(bytes);
    join(&[&[2 | (device | width << 2) << 4, port], &data])
}

/// Each with whether it can be started.
pub fn kernel() -> Vec<Seed<bool>> {
    let good = elf(&[(1, 0x100_0000), (4, 0)], 0x100_0000);
    let mut claiming = bzimage(0x20f, 1, 1 << 20);
    claiming[0x218..0x220].copy_from_slice(&[0, 0, 0x20, 0, 0, 0x10, 0, 0]);
    vec![
        ("bzimage", input(0, 0, &bzimage(0x20f, 1, 1 << 20)), true),
        ("bzimage-with-initrd", input(1, 5000, &bzimage(0x20f, 1, 1 << 20)), true),
        ("bzimage-beside-a-large-initrd", input(3, 1, &bzimage(0x20f, 1, 1 << 20)), false),
        ("bzimage-of-32-bits", input(0, 0, &bzimage(0x20f, 0, 1 << 20)), false),
        ("bzimage-too-old", input(0, 0, &bzimage(0x20b, 1, 1 << 20)), false),
        ("bzimage-too-large", input(0, 0, &bzimage(0x20f, 1, 1 << 30)), false),
        ("bzimage-that-tells-of-an-initrd", input(0, 0, &claiming), true),
        ("vmlinux", input(0, 0, &good), true),
        ("vmlinux-with-initrd", input(1, 4096, &good), true),
        ("vmlinux-without-initrd-in-it", input(1, 0, &good), false),
        ("vmlinux-enters-elsewhere", input(0, 0, &elf(&[(1, 0x100_0000), (4, 0)], 16)), false),
        ("vmlinux-outside-of-ram", input(0, 0, &elf(&[(1, 0xc000_0000), (4, 0)], 16)), false),
        ("vmlinux-without-pvh", input(0, 0, &elf(&[(1, 0x100_0000)], 0x100_0000)), false),
        ("vmlinux-of-very-many-parts", input(0, 0, &elf(&[(4, 0); 200], 0x100_0000)), false),
        ("text", input(0, 0, b"#!/bin/sh\n"), false),
    ]
}

fn input(flags: u8, initrd: u16, kernel: &[u8]) -> Vec<u8> {
    join(&[&[flags], &initrd.to_le_bytes(), kernel])
}

/// A header (Documentation/arch/x86/boot.rst) and a bit of a kernel.
fn bzimage(version: u16, flags: u16, init_size: u32) -> Vec<u8> {
    let mut image = vec![0; 1024 + 32];
    let mut set = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    set(0x1f1, &[1]);
    set(0x202, b"HdrS");
    set(0x206, &version.to_le_bytes());
    set(0x211, &[1]);
    set(0x214, &0x10_0000u32.to_le_bytes());
    set(0x22c, &0x7fff_ffffu32.to_le_bytes());
    set(0x236, &flags.to_le_bytes());
    set(0x258, &0x100_0000u64.to_le_bytes());
    set(0x260, &init_size.to_le_bytes());
    set(1024, b"a kernel that does nothing");
    image
}

/// An ELF file with parts of these types at these addresses, all of them of the same bytes: a note
/// with the PVH `entry`.
fn elf(parts: &[(u32, u64)], entry: u32) -> Vec<u8> {
    let note = join(&[
        &4u32.to_le_bytes(),
        &4u32.to_le_bytes(),
        &18u32.to_le_bytes(),
        b"Xen\0",
        &entry.to_le_bytes(),
    ]);
    let mut image = join(&[b"\x7fELF\x02\x01\x01", &[0; 9], &[2, 0, 62, 0, 1, 0, 0, 0]]);
    image.extend(0x100_0000u64.to_le_bytes());
    image.extend(64u64.to_le_bytes());
    image.extend([0; 12]);
    image.extend([64u16, 56, parts.len() as u16, 0, 0, 0].map(u16::to_le_bytes).concat());
    let offset = (image.len() + parts.len() * 56) as u64;
    for (kind, address) in parts {
        image.extend(kind.to_le_bytes());
        image.extend(5u32.to_le_bytes());
        let length = note.len() as u64;
        image
            .extend([offset, *address, *address, length, length, 8].map(u64::to_le_bytes).concat());
    }
    image.extend(note);
    image
}
