//! A card with several pairs of queues.

use std::os::unix::net::UnixDatagram;

use super::driver::Driver;
use super::*;
use crate::virtio::net::feature;

const PAIRS: u16 = 3;
const COMMANDS: u16 = 2 * PAIRS;
const OK: u8 = 0;
const ERROR: u8 = 1;

struct Card {
    net: Arc<Net>,
    driver: Driver,
    wires: Vec<UnixDatagram>,
}

fn card() -> Card {
    let (mut taps, mut wires) = (Vec::new(), Vec::new());
    for _ in 0..PAIRS {
        let (tap, wire) = UnixDatagram::pair().unwrap();
        tap.set_nonblocking(true).unwrap();
        wire.set_nonblocking(true).unwrap();
        taps.push(tap.into());
        wires.push(wire);
    }
    let config = Config::new([2, 0, 0, 0, 0, 1], PAIRS);
    let net = Arc::new(Net::on_sockets(taps, config).unwrap());
    Card { driver: Driver::new(net.clone()), net, wires }
}

impl Card {
    /// What is answered to this command.
    fn command(&mut self, command: &[u8]) -> u8 {
        let driver = &mut self.driver;
        driver.choose(COMMANDS);
        driver.put(BUFFER, command);
        driver.put(BUFFER + 0x1000, &[0xee]);
        // In two pieces.
        driver.describe(0, BUFFER, 2, DESCRIPTOR_NEXT);
        driver.describe(1, BUFFER + 2, command.len() as u32 - 2, DESCRIPTOR_NEXT);
        driver.describe(2, BUFFER + 0x1000, 1, DESCRIPTOR_WRITE);
        let before = driver.used();
        driver.offer(&[0]);
        self.net.ready(COMMANDS.into());
        assert_eq!((self.driver.used(), self.driver.written()), (before + 1, 1));
        self.driver.get(BUFFER + 0x1000, 1)[0]
    }
}

#[test]
fn each_pair_has_a_wire_of_its_own() {
    let mut card = card();
    card.driver.start(u64::MAX);
    let mut config = [0; 12];
    card.net.read_config(0, &mut config);
    assert_eq!(config, [2, 0, 0, 0, 0, 1, 1, 0, 3, 0, 0, 0]);
    for pair in [2u16, 0, 1] {
        let frame = [&[0; HEADER][..], &[pair as u8; 50]].concat();
        card.driver.put(BUFFER, &frame);
        card.driver.choose(2 * pair + 1);
        card.driver.describe(0, BUFFER, frame.len() as u32, 0);
        card.driver.offer(&[0]);
        card.net.ready(u32::from(2 * pair + 1));
        let mut sent = [0; 100];
        assert_eq!(card.wires[usize::from(pair)].recv(&mut sent).unwrap(), frame.len());
        assert_eq!(sent[..frame.len()], frame);

        card.driver.choose(2 * pair);
        card.driver.describe(0, BUFFER + 0x2000, 100, DESCRIPTOR_WRITE);
        card.driver.offer(&[0]);
        card.wires[usize::from(pair)].send(&frame).unwrap();
        card.net.ready(TAP + u32::from(pair));
        assert_eq!((card.driver.used(), card.driver.written()), (1, frame.len() as u32));
    }
}

#[test]
fn a_driver_gets_as_many_pairs_as_it_has_set_up() {
    let mut card = card();
    card.driver.start(u64::MAX);
    for (command, answer) in [
        (&[4, 0, 1, 0][..], OK),
        (&[4, 0, 3, 0], OK),
        (&[4, 0, 0, 0], ERROR),
        (&[4, 0, 4, 0], ERROR),
        (&[4, 0, 1, 1], ERROR),
        (&[4, 0, 1], ERROR),
        (&[4, 0, 1, 0, 0], ERROR),
        (&[4, 1, 1, 0], ERROR),
        (&[0, 0, 1, 0], ERROR),
    ] {
        assert_eq!(card.command(command), answer, "{command:?}");
    }
    card.driver.queues = vec![0, 1, 2, 3, COMMANDS];
    card.driver.start(u64::MAX);
    assert_eq!(card.command(&[4, 0, 2, 0]), OK);
    assert_eq!(card.command(&[4, 0, 3, 0]), ERROR, "the third is not set up");
}

#[test]
fn a_driver_that_knows_of_one_pair_has_one() {
    let mut card = card();
    card.driver.queues = vec![0, 1];
    let several = feature::MQ | feature::CTRL_VQ;
    card.driver.start(!several);
    // Without the other, neither is to be had.
    for one in [feature::MQ, feature::CTRL_VQ] {
        card.driver.begin(!one);
        assert_eq!(card.driver.status() & FEATURES_OK, 0);
    }
}
