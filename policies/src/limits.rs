//! `limits` of a guest: how much of the host its process may use.
//!
//! Each field is a file of a control group (cgroup v2, Documentation/admin-guide/cgroup-v2.rst), and says
//! what systemd says in `CPUQuota`, `CPUWeight`, `MemoryMax` and `TasksMax`.

use serde::{Deserialize, Serialize};

use crate::amounts::{self, PERCENT, SIZE};
use crate::error::Report;
use crate::fields::{Fields, Given};
use crate::grammar::{Field, Form, Mapping, Rule};

/// Most CPU time, in percent of one CPU: that of more CPUs than a guest can have.
pub(crate) const MOST_CPU: u64 = 10_000;
/// Most tasks: as many as a kernel has process ids (`PID_MAX_LIMIT`).
const MOST_TASKS: u64 = 4 << 20;
/// What a guest's process has beside its vCPUs and a task for each device: those that serve it, fill and
/// pin its memory, and KVM's own.
const OTHER_TASKS: u64 = 16;
/// What it has for each queue of a disk: a thread, and two of the kernel's for its ring (io_uring), one for
/// files that are waited for and one for those that are not.
const QUEUE_TASKS: u64 = 3;
/// What it has in memory beside RAM, whatever its size: its program, queues, stacks in the kernel.
const OTHER_MEMORY: u64 = 32 << 20;
/// The part of RAM that page tables take: 1/512 for the process, for the CPU's second stage and for the
/// IOMMU each, and more than as much again to spare.
const TABLES: u64 = 64;
const MIB: u64 = 1 << 20;

/// What the process of a guest may use of its host. `None` is as much as there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Limits {
    /// CPU time, in percent of one CPU.
    pub cpu: Option<u32>,
    /// Share among guests where they want more CPU time than there is, 1 to 10,000; others have 100.
    pub cpu_weight: Option<u16>,
    /// Memory in bytes, of the guest and of its process: at least [`Limits::least_memory`].
    pub memory: Option<u64>,
    /// Threads, which are all that its process can start: at least [`Limits::least_tasks`].
    pub tasks: Option<u32>,
}

impl Limits {
    /// Whether any is demanded.
    pub fn any(&self) -> bool {
        *self != Limits::default()
    }

    /// The least that a guest with so much RAM can be limited to, in bytes.
    pub fn least_memory(ram: u64) -> u64 {
        (ram + ram / TABLES + OTHER_MEMORY).next_multiple_of(MIB)
    }

    /// The least that a guest with so many vCPUs, devices (a virtio network is one for each of its queues) and
    /// queues of disks can be limited to.
    pub fn least_tasks(cpus: u8, devices: usize, queues: u64) -> u64 {
        u64::from(cpus) + devices as u64 + queues * QUEUE_TASKS + OTHER_TASKS
    }
}

pub(crate) static LIMITS: Mapping = Mapping {
    what: "`limits`",
    fields: &[
        Field::new(
            "cpu",
            Form::Text(PERCENT),
            "150%",
            "How much CPU time it may use, in percent of one CPU: with 150% as much as one and a half \
             CPUs have. Beyond that it waits, up to 100 ms at a time.",
        ),
        Field::new(
            "cpuWeight",
            Form::Number(1, 10_000),
            "50",
            "Its share among the guests of this host where they want more CPU time than there is: with 50 \
             half of what one with 100 gets. Left out: 100.",
        ),
        Field::new(
            "memory",
            Form::Text(SIZE),
            "768MiB",
            "How much memory it may use: the guest's own, and what its process and the kernel need for \
             it. That is more than the guest's `memory` by a 64th and 32 MiB at least. A guest that needs \
             more is ended.",
        ),
        Field::new(
            "tasks",
            Form::Number(1, MOST_TASKS),
            "64",
            "How many threads its process may have: at least 16 more than vCPUs, devices and queues of virtio \
             networks together, and 3 more for each queue of a disk.",
        ),
    ],
    rules: &[Rule::NotEmpty {
        message: "`limits` says nothing: it needs a field, or is left out",
        accepted: "limits: {cpu: 150%, memory: 768MiB}",
    }],
    later: &[],
};

/// What limits are checked against, as far as it is right itself.
pub(crate) struct Needs {
    /// The guest's RAM in bytes.
    pub ram: Option<u64>,
    /// Its vCPUs.
    pub cpus: Option<u8>,
    /// Its devices, and the queues of its virtio networks.
    pub devices: usize,
    /// The queues of its disks.
    pub queues: u64,
}

/// Reads the mapping.
pub(crate) fn read(fields: &Fields<'_>, needs: &Needs, report: &mut Report<'_>) -> Limits {
    let given = fields.get("cpu", report);
    let cpu = given.and_then(|given| amounts::percent(given, MOST_CPU, report));
    let cpu_weight = fields.number("cpuWeight", report);
    let given = fields.get("memory", report);
    let memory = given.and_then(|given| memory(given, needs.ram, report));
    let tasks = fields.number("tasks", report);
    if let (Some(given), Some(tasks), Some(cpus)) = (fields.get("tasks", report), tasks, needs.cpus)
    {
        let least = Limits::least_tasks(cpus, needs.devices, needs.queues);
        if u64::from(tasks) < least {
            let message = format!(
                "a guest with {} does not start with {tasks} tasks: its process has {} beside, for \
                 devices, their queues and itself",
                amounts::vcpus(cpus),
                least - u64::from(cpus)
            );
            report.error(given.node.span, message, Some(&format!("{least} or more")));
        }
    }
    Limits { cpu, cpu_weight, memory, tasks }
}

fn memory(given: Given<'_>, ram: Option<u64>, report: &mut Report<'_>) -> Option<u64> {
    let limit = amounts::size(given, report)?;
    let ram = ram?;
    let least = Limits::least_memory(ram);
    if limit < least {
        let message = format!(
            "a guest with {} MiB of memory does not run with a limit of {} MiB: its process and its page \
             tables come on top",
            ram / MIB,
            limit / MIB
        );
        report.error(given.node.span, message, Some(&format!("{}MiB or more", least / MIB)));
        return None;
    }
    Some(limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_limits_grow_with_the_guest() {
        assert_eq!(Limits::least_memory(64 * MIB), 97 * MIB);
        assert_eq!(Limits::least_memory(512 * MIB), 552 * MIB);
        assert_eq!(Limits::least_memory(16 << 40), (16 << 40) + (256 << 30) + 32 * MIB);
        assert_eq!((Limits::least_tasks(1, 0, 0), Limits::least_tasks(64, 32, 2)), (17, 118));
        assert!(!Limits::default().any());
        assert!(Limits { tasks: Some(64), ..Limits::default() }.any());
    }
}
