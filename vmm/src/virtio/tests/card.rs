//! The common configuration and the card's queues.

use super::driver::Driver;
use super::*;
use crate::virtio::net::feature;

#[test]
fn features_are_agreed_on_before_they_count() {
    let guest = Guest::new();
    guest.negotiate(0xffff_ffff);
    assert_eq!(guest.status(), ACKNOWLEDGE_DRIVER, "no legacy drivers");
    guest.write(0x08, &1u32.to_le_bytes());
    guest.write(0x0c, &3u32.to_le_bytes());
    guest.write(0x14, &[ACKNOWLEDGE_DRIVER | FEATURES_OK]);
    assert_eq!(guest.status(), ACKNOWLEDGE_DRIVER, "bit 33 was not offered");
    guest.negotiate(u64::MAX);
    assert_eq!(guest.status(), ACKNOWLEDGE_DRIVER | FEATURES_OK);
    guest.write(0x0c, &0u32.to_le_bytes());
    assert_eq!(guest.read(0x0c, 4), 1, "too late to change them");
}

#[test]
fn queues_are_not_used_before_the_driver_may_use_them() {
    let mut guest = Guest::new();
    guest.set_up_queues();
    guest.write(0x14, &[ACKNOWLEDGE_DRIVER | DRIVER_OK]);
    guest.describe(TRANSMIT, 0, BUFFER, 64, 0);
    guest.offer(TRANSMIT, 0);
    assert_eq!((guest.used(TRANSMIT), guest.status() & NEEDS_RESET), (0, 0));
}

#[test]
fn impossible_queues_are_refused() {
    let guest = Guest::new();
    for size in [0u16, 3, 512, u16::MAX] {
        guest.write(0x18, &size.to_le_bytes());
        assert_eq!(guest.read(0x18, 2), 256, "{size}");
    }
    guest.write(0x1a, &3u16.to_le_bytes());
    assert_eq!(guest.read(0x1a, 2), 0xffff, "there is no such vector");
    guest.write(0x16, &2u16.to_le_bytes());
    assert_eq!(guest.read(0x18, 2), 0, "there is no such queue");
    for address in [u64::MAX, u64::MAX - 15, MIN_MEMORY - 16, 1 << 63, 0xfee0_0000] {
        for register in [0x20, 0x28, 0x30] {
            let guest = Guest::new();
            guest.negotiate(u64::MAX);
            guest.set_up_queues();
            guest.write(register, &(address & !15).to_le_bytes());
            guest.write(0x14, &[ACKNOWLEDGE_DRIVER | FEATURES_OK | DRIVER_OK]);
            assert_eq!(guest.status() & NEEDS_RESET, NEEDS_RESET, "{register:#x} {address:#x}");
            assert_eq!(guest.pending(), 1, "and the driver is told");
            guest.write(0x14, &[0]);
            assert_eq!(guest.status(), 0);
        }
    }
}

#[test]
fn a_running_queue_cannot_be_moved() {
    let mut guest = Guest::started();
    guest.write(0x16, &TRANSMIT.to_le_bytes());
    guest.write(0x20, &u64::MAX.to_le_bytes());
    guest.write(0x1c, &0u16.to_le_bytes());
    assert_eq!(guest.read(0x20, 8), base(TRANSMIT));
    guest.describe(TRANSMIT, 0, BUFFER, 64, 0);
    guest.offer(TRANSMIT, 0);
    assert_eq!(guest.used(TRANSMIT), 1);
}

#[test]
fn a_frame_leaves_without_the_guests_header() {
    let mut guest = Guest::started_with(!feature::CSUM);
    guest.put(BUFFER, &[0xff; HEADER]);
    guest.put(BUFFER + 0x1000, b"a frame");
    guest.describe(TRANSMIT, 0, BUFFER, HEADER as u32, DESCRIPTOR_NEXT);
    guest.describe(TRANSMIT, 1, BUFFER + 0x1000, 7, 0);
    guest.offer(TRANSMIT, 0);
    let mut frame = [0xff; 64];
    assert_eq!(guest.wire.recv(&mut frame).unwrap(), HEADER + 7);
    assert_eq!(frame[..HEADER], [0; HEADER]);
    assert_eq!(&frame[HEADER..HEADER + 7], b"a frame");
    assert_eq!((guest.used(TRANSMIT), guest.pending()), (1, 1 << 2));
}

