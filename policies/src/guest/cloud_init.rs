//! What a guest's cloud-init is told: the files of its data source NoCloud.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::boot::{PATH, path};
use super::disks::GuestDisk;
use crate::error::Report;
use crate::fields::{Fields, Given};
use crate::grammar::{Field, Form, Mapping, Rule, Text};

/// The label by which cloud-init finds the disk, and its name here: no other disk of the guest has it.
pub const SEED: &str = "cidata";
/// Largest of the files on it, in bytes.
pub const MAX_SEED_FILE: u64 = 1 << 20;
/// Longest instance id, in bytes: it names a folder in the guest.
const MAX_INSTANCE_ID: usize = 128;
/// Longest name of a host, in bytes (RFC 1123).
const MAX_HOSTNAME: usize = 253;
/// Longest label of a name, in bytes.
const MAX_LABEL: usize = 63;

/// What a guest's cloud-init is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CloudInit {
    /// What it is to do; `None` is nothing.
    pub user_data: Option<SeedFile>,
    /// By what it tells whether the guest has begun before: it does most things once for each.
    pub instance_id: String,
    /// The guest's host name, possibly with its domain.
    pub hostname: String,
    /// How its networks are configured; `None` leaves that to the guest.
    pub network_config: Option<SeedFile>,
}

/// What a file of cloud-init holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SeedFile {
    /// This text.
    Text(String),
    /// What is in this file when the guest starts.
    File(PathBuf),
}

impl CloudInit {
    /// Whether cloud-init knows what to do with user data that begins so: a first line that says what
    /// it is, several parts (MIME), or what is packed (gzip).
    pub fn is_user_data(data: &[u8]) -> bool {
        BEGINNINGS.iter().any(|beginning| data.starts_with(beginning.as_bytes()))
            || data.starts_with(&GZIP)
    }

    /// Whether a network configuration tells its version, as each must.
    pub fn is_network_config(data: &[u8]) -> bool {
        data.windows(VERSION.len()).any(|window| window == VERSION.as_bytes())
    }
}

/// How user data begins (cloud-init, `INCLUSION_TYPES_MAP`); longer ones such as `#cloud-config-archive`
/// and `#include-once` begin so too.
const BEGINNINGS: &[&str] = &[
    "#cloud-config",
    "#!",
    "#cloud-boothook",
    "#include",
    "#part-handler",
    "## template: jinja",
    "Content-Type:",
    "MIME-Version:",
];
const GZIP: [u8; 2] = [0x1f, 0x8b];
const VERSION: &str = "version";

const NOTHING: &str = "{userData: {file: user-data.yaml}}";

pub(super) static CLOUD_INIT: Mapping = Mapping {
    what: "`cloudInit`",
    fields: &[
        Field::new(
            "userData",
            Form::TextOr(USER_DATA, &FILE),
            "{file: user-data.yaml}",
            "What cloud-init is to do: users, keys, packages, commands. As text, or as a file that is read \
             when the guest starts.",
        ),
        Field::new(
            "metaData",
            Form::Map(&META_DATA),
            "{hostname: web-1.example.net}",
            "What the guest is called.",
        ),
        Field::new(
            "networkConfig",
            Form::TextOr(NETWORK_CONFIG, &FILE),
            "{file: network-config.yaml}",
            "How its networks are configured (version 1 or 2 of cloud-init's format). Left out: DHCP, as \
             the image has it.",
        ),
    ],
    rules: &[Rule::NotEmpty {
        message: "`cloudInit` says nothing: it needs a field, or is left out",
        accepted: NOTHING,
    }],
    later: &[],
};

static FILE: Mapping = Mapping {
    what: "a file",
    fields: &[Field::new(
        "file",
        Form::Text(PATH),
        "user-data.yaml",
        "Where it is. A relative path starts from the folder of this file.",
    )
    .needed()],
    rules: &[],
    later: &[],
};

static META_DATA: Mapping = Mapping {
    what: "`metaData`",
    fields: &[
        Field::new(
            "instanceId",
            Form::Text(INSTANCE_ID),
            "web-1-b",
            "By what cloud-init tells whether it has run before: most of what it does it does once for \
             each. Another one has it do everything again, with new host keys. Left out: the guest's name.",
        ),
        Field::new(
            "hostname",
            Form::Text(HOSTNAME),
            "web-1.example.net",
            "The guest's host name, possibly with its domain. Left out: the guest's name.",
        ),
    ],
    rules: &[Rule::NotEmpty {
        message: "`metaData` says nothing: it needs a field, or is left out",
        accepted: "metaData: {hostname: web-1.example.net}",
    }],
    later: &[],
};

const USER_DATA: Text = Text {
    accepted: "text whose first line says what it is: #cloud-config, #! and a shell, #include, \
               #cloud-boothook, #part-handler, ## template: jinja, or a MIME header",
    pattern: "^(#cloud-config|#!|#cloud-boothook|#include|#part-handler|## template: \
              jinja|Content-Type:|MIME-Version:)",
};

