//! Hosts that nobody built: cards with VFs in all sorts of hands, devices that share groups, and some
//! that the host lives on.

use proptest::prelude::*;
use sriov::facts::capabilities::{Capabilities, PortKind};
use sriov::facts::iommu::{Iommu, IommuGroup};
use sriov::facts::net::Netdev;
use sriov::recorded::Config;
use sriov::recorded::model::{Model, netdev};
use sriov::{
    Binding, Change, HostSnapshot, MacAddress, PciAddress, PciFunction, PfFacts, Target, VfRef,
};

/// A network card with SR-IOV.
#[derive(Debug, Clone)]
pub struct Card {
    pub total: u16,
    pub present: u16,
    pub autoprobe: bool,
    pub up: bool,
    pub listens: bool,
    /// Whether the way to it isolates its VFs; else all of them are in its group.
    pub isolating: bool,
    pub node: Option<u32>,
    /// What became of each VF.
    pub hands: Vec<Hands>,
}

/// Who has a VF.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hands {
    /// Whoever the kernel gave it to.
    Untouched,
    /// The host, with an address on it.
    Host,
    /// vfio-pci.
    Vfio,
    /// A guest.
    Leased(u8),
}

/// A device that is given away as a whole, or not.
#[derive(Debug, Clone)]
pub struct Device {
    pub node: Option<u32>,
    pub driver: Option<&'static str>,
    /// Whether the host has a default route over it.
    pub carries: bool,
    /// The driver of a second function in its group, if it has one.
    pub sibling: Option<Option<&'static str>>,
    pub leased: bool,
}

/// A host in a few words.
#[derive(Debug, Clone)]
pub struct Words {
    pub cards: Vec<Card>,
    pub devices: Vec<Device>,
    pub has_vf_driver: bool,
    pub reports_trust: bool,
    /// What guests had last time.
    pub before: Vec<Before>,
}

/// What a claim of a guest had last time: each by a number among those that there are.
#[derive(Debug, Clone)]
pub struct Before {
    pub guest: usize,
    pub claim: usize,
    pub device: usize,
    /// Whether it was any VF, also one of another pool.
    pub any: bool,
    /// Whether the device was in another place then.
    pub moved: bool,
}

fn before() -> impl Strategy<Value = Before> {
    let flags = (prop::bool::weighted(0.2), prop::bool::weighted(0.2));
    (0..8_usize, 0..8_usize, 0..32_usize, flags).prop_map(|(guest, claim, device, (any, moved))| {
        Before { guest, claim, device, any, moved }
    })
}

fn node() -> impl Strategy<Value = Option<u32>> {
    prop_oneof![Just(Some(0)), Just(Some(1)), Just(None)]
}

fn card() -> impl Strategy<Value = Card> {
    let hands = prop_oneof![
        6 => Just(Hands::Untouched),
        1 => Just(Hands::Host),
        6 => Just(Hands::Vfio),
        2 => (0..3_u8).prop_map(Hands::Leased),
    ];
    let facts = (1..=8_u16).prop_flat_map(|total| (Just(total), 0..=total));
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), prop::bool::weighted(0.85));
    (facts, flags, node(), prop::collection::vec(hands, 8)).prop_map(
        |((total, present), (autoprobe, up, listens, isolating), node, hands)| Card {
            total,
            present,
            autoprobe,
            up,
            listens,
            isolating,
            node,
            hands,
        },
    )
}

fn device() -> impl Strategy<Value = Device> {
    let driver = || prop_oneof![Just(None), Just(Some("e1000e")), Just(Some("vfio-pci"))];
    let sibling = prop::option::weighted(0.3, driver());
    (node(), driver(), prop::bool::weighted(0.2), sibling, prop::bool::weighted(0.2)).prop_map(
        |(node, driver, carries, sibling, leased)| Device {
            node,
            driver,
            carries,
            sibling,
            leased,
        },
    )
}

pub fn words() -> impl Strategy<Value = Words> {
    let cards = prop::collection::vec(card(), 1..4);
    let devices = prop::collection::vec(device(), 0..4);
    let before = prop::collection::vec(before(), 0..8);
    (cards, devices, any::<bool>(), prop::bool::weighted(0.9), before).prop_map(
        |(cards, devices, has_vf_driver, reports_trust, before)| Words {
            cards,
            devices,
            has_vf_driver,
            reports_trust,
            before,
        },
    )
}

fn address(text: &str) -> PciAddress {
    text.parse().expect("an address")
}

/// The address of a card.
pub fn card_at(number: usize) -> PciAddress {
    address(&format!("0000:{:02x}:00.0", 0x10 + 0x10 * number))
}

/// The address of a device.
pub fn device_at(number: usize) -> PciAddress {
    address(&format!("0000:{:02x}:00.0", 0xa0 + number))
}

