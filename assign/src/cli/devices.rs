//! `assign devices`: every PCI function, who has it, and who could.

use clap::Args;
use serde::Serialize;
use sriov::facts::names;
use sriov::{HostSnapshot, PciAddress, PciFunction, Scope, VfRef, usage};

use super::output::{self, Cell};
use super::{Context, Format};
use crate::failure::Failure;
use crate::state::Lease;
use crate::topology::{Standing, Standings, Topology, tree};

/// Arguments of `assign devices`.
#[derive(Debug, Args)]
pub struct Devices {
    /// Show devices that every FILTER fits: a part of the address, name, class, driver, interface
    /// or vendor:device.
    #[arg(value_name = "FILTER")]
    filters: Vec<String>,
    /// Draw what hangs below what: root buses, ports, devices, VFs.
    #[arg(long, conflicts_with = "filters")]
    tree: bool,
    /// With --tree: each VF in a row of its own.
    #[arg(long, requires = "tree")]
    all: bool,
}

/// Letters of a name that are left in a tree while other columns can give.
const LETTERS: usize = 16;
/// The same in a list, where what is alike begins alike.
const NAME: usize = 26;

/// One device as listed.
#[derive(Debug, Serialize)]
struct Listed {
    address: PciAddress,
    name: String,
    /// Its name without who made it.
    #[serde(skip)]
    model: Option<&'static str>,
    class: String,
    id: String,
    driver: Option<String>,
    iommu_group: Option<u32>,
    numa_node: Option<u32>,
    vfs: Option<Vfs>,
    vf_of: Option<VfRef>,
    interfaces: Vec<String>,
    in_use_by: Vec<String>,
    owner: Option<Lease>,
}

#[derive(Debug, Serialize)]
struct Vfs {
    present: u16,
    total: u16,
}

impl Devices {
    pub(super) fn run(&self, context: &Context) -> Result<u8, Failure> {
        let scope = if self.tree { Scope::Planning } else { Scope::Listing };
        let snapshot = context.snapshot(scope);
        let leases = context.leases()?;
        if self.tree {
            return self.draw(context, &snapshot, &leases);
        }
        let uses = usage::Index::of(&snapshot);
        let listed: Vec<Listed> = snapshot
            .functions
            .iter()
            .map(|function| list(&uses, function, &leases))
            .filter(|listed| self.filters.iter().all(|filter| fits(listed, filter)))
            .collect();
        output::value(context.format, &listed)?;
        if context.format == Format::Table {
            show(&listed)?;
        }
        Ok(0)
    }

    fn draw(
        &self,
        context: &Context,
        snapshot: &HostSnapshot,
        leases: &[Lease],
    ) -> Result<u8, Failure> {
        let standings = Standings::new(snapshot, leases);
        let topology = Topology::new(snapshot, &standings);
        output::value(context.format, &tree::nested(&topology))?;
        if context.format == Format::Table {
            show_tree(&tree::rows(&topology, self.all)).print()?;
        }
        Ok(0)
    }
}

/// The tree as a table; also what `assign topology` writes as text.
pub fn show_tree(rows: &[tree::Row]) -> output::Table {
    let headings = ["DEVICE", "DRIVER", "GROUP", "NUMA", "STATE"];
    let place = |row: &tree::Row| format!("{}{}", row.branch, row.place);
    let columns = |row: &tree::Row| output::text::columns(&place(row)) + 2;
    let widest = rows.iter().map(columns).max().unwrap_or(0);
    let named = rows.iter().filter(|row| !row.model.is_empty());
    let wish = named.map(columns).max().unwrap_or(0) + LETTERS;
    let table = output::Table::new(&headings, &[2, 3]).shorten(0).one_line();
    // Addresses stay whole, and the beginning of the names while others can give.
    let mut table = table.least(widest).wish(wish);
    for row in rows {
        let is_bridge = matches!(row.standing, None | Some(Standing::Bridge));
        // What a bridge does not have is not missing.
        let cell = |text: &str| match text {
            "" if is_bridge => Cell::from(" "),
            text => Cell::from(text),
        };
        table.row(&[
            match row.model.as_str() {
                "" => Cell::from(format!("{}  {}", place(row), row.name).trim_end()),
                model => Cell::from(format!("{}  {}", place(row), row.name))
                    .or_brief(format!("{}  {model}", place(row))),
            },
            cell(&row.driver),
            cell(&row.group),
            cell(&row.numa),
            row.standing.as_ref().map_or(Cell::from(" "), |standing| state(standing, row)),
        ]);
    }
    table
}

