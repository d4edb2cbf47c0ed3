//! `assign recover`: finishes or takes back what an interrupted command left, and returns the devices
//! of guests that are gone.

use std::io::{self, IsTerminal};

use clap::Args;

use super::{Context, Format, output};
use crate::apply::recover::{self, Outcome, Recovered, Told};
use crate::apply::{TakenBack, Went, seen};
use crate::failure::Failure;

/// Arguments of `assign recover`.
#[derive(Debug, Args)]
pub struct Recover {
    /// Make what is left of an interrupted apply instead of taking it back; refused where that does
    /// not fit the host any more.
    #[arg(long)]
    finish: bool,
}

impl Recover {
    pub fn run(&self, context: &Context) -> Result<u8, Failure> {
        let table = context.format == Format::Table;
        let recovered = recover::all(&context.root, &context.state, self.finish, |told| {
            // Progress is for people who watch; what comes of it is said at the end.
            if table && io::stderr().is_terminal() {
                say(told);
            }
        });
        seen::look(&context.root, &context.state);
        let recovered = recovered?;
        output::value(context.format, &recovered)?;
        if table {
            show(&recovered)?;
        }
        Ok(0)
    }
}

fn steps(count: usize) -> String {
    if count == 1 { "1 step".to_owned() } else { format!("{count} steps") }
}

fn say(Told::Found(operation, count, outcome): Told<'_>) {
    let found = format!("`assign {operation}` was interrupted with {} written down", steps(count));
    let next = match outcome {
        Outcome::Nothing => return,
        Outcome::Closed => "on an earlier boot: nothing is left of it",
        Outcome::Finished => "it is finished",
        Outcome::TakenBack => "it is taken back, the last step first:",
    };
    anstream::eprintln!("{found}; {next}");
}

fn show(recovered: &Recovered) -> Result<(), Failure> {
    // On a terminal each step was told as it was made.
    let told = io::stdout().is_terminal() && io::stderr().is_terminal();
    if !told {
        recovered.taken_back.iter().try_for_each(show_step)?;
        recovered.made.iter().try_for_each(|change| output::text_out(&change.to_string()))?;
    }
    for change in &recovered.returned.changes {
        output::text_out(&change.to_string())?;
    }
    for note in &recovered.returned.notes {
        output::text_out(&format!("note: {note}"))?;
    }
    let operation = recovered.operation.as_deref().unwrap_or_default();
    let found = recovered.found.len();
    output::text_out(&match recovered.outcome {
        Outcome::Nothing => "nothing to recover: no command was interrupted".to_owned(),
        Outcome::Closed => format!(
            "`assign {operation}` was interrupted on an earlier boot, and nothing is left of it"
        ),
        Outcome::Finished => match recovered.made.len() {
            0 => {
                format!("`assign {operation}` was interrupted after its last step: it is done now")
            }
            made => format!(
                "`assign {operation}` was interrupted: {} more made, and it is done now",
                steps(made)
            ),
        },
        Outcome::TakenBack => format!(
            "`assign {operation}` was interrupted: it is taken back ({} written down)",
            steps(found)
        ),
    })
}

fn show_step(one: &TakenBack) -> Result<(), Failure> {
    let step = &one.step;
    let because = one.because.as_deref().unwrap_or_default();
    match one.went {
        Went::TakenBack => output::text_out(&format!("taken back: {step}")),
        Went::NothingToDo => output::text_out(&format!("not made: {step}")),
        Went::Left | Went::Failed => output::text_out(&format!("left: {step} ({because})")),
    }
}
