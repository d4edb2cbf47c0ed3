#![no_main]

#[path = "../src/input.rs"]
mod input;
#[path = "../src/kernel.rs"]
mod kernel;

libfuzzer_sys::fuzz_target!(|data: &[u8]| kernel::kernel(data));
