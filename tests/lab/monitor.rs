//! QEMU's own side of a host: what happens to its hardware, which no program in it can bring about.
//!
//! Spoken is QMP, one JSON object a line (QEMU, docs/interop/qmp-spec.rst).

use std::fmt;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::{Value, json};

/// How long QEMU may take for an answer.
const ANSWER: Duration = Duration::from_secs(30);

/// How often, and how far apart, a processor is looked at to see whether it spins.
const LOOKS: usize = 20;
const BETWEEN_LOOKS: Duration = Duration::from_millis(100);

/// Bytes of instructions that a loop without a call keeps to.
const LOOP: u64 = 256;

/// The monitor of one machine.
pub(crate) struct Monitor(Mutex<Stream>);

struct Stream {
    socket: BufReader<UnixStream>,
    /// The number of the last request: an answer that came too late for its own is nobody's.
    last: u64,
}

/// Where a processor was when it was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    instruction: u64,
    privilege: u8,
    interrupts: bool,
    halted: bool,
}

impl Monitor {
    /// At our end of a pair of sockets. QEMU need not listen yet.
    pub fn new(socket: UnixStream) -> Result<Self> {
        socket.set_read_timeout(Some(ANSWER)).context("cannot limit a wait for QEMU")?;
        Ok(Monitor(Mutex::new(Stream { socket: BufReader::new(socket), last: 0 })))
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

    /// Where the first processor is, some times in two seconds. Less often, or never, where QEMU does not
    /// answer.
    pub fn places(&self) -> Vec<Place> {
        let look = |_| {
            thread::sleep(BETWEEN_LOOKS);
            self.said("info registers").ok().as_deref().and_then(Place::parse)
        };
        // Who does not answer once is not asked for ten minutes.
        (0..LOOKS).map_while(look).collect()
    }

    /// What a command for people answers, in words.
    fn said(&self, line: &str) -> Result<String> {
        let said = self.command("human-monitor-command", json!({ "command-line": line }))?;
        Ok(said.as_str().unwrap_or_default().to_owned())
    }

    fn command(&self, name: &str, arguments: Value) -> Result<Value> {
        let mut stream = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Each time, since QEMU does not mind.
        let _ = stream.ask("qmp_capabilities", json!({}))?;
        let answer = stream.ask(name, arguments)?;
        answer.map_err(|error| anyhow!("QEMU refuses {name}: {error}"))
    }
}

impl Stream {
    /// What QEMU answers, or its error.
    fn ask(&mut self, name: &str, arguments: Value) -> Result<Result<Value, Value>> {
        self.last += 1;
        let request = json!({ "execute": name, "arguments": arguments, "id": self.last });
        writeln!(self.socket.get_mut(), "{request}").context("cannot speak to QEMU")?;
        loop {
            let mut line = String::new();
            let length = self.socket.read_line(&mut line).context("cannot hear QEMU")?;
            ensure!(length > 0, "QEMU has ended");
            let mut answer: Value = serde_json::from_str(&line).context("QEMU speaks no JSON")?;
            if answer.get("id").and_then(Value::as_u64) != Some(self.last) {
                // Its greeting, an event, or an answer that came too late.
                continue;
            }
            if let Some(result) = answer.get_mut("return") {
                return Ok(Ok(result.take()));
            }
            let error = answer.get_mut("error").context("QEMU neither returns nor refuses")?;
            return Ok(Err(error.take()));
        }
    }
}

impl Place {
    /// Of what `info registers` prints.
    fn parse(registers: &str) -> Option<Self> {
        let after = |names: &[&str]| {
            let found = names.iter().find_map(|name| registers.split_once(name));
            found.and_then(|(_, rest)| rest.split([' ', '\r', '\n']).next())
        };
        let instruction = u64::from_str_radix(after(&["RIP=", "EIP="])?, 16).ok()?;
        let flags = u64::from_str_radix(after(&["RFL=", "EFL="])?, 16).ok()?;
        let privilege = after(&["CPL="])?.parse().ok()?;
        let halted = after(&["HLT="])? == "1";
        Some(Place { instruction, privilege, interrupts: flags & 1 << 9 != 0, halted })
    }

