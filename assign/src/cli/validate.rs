//! `assign validate`: checks policies and guests without looking at this host.

use clap::Args;
use policies::{Documents, Guest, Policy};
use serde::Serialize;

use super::{Context, Format, output};
use crate::failure::Failure;

/// Arguments of `assign validate`.
#[derive(Debug, Args)]
pub struct Validate {
    /// Files and folders, or `-` for standard input.
    #[arg(value_name = "FILE", required = true)]
    files: Vec<std::path::PathBuf>,
}

/// What one file holds.
#[derive(Debug, Serialize)]
struct Checked {
    file: String,
    policies: Vec<Policy>,
    guests: Vec<Guest>,
}

impl Validate {
    pub fn run(&self, context: &Context) -> Result<u8, Failure> {
        let checked: Vec<Checked> = policies::load_each(&self.files)?
            .into_iter()
            .map(|(file, Documents { policies, guests })| Checked { file, policies, guests })
            .collect();
        output::value(context.format, &checked)?;
        if context.format == Format::Table {
            for file in &checked {
                output::text_out(&format!("{}: ok: {}", file.file, summary(file)))?;
            }
        }
        Ok(0)
    }
}

/// "1 policy with 2 pools, 3 guests".
fn summary(file: &Checked) -> String {
    let pools = file.policies.iter().map(|policy| policy.pools.len()).sum();
    let mut parts = Vec::new();
    if !file.policies.is_empty() {
        let policies = count(file.policies.len(), "policy", "policies");
        parts.push(format!("{policies} with {}", count(pools, "pool", "pools")));
    }
    if !file.guests.is_empty() {
        parts.push(count(file.guests.len(), "guest", "guests"));
    }
    parts.join(", ")
}

fn count(number: usize, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}
