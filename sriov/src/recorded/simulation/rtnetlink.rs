//! What a kernel answers over rtnetlink: links and what PFs set for their VFs. The host has no
//! addresses and no routes.

use std::fs;
use std::io;

use super::{
    EINVAL, ENETUNREACH, ENODEV, EOPNOTSUPP, Host, Request, Shared, Tree, errno, lock, put,
};
use crate::mac::MacAddress;
use crate::netlink::attributes::{attributes, half, word};
use crate::vf_settings::{LinkState, Rate, VfSettings, Vlan, VlanProtocol};

// uapi/linux/netlink.h, rtnetlink.h
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_DUMP: u16 = 0x300;
const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_SETLINK: u16 = 19;
const RTM_GETADDR: u16 = 22;
const RTM_GETROUTE: u16 = 26;
const IFF_UP: u32 = 1;

// uapi/linux/if_link.h
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MASTER: u16 = 10;
const IFLA_NUM_VF: u16 = 21;
const IFLA_VFINFO_LIST: u16 = 22;
const IFLA_PERM_ADDRESS: u16 = 54;
const IFLA_PARENT_DEV_NAME: u16 = 56;
const IFLA_VF_INFO: u16 = 1;
const IFLA_VF_MAC: u16 = 1;
const IFLA_VF_VLAN: u16 = 2;
const IFLA_VF_SPOOFCHK: u16 = 4;
const IFLA_VF_LINK_STATE: u16 = 5;
const IFLA_VF_RATE: u16 = 6;
const IFLA_VF_TRUST: u16 = 9;
const IFLA_VF_VLAN_LIST: u16 = 12;
const ETH_P_8021Q: [u8; 2] = [0x81, 0x00];
const ETH_P_8021AD: [u8; 2] = [0x88, 0xa8];

/// The datagrams that answer a request.
pub(super) fn answer(shared: &Shared, request: &[u8]) -> Vec<Vec<u8>> {
    let header = (|| Some((half(request, 4)?, half(request, 6)?, word(request, 8)?)))();
    let Some((kind, flags, sequence)) = header else { return Vec::new() };
    let body = request.get(16..).unwrap_or_default();
    let index = word(body, 4).unwrap_or(0);
    let dump = flags & NLM_F_DUMP == NLM_F_DUMP;
    let asked = if kind == RTM_SETLINK { Request::SetLink(index) } else { Request::Get };
    let before = shared.ask_before(&asked);
    let mut host = lock(&shared.host);
    let tree = &shared.tree;
    let result = before.and_then(|()| match kind {
        RTM_GETLINK if dump => Ok(names(tree).iter().map(|name| link(tree, name)).collect()),
        RTM_GETLINK => {
            let name = by_number(tree, index).ok_or_else(|| errno(ENODEV))?;
            Ok(vec![[link(tree, &name), host.list(index)].concat()])
        }
        RTM_GETADDR | RTM_GETROUTE if dump => Ok(Vec::new()),
        RTM_GETROUTE => Err(errno(ENETUNREACH)),
        RTM_SETLINK => {
            let name = by_number(tree, index).ok_or_else(|| errno(ENODEV))?;
            host.set_link(tree, &name, index, body).map(|()| Vec::new())
        }
        _ => Err(errno(EOPNOTSUPP)),
    });
    match result {
        Err(error) => {
            let code = error.raw_os_error().unwrap_or(EINVAL);
            vec![message(NLMSG_ERROR, sequence, &(-code).to_ne_bytes())]
        }
        Ok(links) if kind == RTM_SETLINK => {
            assert!(links.is_empty(), "a change has no answer but that it was made");
            vec![message(NLMSG_ERROR, sequence, &0i32.to_ne_bytes())]
        }
        Ok(links) => {
            let links = links.iter().map(|link| message(RTM_NEWLINK, sequence, link));
            let done = dump.then(|| message(NLMSG_DONE, sequence, &0i32.to_ne_bytes()));
            links.chain(done).collect()
        }
    }
}

