//! The tree as text: root buses, ports, functions, and VFs below their PF.

use serde::Serialize;
use sriov::PciAddress;
use sriov::facts::names;

use super::fold::{self, Range};
use super::port::{self, Acs};
use super::{Bus, Node, Standing, Topology};

/// One row of the tree.
#[derive(Debug)]
pub struct Row {
    /// Lines that lead to it.
    pub branch: String,
    /// Its address; of VFs their indexes and addresses.
    pub place: String,
    /// What it is.
    pub name: String,
    /// The same without who made it, for where there is little room; empty where that tells nothing.
    pub model: String,
    /// Its driver; how many have it, for a range.
    pub driver: String,
    /// Its IOMMU group, or a range of them.
    pub group: String,
    /// Its NUMA node.
    pub numa: String,
    /// Its interfaces, and what can become of it; `None` for a root bus.
    pub standing: Option<Standing>,
    /// Its interfaces, where nothing lives on them.
    pub interfaces: String,
}

/// The rows, each VF in one of its own if `all`.
pub fn rows(topology: &Topology, all: bool) -> Vec<Row> {
    let mut rows = Vec::new();
    for bus in &topology.buses {
        rows.push(Row {
            branch: String::new(),
            place: bus.to_string(),
            name: "root bus".to_owned(),
            model: String::new(),
            driver: String::new(),
            group: String::new(),
            numa: number(bus.numa_node),
            standing: None,
            interfaces: String::new(),
        });
        below(&mut rows, &bus.nodes, &[], "", all);
    }
    rows
}

fn below(rows: &mut Vec<Row>, nodes: &[Node], vfs: &[Range], branch: &str, all: bool) {
    let count = vfs.len() + nodes.len();
    for (at, range) in vfs.iter().enumerate() {
        rows.push(range_row(range, format!("{branch}{}", turn(at, count))));
    }
    for (at, node) in nodes.iter().enumerate() {
        let last = vfs.len() + at + 1 == count;
        rows.push(node_row(node, format!("{branch}{}", turn(vfs.len() + at, count))));
        let deeper = format!("{branch}{}", if last { "   " } else { "│  " });
        below(rows, &node.below, &fold::ranges(&node.vfs, all), &deeper, all);
    }
}

fn turn(at: usize, count: usize) -> &'static str {
    if at + 1 == count { "└─ " } else { "├─ " }
}

fn node_row(node: &Node, branch: String) -> Row {
    let function = node.function;
    Row {
        branch,
        place: function.address.to_string(),
        name: name(node, &names::device(function)),
        model: names::model(function).map(|model| name(node, model)).unwrap_or_default(),
        driver: function.driver.clone().unwrap_or_default(),
        group: number(function.iommu_group),
        numa: number(function.numa_node),
        standing: Some(node.standing.clone()),
        interfaces: function.netdevs.join(" "),
    }
}

/// A port is known by what it does, anything else by what it is called.
fn name(node: &Node, called: &str) -> String {
    let function = node.function;
    match (node.acs(), function.is_bridge()) {
        (Some(acs), _) => format!("{}, {}", port::kind(function), acs.label()),
        (None, true) => format!("{}: {called}", port::kind(function)),
        (None, false) => called.to_owned(),
    }
}

fn range_row(range: &Range, branch: String) -> Row {
    let first = range.first();
    let driver = first.and_then(|vf| vf.function.driver.clone()).unwrap_or_default();
    let count = range.vfs.len();
    Row {
        branch,
        place: first
            .map(|vf| format!("{}  {}", range.indexes(), vf.function.address))
            .unwrap_or_default(),
        name: range.end().map(|end| format!("to {end}")).unwrap_or_default(),
        model: String::new(),
        driver,
        group: range.groups(),
        numa: number(first.and_then(|vf| vf.function.numa_node)),
        standing: first.map(|vf| vf.standing.clone()),
        interfaces: match first {
            Some(vf) if count == 1 => vf.function.netdevs.join(" "),
            _ => String::new(),
        },
    }
}

fn number(number: Option<u32>) -> String {
    number.map(|number| number.to_string()).unwrap_or_default()
}

/// A root bus for programs.
#[derive(Debug, Serialize)]
pub struct BusNode {
    domain: u32,
    bus: u8,
    numa_node: Option<u32>,
    devices: Vec<DeviceNode>,
}

/// A function for programs, with what is behind it.
#[derive(Debug, Serialize)]
pub struct DeviceNode {
    address: PciAddress,
    name: String,
    class: String,
    driver: Option<String>,
    iommu_group: Option<u32>,
    numa_node: Option<u32>,
    interfaces: Vec<String>,
    /// What kind of bridge it is.
    port: Option<&'static str>,
    acs: Option<Acs>,
    #[serde(flatten)]
    standing: Standing,
    /// Most VFs it can have.
    vfs_total: Option<u16>,
    vfs: Vec<VfNode>,
    devices: Vec<DeviceNode>,
}

/// A virtual function for programs.
#[derive(Debug, Serialize)]
pub struct VfNode {
    index: u16,
    address: PciAddress,
    driver: Option<String>,
    iommu_group: Option<u32>,
    numa_node: Option<u32>,
    interfaces: Vec<String>,
    #[serde(flatten)]
    standing: Standing,
}

/// The tree for programs: nested, nothing folded.
pub fn nested(topology: &Topology) -> Vec<BusNode> {
    let bus = |bus: &Bus| BusNode {
        domain: bus.domain,
        bus: bus.number,
        numa_node: bus.numa_node,
        devices: bus.nodes.iter().map(device).collect(),
    };
    topology.buses.iter().map(bus).collect()
}

fn device(node: &Node) -> DeviceNode {
    let function = node.function;
    DeviceNode {
        address: function.address,
        name: names::device(function),
        class: names::short_class(function.class_code()).to_owned(),
        driver: function.driver.clone(),
        iommu_group: function.iommu_group,
        numa_node: function.numa_node,
        interfaces: function.netdevs.clone(),
        port: function.is_bridge().then(|| port::kind(function)),
        acs: node.acs(),
        standing: node.standing.clone(),
        vfs_total: function.sriov.as_ref().map(|pf| pf.total),
        vfs: node.vfs.iter().map(vf).collect(),
        devices: node.below.iter().map(device).collect(),
    }
}

fn vf(vf: &super::Vf) -> VfNode {
    VfNode {
        index: vf.index,
        address: vf.function.address,
        driver: vf.function.driver.clone(),
        iommu_group: vf.function.iommu_group,
        numa_node: vf.function.numa_node,
        interfaces: vf.function.netdevs.clone(),
        standing: vf.standing.clone(),
    }
}
