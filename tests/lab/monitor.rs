//! QEMU's own side of a host: what happens to its hardware, which no program in it can bring about.
//!
//! Spoken is QMP, one JSON object a line (QEMU, docs/interop/qmp-spec.rst).

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

/// How long QEMU may take for an answer.
const ANSWER: Duration = Duration::from_secs(30);

/// The monitor of one machine.
pub(crate) struct Monitor(Mutex<BufReader<UnixStream>>);

impl Monitor {
    /// At our end of a pair of sockets. QEMU need not listen yet.
    pub fn new(socket: UnixStream) -> Result<Self> {
        socket.set_read_timeout(Some(ANSWER)).context("cannot limit a wait for QEMU")?;
        Ok(Monitor(Mutex::new(BufReader::new(socket))))
    }

    /// Has the device with this id in QEMU meet an error, by the name that QEMU's
    /// `pcie_aer_inject_error` has for it, such as `COMP_TIME`.
    pub fn inject_error(&self, device: &str, error: &str) -> Result<()> {
        let line = format!("pcie_aer_inject_error {device} {error}");
        // It says OK where it worked.
        let said = self.said(&line)?;
        ensure!(said.starts_with("OK "), "QEMU did not do `{line}`: {said}");
        Ok(())
    }

    /// The 8 bytes at a physical address, as one little-endian number.
    pub fn physical(&self, address: u64) -> Result<u64> {
        let line = format!("xp /1gx {address:#x}");
        let said = self.said(&line)?;
        // 000000fbfffffff8: 0x6c61737420776f72
        let digits = said.trim().split_once(": 0x").map(|(_, digits)| digits);
        let number = digits.and_then(|digits| u64::from_str_radix(digits, 16).ok());
        number.with_context(|| format!("QEMU did not do `{line}`: {said}"))
    }

    /// Where the processor is, as QEMU tells it: where it is twice in the same place and does not halt, it
    /// spins.
    pub fn processor(&self) -> String {
        let said = self.said("info registers").unwrap_or_else(|error| format!("{error:#}"));
        let of_interest = |line: &&str| line.contains("RIP=") || line.contains("CR3=");
        said.lines().filter(of_interest).collect::<Vec<_>>().join("; ")
    }

    /// What a command for people answers, in words.
    fn said(&self, line: &str) -> Result<String> {
        let said = self.command("human-monitor-command", json!({ "command-line": line }))?;
        Ok(said.as_str().unwrap_or_default().to_owned())
    }

    fn command(&self, name: &str, arguments: Value) -> Result<Value> {
        let mut stream = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Each time, since QEMU does not mind.
        Self::ask(&mut stream, "qmp_capabilities", json!({}))?;
        Self::ask(&mut stream, name, arguments)
    }

    fn ask(stream: &mut BufReader<UnixStream>, name: &str, arguments: Value) -> Result<Value> {
        let request = json!({ "execute": name, "arguments": arguments });
        writeln!(stream.get_mut(), "{request}").context("cannot speak to QEMU")?;
        loop {
            let mut line = String::new();
            let length = stream.read_line(&mut line).context("cannot hear QEMU")?;
            ensure!(length > 0, "QEMU has ended");
            let mut answer: Value = serde_json::from_str(&line).context("QEMU speaks no JSON")?;
            if let Some(result) = answer.get_mut("return") {
                return Ok(result.take());
            }
            // Asked for a second time, where nothing else is wrong.
            if name == "qmp_capabilities" && answer.get("error").is_some() {
                return Ok(Value::Null);
            }
            if let Some(error) = answer.get("error") {
                bail!("QEMU refuses {name}: {error}");
            }
            // Its greeting, or an event.
        }
    }
}
