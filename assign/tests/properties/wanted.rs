//! Policies and guests that somebody might write, as YAML; and whether a host is as they say, by
//! nothing but the words of the language.

use policies::{Documents, Driver, MacPolicy, Policy, Source};
use proptest::prelude::*;
use sriov::HostSnapshot;
use sriov::isolation::is_vfio_driver;

use super::hosts::{Words, card_at, device_at};

/// How a pool says which cards it is of.
#[derive(Debug, Clone, Copy)]
enum By {
    Address,
    Interface,
    /// All cards of its kind.
    Kind,
    /// Those of a node.
    Node(u32),
}

impl By {
    fn selector(self, card: usize) -> String {
        match self {
            By::Address => format!("{{address: \"{}\"}}", card_at(card)),
            By::Interface => format!("{{interface: eth{card}, driver: igb}}"),
            By::Kind => "{vendor: \"8086\", device: \"10c9\"}".to_owned(),
            By::Node(node) => format!("{{device: \"10c9\", numaNode: {node}}}"),
        }
    }
}

/// A pool of VFs.
#[derive(Debug, Clone)]
pub struct VfPool {
    by: By,
    card: usize,
    /// Of eight of the card's total, and one more.
    count: u16,
    split: Option<u16>,
    driver: &'static str,
    spread: bool,
    network: String,
}