/// Whose it is, or what could become of it, and what it is called by the host.
fn state(standing: &Standing, row: &tree::Row) -> Cell {
    let text = match standing {
        Standing::Bridge => " ".to_owned(),
        Standing::Guest { guest } => format!("guest {guest}"),
        Standing::Host { carries } => carries.clone(),
        Standing::Together { with } => {
            // That it is in the same domain goes without saying.
            let domain = row.place.get(..5).unwrap_or_default();
            format!("free with {}", with.strip_prefix(domain).unwrap_or(with))
        }
        Standing::Blocked { why } => format!("blocked: {why}"),
        Standing::Ready | Standing::Free if row.interfaces.is_empty() => standing.word().to_owned(),
        Standing::Ready | Standing::Free => format!("{}: {}", standing.word(), row.interfaces),
    };
    Cell::styled(text, output::style::of(standing))
}

fn list(uses: &usage::Index<'_>, function: &PciFunction, leases: &[Lease]) -> Listed {
    let class = names::short_class(function.class_code());
    // That bridges are needed goes without saying in a list.
    let used = uses.uses(function).into_iter();
    let used = used.filter(|used| used.kind != usage::UseKind::Bridge);
    Listed {
        address: function.address,
        name: names::device(function),
        model: names::model(function),
        class: class.to_owned(),
        id: format!("{:04x}:{:04x}", function.vendor, function.device),
        driver: function.driver.clone(),
        iommu_group: function.iommu_group,
        numa_node: function.numa_node,
        vfs: function.sriov.as_ref().map(|pf| Vfs { present: pf.present, total: pf.total }),
        vf_of: function.vf_of,
        interfaces: function.netdevs.clone(),
        in_use_by: used.map(|used| used.carried()).collect(),
        owner: leases.iter().find(|lease| lease.device == function.address).cloned(),
    }
}

fn fits(listed: &Listed, filter: &str) -> bool {
    let filter = filter.to_lowercase();
    let address = listed.address.to_string();
    let texts = [&address, &listed.name, &listed.class, &listed.id].into_iter();
    texts
        .chain(&listed.driver)
        .chain(&listed.interfaces)
        .any(|text| text.to_lowercase().contains(&filter))
}

fn show(listed: &[Listed]) -> Result<(), Failure> {
    let headings =
        ["ADDRESS", "NAME", "CLASS", "DRIVER", "GROUP", "NUMA", "VFS", "IN USE BY", "OWNER"];
    let table = output::Table::new(&headings, &[0, 2, 3, 4, 5, 6]).shorten(1);
    let mut table = table.wish(NAME).spare(&[2]);
    for device in listed {
        let number = |number: Option<u32>| number.map(|n| n.to_string()).unwrap_or_default();
        let vfs = device.vfs.as_ref();
        let used = device.in_use_by.first().cloned();
        let name = Cell::from(&device.name);
        table.row(&[
            Cell::from(device.address.to_string()),
            match device.model {
                Some(model) => name.or_brief(model),
                None => name,
            },
            Cell::from(&device.class),
            Cell::from(device.driver.as_deref().unwrap_or_default()),
            Cell::from(number(device.iommu_group)),
            Cell::from(number(device.numa_node)),
            Cell::from(vfs.map(|vfs| format!("{}/{}", vfs.present, vfs.total)).unwrap_or_default()),
            Cell::from(used.unwrap_or_else(|| device.interfaces.join(" "))),
            Cell::from(device.owner.as_ref().map(|lease| lease.guest.as_str()).unwrap_or_default()),
        ]);
    }
    table.print()
}
