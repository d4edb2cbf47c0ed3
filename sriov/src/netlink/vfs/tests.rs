use netlink_packet_core::Emitable;
use proptest::prelude::*;

use super::*;

/// An attribute with its padding.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).expect("a short value");
    let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

fn link(attributes: &[Vec<u8>]) -> Vec<u8> {
    [vec![0; LINK_HEADER], attributes.concat()].concat()
}

#[test]
fn what_is_set_is_read_as_it_was_meant() {
    let values = [
        VfValue::Mac(MacAddress([2, 0, 0, 1, 2, 3])),
        VfValue::Vlan(Vlan { id: 100, qos: 3, protocol: VlanProtocol::Ieee8021Q }),
        VfValue::Trust(true),
        VfValue::SpoofCheck(false),
        VfValue::LinkState(LinkState::Disable),
        VfValue::Rate(Rate { min: 10, max: 500 }),
    ];
    // One attribute a request; together they make what the kernel tells of a VF.
    let infos: Vec<u8> = values
        .iter()
        .flat_map(|value| {
            let LinkVfInfo(infos) = value.encode(6);
            assert_eq!(infos.len(), 1, "an error can mean one attribute only");
            let mut bytes = vec![0; infos.as_slice().buffer_len()];
            infos.as_slice().emit(&mut bytes);
            bytes
        })
        .collect();
    let list = attribute(IFLA_VFINFO_LIST, &attribute(IFLA_VF_INFO, &infos));
    let read = VfList::decode(&link(&[attribute(IFLA_NUM_VF, &words(&[1])), list]));
    let expected = VfSettings {
        mac: MacAddress([2, 0, 0, 1, 2, 3]),
        vlan: Vlan { id: 100, qos: 3, protocol: VlanProtocol::Ieee8021Q },
        trust: Some(true),
        spoof_check: Some(false),
        link_state: LinkState::Disable,
        rate: Rate { min: 10, max: 500 },
    };
    assert_eq!(read.settings.get(&6), Some(&expected));
    assert!(read.is_complete());
}

#[test]
fn a_providers_tag_goes_by_the_list_of_vlans() {
    let vlan = Vlan { id: 5, qos: 1, protocol: VlanProtocol::Ieee8021Ad };
    let LinkVfInfo(infos) = VfValue::Vlan(vlan).encode(2);
    let mut bytes = vec![0; infos.as_slice().buffer_len()];
    infos.as_slice().emit(&mut bytes);
    let mut info = words(&[2, 5, 1]);
    info.extend([0x88, 0xa8, 0, 0]);
    assert_eq!(bytes, attribute(IFLA_VF_VLAN_LIST, &attribute(IFLA_VF_VLAN_INFO, &info)));
    // The kernel tells it twice: the tag, and the list with the protocol.
    let told = [attribute(IFLA_VF_VLAN, &words(&[2, 5, 1])), bytes].concat();
    assert_eq!(decode_vf(&told).map(|(index, vf)| (index, vf.vlan)), Some((2, vlan)));
}

#[test]
fn silence_of_a_driver_is_not_taken_for_off() {
    let told = [
        attribute(IFLA_VF_SPOOFCHK, &words(&[0, u32::MAX])),
        attribute(IFLA_VF_TRUST, &words(&[0, u32::MAX])),
    ]
    .concat();
    let (_, settings) = decode_vf(&told).expect("a VF");
    assert_eq!((settings.spoof_check, settings.trust), (None, None));
}

#[test]
fn a_list_that_lacks_vfs_says_so() {
    let vf = |index: u32| attribute(IFLA_VF_INFO, &attribute(IFLA_VF_TRUST, &words(&[index, 1])));
    let list = [vf(0), vf(1)].concat();
    let told = |count: u32, list: &[u8]| {
        VfList::decode(&link(&[
            attribute(IFLA_NUM_VF, &words(&[count])),
            attribute(IFLA_VFINFO_LIST, list),
        ]))
    };
    assert!(told(2, &list).is_complete());
    assert!(!told(3, &list).is_complete());
    let cut = told(2, &list[..list.len() - 4]);
    assert_eq!((cut.settings.len(), cut.is_complete()), (1, false));
    // Values of one VF that name two.
    let torn =
        [attribute(IFLA_VF_TRUST, &words(&[0, 1])), attribute(IFLA_VF_SPOOFCHK, &words(&[1, 1]))]
            .concat();
    assert!(!told(1, &attribute(IFLA_VF_INFO, &torn)).is_complete());
    assert!(!VfList::decode(&[0; 8]).is_complete());
}

proptest! {
    #[test]
    fn no_answer_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let list = VfList::decode(&bytes);
        prop_assert!(list.settings.len() <= bytes.len());
    }

    #[test]
    fn no_answer_that_is_nearly_right_makes_it_panic(
        at in 0usize..2000, value in any::<u8>(), length in 0usize..2000,
    ) {
        let mut bytes = RECORDED.to_vec();
        let at = at % bytes.len();
        bytes[at] = value;
        bytes.truncate(length.max(1));
        VfList::decode(&bytes);
    }
}

/// What the kernel (6.12) told of an igb PF with 3 VFs in the emulated lab, from `struct ifinfomsg`
/// on: VF 0 in VLAN 100 with priority 5, trusted, at most 400 Mbit/s; no spoof check of the others.
const RECORDED: &[u8] = include_bytes!("igb-three-vfs.bin");

#[test]
fn reads_what_a_kernel_told() {
    let list = VfList::decode(RECORDED);
    assert!(list.is_complete());
    assert_eq!(list.count, Some(3));
    let first = VfSettings {
        mac: MacAddress([2, 0, 0, 0, 0, 1]),
        vlan: Vlan { id: 100, qos: 5, protocol: VlanProtocol::Ieee8021Q },
        trust: Some(true),
        spoof_check: Some(true),
        link_state: LinkState::Auto,
        rate: Rate { min: 0, max: 400 },
    };
    let other =
        VfSettings { trust: Some(false), spoof_check: Some(false), ..VfSettings::default() };
    let expected = [(0, first), (1, other), (2, other)];
    assert_eq!(list.settings.into_iter().collect::<Vec<_>>(), expected);
    for length in 0..RECORDED.len() {
        let cut = VfList::decode(&RECORDED[..length]);
        let lacks = cut.count.is_some() && cut.settings.len() < 3;
        assert!(!(cut.is_complete() && lacks), "{length} bytes are taken for the whole");
    }
}
