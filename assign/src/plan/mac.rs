//! `mac: derive`: an address for a VF that is the same on every boot, without keeping a list.
//!
//! The address is computed from the PF's permanent address, the VF's index and the pool's name, so it
//! stays when interfaces are renamed, PFs are bonded or cards move to other slots. A PF that has no
//! permanent address, or one that another function has as well, goes by its PCI address: the current
//! address of its interface tells nobody apart, since the ports of a bond share theirs. The formula is
//! part of the interface: DHCP reservations and switch ports depend on its results, so it never
//! changes.
//!
//! FNV-1a of 64 bits over `assign mac 1`, the PF's identity, the pool's name and the index in
//! decimal, each ended by a zero byte; its lowest 48 bits; then bit 0 of the first byte cleared
//! (unicast) and bit 1 set (locally administered, IEEE 802 section 8.2).

use std::collections::{BTreeMap, BTreeSet};

use policies::{MacPolicy, Pool};
use sriov::{HostSnapshot, MacAddress, PciAddress, PciFunction, VfRef};

const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x100_0000_01b3;

/// The addresses of one host's VFs.
#[derive(Debug)]
pub struct Macs<'a> {
    snapshot: &'a HostSnapshot,
    /// Permanent addresses that several functions have: the identity of none.
    shared: BTreeSet<MacAddress>,
}

impl<'a> Macs<'a> {
    /// Those of this host.
    pub fn of(snapshot: &'a HostSnapshot) -> Macs<'a> {
        let mut owners: BTreeMap<MacAddress, PciAddress> = BTreeMap::new();
        let mut shared = BTreeSet::new();
        for netdev in &snapshot.netdevs {
            let (Some(pci), Some(mac)) = (netdev.pci, netdev.permanent_mac) else { continue };
            if *owners.entry(mac).or_insert(pci) != pci {
                shared.insert(mac);
            }
        }
        Macs { snapshot, shared }
    }

    /// The permanent address of a function's interface, where no other function has it.
    pub fn permanent(&self, function: &PciFunction) -> Option<MacAddress> {
        let mac = self.snapshot.port_of(function)?.permanent_mac?;
        (!mac.is_zero() && !self.shared.contains(&mac)).then_some(mac)
    }

    /// The address of VF `index` of `pf` in `pool`.
    pub fn derive(&self, pf: &PciFunction, pool: &str, index: u16) -> MacAddress {
        let identity = match self.permanent(pf) {
            Some(mac) => mac.to_string(),
            None => pf.address.to_string(),
        };
        of(&identity, pool, index)
    }

    /// The address that a VF is to have. Only a network PF has an interface to set addresses by.
    pub fn wanted(&self, pf: &PciFunction, pool: &Pool, index: u16) -> Option<MacAddress> {
        let derived = pool.network.mac == MacPolicy::Derive && self.snapshot.port_of(pf).is_some();
        derived.then(|| self.derive(pf, &pool.name, index))
    }
}

/// The first two VFs that were to have the same address.
pub(super) fn twice(
    addresses: impl Iterator<Item = (VfRef, MacAddress)>,
) -> Option<(VfRef, VfRef, MacAddress)> {
    let mut owners = BTreeMap::new();
    for (vf, mac) in addresses {
        match owners.insert(mac, vf) {
            Some(other) if other != vf => return Some((other, vf, mac)),
            _ => {}
        }
    }
    None
}

fn of(identity: &str, pool: &str, index: u16) -> MacAddress {
    let mut hash = OFFSET;
    for part in ["assign mac 1", identity, pool, &index.to_string()] {
        for byte in part.bytes().chain([0]) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(PRIME);
        }
    }
    let [_, _, a, b, c, d, e, f] = hash.to_be_bytes();
    MacAddress([a & !1 | 2, b, c, d, e, f])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_formula_never_changes() {
        assert_eq!(of("52:54:00:00:00:01", "lan", 0).to_string(), "b2:8a:d5:4e:e8:36");
    }

    #[test]
    fn addresses_are_local_unicast_and_differ() {
        let mut seen = BTreeSet::new();
        for pf in 0..16 {
            for pool in ["lan", "wan"] {
                for index in 0..256 {
                    let mac = of(&format!("52:54:00:00:00:{pf:02x}"), pool, index);
                    assert_eq!(mac.0[0] & 3, 2, "{mac}");
                    assert!(seen.insert(mac), "{mac} twice");
                }
            }
        }
    }

    #[test]
    fn two_vfs_with_one_address_are_found() {
        let vf = |index| VfRef { pf: "0000:01:00.0".parse().expect("an address"), index };
        let mac = |last| MacAddress([2, 0, 0, 0, 0, last]);
        assert_eq!(twice([(vf(0), mac(1)), (vf(1), mac(2)), (vf(0), mac(1))].into_iter()), None);
        let found = twice([(vf(0), mac(1)), (vf(1), mac(2)), (vf(2), mac(1))].into_iter());
        assert_eq!(found, Some((vf(0), vf(2), mac(1))));
    }
}
