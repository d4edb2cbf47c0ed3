//! The emulated lab.
