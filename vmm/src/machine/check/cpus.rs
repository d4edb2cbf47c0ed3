//! The same of a guest's CPUs.

use std::collections::HashSet;

use crate::spec::{Bound, Cpus, LAST_HOST_CPU, MAX_CPUS, Topology};

/// Refuses what cannot be, and says what it is.
pub fn check(cpus: &Cpus) -> Result<(), String> {
    let count = cpus.count;
    if count == 0 || count > MAX_CPUS {
        return Err(format!("{count} CPUs; 1 to {MAX_CPUS} are possible"));
    }
    if let Some(Topology { sockets, cores, threads }) = cpus.topology {
        let all = [sockets, cores, threads].map(u32::from).iter().product::<u32>();
        if all != u32::from(count) {
            return Err(format!(
                "{sockets} sockets of {cores} cores of {threads} threads are {all} CPUs, not {count}"
            ));
        }
    }
    let mut numbers = HashSet::new();
    for Bound { vcpu, to } in &cpus.bound {
        if *vcpu >= count {
            return Err(format!("CPU {vcpu} is bound, of {count}"));
        }
        if !numbers.insert(vcpu) {
            return Err(format!("CPU {vcpu} is bound twice"));
        }
        let is_range = |first, last| first <= last && last <= LAST_HOST_CPU;
        if to.is_empty() || !to.iter().all(|cpus| is_range(cpus.first, cpus.last)) {
            return Err(format!(
                "CPU {vcpu} is bound to nothing; CPUs of the host from 0 to {LAST_HOST_CPU} are possible"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::HostCpus;

    fn bound(vcpu: u8, ranges: &[(u16, u16)]) -> Bound {
        Bound { vcpu, to: ranges.iter().map(|&(first, last)| HostCpus { first, last }).collect() }
    }

    #[test]
    fn cpus_that_cannot_be_are_refused() {
        let cpus = |count, bound: &[Bound]| Cpus { bound: bound.to_vec(), ..Cpus::count(count) };
        let last = bound(63, &[(0, 0), (5, LAST_HOST_CPU)]);
        assert_eq!(check(&cpus(64, &[last, bound(0, &[(0, 0)])])), Ok(()));
        let lying = |sockets, cores, threads| Cpus {
            topology: Some(Topology { sockets, cores, threads }),
            ..Cpus::count(4)
        };
        assert_eq!(check(&lying(1, 2, 2)), Ok(()));
        for (cpus, expected) in [
            (lying(1, 2, 1), "1 sockets of 2 cores of 1 threads are 2 CPUs, not 4"),
            (lying(0, 2, 2), "are 0 CPUs, not 4"),
            (lying(255, 255, 255), "are 16581375 CPUs, not 4"),
            (cpus(0, &[]), "0 CPUs; 1 to 64"),
            (cpus(65, &[]), "65 CPUs; 1 to 64"),
            (cpus(2, &[bound(2, &[(0, 0)])]), "CPU 2 is bound, of 2"),
            (cpus(2, &[bound(1, &[(0, 0)]), bound(1, &[(1, 1)])]), "CPU 1 is bound twice"),
            (cpus(2, &[bound(1, &[])]), "CPU 1 is bound to nothing"),
            (cpus(2, &[bound(0, &[(1, 0)])]), "CPU 0 is bound to nothing"),
            (cpus(2, &[bound(0, &[(0, LAST_HOST_CPU + 1)])]), "from 0 to 1023"),
        ] {
            let refused = check(&cpus).expect_err(expected);
            assert!(refused.contains(expected), "{refused}");
        }
    }
}
