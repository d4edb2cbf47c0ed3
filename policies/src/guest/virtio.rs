//! `virtio`: how all virtio devices of a guest are.

use serde::{Deserialize, Serialize};

use crate::error::Report;
use crate::fields::Fields;
use crate::grammar::{Field, Form, Mapping, word};

/// How driver and device of a virtio device hand buffers to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum Rings {
    /// By three tables, as all drivers can (virtio 1.3, 2.7).
    #[default]
    Split,
    /// By one ring, where the guest's driver can and nobody but the VMM serves the device (virtio 1.3, 2.8).
    Packed,
}

pub(super) static QUEUES: Mapping = Mapping {
    what: "a guest's `virtio`",
    fields: &[Field::new(
        "rings",
        Form::Words(&[
            word("split", "rings as all drivers know them (split virtqueues)"),
            word("packed", "the newer packed virtqueues for drivers that know them, as Linux has since 5.0; others, and devices that the host's kernel serves (vhost), keep split ones"),
        ]),
        "packed",
        "How guest and VMM hand each other the buffers of disks, cards and other virtio devices.",
    )
    .needed()],
    rules: &[],
    later: &[],
};

/// Reads `virtio`.
pub(super) fn read(fields: &Fields<'_>, report: &mut Report<'_>) -> Rings {
    fields.word("rings", report).unwrap_or_default()
}
