//! Which device of several free ones: what a guest had before, spread or packed, near or far.

use sriov::MacAddress;
use sriov::recorded::model::netdev;

use super::*;

/// A card with two VFs for guests.
struct Card {
    bus: u8,
    node: Option<u32>,
    /// The address of its port, by which it is known again wherever it sits.
    mac: u8,
}

const fn card(bus: u8, node: Option<u32>, mac: u8) -> Card {
    Card { bus, node, mac }
}

fn pf_at(bus: u8) -> PciAddress {
    at(&format!("0000:{bus:02x}:00.0"))
}

/// A host with these cards, each VF in a group of its own.
fn with_cards(cards: &[Card]) -> HostSnapshot {
    let mut host =
        HostSnapshot { iommu: Iommu { present: true, ..Iommu::default() }, ..Default::default() };
    let mut group = 0;
    for card in cards {
        let vf = |index: u16| at(&format!("0000:{:02x}:10.{}", card.bus, 2 * index));
        let name = format!("eth{}", card.bus);
        let vfs: BTreeMap<u16, PciAddress> = [0, 1].map(|index| (index, vf(index))).into();
        let facts = PfFacts { total: 7, present: 2, vf_device: 0x10ca, vfs, ..PfFacts::default() };
        let pf = PciFunction {
            sriov: Some(facts),
            netdevs: vec![name.clone()],
            ..function(&pf_at(card.bus).to_string(), "igb", 0)
        };
        let vfs = [0, 1].map(|index| function(&vf(index).to_string(), "vfio-pci", 0));
        for one in std::iter::once(pf).chain(vfs) {
            group += 1;
            let members = vec![one.address];
            let own = IommuGroup { members, isolates: true, ..IommuGroup::default() };
            host.iommu.groups.insert(group, own);
            let (iommu_group, numa_node) = (Some(group), card.node);
            host.functions.push(PciFunction { iommu_group, numa_node, ..one });
        }
        let mac = MacAddress([2, 0, 0, 0, 0, card.mac]);
        host.netdevs.push(netdev(&name, u32::from(card.bus), pf_at(card.bus), mac));
    }
    host
}

/// What guest `guest` had last time for its `net0`: a VF of the card with this port address.
fn had(guest: &str, bus: u8, index: u16, mac: u8) -> Previous {
    Previous {
        guest: guest.to_owned(),
        claim: "net0".to_owned(),
        pool: "lan".to_owned(),
        vf: Some(VfRef { pf: pf_at(bus), index }),
        address: pf_at(bus),
        identity: format!("mac 02:00:00:00:00:{mac:02x}"),
    }
}

/// A guest by its name and the rest of its `spec`.
type Named<'a> = (&'a str, &'a str);

const PLAIN: &str = "memory: {size: 64MiB}, networks: [{name: net0, claim: {pool: lan}}]";

/// The pool of all cards' VFs, with `order`, and guests.
fn written(order: &str, guests: &[Named<'_>]) -> (Vec<Offer>, Vec<Guest>) {
    let mut text = format!(
        "apiVersion: assign/v1\nkind: Policy\nmetadata: {{name: edge}}\nspec:\n  pools:\n    - {{name: \
         lan, from: {{device: \"10c9\"}}, vfs: {{count: 2}}, order: {order}}}\n"
    );
    for (name, spec) in guests {
        text += &format!(
            "---\napiVersion: assign/v1\nkind: Guest\nmetadata: {{name: {name}}}\nspec: {{boot: \
             {{kernel: k}}, {spec}}}\n"
        );
    }
    let documents = policies::parse(&[Source { name: "host.yaml".to_owned(), text }]);
    let documents = documents.unwrap_or_else(|errors| panic!("{errors}"));
    (offers(documents.policies), documents.guests)
}

/// What is decided of a host.
struct Decided<'a> {
    host: &'a HostSnapshot,
    previous: &'a [Previous],
    leased: &'a [&'a str],
    order: &'a str,
}

fn on(host: &HostSnapshot) -> Decided<'_> {
    Decided { host, previous: &[], leased: &[], order: "pack" }
}

