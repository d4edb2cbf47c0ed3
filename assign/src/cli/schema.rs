//! `assign schema`: the language of policies and guests, that of the control socket, and what events of
//! guests hold, for editors and other programs.

use clap::{Args, ValueEnum};
use policies::SchemaKind;

use super::{Context, output};
use crate::control::route::OPENAPI;
use crate::failure::Failure;
use crate::history;

/// Arguments of `assign schema`.
#[derive(Debug, Args)]
pub struct Schema {
    /// What it is of; policies and guests where it is left out.
    #[arg(value_enum, value_name = "KIND")]
    kind: Option<Kind>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Kind {
    /// Documents of `kind: Policy`.
    Policy,
    /// Documents of `kind: Guest`.
    Guest,
    /// The control socket of a running guest, in OpenAPI.
    Control,
    /// What happens to guests: the lines of `assign events --guests -o json`.
    Events,
}

impl Schema {
    pub fn run(&self, context: &Context) -> Result<u8, Failure> {
        let schema = match self.kind {
            Some(Kind::Policy) => policies::schema(SchemaKind::Policy),
            Some(Kind::Guest) => policies::schema(SchemaKind::Guest),
            None => policies::schema(SchemaKind::Both),
            // These are part of this program, and tests read them.
            Some(Kind::Control) => serde_json::from_str(OPENAPI).unwrap_or_default(),
            Some(Kind::Events) => serde_json::from_str(history::SCHEMA).unwrap_or_default(),
        };
        // There is no table of it: without `-o yaml` it is JSON.
        output::text_out(output::serialized(context.format, &schema)?.trim_end())?;
        Ok(0)
    }
}