impl Host {
    fn set_link(&mut self, tree: &Tree, name: &str, index: u32, body: &[u8]) -> io::Result<()> {
        let (flags, mask) = (word(body, 8).unwrap_or(0), word(body, 12).unwrap_or(0));
        let list = body.get(16..).unwrap_or_default();
        for (kind, value) in attributes(list) {
            if kind != IFLA_VFINFO_LIST {
                return Err(errno(EOPNOTSUPP));
            }
            for (_, info) in attributes(value) {
                for (kind, value) in attributes(info) {
                    self.set_vf(index, kind, value)?;
                }
            }
        }
        if mask & IFF_UP != 0 {
            let up = flags & IFF_UP != 0;
            let directory = tree.root().netdev(name);
            let flags: &[u8] = if up { b"0x1003\n" } else { b"0x1002\n" };
            put(tree, &directory.join("flags"), flags)?;
            let carrier = directory.join("carrier");
            // A link is there at once.
            if up { put(tree, &carrier, b"1\n")? } else { fs::remove_file(carrier).unwrap_or(()) }
        }
        Ok(())
    }

    fn set_vf(&mut self, interface: u32, kind: u16, value: &[u8]) -> io::Result<()> {
        let wrong = || errno(EINVAL);
        let number = |at| word(value, at).ok_or_else(wrong);
        // A list of VLANs holds one, which begins like a plain one.
        let vlan = attributes(value).next().map(|(_, info)| info);
        let vf = match (kind, vlan) {
            (IFLA_VF_VLAN_LIST, Some(info)) => word(info, 0).ok_or_else(wrong)?,
            _ => number(0)?,
        };
        let vf = u16::try_from(vf).map_err(|_| wrong())?;
        let settings = self.settings.get_mut(&(interface, vf)).ok_or_else(wrong)?;
        match kind {
            IFLA_VF_MAC => {
                let bytes = value.get(4..10).and_then(|bytes| bytes.try_into().ok());
                settings.mac = MacAddress(bytes.ok_or_else(wrong)?);
            }
            IFLA_VF_VLAN => settings.vlan = plain_vlan(value, VlanProtocol::Ieee8021Q)?,
            IFLA_VF_VLAN_LIST => {
                let info = vlan.ok_or_else(wrong)?;
                let protocol = match info.get(12..14) {
                    Some(bytes) if bytes == ETH_P_8021AD => VlanProtocol::Ieee8021Ad,
                    _ => VlanProtocol::Ieee8021Q,
                };
                settings.vlan = plain_vlan(info, protocol)?;
            }
            IFLA_VF_SPOOFCHK => settings.spoof_check = Some(number(4)? != 0),
            IFLA_VF_TRUST => settings.trust = Some(number(4)? != 0),
            IFLA_VF_LINK_STATE => {
                settings.link_state = match number(4)? {
                    0 => LinkState::Auto,
                    1 => LinkState::Enable,
                    2 => LinkState::Disable,
                    _ => return Err(wrong()),
                }
            }
            IFLA_VF_RATE => settings.rate = Rate { min: number(4)?, max: number(8)? },
            _ => return Err(errno(EOPNOTSUPP)),
        }
        Ok(())
    }

    /// What a link message says of its VFs.
    fn list(&self, interface: u32) -> Vec<u8> {
        let vfs: Vec<_> = self.settings.range((interface, 0)..=(interface, u16::MAX)).collect();
        let count = u32::try_from(vfs.len()).expect("VFs of one PF");
        let infos: Vec<u8> = vfs
            .into_iter()
            .flat_map(|((_, vf), settings)| attribute(IFLA_VF_INFO, &told((*vf).into(), settings)))
            .collect();
        [attribute(IFLA_NUM_VF, &count.to_ne_bytes()), attribute(IFLA_VFINFO_LIST, &infos)].concat()
    }
}

fn plain_vlan(value: &[u8], protocol: VlanProtocol) -> io::Result<Vlan> {
    let number = |at| word(value, at).ok_or_else(|| errno(EINVAL));
    let id = u16::try_from(number(4)?).map_err(|_| errno(EINVAL))?;
    let qos = u8::try_from(number(8)?).map_err(|_| errno(EINVAL))?;
    Ok(Vlan { id, qos, protocol })
}

