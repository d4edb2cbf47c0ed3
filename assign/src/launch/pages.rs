//! Whether a host has the pages that a guest's memory is to be made of: `memory: {pages: …, merge: …}`.
//!
//! Huge pages come from a pool that the host's administrator sets apart (hugetlb,
//! Documentation/admin-guide/mm/hugetlbpage.rst). The VMM takes them; here it is told before anything is
//! touched that there are too few, and what to do.

use std::collections::BTreeMap;

use policies::{Guest, Memory};
use sriov::HostRoot;
use sriov::facts::reader::Reader;

use crate::failure::{Failure, OwnReason};

/// Huge pages of one size, on a node or on all.
struct Pool {
    /// Where it is made larger: below `/sys`.
    directory: String,
    /// How many are set apart.
    total: u64,
    /// How many nobody has, nor was promised.
    free: u64,
}

/// Refuses a guest for whose memory too few huge pages are free.
///
/// # Errors
/// Names how many are needed and how many there are, and how to have more.
pub fn check(root: &HostRoot, guest: &Guest) -> Result<(), Failure> {
    let Memory { size, numa, pages, nodes, .. } = &guest.memory;
    let Some(page) = pages.huge() else { return Ok(()) };
    let parts: BTreeMap<Option<u32>, u64> = match nodes.is_empty() {
        true => [(*numa, *size)].into(),
        false => nodes.iter().fold(BTreeMap::new(), |mut parts, node| {
            *parts.entry(node.numa).or_default() += node.size;
            parts
        }),
    };
    for (node, size) in parts {
        check_part(root, guest, page, size, node)?;
    }
    // What comes from anywhere comes from what the others leave.
    check_part(root, guest, page, *size, None)
}

/// The same of a part of its memory, in bytes, that comes from this node.
fn check_part(
    root: &HostRoot,
    guest: &Guest,
    page: u64,
    size: u64,
    node: Option<u32>,
) -> Result<(), Failure> {
    let (needed, word) = (size / page, guest.memory.pages.word());
    let failed = |message| Failure::failed(OwnReason::HugePages, &guest.name, message);
    let node = node.filter(|node| root.sys(&format!("devices/system/node/node{node}")).exists());
    let Some(pool) = pool(root, page, node) else {
        let message = format!("this host has no pages of {word} for its memory");
        return Err(failed(message).with_remedy(
            "Its CPU or its kernel cannot have them: write another size, or `pages: transparent`.",
        ));
    };
    if needed <= pool.free {
        return Ok(());
    }
    let on = node.map(|node| format!(" on node {node}")).unwrap_or_default();
    let plural = if needed == 1 { "" } else { "s" };
    let message = format!(
        "needs {needed} page{plural} of {word}, and {} of the {} that this host has set apart{on} {} free",
        pool.free,
        pool.total,
        if pool.free == 1 { "is" } else { "are" }
    );
    let enough = pool.total + (needed - pool.free);
    Err(failed(message).with_remedy(format!(
        "`echo {enough} > /sys/{}/nr_hugepages` sets enough apart, as far as memory is in one piece: best \
         done early after boot. Or write `pages: transparent`.",
        pool.directory
    )))
}

/// The pool of pages of so many bytes; none where the host has no such pages.
fn pool(root: &HostRoot, page: u64, node: Option<u32>) -> Option<Pool> {
    let mut reader = Reader::new(root);
    let mut number = |directory: &str, name: &str| {
        reader.number::<u64>(&root.sys(directory).join(name)).unwrap_or_default()
    };
    let name = format!("hugepages-{}kB", page >> 10);
    let all = format!("kernel/mm/hugepages/{name}");
    if !root.sys(&all).exists() {
        return None;
    }
    let promised = number(&all, "resv_hugepages");
    // The kernel makes these when they are asked for, where it can.
    let surplus =
        number(&all, "nr_overcommit_hugepages").saturating_sub(number(&all, "surplus_hugepages"));
    let free = (number(&all, "free_hugepages") + surplus).saturating_sub(promised);
    let directory = match node {
        Some(node) => format!("devices/system/node/node{node}/hugepages/{name}"),
        None => all,
    };
    let of_node = number(&directory, "free_hugepages") + surplus;
    let total = number(&directory, "nr_hugepages");
    Some(Pool { directory, total, free: if node.is_some() { free.min(of_node) } else { free } })
}

/// What keeps the memory of `guest` from being shared, although its document wants that.
pub fn unmerged(root: &HostRoot, guest: &Guest) -> Option<String> {
    if !guest.memory.merge {
        return None;
    }
    let run = root.sys("kernel/mm/ksm/run");
    match Reader::new(root).number::<u64>(&run) {
        Some(1) => None,
        Some(_) => Some(
            "its memory is shared with nobody, since this host's KSM does not run: `echo 1 > \
             /sys/kernel/mm/ksm/run` starts it"
                .to_owned(),
        ),
        None => Some("its memory is shared with nobody: this host's kernel has no KSM".to_owned()),
    }
}

