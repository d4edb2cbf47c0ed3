#![no_main]

#[path = "../src/bus.rs"]
mod bus;
#[path = "../src/input.rs"]
mod input;

libfuzzer_sys::fuzz_target!(|data: &[u8]| bus::bus(data));
