//! What happened to guests, written down for people and for programs, and read again as it is written.
//!
//! ```text
//!                                              ┌─► events.log     a line for people
//! Told ─► What, one for each thing ─► Event ───┤
//!         (told)              (event, write)   └─► events.jsonl   an object a line, for programs
//!                                                      │
//!                    assign events --guests ◄── Tail ◄─┘   one for each guest (tail, follow)
//! ```
//!
//! Both files are written by the guest's launcher alone, stay when it is gone, and are as short as
//! [`Log`](crate::launch::log::Log) keeps them.

pub mod event;
pub(crate) mod follow;
mod tail;
mod told;
pub(crate) mod write;

pub use event::{Event, How, What};
pub(crate) use told::happened;

/// Name of the file with what happened to a guest, for programs.
pub(crate) const LINES: &str = "events.jsonl";

/// What a line of that file holds, as JSON Schema.
pub const SCHEMA: &str = include_str!("../guest-events.json");
