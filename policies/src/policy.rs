//! `kind: Policy`: pools of devices, and the rules they are given away by.

use serde::{Deserialize, Serialize};

use crate::document::{Node, Span};
use crate::error::Report;
use crate::fields::Fields;
use crate::grammar::{Field, Form, Mapping};
use crate::pool::{self, Pool};
use crate::read::Taken;
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

/// The `spec` of a policy.
pub(crate) static POLICY: Mapping = Mapping {
    what: "a policy's `spec`",
    fields: &[
        Field::new(
            "pools",
            Form::List { of: &pool::POOL, most: MAX_POOLS },
            "[{name: lan, from: {interface: eth0}, vfs: {count: 4}}]",
            "Pools of devices, from which guests claim by name.",
        )
        .needed(),
        Field::new(
            "isolation",
            Form::Map(&rules::ISOLATION),
            "{group: strict, acs: required}",
            "What is demanded before a device is given away.",
        ),
        Field::new(
            "protection",
            Form::Map(&rules::PROTECTION),
            r#"{exceptions: [{device: eth0, because: "a spare port"}]}"#,
            "What the host needs is never taken; exceptions are made here, one by one.",
        ),
        Field::new(
            "release",
            Form::Map(&rules::RELEASE),
            "{restore: original}",
            "What happens to devices that are no longer wanted.",
        ),
    ],
    rules: &[],
    later: &[],
};

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
    let spec = Fields::of(spec?, &POLICY, report)?;
    let mut pools = Vec::new();
    for fields in spec.list("pools", report) {
        pools.extend(pool::read(&fields, &mut seen.pools, report));
    }
    let isolation = spec.map("isolation", report).map(|f| rules::isolation(&f, report));
    let protection = spec.map("protection", report).map(|f| rules::protection(&f, report));
    let release = spec.map("release", report).map(|f| rules::release(&f, report));
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
