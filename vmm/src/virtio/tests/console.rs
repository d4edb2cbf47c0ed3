//! The ports of a console.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use tempfile::TempDir;

use super::driver::Driver;
use super::*;
use crate::machine::event_loop::EventLoop;
use crate::spec::{Descriptor, Port, PortStats};
use crate::virtio::console::{CLIENTS, LISTENERS, VirtioConsole};

/// The least that a driver accepts.
const VERSION_1: u64 = 1 << 32;

/// The ports by their numbers: the console comes first.
const NAMES: [&str; 3] = ["hvc", "agent", "log"];
const HVC: u32 = 0;
const AGENT: u32 = 1;
const LOG: u32 = 2;
const QUEUES: u16 = 8;
const CONTROL_IN: u16 = 2;
const CONTROL_OUT: u16 = 3;

const DEVICE_READY: u16 = 0;
const DEVICE_ADD: u16 = 1;
const PORT_READY: u16 = 3;
const CONSOLE_PORT: u16 = 4;
const PORT_OPEN: u16 = 6;
const PORT_NAME: u16 = 7;

/// Bytes of each receive buffer.
const ROOM: u32 = 0x100;

/// A console, its driver, and where its clients come.
struct Machine {
    driver: Driver,
    console: Arc<VirtioConsole>,
    folder: TempDir,
    /// How many used buffers of each queue were seen.
    seen: [u16; QUEUES as usize],
}

fn input(port: u32) -> u16 {
    if port == 0 { 0 } else { 2 * (port as u16 + 1) }
}

fn output(port: u32) -> u16 {
    input(port) + 1
}

/// Where the receive buffers of a queue are.
fn room(queue: u16, index: u16) -> u64 {
    BUFFER + u64::from(queue) * 0x1_0000 + u64::from(index) * u64::from(ROOM)
}

fn console() -> (Arc<VirtioConsole>, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    // In the order of a document.
    let ports = ["agent", "hvc", "log"].map(|name| {
        let listener = UnixListener::bind(folder.path().join(name)).unwrap();
        let console = name == "hvc";
        let port = Port { name: name.to_owned(), console, socket: Descriptor(-1) };
        (port, listener.into())
    });
    (Arc::new(VirtioConsole::new(ports.into()).unwrap()), folder)
}

impl Machine {
    fn new() -> Machine {
        let (console, folder) = console();
        Machine { driver: Driver::new(console.clone()), console, folder, seen: [0; 8] }
    }

    /// With a driver that knows the ports and has room in all queues.
    fn started() -> Machine {
        let mut machine = Machine::new();
        machine.start();
        machine
    }

    fn start(&mut self) {
        self.driver.choose(0);
        self.driver.start(u64::MAX);
        self.seen = [0; 8];
        for queue in [CONTROL_IN, input(HVC), input(AGENT), input(LOG)] {
            self.give_room(queue, 0..QUEUE_SIZE);
        }
        self.say(u32::MAX, DEVICE_READY, 1);
        for port in [HVC, AGENT, LOG] {
            self.say(port, PORT_READY, 1);
        }
        self.messages();
    }

    /// A turn of the event loop for each queue.
    fn turn(&self) {
        (0..QUEUES.into()).for_each(|queue| self.console.ready(queue));
    }

    /// Offers these of the receive buffers.
    fn give_room(&mut self, queue: u16, buffers: std::ops::Range<u16>) {
        self.driver.choose(queue);
        for index in buffers.clone() {
            self.driver.describe(index, room(queue, index), ROOM, DESCRIPTOR_WRITE);
        }
        self.driver.offer(&buffers.collect::<Vec<_>>());
        self.turn();
    }

    /// What came in the receive buffers since the last time, which are offered again.
    fn come(&mut self, queue: u16) -> Vec<Vec<u8>> {
        self.driver.choose(queue);
        let (mut all, mut heads) = (Vec::new(), Vec::new());
        let seen = &mut self.seen[usize::from(queue)];
        while *seen != self.driver.used() {
            let entry = base(queue) + 0x2004 + u64::from(*seen % QUEUE_SIZE) * 8;
            let entry = self.driver.get(entry, 8);
            let (head, length) = (u16::from(entry[0]), u16::from_le_bytes([entry[4], entry[5]]));
            all.push(self.driver.get(room(queue, head), length.into()));
            heads.push(head);
            *seen = seen.wrapping_add(1);
        }
        self.driver.offer(&heads);
        self.turn();
        all
    }