impl Decided<'_> {
    /// For each claim: its guest, the device's bus and VF, and why that one; then why not the others.
    fn told(&self, guests: &[Named<'_>]) -> Vec<(String, Vec<String>)> {
        let (pools, guests) = written(self.order, guests);
        let holder = Holder { guest: "other".to_owned(), pid: None };
        let holders = self.leased.iter().map(|leased| (at(leased), holder.clone())).collect();
        let failed = BTreeMap::new();
        let world =
            World { previous: self.previous, ..world(self.host, &pools, &holders, &failed) };
        let mut supply = Supply::new(world, &guests);
        supply.decide();
        let mut told = Vec::new();
        for (number, guest) in guests.iter().enumerate() {
            for (claim, asked) in claims(guest).enumerate() {
                let given = match supply.answered(number, claim, asked.claim, usize::MAX) {
                    Ok(given) => {
                        let vf = given.vf.expect("a VF");
                        format!("{:02x}/{} {}", vf.pf.bus(), vf.index, given.because)
                    }
                    Err(unmet) => unmet.to_string(),
                };
                let (others, left_out) = supply.others(number, claim, asked.claim, usize::MAX);
                assert_eq!(left_out, 0);
                let others = others.iter().map(ToString::to_string).collect();
                told.push((format!("{}: {given}", guest.name), others));
            }
        }
        told
    }

    fn given(&self, guests: &[Named<'_>]) -> Vec<String> {
        self.told(guests).into_iter().map(|(given, _)| given).collect()
    }
}

#[test]
fn a_guest_gets_again_what_it_had() {
    let host = with_cards(&[card(1, None, 7), card(2, None, 8)]);
    let previous = [had("web", 2, 1, 8)];
    // Also where another guest is asked first.
    let decided = Decided { previous: &previous, ..on(&host) };
    assert_eq!(
        decided.given(&[("db", PLAIN), ("web", PLAIN)]),
        ["db: 01/0 the first free one", "web: 02/1 as last time"]
    );
    // Another guest has no right to it, nor has another claim.
    assert_eq!(decided.given(&[("db", PLAIN)]), ["db: 01/0 the first free one"]);
    let other = "memory: {size: 64MiB}, networks: [{name: net9, claim: {pool: lan}}]";
    assert_eq!(decided.given(&[("web", other)]), ["web: 01/0 the first free one"]);
}

#[test]
fn a_card_that_was_moved_is_known_by_what_it_is() {
    // What was in slot 2 is in slot 5 now, and another card where it was.
    let host = with_cards(&[card(1, None, 7), card(2, None, 9), card(5, None, 8)]);
    let previous = [had("web", 2, 1, 8)];
    let decided = Decided { previous: &previous, ..on(&host) };
    assert_eq!(decided.given(&[("web", PLAIN)]), ["web: 05/1 as last time"]);
    // And without it there is nothing to be had again.
    let host = with_cards(&[card(1, None, 7), card(2, None, 9)]);
    let decided = Decided { previous: &previous, ..on(&host) };
    assert_eq!(decided.given(&[("web", PLAIN)]), ["web: 01/0 the first free one"]);
}

#[test]
fn what_was_taken_meanwhile_is_not_waited_for() {
    let host = with_cards(&[card(1, None, 7), card(2, None, 8)]);
    let previous = [had("web", 2, 1, 8)];
    let decided = Decided { previous: &previous, leased: &["0000:02:10.2"], ..on(&host) };
    let told = decided.told(&[("web", PLAIN)]);
    assert_eq!(told[0].0, "web: 01/0 the first free one");
    assert!(told[0].1.contains(&"0000:02:10.2 is leased to other".to_owned()), "{told:?}");
}

#[test]
fn what_others_had_is_taken_last() {
    let host = with_cards(&[card(1, None, 7)]);
    let previous = [had("web", 1, 0, 7)];
    let decided = Decided { previous: &previous, ..on(&host) };
    let told = decided.told(&[("db", PLAIN)]);
    assert_eq!(told[0].0, "db: 01/1 the first free one");
    assert_eq!(told[0].1, ["0000:01:10.0 is free too, and left for web, which had it last time"]);
    // It is no reservation: who needs it gets it.
    assert_eq!(
        decided.given(&[("db", PLAIN), ("mail", PLAIN)]),
        ["db: 01/1 the first free one", "mail: 01/0 the first free one"]
    );
}

const FOUR: [Named<'static>; 4] = [("a", PLAIN), ("b", PLAIN), ("c", PLAIN), ("d", PLAIN)];

#[test]
fn guests_are_spread_over_cards_by_what_is_in_use() {
    let host = with_cards(&[card(1, None, 7), card(2, None, 8)]);
    let spread = Decided { order: "spread", ..on(&host) };
    let fewest = "its PF has the fewest in use";
    assert_eq!(
        spread.given(&FOUR),
        [
            format!("a: 01/0 {fewest}"),
            format!("b: 02/0 {fewest}"),
            format!("c: 01/1 {fewest}"),
            format!("d: 02/1 {fewest}"),
        ]
    );
    // What is leased counts as much as what is given now.
    let spread = Decided { leased: &["0000:01:10.0"], ..spread };
    assert_eq!(
        spread.given(&FOUR[..3]),
        [format!("a: 02/0 {fewest}"), format!("b: 01/1 {fewest}"), format!("c: 02/1 {fewest}")]
    );
}

#[test]
fn guests_are_packed_onto_one_card() {
    let host = with_cards(&[card(1, None, 7), card(2, None, 8)]);
    let first = "the first free one";
    assert_eq!(
        on(&host).given(&FOUR),
        [
            format!("a: 01/0 {first}"),
            format!("b: 01/1 {first}"),
            format!("c: 02/0 {first}"),
            format!("d: 02/1 {first}"),
        ]
    );
}

/// A guest with memory on node 1.
fn asks(numa: &str) -> String {
    format!(
        "memory: {{size: 64MiB, numa: 1}}, networks: [{{name: net0, claim: {{pool: lan, numa: {numa}}}}}]"
    )
}

#[test]
fn near_devices_go_before_far_ones() {
    let host = with_cards(&[card(1, Some(0), 7), card(2, Some(1), 8)]);
    let prefers = asks("preferred");
    let three = [("a", prefers.as_str()), ("b", &prefers), ("c", &prefers)];
    let told = on(&host).told(&three);
    let given: Vec<&str> = told.iter().map(|(given, _)| given.as_str()).collect();
    assert_eq!(
        given,
        [
            "a: 02/0 on the node of its memory",
            "b: 02/1 on the node of its memory",
            "c: 01/0 the first free one"
        ]
    );
    assert_eq!(
        told[0].1,
        [
            "0000:01:10.0 is free too, and on node 0",
            "0000:01:10.2 is free too, and on node 0",
            "0000:02:10.2 is free too, and was not needed",
        ]
    );
}

#[test]
fn a_demanded_node_is_the_only_one() {
    let host = with_cards(&[card(1, Some(0), 7), card(2, Some(1), 8)]);
    let demands = asks("required");
    let three = [("a", demands.as_str()), ("b", &demands), ("c", &demands)];
    let told = on(&host).told(&three);
    assert_eq!(told[1].0, "b: 02/1 on the node of its memory");
    assert!(told[2].0.contains("0000:01:10.0 is on node 0, and 1 is demanded"), "{told:?}");
    // What it had is of no use where it is far.
    let previous = [had("a", 1, 0, 7)];
    let decided = Decided { previous: &previous, ..on(&host) };
    assert_eq!(decided.given(&three[..1]), ["a: 02/0 on the node of its memory"]);
    // A wish is less than a habit.
    let prefers = asks("preferred");
    assert_eq!(decided.given(&[("a", &prefers)]), ["a: 01/0 as last time"]);
}

/// A guest of two claims that prefer to be near, with or without a node for its memory.
fn pair(memory: &str) -> String {
    let claim = |name| format!("{{name: {name}, claim: {{pool: lan, numa: preferred}}}}");
    format!("memory: {{size: 64MiB{memory}}}, networks: [{}, {}]", claim("net1"), claim("net0"))
}

#[test]
fn without_a_node_the_memory_goes_to_the_first_device() {
    let host = with_cards(&[card(1, Some(0), 7), card(2, Some(1), 8)]);
    let pair = pair("");
    let near = "on the node of its memory";
    let spread = Decided { order: "spread", ..on(&host) };
    // The second would be on the other card, were it not for the first.
    assert_eq!(
        spread.given(&[("a", &pair)]),
        ["a: 01/0 its PF has the fewest in use".to_owned(), format!("a: 01/1 {near}")]
    );
    // What a claim had goes first, so that the other one follows.
    let previous = [had("a", 2, 1, 8)];
    let kept = Decided { previous: &previous, ..spread };
    assert_eq!(
        kept.given(&[("a", &pair)]),
        [format!("a: 02/0 {near}"), "a: 02/1 as last time".to_owned()]
    );
    // A wish is no demand.
    let full = Decided { leased: &["0000:01:10.2"], ..on(&host) };
    assert_eq!(
        full.given(&[("a", &pair)]),
        ["a: 01/0 the first free one", "a: 02/0 the first free one"]
    );
}

/// The node that the memory of a guest comes from.
fn memory_node(host: &HostSnapshot, spec: &str) -> Option<u32> {
    let (pools, guests) = written("pack", &[("a", spec)]);
    let (nobody, none) = (BTreeMap::new(), BTreeMap::new());
    choose(&guests[0], world(host, &pools, &nobody, &none)).expect("it starts").memory_node
}

#[test]
fn the_memory_of_a_guest_is_where_its_document_or_its_devices_say() {
    let host = with_cards(&[card(1, Some(1), 7)]);
    assert_eq!(memory_node(&host, &pair("")), Some(1));
    assert_eq!(memory_node(&host, &pair(", numa: 0")), Some(0));
    // A claim that does not care moves no memory.
    assert_eq!(memory_node(&host, PLAIN), None);
    // Nor does a host without nodes.
    assert_eq!(memory_node(&with_cards(&[card(1, None, 7)]), &pair("")), None);
}
