//! What is expected of each device. A panic is the machine's end, with its reason.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

use virtio_drivers::device::blk::{BlkReq, BlkResp, RespStatus, SECTOR_SIZE, VirtIOBlk};
use virtio_drivers::device::net::VirtIONet;
use virtio_drivers::device::rng::VirtIORng;
use virtio_drivers::device::socket::{
    VMADDR_CID_HOST, VirtIOSocket, VsockAddr, VsockConnectionManager, VsockEventType,
};
use virtio_drivers::transport::pci::PciTransport;

use crate::machine::Same;
use crate::runtime::say;

/// Sectors that are moved at a time, and requests that are under way at once.
const PIECE: usize = 16;
const AT_ONCE: usize = 4;

/// A request that is under way: the device reads it, and writes the answer.
struct Request {
    token: u16,
    at: usize,
    header: BlkReq,
    data: Vec<u8>,
    answer: BlkResp,
}

type Disk = VirtIOBlk<Same, PciTransport>;

/// Which way.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    Read,
    Write,
}

/// Moves what `all` has to or from the disk, from sector `from` on, with several requests at a time.
fn transfer(disk: &mut Disk, way: Way, from: usize, all: &mut [u8]) {
    let sectors = all.len() / SECTOR_SIZE;
    let place = |at: usize, length: usize| at * SECTOR_SIZE..at * SECTOR_SIZE + length;
    let mut next = 0;
    let mut under_way: Vec<Box<Request>> = Vec::new();
    while next < sectors || !under_way.is_empty() {
        while next < sectors && under_way.len() < AT_ONCE {
            let length = PIECE.min(sectors - next) * SECTOR_SIZE;
            let data = all[place(next, length)].to_vec();
            let (header, answer) = Default::default();
            // In a box, where it stays.
            let mut one = Box::new(Request { token: 0, at: next, header, data, answer });
            let Request { token, header, data, answer, .. } = &mut *one;
            // SAFETY: nobody looks at them before the request is completed.
            let begun = unsafe {
                match way {
                    Way::Read => disk.read_blocks_nb(from + next, header, data, answer),
                    Way::Write => disk.write_blocks_nb(from + next, header, data, answer),
                }
            };
            *token = begun.expect("room in the ring");
            under_way.push(one);
            next += PIECE;
        }
        let Some(done) = disk.peek_used() else { continue };
        let which = under_way.iter().position(|one| one.token == done).expect("one of ours");
        let mut one = under_way.swap_remove(which);
        let Request { token, at, header, data, answer } = &mut *one;
        // SAFETY: the same that it was begun with.
        let completed = unsafe {
            match way {
                Way::Read => disk.complete_read_blocks(*token, header, data, answer),
                Way::Write => disk.complete_write_blocks(*token, header, data, answer),
            }
        };
        completed.expect("it is done");
        assert_eq!(answer.status(), RespStatus::OK);
        if way == Way::Read {
            all[place(*at, data.len())].copy_from_slice(data);
        }
    }
}

pub fn disk(transport: PciTransport) {
    let mut disk = Disk::new(transport).expect("a disk");
    let sectors = disk.capacity() as usize;
    let half = sectors / 2;
    let mut serial = [0; 20];
    let length = disk.device_id(&mut serial).expect("a serial number");
    let serial = core::str::from_utf8(&serial[..length]).expect("text");
    say!("disk: {sectors} sectors, serial number {serial}, read-only: {}", disk.readonly());
    let mut first = vec![0; half * SECTOR_SIZE];
    transfer(&mut disk, Way::Read, 0, &mut first);
    transfer(&mut disk, Way::Write, half, &mut first);
    disk.flush().expect("it is flushed");
    let mut second = vec![0; half * SECTOR_SIZE];
    transfer(&mut disk, Way::Read, half, &mut second);
    assert!(first == second, "what was written is not what is read");
    let mut one = vec![0; 2 * SECTOR_SIZE];
    let beyond = disk.read_blocks(sectors - 1, &mut one);
    assert!(beyond.is_err(), "what lies behind the end was read");
    let beyond = disk.write_blocks(sectors, &one[..SECTOR_SIZE]);
    assert!(beyond.is_err(), "what lies behind the end was written");
    disk.read_blocks(0, &mut one).expect("it goes on after an error");
    assert!(one == first[..one.len()]);
    say!("disk: copied {half} sectors");
}

