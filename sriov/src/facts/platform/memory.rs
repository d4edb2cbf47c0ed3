//! Memory, as far as guests are concerned: what there is, in which pages, and what may take it away
//! from under them. Sizes are in bytes.

use serde::{Deserialize, Serialize};

use super::chosen;
use crate::facts::reader::Reader;

/// The host's memory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Memory {
    /// All of it.
    pub total: Option<u64>,
    /// What could be had without swapping.
    pub available: Option<u64>,
    /// Swap space.
    pub swap_total: Option<u64>,
    /// Swap space that is free.
    pub swap_free: Option<u64>,
    /// When the kernel uses transparent huge pages: always, madvise or never.
    pub transparent_huge_pages: Option<String>,
    /// Pools of huge pages, by size and node.
    pub huge_pages: Vec<HugePages>,
    /// Kernel samepage merging.
    pub ksm: Option<Ksm>,
    /// Whether memory may be promised more than once.
    pub overcommit: Option<Overcommit>,
    /// What the kernel may promise in all, where it counts strictly.
    pub commit_limit: Option<u64>,
    /// What it has promised.
    pub committed: Option<u64>,
}

/// A pool of huge pages (Documentation/admin-guide/mm/hugetlbpage.rst).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HugePages {
    /// Size of a page.
    pub size: u64,
    /// The NUMA node; `None` for the host's sum.
    pub node: Option<u32>,
    /// Pages in the pool.
    pub total: u64,
    /// Pages that nobody has.
    pub free: u64,
    /// Free pages that are promised to somebody; `None` for one node, where it is not counted.
    pub reserved: Option<u64>,
    /// Pages beyond the pool's set size.
    pub surplus: u64,
}

/// Kernel samepage merging (Documentation/admin-guide/mm/ksm.rst).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ksm {
    /// What it does.
    pub state: KsmState,
    /// Pages that are kept for several.
    pub pages_shared: u64,
    /// Pages that are spared by it.
    pub pages_sharing: u64,
}

/// What samepage merging does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KsmState {
    /// Nothing; what was merged stays merged.
    #[default]
    Stopped,
    /// It merges.
    Running,
    /// Nothing, and what was merged was taken apart.
    Unmerged,
}

/// Whether memory may be promised more than once (Documentation/mm/overcommit-accounting.rst).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Overcommit {
    /// Unless it is obviously too much.
    Heuristic,
    /// Always.
    Always,
    /// Never beyond the limit.
    Never,
}

/// More pools than any machine has.
const MOST_POOLS: usize = 4096;

impl Memory {
    /// Reads the facts.
    pub fn read(reader: &mut Reader) -> Memory {
        let table = reader.root.proc("meminfo");
        let table = reader.table(&table);
        let field = |name: &str| {
            let mut lines = table.lines().filter_map(|line| line.split_once(':'));
            let (_, value) = lines.find(|(field, _)| *field == name)?;
            kib(value)
        };
        let mode = reader.root.sys("kernel/mm/transparent_hugepage/enabled");
        Memory {
            total: field("MemTotal"),
            available: field("MemAvailable"),
            swap_total: field("SwapTotal"),
            swap_free: field("SwapFree"),
            commit_limit: field("CommitLimit"),
            committed: field("Committed_AS"),
            transparent_huge_pages: reader.text(&mode).and_then(|text| chosen(&text)),
            huge_pages: huge_pages(reader),
            ksm: ksm(reader),
            overcommit: overcommit(reader),
        }
    }

    /// The pools of the whole host, one a size.
    pub fn pools(&self) -> impl Iterator<Item = &HugePages> {
        self.huge_pages.iter().filter(|pool| pool.node.is_none())
    }
}

/// `16384 kB` in bytes.
pub fn kib(value: &str) -> Option<u64> {
    let number = value.trim().strip_suffix("kB")?.trim();
    number.parse::<u64>().ok()?.checked_mul(1024)
}

fn huge_pages(reader: &mut Reader) -> Vec<HugePages> {
    let mut places = vec![(None, reader.root.sys("kernel/mm/hugepages"))];
    let nodes = reader.root.sys("devices/system/node");
    for (number, name) in super::numa::node_numbers(reader) {
        places.push((Some(number), nodes.join(name).join("hugepages")));
    }
    let mut pools = Vec::new();
    for (node, place) in places {
        for name in reader.entries(&place) {
            let size = name.strip_prefix("hugepages-").and_then(|rest| rest.strip_suffix("kB"));
            let size = size.and_then(|size| size.parse::<u64>().ok()?.checked_mul(1024));
            let Some(size) = size.filter(|_| pools.len() < MOST_POOLS) else { continue };
            let mut number = |file| reader.number::<u64>(&place.join(&name).join(file));
            pools.push(HugePages {
                size,
                node,
                total: number("nr_hugepages").unwrap_or(0),
                free: number("free_hugepages").unwrap_or(0),
                reserved: number("resv_hugepages"),
                surplus: number("surplus_hugepages").unwrap_or(0),
            });
        }
    }
    pools.sort_by_key(|pool| (pool.node, pool.size));
    pools
}

fn ksm(reader: &mut Reader) -> Option<Ksm> {
    let directory = reader.root.sys("kernel/mm/ksm");
    let run = directory.join("run");
    let state = match reader.number::<u32>(&run)? {
        0 => KsmState::Stopped,
        1 => KsmState::Running,
        2 => KsmState::Unmerged,
        other => {
            reader.note(&run, format!("{other} is none of 0, 1 and 2"));
            return None;
        }
    };
    let mut pages = |file| reader.number(&directory.join(file)).unwrap_or(0);
    let (pages_shared, pages_sharing) = (pages("pages_shared"), pages("pages_sharing"));
    Some(Ksm { state, pages_shared, pages_sharing })
}

fn overcommit(reader: &mut Reader) -> Option<Overcommit> {
    let path = reader.root.proc("sys/vm/overcommit_memory");
    match reader.number::<u32>(&path)? {
        0 => Some(Overcommit::Heuristic),
        1 => Some(Overcommit::Always),
        2 => Some(Overcommit::Never),
        other => {
            reader.note(&path, format!("{other} is none of 0, 1 and 2"));
            None
        }
    }
}
