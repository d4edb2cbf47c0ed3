//! The guest's hold on its devices: taken before they are opened, given back after they are closed.
//!
//! The launcher owns the leases until the guest's process runs, then that process does: they end
//! with it, and it ends with the launcher. So after SIGKILL of either, nobody has to clean up, and
//! while the kernel still takes the process apart, the devices still count as held.
//!
//! A device of a pool with `driver: host` is the host's until here and again afterwards: it is lent
//! (see [`crate::apply::leases`]).

use std::collections::{BTreeMap, BTreeSet};

use policies::Driver;
use sriov::isolation::{self, is_vfio_driver};
use sriov::{HostRoot, HostSnapshot, PciAddress, PciFunction, usage};

use crate::apply::leases::{self, NotTaken, Used};
use crate::choose::{self, ByForce, Device, Holder, Offer};
use crate::failure::{Failure, OwnReason, Reason};
use crate::state::{self, Loan, Owner, State};

/// The driver that a lent device has with its guest.
const LENT_TO: &str = "vfio-pci";

/// Who holds which device now.
///
/// # Errors
/// Why the state cannot be read.
pub fn holders(state: &State, root: &HostRoot) -> Result<BTreeMap<PciAddress, Holder>, Failure> {
    let leases = state.leases(root)?;
    let holder = |lease: state::Lease| {
        (lease.device, Holder { guest: lease.guest, pid: Some(lease.owner.pid) })
    };
    Ok(leases.into_iter().map(holder).collect())
}

/// Refuses where a guest of this name runs with a device. One without has no lease, and nothing to
/// be mistaken for.
///
/// # Errors
/// That it runs, or why the state cannot be read.
pub fn check_name(state: &State, root: &HostRoot, guest: &str) -> Result<(), Failure> {
    match state.leases(root)?.iter().find(|lease| lease.guest == guest) {
        Some(lease) => Err(state::leases::runs(lease)),
        None => Ok(()),
    }
}

/// Leases on all devices of one guest. Dropping it gives them back as well, for the ways out that
/// have an error to report already.
#[derive(Debug)]
pub struct Lease<'a> {
    state: &'a State,
    root: &'a HostRoot,
    launcher: Owner,
    owner: Owner,
    held: Vec<PciAddress>,
    used: Used,
}

/// What came of taking a guest's devices.
#[derive(Debug)]
pub enum Taken<T> {
    /// They are the guest's.
    All(T),
    /// Somebody was faster with one of them.
    TooLate,
    /// This one cannot be had, for this reason; another one may.
    Not(PciAddress, Failure),
}

