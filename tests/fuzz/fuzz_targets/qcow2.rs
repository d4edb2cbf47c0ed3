#![no_main]

#[path = "../src/qcow2.rs"]
mod qcow2;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    qcow2::qcow2(data);
});
