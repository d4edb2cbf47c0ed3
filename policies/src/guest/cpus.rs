//! `cpus` of a guest: how many vCPUs it has, how they look to it, and where they run.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sriov::facts::platform::CpuSet;

use crate::document::{Span, Value};
use crate::error::Report;
use crate::fields::{Fields, Given};
use crate::grammar::{Field, Form, Mapping, Numbered, Text, word};
use crate::indexes;

/// Most vCPUs of a guest; the VMM's own limit.
pub const MAX_CPUS: u8 = 64;
/// The last CPU of a host that a thread can be bound to; the VMM's own limit, which is that of the C
/// library's sets (`CPU_SETSIZE`).
pub const LAST_HOST_CPU: u16 = 1023;

/// The CPUs of a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cpus {
    /// Number of vCPUs, 1 to [`MAX_CPUS`].
    pub count: u8,
    /// What they can do.
    #[serde(default)]
    pub model: CpuModel,
    /// How they lie; `None`: each is a core, and all are in one socket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topology: Option<CpuTopology>,
    /// The host's CPUs that a vCPU runs on, by the number of the vCPU, which is below `count`. None of
    /// the sets is empty, and none goes beyond [`LAST_HOST_CPU`]. Those that are not named run anywhere.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub pin: BTreeMap<u8, CpuSet>,
    /// Those that all other threads of the guest's process run on; `None`: anywhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub emulator: Option<CpuSet>,
}

/// What vCPUs can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub enum CpuModel {
    /// What those of the host can.
    #[default]
    #[serde(rename = "host")]
    Host,
    /// The instructions of x86-64-v2, and no others.
    #[serde(rename = "x86-64-v2")]
    V2,
    /// Those of x86-64-v3.
    #[serde(rename = "x86-64-v3")]
    V3,
    /// Those of x86-64-v4.
    #[serde(rename = "x86-64-v4")]
    V4,
}

/// Sockets, the cores of each, and the threads of each core: together as many as there are vCPUs, which
/// are numbered in this order, threads first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuTopology {
    /// How many sockets.
    pub sockets: u8,
    /// How many cores in each.
    pub cores: u8,
    /// How many threads in each core.
    pub threads: u8,
}

impl Cpus {
    /// This many, of which nothing else is said.
    pub fn count(count: u8) -> Cpus {
        Cpus { count, model: CpuModel::Host, topology: None, pin: BTreeMap::new(), emulator: None }
    }
}

/// How CPUs of the host are written. A single one may stand without quotes.
const HOST_CPUS: Text = Text {
    accepted: r#"CPUs of the host and ranges of them, up to 1023, such as 2, "2-3" or "0,2-3""#,
    pattern: indexes::RANGES,
};

pub(super) static CPUS: Mapping = Mapping {
    what: "`cpus`",
    fields: &[
        Field::new("count", Form::Number(1, MAX_CPUS as u64), "2", "How many.").needed(),
        Field::new(
            "model",
            Form::Words(&[
                word("host", "all that the host's have"),
                word("x86-64-v2", "up to SSE4.2, as CPUs of 2009 on"),
                word("x86-64-v3", "up to AVX2 and FMA, as those of 2013 on"),
                word("x86-64-v4", "up to AVX-512, as servers of 2017 on"),
            ]),
            "x86-64-v3",
            "Which instructions the guest finds: those of a level of the x86-64 psABI and no others, so \
             that it is the same on unlike hosts. A host that lacks one of them does not start it.",
        )
        .or("host"),
        Field::new(
            "topology",
            Form::Map(&TOPOLOGY),
            "{sockets: 1, cores: 2, threads: 2}",
            "How they lie, as the guest sees them: sockets × cores × threads is `count`. vCPUs 0 and 1 are \
             threads of the first core, where a core has two. Left out: each is a core, and all are in one \
             socket.",
        ),
        Field::new(
            "pin",
            Form::Numbered(Numbered {
                what: "the number of a vCPU",
                last: MAX_CPUS as u64 - 1,
                pattern: "^([0-9]|[1-5][0-9]|6[0-3])$",
                of: HOST_CPUS,
            }),
            "{0: 2, 1: 3}",
            "Which CPU of the host each vCPU runs on, or which of several. One that is not named runs \
             anywhere.",
        ),
        Field::new(
            "emulator",
            Form::NumberOr(HOST_CPUS),
            "\"0-1\"",
            "Which CPUs of the host everything else of the guest's process runs on. Left out: anywhere.",
        ),
    ],
    rules: &[],
    later: &[],
};