    /// The same as one text.
    fn heard(&mut self, port: u32) -> String {
        String::from_utf8(self.come(input(port)).concat()).unwrap()
    }

    /// Offers `bytes`; whether they were taken.
    fn send(&mut self, queue: u16, bytes: &[u8]) -> bool {
        self.driver.choose(queue);
        self.driver.put(room(queue, 0), bytes);
        self.driver.describe(0, room(queue, 0), bytes.len() as u32, 0);
        self.driver.offer(&[0]);
        self.turn();
        self.driver.used() == self.driver.offered
    }

    /// A control message.
    fn say(&mut self, port: u32, event: u16, value: u16) {
        let bytes = [&port.to_le_bytes()[..], &event.to_le_bytes(), &value.to_le_bytes()].concat();
        assert!(self.send(CONTROL_OUT, &bytes));
    }

    /// What the driver was told since the last time: port, event, value and what follows.
    fn messages(&mut self) -> Vec<(u32, u16, u16, String)> {
        let mut all = Vec::new();
        loop {
            let messages = self.come(CONTROL_IN);
            if messages.is_empty() {
                return all;
            }
            all.extend(messages.iter().map(|message| {
                let [a, b, c, d, event, _, value, _] = message[..8] else { unreachable!() };
                let number = u32::from_le_bytes([a, b, c, d]);
                let more = String::from_utf8(message[8..].to_vec()).unwrap();
                (number, event.into(), value.into(), more)
            }));
        }
    }

    /// Somebody who is at the door of a port.
    fn knock(&self, port: u32) -> UnixStream {
        let stream = UnixStream::connect(self.folder.path().join(NAMES[port as usize])).unwrap();
        stream.set_nonblocking(true).unwrap();
        self.console.ready(LISTENERS | port);
        stream
    }

    /// Something is to be read of a client, or there is room for it.
    fn stir(&self, port: u32) {
        self.console.ready(CLIENTS | port);
    }

    /// A client of a port that the guest uses.
    fn connected(&mut self, port: u32) -> UnixStream {
        let client = self.knock(port);
        self.say(port, PORT_OPEN, 1);
        self.messages();
        client
    }

    fn stats(&self, port: u32) -> PortStats {
        self.console.stats().swap_remove(port as usize)
    }
}

fn read(client: &mut UnixStream) -> String {
    let mut bytes = vec![0; 1 << 16];
    match client.read(&mut bytes) {
        Ok(0) => "its end".to_owned(),
        Ok(count) => String::from_utf8_lossy(&bytes[..count]).into_owned(),
        Err(error) if error.kind() == ErrorKind::WouldBlock => String::new(),
        Err(error) => panic!("{error}"),
    }
}

fn no(event: u16, value: u16) -> impl Fn(u32) -> (u32, u16, u16, String) {
    move |port| (port, event, value, String::new())
}

#[test]
fn a_driver_is_told_of_all_ports_and_what_they_are() {
    let mut machine = Machine::new();
    let mut most = [0; 12];
    machine.driver.bar.read(DEVICE, &mut most);
    assert_eq!(most, [0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0]);
    machine.driver.start(u64::MAX);
    machine.give_room(CONTROL_IN, 0..QUEUE_SIZE);
    assert_eq!(machine.messages(), [], "it has not asked");
    machine.say(u32::MAX, DEVICE_READY, 1);
    assert_eq!(machine.messages(), [HVC, AGENT, LOG].map(no(DEVICE_ADD, 1)));
    let _client = machine.knock(LOG);
    assert_eq!(machine.messages(), [], "it is not ready");
    for port in [LOG, HVC, AGENT] {
        machine.say(port, PORT_READY, 1);
        let name = (port, PORT_NAME, 1, NAMES[port as usize].to_owned());
        let expected = match port {
            // A console has somebody there in any case.
            HVC => vec![no(CONSOLE_PORT, 1)(port), name, no(PORT_OPEN, 1)(port)],
            AGENT => vec![name],
            _ => vec![name, no(PORT_OPEN, 1)(port)],
        };
        assert_eq!(machine.messages(), expected);
    }
    // A port that it cannot use is none.
    machine.say(LOG, PORT_READY, 0);
    assert_eq!(machine.messages(), []);
    // All of it again.
    machine.say(u32::MAX, DEVICE_READY, 1);
    assert_eq!(machine.messages(), [HVC, AGENT, LOG].map(no(DEVICE_ADD, 1)));
}

