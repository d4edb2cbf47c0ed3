//! `assign pause` and `assign resume`: hold a guest's CPUs, and let them go on.

use clap::Args;

use super::{Context, Format, output};
use crate::control::route::Route;
use crate::control::{Nothing, client};
use crate::failure::Failure;

/// Arguments of `assign pause`.
#[derive(Debug, Args)]
pub struct Pause {
    /// The guest's name.
    #[arg(value_name = "GUEST")]
    guest: String,
}

/// Arguments of `assign resume`.
#[derive(Debug, Args)]
pub struct Resume {
    /// The guest's name.
    #[arg(value_name = "GUEST")]
    guest: String,
}

impl Pause {
    pub fn run(&self, context: &Context) -> Result<u8, Failure> {
        ask(context, &self.guest, Route::Pause, "is paused; its devices go on")
    }
}

impl Resume {
    pub fn run(&self, context: &Context) -> Result<u8, Failure> {
        ask(context, &self.guest, Route::Resume, "runs")
    }
}

fn ask(context: &Context, guest: &str, route: Route, told: &str) -> Result<u8, Failure> {
    let done: Nothing = client::ask(&context.root, guest, route, Some(&Nothing {}))?;
    output::value(context.format, &done)?;
    if context.format == Format::Table {
        output::text_out(&format!("{guest} {told}"))?;
    }
    Ok(0)
}