static TOPOLOGY: Mapping = Mapping {
    what: "`topology`",
    fields: &[
        Field::new("sockets", Form::Number(1, MAX_CPUS as u64), "1", "How many sockets.").or("1"),
        Field::new("cores", Form::Number(1, MAX_CPUS as u64), "2", "How many cores in each.")
            .needed(),
        Field::new(
            "threads",
            Form::Number(1, MAX_CPUS as u64),
            "2",
            "How many threads in each core.",
        )
        .or("1"),
    ],
    rules: &[],
    later: &[],
};

/// Reads `cpus`.
pub(super) fn read(fields: &Fields<'_>, report: &mut Report<'_>) -> Option<Cpus> {
    let before = report.count();
    let count = fields.number("count", report);
    let model = fields.word("model", report).unwrap_or_default();
    let topology =
        fields.map("topology", report).and_then(|fields| topology(&fields, count, report));
    let mut pin = BTreeMap::new();
    for (vcpu, at, given) in fields.numbered("pin", report) {
        let Ok(vcpu) = u8::try_from(vcpu) else { continue };
        if let Some(count) = count.filter(|count| *count <= vcpu) {
            no_such(vcpu.into(), count, at, report);
        }
        pin.extend(host_cpus(given, report).map(|cpus| (vcpu, cpus)));
    }
    let emulator = fields.get("emulator", report).and_then(|given| host_cpus(given, report));
    (report.count() == before).then_some(Cpus { count: count?, model, topology, pin, emulator })
}

fn topology(
    fields: &Fields<'_>,
    count: Option<u8>,
    report: &mut Report<'_>,
) -> Option<CpuTopology> {
    let before = report.count();
    let mut number = |name| fields.number(name, report);
    let (sockets, cores, threads) = (number("sockets"), number("cores"), number("threads"));
    if report.count() != before {
        return None;
    }
    let (sockets, cores, threads) = (sockets.unwrap_or(1), cores?, threads.unwrap_or(1));
    let all = [sockets, cores, threads].map(u32::from).iter().product::<u32>();
    if let Some(count) = count.filter(|count| u32::from(*count) != all) {
        let message = format!(
            "`topology` has {sockets} × {cores} × {threads} = {all} vCPUs, and `count` is {count}"
        );
        let form = format!("sockets × cores × threads = {count}");
        report.error(fields.at, message, Some(&form));
    }
    Some(CpuTopology { sockets, cores, threads })
}

/// Says that a guest with `count` vCPUs has no `vcpu`.
pub(super) fn no_such(vcpu: u32, count: u8, at: Span, report: &mut Report<'_>) {
    let message = format!("there is no vCPU {vcpu}: the guest has {count}");
    let accepted = match count {
        1 => "0".to_owned(),
        _ => format!("0 to {}", count - 1),
    };
    report.error(at, message, Some(&accepted));
}

fn host_cpus(given: Given<'_>, report: &mut Report<'_>) -> Option<CpuSet> {
    set(given, parse, report)
}

/// A set of CPUs, by what `parse` makes of its text.
pub(super) fn set(
    given: Given<'_>,
    parse: impl Fn(&str) -> Result<CpuSet, String>,
    report: &mut Report<'_>,
) -> Option<CpuSet> {
    let Value::Scalar { text, .. } = &given.node.value else {
        return given.wrong(format!("is text, not {}", given.node.describe()), report);
    };
    parse(text).map_err(|why| given.wrong::<()>(format!("cannot be that: {why}"), report)).ok()
}

/// The CPUs of these ranges.
pub(super) fn of_ranges(ranges: Vec<(u16, u16)>) -> CpuSet {
    ranges.into_iter().map(|(first, last)| first.into()..=last.into()).collect()
}

fn parse(text: &str) -> Result<CpuSet, String> {
    let ranges = indexes::ranges(text, "CPU of a host", "CPU")?;
    if let Some((_, last)) = ranges.last().filter(|(_, last)| *last > LAST_HOST_CPU) {
        return Err(format!(
            "CPU {last} is beyond {LAST_HOST_CPU}, the last one that can be named"
        ));
    }
    Ok(of_ranges(ranges))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_of_the_host_are_read_sorted_and_joined() {
        let read = |text| parse(text).map(|cpus| cpus.to_string());
        assert_eq!(read("7").as_deref(), Ok("7"));
        assert_eq!(read("6-7, 2, 3").as_deref(), Ok("2-3,6-7"));
        assert_eq!(read("0-1023").as_deref(), Ok("0-1023"));
        for wrong in ["", "1024", "0-1024", "2-1", "1,1", "+1", "a", "1,"] {
            assert!(parse(wrong).is_err(), "{wrong:?} was accepted");
        }
    }
}
