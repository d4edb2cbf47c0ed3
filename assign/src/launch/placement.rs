//! Which CPUs of the host a guest's threads run on: `cpus: {pin: …, emulator: …}`.
//!
//! ```text
//! the process    before it becomes the VMM: what `emulator` names, or else the node that its memory
//!                comes from; all its threads begin there
//! a vCPU         its thread itself, before it runs: what `pin` names for it, or else the host's node that
//!                its own node is on, or else, where that is not to be what `emulator` names, the node of
//!                all memory, or wherever this process may run
//! ```
//! A node is a wish: one without CPUs, or of which we may not run on any, is left out.

use std::collections::BTreeMap;
use std::io;

use policies::{Cpus, Guest};
use rustix::thread::CpuSet as Mask;
use sriov::HostRoot;
use sriov::facts::platform::CpuSet;
use sriov::facts::reader::Reader;
use vmm::spec::{Bound, HostCpus};

use crate::failure::{Failure, OwnReason};

/// Where the threads of one guest run.
#[derive(Debug, Clone, Default)]
pub struct Placement {
    /// Where its process runs; `None`: where we do.
    pub process: Option<Affinity>,
    /// The vCPUs that run elsewhere.
    pub bound: Vec<Bound>,
}

/// CPUs for a process that is being made.
#[derive(Debug, Clone, Copy)]
pub struct Affinity {
    mask: Mask,
    /// Whether it runs nowhere else.
    demanded: bool,
}

impl Affinity {
    fn to(cpus: &CpuSet, demanded: bool) -> Affinity {
        let mut mask = Mask::new();
        for cpu in cpus.iter().filter_map(|cpu| usize::try_from(cpu).ok()) {
            // The language goes no further.
            if cpu < Mask::MAX_CPU {
                mask.set(cpu);
            }
        }
        Affinity { mask, demanded }
    }

    /// Has the calling process run there. It neither allocates nor locks, so that it can be called
    /// between fork and exec.
    ///
    /// # Errors
    /// The kernel's, where it is demanded: EINVAL where no such CPU is online, or in our cpuset.
    pub fn bind(&self) -> io::Result<()> {
        match rustix::thread::sched_setaffinity(None, &self.mask) {
            Err(error) if self.demanded => Err(error.into()),
            _ => Ok(()),
        }
    }
}

impl Placement {
    /// Of `guest`, all of whose memory comes from this node.
    ///
    /// # Errors
    /// The kernel's, where it does not say where we run.
    pub fn of(root: &HostRoot, guest: &Guest, node: Option<u32>) -> io::Result<Placement> {
        let Guest { cpus, memory, .. } = guest;
        let named = memory.nodes.iter().any(|node| node.numa.is_some());
        let all_pinned = cpus.pin.len() == usize::from(cpus.count);
        let nothing_near = node.is_none() && !named && cpus.emulator.is_none();
        if all_pinned && cpus.emulator.is_some() || nothing_near {
            return Ok(Placement::choose(cpus, &Near::default(), None));
        }
        let own = own()?;
        let of = |node| Some(of_node(root, node, &own)).filter(|near| !near.is_empty());
        let mut near = Near { all: node.and_then(of), each: BTreeMap::new() };
        for node in &memory.nodes {
            let Some(cpus) = node.numa.and_then(of) else { continue };
            let vcpus = node.cpus.iter().filter_map(|vcpu| u8::try_from(vcpu).ok());
            near.each.extend(vcpus.map(|vcpu| (vcpu, cpus.clone())));
        }
        Ok(Placement::choose(cpus, &near, Some(own)))
    }

    /// `own` are the CPUs that this process may run on.
    fn choose(cpus: &Cpus, near: &Near, own: Option<CpuSet>) -> Placement {
        let process = match (&cpus.emulator, &near.all) {
            (Some(emulator), _) => Some(Affinity::to(emulator, true)),
            (None, near) => near.as_ref().map(|near| Affinity::to(near, false)),
        };
        // Only those of `emulator` are to be left.
        let others = cpus.emulator.as_ref().and(near.all.as_ref().or(own.as_ref()));
        let bound = (0..cpus.count).filter_map(|vcpu| {
            let to = cpus.pin.get(&vcpu).or_else(|| near.each.get(&vcpu)).or(others)?;
            Some(Bound { vcpu, to: ranges(to) })
        });
        Placement { process, bound: bound.collect() }
    }
}

