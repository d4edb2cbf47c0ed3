//! What was decided, in the terms of a guest's document, and for each claim why every other device of
//! its pool was not taken.
//!
//! The reasons are a view on what is known of each device, made only when somebody asks: for
//! thousands of claims on thousands of devices they would be millions.

use std::collections::BTreeMap;

use policies::{Claim, Driver, Guest, NumaChoice, Pool};
use sriov::{MacAddress, usage};

use super::examine::{are_vfs, by_force};
use super::reason::{Because, Rejected, Sum, Unmet, Why};
use super::supply::{Answer, Place, Supply};
use super::{Choice, Connection, DeviceChoice, Given, Unconnected, claims};

impl Supply<'_> {
    /// What was chosen for the guest of this number, with every reason.
    ///
    /// # Errors
    /// The first claim that the guest does not start without.
    pub fn choice(&self, guest: usize) -> Result<Choice, Unconnected> {
        self.choice_within(guest, usize::MAX)
    }

    /// The same with at most so many reasons where a claim gets nothing.
    ///
    /// # Errors
    /// The first claim that the guest does not start without.
    pub fn choice_within(&self, guest: usize, most: usize) -> Result<Choice, Unconnected> {
        let Some(owner) = self.guests.get(guest) else { return Ok(Choice::default()) };
        let networks = self.networks(guest, owner, most)?;
        let claimed = owner.networks.iter().filter(|network| network.claim.is_some()).count();
        let mut devices = Vec::new();
        for (at, device) in owner.devices.iter().enumerate() {
            let name = device.name.clone();
            devices.push(match self.answered(guest, claimed + at, &device.claim, most) {
                Ok(given) => DeviceChoice::Given { device: name, given },
                Err(because) if device.optional => DeviceChoice::Without { device: name, because },
                Err(because) => return Err(Unconnected { claim: name, network: false, because }),
            });
        }
        Ok(Choice { networks, devices, memory_node: self.memory_node(guest) })
    }

    fn networks(
        &self,
        guest: usize,
        owner: &Guest,
        most: usize,
    ) -> Result<Vec<Connection>, Unconnected> {
        let (mut networks, mut at) = (Vec::new(), 0);
        for network in &owner.networks {
            let name = network.name.clone();
            let mut because = None;
            if let Some(claim) = &network.claim {
                at += 1;
                match self.answered(guest, at - 1, claim, most) {
                    Ok(given) => {
                        networks.push(Connection::Vfio { network: name, given });
                        continue;
                    }
                    Err(unmet) => because = Some(unmet),
                }
            }
            networks.push(match (&network.fallback, because) {
                (Some(virtio), because) => {
                    Connection::Virtio { network: name, end: virtio.clone(), because }
                }
                (None, Some(because)) => {
                    return Err(Unconnected { claim: name, network: true, because });
                }
                // A network without claim has a virtio device; its document does not parse otherwise.
                (None, None) => continue,
            });
        }
        Ok(networks)
    }

    /// What became of one claim, by its number: its device, or why it gets none with at most so many
    /// reasons.
    ///
    /// # Errors
    /// It gets none.
    pub fn answered(
        &self,
        guest: usize,
        claim: usize,
        asked: &Claim,
        most: usize,
    ) -> Result<Given, Unmet> {
        match self.answers.get(guest).and_then(|answers| answers.get(claim)) {
            Some(Answer::Place { place, because, .. }) => Ok(self.given(*place, *because)),
            Some(Answer::Unmet(unmet)) => Err(unmet.clone()),
            Some(Answer::Nothing { stock, .. }) => {
                let (devices, left_out) = self.others(guest, claim, asked, most);
                let pool = self.stocks.get(*stock).map(|stock| &stock.offer.pool);
                Err(Unmet::NoneFree {
                    pool: asked.pool.clone(),
                    are_vfs: pool.is_some_and(are_vfs),
                    devices,
                    left_out,
                })
            }
            Some(Answer::Open) | None => {
                Err(Unmet::NoSuchPool { pool: asked.pool.clone(), known: Vec::new() })
            }
        }
    }

    fn given(&self, number: usize, because: Because) -> Given {
        let place = self.places.get(number);
        let pool = place.and_then(|place| self.stocks.get(place.stock));
        let pool = pool.map(|stock| &stock.offer.pool);
        let function = place.and_then(|place| place.function);
        let vf = place.and_then(|place| place.vf);
        let host = self.world.host;
        let pf = vf.and_then(|vf| host.function(vf.pf));
        let stock = place.and_then(|place| self.stocks.get(place.stock));
        let by_force = stock.zip(function).and_then(|(stock, function)| {
            let offer = stock.offer;
            let is_lent = offer.pool.driver == Driver::Host;
            // Most pools lend nothing, and most policies make no exception: nothing is looked for.
            let may_be = is_lent && !offer.protection.exceptions.is_empty();
            may_be
                .then(|| by_force(host, &usage::Index::of(host), &offer.protection, function))
                .flatten()
        });
        let mac = match (pf, vf, pool) {
            (Some(pf), Some(vf), Some(pool)) => match self.is_planned(place) {
                // What it will have, unless it keeps what it has.
                true => self
                    .macs
                    .wanted(pf, pool, vf.index)
                    .or_else(|| function.and_then(|_| mac(pf, vf.index))),
                false => mac(pf, vf.index),
            },
            _ => None,
        };
        Given {
            pool: pool.map(|pool| pool.name.clone()).unwrap_or_default(),
            vf,
            address: function.map(|function| function.address),
            group: function.and_then(|function| function.iommu_group),
            node: place.and_then(|place| place.node),
            interface: pf.and_then(|pf| host.port_of(pf)).map(|port| port.name.clone()),
            mac,
            because,
            by_force,
        }
    }

    fn is_planned(&self, place: Option<&Place<'_>>) -> bool {
        let stock = place.and_then(|place| self.stocks.get(place.stock));
        stock.is_some_and(|stock| stock.offer.planned.is_some())
    }

    /// Why a claim got none of the other devices of its pool: at most so many reasons, and how many
    /// there are beside.
    pub fn others(
        &self,
        guest: usize,
        claim: usize,
        asked: &Claim,
        most: usize,
    ) -> (Vec<Rejected>, usize) {
        let Some(rivals) = self.rivals(guest, claim) else { return (Vec::new(), 0) };
        let wish = self.wish(guest, asked);
        let reason = |number: usize| {
            let place = self.places.get(number)?;
            let why = self.why(place, number, guest, rivals.at, wish, rivals.because);
            Some(Rejected { device: self.name(place), why })
        };
        // Not counted one by one: that alone would cost each claim a look at every device.
        let list: Vec<Rejected> = rivals.places().take(most).filter_map(reason).collect();
        let left_out = rivals.count().saturating_sub(list.len());
        (list, left_out)
    }

    /// How many devices a claim did not get.
    pub fn count_of_others(&self, guest: usize, claim: usize) -> usize {
        self.rivals(guest, claim).map_or(0, |rivals| rivals.count())
    }

    /// Why a claim got none of the other devices of its pool, by kinds of reasons, the most first.
    pub fn sums(&self, guest: usize, claim: usize, asked: &Claim) -> Vec<Sum> {
        let Some(rivals) = self.rivals(guest, claim) else { return Vec::new() };
        let wish = self.wish(guest, asked);
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for number in rivals.places() {
            let Some(place) = self.places.get(number) else { continue };
            let why = self.why(place, number, guest, rivals.at, wish, rivals.because);
            let on = self.has_nodes.then_some(place.node);
            *counts.entry(why.kind(on)).or_default() += 1;
        }
        let mut sums: Vec<Sum> =
            counts.into_iter().map(|(why, count)| Sum { count, why }).collect();
        sums.sort_by_key(|sum| std::cmp::Reverse(sum.count));
        sums
    }

    /// The other devices of the pool of a claim; `None` where no device came into question.
    fn rivals(&self, guest: usize, claim: usize) -> Option<Rivals> {
        let (own, stock, at, because) = match self.answers.get(guest)?.get(claim)? {
            Answer::Place { place, because, at } => {
                (Some(*place), self.places.get(*place)?.stock, *at, *because)
            }
            Answer::Nothing { stock, at } => (None, *stock, *at, Because::First),
            _ => return None,
        };
        let all = self.stocks.get(stock)?.places.clone();
        Some(Rivals { own, all, at, because })
    }

    fn why(
        &self,
        place: &Place<'_>,
        number: usize,
        guest: usize,
        at: u32,
        (numa, wanted): (NumaChoice, Option<u32>),
        because: Because,
    ) -> Why {
        // Also where it was left again, because the guest does not start.
        let own = self.answers.get(guest).into_iter().flatten().enumerate();
        let mut own = own.filter_map(|(claim, answer)| match answer {
            Answer::Place { place, at: earlier, .. } if *place == number && *earlier < at => {
                Some(claim)
            }
            _ => None,
        });
        if let (Some(claim), Some(guest)) = (own.next(), self.guests.get(guest)) {
            let claim = claims(guest).nth(claim).map(|claim| claim.name.to_owned());
            return Why::TakenHere { claim: claim.unwrap_or_default() };
        }
        if let Some(taken) = place.taken.filter(|taken| taken.at < at) {
            let other = self.guests.get(taken.guest);
            let claim = other.and_then(|other| claims(other).nth(taken.claim));
            let claim = claim.map(|claim| claim.name.to_owned()).unwrap_or_default();
            let guest = other.map(|other| other.name.clone()).unwrap_or_default();
            return Why::GoesTo { guest, claim };
        }
        if let Some(against) = &place.against {
            return against.clone();
        }
        let reserved = place.reserved.filter(|other| other.guest != guest && other.at < at);
        if let Some(other) = reserved.and_then(|other| self.guests.get(other.guest)) {
            return Why::GroupGoesTo { guest: other.name.clone() };
        }
        if let (false, Some(wanted)) = (self.allowed(number, (numa, wanted)), wanted) {
            return Why::OtherNode { found: place.node, wanted };
        }
        if because == Because::Near && place.node != wanted {
            return Why::Farther { found: place.node };
        }
        let before = place.remembered.and_then(|number| self.world.previous.get(number));
        let own = self.guests.get(guest).map(|guest| guest.name.as_str());
        match before.filter(|before| Some(before.guest.as_str()) != own) {
            Some(before) => Why::LeftFor { guest: before.guest.clone() },
            None => Why::NotNeeded,
        }
    }

    /// A device for a sentence: where it sits, or what it will be.
    pub(super) fn name(&self, place: &Place<'_>) -> String {
        match (place.function, place.vf) {
            (Some(function), _) => function.address.to_string(),
            (None, Some(vf)) => {
                let pf = self.world.host.function(vf.pf);
                let port = pf.and_then(|pf| self.world.host.port_of(pf));
                match port {
                    Some(port) => format!("VF {} of {}", vf.index, port.name),
                    None => format!("VF {} of {}", vf.index, vf.pf),
                }
            }
            (None, None) => "a device".to_owned(),
        }
    }

    /// Every device of a pool with what became of it, each once.
    pub fn standing(&self, stock: usize) -> Vec<(String, Option<Why>)> {
        let Some(stock) = self.stocks.get(stock) else { return Vec::new() };
        let standing = |number: usize| {
            let place = self.places.get(number)?;
            let why = match place.taken.is_some() || place.reserved.is_some() {
                // After everything, as somebody sees it who has no part in it.
                true => Some(self.why(
                    place,
                    number,
                    usize::MAX,
                    u32::MAX,
                    (NumaChoice::Ignore, None),
                    Because::First,
                )),
                false => place.against.clone(),
            };
            Some((self.name(place), why))
        };
        stock.places.clone().filter_map(standing).collect()
    }

    /// The pools in the order of [`super::World::offers`].
    pub fn pools(&self) -> impl Iterator<Item = &Pool> {
        self.stocks.iter().map(|stock| &stock.offer.pool)
    }
}

/// The devices of a pool beside the one that a claim got.
struct Rivals {
    own: Option<usize>,
    all: std::ops::Range<usize>,
    /// When the claim was decided, and why so.
    at: u32,
    because: Because,
}

impl Rivals {
    fn places(&self) -> impl Iterator<Item = usize> + '_ {
        self.all.clone().filter(|place| Some(*place) != self.own)
    }

    fn count(&self) -> usize {
        self.all.len().saturating_sub(usize::from(self.own.is_some()))
    }
}

fn mac(pf: &sriov::PciFunction, index: u16) -> Option<MacAddress> {
    let settings = pf.sriov.as_ref()?.vf_settings.get(&index)?;
    Some(settings.mac).filter(|mac| !mac.is_zero())
}