impl<'a> Lease<'a> {
    /// Leases `devices` to `guest`, and binds those that the host lends, with what else of their
    /// groups it has. `host` is what they were chosen from.
    ///
    /// # Errors
    /// Why the state cannot be written; nothing is leased then.
    pub fn take(
        state: &'a State,
        root: &'a HostRoot,
        guest: &str,
        host: &HostSnapshot,
        offers: &[Offer],
        devices: &[Device],
    ) -> Result<Taken<Lease<'a>>, Failure> {
        let launcher = leases::this_process(root, guest)?;
        let entries = entries(root, host, offers, guest, devices, launcher);
        Ok(match take(root, state, host, &entries)? {
            Taken::All(()) => {
                let held = entries.iter().map(|entry| entry.device).collect();
                let used = Used::No;
                Taken::All(Lease { state, root, launcher, owner: launcher, held, used })
            }
            Taken::TooLate => Taken::TooLate,
            Taken::Not(device, failure) => Taken::Not(device, failure),
        })
    }

    /// What leasing `devices` to the guest as well takes, which runs; those that it holds already stay
    /// as they are. `host` is what they were chosen from.
    pub fn more(
        &self,
        guest: &str,
        host: &HostSnapshot,
        offers: &[Offer],
        devices: &[Device],
    ) -> More<'a> {
        let mut entries = entries(self.root, host, offers, guest, devices, self.owner);
        entries.retain(|entry| !self.held.contains(&entry.device));
        More { state: self.state, root: self.root, entries }
    }

    /// Holds what was taken.
    pub fn hold(&mut self, more: &More<'_>) {
        self.held.extend(more.entries.iter().map(|entry| entry.device));
    }

    /// Those of the devices it holds that are of none of these groups. Nobody has them open any more.
    ///
    /// # Errors
    /// Why the state cannot be read.
    pub fn unused(&self, groups: &BTreeSet<u32>) -> Result<Unused<'a>, Failure> {
        let owners = [self.launcher, self.owner];
        let ours = self
            .state
            .leases_ever()?
            .into_iter()
            .filter(|lease| self.held.contains(&lease.device) && owners.contains(&lease.owner));
        let unused = ours.filter(|lease| lease.group.is_none_or(|group| !groups.contains(&group)));
        let devices = unused.map(|lease| lease.device).collect();
        Ok(Unused { state: self.state, root: self.root, devices, owners })
    }

    /// Holds no more what was given back.
    pub fn forget(&mut self, unused: &Unused<'_>) {
        self.held.retain(|device| !unused.devices.contains(device));
    }

    /// The guest's process runs: it is the owner from now on.
    ///
    /// # Errors
    /// Why the state cannot be written, or that the process has gone already.
    pub fn hand_to(&mut self, pid: u32) -> Result<(), Failure> {
        self.used = Used::Yes;
        self.move_to(pid)
    }

    /// The guest's process has ended and another one is to follow: the launcher is the owner again.
    /// False where somebody else has a device by now.
    pub fn take_back(&mut self) -> bool {
        self.move_to(self.launcher.pid).is_ok()
    }

    fn move_to(&mut self, pid: u32) -> Result<(), Failure> {
        if !self.held.is_empty() {
            self.owner = self.state.set_lease_owner(self.root, &self.held, &self.owner, pid)?;
        }
        Ok(())
    }

    /// Gives the devices back, lent ones to the host; the guest's process has ended. Tells what a
    /// person should know.
    ///
    /// # Errors
    /// Why one could not be given back. Its lease is dead once this process ends, and the next
    /// command that changes this host tries again.
    pub fn release(mut self) -> Result<(), Failure> {
        for note in self.end()? {
            anstream::eprintln!("assign: {note}");
        }
        Ok(())
    }

    fn end(&mut self) -> Result<Vec<String>, Failure> {
        let held = std::mem::take(&mut self.held);
        if held.is_empty() {
            return Ok(Vec::new());
        }
        // Whether handing over came to the disk is not known where writing failed.
        leases::release(self.root, self.state, &held, [self.launcher, self.owner], self.used)
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        // The error that led here is reported; what could not be given back here is dead when
        // this process has ended, and the next command returns it.
        self.end().ok();
    }
}

/// Leases that a running guest is to have as well. Taking them may wait for other commands that change
/// the host, so it borrows nothing of the guest.
#[derive(Debug)]
pub struct More<'a> {
    state: &'a State,
    root: &'a HostRoot,
    entries: Vec<state::Lease>,
}

impl More<'_> {
    /// Takes them, and binds devices that the host lends. `host` is what they were chosen from.
    ///
    /// # Errors
    /// Why the state cannot be written; nothing is leased then.
    pub fn take(&self, host: &HostSnapshot) -> Result<Taken<()>, Failure> {
        take(self.root, self.state, host, &self.entries)
    }
}

/// Devices that a running guest has no use for. Giving them back may wait, as with [`More`].
#[derive(Debug)]
pub struct Unused<'a> {
    state: &'a State,
    root: &'a HostRoot,
    devices: Vec<PciAddress>,
    owners: [Owner; 2],
}

impl Unused<'_> {
    /// Gives them back. Tells what a person should know.
    ///
    /// # Errors
    /// Why one could not be given back; it stays.
    pub fn give_back(&self, used: Used) -> Result<Vec<String>, Failure> {
        leases::release(self.root, self.state, &self.devices, self.owners, used)
    }
}

/// Takes what these entries say: all of it or nothing.
fn take(
    root: &HostRoot,
    state: &State,
    host: &HostSnapshot,
    entries: &[state::Lease],
) -> Result<Taken<()>, Failure> {
    if entries.is_empty() {
        return Ok(Taken::All(()));
    }
    match leases::take(root, state, entries) {
        Ok(()) => {
            leases::note_availability(root, state, Some(host));
            Ok(Taken::All(()))
        }
        Err(NotTaken::Device(device, failure)) => Ok(Taken::Not(device, failure)),
        Err(NotTaken::Failed(failure)) => match failure.reason {
            Reason::Own(OwnReason::Leased) => Ok(Taken::TooLate),
            _ => Err(failure),
        },
    }
}

/// An entry for each of `devices`, and for what else the host lends with them.
fn entries(
    root: &HostRoot,
    host: &HostSnapshot,
    offers: &[Offer],
    guest: &str,
    devices: &[Device],
    owner: Owner,
) -> Vec<state::Lease> {
    let entry = |device, vf, group, pool: Option<&String>| state::Lease {
        vf,
        group,
        pool: pool.cloned(),
        loan: loan(host, offers, device),
        ..state::Lease::new(root, device, guest, owner)
    };
    let chosen = devices.iter();
    let chosen = chosen.map(|one| entry(one.address, one.vf, Some(one.group), one.pool.as_ref()));
    let mates = mates(host, devices).into_iter();
    chosen
        .chain(mates.map(|mate| entry(mate.address, mate.vf_of, mate.iommu_group, None)))
        .collect()
}

