//! `assign remove`: takes back exactly what applying policies changed.

use clap::Args;

use super::{Context, Files, apply};
use crate::apply::policies;
use crate::failure::Failure;

/// Arguments of `assign remove`.
#[derive(Debug, Args)]
pub struct Remove {
    #[command(flatten)]
    files: Files,
}

impl Remove {
    pub fn run(&self, context: &Context) -> Result<u8, Failure> {
        let policies = self.files.policies()?;
        let names: Vec<String> = policies.into_iter().map(|policy| policy.name).collect();
        let report = policies::remove(&context.root, &context.state, &names)?;
        apply::show(context, &report, "nothing to do: the policies changed nothing that is left")?;
        Ok(0)
    }
}
