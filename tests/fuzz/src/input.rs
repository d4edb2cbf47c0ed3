//! An input as a sequence of numbers: zero where it ends. Whoever includes such a target
//! includes this too, and few need all of it.

#![allow(dead_code)]

/// What is left of it.
pub struct Input<'a>(pub &'a [u8]);

impl Input<'_> {
    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let (now, rest) = self.0.split_at(self.0.len().min(N));
        self.0 = rest;
        std::array::from_fn(|at| now.get(at).copied().unwrap_or(0))
    }

    pub fn few(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.byte()).collect()
    }

    pub fn byte(&mut self) -> u8 {
        u8::from_le_bytes(self.bytes())
    }

    pub fn short(&mut self) -> u16 {
        u16::from_le_bytes(self.bytes())
    }

    pub fn word(&mut self) -> u32 {
        u32::from_le_bytes(self.bytes())
    }

    pub fn long(&mut self) -> u64 {
        u64::from_le_bytes(self.bytes())
    }
}
