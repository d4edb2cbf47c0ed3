//! `lab-clock COMMAND…` runs a command and puts in front of each line that it prints how many seconds
//! after its start the line came, by the monotonic clock.

use std::io::{BufRead, BufReader, Write, stdout};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context, Result};

fn main() -> Result<ExitCode> {
    let mut words = std::env::args_os().skip(1);
    let program = words.next().context("which command?")?;
    let begun = Instant::now();
    let mut child = Command::new(&program)
        .args(words)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {}", program.display()))?;
    let output = BufReader::new(child.stdout.take().context("its output")?);
    for line in output.split(b'\n') {
        let (line, after) = (line?, begun.elapsed());
        let mut out = stdout().lock();
        write!(out, "{:.4} ", after.as_secs_f64())?;
        out.write_all(line.trim_ascii_end())?;
        out.write_all(b"\n")?;
    }
    let code = child.wait()?.code().and_then(|code| u8::try_from(code).ok());
    Ok(ExitCode::from(code.unwrap_or(255)))
}
