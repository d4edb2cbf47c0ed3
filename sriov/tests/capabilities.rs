//! Capabilities: from configuration spaces as they are, and as they should never be.

use std::time::{Duration, Instant};

use proptest::prelude::*;
use sriov::facts::capabilities::{Acs, AcsControls, BarPlace, Capabilities, Extent, Msi, PortKind};
use sriov::facts::config_space::{ConfigSpace, SPACE};
use sriov::recorded::Config;

fn nic() -> Config {
    Config::new((0x8086, 0x10c9), 0x02_0000)
}

/// All that a function says, which must be in order.
fn parse(config: Config) -> Capabilities {
    let (capabilities, odd) = Capabilities::parse(&config.bytes());
    assert_eq!(odd, Vec::<String>::new());
    capabilities
}

/// What is odd about it.
fn oddities(config: Config) -> Vec<String> {
    Capabilities::parse(&config.bytes()).1
}

#[test]
fn a_physical_function_says_all_it_has() {
    let config = nic()
        .standard(0x01, &[0; 6])
        .msi(3)
        .msix(10, 3)
        .pcie(PortKind::Endpoint, true, 1, 4)
        .extended(0x0001, &[0; 40])
        .ari(1)
        .sriov(8, 2, (0x80, 2), 0x10ca)
        .ats(true)
        .resizable_bar(2, 0b111, 1);
    let found = parse(config);
    assert_eq!(found.extent, Extent::Extended);
    assert_eq!(found.msi, Some(Msi { vectors: 8, maskable: false, wide: true }));
    let msix = found.msix.expect("MSI-X");
    assert_eq!((msix.vectors, msix.table), (10, BarPlace { bar: 3, offset: 0 }));
    assert_eq!(msix.pending, BarPlace { bar: 3, offset: 0x2000 });
    let pcie = found.pcie.expect("PCI Express");
    assert!(pcie.flr && pcie.port == PortKind::Endpoint);
    assert_eq!((pcie.max_speed, pcie.max_width), (Some(2500), 4));
    assert_eq!((pcie.speed, pcie.width), (Some(2500), 4));
    assert_eq!(found.ari.map(|ari| ari.next_function), Some(1));
    assert_eq!(found.ats.map(|ats| (ats.enabled, ats.queue_depth)), Some((true, 32)));
    let sriov = found.sriov.expect("SR-IOV");
    assert!(sriov.enabled && sriov.memory && !sriov.ari_hierarchy);
    assert_eq!((sriov.initial, sriov.total, sriov.num), (8, 8, 2));
    assert_eq!((sriov.offset, sriov.stride, sriov.vf_device), (0x80, 2, 0x10ca));
    assert_eq!((sriov.supported_page_sizes, sriov.page_size), (0x553, 1));
    let bar = found.resizable_bars.first().expect("a resizable BAR");
    assert_eq!((bar.bar, bar.current), (2, 2 << 20));
    assert_eq!(bar.sizes, [1 << 20, 2 << 20, 4 << 20]);
    assert_eq!((found.others, found.extended), (vec![0x01], vec![0x0001]));
}

#[test]
fn several_bars_can_be_resizable() {
    let mut registers = [0; 24];
    for (pair, bar) in [0, 2, 4].into_iter().enumerate() {
        registers[8 * pair] = 0x10;
        registers[8 * pair + 4] = if pair == 0 { 3 << 5 | bar } else { bar };
        registers[8 * pair + 5] = 8;
    }
    // The largest size there is: 8 EiB, bit 15 of the second mask.
    registers[7] = 0x80;
    let found = parse(nic().extended(0x0015, &registers).ari(0));
    let bars: Vec<u8> = found.resizable_bars.iter().map(|bar| bar.bar).collect();
    assert_eq!(bars, [0, 2, 4]);
    assert!(found.resizable_bars.iter().all(|bar| bar.current == 256 << 20));
    let sizes = found.resizable_bars.first().map(|bar| bar.sizes.clone());
    assert_eq!(sizes, Some(vec![1 << 20, 1 << 63]));
    assert!(found.ari.is_some(), "what follows is not taken for a part of it");
}

