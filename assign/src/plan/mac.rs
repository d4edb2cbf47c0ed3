//! `mac: derive`: an address for a VF that is the same on every boot, without keeping a list.
//!
//! The address is computed from the PF's permanent address (where it has none, from its PCI
//! address), the VF's index and the pool's name, so it stays when interfaces are renamed, PFs are
//! bonded or cards move to other slots. The formula is part of the interface: DHCP reservations
//! and switch ports depend on its results, so it never changes.
//!
//! FNV-1a of 64 bits over `assign mac 1`, the PF's identity, the pool's name and the index in
//! decimal, each ended by a zero byte; its lowest 48 bits; then bit 0 of the first byte cleared
//! (unicast) and bit 1 set (locally administered, IEEE 802 section 8.2).

use sriov::{HostSnapshot, MacAddress, PciFunction};

const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x100_0000_01b3;

/// The address of VF `index` of `pf` in `pool`.
pub fn derive(snapshot: &HostSnapshot, pf: &PciFunction, pool: &str, index: u16) -> MacAddress {
    let port = snapshot.port_of(pf);
    let permanent = port.and_then(|port| port.permanent_mac.or(port.mac));
    let identity = match permanent.filter(|mac| !mac.is_zero()) {
        Some(mac) => mac.to_string(),
        None => pf.address.to_string(),
    };
    of(&identity, pool, index)
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
    use std::collections::BTreeSet;

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
}
