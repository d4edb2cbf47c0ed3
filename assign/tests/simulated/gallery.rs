//! Simulated hosts for the examples that need more than the lab has.

use std::path::Path;

use sriov::facts::capabilities::PortKind;
use sriov::recorded::simulation::Simulation;
use sriov::recorded::{Config, Function, Tree, VfKind};

const BRIDGE: u32 = 0x06_0400;

fn empty(directory: &Path) -> Simulation {
    let tree = Tree::new(directory);
    tree.file("sys/class/iommu/dmar0/name", "dmar0\n");
    tree.file("proc/self/mountinfo", "");
    tree.driver("vfio-pci");
    Simulation::new(&tree)
}

/// A port that shows ACS, with all of it on.
fn port(address: &'static str, group: u32) -> Function {
    let id = (0x8086, 0x1901);
    let config = Config::new(id, BRIDGE).pcie(PortKind::RootPort, false, 3, 16).isolating();
    Function::new(address, id, BRIDGE).driver("pcieport").group(group).config(config)
}

/// A graphics card with its audio, each in a group of its own.
pub(crate) fn graphics(directory: &Path) -> Simulation {
    let function = |address, id: (u16, u16), class, driver, group| {
        let config = Config::new(id, class).pcie(PortKind::Endpoint, true, 3, 16).isolating();
        let function = Function::new(address, id, class).below("0000:00:01.0");
        function.driver(driver).group(group).config(config).attribute("reset", "")
    };
    empty(directory)
        .function(port("0000:00:01.0", 1))
        .function(function("0000:01:00.0", (0x10de, 0x1f10), 0x03_0200, "nouveau", 2))
        .function(function("0000:01:00.1", (0x10de, 0x10f9), 0x04_0300, "snd_hda_intel", 3))
}

/// Two cards with 64 VFs each, one on each NUMA node.
pub(crate) fn two_nodes(directory: &Path) -> Simulation {
    let card = |address, port, name, node, group| {
        let id = (0x8086, 0x1583);
        let config = Config::new(id, 0x02_0000).pcie(PortKind::Endpoint, true, 3, 8).isolating();
        Function::new(address, id, 0x02_0000)
            .below(port)
            .driver("i40e")
            .group(group)
            .numa(node)
            .netdev(name)
            .link("8.0 GT/s PCIe", 8)
            .config(config)
            .vfs(64, 0)
            .vf_kind(VfKind { device: 0x154c, group: group + 1, driver: None, config: None })
    };
    empty(directory)
        .function(port("0000:00:01.0", 1))
        .function(port("0000:00:02.0", 2))
        .function(card("0000:17:00.0", "0000:00:01.0", "left0", 0, 100))
        .function(card("0000:65:00.0", "0000:00:02.0", "right0", 1, 200))
}
