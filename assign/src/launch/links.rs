//! The links of a guest's virtio networks: whether a frame of the guest can get onto its bridge.
//!
//! ```text
//! somebody deletes the TAP, sets it or its bridge down, takes it off its bridge
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
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use sriov::netlink::{Changed, LinkNews, Rtnetlink};

use super::handles::Card;

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
    /// Of the bridge that it was on when it was last looked at.
    bridge: Option<u32>,
    /// Why it is down, as that was told last.
    down: Option<String>,
}

/// Why a link is down, for people: the cause, and what to do about it.
type Why = (String, String);

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
    /// Its bridge: the name, and whether it is up.
    bridge: Option<(&'a str, bool)>,
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
            let Card { network, taps, name, index, .. } = card;
            let (network, name, index) = (network.clone(), name.clone(), *index);
            let none = || io::Error::from(io::ErrorKind::InvalidInput);
            let tap = taps.first().ok_or_else(none)?.try_clone()?;
            Ok(Wire { network, tap, name, index, bridge: None, down: None })
        });
        Ok(Links(Mutex::new(wires.collect::<io::Result<_>>()?)))
    }

    /// Whether one of them may be another one by now.
    pub fn may_be_among(&self, changed: &Changed) -> bool {
        let wires = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        changed.may_be(wires.iter().flat_map(|wire| wire.bridge.into_iter().chain([wire.index])))
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
            return Ok(is_gone(&self.tap).then(|| Some(gone(&self.name))));
        };
        self.name.clone_from(&link.name);
        self.bridge = link.master;
        let bridge = link.master.map(|master| netlink.link(master)).transpose()?.flatten();
        let bridge = bridge.as_ref().map(|bridge| (bridge.name.as_str(), bridge.up));
        Ok(Some(why(&self.name, Seen { up: link.up, bridge })))
    }
}

/// Whether the interface is no more (`tun_chr_poll`).
fn is_gone(tap: &OwnedFd) -> bool {
    let mut wanted = [PollFd::from_borrowed_fd(tap.as_fd(), PollFlags::empty())];
    let polled = poll(&mut wanted, Some(&Timespec::default()));
    polled.is_ok() && wanted.iter().any(|one| one.revents().contains(PollFlags::ERR))
}

fn gone(name: &str) -> Why {
    let remedy = "The guest gets another one when it starts again: `assign reset` does that.";
    (format!("{name}, its interface on the host, was deleted"), remedy.to_owned())
}

/// Why the link by the interface `name` is down, where that is there.
fn why(name: &str, seen: Seen<'_>) -> Option<Why> {
    match seen {
        Seen { up: false, .. } => Some((
            format!("{name}, its interface on the host, is set down"),
            format!("`ip link set {name} up` sets it up."),
        )),
        Seen { bridge: None, .. } => Some((
            format!("{name}, its interface on the host, is on no bridge any more"),
            format!("`ip link set {name} master BRIDGE` puts it on one."),
        )),
        Seen { bridge: Some((bridge, false)), .. } => Some((
            format!("{bridge}, the bridge that it is on, is set down"),
            format!("`ip link set {bridge} up` sets it up."),
        )),
        Seen { bridge: Some((_, true)), .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_up_where_the_interface_and_its_bridge_are() {
        let told = |up, bridge| {
            why("as-tap0", Seen { up, bridge }).map(|(cause, remedy)| format!("{cause}. {remedy}"))
        };
        assert_eq!(told(true, Some(("br0", true))), None);
        for (up, bridge, expected) in [
            (
                false,
                Some(("br0", true)),
                "as-tap0, its interface on the host, is set down. `ip link",
            ),
            (true, None, "is on no bridge any more. `ip link set as-tap0 master"),
            (
                true,
                Some(("br0", false)),
                "br0, the bridge that it is on, is set down. `ip link set br0",
            ),
        ] {
            let told = told(up, bridge).expect(expected);
            assert!(told.contains(expected), "{told}");
        }
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
            bridge: Some(7),
            down: None,
        }]));
        links.look(|news| panic!("{news:?}")).expect("rtnetlink is always there");
        let changed = |index| Changed::These([index].into_iter().collect());
        assert!(links.may_be_among(&changed(7)) && !links.may_be_among(&changed(8)));
        assert!(links.may_be_among(&Changed::Any));
    }
}
