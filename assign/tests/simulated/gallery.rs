//! Simulated hosts for the examples that need more than the lab has.

use std::path::{Path, PathBuf};

use sriov::facts::capabilities::PortKind;
use sriov::recorded::simulation::Simulation;
use sriov::recorded::{Config, Function, Tree, VfKind};

use super::{Host, example};

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

const SPARE: &str = "0000:02:00.0";

/// A network card without VFs, which the host has and does not use.
pub(crate) fn spare_card(directory: &Path) -> Simulation {
    let id = (0x8086, 0x10d3);
    let card = Function::new(SPARE, id, 0x02_0000).below("0000:00:01.0").driver("e1000e");
    let config = Config::new(id, 0x02_0000).pcie(PortKind::Endpoint, true, 1, 1).isolating();
    let card = card.group(2).netdev("eth1").config(config).attribute("reset", "");
    empty(directory).function(port("0000:00:01.0", 1)).function(card)
}

/// Who has that card.
pub(crate) fn spare_driver(host: &Host) -> Option<String> {
    host.snapshot().function(SPARE.parse().expect("an address"))?.driver.clone()
}

/// An example as it is for another host, in that host's directory.
pub(crate) fn edited(host: &Host, file: &str, edit: fn(String) -> String) -> PathBuf {
    let text = std::fs::read_to_string(example(file)).expect("an example");
    let path = host.directory.path().join("policies").join(file);
    host.tree().file(&format!("policies/{file}"), &edit(text));
    path
}

/// Replaces what has to be there.
pub(crate) fn replaced(text: String, was: &str, is: &str) -> String {
    assert!(text.contains(was), "{was:?} is not in the example: {text}");
    text.replace(was, is)
}

/// The card of the example by the address that simulated ones have.
pub(crate) fn with_spare_card(text: String) -> String {
    replaced(text, "52:54:00:00:01:01", "52:54:00:00:00:01")
}
