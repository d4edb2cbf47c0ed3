//! `-f`: policies and guests from files and folders.

use std::path::PathBuf;

use clap::Args;
use policies::{Documents, Policy};

use crate::failure::{Failure, OwnReason};

/// The files a verb reads.
#[derive(Debug, Clone, Args)]
pub struct Files {
    /// A file or folder of policies and guests, or `-` for standard input; may be repeated.
    #[arg(short, long = "file", value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
}

impl Files {
    /// Reads all of them together.
    ///
    /// # Errors
    /// Everything that is wrong, each with its place.
    pub fn load(&self) -> Result<Documents, Failure> {
        Ok(policies::load(&self.files)?)
    }

    /// The policies among them; guests are left aside.
    ///
    /// # Errors
    /// As [`Files::load`], or there is no policy.
    pub fn policies(&self) -> Result<Vec<Policy>, Failure> {
        let policies = self.load()?.policies;
        if policies.is_empty() {
            let names: Vec<String> =
                self.files.iter().map(|file| file.display().to_string()).collect();
            let message = "holds no `kind: Policy`, and guests need none of this";
            return Err(Failure::bad_input(OwnReason::InvalidDocument, names.join(", "), message)
                .with_remedy("Name a file with a policy; `assign run` starts guests."));
        }
        Ok(policies)
    }
}
