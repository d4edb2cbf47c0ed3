//! What limits are in a group's files (Documentation/admin-guide/cgroup-v2.rst).

use policies::Limits;

/// Who is in a group; written to, who is to be.
pub const PROCESSES: &str = "cgroup.procs";
pub const CPU_MAX: &str = "cpu.max";
pub const MEMORY_MAX: &str = "memory.max";
pub const TASKS_MAX: &str = "pids.max";
const CPU_WEIGHT: &str = "cpu.weight";

/// The time, in microseconds, within which a group gets its share: the kernel's default.
pub const PERIOD: u64 = 100_000;

/// What limits and counts something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Controller {
    /// CPU time.
    Cpu,
    /// Memory.
    Memory,
    /// Tasks.
    Pids,
}

impl Controller {
    /// Each of them.
    pub const ALL: [Controller; 3] = [Controller::Cpu, Controller::Memory, Controller::Pids];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Controller::Cpu => "cpu",
            Controller::Memory => "memory",
            Controller::Pids => "pids",
        }
    }

    /// The fields of a document that need it.
    pub fn fields(self) -> &'static str {
        match self {
            Controller::Cpu => "`cpu` and `cpuWeight`",
            Controller::Memory => "`memory`",
            Controller::Pids => "`tasks`",
        }
    }
}

/// A value for a file of a group.
#[derive(Debug, PartialEq, Eq)]
pub struct Setting {
    /// Who has this file.
    pub controller: Controller,
    /// Its name.
    pub file: &'static str,
    /// What is written to it.
    pub value: String,
}

/// What `limits` are.
pub fn of(limits: &Limits) -> Vec<Setting> {
    let Limits { cpu, cpu_weight, memory, tasks } = limits;
    let quota = cpu.map(|percent| format!("{} {PERIOD}", u64::from(percent) * PERIOD / 100));
    let all = [
        (Controller::Cpu, CPU_MAX, quota),
        (Controller::Cpu, CPU_WEIGHT, cpu_weight.map(|weight| weight.to_string())),
        (Controller::Memory, MEMORY_MAX, memory.map(|bytes| bytes.to_string())),
        (Controller::Pids, TASKS_MAX, tasks.map(|tasks| tasks.to_string())),
    ];
    let given = all
        .into_iter()
        .filter_map(|(controller, file, value)| Some(Setting { controller, file, value: value? }));
    given.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_written_as_the_kernel_reads_them() {
        assert_eq!(of(&Limits::default()), []);
        let limits = Limits {
            cpu: Some(150),
            cpu_weight: Some(50),
            memory: Some(768 << 20),
            tasks: Some(64),
        };
        let written: Vec<(&str, String)> =
            of(&limits).into_iter().map(|one| (one.file, one.value)).collect();
        let expected = [
            ("cpu.max", "150000 100000"),
            ("cpu.weight", "50"),
            ("memory.max", "805306368"),
            ("pids.max", "64"),
        ];
        assert_eq!(written, expected.map(|(file, value)| (file, value.to_owned())));
        let least = of(&Limits { cpu: Some(1), ..Limits::default() });
        assert_eq!(least[0].value, "1000 100000", "the kernel takes no less than 1 ms");
    }
}