#[test]
fn what_is_no_frame_is_not_sent() {
    let mut guest = Guest::started();
    for (length, flags) in [(0, 0), (12, 0), (0x20_0000, 0), (64, DESCRIPTOR_WRITE)] {
        guest.describe(TRANSMIT, 0, BUFFER, length, flags);
        guest.offer(TRANSMIT, 0);
    }
    assert!(guest.wire.recv(&mut [0; 64]).is_err());
    assert_eq!((guest.used(TRANSMIT), guest.status() & NEEDS_RESET), (4, 0));
}

#[test]
fn frames_wait_for_buffers_and_buffers_for_frames() {
    let mut guest = Guest::started();
    let frame = [&[0; HEADER][..], b"hello"].concat();
    guest.wire.send(&frame).unwrap();
    guest.net.ready(TAP);
    assert_eq!(guest.used(RECEIVE), 0);
    guest.describe(RECEIVE, 0, BUFFER, 2048, DESCRIPTOR_WRITE);
    guest.offer(RECEIVE, 0);
    assert_eq!((guest.used(RECEIVE), guest.pending()), (1, 1 << 1));
    let mut expected = vec![0; HEADER];
    expected[10] = 1;
    expected.extend(b"hello");
    assert_eq!(guest.get(BUFFER, expected.len()), expected);
    guest.offer(RECEIVE, 0);
    assert_eq!(guest.used(RECEIVE), 1, "there is no frame");
    guest.wire.send(&frame).unwrap();
    guest.net.ready(TAP);
    assert_eq!(guest.used(RECEIVE), 2);
}

#[test]
fn a_frame_that_does_not_fit_is_lost_alone() {
    let mut guest = Guest::started_with(!feature::MRG_RXBUF);
    guest.describe(RECEIVE, 0, BUFFER, 20, DESCRIPTOR_WRITE);
    guest.offer(RECEIVE, 0);
    guest.wire.send(&[&[0; HEADER][..], &[1; 52]].concat()).unwrap();
    guest.wire.send(&[&[0; HEADER][..], &[2; 4]].concat()).unwrap();
    guest.net.ready(TAP);
    assert_eq!(guest.used(RECEIVE), 1);
    assert_eq!(guest.get(BUFFER + HEADER as u64, 4), [2; 4]);
}

#[test]
fn a_broken_queue_stops_the_card_until_it_is_reset() {
    type Break = fn(&mut Guest);
    let breaks: [(&str, Break); 5] = [
        ("a buffer outside of memory", |guest| {
            guest.describe(TRANSMIT, 0, u64::MAX - 8, 64, 0);
            guest.offer(TRANSMIT, 0);
        }),
        ("a buffer across the end of memory", |guest| {
            guest.describe(TRANSMIT, 0, MIN_MEMORY - 8, 64, 0);
            guest.offer(TRANSMIT, 0);
        }),
        ("a head that does not exist", |guest| guest.offer(TRANSMIT, QUEUE_SIZE)),
        ("more buffers than the queue holds", |guest| {
            guest.offered[1] = QUEUE_SIZE + 1;
            guest.offer(TRANSMIT, 0);
        }),
        ("an index that goes back", |guest| {
            guest.describe(TRANSMIT, 0, BUFFER, 64, 0);
            guest.offer(TRANSMIT, 0);
            guest.offered[1] = u16::MAX;
            guest.offer(TRANSMIT, 0);
        }),
    ];
    for (name, break_it) in breaks {
        let mut guest = Guest::started();
        break_it(&mut guest);
        assert_eq!(guest.status() & NEEDS_RESET, NEEDS_RESET, "{name}");
        assert_eq!(guest.pending() & 1, 1, "{name}: the driver is told");
        guest.net.ready(u32::from(TRANSMIT));
        guest.write(0x14, &[0]);
        guest.offered = [0; 2];
        guest.put(base(TRANSMIT) + 0x2000, &[0; 4]);
        guest.negotiate(u64::MAX);
        guest.set_up_queues();
        guest.write(0x14, &[ACKNOWLEDGE_DRIVER | FEATURES_OK | DRIVER_OK]);
        guest.describe(TRANSMIT, 0, BUFFER, 64, 0);
        guest.offer(TRANSMIT, 0);
        assert_eq!(guest.used(TRANSMIT), 1, "{name}: works again");
    }
}

