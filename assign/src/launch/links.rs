//! The links of a guest's virtio networks: whether a frame of the guest can get onto its bridge, or out of
//! the interface that it shares.
//!
//! ```text
//! somebody deletes the TAP, sets it or its bridge down, takes it off its bridge, draws the cable
//!   └─ the kernel tells by rtnetlink ─ looked at ─► the guest's process ─► its driver: no carrier
//! ```
//! The descriptor of a TAP would not do to hear of that. When the interface goes, the kernel wakes those who
//! wait for frames and nobody else (drivers/net/tun.c, `tun_detach_all`: `sk_data_ready`), so whoever wants
//! to hear of it is woken for each frame, even where vhost-net takes them all; and of a bridge it says nothing.
//! Rtnetlink costs nothing until somebody changes an interface.
//!
//! We keep a descriptor of each TAP: the interface would go with the guest's process otherwise, and its end
//! would look like somebody's doing.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};

use sriov::netlink::{Changed, Link, LinkNews, Over, Rtnetlink};

use super::handles::Card;
use super::tap::{self, Kind, Tap, Why};

/// The host's ends of a guest's virtio networks.
#[derive(Debug)]
pub struct Links(Mutex<Vec<Wire>>);

/// One of them.
#[derive(Debug)]
struct Wire {
    network: String,
    tap: OwnedFd,
    name: String,
    index: u32,
    kind: Kind,
    /// Of the bridge that it was on, or the interface that it shared, when it was last looked at.
    next: Option<u32>,
    /// Why it is down, as that was told last.
    down: Option<String>,
}

/// A link that is up or down, or down for another reason, than before.
#[derive(Debug, PartialEq, Eq)]
pub struct News {
    /// Which one, by its place among the guest's virtio networks.
    pub place: usize,
    /// Its name in the guest's document.
    pub network: String,
    /// Why it is down; none where it is up.
    pub down: Option<String>,
}

/// What is seen of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen<'a> {
    up: bool,
    kind: Kind,
    next: Option<Next<'a>>,
}

/// Where its frames go on: its bridge, or the interface that it shares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Next<'a> {
    name: &'a str,
    up: bool,
    carrier: bool,
}

/// Begins to listen, where there is something to hear of: before the interfaces are made.
///
/// # Errors
/// The kernel's.
pub fn listen(has_networks: bool) -> io::Result<Option<LinkNews>> {
    has_networks.then(LinkNews::open).transpose()
}

impl Links {
    /// Of these cards, whose links are up.
    ///
    /// # Errors
    /// Where descriptors are short.
    pub fn of(cards: &[Card]) -> io::Result<Links> {
        let wires = cards.iter().map(|card| {
            let Card { network, tap: Tap { files, name, index, kind }, .. } = card;
            let (network, name, index, kind) = (network.clone(), name.clone(), *index, *kind);
            let none = || io::Error::from(io::ErrorKind::InvalidInput);
            let tap = files.first().ok_or_else(none)?.try_clone()?;
            Ok(Wire { network, tap, name, index, kind, next: None, down: None })
        });
        Ok(Links(Mutex::new(wires.collect::<io::Result<_>>()?)))
    }

    /// Whether one of them may be another one by now.
    pub fn may_be_among(&self, changed: &Changed) -> bool {
        let wires = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        changed.may_be(wires.iter().flat_map(|wire| wire.next.into_iter().chain([wire.index])))
    }

    /// Looks at all of them, and hands each that is another one than before to `tell`, one after the other.
    ///
    /// # Errors
    /// The kernel's; links stay as they were, as far as they were not told of yet.
    pub fn look(&self, tell: impl Fn(News)) -> io::Result<()> {
        let mut wires = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut netlink = Rtnetlink::open()?;
        for (place, wire) in wires.iter_mut().enumerate() {
            let Some(why) = wire.look(&mut netlink)? else { continue };
            let down = why.map(|(cause, remedy)| format!("{cause}. {remedy}"));
            // Another reason is news as well: another remedy goes with it.
            if down == wire.down {
                continue;
            }
            wire.down.clone_from(&down);
            tell(News { place, network: wire.network.clone(), down });
        }
        Ok(())
    }
}