#[test]
fn bytes_go_both_ways_and_the_guest_hears_who_is_there() {
    let mut machine = Machine::started();
    let mut client = machine.knock(AGENT);
    assert_eq!(machine.messages(), [no(PORT_OPEN, 1)(AGENT)]);
    client.write_all(b"hello").unwrap();
    machine.stir(AGENT);
    assert_eq!(machine.heard(AGENT), "", "nobody there has opened it");
    machine.say(AGENT, PORT_OPEN, 1);
    assert_eq!(machine.heard(AGENT), "hello");
    assert!(machine.send(output(AGENT), b"and you"));
    assert_eq!(read(&mut client), "and you");
    let told = PortStats {
        name: "agent".to_owned(),
        client: true,
        open: true,
        to_guest: 5,
        from_guest: 7,
        lost: 0,
    };
    assert_eq!(machine.stats(AGENT), told);

    // It closes the port, and what is said then waits.
    machine.say(AGENT, PORT_OPEN, 0);
    client.write_all(b"still there?").unwrap();
    machine.stir(AGENT);
    assert_eq!(machine.heard(AGENT), "");
    machine.say(AGENT, PORT_OPEN, 1);
    assert_eq!(machine.heard(AGENT), "still there?");

    drop(client);
    machine.stir(AGENT);
    assert_eq!(machine.messages(), [no(PORT_OPEN, 0)(AGENT)]);
    assert!(machine.send(output(AGENT), b"to nobody"), "nothing waits for one who is gone");
    assert_eq!((machine.stats(AGENT).client, machine.stats(AGENT).lost), (false, 9));
    let mut next = machine.knock(AGENT);
    assert_eq!(machine.messages(), [no(PORT_OPEN, 1)(AGENT)]);
    assert_eq!(read(&mut next), "", "it was not said to this one");
    assert!(machine.send(output(AGENT), b"again"));
    assert_eq!(read(&mut next), "again");
}

#[test]
fn what_a_client_said_before_it_left_is_heard() {
    let mut machine = Machine::started();
    let mut client = machine.knock(AGENT);
    client.write_all(b"do it").unwrap();
    drop(client);
    machine.stir(AGENT);
    machine.say(AGENT, PORT_OPEN, 1);
    assert_eq!(machine.heard(AGENT), "do it");
    let left = [no(PORT_OPEN, 1)(AGENT), no(PORT_OPEN, 0)(AGENT)];
    assert_eq!(machine.messages(), left);
    // So it is where the driver has buffers, and no reason to kick.
    machine.say(AGENT, PORT_OPEN, 0);
    let mut client = machine.knock(AGENT);
    client.write_all(b"and this").unwrap();
    drop(client);
    machine.stir(AGENT);
    assert!(machine.stats(AGENT).client);
    machine.driver.choose(CONTROL_OUT);
    let open = [AGENT as u8, 0, 0, 0, PORT_OPEN as u8, 0, 1, 0];
    machine.driver.put(room(CONTROL_OUT, 0), &open);
    machine.driver.describe(0, room(CONTROL_OUT, 0), 8, 0);
    machine.driver.offer(&[0]);
    machine.console.ready(CONTROL_OUT.into());
    assert!(!machine.stats(AGENT).client, "it was heard, and is let go of");
    assert_eq!(machine.heard(AGENT), "and this");
    assert_eq!(machine.messages(), left);
    // One that says nothing more still takes what the guest says.
    let mut client = machine.connected(AGENT);
    client.write_all(b"list").unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    machine.stir(AGENT);
    assert_eq!(machine.heard(AGENT), "list");
    assert!(machine.send(output(AGENT), b"a b c"));
    assert_eq!(read(&mut client), "a b c");
    drop(client);
    machine.stir(AGENT);
    assert!(!machine.stats(AGENT).client);
}