#[test]
fn a_chain_in_a_circle_ends() {
    let mut guest = Guest::started();
    for index in 0..QUEUE_SIZE {
        guest.describe(TRANSMIT, index, BUFFER, 1, DESCRIPTOR_NEXT);
    }
    guest.offer(TRANSMIT, 0);
    assert_eq!(guest.used(TRANSMIT), 1);
}

#[test]
fn frames_go_through_packed_rings_that_go_round() {
    let (net, wire) = card();
    let mut driver = Driver::packed(net.clone());
    // Without frames in several buffers.
    driver.start(!(1 << 15));
    driver.choose(RECEIVE);
    let data = BUFFER + HEADER as u64;
    driver.describe(0, BUFFER, 20, DESCRIPTOR_WRITE | DESCRIPTOR_NEXT);
    driver.describe(1, BUFFER + 20, 1000, DESCRIPTOR_WRITE);
    // There is always one for which there is no frame: the card leaves it where it is.
    driver.offer(&[0, 0]);
    for round in 1..=100 {
        // Of two frames the first one fits no buffer, and the next gets it.
        wire.send(&[0; 1021]).unwrap();
        let frame = [&[0; HEADER][..], &round.to_string().repeat(9).into_bytes()].concat();
        wire.send(&frame).unwrap();
        net.ready(TAP);
        assert_eq!((driver.used(), driver.offered), (round, round + 1));
        let length = frame.len() - HEADER;
        assert_eq!(driver.get(data, length), frame[HEADER..]);
        driver.offer(&[0]);
        driver.choose(TRANSMIT);
        driver.describe(0, BUFFER + 0x1000, HEADER as u32, DESCRIPTOR_NEXT);
        driver.describe(1, data, length as u32, 0);
        driver.offer(&[0]);
        net.ready(u32::from(TRANSMIT));
        assert_eq!(driver.used(), round);
        let mut sent = [0; 64];
        assert_eq!(wire.recv(&mut sent).unwrap(), frame.len());
        assert_eq!(sent[HEADER..frame.len()], frame[HEADER..]);
        driver.choose(RECEIVE);
    }
}

/// The driver sees none of a frame's buffers before all of them.
#[test]
fn a_frame_is_in_several_buffers_of_a_packed_ring() {
    let (net, wire) = card();
    let mut driver = Driver::packed(net.clone());
    driver.start(u64::MAX);
    driver.choose(RECEIVE);
    for index in 0..3 {
        driver.describe(index, BUFFER + 0x400 * u64::from(index), 256, DESCRIPTOR_WRITE);
    }
    for round in 1..=20 {
        driver.offer(&[0, 1]);
        let mut frame = vec![0; HEADER + 700];
        frame[HEADER..].fill(round as u8);
        wire.send(&frame).unwrap();
        net.ready(TAP);
        assert_eq!(driver.used(), 3 * (round - 1), "a third one is missing");
        driver.offer(&[2]);
        net.ready(u32::from(RECEIVE));
        assert_eq!(driver.used(), 3 * round);
        assert_eq!(driver.get(BUFFER + 10, 2), [3, 0], "how many it is in");
        assert_eq!(driver.get(BUFFER + 0x800, 200), frame[512..]);
    }
}

#[test]
fn nothing_is_used_after_a_reset() {
    let mut guest = Guest::started();
    guest.describe(RECEIVE, 0, BUFFER, 2048, DESCRIPTOR_WRITE);
    guest.offer(RECEIVE, 0);
    guest.write(0x14, &[0]);
    guest.wire.send(&[0; 64]).unwrap();
    guest.net.ready(TAP);
    assert_eq!(guest.used(RECEIVE), 0);
}

