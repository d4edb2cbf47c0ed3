//! The way by which a person is logged in to run this command: taking it away would leave them
//! without a host, and the host without them.
//!
//! sshd tells its sessions who called (`SSH_CONNECTION`, ssh(1)); where sudo has cleaned the
//! environment, a process above this one still has it, or is the sshd that has the connection.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::ffi::OsStrExt;

use serde::{Deserialize, Serialize};

use super::net::Netdev;
use super::reader::Reader;
use crate::attribute;
use crate::netlink::Rtnetlink;

/// Processes to look through: nobody nests deeper.
const MOST_ANCESTORS: usize = 64;

/// A session over the network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// Where the person is.
    pub client: IpAddr,
    /// The interfaces between them and us: the one by which the host answers, and where its own
    /// address is on another, that one too.
    pub interfaces: Vec<String>,
}

/// Both ends of a connection, as sshd tells them.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Connection {
    client: IpAddr,
    /// The interface of a link-local client address.
    zone: Option<String>,
    server: Option<IpAddr>,
}

/// The session that this process belongs to; `None` for one at the console, or none at all.
pub fn read(reader: &mut Reader, netlink: &mut Rtnetlink, netdevs: &[Netdev]) -> Option<Session> {
    let connection = own().or_else(|| of_ancestors(reader))?;
    let mut interfaces: Vec<String> = connection.zone.into_iter().collect();
    if interfaces.is_empty() {
        match way(netlink, connection.client, connection.server) {
            Ok(index) => {
                let out = netdevs.iter().find(|netdev| Some(netdev.index) == index);
                interfaces.extend(out.map(|netdev| netdev.name.clone()));
            }
            Err(error) => {
                let path = reader.root.proc("net/route");
                let cause =
                    format!("the way to {} cannot be asked for: {error}", connection.client);
                reader.note(&path, cause);
            }
        }
    }
    let ours = netdevs.iter().filter(|netdev| {
        connection.server.is_some_and(|server| netdev.addresses.contains(&server))
    });
    interfaces.extend(ours.map(|netdev| netdev.name.clone()));
    interfaces.sort();
    interfaces.dedup();
    Some(Session { client: connection.client, interfaces })
}

/// An answer from our end first: another table may decide by it. It may have gone since.
fn way(
    netlink: &mut Rtnetlink,
    client: IpAddr,
    server: Option<IpAddr>,
) -> std::io::Result<Option<u32>> {
    match netlink.way_to(client, server)? {
        None if server.is_some() => netlink.way_to(client, None),
        found => Ok(found),
    }
}

fn own() -> Option<Connection> {
    let variable = |name| std::env::var_os(name).and_then(|value| parse(&value));
    variable("SSH_CONNECTION").or_else(|| variable("SSH_CLIENT"))
}

fn of_ancestors(reader: &mut Reader) -> Option<Connection> {
    let mut pid = "self".to_owned();
    for _ in 0..MOST_ANCESTORS {
        let status = attribute::read_table(&reader.root.proc(&format!("{pid}/status"))).ok()?;
        pid = status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().to_owned();
        if pid == "0" {
            break;
        }
        // Not another user's: that one did not start us in a session of their own.
        let path = reader.root.proc(&format!("{pid}/environ"));
        let environment = attribute::read_table(&path).unwrap_or_default();
        let variable = |name: &str| {
            let value = environment.split('\0').find_map(|entry| entry.strip_prefix(name));
            value.and_then(|value| parse(OsStr::new(value)))
        };
        let found = variable("SSH_CONNECTION=").or_else(|| variable("SSH_CLIENT="));
        let found = found.or_else(|| of_server(reader, &pid));
        if found.is_some() {
            return found;
        }
    }
    None
}

/// The connection that a process of sshd serves: the listening one has none that is established.
fn of_server(reader: &mut Reader, pid: &str) -> Option<Connection> {
    let command = attribute::read(&reader.root.proc(&format!("{pid}/comm"))).ok().flatten()?;
    if !command.starts_with("sshd") {
        return None;
    }
    let descriptors = reader.root.proc(&format!("{pid}/fd"));
    let descriptors = attribute::entries(&descriptors).unwrap_or_default().into_iter().map(|fd| {
        let link = attribute::link_target(&descriptors.join(fd)).ok().flatten();
        link.and_then(|link| Some(link.to_str()?.to_owned()))
    });
    let sockets: BTreeSet<String> = descriptors.flatten().collect();
    ["net/tcp", "net/tcp6"].iter().find_map(|file| {
        let table = attribute::read_table(&reader.root.proc(file)).unwrap_or_default();
        table.lines().skip(1).find_map(|line| established(line, &sockets))
    })
}