/// CPUs of the host that are near to the guest's memory.
#[derive(Debug, Clone, Default)]
struct Near {
    /// To all of it.
    all: Option<CpuSet>,
    /// To that of the guest's node which a vCPU is in, by the vCPU.
    each: BTreeMap<u8, CpuSet>,
}

/// Those of our `own` CPUs that are of this node, without those that the scheduler is to leave alone:
/// these are for whoever names them.
fn of_node(root: &HostRoot, node: u32, own: &CpuSet) -> CpuSet {
    let mut reader = Reader::new(root);
    let of_node = list(&mut reader, &format!("node/node{node}/cpulist"));
    let elsewhere = own.without(&of_node);
    let isolated = list(&mut reader, "cpu/isolated");
    own.without(&elsewhere).without(&isolated)
}

/// A list of CPUs among the system's devices; one that cannot be read is empty.
fn list(reader: &mut Reader<'_>, name: &str) -> CpuSet {
    let path = reader.root.sys("devices/system").join(name);
    reader.text(&path).and_then(|text| text.parse().ok()).unwrap_or_default()
}

/// Where this process may run.
fn own() -> io::Result<CpuSet> {
    let mask = rustix::thread::sched_getaffinity(None)?;
    let cpus = (0..Mask::MAX_CPU).filter(|cpu| mask.is_set(*cpu));
    Ok(cpus.filter_map(|cpu| u32::try_from(cpu).ok()).map(|cpu| cpu..=cpu).collect())
}

fn ranges(cpus: &CpuSet) -> Vec<HostCpus> {
    let number = |cpu: &u32| u16::try_from(*cpu).unwrap_or(u16::MAX);
    let range = |range: &std::ops::RangeInclusive<u32>| HostCpus {
        first: number(range.start()),
        last: number(range.end()),
    };
    cpus.ranges().iter().map(range).collect()
}

/// Which CPUs a host has.
#[derive(Debug, Clone, Default)]
pub struct Present {
    /// Those that run.
    pub online: CpuSet,
    /// Those that are there and do not.
    pub offline: CpuSet,
}

/// How many CPUs of a host run; `None` where it does not tell.
pub fn online(root: &HostRoot) -> Option<u32> {
    let online = list(&mut Reader::new(root), "cpu/online").count();
    (online > 0).then_some(online)
}

/// Refuses a guest that is to run where the host has no CPU. The host is looked at only where the
/// guest's document names CPUs of it.
///
/// # Errors
/// Names the CPU, why nothing can run on it, and the remedy.
pub fn check(root: &HostRoot, guest: &Guest) -> Result<(), Failure> {
    if guest.cpus.pin.is_empty() && guest.cpus.emulator.is_none() {
        return Ok(());
    }
    let mut reader = Reader::new(root);
    let online = list(&mut reader, "cpu/online");
    let offline = list(&mut reader, "cpu/present").without(&online);
    absent(guest, &Present { online, offline }).map_or(Ok(()), Err)
}

/// The same from what is known of a host. Of one that does not tell which CPUs it has, nothing is
/// refused: the kernel does that.
pub fn absent(guest: &Guest, host: &Present) -> Option<Failure> {
    let Present { online, offline } = host;
    if online.is_empty() {
        return None;
    }
    let Cpus { pin, emulator, .. } = &guest.cpus;
    let pinned = pin.iter().map(|(vcpu, to)| (Some(vcpu), to));
    let mut wanted = pinned.chain(emulator.as_ref().map(|to| (None, to)));
    let (vcpu, cpu) = wanted
        .find_map(|(vcpu, to)| Some((vcpu, to.iter().find(|cpu| !online.contains(*cpu))?)))?;
    let (who, field) = match vcpu {
        Some(vcpu) => (format!("vCPU {vcpu}"), format!("`cpus: {{pin: {{{vcpu}: …}}}}`")),
        None => ("all but its vCPUs".to_owned(), "`cpus: {emulator: …}`".to_owned()),
    };
    let what = format!("{who} cannot run on CPU {cpu} of this host, which");
    let reason = OwnReason::NoSuchCpu;
    Some(match offline.contains(cpu) {
        true => Failure::failed(reason, &guest.name, format!("{what} is offline")).with_remedy(
            format!(
                "Bring it online (`echo 1 > /sys/devices/system/cpu/cpu{cpu}/online`), or name another \
                 in {field} of its document: {online} are."
            ),
        ),
        false => Failure::bad_input(reason, &guest.name, format!("{what} does not have it"))
            .with_remedy(format!("Name others in {field} of its document: there are {online}.")),
    })
}