    /// Whether a processor that was at these places spins in a kernel with interrupts forbidden: hardly
    /// ever elsewhere than in one loop. A host that answers all the same is interrupted, so that it is
    /// its guest that does so.
    pub fn spins(places: &[Place]) -> bool {
        let silent: Vec<u64> = places
            .iter()
            .filter(|place| place.privilege == 0 && !place.interrupts && !place.halted)
            .map(|place| place.instruction)
            .collect();
        let most = silent
            .iter()
            .map(|from| silent.iter().filter(|at| (*from..from + LOOP).contains(at)).count())
            .max();
        places.len() == LOOKS && most.is_some_and(|most| most >= LOOKS * 3 / 4)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Place { instruction, privilege, interrupts, halted } = self;
        write!(f, "{instruction:#x} in ring {privilege}")?;
        f.write_str(if *interrupts { "" } else { ", interrupts off" })?;
        f.write_str(if *halted { ", halted" } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REGISTERS: &str = "\r\nCPU#0\r\nRAX=0000000000000001 RBX=0000000000000000\r\n\
                             RIP=ffffffff810d3d2a RFL=00000046 [---Z-P-] CPL=0 II=0 A20=1 SMM=0 \
                             HLT=0\r\nES =0000";

    #[test]
    fn a_place_is_read_from_the_registers_that_qemu_prints() {
        let place = Place::parse(REGISTERS).expect("it is there");
        assert_eq!(place.to_string(), "0xffffffff810d3d2a in ring 0, interrupts off");
        let narrow = "EIP=00012839 EFL=00000246 [---Z-P-] CPL=3 II=0 A20=1 SMM=0 HLT=1\r\n";
        let place = Place::parse(narrow).expect("it is there");
        assert_eq!(place.to_string(), "0x12839 in ring 3, halted");
        assert_eq!(Place::parse("No CPU"), None);
    }

    #[test]
    fn a_processor_spins_that_stays_in_one_loop_with_interrupts_off() {
        let at = |instruction, interrupts, halted| Place {
            instruction,
            privilege: 0,
            interrupts,
            halted,
        };
        let of = |one: &dyn Fn(u64) -> Place| (0..LOOKS as u64).map(one).collect::<Vec<_>>();
        let host = at(0xffff_ffff_8100_0000, true, false);
        let mostly = |there: Place, n: u64| move |i: u64| if i < n { there } else { host };
        let loops = at(0xffff_ffff_810d_3d2a, false, false);
        assert!(Place::spins(&of(&mostly(loops, 15))));
        assert!(!Place::spins(&of(&mostly(loops, 14))));
        assert!(Place::spins(&of(&|i| at(0x1000 + i * 8, false, false))));
        assert!(!Place::spins(&of(&|i| at(0x1000 + i * 64, false, false))));
        assert!(!Place::spins(&of(&|_| at(0x1000, false, true))));
        assert!(!Place::spins(&of(&|_| at(0x1000, true, false))));
        assert!(!Place::spins(&[loops]), "one look tells nothing");
    }

    #[test]
    fn an_answer_that_came_too_late_is_not_taken_for_the_next() {
        let (ours, mut qemus) = UnixStream::pair().expect("a pair of sockets");
        qemus
            .write_all(
                b"{\"QMP\": {}}\n{\"return\": \"late\", \"id\": 0}\n\
                  {\"error\": {}, \"id\": 1}\n{\"event\": \"STOP\"}\n\
                  {\"return\": \"00000000: 0x2a\", \"id\": 2}\n",
            )
            .expect("it fits");
        assert_eq!(Monitor::new(ours).expect("a monitor").physical(0).expect("a number"), 42);
    }
}
