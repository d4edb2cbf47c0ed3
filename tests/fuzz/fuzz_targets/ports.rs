#![no_main]

#[path = "../src/input.rs"]
mod input;
#[path = "../src/ports.rs"]
mod ports;

libfuzzer_sys::fuzz_target!(|data: &[u8]| ports::ports(data));
