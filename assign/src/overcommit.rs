//! vCPUs that outnumber the host's CPUs: allowed, and told.

/// "4 vCPUs share the 2 CPUs of this host".
pub fn told(vcpus: u32, host_cpus: u32) -> String {
    let cpus = if host_cpus == 1 { "1 CPU" } else { &format!("{host_cpus} CPUs") };
    format!("{vcpus} vCPUs share the {cpus} of this host")
}

/// What to say where guests have `vcpus` together.
pub fn of_all(vcpus: u32, host_cpus: Option<u32>) -> Option<String> {
    let host_cpus = host_cpus.filter(|host_cpus| *host_cpus < vcpus)?;
    Some(format!("note: overcommitted: {}", told(vcpus, host_cpus)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_more_than_there_are_is_told() {
        let told = |vcpus, host_cpus| of_all(vcpus, host_cpus);
        assert_eq!((told(4, Some(4)), told(4, None), told(0, Some(1))), (None, None, None));
        assert_eq!(
            told(5, Some(4)).as_deref(),
            Some("note: overcommitted: 5 vCPUs share the 4 CPUs of this host")
        );
        assert!(told(2, Some(1)).is_some_and(|told| told.ends_with("the 1 CPU of this host")));
    }
}
