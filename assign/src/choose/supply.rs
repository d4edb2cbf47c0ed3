//! Every device of every pool, and the free ones in the order in which they are given away.
//!
//! ```text
//! Stock   a pool's devices ── shelves by NUMA node ── racks, first the one to take from
//! Rack    the free devices of one card that one pool has on one node
//! Card    a PF, or a whole function: how many of its devices are in use
//! Place   one device: what speaks against it, or who gets it
//! ```

use std::collections::{BTreeMap, BTreeSet, HashMap};

use policies::{Claim, Guest, NumaChoice, Order, PoolDevices};
use sriov::{PciAddress, PciFunction, Target, VfRef};

use super::examine::{Examiner, identity};
use super::reason::{Because, Holder, Unmet, Why};
use super::{Offer, Previous, World, claims};
use crate::plan::candidates;
use crate::plan::mac::Macs;

/// One device of a pool.
#[derive(Debug)]
pub(super) struct Place<'a> {
    pub stock: usize,
    card: usize,
    rack: usize,
    pub vf: Option<VfRef>,
    target: Target,
    /// As it is now; `None` for a VF that is not there, or is to be made anew.
    pub function: Option<&'a PciFunction>,
    pub node: Option<u32>,
    /// What speaks against it, whoever asks.
    pub against: Option<Why>,
    /// Who had it last time: the place in [`World::previous`].
    pub remembered: Option<usize>,
    /// Who gets it.
    pub taken: Option<Taken>,
    /// Who has another device of its group.
    pub reserved: Option<Reserved>,
}

/// Who gets a device: the claim by its number and its guest's, and when it was decided.
#[derive(Debug, Clone, Copy)]
pub(super) struct Taken {
    pub guest: usize,
    pub claim: usize,
    pub at: u32,
}

/// The guest that a group is left to, and when that was decided.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reserved {
    pub guest: usize,
    pub at: u32,
}

/// What became of a claim.
#[derive(Debug, Clone)]
pub(super) enum Answer {
    Open,
    Place { place: usize, because: Because, at: u32 },
    Nothing { stock: usize, at: u32 },
    Unmet(Unmet),
}

/// The order of racks: first those with a device that nobody had last time, then by use where the
/// pool is spread, then by address.
type Key = (u8, u32, PciAddress, usize);

#[derive(Debug)]
struct Rack {
    stock: usize,
    node: Option<u32>,
    card: usize,
    /// By whether somebody had it last time, and by number.
    free: BTreeSet<(u8, usize)>,
    key: Option<Key>,
}

#[derive(Debug)]
struct Card {
    address: PciAddress,
    used: u32,
    racks: Vec<usize>,
}

/// A pool with its devices.
#[derive(Debug)]
pub(super) struct Stock<'a> {
    pub offer: &'a Offer,
    /// Its places, all in a row.
    pub places: std::ops::Range<usize>,
    /// Why nobody gets anything of it.
    closed: Option<Unmet>,
    shelves: BTreeMap<Option<u32>, BTreeSet<Key>>,
}

/// All pools with what they have, and what of it goes to whom.
#[derive(Debug)]
pub struct Supply<'a> {
    pub(super) world: World<'a>,
    pub(super) macs: Macs<'a>,
    pub(super) guests: &'a [Guest],
    pub(super) stocks: Vec<Stock<'a>>,
    pub(super) places: Vec<Place<'a>>,
    pub(super) answers: Vec<Vec<Answer>>,
    stock_of: HashMap<&'a str, usize>,
    cards: Vec<Card>,
    racks: Vec<Rack>,
    /// Places of a group that has several.
    mates: HashMap<u32, Vec<usize>>,
    /// What only this guest can have, since it has other devices of the group.
    rest: Vec<BTreeSet<usize>>,
    /// What each guest holds now.
    held: HashMap<usize, Vec<usize>>,
    /// What each claim had last time.
    before: HashMap<(&'a str, &'a str), usize>,
    /// Whether firmware names nodes at all.
    pub(super) has_nodes: bool,
    clock: u32,
}

