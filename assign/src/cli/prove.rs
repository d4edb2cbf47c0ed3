//! `assign prove`: shows that a device reaches the memory that is mapped for it and no other.

use clap::Args;
use sriov::dma_fault::Access;
use sriov::{HostSnapshot, Reason};

use super::output::{self, style};
use super::{Context, Format, device};
use crate::failure::Failure;
use crate::prove::{self, Outcome, Place, Report, Step, Verdict};

/// Arguments of `assign prove`.
#[derive(Debug, Args)]
pub struct Prove {
    /// A PCI address. The device must be bound to vfio-pci, and no guest may have it.
    #[arg(value_name = "DEVICE")]
    device: String,
}

impl Prove {
    pub fn run(&self, context: &Context) -> Result<u8, Failure> {
        if !context.root.is_live() {
            let message = "devices can be driven on this host only, not on a recorded one";
            return Err(Failure::bad_input(Reason::NotThisHost, "--root", message)
                .with_remedy("Leave it out."));
        }
        let host = HostSnapshot::read(&context.root);
        let function = device::find(&host, &self.device)?;
        let told = |step: &Step| {
            if context.format == Format::Table {
                output::text_out(&line(step)).ok();
            }
        };
        let report = prove::prove(&context.root, &context.state, function, &host, &told)?;
        output::value(context.format, &report)?;
        if context.format == Format::Table {
            show(&report)?;
        }
        Ok(if report.verdict == Verdict::Isolated { 0 } else { 1 })
    }
}

/// `write  0x1000000    memory mapped for it             arrived`
fn line(step: &Step) -> String {
    let access = match step.access {
        Access::Read => "read",
        Access::Write => "write",
    };
    let place = match step.place {
        Place::Mapped => "memory mapped for it",
        Place::Translated => "mapped at that memory's physical address",
        Place::Before => "before it, nothing mapped",
        Place::Behind => "behind it, nothing mapped",
        Place::Physical => "its physical address, nothing mapped",
        Place::TakenAway => "its own, taken away by now",
    };
    let (outcome, color) = match step.outcome {
        Outcome::Arrived => ("arrived", style::GOOD),
        Outcome::Lost => ("did not arrive", style::WARNING),
        Outcome::Blocked => ("blocked, and the fault told", style::GOOD),
        Outcome::Untold => ("did not arrive, and no fault told", style::WARNING),
        Outcome::Reached => ("REACHED memory that is not its own", style::BAD),
    };
    format!("{access:5}  {:<12}  {place:<40}  {color}{outcome}{color:#}", step.address.to_string())
}

fn show(report: &Report) -> Result<(), Failure> {
    for note in &report.notes {
        output::text_out(&output::paragraph(&format!("note: {note}")))?;
    }
    let (verdict, color, meaning) = match report.verdict {
        Verdict::Isolated => {
            ("isolated", style::GOOD, "it reached what is mapped for it, and nothing else")
        }
        Verdict::NotIsolated => {
            ("NOT isolated", style::BAD, "give it to no guest, and run `assign doctor`")
        }
        Verdict::NotShown => (
            "not shown",
            style::WARNING,
            "the device was not seen to reach what it must not, but not each step went as it has to",
        ),
    };
    let Report { device, engine, .. } = report;
    output::text_out(&format!("{device} ({engine}): {color}{verdict}{color:#}: {meaning}"))
}
