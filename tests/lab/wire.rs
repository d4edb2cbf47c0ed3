//! What the lab and its agent say to each other.
//!
//! The two sit at the ends of a virtio serial port, which is a plain stream of bytes. Each message
//! is a frame: a length (4 bytes, little-endian), then that many bytes, the first of which says
//! what the rest is. A frame is at most [`MAX_FRAME`] long, so that a damaged length is an error
//! and not an allocation of gigabytes; whoever has more to say sends several frames.
//!
//! Files need no messages of their own: reading one is running `cat`, writing one is running
//! `cat > FILE` with its content as standard input.

use std::io::{self, Read, Write};

/// The version of this protocol; the agent states it in its first message.
pub const VERSION: u32 = 2;

/// The longest frame, in bytes, without its length field.
pub const MAX_FRAME: usize = 256 * 1024;

/// How much of a command's input or output one frame carries at most.
pub const CHUNK: usize = 64 * 1024;

/// What the lab asks of the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Start a command; `id` names it in every later message.
    Start {
        /// Chosen by the lab, never used twice.
        id: u32,
        /// The program and its arguments.
        argv: Vec<String>,
        /// Variables added to the agent's own environment.
        env: Vec<(String, String)>,
        /// Run it on a terminal of this many columns, in place of pipes.
        terminal: Option<u16>,
    },
    /// Bytes for the command's standard input.
    Stdin {
        /// The command.
        id: u32,
        /// At most [`CHUNK`] bytes.
        bytes: Vec<u8>,
    },
    /// End of the command's standard input.
    CloseStdin {
        /// The command.
        id: u32,
    },
    /// Send a signal to the command and to everything in its process group.
    Signal {
        /// The command.
        id: u32,
        /// The signal's number.
        signal: i32,
    },
}

/// What the agent reports to the lab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The agent is ready.
    Hello {
        /// Its [`VERSION`].
        version: u32,
    },
    /// The command wrote to standard output.
    Stdout {
        /// The command.
        id: u32,
        /// At most [`CHUNK`] bytes.
        bytes: Vec<u8>,
    },
    /// The command wrote to standard error.
    Stderr {
        /// The command.
        id: u32,
        /// At most [`CHUNK`] bytes.
        bytes: Vec<u8>,
    },
    /// The command has ended, and all its output was reported.
    Exit {
        /// The command.
        id: u32,
        /// How it ended.
        end: End,
    },
    /// The command could not be started.
    Failed {
        /// The command.
        id: u32,
        /// The cause.
        message: String,
    },
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// With this exit code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            End::Code(code) => write!(f, "exit code {code}"),
            End::Signal(signal) => write!(f, "killed by signal {signal}"),
        }
    }
}

/// A message that can be sent in a frame.
pub trait Message: Sized {
    /// The frame's content.
    fn encode(&self) -> Vec<u8>;
    /// Reads a frame's content; every byte of it must be used.
    fn decode(bytes: &[u8]) -> io::Result<Self>;

    /// Writes one frame. Fails with `InvalidInput` if the message is longer than [`MAX_FRAME`].
    fn send(&self, to: &mut impl Write) -> io::Result<()> {
        let content = self.encode();
        if content.len() > MAX_FRAME {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("a message of {} bytes does not fit a frame of {MAX_FRAME}", content.len()),
            ));
        }
        let mut frame = Vec::with_capacity(content.len() + 4);
        frame.extend_from_slice(&(content.len() as u32).to_le_bytes());
        frame.extend_from_slice(&content);
        // One write for the whole frame, so that two writers under one lock never mix.
        to.write_all(&frame)?;
        to.flush()
    }

    /// Reads one frame; `None` at the end of the stream. A stream that ends inside a frame is
    /// `UnexpectedEof`, a frame that makes no sense is `InvalidData`.
    fn receive(from: &mut impl Read) -> io::Result<Option<Self>> {
        let mut length = [0; 4];
        let mut have = 0;
        while have < length.len() {
            match from.read(&mut length[have..])? {
                0 if have == 0 => return Ok(None),
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => have += read,
            }
        }
        let length = u32::from_le_bytes(length) as usize;
        if length > MAX_FRAME {
            return Err(invalid(format!(
                "a frame of {length} bytes; at most {MAX_FRAME} are sent"
            )));
        }
        let mut content = vec![0; length];
        from.read_exact(&mut content)?;
        Self::decode(&content).map(Some)
    }
}