/// Number, local address, remote address, state at 3, ..., inode at 9
/// (Documentation/networking/proc_net_tcp.rst).
fn established(line: &str, sockets: &BTreeSet<String>) -> Option<Connection> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let is_ours = sockets.contains(&format!("socket:[{}]", fields.get(9)?));
    if !is_ours || *fields.get(3)? != "01" {
        return None;
    }
    let (server, client) = (hexadecimal(fields.get(1)?), hexadecimal(fields.get(2)?)?);
    Some(Connection { client, zone: None, server })
}

/// An address as the kernel prints it: words of 32 bits in the processor's order, then the port.
fn hexadecimal(text: &str) -> Option<IpAddr> {
    let digits = text.split(':').next()?;
    let mut bytes = Vec::new();
    for at in (0..digits.len()).step_by(8) {
        let word = u32::from_str_radix(digits.get(at..at + 8)?, 16).ok()?;
        bytes.extend(word.to_ne_bytes());
    }
    let address = match <[u8; 4]>::try_from(bytes.as_slice()) {
        Ok(v4) => IpAddr::V4(Ipv4Addr::from(v4)),
        Err(_) => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?)),
    };
    Some(address.to_canonical())
}

/// `SSH_CONNECTION` is client address and port, server address and port; `SSH_CLIENT` is client
/// address and port, server port.
fn parse(value: &OsStr) -> Option<Connection> {
    let text = std::str::from_utf8(value.as_bytes()).ok()?;
    let mut words = text.split(' ');
    let client = words.next()?;
    let (client, zone) = match client.split_once('%') {
        Some((address, zone)) => (address, Some(zone.to_owned())),
        None => (client, None),
    };
    let address = |text: &str| text.parse::<IpAddr>().ok().map(|address| address.to_canonical());
    let server = words.nth(1).and_then(|text| address(text.split('%').next().unwrap_or_default()));
    Some(Connection { client: address(client)?, zone, server })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Option<Connection> {
        parse(OsStr::new(text))
    }

    #[test]
    fn what_sshd_tells_is_read_and_garbage_is_not() {
        let connection = parsed("192.0.2.7 50000 192.0.2.1 22").expect("a connection");
        assert_eq!(connection.client, IpAddr::from([192, 0, 2, 7]));
        assert_eq!(connection.server, Some(IpAddr::from([192, 0, 2, 1])));
        let connection = parsed("::ffff:192.0.2.7 50000 22").expect("a client");
        assert_eq!((connection.client, connection.server), (IpAddr::from([192, 0, 2, 7]), None));
        let connection = parsed("fe80::1%eth0 50000 fe80::2%eth0 22").expect("a connection");
        assert_eq!(connection.zone.as_deref(), Some("eth0"));
        assert_eq!(connection.server, "fe80::2".parse().ok());
        let line = "0: 010200C0:0016 070200C0:C350 01 00000000:00000000 00:00000000 0 0 0 41 2";
        let sockets = ["socket:[41]".to_owned()].into();
        assert_eq!(established(line, &sockets), parsed("192.0.2.7 50000 192.0.2.1 22"));
        assert_eq!(established(&line.replace(" 01 ", " 0A "), &sockets), None, "it listens");
        assert_eq!(established(line, &BTreeSet::new()), None, "another's");
        let mapped = "0000000000000000FFFF0000070200C0:C350";
        assert_eq!(hexadecimal(mapped), Some(IpAddr::from([192, 0, 2, 7])));
        for garbage in ["", "0", "zz", "0102030", "ééééé", "0123456789"] {
            assert_eq!(hexadecimal(garbage), None, "{garbage:?}");
        }
        for garbage in ["", "UNKNOWN 65535 UNKNOWN 65535", "%", "1.2.3", "\u{0}"] {
            assert_eq!(parsed(garbage), None, "{garbage:?}");
        }
    }
}
