//! How a selector is written: its fields, for the reader, the messages and the schema.

use crate::grammar::{Field, Form, Mapping, Rule};
use crate::{amounts, ids, names};

/// Highest number of a NUMA node: the kernel has room for 1,024 (`CONFIG_NODES_SHIFT` is 10 at most).
pub(crate) const LAST_NODE: u64 = 1023;

const CONDITIONS: &[Field] = &[
    Field::new(
        "vendor",
        Form::Text(ids::PCI_ID),
        r#""8086""#,
        "PCI vendor ID, in hexadecimal and quotes.",
    ),
    Field::new(
        "device",
        Form::Text(ids::PCI_ID),
        r#""10c9""#,
        "PCI device ID, in hexadecimal and quotes.",
    ),
    Field::new(
        "subsystemVendor",
        Form::Text(ids::PCI_ID),
        r#""8086""#,
        "PCI subsystem vendor ID: who made the card.",
    ),
    Field::new(
        "subsystemDevice",
        Form::Text(ids::PCI_ID),
        r#""a03c""#,
        "PCI subsystem device ID: which card it is.",
    ),
    Field::new(
        "class",
        Form::Text(ids::CLASS),
        r#""0200""#,
        "PCI class or its beginning: 02 is any network controller, 0200 Ethernet, 0108 NVMe and the \
         like, 03 any display.",
    ),
    Field::new(
        "driver",
        Form::Text(names::DRIVER),
        "igb",
        "The driver that the host has bound to it.",
    ),
    Field::new(
        "address",
        Form::Text(ids::ADDRESS),
        "0000:01:00.0",
        "PCI address. Firmware may give a device another one when cards are added.",
    ),
    Field::new(
        "interface",
        Form::Text(names::INTERFACE),
        "eth0",
        "The name of its network interface.",
    ),
    Field::new(
        "altname",
        Form::Text(names::ALTNAME),
        "enp1s0f0",
        "Another name of its network interface (`ip link` shows it as altname).",
    ),
    Field::new(
        "permanentMac",
        Form::Text(ids::MAC),
        r#""52:54:00:12:34:56""#,
        "The address its network interface was made with, which a bond does not change.",
    ),
    Field::new(
        "serial",
        Form::Text(ids::SERIAL),
        r#""00-1b-21-ff-ff-12-34-56""#,
        "Its serial number: of an NVMe drive its own, of others that of the PCI Express device. \
         `assign show` prints it.",
    ),
    Field::new(
        "pciRoot",
        Form::Text(ids::PCI_ROOT),
        r#""0000:00""#,
        "The root bus it is below, in quotes.",
    ),
    Field::new("numaNode", Form::Number(0, LAST_NODE), "0", "The NUMA node it is on."),
    Field::new(
        "linkSpeed",
        Form::Map(&LINK_SPEED),
        "{min: 8GT/s}",
        "What its PCI Express link can do, whatever it runs at now.",
    ),
];

static LINK_SPEED: Mapping = Mapping {
    what: "`linkSpeed`",
    fields: &[Field::new(
        "min",
        Form::Text(amounts::SPEED),
        "8GT/s",
        "The least it must be able to do, in transfers per second and lane.",
    )
    .needed()],
    rules: &[],
    later: &[],
};

const NAMES: &str = "vendor, device, class, driver, address, interface and more";

/// `from`.
pub(crate) static FROM: Mapping = Mapping {
    what: "`from`",
    fields: CONDITIONS,
    rules: &[Rule::NotEmpty {
        message: "`from` selects nothing: give at least one condition",
        accepted: NAMES,
    }],
    later: &[],
};

/// `devices`.
pub(crate) static DEVICES: Mapping = Mapping {
    what: "`devices`",
    fields: CONDITIONS,
    rules: &[Rule::NotEmpty {
        message: "`devices` selects nothing: give at least one condition",
        accepted: NAMES,
    }],
    later: &[],
};
