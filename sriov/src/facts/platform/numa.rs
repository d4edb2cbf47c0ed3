//! Which CPUs are there, and what memory is near them.

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use super::memory::kib;
use crate::facts::reader::Reader;

/// CPUs and NUMA nodes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Topology {
    /// CPUs that run; a thread of a core is a CPU.
    pub online: CpuSet,
    /// CPUs that are there and do not run.
    pub offline: CpuSet,
    /// CPUs that the scheduler leaves alone (`isolcpus=`).
    pub isolated: CpuSet,
    /// Sockets with a CPU that runs; `None` where the kernel does not say.
    pub sockets: Option<u32>,
    /// Cores with a CPU that runs; `None` where the kernel does not say.
    pub cores: Option<u32>,
    /// NUMA nodes, by number.
    pub nodes: Vec<Node>,
}

/// A NUMA node. A node may have no CPUs, or no memory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Node {
    /// Its number.
    pub number: u32,
    /// Its CPUs.
    pub cpus: CpuSet,
    /// Its memory, in bytes.
    pub memory: Option<u64>,
    /// What of it is free, in bytes.
    pub free: Option<u64>,
    /// How far each node is, in the order of their numbers; 10 is near (ACPI SLIT).
    pub distances: Vec<u32>,
}

/// A set of CPUs, as ranges in order: `0-3,8`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CpuSet {
    ranges: Vec<RangeInclusive<u32>>,
}

/// Text that is no set of CPUs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no list of CPUs such as 0-3,8")]
pub struct NotCpus(String);

/// More CPUs than any kernel can have (`CONFIG_NR_CPUS` goes to 8192).
const MOST_CPUS: u32 = 1 << 16;
/// More nodes than any kernel can have (`CONFIG_NODES_SHIFT` goes to 10).
const MOST_NODES: usize = 1 << 10;

impl std::str::FromStr for CpuSet {
    type Err = NotCpus;

    /// Ranges in ascending order, as the kernel writes them (lib/vsprintf.c, `bitmap_list_string`);
    /// nothing for none.
    fn from_str(text: &str) -> Result<CpuSet, NotCpus> {
        let wrong = || NotCpus(text.chars().take(64).collect());
        let number = |text: &str| {
            let number = text.parse().ok().filter(|number| *number < MOST_CPUS);
            number.ok_or_else(wrong)
        };
        let mut ranges: Vec<RangeInclusive<u32>> = Vec::new();
        for part in text.trim().split(',').filter(|part| !part.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (number(first)?, number(last)?);
            let after = ranges.last().map(|range| *range.end());
            if first > last || after.is_some_and(|after| first <= after) {
                return Err(wrong());
            }
            ranges.push(first..=last);
        }
        Ok(CpuSet { ranges })
    }
}

/// Of ranges in any order, which may touch and overlap.
impl FromIterator<RangeInclusive<u32>> for CpuSet {
    fn from_iter<I: IntoIterator<Item = RangeInclusive<u32>>>(ranges: I) -> CpuSet {
        let mut all: Vec<_> = ranges.into_iter().filter(|range| !range.is_empty()).collect();
        all.sort_unstable_by_key(|range| *range.start());
        let mut ranges: Vec<RangeInclusive<u32>> = Vec::new();
        for range in all {
            match ranges.last_mut() {
                Some(last) if *range.start() <= last.end().saturating_add(1) => {
                    *last = *last.start()..=*last.end().max(range.end());
                }
                _ => ranges.push(range),
            }
        }
        CpuSet { ranges }
    }
}

impl TryFrom<String> for CpuSet {
    type Error = NotCpus;

    fn try_from(text: String) -> Result<CpuSet, NotCpus> {
        text.parse()
    }
}

impl From<CpuSet> for String {
    fn from(cpus: CpuSet) -> String {
        cpus.to_string()
    }
}

