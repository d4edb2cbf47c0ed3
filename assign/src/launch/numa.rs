//! Where a guest's memory comes from: `memory: {numa: N}` binds all of the VMM's memory to that node.
//! Where only the guest's devices prefer to be near it, it comes from their node while that has some.
//!
//! The policy is set in the process that becomes the VMM, between fork and exec, and is kept by both
//! (set_mempolicy(2)); the VMM itself need not know of it.

#![allow(unsafe_code)]

use std::io;

use sriov::HostRoot;
use sriov::facts::reader::Reader;

/// Nodes that fit the mask below; no kernel has more (`CONFIG_NODES_SHIFT` goes to 10).
const MOST_NODES: usize = 1024;
const BITS: usize = libc::c_ulong::BITS as usize;

/// A node of this host.
#[derive(Debug, Clone, Copy)]
pub struct Node {
    mask: [libc::c_ulong; MOST_NODES / BITS],
    /// Whether memory comes from no other node.
    demanded: bool,
}

impl Node {
    /// The node of this number.
    ///
    /// # Errors
    /// Why memory cannot be bound to it, for a sentence about the guest.
    pub fn find(root: &HostRoot, number: u32) -> Result<Node, String> {
        let directory = root.sys("devices/system/node");
        let nodes: Vec<u32> = Reader::new(root)
            .entries(&directory)
            .iter()
            .filter_map(|name| name.strip_prefix("node")?.parse().ok())
            .collect();
        if !nodes.contains(&number) {
            let mut nodes = nodes;
            nodes.sort_unstable();
            let has = match nodes.as_slice() {
                [] => "this host has no NUMA nodes".to_owned(),
                [only] => format!("this host has node {only} only"),
                nodes => {
                    let list: Vec<String> = nodes.iter().map(u32::to_string).collect();
                    format!("this host has nodes {}", list.join(", "))
                }
            };
            return Err(format!(
                "its memory is to come from node {number}, and {has}: it comes from anywhere"
            ));
        }
        let mut mask = [0; MOST_NODES / BITS];
        let number = usize::try_from(number).unwrap_or(usize::MAX);
        match mask.get_mut(number / BITS) {
            Some(word) => *word |= 1 << (number % BITS),
            None => return Err(format!("node {number} is beyond what the kernel can have")),
        }
        Ok(Node { mask, demanded: true })
    }

    /// The same as a wish: where it has no memory left, or never had any, others do.
    pub fn preferred(self) -> Node {
        Node { demanded: false, ..self }
    }

    /// Binds the memory of the calling process to this node, or prefers it. It neither allocates nor locks, so that
    /// it can be called between fork and exec.
    ///
    /// # Errors
    /// The kernel's, where the node is demanded: EINVAL where it has no memory, ENOSYS without NUMA.
    pub fn bind(&self) -> io::Result<()> {
        // The kernel reads one bit less than it is told (mm/mempolicy.c, `get_nodes`).
        let bits = MOST_NODES + 1;
        let mode = if self.demanded { libc::MPOL_BIND } else { libc::MPOL_PREFERRED };
        // SAFETY: set_mempolicy reads MOST_NODES bits from the mask, which is that long and lives
        // until the call returns, and touches no other memory of ours.
        let result =
            unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, self.mask.as_ptr(), bits) };
        if result == 0 || !self.demanded { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

#[cfg(test)]
mod tests {
    use sriov::recorded::Tree;

    use super::*;

    #[test]
    fn a_node_that_is_not_there_is_told_with_those_that_are() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let tree = Tree::new(directory.path());
        let told = |number| Node::find(&tree.root(), number).expect_err("no such node");
        assert!(told(0).contains("this host has no NUMA nodes"), "{}", told(0));
        tree.directory("sys/devices/system/node/node0");
        assert!(told(1).contains("this host has node 0 only"), "{}", told(1));
        tree.directory("sys/devices/system/node/node10");
        tree.directory("sys/devices/system/node/node2");
        assert!(told(1).contains("this host has nodes 0, 2, 10"), "{}", told(1));
        let node = Node::find(&tree.root(), 10).expect("a node");
        assert_eq!(node.mask[0], 1 << 10);
        assert!(node.mask[1..].iter().all(|word| *word == 0));
    }

    #[test]
    fn a_process_is_bound_where_the_kernel_has_nodes() {
        let root = HostRoot::at("/");
        let Ok(node) = Node::find(&root, 0) else { return };
        for (node, mode) in [(node, libc::MPOL_BIND), (node.preferred(), libc::MPOL_PREFERRED)] {
            match policy_of_a_thread(node) {
                Ok(found) => assert_eq!(found, (mode, 1)),
                // Containers forbid it by seccomp.
                Err(error) => {
                    assert!(matches!(error.raw_os_error(), Some(libc::EPERM | libc::ENOSYS)));
                }
            }
        }
    }

    /// What the kernel says of a thread after it was bound; on one of its own, since it is a thread's.
    fn policy_of_a_thread(node: Node) -> io::Result<(i32, libc::c_ulong)> {
        let bound = std::thread::spawn(move || {
            node.bind()?;
            let (mut mode, mut mask) = (0_i32, [0 as libc::c_ulong; MOST_NODES / BITS]);
            // SAFETY: get_mempolicy writes one int and MOST_NODES bits, to places that long.
            let result = unsafe {
                libc::syscall(
                    libc::SYS_get_mempolicy,
                    &raw mut mode,
                    mask.as_mut_ptr(),
                    MOST_NODES,
                    0_usize,
                    0_usize,
                )
            };
            if result == 0 { Ok((mode, mask[0])) } else { Err(io::Error::last_os_error()) }
        });
        bound.join().expect("a thread")
    }

    #[test]
    fn a_wish_for_a_node_without_memory_is_no_error() {
        let mut mask = [0; MOST_NODES / BITS];
        mask[MOST_NODES / BITS - 1] = 1;
        let node = Node { mask, demanded: true };
        // On a thread of its own, as above.
        let ends = std::thread::spawn(move || (node.bind().is_err(), node.preferred().bind()));
        let (demanded, preferred) = ends.join().expect("a thread");
        assert!(demanded);
        preferred.expect("a wish");
    }
}
