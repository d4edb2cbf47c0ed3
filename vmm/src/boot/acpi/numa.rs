//! What the tables say of NUMA: the system resource affinity table (ACPI 6.5, 5.2.16).

use acpi_tables::Aml;
use acpi_tables::sdt::Sdt;
use acpi_tables::srat::MemoryAffinity;

use super::{OEM, REVISION, Raw, TABLE, bytes};
use crate::machine::layout::Layout;
use crate::machine::nodes::parts;
use crate::spec::MemoryNode;

/// The table's revision (ACPI 6.5, table 5.62).
const SRAT: u8 = 3;
/// A processor with an id of 8 bits (ACPI 6.5, 5.2.16.1): its kind, and its length in bytes.
const LOCAL_APIC: [u8; 2] = [0, 16];
const ENABLED: u32 = 1;

/// Which of `nodes` each vCPU and each part of RAM belongs to. `apic_ids` are in the order of the vCPUs.
pub fn affinities(layout: &Layout, apic_ids: &[u8], nodes: &[MemoryNode]) -> Raw {
    let mut srat = Sdt::new(*b"SRAT", 36, SRAT, OEM, TABLE, REVISION);
    // Reserved: 1 for those who knew the first revision, and 8 bytes more.
    srat.append_slice(&1u32.to_le_bytes());
    srat.append_slice(&[0; 8]);
    for (node, MemoryNode { vcpus, .. }) in (0u32..).zip(nodes) {
        let [lowest, others @ ..] = node.to_le_bytes();
        for id in vcpus.iter().filter_map(|vcpu| apic_ids.get(usize::from(*vcpu))) {
            srat.append_slice(&LOCAL_APIC);
            srat.append_slice(&[lowest, *id]);
            srat.append_slice(&ENABLED.to_le_bytes());
            // The local SAPIC, and no clock domain.
            srat.append_slice(&[0]);
            srat.append_slice(&others);
            srat.append_slice(&0u32.to_le_bytes());
        }
    }
    for part in parts(layout, nodes) {
        let length = part.range.end - part.range.start;
        let memory = MemoryAffinity::new(part.node as u32, part.range.start, length).enabled();
        srat.append_slice(&bytes(&memory as &dyn Aml));
    }
    Raw(srat.as_slice().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_vcpu_and_each_part_of_ram_is_in_its_node() {
        let layout = Layout::new(4 << 30, 40, &[]).expect("a layout");
        let nodes = [(1u64, vec![0, 2]), (3, vec![1])];
        let nodes = nodes.map(|(gib, vcpus)| MemoryNode { bytes: gib << 30, vcpus, host: None });
        let Raw(table) = affinities(&layout, &[0, 1, 4], &nodes);
        let mut entries = Vec::new();
        let mut rest = &table[48..];
        while let [kind, length, ..] = *rest {
            let (entry, others) = rest.split_at(length.into());
            let number = |at: usize| u64::from_le_bytes(entry[at..at + 8].try_into().unwrap());
            entries.push(match kind {
                0 => {
                    assert_eq!(entry[4..8], [1, 0, 0, 0], "enabled");
                    (0, entry[2].into(), entry[3].into(), 0)
                }
                _ => {
                    assert_eq!((entry[6], entry[28]), (0, 1), "a small node, enabled");
                    (1, entry[2].into(), number(8), number(16))
                }
            });
            rest = others;
        }
        let gib = 1u64 << 30;
        let expected = [
            (0, 0u64, 0, 0),
            (0, 0, 4, 0),
            (0, 1, 1, 0),
            (1, 0, 0, gib),
            (1, 1, gib, 2 * gib),
            (1, 1, 4 * gib, gib),
        ];
        assert_eq!(entries, expected);
    }
}
