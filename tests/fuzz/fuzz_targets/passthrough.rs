#![no_main]

#[path = "../src/input.rs"]
mod input;
#[path = "../src/passthrough.rs"]
mod passthrough;

libfuzzer_sys::fuzz_target!(|data: &[u8]| passthrough::passthrough(data));