const NETWORK_CONFIG: Text = Text {
    accepted: "cloud-init's network configuration, with its `version: 1` or `version: 2`",
    pattern: "version",
};

const INSTANCE_ID: Text = Text {
    accepted: "1 to 128 letters, digits and any of . _ -, beginning with a letter or digit",
    pattern: "^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$",
};

const HOSTNAME: Text = Text {
    accepted: "a host name (RFC 1123), such as web-1 or web-1.example.net",
    pattern: concat!(
        "^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?",
        r"(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*$"
    ),
};

/// Reads what the guest called `name` with these `disks` is told.
pub(super) fn read(
    fields: &Fields<'_>,
    name: &str,
    folder: &Path,
    disks: Option<&[GuestDisk]>,
    report: &mut Report<'_>,
) -> Option<CloudInit> {
    if disks.unwrap_or_default().iter().any(|disk| disk.name == SEED) {
        let message = "a disk of the guest has the name `cidata`, which that of `cloudInit` has";
        report.error(fields.at, message, Some("another name for that disk"));
    }
    let user_data = fields.get("userData", report).and_then(|given| {
        file(
            given,
            folder,
            CloudInit::is_user_data,
            "does not say in its first line what it is",
            report,
        )
    });
    let network_config = fields.get("networkConfig", report).and_then(|given| {
        file(given, folder, CloudInit::is_network_config, "does not tell its version", report)
    });
    let meta = fields.map("metaData", report);
    let mut told = |field: &str, parse: fn(&str) -> Option<String>| {
        meta.as_ref()
            .and_then(|meta| meta.parsed(field, parse, report))
            .unwrap_or_else(|| name.to_owned())
    };
    let instance_id = told("instanceId", instance_id);
    let hostname = told("hostname", hostname);
    Some(CloudInit { user_data, instance_id, hostname, network_config })
}

/// A file: its path, or a text that is `right`.
fn file(
    given: Given<'_>,
    folder: &Path,
    right: fn(&[u8]) -> bool,
    wrong: &str,
    report: &mut Report<'_>,
) -> Option<SeedFile> {
    if given.is_map() {
        let fields = given.fields(report)?;
        return fields.parsed("file", |text| path(text, folder), report).map(SeedFile::File);
    }
    let text = given.text(report)?;
    if text.len() as u64 > MAX_SEED_FILE {
        return given.wrong(format!("has {} bytes; 1 MiB is the most", text.len()), report);
    }
    if !right(text.as_bytes()) {
        return given.wrong(wrong, report);
    }
    Some(SeedFile::Text(text.to_owned()))
}

/// What [`INSTANCE_ID`] says.
fn instance_id(text: &str) -> Option<String> {
    let ok = (1..=MAX_INSTANCE_ID).contains(&text.len())
        && text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    ok.then(|| text.to_owned())
}

/// What [`HOSTNAME`] says.
fn hostname(text: &str) -> Option<String> {
    let label = |label: &str| {
        (1..=MAX_LABEL).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    (text.len() <= MAX_HOSTNAME && text.split('.').all(label)).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_data_says_what_it_is() {
        for right in [
            "#cloud-config\npackages: [nginx]\n",
            "#cloud-config-archive\n[]\n",
            "#!/bin/sh\necho\n",
            "#include-once\nhttps://example.net/x\n",
            "## template: jinja\n#cloud-config\n",
            "Content-Type: multipart/mixed; boundary=\"==\"\n",
        ] {
            assert!(CloudInit::is_user_data(right.as_bytes()), "{right}");
        }
        assert!(CloudInit::is_user_data(&[0x1f, 0x8b, 8, 0]));
        for wrong in ["", "\n#cloud-config\n", "packages: [nginx]\n", "# cloud-config\n", "#clou"] {
            assert!(!CloudInit::is_user_data(wrong.as_bytes()), "{wrong}");
        }
        assert!(CloudInit::is_network_config(b"{\"version\": 2}"));
        assert!(!CloudInit::is_network_config(b"ethernets: {}\n"));
    }

    #[test]
    fn names_are_those_of_hosts_and_folders() {
        let long = "a".repeat(MAX_LABEL);
        for right in ["a", "web-1", "Web1.example.net", &long] {
            assert_eq!(hostname(right).as_deref(), Some(right));
        }
        let longest = [long.as_str(); 4].join(".");
        for wrong in ["", "-a", "a-", "a..b", ".a", "a.", "a_b", "ä", &format!("{long}a"), &longest]
        {
            assert_eq!(hostname(wrong), None, "{wrong}");
        }
        assert!(instance_id("i-0123.b_4").is_some() && instance_id(&"a".repeat(128)).is_some());
        for wrong in ["", ".", "..", "-a", "a/b", "a b", &"a".repeat(129)] {
            assert_eq!(instance_id(wrong), None, "{wrong}");
        }
    }
}