#[test]
fn acs_isolates_with_the_four_controls_the_kernel_asks_for() {
    let bridge = || Config::new((0x8086, 0x1901), 0x06_0400).pcie(PortKind::RootPort, false, 3, 16);
    let acs = parse(bridge().isolating()).acs.expect("ACS");
    assert!(acs.isolates() && acs.supported.translation_blocking);
    assert!(!acs.enabled.translation_blocking);
    let off = Acs { enabled: AcsControls::default(), ..acs.clone() };
    assert!(!off.isolates());
    for missing in [
        AcsControls { source_validation: false, ..acs.enabled },
        AcsControls { request_redirect: false, ..acs.enabled },
        AcsControls { completion_redirect: false, ..acs.enabled },
        AcsControls { upstream_forwarding: false, ..acs.enabled },
    ] {
        let read = parse(bridge().acs(acs.supported, missing)).acs.expect("ACS");
        assert!(read.enabled == missing && !read.isolates());
    }
}

#[test]
fn what_may_not_be_read_is_not_taken_for_absent() {
    let config = || nic().msix(10, 3).isolating();
    let header = parse(config().cut(64));
    assert_eq!((header.extent, header.msix.is_some()), (Extent::Header, false));
    let standard = parse(config().cut(256));
    assert_eq!((standard.extent, standard.msix.is_some()), (Extent::Standard, true));
    assert!(standard.acs.is_none());
    // A function without a list has told all it has.
    assert_eq!(parse(nic().cut(64)).extent, Extent::Standard);
    let (nothing, odd) = Capabilities::parse(&[]);
    assert_eq!((nothing.extent, odd.len()), (Extent::Nothing, 1));
}

#[test]
fn a_dead_function_is_told_from_a_virtual_one() {
    for length in [64, 256, 4096] {
        assert!(Capabilities::parse(&vec![0xff; length]).0.dead);
    }
    let vf = parse(nic().with(0, &[0xff; 4]).msix(3, 3));
    assert!(!vf.dead && vf.msix.is_some());
    // It died after its header was read.
    let died = nic().msix(3, 3).with(0x40, &[0xff; 192]);
    assert_eq!(oddities(died), ["its capability at 0x40 answers with all ones"]);
    assert!(!Capabilities::parse(&[0; 4096]).0.dead);
}

#[test]
fn loops_end() {
    let to_itself = nic().msi(0).with(0x41, &[0x40]);
    assert_eq!(oddities(to_itself), ["its capability list leads back to 0x40"]);
    let two = nic().msi(0).msix(1, 0).with(0x59, &[0x40]);
    assert_eq!(oddities(two), ["its capability list leads back to 0x40"]);
    let into_the_middle = nic().msix(1, 0).with(0x41, &[0x44]);
    assert_eq!(oddities(into_the_middle), ["its capability list leads back to 0x44"]);
    let extended = nic().ari(0).ats(false).with(0x142, &[1, 0x10]);
    assert_eq!(oddities(extended), ["its capability list leads back to 0x100"]);
    let header = nic().msi(0).with(0x41, &[0x10]);
    assert_eq!(oddities(header), ["its capability list leads to 0x10, where none can be"]);
    let standard = nic().ari(0).with(0x102, &[1, 0x04]);
    assert_eq!(oddities(standard), ["its capability list leads to 0x40, where none can be"]);
}

