//! `assign run`: starts a guest, shows its console, and gives its devices back at the end.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use clap::Args;
use policies::{Documents, Guest};
use serde::Serialize;
use sriov::PciAddress;
use sriov::dma_fault::{Blocked, DmaFault};

use super::events::line;
use super::{Context, Files, Format, confirm, output, stats};
use crate::choose::{ByForce, Choice, Connection, DeviceChoice, Offer};
use crate::control::Detached;
use crate::control::stats::{Entry, Launching};
use crate::failure::{Failure, OwnReason};
use crate::launch::{self, Ended, Interface, Launch, Timeline, Told};
use crate::plan::guests;
use crate::state::Applied;

/// Arguments of `assign run`.
#[derive(Debug, Args)]
pub struct Run {
    #[command(flatten)]
    files: Files,
    /// Which guest, where the files hold several.
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// Tell what starting it took, a line a phase, once it has started.
    #[arg(long)]
    timeline: bool,
}

/// The decisions for a program, one object in one line on standard error: standard output is the
/// guest's console.
#[derive(Debug, Serialize)]
struct Decided<'a> {
    guest: &'a str,
    #[serde(flatten)]
    choice: &'a Choice,
    #[serde(skip_serializing_if = "Option::is_none")]
    iommu: Option<Interface>,
}

impl Run {
    pub fn run(&self, context: &Context) -> Result<u8, Failure> {
        let timeline = Timeline::begin();
        let documents = timeline.time(Launching::ReadDocuments, || self.files.load())?;
        if !context.root.is_live() {
            let message = "guests start on this host only, not on a recorded one";
            return Err(Failure::bad_input(OwnReason::Usage, "--root", message)
                .with_remedy("Leave it out."));
        }
        let guest = pick(&documents.guests, self.name.as_deref())?;
        let offers = offers(&documents, &context.state.applied()?);
        let confirmed = Mutex::new(BTreeSet::new());
        let confirm = |device: PciAddress, by_force: &ByForce| {
            // Once, and not again where the guest starts anew with other devices beside it.
            let mut confirmed = confirmed.lock().unwrap_or_else(PoisonError::into_inner);
            if !confirmed.contains(&device) {
                let what = format!("take it from the host for {}, {by_force}", guest.name);
                confirm::ask(context, &device.to_string(), &what)?;
                confirmed.insert(device);
            }
            Ok(())
        };
        let tell = |told: Told<'_>| tell(&guest.name, context.format, &told);
        let launch = Launch {
            root: &context.root,
            state: &context.state,
            guest,
            offers: &offers,
            confirm: &confirm,
            tell: &tell,
            timeline: &timeline,
            show_timeline: self.timeline,
        };
        let ended = launch.run()?;
        if context.format == Format::Table {
            match ended {
                Ended::PoweredOff => anstream::eprintln!("{}: powered off", guest.name),
                Ended::Stopped => anstream::eprintln!("{}: stopped", guest.name),
            }
        }
        Ok(0)
    }
}

/// What happens to a running guest, for a program, beside [`Decided`].
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
enum Happened<'a> {
    Attached {
        guest: &'a str,
        devices: &'a [PciAddress],
    },
    Detached {
        guest: &'a str,
        #[serde(flatten)]
        detached: &'a Detached,
    },
    Wanted {
        guest: &'a str,
        device: PciAddress,
    },
    DeviceError {
        guest: &'a str,
        device: &'a str,
    },
    DmaFault {
        guest: &'a str,
        device: PciAddress,
        #[serde(flatten)]
        blocked: &'a Blocked,
    },
    Trouble {
        guest: &'a str,
        error: &'a Failure,
    },
    Timeline {
        guest: &'a str,
        timeline: &'a [Entry],
    },
    NoDevices {
        guest: &'a str,
        because: &'a str,
    },
    Rebooting {
        guest: &'a str,
    },
}

