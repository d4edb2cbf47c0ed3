//! `assign schema`: the language of policies and guests, for editors and other programs.

use clap::{Args, ValueEnum};
use policies::SchemaKind;

use super::{Context, output};
use crate::failure::Failure;

/// Arguments of `assign schema`.
#[derive(Debug, Args)]
pub struct Schema {
    /// Which documents it is for; both where it is left out.
    #[arg(value_enum, value_name = "KIND")]
    kind: Option<Kind>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Kind {
    /// Documents of `kind: Policy`.
    Policy,
    /// Documents of `kind: Guest`.
    Guest,
}

impl Schema {
    pub fn run(&self, context: &Context) -> Result<u8, Failure> {
        let schema = policies::schema(match self.kind {
            Some(Kind::Policy) => SchemaKind::Policy,
            Some(Kind::Guest) => SchemaKind::Guest,
            None => SchemaKind::Both,
        });
        // There is no table of it: without `-o yaml` it is JSON.
        output::text_out(output::serialized(context.format, &schema)?.trim_end())?;
        Ok(0)
    }
}
