//! `assign run`: starts a guest, shows its console, and gives its devices back at the end.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Mutex, PoisonError};

use clap::Args;
use policies::{Documents, Guest};
use sriov::PciAddress;

use self::tell::Teller;
use super::{Context, Files, confirm};
use crate::choose::{ByForce, Offer};
use crate::control::stats::Launching;
use crate::detach::{self, Behind, Side};
use crate::failure::{Failure, OwnReason};
use crate::launch::{Launch, Timeline, Told};
use crate::plan::guests;
use crate::state::Applied;

mod tell;

/// Arguments of `assign run`.
#[derive(Debug, Args)]
pub struct Run {
    #[command(flatten)]
    files: Files,
    /// Which guest, where the files hold several.
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// Return when it runs; it goes on without this terminal.
    #[arg(long)]
    detach: bool,
    /// Leave its process the run of this host, to look into what goes wrong: whoever breaks out of the
    /// guest is root here.
    #[arg(long)]
    no_sandbox: bool,
    /// Tell what starting it took, a line a phase, once it has started.
    #[arg(long)]
    timeline: bool,
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
        if !self.detach {
            return self.launch(context, &documents, guest, &timeline, None);
        }
        let failed = |error: &io::Error| {
            let message = format!("cannot go on without this terminal: {error}");
            Failure::failed(OwnReason::Guest, &guest.name, message)
        };
        match detach::split().map_err(|error| failed(&error))? {
            Side::Front(front) => front.wait().map_err(|error| failed(&error)),
            Side::Behind(behind) => {
                self.launch(context, &documents, guest, &timeline, Some(behind))
            }
        }
    }

    /// Runs the guest to its end, and lets go of the terminal on the way where it is to be `behind` it.
    fn launch(
        &self,
        context: &Context,
        documents: &Documents,
        guest: &Guest,
        timeline: &Timeline,
        behind: Option<Behind>,
    ) -> Result<u8, Failure> {
        let offers = offers(documents, &context.state.applied()?);
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
        let in_front = behind.is_none();
        let teller = Teller::new(context, &guest.name, behind);
        let tell = |told: Told<'_>| teller.tell(&told);
        let launch = Launch {
            root: &context.root,
            state: &context.state,
            guest,
            offers: &offers,
            confirm: &confirm,
            tell: &tell,
            timeline,
            show_timeline: self.timeline,
            sandboxed: !self.no_sandbox,
            in_front,
        };
        launch.run().map(|()| 0).inspect_err(|failure| teller.failed(failure))
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
