//! `assign ps`: the guests that run.

use clap::Args;
use sriov::facts::platform::CpuSet;

use super::output::{self, Table};
use super::page::bytes;
use super::{Context, Format};
use crate::control::route::Route;
use crate::control::{self, Doing, Running, client};
use crate::failure::{Failure, OwnReason, Reason};
use crate::launch::placement;
use crate::overcommit;

/// Arguments of `assign ps`.
#[derive(Debug, Args)]
pub struct Ps {}

impl Ps {
    pub fn run(&self, context: &Context) -> Result<u8, Failure> {
        let mut all: Vec<Running> = Vec::new();
        let mut trouble = None;
        for guest in control::guests(&context.root) {
            match client::ask(&context.root, &guest, Route::State, None::<&()>) {
                Ok(running) => all.push(running),
                // It has ended in between, or its launcher was killed.
                Err(failure) if failure.reason == Reason::Own(OwnReason::NoSuchGuest) => {}
                Err(failure) => trouble = Some(failure),
            }
        }
        output::value(context.format, &all)?;
        if context.format == Format::Table {
            table(&all).print()?;
            let vcpus = all.iter().map(|one| one.cpus).fold(0, u32::saturating_add);
            if let Some(note) = overcommit::of_all(vcpus, placement::online(&context.root)) {
                anstream::eprintln!("{note}");
            }
        }
        // One that does not answer hides no other.
        trouble.map_or(Ok(0), Err)
    }
}

fn table(all: &[Running]) -> Table {
    // Most hosts have no guest with one.
    let has_cid = all.iter().any(|one| one.cid.is_some());
    let mut titles = vec!["GUEST", "STATE", "UP", "CPUS", "MEMORY", "PROCESS"];
    titles.extend(has_cid.then_some("CID"));
    titles.push("DEVICES");
    let whole: Vec<usize> = (0..titles.len() - 1).collect();
    let mut table = Table::new(&titles, &whole);
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    for one in all {
        let devices: Vec<String> = one.devices.iter().map(ToString::to_string).collect();
        let mut row = vec![
            one.guest.clone(),
            state(one.state).to_owned(),
            up(one.up_s),
            cpus(one),
            bytes(one.memory_bytes),
            one.pid.to_string(),
        ];
        row.extend(has_cid.then(|| or_none(one.cid.map(|cid| cid.to_string()))));
        row.push(or_none((!devices.is_empty()).then(|| devices.join(" "))));
        table.row(&row);
    }
    table
}

/// "2", or "2 on 4-5" where all of them are bound to CPUs of the host.
fn cpus(one: &Running) -> String {
    let ranges = one.pin.values().flat_map(|to| to.ranges().iter().cloned());
    let on: CpuSet = ranges.collect();
    match usize::try_from(one.cpus).is_ok_and(|count| count == one.pin.len()) {
        true => format!("{} on {on}", one.cpus),
        false => one.cpus.to_string(),
    }
}

fn state(state: Doing) -> &'static str {
    match state {
        Doing::Starting => "starting",
        Doing::Running => "running",
        Doing::Paused => "paused",
    }
}

/// Seconds in the two largest units that say something.
fn up(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, _, _) => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn times_are_told_in_two_units() {
        let told = [0, 59, 60, 3_599, 3_600, 86_399, 86_400, 40 * 86_400 + 7_200].map(up);
        let expected = [
            "0 s",
            "59 s",
            "1 min 0 s",
            "59 min 59 s",
            "1 h 0 min",
            "23 h 59 min",
            "1 d 0 h",
            "40 d 2 h",
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn a_list_fits_a_narrow_terminal_and_a_pipe_has_one_line_a_guest() {
        let one = |guest: &str, state, devices: &[&str]| Running {
            guest: guest.to_owned(),
            state,
            up_s: 93_784,
            cpus: 64,
            pin: BTreeMap::new(),
            emulator: None,
            memory_bytes: 64 << 30,
            merge: false,
            balloon: false,
            devices: devices.iter().map(|device| device.parse().expect("an address")).collect(),
            cid: None,
            ports: Vec::new(),
            pid: 4_194_303,
            launcher_pid: 4_194_302,
        };
        let devices = ["0000:01:10.0", "0000:01:10.2"];
        let to = |cpus: &str| cpus.parse::<CpuSet>().expect("a list of CPUs");
        let mut pinned = one("db", Doing::Paused, &[]);
        pinned.cpus = 2;
        pinned.pin = BTreeMap::from([(0, to("4")), (1, to("5-7"))]);
        let mut partly = pinned.clone();
        partly.cpus = 3;
        assert_eq!((cpus(&pinned).as_str(), cpus(&partly).as_str()), ("2 on 4-7", "3"));
        let mut all = [one("web-1", Doing::Running, &devices), pinned];
        let lines = |all: &[Running], width| -> Vec<String> {
            let lines = table(all).lines(width);
            lines.iter().map(|line| anstream::adapter::strip_str(line).to_string()).collect()
        };
        let narrow = lines(&all, Some(80));
        assert!(narrow.iter().all(|line| line.chars().count() <= 80), "{narrow:#?}");
        all[0].cid = Some(4_294_967_294);
        let with_cid = lines(&all, Some(80));
        assert!(with_cid.iter().all(|line| line.chars().count() <= 80), "{with_cid:#?}");
        let with_cid = lines(&all, None);
        assert!(with_cid[0].contains("CID") && with_cid[1].contains("4294967294"), "{with_cid:#?}");
        all[0].cid = None;
        let lines = lines(&all, None);
        assert!(lines.len() == 3 && !lines[0].contains("CID"), "{lines:#?}");
        assert!(lines[1].contains("running") && lines[1].contains("1 d 2 h"), "{lines:#?}");
        assert!(lines[1].contains("64 GiB") && lines[1].ends_with("0000:01:10.2"), "{lines:#?}");
        assert!(lines[2].contains("paused") && lines[2].ends_with('-'), "{lines:#?}");
    }
}
