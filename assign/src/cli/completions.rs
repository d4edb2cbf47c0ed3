//! `assign completions`: what a shell needs to complete commands, options and live devices.
//!
//! The script is small and never grows old: at each Tab it asks `assign __complete` with the words
//! typed so far, and gets one line for each way to go on. A first line says whether those are the
//! words themselves, or files or folders, which shells complete better than we could.

use std::ffi::OsString;

use clap::{Args, ValueEnum};

use super::{Context, output};
use crate::failure::Failure;

mod candidates;
mod line;

/// Arguments of `assign completions`.
#[derive(Debug, Args)]
pub struct Completions {
    /// The shell.
    #[arg(value_enum, value_name = "SHELL")]
    shell: Shell,
}

/// Shells that are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Shell {
    /// Bash 4.4 or newer.
    Bash,
    /// Zsh.
    Zsh,
    /// Fish.
    Fish,
}

impl Completions {
    pub fn run(&self, _context: &Context) -> Result<u8, Failure> {
        let script = match self.shell {
            Shell::Bash => include_str!("completions/assign.bash"),
            Shell::Zsh => include_str!("completions/assign.zsh"),
            Shell::Fish => include_str!("completions/assign.fish"),
        };
        output::text_out(script.trim_end())?;
        Ok(0)
    }
}

/// Arguments of `assign __complete`.
#[derive(Debug, Args)]
pub struct Complete {
    /// The words typed so far, without the command's own; the last is being typed.
    #[arg(value_name = "WORD", allow_hyphen_values = true, trailing_var_arg = true)]
    words: Vec<OsString>,
}

impl Complete {
    pub fn run(&self, _context: &Context) -> Result<u8, Failure> {
        let words: Vec<String> =
            self.words.iter().map(|word| word.to_string_lossy().into_owned()).collect();
        let mut command = super::command();
        command.build();
        output::text_out(&line::complete(&command, &words).to_string())?;
        Ok(0)
    }
}