fn invalid(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

/// Builds a frame's content.
struct Encoder(Vec<u8>);

impl Encoder {
    fn new(kind: u8, id: u32) -> Self {
        Encoder(vec![kind]).number(id)
    }
    fn number(mut self, number: u32) -> Self {
        self.0.extend_from_slice(&number.to_le_bytes());
        self
    }
    fn text(mut self, text: &str) -> Self {
        self = self.number(text.len() as u32);
        self.0.extend_from_slice(text.as_bytes());
        self
    }
    fn rest(mut self, bytes: &[u8]) -> Vec<u8> {
        self.0.extend_from_slice(bytes);
        self.0
    }
}

/// Takes a frame's content apart.
struct Decoder<'a>(&'a [u8]);

impl<'a> Decoder<'a> {
    fn take(&mut self, count: usize) -> io::Result<&'a [u8]> {
        let (taken, rest) = self
            .0
            .split_at_checked(count)
            .ok_or_else(|| invalid("a frame ends in the middle of a field"))?;
        self.0 = rest;
        Ok(taken)
    }
    fn kind(&mut self) -> io::Result<u8> {
        Ok(self.take(1)?[0])
    }
    fn number(&mut self) -> io::Result<u32> {
        let bytes = self.take(4)?.try_into().map_err(|_| invalid("a number has four bytes"))?;
        Ok(u32::from_le_bytes(bytes))
    }
    fn text(&mut self) -> io::Result<String> {
        let length = self.number()? as usize;
        let bytes = self.take(length)?.to_vec();
        String::from_utf8(bytes).map_err(|_| invalid("a text that is not UTF-8"))
    }
    fn rest(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.0).to_vec()
    }
    fn end(&self) -> io::Result<()> {
        if self.0.is_empty() { Ok(()) } else { Err(invalid("a frame longer than its message")) }
    }
}

impl Message for Request {
    fn encode(&self) -> Vec<u8> {
        match self {
            Request::Start { id, argv, env, terminal } => {
                // A terminal has at least one column, so none stands for no terminal.
                let columns = u32::from(terminal.unwrap_or(0));
                let mut out = Encoder::new(1, *id).number(columns).number(argv.len() as u32);
                for argument in argv {
                    out = out.text(argument);
                }
                out = out.number(env.len() as u32);
                for (name, value) in env {
                    out = out.text(name).text(value);
                }
                out.rest(&[])
            }
            Request::Stdin { id, bytes } => Encoder::new(2, *id).rest(bytes),
            Request::CloseStdin { id } => Encoder::new(3, *id).rest(&[]),
            Request::Signal { id, signal } => Encoder::new(4, *id).number(*signal as u32).rest(&[]),
        }
    }

    fn decode(bytes: &[u8]) -> io::Result<Self> {
        let mut from = Decoder(bytes);
        let kind = from.kind()?;
        let id = from.number()?;
        let request = match kind {
            // Counts are not trusted for allocation: each turn of the loop must find its bytes.
            1 => {
                let columns = u16::try_from(from.number()?);
                let columns = columns.map_err(|_| invalid("a terminal wider than 65535"))?;
                let mut argv = Vec::new();
                for _ in 0..from.number()? {
                    argv.push(from.text()?);
                }
                let mut env = Vec::new();
                for _ in 0..from.number()? {
                    env.push((from.text()?, from.text()?));
                }
                Request::Start { id, argv, env, terminal: Some(columns).filter(|&n| n > 0) }
            }
            2 => Request::Stdin { id, bytes: from.rest() },
            3 => Request::CloseStdin { id },
            4 => Request::Signal { id, signal: from.number()? as i32 },
            other => return Err(invalid(format!("request {other} is not known"))),
        };
        from.end()?;
        Ok(request)
    }
}