/// A guest.
#[derive(Debug, Clone)]
pub struct Guest {
    numa: Option<u32>,
    networks: Vec<(&'static str, &'static str, bool)>,
    devices: Vec<(&'static str, bool)>,
}

/// Everything that is written.
#[derive(Debug, Clone)]
pub struct Texts {
    pools: Vec<VfPool>,
    /// Whether each pool is in a policy of its own.
    apart: bool,
    acs: bool,
    keep: bool,
    whole: Option<(Option<usize>, &'static str)>,
    exceptions: Vec<usize>,
    guests: Vec<Guest>,
}

fn driver() -> impl Strategy<Value = &'static str> {
    prop_oneof![5 => Just("vfio-pci"), 2 => Just("auto"), 2 => Just("host")]
}

fn network() -> impl Strategy<Value = String> {
    let setting = prop_oneof![
        Just("vlan: {id: 100}".to_owned()),
        Just("trust: true".to_owned()),
        Just("trust: false".to_owned()),
        Just("spoofCheck: true".to_owned()),
        Just("spoofCheck: false".to_owned()),
        Just("linkState: enable".to_owned()),
        Just("rate: {max: 1000}".to_owned()),
    ];
    let mac = prop_oneof![Just("mac: derive"), Just("mac: keep")];
    (mac, prop::option::of(setting)).prop_map(|(mac, setting)| match setting {
        Some(setting) => format!("{{{mac}, {setting}}}"),
        None => format!("{{{mac}}}"),
    })
}

pub fn texts() -> impl Strategy<Value = Texts> {
    let by = prop_oneof![
        9 => Just(By::Address),
        2 => Just(By::Interface),
        1 => Just(By::Kind),
        1 => (0..2_u32).prop_map(By::Node),
    ];
    let pool = (
        by,
        0..3_usize,
        1..=8_u16,
        prop::option::weighted(0.3, 1..8_u16),
        driver(),
        any::<bool>(),
        network(),
    )
        .prop_map(|(by, card, count, split, driver, spread, network)| VfPool {
            by,
            card,
            count,
            split,
            driver,
            spread,
            network,
        });
    let claimed =
        prop_oneof![3 => Just("p0"), 2 => Just("p1"), 2 => Just("whole"), 1 => Just("nowhere")];
    let numa = prop_oneof![Just("ignore"), Just("preferred"), Just("required")];
    let networks = prop::collection::vec((claimed.clone(), numa, prop::bool::weighted(0.8)), 0..3);
    let devices = prop::collection::vec((claimed, any::<bool>()), 0..2);
    let guest = (prop::option::of(0..2_u32), networks, devices)
        .prop_map(|(numa, networks, devices)| Guest { numa, networks, devices });
    (
        prop::collection::vec(pool, 0..3),
        prop::option::of((prop::option::of(0..3_usize), driver())),
        prop::collection::vec(0..3_usize, 0..2),
        prop::collection::vec(guest, 0..4),
        (any::<bool>(), prop::bool::weighted(0.1), prop::bool::weighted(0.2)),
    )
        .prop_map(|(pools, whole, exceptions, guests, (apart, acs, keep))| Texts {
            pools,
            apart,
            acs,
            keep,
            whole,
            exceptions,
            guests,
        })
}

impl Texts {
    /// The documents, if they are right by themselves.
    pub fn parse(&self, words: &Words) -> Option<Documents> {
        let mut text = String::new();
        let mut pools: Vec<String> = Vec::new();
        let cards: Vec<usize> =
            self.pools.iter().map(|pool| pool.card % words.cards.len()).collect();
        for (number, (pool, card)) in self.pools.iter().zip(&cards).enumerate() {
            let order = if pool.spread { "spread" } else { "pack" };
            let from = pool.by.selector(*card);
            // Mostly what the card can have; and two pools of a card agree, as they must.
            let total = words.cards.get(*card).map_or(8, |card| card.total);
            let count = |pool: &VfPool| if pool.count < 8 { pool.count.min(total) } else { 8 };
            let shared = cards.iter().filter(|other| *other == card).count() > 1;
            let (count, used) = match (shared, self.pools.first().map(count)) {
                (true, Some(both)) if both > 1 => match number {
                    0 => (both, format!(", use: \"0-{}\"", both / 2 - 1)),
                    _ => (both, format!(", use: \"{}-{}\"", both / 2, both - 1)),
                },
                _ => match pool.split.filter(|split| *split < count(pool)) {
                    Some(split) => (count(pool), format!(", use: \"{split}-{}\"", count(pool) - 1)),
                    None => (count(pool), String::new()),
                },
            };
            pools.push(format!(
                "    - {{name: p{number}, from: {from}, vfs: {{count: {count}}}{used}, \
                 driver: {}, order: {order}, network: {}}}\n",
                pool.driver, pool.network
            ));
        }
        if let Some((one, driver)) = &self.whole {
            let selector = match one {
                Some(one) => format!("address: \"{}\"", device_at(*one)),
                None => "vendor: \"10de\"".to_owned(),
            };
            pools.push(format!(
                "    - {{name: whole, devices: {{{selector}}}, driver: {driver}}}\n"
            ));
        }
        let policies: Vec<String> = match self.apart {
            true => pools,
            false => Some(pools.concat()).filter(|pools| !pools.is_empty()).into_iter().collect(),
        };
        for (number, pools) in policies.iter().enumerate() {
            text += &format!(
                "---\napiVersion: assign/v1\nkind: Policy\nmetadata: {{name: edge{number}}}\nspec:\n  \
                 pools:\n{pools}"
            );
            if self.acs {
                text += "  isolation: {acs: required}\n";
            }
            if self.keep {
                text += "  release: {restore: keep}\n";
            }
            if !self.exceptions.is_empty() {
                text += "  protection:\n    exceptions:\n";
                let mut seen = std::collections::BTreeSet::new();
                for one in self.exceptions.iter().filter(|one| seen.insert(**one)) {
                    text += &format!(
                        "      - {{device: \"{}\", because: it is a test}}\n",
                        device_at(*one)
                    );
                }
            }
        }
        for (number, guest) in self.guests.iter().enumerate() {
            text += &format!(
                "---\napiVersion: assign/v1\nkind: Guest\nmetadata: {{name: g{number}}}\nspec:\n  boot: \
                 {{kernel: k}}\n"
            );
            text += &match guest.numa {
                Some(node) => format!("  memory: {{size: 64MiB, numa: {node}}}\n"),
                None => "  memory: {size: 64MiB}\n".to_owned(),
            };
            text += "  networks:\n    - {name: plain, virtio: {bridge: br0}}\n";
            for (at, (pool, numa, falls_back)) in guest.networks.iter().enumerate() {
                // No right document demands to be near to memory that may be anywhere.
                let numa = match (*numa, guest.numa) {
                    ("required", None) => "preferred",
                    (numa, _) => numa,
                };
                let fallback = if *falls_back { ", fallback: {virtio: {bridge: br0}}" } else { "" };
                text += &format!(
                    "    - {{name: n{at}, claim: {{pool: {pool}, numa: {numa}}}{fallback}}}\n"
                );
            }
            if !guest.devices.is_empty() {
                text += "  devices:\n";
            }
            for (at, (pool, optional)) in guest.devices.iter().enumerate() {
                text += &format!(
                    "    - {{name: d{at}, claim: {{pool: {pool}}}, optional: {optional}}}\n"
                );
            }
        }
        let source = Source { name: "test.yaml".to_owned(), text };
        policies::parse(&[source]).ok().filter(|documents| !documents.policies.is_empty())
    }
}

/// What a host lacks of what a policy says.
pub fn unsatisfied(host: &HostSnapshot, policy: &Policy) -> Vec<String> {
    let mut lacks = Vec::new();
    for pool in &policy.pools {
        let meant = host.functions.iter().filter(|one| pool.from.matches(host, one).is_ok());
        for function in meant {
            let mut lack = |what: String| lacks.push(format!("{}: {what}", function.address));
            let fits = |driver: Option<&str>| match pool.driver {
                Driver::VfioPci => driver == Some("vfio-pci"),
                Driver::Auto => driver.is_some_and(is_vfio_driver),
                Driver::Host => !driver.is_some_and(is_vfio_driver),
            };
            let Some((count, indexes)) = pool.vfs() else {
                if !fits(function.driver.as_deref()) {
                    lack(format!("has driver {:?}", function.driver));
                }
                continue;
            };
            let Some(facts) = &function.sriov else { continue };
            if facts.present != count || facts.vfs.len() != usize::from(count) {
                lack(format!("has {} VFs, not {count}", facts.present));
            }
            if host.port_of(function).is_some_and(|port| !port.up) {
                lack("is down".to_owned());
            }
            for index in indexes.iter() {
                let vf = facts.vfs.get(&index).and_then(|at| host.function(*at));
                if !vf.is_some_and(|vf| fits(vf.driver.as_deref())) {
                    lack(format!("VF {index} has another driver"));
                }
                let Some(is) = facts.vf_settings.get(&index) else { continue };
                let wanted = &pool.network;
                let local = is.mac.0[0] & 3 == 2;
                let fine = [
                    wanted.mac == MacPolicy::Keep || local,
                    wanted.vlan.is_none_or(|vlan| vlan == is.vlan),
                    wanted.trust.is_none_or(|trust| is.trust == Some(trust)),
                    wanted.spoof_check.is_none_or(|check| is.spoof_check == Some(check)),
                    wanted.link_state.is_none_or(|state| state == is.link_state),
                    wanted.rate.is_none_or(|rate| rate == is.rate),
                ];
                if fine.contains(&false) {
                    lack(format!("VF {index} is set otherwise: {is:?}"));
                }
            }
        }
    }
    lacks
}