#[cfg(test)]
mod tests {
    use sriov::recorded::Tree;

    use super::*;

    fn guest(cpus: &str) -> Guest {
        let text = format!(
            "apiVersion: assign/v1\nkind: Guest\nmetadata: {{name: web-1}}\nspec: {{cpus: {cpus}, memory: \
             {{size: 64MiB}}, boot: {{kernel: k}}}}\n"
        );
        let source = policies::Source { name: "guest.yaml".to_owned(), text };
        policies::parse(&[source]).unwrap_or_else(|errors| panic!("{errors}")).guests.remove(0)
    }

    fn set(text: &str) -> CpuSet {
        text.parse().expect("a list of CPUs")
    }

    #[test]
    fn nothing_is_asked_for_where_nothing_is_said() {
        let root = HostRoot::at("/nowhere");
        let placement = Placement::of(&root, &guest("{count: 64}"), None).expect("no call is made");
        assert!(placement.process.is_none() && placement.bound.is_empty());
    }

    #[test]
    fn each_vcpu_goes_where_it_is_pinned_and_the_others_leave_the_emulators_cpus() {
        let bound = |placement: Placement| -> Vec<(u8, Vec<(u16, u16)>)> {
            let ranges = |to: Vec<HostCpus>| to.iter().map(|to| (to.first, to.last)).collect();
            placement.bound.into_iter().map(|bound| (bound.vcpu, ranges(bound.to))).collect()
        };
        let pinned = guest("{count: 3, pin: {2: 5, 0: \"0,2-3\"}}").cpus;
        let expected = [(0, vec![(0, 0), (2, 3)]), (2, vec![(5, 5)])];
        assert_eq!(bound(Placement::choose(&pinned, &Near::default(), None)), expected);

        let both = guest("{count: 2, pin: {0: 1}, emulator: 0}");
        let placement = Placement::choose(&both.cpus, &Near::default(), Some(set("0-7")));
        let process = placement.process.expect("the emulator's");
        assert!(process.mask.count() == 1 && process.mask.is_set(0));
        assert_eq!(bound(placement), [(0, vec![(1, 1)]), (1, vec![(0, 7)])]);
        let own = own().expect("this process runs somewhere");
        assert!(!own.is_empty());
        let placement = Placement::of(&HostRoot::at("/nowhere"), &both, None);
        let unpinned = placement.expect("it is known where we run").bound.remove(1);
        assert_eq!(unpinned.to, ranges(&own));
    }

    #[test]
    fn a_guest_runs_on_the_cpus_of_its_memorys_node() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let tree = Tree::new(directory.path());
        tree.file("sys/devices/system/node/node0/cpulist", "0-3,8-11\n");
        tree.file("sys/devices/system/node/node1/cpulist", "\n");
        tree.file("sys/devices/system/cpu/isolated", "2-3\n");
        let near = |node| of_node(&tree.root(), node, &set("1-10")).to_string();
        assert_eq!((near(0).as_str(), near(1).as_str(), near(2).as_str()), ("1,8-10", "", ""));

