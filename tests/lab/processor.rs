//! One processor of this machine for each emulated host.
//!
//! QEMU 10.0 can lose interrupts where it emulates nested virtualization: with each exit of a nested
//! guest, its thread for the processor takes a bit from the word of pending interrupts by a plain `and`
//! (`do_vmexit`, target/i386/tcg), without the lock under which its other thread may be setting another
//! bit of that word. What is lost then may be the host's timer, and a host in which nothing else happens
//! stands still. Threads that share a processor take turns between two instructions and never within
//! one, so no bit is lost. They also find what they share in its cache: the demo is no slower.

use std::fs::File;
use std::path::Path;

use anyhow::{Context, Result};
use rustix::thread::{CpuSet, sched_getaffinity};

use crate::cache::{Cache, open_lock};

/// A processor for one host.
pub(crate) struct Processor {
    /// It alone, for whoever starts QEMU.
    pub set: CpuSet,
    /// Kept locked while a host is there; none where there are more hosts than processors.
    _taken: Option<File>,
}

impl Processor {
    /// Takes one that no other host has, of those that this process may use.
    pub fn take() -> Result<Self> {
        Self::take_in(&Cache::open()?.path("processors"))
    }

    /// With the locks in this folder.
    fn take_in(folder: &Path) -> Result<Self> {
        let usable = sched_getaffinity(None).context("cannot ask for the usable processors")?;
        let usable: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|cpu| usable.is_set(*cpu)).collect();
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot make {}", folder.display()))?;
        for cpu in &usable {
            let file = open_lock(&folder.join(cpu.to_string()))?;
            if file.try_lock().is_ok() {
                return Ok(Processor { set: alone(*cpu), _taken: Some(file) });
            }
        }
        let any = std::process::id() as usize % usable.len().max(1);
        let cpu = usable.get(any).context("this process may use no processor")?;
        Ok(Processor { set: alone(*cpu), _taken: None })
    }
}

fn alone(cpu: usize) -> CpuSet {
    let mut set = CpuSet::new();
    set.set(cpu);
    set
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn each_has_its_own_while_there_are_enough() {
        let usable = sched_getaffinity(None).expect("the usable processors");
        let folder = Scratch::new().expect("a folder");
        let take = |_| Processor::take_in(folder.path()).expect("a processor");
        let taken: Vec<Processor> = (0..=usable.count()).map(take).collect();
        for (at, one) in taken.iter().enumerate() {
            assert_eq!(one.set.count(), 1);
            let again = taken[..at].iter().any(|other| other.set == one.set);
            assert_eq!(again, at == usable.count() as usize, "the one that is one too many");
        }
    }
}
