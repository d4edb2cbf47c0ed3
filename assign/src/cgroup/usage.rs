//! What a group counts.

use std::path::Path;

use sriov::attribute;

use super::settings::{CPU_MAX, MEMORY_MAX, TASKS_MAX};
use crate::control::stats::Usage;

/// Why the kernel ended a process for lack of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutOfMemory {
    /// The group has as much as it may have: so many bytes.
    Limit(u64),
    /// The host, or a group above, has no more.
    Host,
}

/// What the processes of the group in `directory` have used and may use; none where there is no such
/// group.
pub fn read(directory: &Path) -> Option<Usage> {
    let file = |name: &str| attribute::read(&directory.join(name)).ok().flatten();
    let number = |name: &str| file(name)?.parse().ok();
    let cpu = file("cpu.stat")?;
    Some(Usage {
        cpu_us: field(&cpu, "usage_usec")?,
        held_back_us: field(&cpu, "throttled_usec"),
        cpu_percent_limit: file(CPU_MAX).as_deref().and_then(percent),
        memory_bytes: number("memory.current"),
        memory_bytes_limit: number(MEMORY_MAX),
        tasks: number("pids.current"),
        tasks_limit: number(TASKS_MAX),
    })
}

/// Whether, and why, a process of the group was ended for lack of memory.
pub fn out_of_memory(directory: &Path) -> Option<OutOfMemory> {
    let events = attribute::read(&directory.join("memory.events")).ok().flatten()?;
    let limit = attribute::read(&directory.join(MEMORY_MAX)).ok().flatten();
    cause(&events, limit?.parse().ok())
}

/// `oom_kill` counts whoever is ended, on whosever account; `oom`, how often this group's own limit was in
/// the way.
fn cause(events: &str, limit: Option<u64>) -> Option<OutOfMemory> {
    if field(events, "oom_kill")? == 0 {
        return None;
    }
    match (field(events, "oom"), limit) {
        (Some(reached), Some(limit)) if reached > 0 => Some(OutOfMemory::Limit(limit)),
        _ => Some(OutOfMemory::Host),
    }
}

/// The number behind `name` in a table of one a line.
fn field(table: &str, name: &str) -> Option<u64> {
    table.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}

/// Of one CPU, what `cpu.max` says; none for `max`.
fn percent(max: &str) -> Option<u64> {
    let (quota, period) = max.split_once(' ')?;
    quota.parse::<u64>().ok()?.checked_mul(100)?.checked_div(period.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_ended_for_the_host_has_not_reached_its_own_limit() {
        let events = |oom, killed| format!("low 0\nhigh 0\nmax 71\noom {oom}\noom_kill {killed}\n");
        assert_eq!(cause(&events(0, 0), Some(5)), None);
        assert_eq!(cause(&events(1, 0), Some(5)), None, "a task was refused memory, and lives");
        assert_eq!(cause(&events(1, 1), Some(5)), Some(OutOfMemory::Limit(5)));
        assert_eq!(cause(&events(0, 1), Some(5)), Some(OutOfMemory::Host));
        assert_eq!(cause(&events(0, 1), None), Some(OutOfMemory::Host));
        assert_eq!(cause("", None), None);
    }

    #[test]
    fn what_is_not_limited_or_not_counted_is_left_open() {
        let folder = tempfile::tempdir().expect("a folder");
        let directory = folder.path();
        assert_eq!(read(directory), None);
        let write = |name: &str, text: &str| {
            std::fs::write(directory.join(name), text).expect("room");
        };
        write("cpu.stat", "usage_usec 1234567\nuser_usec 1000000\nsystem_usec 234567\n");
        write("cpu.max", "max 100000\n");
        write("memory.current", "4096\n");
        write("memory.max", "max\n");
        let used = Usage { cpu_us: 1_234_567, memory_bytes: Some(4096), ..Usage::default() };
        assert_eq!(read(directory), Some(used));
        write("cpu.stat", "usage_usec 5\nnr_throttled 3\nthrottled_usec 7\n");
        write("cpu.max", "150000 100000\n");
        write("memory.max", "8192\n");
        write("pids.current", "5\n");
        write("pids.max", "64\n");
        let used = read(directory).expect("all of it");
        assert_eq!((used.held_back_us, used.cpu_percent_limit), (Some(7), Some(150)));
        assert_eq!((used.tasks, used.tasks_limit), (Some(5), Some(64)));
        assert_eq!(used.memory_bytes_limit, Some(8192));
        assert_eq!(percent("1 0"), None);
    }
}