impl Wire {
    /// Why it is down, if it is; nothing where that is not to be seen.
    fn look(&mut self, netlink: &mut Rtnetlink) -> io::Result<Option<Option<Why>>> {
        let Some(link) = netlink.link(self.index)? else {
            // One that was moved to another network namespace is out of sight, and may be in use there.
            return Ok(tap::is_gone(&self.tap).then(|| Some(gone(&self.name, self.kind))));
        };
        self.name.clone_from(&link.name);
        self.next = match (self.kind, link.over) {
            (Kind::Bridged, _) => link.master,
            (Kind::Sharing, Some(Over::Here(below))) => Some(below),
            (Kind::Sharing | Kind::Foreign, _) => None,
        };
        let next = self.next.map(|next| netlink.link(next)).transpose()?.flatten();
        let next = next.as_ref().map(|Link { name, up, carrier, .. }| Next {
            name,
            up: *up,
            carrier: *carrier,
        });
        Ok(Some(why(&self.name, Seen { up: link.up, kind: self.kind, next })))
    }
}

fn gone(name: &str, kind: Kind) -> Why {
    let remedy = match kind {
        Kind::Bridged | Kind::Sharing => {
            "The guest gets another one when it starts again: `assign reset` does that."
        }
        Kind::Foreign => "Make it again, and have the guest start again with `assign reset`.",
    };
    (format!("{name}, its interface on the host, was deleted"), remedy.to_owned())
}

/// Why the link by the interface `name` is down, where that is there.
fn why(name: &str, seen: Seen<'_>) -> Option<Why> {
    let down = |which: String, interface| {
        Some((format!("{which} is set down"), format!("`ip link set {interface} up` sets it up.")))
    };
    match seen {
        Seen { up: false, .. } => down(format!("{name}, its interface on the host,"), name),
        Seen { kind: Kind::Bridged, next: None, .. } => Some((
            format!("{name}, its interface on the host, is on no bridge any more"),
            format!("`ip link set {name} master BRIDGE` puts it on one."),
        )),
        Seen { kind: Kind::Bridged, next: Some(Next { name: bridge, up: false, .. }), .. } => {
            down(format!("{bridge}, the bridge that it is on,"), bridge)
        }
        Seen { kind: Kind::Sharing, next: Some(Next { name: shared, up: false, .. }), .. } => {
            down(format!("{shared}, the interface that it shares,"), shared)
        }
        Seen {
            kind: Kind::Sharing, next: Some(Next { name: shared, carrier: false, .. }), ..
        } => Some((
            format!("{shared}, the interface that it shares, has no carrier"),
            "Look at its cable, and at what is at the other end.".to_owned(),
        )),
        // A bridge may have ports or none: guests on it reach each other all the same.
        Seen { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_up_where_the_interface_and_its_bridge_are() {
        let bridge = |up| Some(Next { name: "br0", up, carrier: false });
        let shared = |up, carrier| Some(Next { name: "eth0", up, carrier });
        let told = |up, kind, next| why("it", Seen { up, kind, next }).map(|why| why.0);
        for (kind, next) in [
            (Kind::Bridged, bridge(true)),
            (Kind::Sharing, shared(true, true)),
            // The one below is in another network namespace.
            (Kind::Sharing, None),
            (Kind::Foreign, None),
        ] {
            assert_eq!(told(true, kind, next), None);
            let down = told(false, kind, next);
            assert_eq!(down.as_deref(), Some("it, its interface on the host, is set down"));
        }
        for (kind, next, expected) in [
            (Kind::Bridged, None, "it, its interface on the host, is on no bridge any more"),
            (Kind::Bridged, bridge(false), "br0, the bridge that it is on, is set down"),
            (
                Kind::Sharing,
                shared(false, false),
                "eth0, the interface that it shares, is set down",
            ),
            (
                Kind::Sharing,
                shared(true, false),
                "eth0, the interface that it shares, has no carrier",
            ),
        ] {
            assert_eq!(told(true, kind, next).as_deref(), Some(expected));
        }
        let (_, remedy) = why("it", Seen { up: true, kind: Kind::Bridged, next: bridge(false) })
            .expect("its bridge is down");
        assert_eq!(remedy, "`ip link set br0 up` sets it up.");
    }

    #[test]
    fn what_is_out_of_sight_and_not_deleted_stays_as_it_was() {
        let (tap, _other_end) = rustix::pipe::pipe().expect("a pipe");
        let links = Links(Mutex::new(vec![Wire {
            network: "net0".to_owned(),
            tap,
            name: "as-tap0".to_owned(),
            // Numbers of interfaces are positive.
            index: i32::MAX.unsigned_abs(),
            kind: Kind::Bridged,
            next: Some(7),
            down: None,
        }]));
        links.look(|news| panic!("{news:?}")).expect("rtnetlink is always there");
        let changed = |index| Changed::These([index].into_iter().collect());
        assert!(links.may_be_among(&changed(7)) && !links.may_be_among(&changed(8)));
        assert!(links.may_be_among(&Changed::Any));
    }
}