pub fn random(transport: PciTransport) {
    let mut source = VirtIORng::<Same, _>::new(transport).expect("a source");
    let mut both = [[0u8; 64]; 2];
    for one in &mut both {
        let count = source.request_entropy(one).expect("numbers");
        assert!((1..=one.len()).contains(&count), "{count} bytes");
        assert!(one.iter().any(|byte| *byte != 0), "zeroes");
    }
    assert_ne!(both[0], both[1]);
    say!("random: two different answers");
}

/// Entries of the network's rings, and how often they go round.
const RING: usize = 16;
const ROUNDS: usize = 20;
const OURS: [u8; 4] = [10, 0, 9, 9];
const BRIDGE: [u8; 4] = [10, 0, 9, 1];
const FRAME: usize = 42;

pub fn network(transport: PciTransport) {
    let mut card = VirtIONet::<Same, _, RING>::new(transport, 2048).expect("a card");
    let mac = card.mac_address();
    let mut answers = 0;
    for _ in 0..RING * ROUNDS {
        let mut frame = card.new_tx_buffer(FRAME);
        frame.packet_mut().copy_from_slice(&question(&mac));
        card.send(frame).expect("it is sent");
        // Others speak as well.
        loop {
            let Ok(received) = card.receive() else { continue };
            let is_answer = answers_us(received.packet(), &mac);
            card.recycle_rx_buffer(received).expect("there is room");
            if is_answer {
                break;
            }
        }
        answers += 1;
    }
    let [a, b, c, d, e, f] = mac;
    say!("network: {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}: {answers} answers");
}

/// Who has the bridge's address?
fn question(mac: &[u8; 6]) -> [u8; FRAME] {
    let mut frame = [0; FRAME];
    let parts: [&[u8]; 8] = [
        &[0xff; 6],
        mac,
        // ARP, of Ethernet and IPv4, a request
        &[0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1],
        mac,
        &OURS,
        &[0; 6],
        &BRIDGE,
        &[],
    ];
    let mut at = 0;
    for part in parts {
        frame[at..at + part.len()].copy_from_slice(part);
        at += part.len();
    }
    frame
}

/// Whether it is the bridge's answer to that.
fn answers_us(frame: &[u8], mac: &[u8; 6]) -> bool {
    frame.len() >= FRAME
        && frame[..6] == *mac
        && frame[12..22] == [0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 2]
        && frame[28..32] == BRIDGE
        && frame[38..42] == OURS
}

const PORT: u32 = 7;
const OUR_PORT: u32 = 4000;
/// Bytes that are sent in all, and at a time.
const SENT: usize = 64 << 10;
const MESSAGE: usize = 1000;

pub fn socket(transport: PciTransport) {
    let driver = VirtIOSocket::<Same, _>::new(transport).expect("a socket device");
    let mut sockets = VsockConnectionManager::new(driver);
    let host = VsockAddr { cid: VMADDR_CID_HOST, port: PORT };
    sockets.connect(host, OUR_PORT).expect("it is asked");
    let event = sockets.wait_for_event().expect("an event").event_type;
    assert_eq!(event, VsockEventType::Connected);
    let message: Vec<u8> = (0..MESSAGE).map(|at| (at % 251) as u8).collect();
    let mut received = 0;
    while received < SENT {
        sockets.send(host, OUR_PORT, &message).expect("it is sent");
        let until = received + MESSAGE;
        while received < until {
            let _ = sockets.poll().expect("an event, or none");
            let mut part = [0; 128];
            let count = sockets.recv(host, OUR_PORT, &mut part).expect("bytes, or none");
            if count == 0 {
                continue;
            }
            for (at, byte) in part[..count].iter().enumerate() {
                assert_eq!(usize::from(*byte), (received % MESSAGE + at) % MESSAGE % 251);
            }
            received += count;
            sockets.update_credit(host, OUR_PORT).expect("it is told");
        }
    }
    sockets.shutdown(host, OUR_PORT).expect("it is told");
    say!("socket: CID {}, {received} bytes came back", sockets.guest_cid());
}