        let of = |cpus: &str, near: Option<&str>| {
            let placement = Placement::choose(
                &guest(cpus).cpus,
                &Near { all: near.map(set), each: BTreeMap::new() },
                Some(set("0-15")),
            );
            let process = placement.process.map(|process| {
                let cpus = (0..Mask::MAX_CPU).filter(|cpu| process.mask.is_set(*cpu));
                (cpus.collect::<Vec<_>>(), process.demanded)
            });
            let bound: Vec<(u8, u16)> =
                placement.bound.iter().map(|bound| (bound.vcpu, bound.to[0].first)).collect();
            (process, bound)
        };
        // All threads of the process, with no call by the vCPUs.
        assert_eq!(of("{count: 2}", Some("4-5")), (Some((vec![4, 5], false)), vec![]));
        assert_eq!(of("{count: 2}", None), (None, vec![]));
        let pinned = "{count: 2, pin: {1: 9}}";
        assert_eq!(of(pinned, Some("4-5")), (Some((vec![4, 5], false)), vec![(1, 9)]));
        let apart = "{count: 2, pin: {1: 9}, emulator: 0}";
        assert_eq!(of(apart, Some("4-5")), (Some((vec![0], true)), vec![(0, 4), (1, 9)]));
    }

    #[test]
    fn a_vcpu_runs_near_the_node_that_it_is_in() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let tree = Tree::new(directory.path());
        // This process may run on the first CPU of any machine of tests, or nobody could tell.
        let own = own().expect("this process runs somewhere");
        tree.file("sys/devices/system/node/node4/cpulist", &format!("{own}\n"));
        let text = "apiVersion: assign/v1\nkind: Guest\nmetadata: {name: web-1}\nspec: {cpus: {count: 4, \
                    pin: {1: 9}}, memory: {nodes: [{size: 64MiB, cpus: \"0-1\", numa: 4}, {size: 64MiB, \
                    cpus: 2, numa: 5}, {size: 64MiB, cpus: 3}]}, boot: {kernel: k}}\n";
        let source = policies::Source { name: "guest.yaml".to_owned(), text: text.to_owned() };
        let guest = policies::parse(&[source]).expect("a good document").guests.remove(0);
        let placement = Placement::of(&tree.root(), &guest, None).expect("it is known");
        assert!(placement.process.is_none());
        let bound: Vec<_> = placement.bound.into_iter().map(|one| (one.vcpu, one.to)).collect();
        assert_eq!(bound, [(0, ranges(&own)), (1, ranges(&set("9")))]);
    }

    #[test]
    fn cpus_that_are_not_there_or_do_not_run_are_told_with_what_to_do() {
        let host = Present { online: set("0-3,8"), offline: set("4-7") };
        let told = |cpus| absent(&guest(cpus), &host).map(|failure| failure.to_string());
        assert_eq!(told("{count: 2, pin: {0: 2, 1: \"0-3,8\"}, emulator: 8}"), None);
        assert_eq!(
            told("{count: 2, pin: {0: 2, 1: \"2-3,9\"}}").as_deref(),
            Some(
                "web-1: vCPU 1 cannot run on CPU 9 of this host, which does not have it. Name others in \
                 `cpus: {pin: {1: …}}` of its document: there are 0-3,8."
            )
        );
        assert_eq!(
            told("{count: 2, emulator: \"0-7\"}").as_deref(),
            Some(
                "web-1: all but its vCPUs cannot run on CPU 4 of this host, which is offline. Bring it \
                 online (`echo 1 > /sys/devices/system/cpu/cpu4/online`), or name another in `cpus: \
                 {emulator: …}` of its document: 0-3,8 are."
            )
        );
    }

    #[test]
    fn the_host_is_asked_which_cpus_it_has() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let tree = Tree::new(directory.path());
        let pinned = guest("{count: 1, pin: {0: 2}}");
        check(&tree.root(), &pinned).expect("nothing is known of this host");
        tree.file("sys/devices/system/cpu/online", "0-1\n");
        tree.file("sys/devices/system/cpu/present", "0-2\n");
        let refused = check(&tree.root(), &pinned).expect_err("it does not run");
        assert_eq!((refused.exit_code(), refused.message.contains("is offline")), (1, true));
        tree.file("sys/devices/system/cpu/present", "0-1\n");
        let refused = check(&tree.root(), &pinned).expect_err("it is not there");
        assert_eq!(refused.exit_code(), 2, "{refused}");
        check(&tree.root(), &guest("{count: 8}")).expect("it asks for none");
    }
}
