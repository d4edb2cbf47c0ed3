//! `lab-fault SCOPE WHAT [N] -- COMMAND…` runs a command and lets it fail or die at a place of our
//! choice. SCOPE is `host` or `state`. WHAT is `count`, which prints the places; `before` and `after`,
//! which kill it at the N-th, counted from 0; or an errno's number, with which that call fails.
//!
//! Its exit code is the command's, 137 where that was killed, and 99 where it did not come so far.

use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use lab::fault::{self, Fault, How, Scope};

const USAGE: &str = "usage: lab-fault host|state count|before|after|ERRNO [N] -- COMMAND…";

fn main() -> Result<ExitCode> {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let at = arguments.iter().position(|word| word == "--").context(USAGE)?;
    let words = arguments.split_off(at + 1);
    let scope = match arguments.first().map(String::as_str) {
        Some("host") => Scope::Host,
        Some("state") => Scope::State,
        _ => bail!(USAGE),
    };
    let how = match arguments.get(1).map(String::as_str).context(USAGE)? {
        "count" => None,
        "before" => Some(How::KillBefore),
        "after" => Some(How::KillAfter),
        errno => Some(How::Fail(errno.parse().context(USAGE)?)),
    };
    let number = || arguments.get(2).and_then(|word| word.parse().ok()).context(USAGE);
    let fault = how.map(|how| Ok::<Fault, anyhow::Error>(Fault { at: number()?, how }));
    let fault = fault.transpose()?;
    let (program, rest) = words.split_first().context(USAGE)?;
    let mut command = Command::new(program);
    command.args(rest);
    let ran = fault::run(command, scope, fault).context("cannot trace it")?;
    if fault.is_none() {
        ran.points.iter().for_each(|point| println!("{point}"));
    } else if !ran.hit {
        return Ok(ExitCode::from(99));
    }
    Ok(ExitCode::from(ran.code.and_then(|code| u8::try_from(code).ok()).unwrap_or(137)))
}