/// Devices that are taken although the host uses them, with what it loses: of those that are lent, and
/// of what shares their groups.
pub fn by_force(
    host: &HostSnapshot,
    offers: &[Offer],
    devices: &[Device],
) -> Vec<(PciAddress, ByForce)> {
    let all = devices.iter().map(|device| device.address);
    let all = all.chain(mates(host, devices).into_iter().map(|mate| mate.address));
    all.filter_map(|device| Some((device, loan(host, offers, device)?.by_force?))).collect()
}

/// What leaves the host with devices that are lent, since it shares their groups: the choice has seen
/// to it that pools lend all of that. The guest has it too, for nobody else to, and makes no use of it.
fn mates<'a>(host: &'a HostSnapshot, devices: &[Device]) -> Vec<&'a PciFunction> {
    let chosen: Vec<PciAddress> = devices.iter().map(|device| device.address).collect();
    let mut mates = BTreeMap::new();
    for function in chosen.iter().filter_map(|address| host.function(*address)) {
        let others = isolation::in_the_way(host, function, &chosen);
        mates.extend(others.into_iter().map(|mate| (mate.address, mate)));
    }
    mates.into_values().collect()
}

/// What the host lends with a device: nothing where its pool bound it already.
fn loan(host: &HostSnapshot, offers: &[Offer], device: PciAddress) -> Option<Loan> {
    let function = host.function(device)?;
    let is_given_away = function.driver.as_deref().is_some_and(is_vfio_driver);
    let lends = |offer: &&Offer| {
        offer.pool.driver == Driver::Host
            && !offer.protection.exceptions.is_empty()
            && choose::holds(host, &offer.pool, function)
    };
    (!is_given_away).then(|| Loan {
        from: sriov::act::bind::original(host, function),
        driver: LENT_TO.to_owned(),
        by_force: offers.iter().find(lends).and_then(|offer| {
            choose::by_force(host, &usage::Index::of(host), &offer.protection, function)
        }),
    })
}

#[cfg(test)]
mod tests {
    use sriov::recorded::{Function, Tree};

    use super::*;

    const PORTS: [&str; 2] = ["0000:03:00.0", "0000:03:00.1"];

    fn at(text: &str) -> PciAddress {
        text.parse().expect("an address")
    }

    /// A host with a card of two ports in one group, which e1000e has.
    fn two_ports(directory: &std::path::Path) -> Tree {
        let tree = Tree::lab(directory, 0);
        for port in PORTS {
            let card = Function::new(port, (0x8086, 0x10d3), 0x02_0000);
            tree.add(card.driver("e1000e").group(6).attribute("reset", ""));
        }
        let pf = Function::new("0000:01:00.0", (0x8086, 0x10c9), 0x02_0000).below("0000:00:01.0");
        tree.behave(pf.driver("igb").vfs(7, 0), Ok);
        let me = std::process::id();
        let stat = format!("{me} (a) S 1 1 1 0 -1 4194304 1 0 0 0 1 1 0 0 20 0 1 0 7 1 1 1\n");
        tree.file(&format!("proc/{me}/stat"), &stat);
        tree
    }

    fn drivers(root: &HostRoot) -> Vec<Option<String>> {
        let host = HostSnapshot::read(root);
        let driver = |port: &&str| host.function(at(port)).and_then(|one| one.driver.clone());
        PORTS.iter().map(driver).collect()
    }

    #[test]
    fn what_shares_a_group_leaves_the_host_together_and_comes_back_together() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let root = two_ports(directory.path()).root();
        let state = State::at(directory.path().join("state"));
        let (claim, pool) = ("net0".to_owned(), "lan".to_owned());
        let device = Device { claim, pool: Some(pool), address: at(PORTS[0]), vf: None, group: 6 };
        let host = HostSnapshot::read(&root);
        let (with_host, with_guest) =
            (vec![Some("e1000e".to_owned()); 2], vec![Some("vfio-pci".to_owned()); 2]);
        assert_eq!(drivers(&root), with_host);

