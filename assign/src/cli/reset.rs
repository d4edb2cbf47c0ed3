//! `assign reset`: has a running guest begin anew.

use clap::Args;

use super::{Context, Format, output};
use crate::control::route::Route;
use crate::control::{Nothing, client};
use crate::failure::Failure;

/// Arguments of `assign reset`.
#[derive(Debug, Args)]
pub struct Reset {
    /// The guest's name.
    #[arg(value_name = "GUEST")]
    guest: String,
}

impl Reset {
    pub fn run(&self, context: &Context) -> Result<u8, Failure> {
        let guest = &self.guest;
        let done: Nothing = client::ask(&context.root, guest, Route::Reset, Some(&Nothing {}))?;
        output::value(context.format, &done)?;
        if context.format == Format::Table {
            output::text_out(&format!("{guest} was reset, and starts again"))?;
        }
        Ok(0)
    }
}