#[test]
fn one_client_at_a_time_is_let_in() {
    let mut machine = Machine::started();
    let mut first = machine.connected(AGENT);
    let mut second = machine.knock(AGENT);
    assert_eq!(read(&mut second), "its end");
    assert!(machine.send(output(AGENT), b"for the first"));
    assert_eq!(read(&mut first), "for the first");
    // One that has left makes room, although the guest has not taken all that it said.
    machine.say(AGENT, PORT_OPEN, 0);
    first.write_all(b"unheard").unwrap();
    drop(first);
    machine.stir(AGENT);
    assert!(machine.stats(AGENT).client, "its words are still there");
    let third = machine.knock(AGENT);
    machine.say(AGENT, PORT_OPEN, 1);
    let both = [no(PORT_OPEN, 0)(AGENT), no(PORT_OPEN, 1)(AGENT)];
    assert_eq!(machine.messages(), both, "the guest hears that it is another one");
    (&third).write_all(b"heard").unwrap();
    machine.stir(AGENT);
    assert_eq!(machine.heard(AGENT), "heard");
}

#[test]
fn however_often_clients_come_the_guest_hears_of_the_last() {
    let mut machine = Machine::new();
    machine.driver.start(u64::MAX);
    machine.give_room(CONTROL_IN, 0..3);
    machine.say(u32::MAX, DEVICE_READY, 1);
    machine.say(AGENT, PORT_READY, 1);
    // Its buffers are full of other messages.
    for _ in 0..1000 {
        drop(machine.knock(AGENT));
        machine.stir(AGENT);
    }
    let _last = machine.knock(AGENT);
    let name = (AGENT, PORT_NAME, 1, "agent".to_owned());
    let told = [HVC, AGENT, LOG].map(no(DEVICE_ADD, 1)).to_vec();
    assert_eq!(machine.messages(), [told, vec![name, no(PORT_OPEN, 1)(AGENT)]].concat());
    for _ in 0..1000 {
        machine.driver.choose(CONTROL_IN);
        drop(machine.knock(AGENT));
    }
    assert_eq!(machine.messages(), []);
    drop(_last);
    let _another = machine.knock(AGENT);
    let both = [no(PORT_OPEN, 0)(AGENT), no(PORT_OPEN, 1)(AGENT)];
    assert_eq!(machine.messages(), both);
}

