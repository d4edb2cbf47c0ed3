//! The way by which a person is logged in to run this command: taking it away would leave them
//! without a host, and the host without them.
//!
//! sshd tells its sessions who called (`SSH_CONNECTION`, ssh(1)); where sudo has cleaned the
//! environment, a process above this one still has it.

use std::ffi::OsStr;
use std::net::IpAddr;
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
        if found.is_some() {
            return found;
        }
    }
    None
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
        for garbage in ["", "UNKNOWN 65535 UNKNOWN 65535", "%", "1.2.3", "\u{0}"] {
            assert_eq!(parsed(garbage), None, "{garbage:?}");
        }
    }
}