#[test]
fn what_a_driver_asks_of_the_tap_is_handed_on_where_that_was_agreed_on() {
    let mut guest = Guest::started();
    guest.put(BUFFER, &[1, 1, 54, 0, 0xb4, 5, 34, 0, 16, 0, 0, 0]);
    guest.put(BUFFER + HEADER as u64, &[7; 3000]);
    // The header and the frame are in pieces of any size.
    guest.describe(TRANSMIT, 0, BUFFER, 5, DESCRIPTOR_NEXT);
    guest.describe(TRANSMIT, 1, BUFFER + 5, 107, DESCRIPTOR_NEXT);
    guest.describe(TRANSMIT, 2, BUFFER + 112, 2900, 0);
    guest.offer(TRANSMIT, 0);
    let mut frame = [0; 4096];
    assert_eq!(guest.wire.recv(&mut frame).unwrap(), HEADER + 3000);
    assert_eq!(frame[..HEADER], [1, 1, 54, 0, 0xb4, 5, 34, 0, 16, 0, 0, 0]);
    assert!(frame[HEADER..HEADER + 3000].iter().all(|byte| *byte == 7));
}

/// The first `count` buffers of the queue for frames, each of `length` bytes, one behind the other.
fn offer_buffers(guest: &mut Guest, heads: std::ops::Range<u16>, length: u32) {
    for head in heads {
        let at = BUFFER + u64::from(head) * u64::from(length);
        guest.describe(RECEIVE, head, at, length, DESCRIPTOR_WRITE);
        guest.offer(RECEIVE, head);
    }
}

#[test]
fn a_large_frame_is_in_several_buffers_that_come_at_once() {
    let mut guest = Guest::started();
    let mut frame = vec![0; HEADER];
    // A segment of TCP over IPv4 whose checksum is not filled in.
    (frame[0], frame[1]) = (1, 1);
    frame.extend((0..5000u32).map(|byte| byte as u8));
    // The first buffer ends within the number of buffers.
    offer_buffers(&mut guest, 0..1, 11);
    guest.wire.send(&frame).unwrap();
    guest.wire.send(&[0; 64]).unwrap();
    guest.net.ready(TAP);
    assert_eq!((guest.used(RECEIVE), guest.pending()), (0, 0), "it waits for more");
    for head in 1..4 {
        let (at, length) = (BUFFER + 11 + u64::from(head - 1) * 2000, 2000);
        guest.describe(RECEIVE, head, at, length, DESCRIPTOR_WRITE);
        guest.offer(RECEIVE, head);
    }
    assert_eq!((guest.used(RECEIVE), guest.pending()), (4, 1 << 1));
    (frame[10], frame[11]) = (4, 0);
    assert_eq!(guest.get(BUFFER, frame.len()), frame);
    let used: Vec<_> = (0..4).map(|at| guest.get(base(RECEIVE) + 0x2004 + 8 * at, 8)).collect();
    let expected = [(0, 11), (1, 2000), (2, 2000), (3, 1001)]
        .map(|(head, length): (u32, u32)| [head.to_le_bytes(), length.to_le_bytes()].concat());
    assert_eq!(used, expected);
    // The next frame is whole, with a header of its own.
    offer_buffers(&mut guest, 4..5, 2000);
    assert_eq!(guest.used(RECEIVE), 5);
    assert_eq!(guest.get(BUFFER + 8000 + 10, 2), [1, 0]);
}

#[test]
fn a_driver_is_told_where_it_wants_to_be_also_of_buffers_that_come_at_once() {
    let mut guest = Guest::started();
    // It wants to hear of the second buffer, of three that come together.
    guest.put(base(RECEIVE) + 0x1004 + 2 * u64::from(QUEUE_SIZE), &[1, 0]);
    offer_buffers(&mut guest, 0..3, 100);
    guest.wire.send(&[0; 280]).unwrap();
    guest.net.ready(TAP);
    assert_eq!((guest.used(RECEIVE), guest.pending()), (3, 1 << 1));
}

#[test]
fn buffers_that_hold_nothing_are_not_taken_for_ever() {
    let mut guest = Guest::started();
    guest.wire.send(&[0; 64]).unwrap();
    for round in 0..2 * QUEUE_SIZE {
        guest.describe(RECEIVE, 0, BUFFER, 0, DESCRIPTOR_WRITE);
        guest.offer(RECEIVE, 0);
        let is_broken = guest.status() & NEEDS_RESET != 0;
        assert_eq!(is_broken, round >= QUEUE_SIZE - 1, "{round}");
    }
}

