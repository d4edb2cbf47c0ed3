//! Whether a host's CPUs can be what a guest's are to be: `cpus: {model: …}`.
//!
//! The host's `/proc/cpuinfo` is looked at only where a guest asks for a baseline. What KVM supports of
//! it, the VMM looks at once more.

use policies::{CpuModel, Guest};
use sriov::HostRoot;
use sriov::facts::platform::evidence::first_cpu;
use sriov::facts::reader::Reader;
use vmm::spec::Model;

use super::spec::model;
use crate::failure::{Failure, OwnReason};

/// Refuses a guest whose model has what this host lacks.
///
/// # Errors
/// Names what is missing, and the remedy.
pub fn check(root: &HostRoot, guest: &Guest) -> Result<(), Failure> {
    if guest.cpus.model == CpuModel::Host {
        return Ok(());
    }
    let info = first_cpu(&mut Reader::new(root));
    match info.flags("flags") {
        Some(has) => lacking(guest, &has).map_or(Ok(()), Err),
        // The VMM finds out.
        None => Ok(()),
    }
}

fn lacking(guest: &Guest, has: &[&str]) -> Option<Failure> {
    let model = model(guest.cpus.model);
    let missing = missing(model, has);
    if missing.is_empty() {
        return None;
    }
    let levels = [Model::V3, Model::V2].into_iter();
    let best =
        levels.filter(|level| *level < model).find(|level| self::missing(*level, has).is_empty());
    let instead = match best {
        Some(best) => format!("{}, which it has, or host", best.name()),
        None => "host".to_owned(),
    };
    let message = format!(
        "its CPUs cannot be {}: those of this host lack {}",
        model.name(),
        missing.join(", ")
    );
    let remedy =
        format!("Write `cpus: {{model: …}}` with {instead}; or run it on a host that has these.");
    Some(Failure::failed(OwnReason::CpuModel, &guest.name, message).with_remedy(remedy))
}

fn missing(model: Model, has: &[&str]) -> Vec<&'static str> {
    model.needs().filter(|name| !has.contains(name)).collect()
}

#[cfg(test)]
mod tests {
    use sriov::recorded::Tree;

    use super::*;

    fn guest(model: &str) -> Guest {
        let text = format!(
            "apiVersion: assign/v1\nkind: Guest\nmetadata: {{name: web-1}}\nspec: {{cpus: {{count: 1, \
             model: {model}}}, memory: {{size: 64MiB}}, boot: {{kernel: k}}}}\n"
        );
        let source = policies::Source { name: "guest.yaml".to_owned(), text };
        policies::parse(&[source]).unwrap_or_else(|errors| panic!("{errors}")).guests.remove(0)
    }

    #[test]
    fn what_a_host_lacks_is_told_with_what_it_has() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let tree = Tree::new(directory.path());
        let told =
            |model| check(&tree.root(), &guest(model)).map_err(|failure| failure.to_string());
        assert_eq!(told("x86-64-v4"), Ok(()), "nothing is known of this host");
        let v2 = "fpu cx16 lahf_lm pni popcnt sse4_1 sse4_2 ssse3";
        let v3 = "abm avx avx2 bmi1 bmi2 f16c fma movbe xsave";
        tree.file("proc/cpuinfo", &format!("processor\t: 0\nflags\t\t: {v2} {v3} avx512f\n\n"));
        assert_eq!((told("host"), told("x86-64-v3")), (Ok(()), Ok(())));
        assert_eq!(
            told("x86-64-v4").as_ref().map_err(String::as_str),
            Err(
                "web-1: its CPUs cannot be x86-64-v4: those of this host lack avx512bw, avx512cd, avx512dq, \
                 avx512vl. Write `cpus: {model: …}` with x86-64-v3, which it has, or host; or run it on a \
                 host that has these."
            )
        );
        tree.file("proc/cpuinfo", "processor\t: 0\nflags\t\t: fpu cx16\n\n");
        let refused = told("x86-64-v2").expect_err("it has nearly nothing");
        assert!(refused.contains("with host; or"), "{refused}");
    }
}