#[test]
fn a_client_that_takes_nothing_keeps_the_guests_buffers_and_no_more() {
    let mut machine = Machine::started();
    let mut client = machine.connected(AGENT);
    let piece: Vec<u8> = (0..40_000u32).map(|at| (at % 251) as u8).collect();
    let mut sent = 0;
    while machine.send(output(AGENT), &piece) {
        sent += 1;
        assert!(sent < 1000, "there is an end");
    }
    assert_eq!(machine.stats(AGENT).lost, 0);
    // It goes on where it stopped, from within a buffer.
    let expected = piece.repeat(sent + 1);
    let (mut got, mut bytes) = (Vec::new(), vec![0; 1 << 16]);
    while got.len() < expected.len() {
        match client.read(&mut bytes) {
            Ok(count) => got.extend_from_slice(&bytes[..count]),
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        machine.stir(AGENT);
        machine.turn();
    }
    assert!(got == expected);
    machine.driver.choose(output(AGENT));
    assert_eq!(machine.driver.used(), machine.driver.offered);
    // One that leaves while the guest waits for it lets the guest go on.
    while machine.send(output(AGENT), &piece) {}
    drop(client);
    machine.stir(AGENT);
    machine.driver.choose(output(AGENT));
    assert_eq!(machine.driver.used(), machine.driver.offered);
}

#[test]
fn a_guest_without_buffers_reads_nothing_of_its_client() {
    let mut machine = Machine::started();
    let mut client = machine.connected(AGENT);
    let (mut said, mut stalls) = (Vec::new(), 0);
    while stalls < 3 {
        let piece: Vec<u8> = (0..1000).map(|at| b'a' + ((said.len() + at) % 23) as u8).collect();
        match client.write(&piece) {
            Ok(count) => said.extend_from_slice(&piece[..count]),
            Err(_) => stalls += 1,
        }
        machine.stir(AGENT);
    }
    assert!(machine.stats(AGENT).to_guest <= u64::from(ROOM) * u64::from(QUEUE_SIZE));
    let mut heard = String::new();
    while heard.len() < said.len() {
        heard += &machine.heard(AGENT);
    }
    assert_eq!(heard.into_bytes(), said);
}

#[test]
fn a_console_never_waits_for_who_reads_it() {
    let mut machine = Machine::started();
    assert!(machine.send(output(HVC), b"boot"), "nobody is there");
    assert_eq!(machine.stats(HVC).lost, 4);
    let mut client = machine.knock(HVC);
    assert_eq!(machine.messages(), [], "it knows no other state of a console");
    assert!(machine.send(output(HVC), b"login: "));
    assert_eq!(read(&mut client), "login: ");
    client.write_all(b"root\n").unwrap();
    machine.stir(HVC);
    assert_eq!(machine.heard(HVC), "root\n");
    let line = vec![b'x'; 10_000];
    assert!((0..200).all(|_| machine.send(output(HVC), &line)));
    let PortStats { from_guest, lost, .. } = machine.stats(HVC);
    assert!(lost > 0, "it did not keep up");
    assert_eq!(from_guest + lost, 2_000_000 + 4 + 7);
    while !read(&mut client).is_empty() {}
    assert!(machine.send(output(HVC), b"here"));
    assert_eq!(read(&mut client), "here");
}

#[test]
fn a_driver_of_one_port_has_the_console() {
    let mut machine = Machine::new();
    machine.driver.queues = vec![0, 1];
    machine.driver.start(VERSION_1);
    machine.give_room(0, 0..4);
    let mut client = machine.knock(HVC);
    assert!(machine.send(output(HVC), b"hello"));
    assert_eq!(read(&mut client), "hello");
    client.write_all(b"you").unwrap();
    machine.stir(HVC);
    assert_eq!(machine.heard(HVC), "you");
    // With the ports it has no queues for, nothing happens.
    let mut other = machine.knock(AGENT);
    other.write_all(b"?").unwrap();
    machine.stir(AGENT);
    assert!(machine.stats(AGENT).client && !machine.stats(AGENT).open);
}

#[test]
fn clients_stay_for_the_next_driver() {
    let mut machine = Machine::started();
    let mut client = machine.connected(AGENT);
    machine.driver.write(0x14, &[0]);
    client.write_all(b"are you there").unwrap();
    machine.stir(AGENT);
    assert!(machine.stats(AGENT).client && !machine.stats(AGENT).open);
    machine.start();
    machine.say(AGENT, PORT_OPEN, 1);
    assert_eq!(machine.heard(AGENT), "are you there");
}

#[test]
fn messages_without_sense_change_nothing() {
    let mut machine = Machine::started();
    let mut client = machine.connected(AGENT);
    for (port, event, value) in [
        (3, PORT_READY, 1),
        (u32::MAX, PORT_OPEN, 1),
        (1 << 31, PORT_OPEN, 0),
        (AGENT, DEVICE_ADD, 1),
        (AGENT, CONSOLE_PORT, 1),
        (AGENT, 5, 1),
        (AGENT, PORT_NAME, 1),
        (AGENT, u16::MAX, u16::MAX),
        (u32::MAX, DEVICE_READY, 0),
    ] {
        machine.say(port, event, value);
    }
    for length in 0..8 {
        assert!(machine.send(CONTROL_OUT, &[0; 8][..length]), "{length}");
    }
    assert_eq!(machine.messages(), []);
    assert!(machine.send(output(AGENT), b""), "it is empty");
    assert!(machine.send(output(AGENT), b"fine"));
    assert_eq!(read(&mut client), "fine");
    // No room for a message: it is cut off. No room for a word: it waits.
    let mut machine = Machine::new();
    machine.driver.start(u64::MAX);
    machine.driver.choose(CONTROL_IN);
    for (index, length) in (0..).zip([0, 3, 8, 8]) {
        machine.driver.describe(index, room(CONTROL_IN, index), length, DESCRIPTOR_WRITE);
    }
    machine.driver.offer(&[0, 1, 2]);
    machine.say(u32::MAX, DEVICE_READY, 1);
    assert_eq!(machine.come(CONTROL_IN).iter().map(Vec::len).collect::<Vec<_>>(), [0, 3, 8]);
    // Outside of memory: the device stops, until it is reset.
    machine.driver.choose(CONTROL_OUT);
    machine.driver.describe(0, 4 * MIN_MEMORY, 8, 0);
    machine.driver.offer(&[0]);
    machine.turn();
    assert_ne!(machine.driver.status() & NEEDS_RESET, 0);
    machine.start();
    let mut client = machine.connected(AGENT);
    assert!(machine.send(output(AGENT), b"again"));
    assert_eq!(read(&mut client), "again");
}

#[test]
fn rings_without_sense_are_survived() {
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    let mut machine = Machine::started();
    let mut clients: Vec<UnixStream> = Vec::new();
    for round in 0..3000 {
        let port = (numbers.next() % 3) as u32;
        match numbers.next() % 8 {
            0 => clients.push(machine.knock(port)),
            1 if !clients.is_empty() => drop(clients.swap_remove(0)),
            2 => clients.iter_mut().for_each(|client| {
                let _ = client.write(b"some");
                let _ = client.read(&mut [0; 4096]);
            }),
            _ => {}
        }
        clients.truncate(20);
        machine.stir(port);
        for _ in 0..numbers.next() % 40 {
            let queue = (numbers.next() % u64::from(QUEUES)) as u16;
            let at = base(queue) + numbers.next() % 0x3000;
            machine.driver.put(at, &[numbers.next() as u8]);
        }
        machine.driver.choose((numbers.next() % u64::from(QUEUES)) as u16);
        machine.driver.offer(&[(numbers.next() % u64::from(QUEUE_SIZE)) as u16]);
        machine.turn();
        if machine.driver.status() & NEEDS_RESET != 0 || round % 50 == 0 {
            machine.driver.start(u64::MAX);
        }
    }
    drop(clients);
    (0..3).for_each(|port| machine.stir(port));
    machine.start();
    let mut client = machine.connected(AGENT);
    assert!(machine.send(output(AGENT), b"it still works"));
    assert_eq!(read(&mut client), "it still works");
}

/// Has what the event loop does happen by itself.
#[test]
fn the_event_loop_watches_sockets_and_clients() {
    let (console, folder) = console();
    let events = Arc::new(EventLoop::new().unwrap());
    console.listen(&events).unwrap();
    let stop = Arc::new(Stop(EventFd::new(0).unwrap()));
    let watched = crate::descriptor::borrow(&stop.0);
    let level = crate::machine::event_loop::Trigger::Level;
    events.add(watched, level, stop.clone(), 0).unwrap();
    let ended = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let thread = std::thread::spawn({
        let (events, ended) = (events.clone(), ended.clone());
        move || {
            let is_over = || ended.load(std::sync::atomic::Ordering::SeqCst).then_some(());
            events.run(is_over).unwrap();
        }
    });
    // With the driver on this thread, as a vCPU is on its own.
    let mut driver = Driver::new(console.clone());
    driver.queues = vec![0, 1];
    driver.start(VERSION_1);
    for round in 0..20u8 {
        let mut client = UnixStream::connect(folder.path().join("hvc")).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        client.write_all(&[round; 16]).unwrap();
        driver.choose(0);
        driver.describe(0, BUFFER, 16, DESCRIPTOR_WRITE);
        driver.offer(&[0]);
        while driver.used() != driver.offered {
            std::thread::yield_now();
        }
        assert_eq!(driver.get(BUFFER, 16), [round; 16]);
        driver.choose(1);
        driver.describe(0, BUFFER, 16, 0);
        driver.offer(&[0]);
        let mut answer = [0; 16];
        client.read_exact(&mut answer).unwrap();
        assert_eq!(answer, [round; 16]);
        // Another one is let go of, unless this one has left.
        let mut another = UnixStream::connect(folder.path().join("hvc")).unwrap();
        another.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        assert_eq!(another.read(&mut answer).unwrap(), 0);
        drop(client);
        while console.stats()[0].client {
            std::thread::yield_now();
        }
    }
    ended.store(true, std::sync::atomic::Ordering::SeqCst);
    stop.0.write(1).unwrap();
    thread.join().unwrap();
}

/// Wakes the event loop.
struct Stop(EventFd);

impl Ready for Stop {
    fn ready(&self, _: u32) {
        let _ = self.0.read();
    }
}
