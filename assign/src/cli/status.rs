//! `assign status`: policies with their pools, devices and conditions, and who has what. Nothing is
//! written, and whoever is not root sees what the host itself tells.

use std::time::{Duration, UNIX_EPOCH};

use clap::Args;
use serde::Serialize;
use sriov::{HostSnapshot, Scope};

use super::apply::all;
use super::output::{self, Cell, Table, style};
use super::{Context, Format, diff};
use crate::failure::Failure;
use crate::state::Forced;
use crate::state::conditions::{Kind, Status as Holds};
use crate::status::{self, DeviceStanding, Known, Standing, State};
use crate::time;

/// Arguments of `assign status`.
#[derive(Debug, Args)]
pub struct Status {}

#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    standing: Standing,
    /// What could not be seen.
    notes: Vec<String>,
}

impl Status {
    pub fn run(&self, context: &Context) -> Result<u8, Failure> {
        let mut notes = Vec::new();
        let host = context.snapshot(Scope::Planning);
        let known = known(context, &host, &mut notes)?;
        let policies = known.policies();
        let inputs = context.inputs(&policies)?;
        let (drift, _) = diff::look(context, &policies, &inputs);
        let shown = Shown { standing: status::standing(&host, &known, &drift), notes };
        output::value(context.format, &shown)?;
        if context.format == Format::Table {
            show(&shown)?;
        }
        Ok(0)
    }
}

/// What is remembered, as far as this user may see it. Of a saved host, no process can be asked.
fn known(
    context: &Context,
    host: &HostSnapshot,
    notes: &mut Vec<String>,
) -> Result<Known, Failure> {
    let mut known = Known { applied: context.applied()?, ..Known::default() };
    if context.is_saved() {
        known.leases = context.leases()?.into_iter().map(|lease| (lease, true)).collect();
        return Ok(known);
    }
    let (root, state) = (&context.root, &context.state);
    known.hidden = state.is_hidden();
    if known.hidden {
        notes.push(
            "what was applied and who has which device is for root to see: run assign as root"
                .to_owned(),
        );
    }
    let (filed, failures) = all::read(&context.root.directory().join(all::FOLDER))
        .unwrap_or_else(|failure| (Vec::new(), vec![failure]));
    known.filed = filed;
    notes.extend(failures.iter().map(|failure| format!("{}: {}", failure.thing, failure.message)));
    let alive = |lease: crate::state::Lease| {
        let alive = lease.is_alive(root);
        (lease, alive)
    };
    known.leases = state.leases_ever()?.into_iter().map(alive).collect();
    known.unreset = state.unreset(root)?;
    known.noted = state.conditions()?;
    known.forced = state.forced()?;
    let journal = state.journal()?;
    let left = journal.first().filter(|entry| entry.boot_id == host.platform.boot_id);
    known.interrupted = left.map(|entry| entry.operation.clone());
    known.changing = state.is_host_locked();
    Ok(known)
}

fn show(shown: &Shown) -> Result<(), Failure> {
    let Standing { policies, devices, forced } = &shown.standing;
    if policies.is_empty() {
        output::text_out("no policy is applied, and /etc/assign holds none")?;
    } else {
        pools(shown).print()?;
        output::text_out("")?;
        if !devices.is_empty() {
            table_of(devices).print()?;
            output::text_out("")?;
        }
        conditions(shown).print()?;
    }
    if !forced.is_empty() {
        output::text_out("")?;
        table_of_forced(forced).print()?;
    }
    for note in &shown.notes {
        output::text_out(&output::paragraph(&format!("note: {note}")))?;
    }
    Ok(())
}

fn pools(shown: &Shown) -> Table {
    let headings = ["POLICY", "POOL", "FROM", "DRIVER", "WANTED", "THERE", "FREE", "LEASED"];
    let mut table = Table::new(&headings, &[0, 1, 3, 4, 5, 6, 7]);
    for policy in &shown.standing.policies {
        for pool in &policy.pools {
            let from: Vec<String> = pool.functions.iter().map(ToString::to_string).collect();
            let count = |count: usize| count.to_string();
            table.row(&[
                policy.name.clone(),
                pool.name.clone(),
                from.join(" "),
                pool.driver.to_string(),
                count(pool.wanted),
                count(pool.there),
                count(pool.free),
                count(pool.leased),
            ]);
        }
    }
    table
}

fn table_of(devices: &[DeviceStanding]) -> Table {
    let headings = ["DEVICE", "ADDRESS", "POOL", "STATE", "OWNER", "SINCE", "MAC", "BECAUSE"];
    let mut table = Table::new(&headings, &[0, 1, 2, 3, 5]);
    for device in devices {
        let (word, look) = state(device.state);
        let owner = device.owner.as_ref();
        let place = match (&device.vf, &device.interface) {
            (Some(vf), Some(name)) => format!("{name}/{}", vf.index),
            (Some(vf), None) => format!("{}/{}", vf.pf, vf.index),
            (None, Some(name)) => name.clone(),
            (None, None) => device.address.map(|at| at.to_string()).unwrap_or_default(),
        };
        let name = |owner: &status::Owner| format!("{} (pid {})", owner.guest, owner.pid);
        table.row(&[
            Cell::from(place),
            Cell::from(device.address.map(|at| at.to_string()).unwrap_or_default()),
            Cell::from(&device.pool),
            Cell::styled(word, look),
            Cell::from(owner.map(name).unwrap_or_default()),
            Cell::from(owner.map(|owner| moment(owner.since)).unwrap_or_default()),
            Cell::from(device.mac.map(|mac| mac.to_string()).unwrap_or_default()),
            Cell::from(device.because.as_deref().unwrap_or_default()),
        ]);
    }
    table
}

fn conditions(shown: &Shown) -> Table {
    let headings = ["POLICY", "CONDITION", "STATUS", "SINCE", "BECAUSE"];
    let mut table = Table::new(&headings, &[0, 1, 2, 3]);
    for policy in &shown.standing.policies {
        for condition in &policy.conditions {
            let good = match condition.kind {
                Kind::Interrupted => Holds::False,
                _ => Holds::True,
            };
            let look = if condition.status == good { style::GOOD } else { style::WARNING };
            table.row(&[
                Cell::from(&policy.name),
                Cell::from(format!("{:?}", condition.kind)),
                Cell::styled(format!("{:?}", condition.status), look),
                Cell::from(condition.since.map(moment).unwrap_or_default()),
                Cell::from(&condition.message),
            ]);
        }
    }
    table
}

fn table_of_forced(forced: &[Forced]) -> Table {
    let mut table = Table::new(&["BY FORCE", "COMMAND", "STEP"], &[0, 1]);
    for one in forced {
        table.row(&[moment(one.at), one.operation.clone(), one.change.to_string()]);
    }
    table
}

fn state(state: State) -> (&'static str, anstyle::Style) {
    match state {
        State::Free => ("free", style::GOOD),
        State::Leased => ("leased", style::GUEST),
        State::Returning => ("returning", style::WARNING),
        State::Missing => ("missing", style::BAD),
        State::Drifted => ("drifted", style::WARNING),
        State::NotReset => ("not reset", style::WARNING),
        State::InUse => ("in use", style::PLAIN),
        State::NotIsolated => ("not isolated", style::WARNING),
    }
}

/// A moment in UTC, to the minute: `2026-03-01 18:54Z`.
fn moment(seconds: u64) -> String {
    let text = time::utc(UNIX_EPOCH + Duration::from_secs(seconds));
    match text.get(..16) {
        Some(minute) => format!("{}Z", minute.replace('T', " ")),
        None => text,
    }
}
