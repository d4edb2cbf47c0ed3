//! `assign remove`: takes back exactly what applying policies changed.

use clap::Args;

use super::files::{MaybeFiles, Source};
use super::{Context, apply};
use crate::apply::policies;
use crate::failure::{Failure, OwnReason};

/// Arguments of `assign remove`.
#[derive(Debug, Args)]
pub struct Remove {
    /// Names of policies that were applied.
    #[arg(value_name = "NAME", required_unless_present = "files")]
    names: Vec<String>,
    #[command(flatten)]
    files: MaybeFiles,
}

impl Remove {
    pub fn run(&self, context: &Context) -> Result<u8, Failure> {
        self.check_names(context)?;
        let mut names = self.names.clone();
        if let Source::Files(policies) = self.files.policies()? {
            names.extend(policies.into_iter().map(|policy| policy.name));
        }
        let report = policies::remove(&context.root, &context.state, &names)?;
        apply::show(context, &report, "nothing to do: the policies changed nothing that is left")?;
        Ok(0)
    }

    /// A name that was typed is meant; a file may well be of a policy that is removed already.
    fn check_names(&self, context: &Context) -> Result<(), Failure> {
        let applied = context.state.applied()?;
        let is_unknown = |name: &&String| applied.iter().all(|one| one.policy.name != **name);
        let Some(name) = self.names.iter().find(is_unknown) else { return Ok(()) };
        let known: Vec<&str> = applied.iter().map(|one| one.policy.name.as_str()).collect();
        let remedy = match known.is_empty() {
            true => "No policy is applied.".to_owned(),
            false => format!("Applied are: {}.", known.join(", ")),
        };
        let message = "no policy of this name is applied";
        Err(Failure::bad_input(OwnReason::NotApplied, name, message).with_remedy(remedy))
    }
}
