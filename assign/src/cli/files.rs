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

/// The files of a verb that can do without.
#[derive(Debug, Clone, Default, Args)]
pub struct MaybeFiles {
    /// A file or folder of policies, or `-` for standard input; may be repeated. Without it, every
    /// policy that was applied.
    #[arg(short, long = "file", value_name = "FILE")]
    pub files: Vec<PathBuf>,
}

/// Where policies come from.
#[derive(Debug)]
pub enum Source {
    /// From files that were named.
    Files(Vec<Policy>),
    /// From what was applied.
    Applied,
}

impl Files {
    /// Reads all of them together.
    ///
    /// # Errors
    /// Everything that is wrong, each with its place.
    pub fn load(&self) -> Result<Documents, Failure> {
        Ok(policies::load(&self.files)?)
    }

    /// The texts of all of them, in order, unparsed.
    ///
    /// # Errors
    /// What cannot be read.
    pub fn sources(&self) -> Result<Vec<policies::Source>, Failure> {
        Ok(policies::sources(&self.files)?)
    }

    /// These policies of the files.
    ///
    /// # Errors
    /// There is none.
    pub fn some(&self, policies: Vec<Policy>) -> Result<Vec<Policy>, Failure> {
        some(&self.files, policies)
    }

    /// The policies among them; guests are left aside.
    ///
    /// # Errors
    /// As [`Files::load`], or there is no policy.
    pub fn policies(&self) -> Result<Vec<Policy>, Failure> {
        some(&self.files, self.load()?.policies)
    }
}

impl MaybeFiles {
    /// The policies of the files, where some are named.
    ///
    /// # Errors
    /// As [`Files::policies`].
    pub fn policies(&self) -> Result<Source, Failure> {
        match self.files.is_empty() {
            true => Ok(Source::Applied),
            false => some(&self.files, policies::load(&self.files)?.policies).map(Source::Files),
        }
    }
}

fn some(files: &[PathBuf], policies: Vec<Policy>) -> Result<Vec<Policy>, Failure> {
    if !policies.is_empty() {
        return Ok(policies);
    }
    let names: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
    let message = "holds no `kind: Policy`, and none is applied that this could be about";
    Err(Failure::bad_input(OwnReason::InvalidDocument, names.join(", "), message)
        .with_remedy("Name a file with a policy; `assign run` starts guests."))
}