impl<'a> Supply<'a> {
    /// Everything there is for `guests`, and nothing decided yet.
    pub fn new(world: World<'a>, guests: &'a [Guest]) -> Supply<'a> {
        let mut supply = Supply {
            world,
            macs: Macs::of(world.host),
            guests,
            stocks: Vec::new(),
            places: Vec::new(),
            answers: guests.iter().map(|guest| vec![Answer::Open; claims(guest).count()]).collect(),
            stock_of: HashMap::new(),
            cards: Vec::new(),
            racks: Vec::new(),
            mates: HashMap::new(),
            rest: vec![BTreeSet::new(); guests.len()],
            held: HashMap::new(),
            before: HashMap::new(),
            has_nodes: world.host.functions.iter().any(|function| function.numa_node.is_some()),
            clock: 0,
        };
        let mut examiner = Examiner::new(world);
        let mut card_of = HashMap::new();
        for offer in world.offers {
            supply.add_stock(offer, &mut examiner, &mut card_of);
        }
        supply.remember();
        supply.reserve();
        supply.arrange();
        supply
    }

    fn add_stock(
        &mut self,
        offer: &'a Offer,
        examiner: &mut Examiner<'a>,
        card_of: &mut HashMap<PciAddress, usize>,
    ) {
        let (host, pool) = (self.world.host, &offer.pool);
        let number = self.stocks.len();
        self.stock_of.entry(&pool.name).or_insert(number);
        let first = self.places.len();
        let cards: Vec<&PciFunction> = match &offer.planned {
            Some(accepted) => accepted.iter().filter_map(|at| host.function(*at)).collect(),
            None => {
                host.functions.iter().filter(|one| candidates::is_meant(host, pool, one)).collect()
            }
        };
        for function in &cards {
            let card = *card_of.entry(function.address).or_insert_with(|| {
                self.cards.push(Card { address: function.address, used: 0, racks: Vec::new() });
                self.cards.len() - 1
            });
            let rack = self.racks.len();
            let node = function.numa_node;
            self.racks.push(Rack { stock: number, node, card, free: BTreeSet::new(), key: None });
            if let Some(card) = self.cards.get_mut(card) {
                card.racks.push(rack);
            }
            let mut add = |vf: Option<VfRef>, at: Option<&'a PciFunction>| {
                let against = examiner.against(offer, function, at);
                self.places.push(Place {
                    stock: number,
                    card,
                    rack,
                    vf,
                    target: vf.map_or(Target::Function(function.address), Target::Vf),
                    function: at,
                    node,
                    against,
                    remembered: None,
                    taken: None,
                    reserved: None,
                });
            };
            match &pool.devices {
                PoolDevices::Whole => add(None, Some(function)),
                PoolDevices::Vfs { count, indexes } => {
                    let facts = function.sriov.as_ref();
                    // Another number of VFs goes by way of none: all of them will be new ones.
                    let stays = offer.planned.is_none()
                        || facts.is_some_and(|facts| facts.present == *count);
                    for index in indexes.iter() {
                        let at = facts.and_then(|facts| facts.vfs.get(&index)).filter(|_| stays);
                        let vf = VfRef { pf: function.address, index };
                        add(Some(vf), at.and_then(|at| host.function(*at)));
                    }
                }
            }
        }
        let places = first..self.places.len();
        let closed = examiner.closed(offer, places.is_empty());
        self.stocks.push(Stock { offer, places, closed, shelves: BTreeMap::new() });
    }

    /// Ties what guests had last time to where it is now.
    fn remember(&mut self) {
        if self.world.previous.is_empty() {
            return;
        }
        let host = self.world.host;
        let mut at: HashMap<Target, usize> = HashMap::with_capacity(self.places.len());
        for (number, place) in self.places.iter().enumerate() {
            at.entry(place.target).or_insert(number);
        }
        let mut known: HashMap<String, PciAddress> = HashMap::new();
        let mut words: HashMap<PciAddress, String> = HashMap::new();
        for card in &self.cards {
            let Some(function) = host.function(card.address) else { continue };
            let word = identity(&self.macs, function);
            known.entry(word.clone()).or_insert(card.address);
            words.insert(card.address, word);
        }
        for (number, previous) in self.world.previous.iter().enumerate() {
            let Previous { guest, claim, vf, address, identity, .. } = previous;
            // Where it was, if that is still the same; else wherever that card is now.
            let card = match words.get(address) {
                Some(word) if word == identity => Some(*address),
                _ => known.get(identity).copied(),
            };
            let Some(card) = card else { continue };
            let target = match vf {
                Some(vf) => Target::Vf(VfRef { pf: card, index: vf.index }),
                None => Target::Function(card),
            };
            let Some(place) = at.get(&target).copied() else { continue };
            self.before.insert((guest, claim), place);
            if let Some(place) = self.places.get_mut(place) {
                place.remembered.get_or_insert(number);
            }
        }
    }

    /// Who holds what, and with it the rest of its group.
    fn reserve(&mut self) {
        // A guest that is about to start holds nothing: who has its name is another one.
        let running = self.guests.iter().enumerate().filter(|_| self.world.runs);
        let names: HashMap<&str, usize> =
            running.map(|(at, guest)| (guest.name.as_str(), at)).collect();
        let mut groups: HashMap<u32, (PciAddress, &Holder)> = HashMap::new();
        for (address, holder) in self.world.holders {
            if let Some(group) = self.world.host.function(*address).and_then(|one| one.iommu_group)
            {
                groups.insert(group, (*address, holder));
            }
        }
        for number in 0..self.places.len() {
            let Some(place) = self.places.get_mut(number) else { continue };
            let Some(function) = place.function else { continue };
            if let Some(group) = function.iommu_group {
                self.mates.entry(group).or_default().push(number);
            }
            if let Some(holder) = self.world.holders.get(&function.address) {
                place.against = Some(Why::Leased { holder: holder.clone() });
                if let Some(card) = self.cards.get_mut(place.card) {
                    card.used += 1;
                }
                if let Some(guest) = names.get(holder.guest.as_str()) {
                    self.held.entry(*guest).or_default().push(number);
                }
                continue;
            }
            let held = function.iommu_group.and_then(|group| Some((group, groups.get(&group)?)));
            let Some((group, (device, holder))) = held else { continue };
            match names.get(holder.guest.as_str()) {
                // The rest of a group is for who has a part of it.
                Some(guest) if place.against.is_none() => {
                    place.reserved = Some(Reserved { guest: *guest, at: 0 });
                    if let Some(rest) = self.rest.get_mut(*guest) {
                        rest.insert(number);
                    }
                }
                _ => {
                    let (device, holder) = (*device, (*holder).clone());
                    place.against.get_or_insert(Why::GroupLeased { group, device, holder });
                }
            }
        }
        self.mates.retain(|_, places| places.len() > 1);
    }

    /// Puts what is free into order.
    fn arrange(&mut self) {
        for (number, place) in self.places.iter().enumerate() {
            if place.against.is_none() && place.reserved.is_none() {
                let tier = u8::from(place.remembered.is_some());
                if let Some(rack) = self.racks.get_mut(place.rack) {
                    rack.free.insert((tier, number));
                }
            }
        }
        for rack in 0..self.racks.len() {
            self.refresh(rack);
        }
    }

    /// Puts a rack to where it belongs on its shelf.
    fn refresh(&mut self, number: usize) {
        let Some(rack) = self.racks.get_mut(number) else { return };
        let Some(stock) = self.stocks.get_mut(rack.stock) else { return };
        let Some(card) = self.cards.get(rack.card) else { return };
        let spread = stock.offer.pool.order == Order::Spread;
        let used = if spread { card.used } else { 0 };
        let key = rack.free.first().map(|(tier, _)| (*tier, used, card.address, number));
        if key == rack.key {
            return;
        }
        let shelf = stock.shelves.entry(rack.node).or_default();
        if let Some(old) = rack.key.take() {
            shelf.remove(&old);
        }
        shelf.extend(key);
        rack.key = key;
    }

    /// Decides about every claim: what guests hold and had first, then all else in their order. What a
    /// guest would have that does not start is left to those after it.
    pub fn decide(&mut self) {
        for second in [false, true] {
            for (number, guest) in self.guests.iter().enumerate() {
                for (at, asked) in claims(guest).enumerate() {
                    let answer = self.answers.get(number).and_then(|answers| answers.get(at));
                    if !matches!(answer, Some(Answer::Open)) {
                        continue;
                    }
                    let answer = self.answer(number, at, asked.name, asked.claim, second);
                    let answers = self.answers.get_mut(number);
                    if let (Some(answer), Some(slot)) =
                        (answer, answers.and_then(|answers| answers.get_mut(at)))
                    {
                        *slot = answer;
                    }
                }
                if second && !self.starts(number, guest) {
                    self.give_up(number);
                }
            }
        }
    }

    /// Whether a guest has all that it does not start without.
    pub(super) fn starts(&self, number: usize, guest: &Guest) -> bool {
        let answers = self.answers.get(number).map(Vec::as_slice).unwrap_or_default();
        let networks = guest.networks.iter().filter(|network| network.claim.is_some());
        let optional = networks.map(|network| network.fallback.is_some());
        let optional = optional.chain(guest.devices.iter().map(|device| device.optional));
        let has = |answer: &Answer| matches!(answer, Answer::Place { .. });
        answers.iter().zip(optional).all(|(answer, optional)| optional || has(answer))
    }

    /// Leaves to others what a guest was to have and does not hold.
    fn give_up(&mut self, guest: usize) {
        let answers = self.answers.get(guest).map(Vec::as_slice).unwrap_or_default();
        let taken = answers.iter().filter_map(|answer| match answer {
            Answer::Place { because: Because::Holds, .. } => None,
            Answer::Place { place, .. } => Some(*place),
            _ => None,
        });
        let taken: Vec<usize> = taken.collect();
        let mut groups = BTreeSet::new();
        for number in taken {
            let Some(place) = self.places.get_mut(number) else { continue };
            place.taken = None;
            groups.extend(place.function.and_then(|function| function.iommu_group));
            if let Some(card) = self.cards.get_mut(place.card) {
                card.used = card.used.saturating_sub(1);
            }
            self.put_back(number);
        }
        for group in groups {
            let mates = self.mates.get(&group).cloned().unwrap_or_default();
            let of = |place: &usize| self.places.get(*place);
            let holds = self.held.get(&guest).into_iter().flatten().filter_map(of);
            if holds
                .into_iter()
                .any(|held| held.function.and_then(|f| f.iommu_group) == Some(group))
            {
                // The rest of a group that the guest has a part of stays its own.
                continue;
            }
            for mate in mates {
                let Some(place) = self.places.get_mut(mate) else { continue };
                if place.reserved.is_some_and(|reserved| reserved.guest == guest) {
                    place.reserved = None;
                    if let Some(rest) = self.rest.get_mut(guest) {
                        rest.remove(&mate);
                    }
                }
                if place.taken.is_some_and(|taken| taken.guest == guest) {
                    place.taken = None;
                }
                self.put_back(mate);
            }
        }
    }

    /// Puts a place back to what is free, if it is.
    fn put_back(&mut self, number: usize) {
        let Some(place) = self.places.get(number) else { return };
        let (rack, card) = (place.rack, place.card);
        let is_free = place.against.is_none() && place.taken.is_none() && place.reserved.is_none();
        let tier = u8::from(place.remembered.is_some());
        if let Some(rack) = self.racks.get_mut(rack).filter(|_| is_free) {
            rack.free.insert((tier, number));
        }
        let racks = self.cards.get(card).map(|card| card.racks.clone()).unwrap_or_default();
        racks.into_iter().for_each(|rack| self.refresh(rack));
    }

    /// The answer to one claim; `None` where it has to wait for the second round.
    fn answer(
        &mut self,
        guest: usize,
        claim: usize,
        name: &'a str,
        asked: &'a Claim,
        second: bool,
    ) -> Option<Answer> {
        let Some(stock) = self.stock_of.get(asked.pool.as_str()).copied() else {
            let known = self.stocks.iter().map(|stock| stock.offer.pool.name.clone()).collect();
            return Some(Answer::Unmet(Unmet::NoSuchPool { pool: asked.pool.clone(), known }));
        };
        if let Some(place) = self.held_by(guest, stock, name) {
            return Some(self.take(place, guest, claim, Because::Holds));
        }
        if let Some(unmet) = self.stocks.get(stock).and_then(|stock| stock.closed.clone()) {
            return Some(Answer::Unmet(unmet));
        }
        let node = self.wish(guest, asked);
        if !second {
            let owner = self.guests.get(guest)?;
            let place = *self.before.get(&(owner.name.as_str(), name))?;
            let is_free = self.places.get(place).is_some_and(|one| {
                let reserved = one.reserved.is_some_and(|reserved| reserved.guest != guest);
                one.stock == stock && one.against.is_none() && one.taken.is_none() && !reserved
            });
            let allowed = is_free && self.allowed(place, node);
            return allowed.then(|| self.take(place, guest, claim, Because::Kept));
        }
        Some(match self.find(guest, stock, node) {
            Some((place, because)) => self.take(place, guest, claim, because),
            None => {
                self.clock += 1;
                Answer::Nothing { stock, at: self.clock }
            }
        })
    }

    /// What the guest has of this pool already: what this very claim had, if that is among it.
    fn held_by(&self, guest: usize, stock: usize, claim: &str) -> Option<usize> {
        let held = self.held.get(&guest)?;
        let is_open = |place: &usize| {
            self.places.get(*place).is_some_and(|one| one.stock == stock && one.taken.is_none())
        };
        let owner = self.guests.get(guest)?;
        let before = self.before.get(&(owner.name.as_str(), claim)).copied();
        let same = before.filter(|place| held.contains(place) && is_open(place));
        same.or_else(|| held.iter().copied().find(is_open))
    }

    /// The node that a claim is to be on, that of its guest's memory, and how much.
    pub(super) fn wish(&self, guest: usize, claim: &Claim) -> (NumaChoice, Option<u32>) {
        (claim.numa, self.memory_node(guest))
    }

    /// The node that a guest's memory comes from: as its document says, or else where the first device
    /// is that was chosen for a claim which prefers a near one. The memory goes to that device, and
    /// the claims after it go by that node.
    pub(super) fn memory_node(&self, guest: usize) -> Option<u32> {
        let owner = self.guests.get(guest)?;
        let first = || {
            let answers = self.answers.get(guest)?.iter();
            let near = claims(owner).zip(answers).filter_map(|(asked, answer)| match answer {
                Answer::Place { place, at, .. } if asked.claim.numa != NumaChoice::Ignore => {
                    Some((*at, self.places.get(*place)?.node?))
                }
                _ => None,
            });
            near.min().map(|(_, node)| node)
        };
        owner.memory.node().or_else(first)
    }

    /// Whether a claim that demands a node may have this place.
    pub(super) fn allowed(&self, place: usize, wish: (NumaChoice, Option<u32>)) -> bool {
        match wish {
            (NumaChoice::Required, Some(_)) => self.is_near(place, wish.1),
            _ => true,
        }
    }

    fn is_near(&self, place: usize, wanted: Option<u32>) -> bool {
        let found = self.places.get(place).and_then(|place| place.node);
        found == wanted || !self.has_nodes
    }

    /// The device to take, and why that one.
    fn find(
        &self,
        guest: usize,
        stock: usize,
        wish: (NumaChoice, Option<u32>),
    ) -> Option<(usize, Because)> {
        let rest = self.rest.get(guest).into_iter().flatten().copied();
        let mut rest = rest.filter(|place| {
            self.places.get(*place).is_some_and(|one| one.stock == stock && one.taken.is_none())
                && self.allowed(*place, wish)
        });
        if let Some(place) = rest.next() {
            return Some((place, Because::RestOfGroup));
        }
        let stock = self.stocks.get(stock)?;
        let first = |near: &dyn Fn(Option<u32>) -> bool| {
            let shelves = stock.shelves.iter().filter(|(node, _)| near(**node));
            shelves.filter_map(|(_, shelf)| shelf.first()).min().copied()
        };
        let anywhere = match stock.offer.pool.order {
            Order::Pack => Because::First,
            Order::Spread => Because::Spread,
        };
        let (key, because) = match wish {
            (NumaChoice::Required | NumaChoice::Preferred, Some(wanted)) if self.has_nodes => {
                let near = first(&|node| node == Some(wanted)).map(|key| (key, Because::Near));
                let far = || first(&|_| true).map(|key| (key, anywhere));
                match wish.0 {
                    NumaChoice::Required => near,
                    _ => near.or_else(far),
                }
            }
            _ => first(&|_| true).map(|key| (key, anywhere)),
        }?;
        let (_, _, _, rack) = key;
        let (_, place) = self.racks.get(rack)?.free.first()?;
        Some((*place, because))
    }

    /// Gives a place to a claim, and the rest of its group to the claim's guest.
    fn take(&mut self, place: usize, guest: usize, claim: usize, because: Because) -> Answer {
        self.clock += 1;
        let at = self.clock;
        self.withdraw(place);
        let Some(one) = self.places.get_mut(place) else { return Answer::Open };
        one.taken = Some(Taken { guest, claim, at });
        let (card, function) = (one.card, one.function);
        if because != Because::Holds
            && let Some(card) = self.cards.get_mut(card)
        {
            card.used += 1;
            for rack in card.racks.clone() {
                self.refresh(rack);
            }
        }
        let group = function.and_then(|function| function.iommu_group);
        let mates = group.and_then(|group| self.mates.get(&group)).cloned().unwrap_or_default();
        for mate in mates.into_iter().filter(|mate| *mate != place) {
            self.withdraw(mate);
            let Some(other) = self.places.get_mut(mate) else { continue };
            if other.function.map(|one| one.address) == function.map(|one| one.address) {
                // The same device in another pool.
                other.taken.get_or_insert(Taken { guest, claim, at });
            } else if other.taken.is_none() && other.reserved.is_none() {
                other.reserved = Some(Reserved { guest, at });
                if let Some(rest) = self.rest.get_mut(guest).filter(|_| other.against.is_none()) {
                    rest.insert(mate);
                }
            }
        }
        Answer::Place { place, because, at }
    }

    /// Takes a place out of what is free.
    fn withdraw(&mut self, place: usize) {
        let Some(one) = self.places.get(place) else { return };
        let tier = u8::from(one.remembered.is_some());
        let rack = one.rack;
        if self.racks.get_mut(rack).is_some_and(|rack| rack.free.remove(&(tier, place))) {
            self.refresh(rack);
        }
    }
}
