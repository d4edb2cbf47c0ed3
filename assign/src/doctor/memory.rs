//! Memory for guests: a device reaches all of its guest's memory at any time, so that all of it is
//! pinned.

use sriov::facts::platform::memory::{KsmState, Overcommit};
use sriov::facts::platform::{HugePages, Memory};

use super::{Facts, Finding};

/// Less than this is too little for a host and a guest.
const LITTLE: u64 = 256 << 20;
/// What a small guest needs to lock.
const SMALL_GUEST: u64 = 512 << 20;

/// What there is, in which pages, and what takes it away.
pub fn findings(facts: Facts) -> Vec<Finding> {
    let memory = &facts.snapshot.platform.memory;
    let mut found = Vec::new();
    found.extend(available(memory));
    found.extend(lock_limit(facts));
    found.extend(huge_pages(memory));
    found.extend(transparent(memory));
    found.extend(ksm(memory));
    found.extend(swap(memory));
    found.extend(overcommit(memory));
    found
}

fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

fn available(memory: &Memory) -> Option<Finding> {
    let (total, available) = (memory.total?, memory.available?);
    let evidence = format!("{} of {} are available", mib(available), mib(total));
    if available < LITTLE {
        return Some(Finding::warning(
            "memory",
            "there is hardly any memory for guests",
            evidence,
            "End what is not needed, or give the machine more memory: a guest's memory is taken \
             whole while it has a device.",
        ));
    }
    Some(Finding::ok("memory", "there is memory for guests", evidence))
}

fn lock_limit(facts: Facts) -> Option<Finding> {
    let id = "lock-limit";
    let process = facts.snapshot.platform.process?;
    let limit = process.memlock.map_or("no limit".to_owned(), mib);
    let evidence = format!("RLIMIT_MEMLOCK is {limit}");
    if process.is_root() {
        let evidence = format!("{evidence}, and root is not held to it");
        return Some(Finding::ok(id, "guests' memory can be pinned", evidence));
    }
    if process.memlock.is_none_or(|limit| limit >= SMALL_GUEST) {
        return Some(Finding::ok(id, "guests' memory can be pinned", evidence));
    }
    Some(Finding::warning(
        id,
        "this user may pin hardly any memory",
        evidence,
        "Run assign as root, or raise the limit: `memlock` in /etc/security/limits.conf, or \
         LimitMEMLOCK=infinity in its systemd unit.",
    ))
}

fn huge_pages(memory: &Memory) -> Option<Finding> {
    let id = "huge-pages";
    let pools: Vec<&HugePages> = memory.pools().filter(|pool| pool.total > 0).collect();
    if pools.is_empty() {
        memory.pools().next()?;
        let evidence = "no pool has pages; guests that ask for 2 MiB or 1 GiB pages need one";
        return Some(Finding::ok(id, "no huge pages are set aside", evidence));
    }
    let told: Vec<String> = pools
        .iter()
        .map(|pool| format!("{} of {} pages of {} free", pool.free, pool.total, mib(pool.size)))
        .collect();
    let evidence = told.join(", ");
    if let Some(pool) = pools.iter().find(|pool| pool.free == 0) {
        return Some(Finding::warning(
            id,
            format!("no huge page of {} is free", mib(pool.size)),
            evidence,
            format!(
                "More: `echo N > /sys/kernel/mm/hugepages/hugepages-{}kB/nr_hugepages`, or at boot \
                 hugepagesz={} hugepages=N on the kernel command line.",
                pool.size >> 10,
                if pool.size >= 1 << 30 { "1G" } else { "2M" },
            ),
        ));
    }
    if let Some((node, size)) = empty_node(memory) {
        return Some(Finding::warning(
            id,
            format!("node {node} has no huge page of {} free", mib(size)),
            by_node(memory, size),
            format!(
                "A guest beside a device of that node gets none, or far ones. More: `cd \
                 /sys/devices/system/node/node{node}/hugepages/hugepages-{}kB && echo N > \
                 nr_hugepages`.",
                size >> 10
            ),
        ));
    }
    Some(Finding::ok(id, "huge pages are set aside", evidence))
}