#[test]
fn accesses_without_sense_are_harmless() {
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    let guest = Guest::new();
    for _ in 0..200_000 {
        let part =
            [COMMON, DEVICE, NOTIFY, MSIX_TABLE, MSIX_PENDING, 0x7000][numbers.next() as usize % 6];
        let offset =
            part + numbers.next() % if numbers.next().is_multiple_of(4) { 0x1000 } else { 0x40 };
        let mut data = numbers.next().to_le_bytes();
        let width = 1 << (numbers.next() % 4);
        match numbers.next() % 4 {
            0 => guest.bar.read(offset, &mut data[..width]),
            1 => guest.bar.write(offset, &vec![0; width]),
            _ => guest.bar.write(offset, &data[..width]),
        }
        if numbers.next().is_multiple_of(16) {
            guest.net.ready((numbers.next() % 3) as u32);
        }
    }
}

/// Address and status.
fn config(bar: &Structures) -> [u8; 8] {
    let mut data = [0xee; 8];
    bar.read(DEVICE, &mut data);
    data
}

#[test]
fn a_driver_that_wants_to_know_is_told_of_its_link() {
    const UP: [u8; 8] = [2, 0, 0, 0, 0, 1, 1, 0];
    const DOWN: [u8; 8] = [2, 0, 0, 0, 0, 1, 0, 0];
    let guest = Guest::started();
    let cause = |guest: &Guest| {
        let mut isr = [0];
        guest.bar.read(STATUS, &mut isr);
        isr[0]
    };
    let link = &guest.net.config;
    assert_eq!((config(&guest.bar), guest.read(0x15, 1)), (UP, 0));
    link.set_link(true);
    assert_eq!((guest.read(0x15, 1), guest.pending()), (0, 0), "that is no news");
    link.set_link(false);
    assert_eq!((config(&guest.bar), guest.read(0x15, 1)), (DOWN, 1));
    assert_eq!((guest.pending(), cause(&guest), cause(&guest)), (1, 2, 0));
    link.set_link(true);
    assert_eq!((config(&guest.bar), guest.read(0x15, 1), cause(&guest)), (UP, 2, 2));

    // One that is not there, or cannot hear of it, finds it as it is.
    guest.write(0x14, &[0]);
    link.set_link(false);
    assert_eq!((config(&guest.bar), cause(&guest)), (DOWN, 0));
    guest.negotiate(!feature::STATUS);
    guest.set_up_queues();
    guest.write(0x14, &[ACKNOWLEDGE_DRIVER | FEATURES_OK | DRIVER_OK]);
    link.set_link(true);
    assert_eq!((config(&guest.bar), cause(&guest)), (UP, 0));
}

#[test]
fn the_address_is_read_in_any_width() {
    let (net, _wire) = card();
    let mut data = [0xee; 8];
    net.read_config(0, &mut data);
    assert_eq!(data, [2, 0, 0, 0, 0, 1, 1, 0]);
    net.read_config(0xfff, &mut data);
    assert_eq!(data, [0; 8]);
}

#[test]
fn a_buffer_has_no_more_descriptors_than_the_largest_queue() {
    for (count, is_sent) in [(256, true), (257, false), (65_535, false)] {
        let mut guest = Guest::started();
        let table: Vec<u8> = (0..count)
            .flat_map(|index: u16| {
                let next = if index + 1 == count { 0 } else { DESCRIPTOR_NEXT };
                let mut entry = BUFFER.to_le_bytes().to_vec();
                entry.extend(1u32.to_le_bytes());
                entry.extend(next.to_le_bytes());
                entry.extend((index + 1).to_le_bytes());
                entry
            })
            .collect();
        guest.put(BUFFER + 0x10_0000, &table);
        guest.describe(TRANSMIT, 0, BUFFER + 0x10_0000, table.len() as u32, DESCRIPTOR_TABLE);
        guest.offer(TRANSMIT, 0);
        assert_eq!(guest.used(TRANSMIT) == 1, is_sent, "{count}");
        assert_eq!(guest.status() & NEEDS_RESET == 0, is_sent, "{count}");
    }
}
