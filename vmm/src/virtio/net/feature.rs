//! Feature bits of a network card (virtio 1.3, 5.1.3), and what they mean to a TAP.

/// The device takes frames whose checksum is not filled in.
pub const CSUM: u64 = 1 << 0;
/// The driver takes such.
pub const GUEST_CSUM: u64 = 1 << 1;
/// The device has an address in its configuration.
pub const MAC: u64 = 1 << 5;
/// The driver takes TCP segments over IPv4 that are larger than a frame.
pub const GUEST_TSO4: u64 = 1 << 7;
/// The same over IPv6.
pub const GUEST_TSO6: u64 = 1 << 8;
/// The same with ECN.
pub const GUEST_ECN: u64 = 1 << 9;
/// The device takes such.
pub const HOST_TSO4: u64 = 1 << 11;
/// The same over IPv6.
pub const HOST_TSO6: u64 = 1 << 12;
/// The same with ECN.
pub const HOST_ECN: u64 = 1 << 13;
/// A frame may be spread over several buffers.
pub const MRG_RXBUF: u64 = 1 << 15;
/// The configuration says whether the link is up.
pub const STATUS: u64 = 1 << 16;

/// There is a queue for commands.
pub const CTRL_VQ: u64 = 1 << 17;
/// There are several pairs of queues, of which a driver says by that how many it uses.
pub const MQ: u64 = 1 << 22;

/// What TAP and header can do, whoever moves the frames.
pub const OFFLOADS: u64 =
    CSUM | GUEST_CSUM | GUEST_TSO4 | GUEST_TSO6 | GUEST_ECN | HOST_TSO4 | HOST_TSO6 | HOST_ECN;

/// Offloads that the TAP may use towards the guest, by what its driver takes (uapi/linux/if_tun.h, `TUN_F`).
pub fn offloads(features: u64) -> u64 {
    if features & GUEST_CSUM == 0 {
        return 0;
    }
    let of = |bit, flag| if features & bit != 0 { flag } else { 0 };
    1 | of(GUEST_TSO4, 2) | of(GUEST_TSO6, 4) | of(GUEST_ECN, 8)
}

/// What a card of so many pairs of queues has for them.
pub fn of_pairs(pairs: u16) -> u64 {
    if pairs > 1 { CTRL_VQ | MQ } else { 0 }
}

/// Whether a driver that takes these features can have them together: where the queue for commands is depends
/// on whether there are several pairs (virtio 1.3, 5.1.2), and commands are about nothing else.
pub fn go_together(features: u64) -> bool {
    (features & CTRL_VQ != 0) == (features & MQ != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tap_does_what_the_driver_takes() {
        let tso = GUEST_TSO4 | GUEST_ECN;
        assert_eq!(offloads(0), 0);
        assert_eq!(offloads(tso), 0, "without checksums nothing");
        assert_eq!(offloads(tso | GUEST_CSUM), 1 | 2 | 8);
        assert_eq!(offloads(u64::MAX), 15);
    }
}
