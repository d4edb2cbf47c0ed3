//! `ports` of a guest: streams of bytes between programs of the guest and of its host.

use serde::{Deserialize, Serialize};

use crate::document::Span;
use crate::error::Report;
use crate::fields::Fields;
use crate::grammar::{Field, Form, Mapping, Text};
use crate::read::Taken;

/// Most ports of a guest; the VMM's own limit.
pub const MAX_PORTS: usize = 16;
/// Longest name of a port in bytes; the VMM's own limit.
const LONGEST_NAME: usize = 63;
/// Most bytes of a port's name and its guest's together: the path of a port's socket,
/// `/run/assign/guests/GUEST/ports/NAME`, has 107 bytes at most (`sun_path`).
const LONGEST_TOGETHER: usize = 81;

/// A port of a guest (virtio-console).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestPort {
    /// Its name, unique among the guest's ports: that of a file, without a dot at its beginning.
    pub name: String,
    /// Whether it is a terminal in the guest.
    pub console: bool,
}

const NAME: Text = Text {
    accepted: "1 to 63 letters, digits and any of . _ -, the first one a letter or digit",
    pattern: "^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$",
};

pub(super) static PORT: Mapping = Mapping {
    what: "a port",
    fields: &[
        Field::new(
            "name",
            Form::Text(NAME),
            "org.qemu.guest_agent.0",
            "Its name, unique among the ports of the guest: programs there find it as /dev/virtio-ports/NAME, \
             and those of the host as the socket /run/assign/guests/GUEST/ports/NAME.",
        )
        .needed(),
        Field::new(
            "console",
            Form::Truth,
            "true",
            "Whether it is a terminal in the guest: /dev/hvc0, and so on in the order of the ports.",
        )
        .or("false"),
    ],
    rules: &[],
    later: &[],
};

/// Reads the ports of the guest of that name, whose `spec` these fields are of.
pub(super) fn read(
    spec: &Fields<'_>,
    guest: Option<&str>,
    report: &mut Report<'_>,
) -> Vec<GuestPort> {
    let mut taken = Taken::default();
    let ports = spec.list("ports", report);
    ports.iter().filter_map(|fields| port(fields, guest, &mut taken, report)).collect()
}

fn port(
    fields: &Fields<'_>,
    guest: Option<&str>,
    taken: &mut Taken,
    report: &mut Report<'_>,
) -> Option<GuestPort> {
    let name = fields.parsed("name", name, report);
    let console = fields.truth("console", report).unwrap_or_default();
    let name = name?;
    if let Some(given) = fields.get("name", report) {
        let at = given.node.span;
        taken.take(&name, at, "port of this guest", report);
        check_length(&name, guest.unwrap_or_default(), at, report);
    }
    Some(GuestPort { name, console })
}

fn check_length(name: &str, guest: &str, at: Span, report: &mut Report<'_>) {
    if name.len() + guest.len() > LONGEST_TOGETHER {
        let message = format!(
            "the names of the port and of the guest have {} characters together, too many for the path of \
             its socket",
            name.len() + guest.len()
        );
        let form = format!("at most {LONGEST_TOGETHER}");
        report.error(at, message, Some(&form));
    }
}

/// What [`NAME`] says.
fn name(text: &str) -> Option<String> {
    let ok = (1..=LONGEST_NAME).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        && text.starts_with(|c: char| c.is_ascii_alphanumeric());
    ok.then(|| text.to_owned())
}