impl std::fmt::Display for CpuSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (at, range) in self.ranges.iter().enumerate() {
            let comma = if at > 0 { "," } else { "" };
            match (range.start(), range.end()) {
                (first, last) if first == last => write!(f, "{comma}{first}")?,
                (first, last) => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

impl CpuSet {
    /// How many there are.
    pub fn count(&self) -> u32 {
        self.ranges.iter().map(|range| range.end() - range.start() + 1).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Whether this one is among them.
    pub fn contains(&self, cpu: u32) -> bool {
        self.ranges.iter().any(|range| range.contains(&cpu))
    }

    /// The ranges, in order.
    pub fn ranges(&self) -> &[RangeInclusive<u32>] {
        &self.ranges
    }

    /// Those of them that `others` do not have.
    pub fn without(&self, others: &CpuSet) -> CpuSet {
        self.iter().filter(|cpu| !others.contains(*cpu)).map(|cpu| cpu..=cpu).collect()
    }

    /// Each of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = u32> {
        self.ranges.iter().cloned().flatten()
    }
}

impl Topology {
    /// Reads the facts.
    pub fn read(reader: &mut Reader) -> Topology {
        let cpus = reader.root.sys("devices/system/cpu");
        let online = cpu_set(reader, &cpus.join("online"));
        let offline = cpu_set(reader, &cpus.join("offline"));
        let isolated = cpu_set(reader, &cpus.join("isolated"));
        let sockets = parts(reader, &online, ["package_cpus_list", "core_siblings_list"]);
        let cores = parts(reader, &online, ["core_cpus_list", "thread_siblings_list"]);
        let nodes = node_numbers(reader);
        let nodes = nodes.into_iter().map(|(number, name)| node(reader, number, &name)).collect();
        Topology { online, offline, isolated, sockets, cores, nodes }
    }

    /// Threads of a core, where all have the same number of them.
    pub fn threads_per_core(&self) -> Option<u32> {
        let cores = self.cores.filter(|cores| *cores > 0)?;
        self.online.count().is_multiple_of(cores).then_some(self.online.count() / cores)
    }
}

fn cpu_set(reader: &mut Reader, path: &std::path::Path) -> CpuSet {
    let text = reader.text(path).unwrap_or_default();
    text.parse().unwrap_or_else(|error: NotCpus| {
        reader.note(path, error.to_string());
        CpuSet::default()
    })
}

/// Into how many parts the CPUs fall by what each says of its companions (sockets, cores): one file
/// a part is read. The second name is the one before Linux 5.3.
fn parts(reader: &mut Reader, online: &CpuSet, names: [&str; 2]) -> Option<u32> {
    let cpus = reader.root.sys("devices/system/cpu");
    let mut counted = std::collections::BTreeSet::new();
    let mut parts = 0;
    for cpu in online.iter() {
        if counted.contains(&cpu) {
            continue;
        }
        let topology = cpus.join(format!("cpu{cpu}/topology"));
        let path = topology.join(names.first()?);
        let path = if path.exists() { path } else { topology.join(names.last()?) };
        let companions = cpu_set(reader, &path);
        if companions.is_empty() {
            return None;
        }
        counted.extend(companions.iter());
        counted.insert(cpu);
        parts += 1;
    }
    (parts > 0).then_some(parts)
}

/// The NUMA nodes' numbers and directory names, in order.
pub(super) fn node_numbers(reader: &mut Reader) -> Vec<(u32, String)> {
    let directory = reader.root.sys("devices/system/node");
    let names = reader.entries(&directory);
    let mut nodes: Vec<(u32, String)> = names
        .into_iter()
        .filter_map(|name| Some((name.strip_prefix("node")?.parse().ok()?, name)))
        .take(MOST_NODES)
        .collect();
    nodes.sort();
    nodes
}

fn node(reader: &mut Reader, number: u32, name: &str) -> Node {
    let directory = reader.root.sys("devices/system/node").join(name);
    let table = reader.table(&directory.join("meminfo"));
    // "Node 0 MemTotal:       16384 kB"
    let field = |name: &str| {
        let mut lines = table.lines().filter_map(|line| line.split_once(':'));
        let (_, value) = lines.find(|(field, _)| field.split(' ').next_back() == Some(name))?;
        kib(value)
    };
    let (memory, free) = (field("MemTotal"), field("MemFree"));
    let distances = reader.text(&directory.join("distance")).unwrap_or_default();
    let distances = distances.split_ascii_whitespace().map_while(|text| text.parse().ok());
    Node {
        number,
        cpus: cpu_set(reader, &directory.join("cpulist")),
        memory,
        free,
        distances: distances.take(MOST_NODES).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_made_of_any_ranges_and_taken_from_each_other() {
        let cpus: CpuSet = [8..=9, 0..=1, 2..=3, 3..=5].into_iter().collect();
        assert_eq!(cpus.to_string(), "0-5,8-9");
        assert!(cpus.contains(5) && !cpus.contains(6));
        let others = "1-4,9-12".parse().expect("a list of CPUs");
        assert_eq!(cpus.without(&others).to_string(), "0,5,8");
        assert!(cpus.without(&cpus).is_empty());
    }

    #[test]
    fn lists_of_cpus() {
        for (text, count) in [("", 0), ("0", 1), ("0-3,8", 5), ("0-127,256-383", 256)] {
            let cpus: CpuSet = text.parse().expect("a list of CPUs");
            assert_eq!((cpus.count(), cpus.to_string().as_str()), (count, text));
        }
        for text in ["3-0", "0-3,2", "x", "0-", "-1", "0-4294967295", "99999999999", "1,1"] {
            text.parse::<CpuSet>().expect_err(text);
        }
    }
}