impl Message for Event {
    fn encode(&self) -> Vec<u8> {
        match self {
            Event::Hello { version } => Encoder::new(1, *version).rest(&[]),
            Event::Stdout { id, bytes } => Encoder::new(2, *id).rest(bytes),
            Event::Stderr { id, bytes } => Encoder::new(3, *id).rest(bytes),
            Event::Exit { id, end: End::Code(code) } => {
                Encoder::new(4, *id).number(*code as u32).rest(&[])
            }
            Event::Exit { id, end: End::Signal(signal) } => {
                Encoder::new(5, *id).number(*signal as u32).rest(&[])
            }
            Event::Failed { id, message } => Encoder::new(6, *id).text(message).rest(&[]),
        }
    }

    fn decode(bytes: &[u8]) -> io::Result<Self> {
        let mut from = Decoder(bytes);
        let kind = from.kind()?;
        let id = from.number()?;
        let event = match kind {
            1 => Event::Hello { version: id },
            2 => Event::Stdout { id, bytes: from.rest() },
            3 => Event::Stderr { id, bytes: from.rest() },
            4 => Event::Exit { id, end: End::Code(from.number()? as i32) },
            5 => Event::Exit { id, end: End::Signal(from.number()? as i32) },
            6 => Event::Failed { id, message: from.text()? },
            other => return Err(invalid(format!("event {other} is not known"))),
        };
        from.end()?;
        Ok(event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requests() -> Vec<Request> {
        vec![
            Request::Start {
                id: 7,
                argv: vec!["sh".into(), "-c".into(), "echo ß".into()],
                env: vec![("A".into(), "".into()), ("B".into(), "x=y".into())],
                terminal: None,
            },
            Request::Start { id: 8, argv: vec![], env: vec![], terminal: Some(80) },
            Request::Stdin { id: 7, bytes: vec![0, 255, 10] },
            Request::CloseStdin { id: 7 },
            Request::Signal { id: u32::MAX, signal: 9 },
        ]
    }

    fn events() -> Vec<Event> {
        vec![
            Event::Hello { version: VERSION },
            Event::Stdout { id: 1, bytes: vec![1; CHUNK] },
            Event::Stderr { id: 1, bytes: vec![] },
            Event::Exit { id: 1, end: End::Code(-1) },
            Event::Exit { id: 1, end: End::Signal(15) },
            Event::Failed { id: 2, message: "no such file".into() },
        ]
    }

    fn survives<M: Message + PartialEq + std::fmt::Debug>(messages: Vec<M>) {
        let mut stream = Vec::new();
        for message in &messages {
            message.send(&mut stream).unwrap();
        }
        let mut from = stream.as_slice();
        for message in messages {
            assert_eq!(M::receive(&mut from).unwrap(), Some(message));
        }
        assert_eq!(M::receive(&mut from).unwrap(), None);
    }

    #[test]
    fn messages_arrive_as_sent() {
        survives(requests());
        survives(events());
    }

    #[test]
    fn a_message_cut_anywhere_is_an_error() {
        for request in requests() {
            let mut whole = Vec::new();
            request.send(&mut whole).unwrap();
            for length in 1..whole.len() {
                let error = Request::receive(&mut &whole[..length]).unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
            }
            // The same with a length field that agrees with the cut: the content itself is short.
            let content = request.encode();
            for length in 0..content.len() {
                if !matches!(request, Request::Stdin { .. }) {
                    assert!(Request::decode(&content[..length]).is_err());
                }
            }
        }
    }

    #[test]
    fn a_frame_that_is_too_long_is_refused_before_it_is_read() {
        let mut from = [0xff, 0xff, 0xff, 0x7f].as_slice();
        assert_eq!(Event::receive(&mut from).unwrap_err().kind(), io::ErrorKind::InvalidData);
        let message = Event::Stdout { id: 1, bytes: vec![0; MAX_FRAME] };
        assert_eq!(message.send(&mut Vec::new()).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn counts_that_promise_too_much_are_errors() {
        let mut content = vec![1, 0, 0, 0, 0, 0, 0, 0, 0];
        content.extend_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(Request::decode(&content).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert!(Request::decode(&[9, 0, 0, 0, 0]).is_err());
        assert!(Request::decode(&[3, 0, 0, 0, 0, 0]).is_err());
    }
}