fn told(vf: u32, settings: &VfSettings) -> Vec<u8> {
    let words =
        |words: &[u32]| -> Vec<u8> { words.iter().flat_map(|word| word.to_ne_bytes()).collect() };
    let flag = |kind, value: Option<bool>| {
        attribute(kind, &words(&[vf, value.map_or(u32::MAX, u32::from)]))
    };
    let (id, qos) = (settings.vlan.id.into(), settings.vlan.qos.into());
    let mut mac = [settings.mac.0.as_slice(), &[0; 26]].concat();
    mac.splice(0..0, vf.to_ne_bytes());
    let protocol = match settings.vlan.protocol {
        VlanProtocol::Ieee8021Q => ETH_P_8021Q,
        VlanProtocol::Ieee8021Ad => ETH_P_8021AD,
    };
    let info = [words(&[vf, id, qos]), protocol.to_vec(), vec![0; 2]].concat();
    let state = match settings.link_state {
        LinkState::Auto => 0,
        LinkState::Enable => 1,
        LinkState::Disable => 2,
    };
    let Rate { min, max } = settings.rate;
    [
        attribute(IFLA_VF_MAC, &mac),
        attribute(IFLA_VF_VLAN, &words(&[vf, id, qos])),
        attribute(IFLA_VF_VLAN_LIST, &attribute(1, &info)),
        flag(IFLA_VF_SPOOFCHK, settings.spoof_check),
        flag(IFLA_VF_TRUST, settings.trust),
        attribute(IFLA_VF_LINK_STATE, &words(&[vf, state])),
        attribute(IFLA_VF_RATE, &words(&[vf, min, max])),
    ]
    .concat()
}

fn names(tree: &Tree) -> Vec<String> {
    let entries = fs::read_dir(tree.root().net_class()).into_iter().flatten().flatten();
    let mut names: Vec<String> =
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

fn file(tree: &Tree, name: &str, file: &str) -> Option<String> {
    let text = fs::read_to_string(tree.root().netdev(name).join(file)).ok()?;
    Some(text.trim().to_owned())
}

fn number(tree: &Tree, name: &str) -> u32 {
    file(tree, name, "ifindex").and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn by_number(tree: &Tree, index: u32) -> Option<String> {
    names(tree).into_iter().find(|name| number(tree, name) == index)
}

/// A link message from its header on.
fn link(tree: &Tree, name: &str) -> Vec<u8> {
    let flags = file(tree, name, "flags").unwrap_or_default();
    let flags = u32::from_str_radix(flags.trim_start_matches("0x"), 16).unwrap_or(0);
    let mut bytes = vec![0; 4];
    bytes.extend(number(tree, name).to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend([0; 4]);
    bytes.extend(attribute(IFLA_IFNAME, format!("{name}\0").as_bytes()));
    let mac = file(tree, name, "address").and_then(|text| text.parse::<MacAddress>().ok());
    if let Some(mac) = mac {
        bytes.extend(attribute(IFLA_ADDRESS, &mac.0));
        bytes.extend(attribute(IFLA_PERM_ADDRESS, &mac.0));
    }
    let directory = tree.root().netdev(name);
    let last =
        |link: io::Result<std::path::PathBuf>| Some(link.ok()?.file_name()?.to_str()?.to_owned());
    if let Some(master) = last(fs::read_link(directory.join("master"))) {
        bytes.extend(attribute(IFLA_MASTER, &number(tree, &master).to_ne_bytes()));
    }
    // …/ADDRESS/net/NAME
    let place = fs::read_link(&directory).ok();
    let device = place.as_deref().and_then(|place| place.parent()?.parent()?.file_name()?.to_str());
    if let Some(device) = device.filter(|device| device.contains(':')) {
        bytes.extend(attribute(IFLA_PARENT_DEV_NAME, format!("{device}\0").as_bytes()));
    }
    bytes
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).expect("an attribute's length");
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn message(kind: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(16 + body.len()).expect("a message's length");
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend([0; 2]);
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend([0; 4]);
    bytes.extend(body);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}
