//! Many VFs in few rows: those that follow each other and are in the same hands are one range.

use super::{Standing, Vf};

/// VFs of one PF that are told together.
#[derive(Debug, Clone)]
pub struct Range<'a> {
    /// At least one, by index.
    pub vfs: Vec<Vf<'a>>,
}

/// Fewest VFs that make a range: two rows say as much as one.
const FEWEST: usize = 3;

/// Ranges of VFs that follow each other by index and have the same driver, node and hands. With
/// `unfold`, each VF is one of its own.
pub fn ranges<'a>(vfs: &[Vf<'a>], unfold: bool) -> Vec<Range<'a>> {
    let mut ranges: Vec<Range> = Vec::new();
    for vf in vfs {
        match ranges.last_mut() {
            Some(range) if !unfold && range.vfs.last().is_some_and(|last| follows(last, vf)) => {
                range.vfs.push(*vf);
            }
            _ => ranges.push(Range { vfs: vec![*vf] }),
        }
    }
    let short = |range: &Range| range.vfs.len() < FEWEST;
    let mut folded = Vec::new();
    for range in ranges {
        if short(&range) {
            folded.extend(range.vfs.into_iter().map(|vf| Range { vfs: vec![vf] }));
        } else {
            folded.push(range);
        }
    }
    folded
}

fn follows(last: &Vf, next: &Vf) -> bool {
    let (a, b) = (last.function, next.function);
    last.index.checked_add(1) == Some(next.index)
        && a.driver == b.driver
        && a.numa_node == b.numa_node
        && a.netdevs.is_empty() == b.netdevs.is_empty()
        && same_hands(last.standing, next.standing)
}

/// A range is told without the details of each, so what differs in them must not matter.
fn same_hands(a: &Standing, b: &Standing) -> bool {
    match (a, b) {
        (Standing::Guest { .. } | Standing::Host { .. }, _) => a == b,
        _ => a.word() == b.word(),
    }
}

impl<'a> Range<'a> {
    /// The first of them.
    pub fn first(&self) -> Option<&Vf<'a>> {
        self.vfs.first()
    }

    /// `VF 3`, or `VFs 0-6`.
    pub fn indexes(&self) -> String {
        match (self.vfs.first(), self.vfs.last()) {
            (Some(first), Some(last)) if self.vfs.len() > 1 => {
                format!("VFs {}-{}", first.index, last.index)
            }
            (Some(only), _) => format!("VF {}", only.index),
            (None, _) => String::new(),
        }
    }

    /// The last one's address, without what it shares with the first: `11.4`; `None` for a range
    /// of one.
    pub fn end(&self) -> Option<String> {
        let (first, last) = (self.vfs.first()?.function.address, self.vfs.last()?.function.address);
        let (bus, device, function) = (last.bus(), last.device(), last.function());
        match () {
            _ if first == last => None,
            _ if first.domain() != last.domain() => Some(last.to_string()),
            _ if first.bus() != bus => Some(format!("{bus:02x}:{device:02x}.{function}")),
            _ => Some(format!("{device:02x}.{function}")),
        }
    }

    /// Their groups: `16`, `16-22` where each has one of its own, or `7 groups`.
    pub fn groups(&self) -> String {
        let mut numbers: Vec<u32> =
            self.vfs.iter().filter_map(|vf| vf.function.iommu_group).collect();
        let all = numbers.len() == self.vfs.len();
        numbers.sort_unstable();
        numbers.dedup();
        match (numbers.first(), numbers.last()) {
            (None, _) | (_, None) => String::new(),
            (Some(only), _) if numbers.len() == 1 && all => only.to_string(),
            (Some(first), Some(last)) => {
                let steps = usize::try_from(last - first).unwrap_or(usize::MAX);
                if all && steps == numbers.len() - 1 && numbers.len() == self.vfs.len() {
                    format!("{first}-{last}")
                } else {
                    format!("{} groups", numbers.len())
                }
            }
        }
    }
}