/// Refuses a device for a running guest whose memory may be shared, or given back.
///
/// # Errors
/// Where it may.
pub fn may_pin(guest: &Guest) -> Result<(), Failure> {
    let Memory { merge, balloon, .. } = guest.memory;
    let (reason, why, field) = match (merge, balloon) {
        (false, false) => return Ok(()),
        (true, _) => (OwnReason::MemoryShared, "lets the host share", "merge"),
        (false, true) => (OwnReason::MemoryGivenBack, "lets the host have back", "balloon"),
    };
    let message = format!(
        "can have no device: one pins all of the guest's memory, which its document {why} ({field}: true)"
    );
    Err(Failure::refused(reason, &guest.name, message)
        .with_remedy(format!("Write `{field}: false` in its document, and start it again.")))
}

#[cfg(test)]
mod tests {
    use sriov::recorded::Tree;

    use super::*;

    const HUGE: &str = "sys/kernel/mm/hugepages/hugepages-2048kB";

    fn guest(memory: &str) -> Guest {
        let text = format!(
            "apiVersion: assign/v1\nkind: Guest\nmetadata: {{name: web-1}}\nspec: {{memory: {memory}, \
             boot: {{kernel: k}}}}\n"
        );
        let source = policies::Source { name: "guest.yaml".to_owned(), text };
        policies::parse(&[source]).unwrap_or_else(|errors| panic!("{errors}")).guests.remove(0)
    }

    fn numbers(tree: &Tree, directory: &str, numbers: [(&str, u64); 5]) {
        for (name, number) in numbers {
            tree.file(&format!("{directory}/{name}"), &format!("{number}\n"));
        }
    }

    fn pool_of(total: u64, free: u64, promised: u64, most: u64) -> [(&'static str, u64); 5] {
        [
            ("nr_hugepages", total),
            ("free_hugepages", free),
            ("resv_hugepages", promised),
            ("nr_overcommit_hugepages", most),
            ("surplus_hugepages", 0),
        ]
    }

    #[test]
    fn too_few_huge_pages_are_told_with_how_to_have_more() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let tree = Tree::new(directory.path());
        let told = |guest: &Guest| check(&tree.root(), guest).map_err(|error| error.to_string());
        let wants = guest("{size: 64MiB, pages: 2MiB}");
        check(&tree.root(), &guest("{size: 64MiB}")).expect("nothing is needed");
        let error = told(&wants).expect_err("no such pages");
        assert!(error.contains("web-1: this host has no pages of 2MiB"), "{error}");

        numbers(&tree, HUGE, pool_of(40, 40, 9, 0));
        let error = told(&wants).expect_err("31 are left");
        let message = "web-1: needs 32 pages of 2MiB, and 31 of the 40 that this host has set apart are \
                       free. `echo 41 > /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages` sets";
        assert!(error.starts_with(message), "{error}");
        numbers(&tree, HUGE, pool_of(40, 40, 9, 1));
        told(&wants).expect("one more can be made");
        numbers(&tree, HUGE, pool_of(40, 40, 8, 0));
        told(&wants).expect("32 are left");

        let near = guest("{size: 64MiB, pages: 2MiB, numa: 1}");
        told(&near).expect(
            "a node that is not there is told elsewhere, and its memory comes from anywhere",
        );
        let node = "sys/devices/system/node/node1/hugepages/hugepages-2048kB";
        numbers(&tree, node, pool_of(20, 20, 0, 0));
        let error = told(&near).expect_err("20 are there");
        let message = "needs 32 pages of 2MiB, and 20 of the 20 that this host has set apart on node 1 are \
                       free. `echo 32 > /sys/devices/system/node/node1/hugepages/hugepages-2048kB/nr_";
        assert!(error.contains(message), "{error}");
    }

    #[test]
    fn memory_that_is_shared_with_nobody_is_told() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let tree = Tree::new(directory.path());
        let shared = guest("{size: 64MiB, merge: true}");
        let told = |guest: &Guest| unmerged(&tree.root(), guest);
        assert_eq!(told(&guest("{size: 64MiB}")), None);
        assert!(told(&shared).is_some_and(|told| told.ends_with("has no KSM")));
        tree.file("sys/kernel/mm/ksm/run", "0\n");
        assert!(told(&shared).is_some_and(|told| told.contains("KSM does not run: `echo 1")));
        tree.file("sys/kernel/mm/ksm/run", "1\n");
        assert_eq!(told(&shared), None);
        may_pin(&guest("{size: 64MiB}")).expect("memory that may be pinned");
        for (memory, field) in
            [("balloon: true", "balloon"), ("merge: true, balloon: true", "merge")]
        {
            let refused = may_pin(&guest(&format!("{{size: 64MiB, {memory}}}")));
            let refused = refused.expect_err("memory that may not").to_string();
            assert!(
                refused.contains(&format!("({field}: true). Write `{field}: false`")),
                "{refused}"
            );
        }
    }
}
