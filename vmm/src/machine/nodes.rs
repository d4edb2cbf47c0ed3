//! The guest's NUMA nodes: which part of RAM belongs to each, and from which node of the host it comes.
//!
//! Nodes have RAM in their order, from the bottom on: one that reaches over a hole has a part on either side.

use std::io;
use std::ops::Range;

use vm_memory::{GuestAddress, GuestMemoryBackend};

use crate::error::{Error, Result};
use crate::machine::layout::Layout;
use crate::machine::memory::GuestMemory;
use crate::spec::{LAST_HOST_NODE, MemoryNode};

/// Bits of a set of the host's nodes.
const BITS: usize = LAST_HOST_NODE as usize + 1;
const WORD: usize = libc::c_ulong::BITS as usize;

/// RAM in one piece that belongs to one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The node, by its place among them.
    pub node: usize,
    /// Guest addresses.
    pub range: Range<u64>,
}

/// What belongs to each of `nodes`, which together have all RAM of `layout`: by rising addresses.
pub fn parts(layout: &Layout, nodes: &[MemoryNode]) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut ranges = layout.ram.iter().cloned();
    let mut range = 0..0;
    for (node, MemoryNode { bytes, .. }) in nodes.iter().enumerate() {
        let mut left = *bytes;
        while left > 0 {
            if range.is_empty() {
                let Some(next) = ranges.next() else { return parts };
                range = next;
            }
            let end = range.end.min(range.start.saturating_add(left));
            left -= end - range.start;
            parts.push(Part { node, range: range.start..end });
            range.start = end;
        }
    }
    parts
}

/// Has each part of `memory`, of which nothing was touched yet, come from its node of the host, and no other.
///
/// # Errors
/// [`Error::Memory`] with the kernel's: EINVAL where a node has no memory, or may not be used by this process.
pub fn bind(memory: &GuestMemory, layout: &Layout, nodes: &[MemoryNode]) -> Result<()> {
    let refused =
        |source| Error::Memory { action: "take the guest's RAM from the host's nodes", source };
    for Part { node, range } in parts(layout, nodes) {
        let Some(host) = nodes[node].host else { continue };
        let start = memory.get_host_address(GuestAddress(range.start));
        let start = start.map_err(|error| refused(io::Error::other(error)))?;
        let mut set = [0 as libc::c_ulong; BITS / WORD];
        set[usize::from(host) / WORD] |= 1 << (usize::from(host) % WORD);
        // The kernel reads one bit less than it is told (mm/mempolicy.c, `get_nodes`).
        let bits = BITS + 1;
        let length = range.end - range.start;
        // SAFETY: the range is part of one region of RAM, which is mapped; the call changes where its pages
        // will come from, and reads BITS bits of the set, which lives until it returns.
        let result = unsafe {
            libc::syscall(libc::SYS_mbind, start, length, libc::MPOL_BIND, set.as_ptr(), bits, 0)
        };
        if result != 0 {
            return Err(refused(io::Error::last_os_error()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::memory::allocate;
    use crate::spec::{AddressRange, Memory};

    fn node(mib: u64, host: Option<u16>) -> MemoryNode {
        MemoryNode { bytes: mib << 20, vcpus: Vec::new(), host }
    }

    #[test]
    fn nodes_have_all_ram_in_their_order_around_its_holes() {
        let nodes = [node(1024, None), node(3072, None), node(64, None)];
        let reserved = AddressRange { first: 5 << 30, last: (5 << 30) + 4095 };
        let layout = Layout::new(4160 << 20, 40, &[reserved]).expect("a layout");
        let found = parts(&layout, &nodes);
        assert_eq!(found[0], Part { node: 0, range: 0..1 << 30 });
        assert_eq!(found[1], Part { node: 1, range: 1 << 30..3 << 30 });
        assert_eq!(found[2], Part { node: 1, range: 4 << 30..5 << 30 });
        assert_eq!(found[3].node, 2);
        assert_eq!(found[3].range.end - found[3].range.start, 64 << 20);
        assert_eq!(found.len(), 4);
        let whole: u64 = found.iter().map(|part| part.range.end - part.range.start).sum();
        assert_eq!(whole, 4160 << 20);
        assert_eq!(parts(&layout, &[]), []);
    }

    #[test]
    fn ram_comes_from_the_nodes_that_are_named() {
        let of = |host| {
            let nodes = vec![node(64, None), node(64, Some(host))];
            let layout = Layout::new(128 << 20, 40, &[]).expect("a layout");
            allocate(&layout, &Memory { nodes, ..Memory::bytes(128 << 20) })
        };
        match of(0) {
            Ok(memory) => assert_eq!(memory.iter().count(), 1),
            // Containers forbid it by seccomp, and kernels without NUMA have no such call.
            Err(Error::Memory { source, .. }) => {
                assert!(matches!(source.raw_os_error(), Some(libc::EPERM | libc::ENOSYS)));
            }
            Err(error) => panic!("{error}"),
        }
        let error = of(LAST_HOST_NODE).expect_err("no host of tests has so many").to_string();
        assert!(error.contains("take the guest's RAM from the host's nodes"), "{error}");
    }
}
