//! `assign show`: everything about one device, and what can be done with it next.

use clap::Args;
use serde::Serialize;
use sriov::facts::names;
use sriov::facts::net::Netdev;
use sriov::isolation;
use sriov::usage::{self, Use, UseKind};
use sriov::{HostSnapshot, PciAddress, PciFunction, PciRoot, Scope};

use super::output::{self, style};
use super::{Context, Format, device};
use crate::control::route::Route;
use crate::control::{self, Running, client};
use crate::failure::Failure;
use crate::state::{Lease, Original};
use crate::topology::groups::{self, Group};
use crate::topology::port::{self, Acs};
use crate::topology::standing::lease_of_group;
use crate::topology::{Standing, Standings};

mod page;

/// Arguments of `assign show`.
#[derive(Debug, Args)]
pub struct Show {
    /// A PCI address or an interface name.
    #[arg(value_name = "DEVICE")]
    device: String,
}

/// One device, for programs and people.
#[derive(Debug, Serialize)]
struct Shown<'a> {
    name: String,
    class: String,
    standing: &'a Standing,
    next: Option<String>,
    not_for: Vec<NotFor>,
    group: Option<Group>,
    path: Vec<Port>,
    uses: Vec<Use>,
    lease: Option<&'a Lease>,
    original: Option<&'a Original>,
    vfs: Vec<Vf<'a>>,
    interfaces: Vec<&'a Netdev>,
    root: PciRoot,
    facts: &'a PciFunction,
}

/// A running guest that the device cannot be given to, since it would pin the guest's memory.
#[derive(Debug, Serialize)]
struct NotFor {
    guest: String,
    because: Unpinned,
}

/// What a guest's memory is that must not be pinned.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Unpinned {
    /// The host may share it with others.
    Merge,
    /// The host may have it back.
    Balloon,
}

/// A port on the way to the device, the one right above it first.
#[derive(Debug, Serialize)]
struct Port {
    address: PciAddress,
    kind: &'static str,
    acs: Option<Acs>,
}

/// A VF of the device.
#[derive(Debug, Serialize)]
struct Vf<'a> {
    index: u16,
    address: PciAddress,
    driver: Option<&'a str>,
    interfaces: &'a [String],
    standing: &'a Standing,
}

/// Most ports on a way: a domain has 256 buses.
const LONGEST: usize = 256;

impl Show {
    pub fn run(&self, context: &Context) -> Result<u8, Failure> {
        let snapshot = context.snapshot(Scope::Whole);
        let function = device::find(&snapshot, &self.device)?;
        let leases = context.leases()?;
        let boot_id = &snapshot.platform.boot_id;
        let originals = context.originals(boot_id)?;
        let standings = Standings::new(&snapshot, &leases);
        let standing = standings.of(function.address);
        let group = function.iommu_group.and_then(|number| {
            groups::all(&snapshot, &standings).into_iter().find(|group| group.group == number)
        });
        let shown = Shown {
            name: names::device(function),
            class: names::class(function.class_code()),
            standing,
            next: next(&snapshot, &leases, function, standing, group.as_ref()),
            not_for: match standing {
                Standing::Free | Standing::Ready | Standing::Together { .. }
                    if !context.is_saved() =>
                {
                    not_for(context)
                }
                _ => Vec::new(),
            },
            group,
            path: path(&snapshot, function),
            uses: usage::of(&snapshot, function),
            lease: leases.iter().find(|lease| lease.device == function.address),
            original: originals.iter().find(|original| original.device == function.address),
            vfs: vfs(&snapshot, &standings, function),
            interfaces: function.netdevs.iter().filter_map(|name| snapshot.netdev(name)).collect(),
            root: snapshot.root_of(function),
            facts: function,
        };
        output::value(context.format, &shown)?;
        if context.format == Format::Table {
            page::show(&shown)?;
        }
        Ok(0)
    }
}

/// Guests that run and can have no device. One that does not answer is left out: nothing is attached to it
/// either.
fn not_for(context: &Context) -> Vec<NotFor> {
    let running = control::guests(&context.root).into_iter().filter_map(|guest| {
        client::ask::<Running>(&context.root, &guest, Route::State, None::<&()>).ok()
    });
    let unpinned = running.filter_map(|one| {
        let because = match (one.merge, one.balloon) {
            (true, _) => Unpinned::Merge,
            (false, true) => Unpinned::Balloon,
            (false, false) => return None,
        };
        Some(NotFor { guest: one.guest, because })
    });
    unpinned.collect()
}

/// The ports above a device, up to the root bus.
fn path(snapshot: &HostSnapshot, function: &PciFunction) -> Vec<Port> {
    let mut path: Vec<Port> = Vec::new();
    let mut below = function;
    while let Some(above) = below.parent.and_then(|parent| snapshot.function(parent)) {
        if path.len() >= LONGEST || path.iter().any(|port| port.address == above.address) {
            break;
        }
        let behind = snapshot.functions.iter().filter(|other| other.parent == Some(above.address));
        let acs = port::acs(above, behind.filter(|other| other.vf_of.is_none()));
        path.push(Port { address: above.address, kind: port::kind(above), acs });
        below = above;
    }
    path
}

fn vfs<'a>(
    snapshot: &'a HostSnapshot,
    standings: &'a Standings,
    function: &'a PciFunction,
) -> Vec<Vf<'a>> {
    let vfs = function.sriov.iter().flat_map(|pf| &pf.vfs);
    vfs.map(|(index, address)| {
        let vf = snapshot.function(*address);
        Vf {
            index: *index,
            address: *address,
            driver: vf.and_then(|vf| vf.driver.as_deref()),
            interfaces: vf.map(|vf| vf.netdevs.as_slice()).unwrap_or_default(),
            standing: standings.of(*address),
        }
    })
    .collect()
}

/// The command or the change that would bring the device closer to a guest.
fn next(
    snapshot: &HostSnapshot,
    leases: &[Lease],
    function: &PciFunction,
    standing: &Standing,
    group: Option<&Group>,
) -> Option<String> {
    let address = function.address;
    match standing {
        Standing::Bridge => None,
        Standing::Guest { guest } => Some(format!("it comes back when {guest} ends")),
        Standing::Ready => Some(format!(
            "`assign run` with a guest that claims it; `assign release {address}` gives it back"
        )),
        Standing::Free => Some(match &function.sriov {
            Some(pf) if pf.vfs.is_empty() => format!(
                "`assign vf create {address} N` for up to {} VFs, or `assign bind {address}` for \
                 all of it",
                pf.total
            ),
            _ => format!("`assign bind {address}`"),
        }),
        Standing::Together { .. } => Some(format!("`assign bind --group {address}`")),
        Standing::Host { .. } if function.sriov.as_ref().is_some_and(|pf| !pf.vfs.is_empty()) => {
            Some("its VFs can be given away one by one".to_owned())
        }
        Standing::Host { .. } => {
            Some("move what it carries elsewhere, or choose another device".to_owned())
        }
        Standing::Blocked { .. } => match group {
            None => Some(snapshot.iommu.remedy().to_owned()),
            Some(_) => match lease_of_group(leases, function) {
                Some(lease) => Some(format!("wait until {} ends", lease.guest)),
                None => isolation::viability(snapshot, function, &[]).err().map(|why| why.remedy()),
            },
        },
    }
}
