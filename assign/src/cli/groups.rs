//! `assign groups`: what can only be given away together, and whether it can be.

use clap::Args;
use sriov::facts::iommu::{Region, RegionKind};
use sriov::{HostSnapshot, Reason, Scope};

use super::output::{self, Cell, style};
use super::{Context, Format, device};
use crate::failure::{Failure, OwnReason};
use crate::topology::groups::{self, Group, Member, Verdict};
use crate::topology::{Standing, Standings};

/// Arguments of `assign groups`.
#[derive(Debug, Args)]
pub struct Groups {
    /// Only these groups: their numbers, or devices in them.
    #[arg(value_name = "DEVICE|GROUP")]
    only: Vec<String>,
    /// Show the addresses that a group's devices cannot use as others.
    #[arg(long)]
    regions: bool,
}

impl Groups {
    pub fn run(&self, context: &Context) -> Result<u8, Failure> {
        let snapshot = context.snapshot(Scope::Whole);
        let leases = context.leases()?;
        let numbers = self.only.iter().map(|name| number(&snapshot, name));
        let numbers = numbers.collect::<Result<Vec<u32>, Failure>>()?;
        let standings = Standings::new(&snapshot, &leases);
        let mut groups = groups::all(&snapshot, &standings);
        groups.retain(|group| numbers.is_empty() || numbers.contains(&group.group));
        output::value(context.format, &groups)?;
        if context.format == Format::Table {
            self.show(&snapshot, &groups)?;
        }
        Ok(0)
    }

    fn show(&self, snapshot: &HostSnapshot, groups: &[Group]) -> Result<(), Failure> {
        if groups.is_empty() {
            let remedy = snapshot.iommu.remedy();
            let text = format!("no IOMMU groups: no device can be given away. {remedy}");
            return output::text_out(&output::paragraph(&text));
        }
        let headings = ["GROUP", "NAME", "DRIVER", "IN USE BY"];
        let mut table = output::Table::new(&headings, &[0, 2]).shorten(1).one_line();
        for group in groups {
            table.heading(&heading(group));
            let regions = group.reserved.iter();
            let regions =
                regions.filter(|region| self.regions || region.kind == RegionKind::Direct);
            let mut left = group.members.len() + group.others.len() + regions.clone().count();
            let mut is_last = || {
                left = left.saturating_sub(1);
                left == 0
            };
            for member in &group.members {
                table.row(&member_cells(member, is_last()));
            }
            for other in &group.others {
                table.row(&[format!("{} {other}", turn(is_last())), "no PCI device".to_owned()]);
            }
            for region in regions {
                table.row(&region_cells(region, is_last()));
            }
        }
        table.print()
    }
}

/// The group that a person means by its number or by a device in it.
fn number(snapshot: &HostSnapshot, name: &str) -> Result<u32, Failure> {
    if let Ok(number) = name.parse::<u32>() {
        return match snapshot.iommu.groups.contains_key(&number) {
            true => Ok(number),
            false => Err(Failure::bad_input(
                Reason::NoSuchDevice,
                format!("group {number}"),
                "this host has no such IOMMU group",
            )
            .with_remedy("`assign groups` lists them; their numbers change between boots.")),
        };
    }
    let function = device::find(snapshot, name)?;
    function.iommu_group.ok_or_else(|| {
        Failure::failed(OwnReason::NoIommu, function.address, "has no IOMMU group")
            .with_remedy(snapshot.iommu.remedy())
    })
}

/// A region as a row; the kinds by which firmware or the kernel call them are explained.
fn region_cells(region: &Region, last: bool) -> [Cell; 4] {
    let kind = match region.kind {
        RegionKind::Direct => Cell::styled("firmware wants it mapped (direct)", style::WARNING),
        RegionKind::DirectRelaxable => Cell::from("mapped until a driver takes it"),
        RegionKind::Reserved => Cell::from("nothing may be mapped there"),
        RegionKind::Msi => Cell::from("interrupts are written there"),
        RegionKind::Unknown => Cell::from("reserved, of a kind not known"),
    };
    let place = format!("{} {:#x}-{:#x}", turn(last), region.start, region.end);
    [Cell::from(place), kind, Cell::from(" "), Cell::from(" ")]
}

fn turn(last: bool) -> &'static str {
    if last { "└─" } else { "├─" }
}

fn heading(group: &Group) -> Vec<Cell> {
    let (style, text) = match &group.verdict {
        Verdict::Bridges => (style::FAINT, "bridges, which stay with the host".to_owned()),
        Verdict::Free { devices: 1, .. } => (style::GOOD, "can be given to a guest".to_owned()),
        Verdict::Free { devices, together: true } => {
            (style::GOOD, format!("can be given to a guest, its {devices} devices together"))
        }
        Verdict::Free { devices, together: false } => {
            (style::GOOD, format!("can be given to one guest, any or all of its {devices} devices"))
        }
        Verdict::Ready => (style::GOOD, "ready for a guest".to_owned()),
        Verdict::Guest { guest } => (style::GUEST, format!("guest {guest} has it")),
        Verdict::No { why } => (style::WARNING, format!("cannot be given away: {why}")),
    };
    vec![Cell::styled(format!("group {}", group.group), style::STRONG), Cell::styled(text, style)]
}

fn member_cells(member: &Member, last: bool) -> [Cell; 4] {
    let used = match &member.standing {
        Standing::Guest { guest } => Cell::styled(guest, style::GUEST),
        Standing::Host { carries } => Cell::from(carries),
        _ => Cell::from(member.interfaces.join(" ")),
    };
    [
        Cell::from(format!("{} {}", turn(last), member.address)),
        Cell::from(&member.name),
        Cell::from(member.driver.as_deref().unwrap_or_default()),
        used,
    ]
}
