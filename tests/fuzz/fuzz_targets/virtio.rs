#![no_main]

#[path = "../src/input.rs"]
mod input;
#[path = "../src/virtio.rs"]
mod virtio;

/// signal(7).
const SIGPIPE: i32 = 13;

libfuzzer_sys::fuzz_target!(
    init: {
        // Rust's runtime does as much before main, and a fuzzer has none: a client that has hung up is an error
        // for who writes to it, and not its end.
        vmm_sys_util::signal::block_signal(SIGPIPE).expect("it can be blocked");
    },
    |data: &[u8]| virtio::virtio(data)
);