        let taken = Lease::take(&state, &root, "web", &host, &[], std::slice::from_ref(&device));
        let Ok(Taken::All(lease)) = taken else { panic!("{taken:?}") };
        assert_eq!(drivers(&root), with_guest);
        let leases = state.leases(&root).expect("leases");
        assert_eq!(leases.len(), 2);
        assert!(leases.iter().all(|one| one.guest == "web" && one.group == Some(6)), "{leases:?}");
        let other = Lease::take(&state, &root, "db", &host, &[], std::slice::from_ref(&device));
        assert!(matches!(other, Ok(Taken::TooLate)), "{other:?}");

        lease.release().expect("released");
        assert_eq!(drivers(&root), with_host);
        assert!(state.leases_ever().expect("leases").is_empty());
    }

    #[test]
    fn where_one_of_a_group_cannot_be_had_none_is_taken() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let tree = two_ports(directory.path());
        let root = tree.root();
        let state = State::at(directory.path().join("state"));
        let (claim, pool) = ("net0".to_owned(), "lan".to_owned());
        let device = Device { claim, pool: Some(pool), address: at(PORTS[0]), vf: None, group: 6 };
        let host = HostSnapshot::read(&root);
        // The host begins to use the other one.
        tree.netdev("eth9", 9, "devices/pci0000:00/0000:03:00.1/net/eth9");
        tree.file("proc/net/if_inet6", "20010db8000000000000000000000001 09 40 00 80     eth9\n");
        let taken = Lease::take(&state, &root, "web", &host, &[], &[device]);
        let Ok(Taken::Not(which, _)) = taken else { panic!("{taken:?}") };
        assert_eq!(which, at(PORTS[1]));
        assert_eq!(drivers(&root), vec![Some("e1000e".to_owned()); 2]);
        assert!(state.leases_ever().expect("leases").is_empty());
    }

    #[test]
    fn what_a_policy_excepts_is_lent_although_the_host_uses_it_and_that_is_recorded() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let tree = two_ports(directory.path());
        let root = tree.root();
        let state = State::at(directory.path().join("state"));
        tree.netdev("eth9", 9, "devices/pci0000:00/0000:03:00.1/net/eth9");
        tree.file("proc/net/if_inet6", "20010db8000000000000000000000001 09 40 00 80     eth9\n");
        let offers = |exceptions: &str| -> Vec<Offer> {
            let text = format!(
                "apiVersion: assign/v1\nkind: Policy\nmetadata: {{name: p}}\nspec:\n  pools: [{{name: \
                 lan, devices: {{device: \"10d3\"}}, driver: host}}]\n  protection: {{exceptions: \
                 [{exceptions}]}}\n"
            );
            let source = policies::Source { name: "p.yaml".to_owned(), text };
            let parsed = policies::parse(&[source]).unwrap_or_else(|errors| panic!("{errors}"));
            let offer = |policy: policies::Policy| Offer {
                policy: policy.name,
                isolation: policy.isolation,
                protection: policy.protection,
                pool: policy.pools.into_iter().next().expect("a pool"),
                planned: None,
            };
            parsed.policies.into_iter().map(offer).collect()
        };
        let host = HostSnapshot::read(&root);
        let (claim, pool) = ("net0".to_owned(), "lan".to_owned());
        // The other port of the card carries the address, and goes with this one.
        let device = Device { claim, pool: Some(pool), address: at(PORTS[0]), vf: None, group: 6 };
        let devices = std::slice::from_ref(&device);

        let other = offers("{device: \"0000:01:00.0\", because: \"another one\"}");
        assert!(by_force(&host, &other, devices).is_empty());
        let taken = Lease::take(&state, &root, "web", &host, &other, devices);
        assert!(matches!(&taken, Ok(Taken::Not(which, _)) if *which == at(PORTS[1])), "{taken:?}");
        drop(taken);

        let excepting = offers("{device: eth9, because: \"a spare port\"}");
        let forced = by_force(&host, &excepting, devices);
        let [(which, lost)] = forced.as_slice() else { panic!("{forced:?}") };
        assert_eq!((*which, lost.because.as_str()), (at(PORTS[1]), "a spare port"));
        assert!(lost.lost.iter().any(|one| one.contains("address 2001:db8::1")), "{lost}");
        let taken = Lease::take(&state, &root, "web", &host, &excepting, devices);
        let Ok(Taken::All(lease)) = taken else { panic!("{taken:?}") };
        assert_eq!(drivers(&root), vec![Some("vfio-pci".to_owned()); 2]);
        let recorded = state.forced().expect("the state");
        assert_eq!(recorded.len(), 1, "{recorded:?}");
        assert_eq!(recorded[0].operation, "run web");
        assert!(recorded[0].change.to_string().contains("allowed: a spare port"));
        lease.release().expect("released");
        assert_eq!(drivers(&root), vec![Some("e1000e".to_owned()); 2]);
    }
}
