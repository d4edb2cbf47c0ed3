//! `assign vf list`: every VF with what its PF has set for it.

use clap::Args;
use serde::Serialize;
use sriov::nvme::Secondary;
use sriov::{
    HostSnapshot, LinkState, MacAddress, PciAddress, PfFacts, Rate, Scope, VfSettings, Vlan,
};

use super::super::{Context, Format, output};
use super::{find_pf, name_of};
use crate::failure::Failure;
use crate::state::Lease;

/// Arguments of `assign vf list`.
#[derive(Debug, Args)]
pub struct List {
    /// Only VFs of this PF: a PCI address or an interface name.
    #[arg(value_name = "PF")]
    pf: Option<String>,
}

/// One VF as listed. Settings are null where they are not known: the PF has no interface, its
/// driver does not tell, or a recorded tree has no kernel to ask.
#[derive(Debug, Serialize)]
struct Listed {
    /// How `assign vf set` takes it.
    name: String,
    pf: PciAddress,
    index: u16,
    address: PciAddress,
    driver: Option<String>,
    iommu_group: Option<u32>,
    numa_node: Option<u32>,
    mac: Option<MacAddress>,
    vlan: Option<Vlan>,
    trust: Option<bool>,
    spoof_check: Option<bool>,
    link_state: Option<LinkState>,
    rate: Option<Rate>,
    interfaces: Vec<String>,
    /// Its controller, where it is an NVMe one that has to be set up.
    #[serde(skip_serializing_if = "Option::is_none")]
    nvme: Option<Secondary>,
    owner: Option<Lease>,
}

impl List {
    pub fn run(&self, context: &Context) -> Result<u8, Failure> {
        let snapshot = context.snapshot(Scope::Planning);
        let leases = context.leases()?;
        let only = self.pf.as_deref().map(|name| find_pf(&snapshot, name)).transpose()?;
        let mut listed = Vec::new();
        for function in &snapshot.functions {
            if only.is_some_and(|(pf, _)| pf.address != function.address) {
                continue;
            }
            let Some(facts) = &function.sriov else { continue };
            // By number: virtfn10 comes after virtfn2.
            listed.extend(
                facts.vfs.iter().map(|(index, vf)| {
                    list(&snapshot, function.address, facts, *index, *vf, &leases)
                }),
            );
        }
        output::value(context.format, &listed)?;
        if context.format == Format::Table {
            show(&listed)?;
        }
        Ok(0)
    }
}

fn list(
    snapshot: &HostSnapshot,
    pf: PciAddress,
    facts: &PfFacts,
    index: u16,
    address: PciAddress,
    leases: &[Lease],
) -> Listed {
    let function = snapshot.function(address);
    let settings = facts.vf_settings.get(&index);
    Listed {
        name: name_of(snapshot, pf, index),
        pf,
        index,
        address,
        driver: function.and_then(|vf| vf.driver.clone()),
        iommu_group: function.and_then(|vf| vf.iommu_group),
        numa_node: function.and_then(|vf| vf.numa_node),
        mac: settings.map(|settings| settings.mac),
        vlan: settings.map(|settings| settings.vlan),
        trust: settings.and_then(|settings| settings.trust),
        spoof_check: settings.and_then(|settings| settings.spoof_check),
        link_state: settings.map(|settings| settings.link_state),
        rate: settings.map(|settings| settings.rate),
        interfaces: function.map(|vf| vf.netdevs.clone()).unwrap_or_default(),
        nvme: facts.nvme.as_ref().and_then(|drive| drive.secondaries.get(&index)).copied(),
        owner: leases.iter().find(|lease| lease.device == address).cloned(),
    }
}

fn show(listed: &[Listed]) -> Result<(), Failure> {
    if listed.is_empty() {
        return output::text_out("no VFs; `assign vf create PF N` makes some");
    }
    let nvme = listed.iter().any(|vf| vf.nvme.is_some());
    let mut headings = vec!["VF", "ADDRESS", "DRIVER", "GROUP", "NUMA"];
    if nvme {
        headings.extend(["ID", "STATE", "QUEUES", "INTERRUPTS"]);
    }
    if !nvme || listed.iter().any(|vf| vf.nvme.is_none()) {
        headings.extend(["MAC", "SETTINGS", "INTERFACE"]);
    }
    headings.push("OWNER");
    let place = |heading: &str| headings.iter().position(|other| *other == heading);
    let whole: Vec<usize> =
        ["VF", "ADDRESS", "GROUP", "NUMA", "MAC"].iter().filter_map(|name| place(name)).collect();
    // Many settings take a second line on a narrow terminal: they are what one looks for here.
    let mut table = output::Table::new(&headings, &whole);
    for vf in listed {
        let cell = |heading: &&str| match *heading {
            "VF" => vf.name.clone(),
            "ADDRESS" => vf.address.to_string(),
            "DRIVER" => vf.driver.clone().unwrap_or_default(),
            "GROUP" => vf.iommu_group.map(|group| group.to_string()).unwrap_or_default(),
            "NUMA" => vf.numa_node.map(|node| node.to_string()).unwrap_or_default(),
            "MAC" => address(vf),
            "SETTINGS" => settings(vf),
            "INTERFACE" => vf.interfaces.join(" "),
            "OWNER" => vf.owner.as_ref().map(|lease| lease.guest.clone()).unwrap_or_default(),
            other => vf.nvme.map(|secondary| controller(other, &secondary)).unwrap_or_default(),
        };
        table.row(&headings.iter().map(cell).collect::<Vec<String>>());
    }
    table.print()
}

fn address(vf: &Listed) -> String {
    vf.mac.filter(|mac| !mac.is_zero()).map(|mac| mac.to_string()).unwrap_or_default()
}

/// What of an NVMe VF's controller stands below a heading.
fn controller(heading: &str, secondary: &Secondary) -> String {
    let state = secondary.state;
    match heading {
        "ID" => secondary.controller.to_string(),
        "STATE" => if state.online { "online" } else { "offline" }.to_owned(),
        "QUEUES" => state.queues.to_string(),
        _ => state.interrupts.to_string(),
    }
}

/// What differs from how most VFs are, in words: the room of a terminal is for that.
fn settings(vf: &Listed) -> String {
    let usual = VfSettings::default();
    let mut words = Vec::new();
    if let Some(vlan) = vf.vlan.filter(|vlan| *vlan != usual.vlan) {
        words.push(format!("vlan {vlan}"));
    }
    if vf.trust == Some(true) {
        words.push("trusted".to_owned());
    }
    if vf.spoof_check == Some(false) {
        words.push("no spoof check".to_owned());
    }
    match vf.link_state {
        Some(LinkState::Enable) => words.push("link up".to_owned()),
        Some(LinkState::Disable) => words.push("link down".to_owned()),
        Some(LinkState::Auto) | None => {}
    }
    match vf.rate.unwrap_or_default() {
        Rate { min: 0, max: 0 } => {}
        Rate { min: 0, max } => words.push(format!("max {max} Mbit/s")),
        Rate { min, max: 0 } => words.push(format!("min {min} Mbit/s")),
        Rate { min, max } => words.push(format!("{min}-{max} Mbit/s")),
    }
    words.join(", ")
}
