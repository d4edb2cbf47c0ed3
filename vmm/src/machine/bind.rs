//! Which CPUs of the host a vCPU's thread runs on.
//!
//! Each thread binds itself, before it takes the shorter list of system calls and before the vCPU runs
//! for the first time: nobody else could do both so early. All other threads run where the launcher has
//! bound the process before it became this program.

use rustix::thread::{CpuSet, sched_setaffinity};

use crate::spec::{Bound, HostCpus};

/// Binds the calling thread.
///
/// # Errors
/// Why it cannot run there, in one line.
pub fn bind(bound: &Bound) -> Result<(), String> {
    sched_setaffinity(None, &set(&bound.to)).map_err(|error| {
        let ranges = bound.to.iter().map(|HostCpus { first, last }| match first == last {
            true => first.to_string(),
            false => format!("{first}-{last}"),
        });
        format!(
            "vCPU {} cannot run on CPUs {} of the host: {error}; they are offline, or the cpuset that \
             assign runs in does not have them",
            bound.vcpu,
            ranges.collect::<Vec<_>>().join(",")
        )
    })
}

fn set(ranges: &[HostCpus]) -> CpuSet {
    let mut set = CpuSet::new();
    for HostCpus { first, last } in ranges {
        for cpu in usize::from(*first)..=usize::from(*last).min(CpuSet::MAX_CPU - 1) {
            set.set(cpu);
        }
    }
    set
}

#[cfg(test)]
mod tests {
    use rustix::thread::sched_getaffinity;

    use super::*;
    use crate::spec::LAST_HOST_CPU;

    fn bound(first: u16, last: u16) -> Bound {
        Bound { vcpu: 3, to: vec![HostCpus { first, last }] }
    }

    #[test]
    fn a_thread_runs_where_it_is_bound_and_nowhere_else() {
        assert_eq!(CpuSet::MAX_CPU, usize::from(LAST_HOST_CPU) + 1);
        let may = sched_getaffinity(None).expect("this thread's own");
        let last = (0..=LAST_HOST_CPU).rfind(|cpu| may.is_set((*cpu).into())).expect("one");
        // On a thread of its own, since it stays there.
        let there = std::thread::spawn(move || {
            bind(&bound(last, last)).map(|()| sched_getaffinity(None).expect("its own"))
        });
        let there = there.join().expect("a thread").expect("it may run there");
        assert!(there.count() == 1 && there.is_set(last.into()));
    }

    #[test]
    fn a_cpu_that_is_not_there_is_told() {
        let there = std::thread::spawn(|| bind(&bound(LAST_HOST_CPU - 1, LAST_HOST_CPU)));
        let told = there.join().expect("a thread").expect_err("no such CPU");
        assert!(told.starts_with("vCPU 3 cannot run on CPUs 1022-1023 of the host"), "{told}");
    }
}
