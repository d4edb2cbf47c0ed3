//! `vsock` of a guest: sockets between programs of the guest and of its host.

use serde::{Deserialize, Serialize};

use crate::error::Report;
use crate::fields::{Fields, TruthOrMap};
use crate::grammar::{Field, Form, Mapping};

/// The first CID that a guest can have; the VMM's own limit.
pub const FIRST_CID: u32 = 3;
/// The last one; the VMM's own limit.
pub const LAST_CID: u32 = 0xffff_fffe;

/// The guest's end of sockets between it and its host (virtio-vsock).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vsock {
    /// Its address (context identifier), [`FIRST_CID`] to [`LAST_CID`]; `None`: one that is free.
    pub cid: Option<u32>,
}

pub(super) static VSOCK: Mapping = Mapping {
    what: "`vsock`",
    fields: &[Field::new(
        "cid",
        Form::Number(FIRST_CID as u64, LAST_CID as u64),
        "42",
        "The guest's address (CID), by which the host's programs reach it. No two guests of a host that run \
         have the same: one whose CID is taken does not start. 0 to 2 are the hypervisor's, loopback's and \
         the host's own.",
    )
    .needed()],
    rules: &[],
    later: &[],
};

/// Reads `vsock` of the guest whose `spec` these fields are of.
pub(super) fn read(spec: &Fields<'_>, report: &mut Report<'_>) -> Option<Vsock> {
    match spec.truth_or_map("vsock", report)? {
        TruthOrMap::Truth(wanted) => wanted.then_some(Vsock { cid: None }),
        TruthOrMap::Map(fields) => Some(Vsock { cid: Some(fields.number("cid", report)?) }),
    }
}