fn happened<'a>(guest: &'a str, told: &'a Told<'_>) -> Option<Happened<'a>> {
    Some(match told {
        Told::Attached(devices) => Happened::Attached { guest, devices },
        Told::Detached(detached) => Happened::Detached { guest, detached },
        Told::Wanted(device) => Happened::Wanted { guest, device: *device },
        Told::DeviceError(device) => Happened::DeviceError { guest, device },
        Told::DmaFault(DmaFault { device, blocked }) => {
            Happened::DmaFault { guest, device: *device, blocked }
        }
        Told::Trouble(error) => Happened::Trouble { guest, error },
        Told::Timeline(timeline) => Happened::Timeline { guest, timeline },
        Told::NoDevices(because) => Happened::NoDevices { guest, because },
        Told::Rebooting => Happened::Rebooting { guest },
        Told::Connected { .. }
        | Told::Memory(_)
        | Told::Packed(_)
        | Told::FaultsUnheard(_)
        | Told::Console => return None,
    })
}

/// A line for people, on the terminal that may be the guest's console, and then does not begin a line
/// by itself.
fn say(line: &str) {
    let end = if launch::has_raw_terminal() { "\r\n" } else { "\n" };
    anstream::eprint!("{line}{end}");
}

fn tell(guest: &str, format: Format, told: &Told<'_>) {
    if format == Format::Json
        && let Some(happened) = happened(guest, told)
    {
        // Plain data always serializes.
        if let Ok(text) = serde_json::to_string(&happened) {
            say(&text);
        }
        return;
    }
    match (told, format) {
        (Told::Connected { choice, iommu }, Format::Json) => {
            // Plain data always serializes.
            if let Ok(text) = serde_json::to_string(&Decided { guest, choice, iommu: *iommu }) {
                anstream::eprintln!("{text}");
            }
        }
        (Told::Connected { choice, iommu }, _) => {
            // "… through vfio (iommufd)"
            let by = iommu.map(|iommu| format!(" ({iommu})")).unwrap_or_default();
            for connection in &choice.networks {
                let by = if matches!(connection, Connection::Vfio { .. }) { &*by } else { "" };
                anstream::eprintln!("{guest}: {connection}{by}");
            }
            for device in &choice.devices {
                let by = if matches!(device, DeviceChoice::Given { .. }) { &*by } else { "" };
                anstream::eprintln!("{guest}: {device}{by}");
            }
        }
        (Told::Memory(cause), _) => anstream::eprintln!("assign: {guest}: {cause}"),
        (Told::Packed(why), _) => {
            anstream::eprintln!("assign: {guest}: its kernel unpacks itself at each start: {why}");
        }
        (Told::NoDevices(cause), _) => {
            anstream::eprintln!("assign: {guest}: starting again without: {cause}");
        }
        (Told::Console, Format::Json) => {}
        (Told::Console, _) => {
            anstream::eprintln!("console of {guest}; Ctrl-] leaves it and stops the guest");
        }
        (Told::Timeline(entries), _) => {
            say(&format!("{guest}: what its start took:"));
            let width = output::width(std::io::stderr()).map(usize::from);
            stats::timeline(entries).lines(width).iter().for_each(|line| say(line));
        }
        (Told::Rebooting, _) => anstream::eprintln!("{guest}: rebooted, starting again"),
        (Told::Attached(devices), _) => {
            devices.iter().for_each(|device| say(&format!("{guest}: has {device} now")));
        }
        (Told::Detached(detached), _) => {
            say(&format!("{guest}: {}", detached.told()));
            detached.notes.iter().for_each(|note| say(&format!("assign: {note}")));
        }
        (Told::Wanted(device), _) => say(&format!("{guest}: the host wants {device} back")),
        (Told::DeviceError(device), _) => {
            say(&format!("{guest}: {device} met an error that it cannot recover from"));
        }
        (Told::DmaFault(DmaFault { device, blocked }), _) => {
            let tried = line::blocked(blocked);
            say(&format!("{guest}: {device} reached for memory that is not the guest's: {tried}"));
        }
        (Told::FaultsUnheard(error), _) => {
            let cause = format!("/dev/kmsg: {error}");
            say(&format!("assign: {guest}: faults of its devices are not told: {cause}"));
        }
        (Told::Trouble(failure), _) => say(&format!("assign: {failure}")),
    }
}