fn by_node(memory: &Memory, size: u64) -> String {
    let pools = memory.huge_pages.iter().filter(|pool| pool.size == size);
    let told: Vec<String> = pools
        .filter_map(|pool| {
            Some(format!("node {}: {} of {} free", pool.node?, pool.free, pool.total))
        })
        .collect();
    told.join(", ")
}

/// A node without a free page of a size that others have.
fn empty_node(memory: &Memory) -> Option<(u32, u64)> {
    let of_nodes = || memory.huge_pages.iter().filter(|pool| pool.node.is_some());
    let empty = of_nodes().find(|pool| {
        pool.free == 0 && of_nodes().any(|other| other.size == pool.size && other.free > 0)
    })?;
    Some((empty.node?, empty.size))
}

fn transparent(memory: &Memory) -> Option<Finding> {
    let id = "transparent-huge-pages";
    let mode = memory.transparent_huge_pages.as_deref()?;
    let evidence = format!("/sys/kernel/mm/transparent_hugepage/enabled is {mode}");
    Some(match mode {
        "never" => Finding::warning(
            id,
            "guests' memory is in small pages only",
            evidence,
            "`echo madvise > /sys/kernel/mm/transparent_hugepage/enabled`: pinning a guest's \
             memory is several times faster in huge pages, and the guest too.",
        ),
        _ => Finding::ok(id, "guests' memory can be in huge pages", evidence),
    })
}

fn ksm(memory: &Memory) -> Option<Finding> {
    let (id, ksm) = ("samepage-merging", memory.ksm?);
    let merged = ksm.pages_sharing;
    let evidence = format!(
        "/sys/kernel/mm/ksm/run is {}",
        match ksm.state {
            KsmState::Stopped => "0",
            KsmState::Running => "1",
            KsmState::Unmerged => "2",
        }
    );
    Some(match ksm.state {
        KsmState::Running => Finding::warning(
            id,
            "the kernel merges equal pages of guests",
            format!("{evidence}, {merged} pages are spared"),
            "Pinned memory cannot be merged, so that a guest with a device gains nothing; between \
             guests it lets one find out what another has in memory. To stop it: `echo 2 > \
             /sys/kernel/mm/ksm/run`, and stop ksmtuned where it runs.",
        ),
        _ => Finding::ok(id, "equal pages of guests are not merged", evidence),
    })
}

fn swap(memory: &Memory) -> Option<Finding> {
    let (id, total) = ("swap", memory.swap_total?);
    let free = memory.swap_free.unwrap_or(total);
    if total == 0 {
        return Some(Finding::ok(id, "the host does not swap", "there is no swap space"));
    }
    let used = total.saturating_sub(free);
    let evidence = format!("{} of {} are in use", mib(used), mib(total));
    if used > total / 2 {
        return Some(Finding::warning(
            id,
            "the host swaps much",
            evidence,
            "Guests with devices keep their memory, so that all else is swapped instead. Run fewer \
             guests, or smaller ones.",
        ));
    }
    Some(Finding::ok(id, "there is swap space, and it is mostly free", evidence))
}

fn overcommit(memory: &Memory) -> Option<Finding> {
    let id = "overcommit";
    if memory.overcommit? != Overcommit::Never {
        return Some(Finding::ok(
            id,
            "the kernel promises memory freely",
            "/proc/sys/vm/overcommit_memory is not 2",
        ));
    }
    let left = memory.commit_limit?.saturating_sub(memory.committed?);
    let evidence = format!("/proc/sys/vm/overcommit_memory is 2, and {} are left", mib(left));
    if left >= SMALL_GUEST {
        return Some(Finding::ok(id, "the kernel counts its promises of memory", evidence));
    }
    Some(Finding::warning(
        id,
        "the kernel will not promise guests their memory",
        evidence,
        "Raise vm.overcommit_ratio with sysctl, or set vm.overcommit_memory to 0.",
    ))
}
