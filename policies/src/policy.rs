//! `kind: Policy`: pools of devices, and the rules they are given away by.

use serde::{Deserialize, Serialize};

use crate::document::{Node, Span};
use crate::error::Report;
use crate::pool::{self, Pool};
use crate::read::{Fields, Taken, list};
use crate::rules::{self, Isolation, Protection, Release};

/// What a host should look like.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Its name, unique among the policies given together.
    pub name: String,
    /// Its pools, in the order of the text; at least one.
    pub pools: Vec<Pool>,
    /// What is demanded before a device is given away.
    pub isolation: Isolation,
    /// What the host needs and is taken all the same.
    pub protection: Protection,
    /// What happens to devices that are no longer wanted.
    pub release: Release,
}

/// What must not be repeated within the files given together.
#[derive(Default)]
pub(crate) struct Seen {
    names: Taken,
    pools: pool::Seen,
}

/// Most pools of one policy.
const MAX_POOLS: usize = 256;

const POOLS_FORM: &str = r#"- {name: lan, from: {interface: eth0}, vfs: {count: 4}}"#;

/// Reads the `spec` of a policy whose name is read already.
pub(crate) fn read(
    named: Option<(String, Span)>,
    spec: Option<&Node>,
    seen: &mut Seen,
    report: &mut Report<'_>,
) -> Option<Policy> {
    let before = report.count();
    if let Some((name, at)) = &named {
        seen.names.take(name, *at, "policy", report);
    }
    let known = ["pools", "isolation", "protection", "release"];
    let spec = Fields::of(spec?, "a policy's `spec`", &known, report)?;
    let mut pools = Vec::new();
    if let Some(node) = spec.need("pools", POOLS_FORM, report) {
        for item in list(node, "`pools`", MAX_POOLS, POOLS_FORM, report) {
            pools.extend(pool::read(item, &mut seen.pools, report));
        }
    }
    let isolation = spec.get("isolation", report).and_then(|node| rules::isolation(node, report));
    let protection =
        spec.get("protection", report).and_then(|node| rules::protection(node, report));
    let release = spec.get("release", report).and_then(|node| rules::release(node, report));
    if report.count() != before {
        return None;
    }
    let (name, _) = named?;
    Some(Policy {
        name,
        pools,
        isolation: isolation.unwrap_or_default(),
        protection: protection.unwrap_or_default(),
        release: release.unwrap_or_default(),
    })
}
