//! `assign doctor`: what is in the way, and what to do about it.

use std::path::Path;

use clap::Args;
use serde::Serialize;

use sriov::Scope;

use super::output::style;
use super::output::text::counted;
use super::output::text::printable;
use super::page::hang;
use super::{Context, Format, device, output};
use crate::doctor::{self, Diagnosis, Facts, Finding, Level, StateDirectory, Verdict};
use crate::failure::Failure;

/// Arguments of `assign doctor`.
#[derive(Debug, Args)]
pub struct Doctor {
    /// Say what keeps these devices from a guest: PCI addresses or interface names.
    #[arg(value_name = "DEVICE")]
    devices: Vec<String>,
}

/// Everything that was found, as written for programs.
#[derive(Debug, Serialize)]
struct Report {
    problems: usize,
    warnings: usize,
    host: Vec<Finding>,
    devices: Vec<Diagnosis>,
}

impl Doctor {
    pub fn run(&self, context: &Context) -> Result<u8, Failure> {
        let snapshot = context.snapshot(Scope::Whole);
        let functions = device::find_all(&snapshot, &self.devices)?;
        let leases = context.leases()?;
        let state = context.root.is_live().then(|| state_directory(context.state.directory()));
        let facts = Facts { snapshot: &snapshot, leases: &leases, state: state.as_ref() };
        let devices = functions.into_iter().map(|function| doctor::device(facts, function));
        let report = Report::new(doctor::host(facts), devices.collect());
        output::value(context.format, &report)?;
        if context.format == Format::Table {
            let width = output::width(std::io::stdout()).map(usize::from);
            output::text_out(&report.render(width))?;
        }
        Ok(u8::from(report.problems > 0))
    }
}

/// The nearest directory that is there decides: what is below it would be made.
fn state_directory(path: &Path) -> StateDirectory {
    let there = path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let allowed =
        rustix::fs::access(there, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK);
    let shown = path.display().to_string();
    let error = match allowed {
        _ if !there.is_dir() => Some(format!("{} is no directory", there.display())),
        Ok(()) => None,
        Err(error) => Some(format!("nothing can be written to {}: {error}", there.display())),
    };
    StateDirectory { path: shown, error }
}

impl Report {
    /// With devices, of the host only what is wrong with it and not told of them already.
    fn new(mut host: Vec<Finding>, devices: Vec<Diagnosis>) -> Report {
        if !devices.is_empty() {
            let told = |id| {
                let mut findings = devices.iter().flat_map(|device| &device.findings);
                findings
                    .any(|finding| finding.id == id || (finding.id, id) == ("no-group", "iommu"))
            };
            host.retain(|finding| finding.level == Level::Problem && !told(finding.id));
        }
        let all = || host.iter().chain(devices.iter().flat_map(|device| &device.findings));
        let count = |level| all().filter(|finding| finding.level == level).count();
        let (problems, warnings) = (count(Level::Problem), count(Level::Warning));
        Report { problems, warnings, host, devices }
    }

    /// The report for people, in so many columns or without a bound.
    fn render(&self, width: Option<usize>) -> String {
        let mut blocks: Vec<String> = self.devices.iter().map(|of| diagnosis(of, width)).collect();
        if !self.host.is_empty() {
            let title =
                if self.devices.is_empty() { Vec::new() } else { vec![strong("This host")] };
            let lines: Vec<String> = title.into_iter().chain(findings(&self.host, width)).collect();
            blocks.push(lines.join("\n"));
        }
        blocks.push(self.summary());
        blocks.join("\n\n")
    }

    fn summary(&self) -> String {
        match (self.problems, self.warnings) {
            (0, 0) => "nothing is in the way".to_owned(),
            (problems, warnings) => {
                let problems = counted(problems as u64, "problem");
                format!("{problems}, {}", counted(warnings as u64, "warning"))
            }
        }
    }
}

/// One device: its findings, and what they come to.
fn diagnosis(of: &Diagnosis, width: Option<usize>) -> String {
    let driver = of.driver.as_deref().unwrap_or("no driver");
    let group = match of.iommu_group {
        Some(group) => format!("group {group}"),
        None => "no IOMMU group".to_owned(),
    };
    let title = format!("{} {} ({driver}, {group})", of.address, of.name);
    let mut lines = vec![strong(&title)];
    lines.extend(findings(&of.findings, width));
    lines.push(hang("verdict", COLUMN, &verdict(of), width));
    lines.join("\n")
}

fn verdict(of: &Diagnosis) -> String {
    let text = match of.verdict {
        Verdict::Ready => "it waits for a guest that claims it",
        Verdict::Possible => "it can be given to a guest",
        Verdict::No => "it cannot be given to a guest as the host is now",
    };
    let command = of.command.as_ref();
    let begin = match (of.verdict, command) {
        (_, Some(command)) => format!(". Begin with: {command}"),
        (Verdict::No, None) => ". Begin with the first remedy above".to_owned(),
        (_, None) => String::new(),
    };
    format!("{text}{begin}")
}

/// Where texts begin: after the longest of the levels.
const COLUMN: usize = 9;

/// The worst first; those of a level stay in their order.
fn findings(findings: &[Finding], width: Option<usize>) -> Vec<String> {
    let mut sorted: Vec<&Finding> = findings.iter().collect();
    sorted.sort_by_key(|finding| std::cmp::Reverse(finding.level));
    sorted.into_iter().map(|finding| render(finding, width)).collect()
}

fn render(finding: &Finding, width: Option<usize>) -> String {
    let word = finding.level.word();
    let style = match finding.level {
        Level::Ok => style::GOOD,
        Level::Warning => style::WARNING,
        Level::Problem => style::BAD,
    };
    // In a pipe a finding is one line, with all of it.
    let text = match (&finding.remedy, width) {
        (None, _) => vec![with_evidence(finding)],
        (Some(remedy), None) => vec![format!("{}. {remedy}", with_evidence(finding))],
        (Some(remedy), Some(_)) => {
            vec![finding.title.clone(), finding.evidence.clone(), remedy.clone()]
        }
    };
    let mut lines = Vec::new();
    for (at, text) in text.iter().enumerate() {
        let start = if at == 0 { word } else { "" };
        lines.push(hang(start, COLUMN, text, width));
    }
    let text = lines.join("\n");
    match text.strip_prefix(word) {
        Some(rest) => format!("{style}{word}{style:#}{rest}"),
        None => text,
    }
}

/// What was found, and what it was concluded from: in brackets, unless there are some already.
fn with_evidence(finding: &Finding) -> String {
    let Finding { title, evidence, .. } = finding;
    match title.ends_with(')') || evidence.contains('(') {
        true => format!("{title}: {evidence}"),
        false => format!("{title} ({evidence})"),
    }
}

fn strong(text: &str) -> String {
    format!("{STRONG}{}{STRONG:#}", printable(text), STRONG = style::STRONG)
}

#[cfg(test)]
#[path = "doctor_tests.rs"]
mod tests;
