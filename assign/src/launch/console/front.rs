//! Our own standard input and output as the guest's console.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::io::Errno;

use crate::terminal::{self, Typed};

/// What a pipe takes at once when it says that it takes something (`PIPE_BUF`), so that a write of
/// no more does not block.
const AT_ONCE: usize = 4096;

/// Our standard input and output.
#[derive(Debug)]
pub struct Front {
    input: Input,
    /// Whether anybody still reads it.
    has_output: bool,
    /// What the guest has printed and nobody has taken yet.
    held: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Input {
    Terminal,
    Stream,
    None,
}

impl Front {
    /// As they are.
    pub fn new() -> Front {
        let input = match (terminal::is_ours(), io::IsTerminal::is_terminal(&io::stdin())) {
            (true, _) => Input::Terminal,
            // Of a job in the background.
            (false, true) => Input::None,
            (false, false) => Input::Stream,
        };
        Front { input, has_output: true, held: Vec::new() }
    }

    /// Standard input, where it is to be read. What is piped in waits until the guest has room
    /// for it; a terminal does not, since the key to leave must work.
    pub fn input(&self, has_room: bool) -> Option<BorrowedFd<'static>> {
        let reads = match self.input {
            Input::Terminal => true,
            Input::Stream => has_room,
            Input::None => false,
        };
        reads.then(rustix::stdio::stdin)
    }

    /// Takes what is there to be read.
    pub fn read(&mut self) -> Typed {
        if self.input == Input::Terminal {
            let typed = terminal::typed();
            if typed.leaves {
                self.input = Input::None;
            }
            return typed;
        }
        let mut bytes = vec![0; AT_ONCE];
        let count = match rustix::io::read(rustix::stdio::stdin(), &mut bytes) {
            Ok(count) if count > 0 => count,
            Err(Errno::AGAIN | Errno::INTR) => 0,
            // Nothing more will come, and the guest goes on.
            Ok(_) | Err(_) => {
                self.input = Input::None;
                0
            }
        };
        bytes.truncate(count);
        Typed { bytes, leaves: false }
    }

    /// Standard output, where something waits to be taken.
    pub fn output(&self) -> Option<BorrowedFd<'static>> {
        (!self.held.is_empty()).then(rustix::stdio::stdout)
    }

    /// Prints `bytes`, or holds them until somebody takes them.
    pub fn show(&mut self, bytes: &[u8]) {
        if self.has_output {
            self.held.extend(bytes);
            self.flush();
        }
    }

    /// Prints what is held, as far as it is taken now.
    pub fn flush(&mut self) {
        let stdout = rustix::stdio::stdout();
        while !self.held.is_empty() && terminal::has_room(stdout) {
            let some = self.held.get(..AT_ONCE.min(self.held.len())).unwrap_or_default();
            match rustix::io::write(stdout, some) {
                Ok(count) => drop(self.held.drain(..count)),
                Err(Errno::AGAIN | Errno::INTR) => return,
                // Whoever read it is gone.
                Err(_) => {
                    self.has_output = false;
                    self.held.clear();
                }
            }
        }
    }
}