/// The guest of this name, or the only one.
fn pick<'a>(guests: &'a [Guest], name: Option<&str>) -> Result<&'a Guest, Failure> {
    let names = || guests.iter().map(|guest| guest.name.as_str()).collect::<Vec<_>>().join(", ");
    match (name, guests) {
        (_, []) => {
            let message = "the files hold no `kind: Guest`";
            Err(Failure::bad_input(OwnReason::InvalidDocument, "assign run", message)
                .with_remedy("Name a file with a guest with -f."))
        }
        (None, [guest]) => Ok(guest),
        (None, _) => {
            let message = format!("the files hold {} guests: {}", guests.len(), names());
            Err(Failure::bad_input(OwnReason::Usage, "assign run", message)
                .with_remedy("Say which one: `assign run -f FILE NAME`."))
        }
        (Some(name), _) => guests.iter().find(|guest| guest.name == name).ok_or_else(|| {
            let message = format!("is not in the files, which hold {}", names());
            Failure::bad_input(OwnReason::Usage, name, message)
                .with_remedy("Name one of these, or give the file of that guest with -f.")
        }),
    }
}

/// The pools of the files and of the policies applied before. What a file says replaces what was
/// applied under the same name.
fn offers(documents: &Documents, applied: &[Applied]) -> Vec<Offer> {
    let of_files = documents.policies.iter().flat_map(|policy| {
        policy.pools.iter().map(|pool| Offer {
            policy: policy.name.clone(),
            isolation: policy.isolation,
            protection: policy.protection.clone(),
            pool: pool.clone(),
            planned: None,
        })
    });
    let mut offers: Vec<Offer> = of_files.collect();
    offers.extend(guests::applied_offers(&offers, applied.iter().map(|applied| &applied.policy)));
    offers
}

#[cfg(test)]
mod tests {
    use policies::Source;

    use super::*;

    fn documents(pool: &str, from: &str, guests: &[&str]) -> Documents {
        let mut text = format!(
            "apiVersion: assign/v1\nkind: Policy\nmetadata: {{name: p-{pool}}}\nspec: {{pools: [{{name: {pool}, from: {{interface: {from}}}, vfs: {{count: 1}}}}]}}\n"
        );
        for guest in guests {
            text.push_str(&format!(
                "---\napiVersion: assign/v1\nkind: Guest\nmetadata: {{name: {guest}}}\nspec: {{memory: {{size: 64MiB}}, boot: {{kernel: k}}}}\n"
            ));
        }
        let source = Source { name: "host.yaml".to_owned(), text };
        policies::parse(&[source]).unwrap_or_else(|errors| panic!("{errors}"))
    }

    fn applied(documents: Documents) -> Vec<Applied> {
        let boot_id = String::new;
        let applied = |policy| Applied { policy, boot_id: boot_id(), changes: Vec::new() };
        documents.policies.into_iter().map(applied).collect()
    }

    #[test]
    fn the_only_guest_needs_no_name() {
        let guests = documents("lan", "eth0", &["web-1"]).guests;
        assert_eq!(
            pick(&guests, None).map(|guest| guest.name.clone()).ok().as_deref(),
            Some("web-1")
        );
    }

    #[test]
    fn several_guests_need_a_name_that_is_there() {
        let guests = documents("lan", "eth0", &["web-1", "web-2"]).guests;
        let error = pick(&guests, None).expect_err("two guests");
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("2 guests: web-1, web-2"), "{error}");
        assert_eq!(pick(&guests, Some("web-2")).expect("it is there").name, "web-2");
        let error = pick(&guests, Some("web-3")).expect_err("it is not there");
        assert_eq!(
            error.to_string(),
            "web-3: is not in the files, which hold web-1, web-2. Name one of these, or give the file \
             of that guest with -f."
        );
        assert!(pick(&[], Some("web-3")).is_err());
    }

    #[test]
    fn pools_of_the_files_come_before_those_applied() {
        let file = documents("lan", "eth0", &[]);
        let names = |offers: Vec<Offer>| {
            let pools = offers.iter().map(|offer| &offer.pool);
            pools.map(|pool| format!("{} {}", pool.name, pool.from)).collect::<Vec<_>>()
        };
        let other = applied(documents("wan", "eth1", &[]));
        let both = ["lan {interface: eth0}", "wan {interface: eth1}"];
        assert_eq!(names(offers(&file, &other)), both);
        let same = applied(documents("lan", "eth9", &[]));
        assert_eq!(names(offers(&file, &same)), ["lan {interface: eth0}"]);
    }
}