#[test]
fn what_is_broken_is_told_and_the_rest_is_kept() {
    let reserved_bar = nic().msix(4, 6).ari(0);
    let (found, odd) = Capabilities::parse(&reserved_bar.bytes());
    assert_eq!(odd, ["its MSI-X capability names BAR 6, which no function has"]);
    assert!(found.msix.is_none() && found.ari.is_some());

    let twice = nic().msi(0).msi(1);
    let (found, odd) = Capabilities::parse(&twice.bytes());
    assert_eq!(odd, ["it has more than one MSI capability"]);
    assert_eq!(found.msi.map(|msi| msi.vectors), Some(1));

    let at_the_end = nic().msi(0).with(0x41, &[0xfc]).with(0xfc, &[0x11, 0]);
    let (found, odd) = Capabilities::parse(&at_the_end.bytes());
    assert_eq!(odd, ["its MSI-X capability at 0xfc is cut off"]);
    assert!(found.msi.is_some());

    // PCI Express at 0x40, whose registers run into the MSI that the list has been at.
    let overlap =
        nic().with(6, &[0x10]).with(0x34, &[0x48]).with(0x48, &[5, 0x40]).with(0x40, &[0x10, 0]);
    assert_eq!(oddities(overlap), ["its PCI Express capability at 0x40 overlaps another"]);

    assert_eq!(oddities(nic().msi(7)), ["its MSI capability has a reserved number of vectors"]);
    let (found, odd) = Capabilities::parse(&nic().extended(0x15, &[0xff; 48]).bytes());
    assert_eq!(odd, ["its resizable BAR capability counts 7 BARs"]);
    assert!(found.resizable_bars.is_empty());
}

/// A space that counts what is asked of it.
struct Counted {
    bytes: Vec<u8>,
    reads: usize,
}

impl ConfigSpace for Counted {
    fn bytes<const N: usize>(&mut self, at: usize) -> Option<[u8; N]> {
        self.reads += 1;
        self.bytes.as_slice().bytes(at)
    }
}

fn check_bounded(bytes: Vec<u8>) {
    let (begin, mut space) = (Instant::now(), Counted { bytes, reads: 0 });
    let (found, odd) = Capabilities::read(&mut space);
    // A header and its registers for each of the 1008 places a capability can begin at.
    assert!(space.reads <= 16 + 1008 * 8, "{} reads", space.reads);
    assert!(begin.elapsed() < Duration::from_secs(1));
    assert!(odd.len() <= 16 && found.others.len() <= 48 && found.extended.len() <= 960);
    let text = serde_json::to_string(&found).expect("serialized");
    assert_eq!(serde_json::from_str::<Capabilities>(&text).expect("read back"), found);
}

#[test]
fn the_longest_lists_there_can_be_end() {
    let mut bytes = vec![0; SPACE];
    bytes[0x06] = 0x10;
    bytes[0x34] = 0x40;
    for at in (0x40..0x100).step_by(4) {
        bytes[at] = 0x05;
        bytes[at + 1] = u8::try_from((at + 4) & 0xff).expect("a byte");
    }
    for at in (0x100..SPACE).step_by(4) {
        let next = u16::try_from((at + 4) % SPACE).expect("12 bits");
        bytes[at] = 0x15;
        bytes[at + 2..at + 4].copy_from_slice(&(next << 4 | 1).to_le_bytes());
    }
    check_bounded(bytes);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_do(bytes in prop::collection::vec(any::<u8>(), 0..=SPACE)) {
        check_bounded(bytes);
    }

    /// Lists that lead somewhere: noise with a good header and pointers that stay within.
    #[test]
    fn any_lists_do(
        mut bytes in prop::collection::vec(prop_oneof![0_u8..=0x24, any::<u8>()], SPACE),
        ids in prop::collection::vec(prop::sample::select(vec![5_u8, 0x10, 0x11]), 48),
        extended in prop::collection::vec(
            (prop::sample::select(vec![0xd_u8, 0xe, 0xf, 0x10, 0x15, 0x24]), 0x100_u16..0x1000),
            960,
        ),
    ) {
        bytes[0..16].fill(0);
        bytes[0x06] = 0x10;
        bytes[0x34] = 0x40;
        for (at, id) in (0x40..0x100).step_by(4).zip(ids) {
            bytes[at] = id;
        }
        for (at, (id, next)) in (0x100..SPACE).step_by(4).zip(extended) {
            bytes[at..at + 2].copy_from_slice(&[id, 0]);
            bytes[at + 2..at + 4].copy_from_slice(&(next << 4).to_le_bytes());
        }
        check_bounded(bytes);
    }
}