/// The host, and who has leased what.
pub fn build(words: &Words) -> (Model, Vec<(PciAddress, String)>) {
    let mut model = Model::new(HostSnapshot {
        schema: 1,
        iommu: Iommu { present: true, ..Iommu::default() },
        ..HostSnapshot::default()
    });
    model.trust = words.reports_trust.then_some(false);
    if words.has_vf_driver {
        model.vf_drivers.insert("igb".to_owned(), "igbvf".to_owned());
    }
    for (number, card) in words.cards.iter().enumerate() {
        lay_out_card(&mut model.host, number, card);
    }
    for (number, device) in words.devices.iter().enumerate() {
        lay_out_device(&mut model.host, number, device);
    }
    model.host.functions.sort_by_key(|function| function.address);
    model.host.netdevs.sort_by(|one, other| one.name.cmp(&other.name));
    let mut leases = Vec::new();
    for (number, card) in words.cards.iter().enumerate().filter(|(_, card)| card.present > 0) {
        let pf = card_at(number);
        let made = Change::SetVfCount { pf, from: 0, to: card.present };
        model.make(&made).expect("new VFs");
        for (index, hands) in (0..card.present).zip(&card.hands) {
            let vf = VfRef { pf, index };
            let at = model.host.vf_address(vf).expect("a VF");
            match hands {
                Hands::Untouched => {}
                Hands::Host => host_uses(&mut model.host, at),
                Hands::Vfio => bind(&mut model, vf, at),
                Hands::Leased(guest) => {
                    bind(&mut model, vf, at);
                    leases.push((at, format!("g{guest}")));
                }
            }
        }
    }
    for (number, device) in words.devices.iter().enumerate() {
        if device.leased && device.driver == Some("vfio-pci") {
            leases.push((device_at(number), "g0".to_owned()));
        }
    }
    // A group goes to one guest: a lease that would divide one was never given.
    let mut groups = std::collections::BTreeMap::new();
    leases.retain(|(at, guest)| {
        let group = model.host.function(*at).and_then(|function| function.iommu_group);
        groups.entry(group).or_insert_with(|| guest.clone()) == guest
    });
    model.host.check().expect("a host that holds together");
    (model, leases)
}

fn bind(model: &mut Model, vf: VfRef, at: PciAddress) {
    let function = model.host.function(at).expect("a VF");
    let from = sriov::act::bind::binding(function);
    let bind = Change::Bind {
        device: Target::Vf(vf),
        from: Binding { mac: None, ..from },
        driver: "vfio-pci".to_owned(),
    };
    model.make(&bind).expect("a VF that nobody uses");
}

fn host_uses(host: &mut HostSnapshot, at: PciAddress) {
    if let Some(netdev) = host.netdevs.iter_mut().find(|netdev| netdev.pci == Some(at)) {
        netdev.addresses = vec!["192.0.2.7".parse().expect("an address")];
    }
}

fn add_group(host: &mut HostSnapshot, members: &[PciAddress]) -> u32 {
    let number = (0..).find(|number| !host.iommu.groups.contains_key(number)).expect("a number");
    let members = members.to_vec();
    host.iommu
        .groups
        .insert(number, IommuGroup { members, isolates: true, ..IommuGroup::default() });
    number
}

/// What a card's port shows of access control.
fn port_of(card: &Card) -> Capabilities {
    let config = Config::new((0x8086, 0x347a), 0x06_0400).pcie(PortKind::RootPort, false, 3, 16);
    let config = if card.isolating { config.isolating() } else { config };
    Capabilities::parse(&config.bytes()).0
}

fn lay_out_card(host: &mut HostSnapshot, number: usize, card: &Card) {
    let port = address(&format!("0000:00:{:02x}.0", number + 1));
    let pf = card_at(number);
    let group = match card.isolating {
        true => (add_group(host, &[port]), add_group(host, &[pf])),
        false => {
            let both = add_group(host, &[port, pf]);
            (both, both)
        }
    };
    host.functions.push(PciFunction {
        vendor: 0x8086,
        device: 0x347a,
        class: 0x06_0400,
        driver: Some("pcieport".to_owned()),
        iommu_group: Some(group.0),
        numa_node: card.node,
        capabilities: Some(port_of(card)),
        ..PciFunction::new(port)
    });
    let name = format!("eth{number}");
    host.functions.push(PciFunction {
        vendor: 0x8086,
        device: 0x10c9,
        class: 0x02_0000,
        driver: Some("igb".to_owned()),
        iommu_group: Some(group.1),
        numa_node: card.node,
        parent: Some(port),
        netdevs: vec![name.clone()],
        sriov: Some(PfFacts {
            total: card.total,
            autoprobe: card.autoprobe,
            vf_device: 0x10ca,
            offset: 0x80,
            stride: 2,
            ..PfFacts::default()
        }),
        ..PciFunction::new(pf)
    });
    let mac = MacAddress([0x52, 0x54, 0, 0, 0, u8::try_from(number).expect("few cards")]);
    host.netdevs.push(Netdev {
        up: card.up,
        accept_ra: Some(u8::from(card.listens)),
        ..netdev(&name, 2 + u32::try_from(number).expect("few cards"), pf, mac)
    });
}

fn lay_out_device(host: &mut HostSnapshot, number: usize, device: &Device) {
    let at = device_at(number);
    let sibling = address(&format!("0000:{:02x}:00.1", 0xa0 + number));
    let has_sibling = device.sibling.is_some();
    let members = if has_sibling { vec![at, sibling] } else { vec![at] };
    let group = add_group(host, &members);
    let function = |at, driver: Option<&str>| PciFunction {
        vendor: 0x10de,
        device: 0x20b0,
        class: 0x02_8000,
        driver: driver.map(str::to_owned),
        driver_override: driver.filter(|driver| *driver == "vfio-pci").map(str::to_owned),
        iommu_group: Some(group),
        numa_node: device.node,
        ..PciFunction::new(at)
    };
    let mut first = function(at, device.driver);
    if device.driver == Some("e1000e") {
        let name = format!("wan{number}");
        first.netdevs = vec![name.clone()];
        let index = 100 + u32::try_from(number).expect("few devices");
        let mac = MacAddress([0x52, 0x54, 1, 0, 0, u8::try_from(number).expect("few devices")]);
        let carries = device.carries;
        let own =
            Netdev { default_route: carries, routes: carries, ..netdev(&name, index, at, mac) };
        host.netdevs.push(own);
    }
    host.functions.push(first);
    if let Some(driver) = device.sibling {
        host.functions.push(function(sibling, driver));
    }
}
