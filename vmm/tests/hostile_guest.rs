//! Bad guests, and bad kernels for them: whatever they do, nothing panics, and what the targets in
//! `tests/fuzz/src/` say of devices and of the kernel loader holds.

use std::fs;
use std::path::Path;

use proptest::prelude::*;
use proptest::sample::{Index, select};

#[path = "../../tests/fuzz/src/bus.rs"]
mod bus;
#[path = "../../tests/fuzz/src/bus_programs.rs"]
mod bus_programs;
#[path = "../../tests/fuzz/src/input.rs"]
mod input;
#[path = "../../tests/fuzz/src/kernel.rs"]
mod kernel;
#[path = "../../tests/fuzz/src/ports.rs"]
mod ports;
#[path = "../../tests/fuzz/src/programs.rs"]
mod programs;
#[path = "../../tests/fuzz/src/replay.rs"]
mod replay;
#[path = "../../tests/fuzz/src/virtio.rs"]
mod virtio;

#[test]
fn what_the_fuzzers_found_does_no_harm() {
    for kind in ["seeds", "corpus"] {
        let inputs = |target| {
            let inputs = replay::inputs(kind, target);
            assert!(inputs.len() > 3, "hardly any {kind} of {target}");
            inputs
        };
        replay::takes(virtio::virtio, inputs("virtio"));
        replay::takes(kernel::kernel, inputs("kernel"));
        replay::takes(ports::ports, inputs("ports"));
        replay::takes(bus::bus, inputs("bus"));
    }
}

/// The seeds are written as programs: the fuzzers begin with what these are.
fn seeds<T>(target: &str, seeds: Vec<programs::Seed<T>>) -> Vec<programs::Seed<T>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/seeds").join(target);
    if std::env::var_os("UPDATE_SEEDS").is_some() {
        fs::create_dir_all(&folder).expect("a folder");
        for (name, bytes, _) in &seeds {
            fs::write(folder.join(name), bytes).expect("a seed");
        }
    }
    let files = replay::inputs("seeds", target);
    assert_eq!(files.len(), seeds.len(), "set UPDATE_SEEDS, and remove those that are too many");
    for (name, bytes, _) in &seeds {
        let file = fs::read(folder.join(name)).unwrap_or_default();
        assert!(file == *bytes, "{name} is another program: set UPDATE_SEEDS");
    }
    seeds
}

#[test]
fn the_devices_serve_what_the_fuzzer_begins_with() {
    for (name, bytes, used) in seeds("virtio", programs::virtio()) {
        assert_eq!(virtio::run(&bytes).used, used, "{name}");
    }
}

#[test]
fn the_board_does_what_the_fuzzer_begins_with() {
    for (name, bytes, outcome) in seeds("ports", programs::ports()) {
        assert_eq!(ports::run(&bytes), outcome, "{name}");
    }
}

#[test]
fn cards_are_where_the_fuzzer_begins_with_them() {
    for (name, bytes, outcome) in seeds("bus", bus_programs::bus()) {
        assert_eq!(bus::run(&bytes), outcome, "{name}");
    }
}

#[test]
fn the_kernels_that_the_fuzzer_begins_with_are_told_apart() {
    for (name, bytes, starts) in seeds("kernel", programs::kernel()) {
        let loaded = kernel::load(&bytes);
        assert_eq!(loaded.is_ok(), starts, "{name}: {loaded:x?}");
    }
}

/// A seed of `target` with some bytes changed, cut off somewhere, and with more behind it.
fn near(target: &'static str) -> impl Strategy<Value = Vec<u8>> {
    let changes = proptest::collection::vec((any::<Index>(), any::<u8>()), 0..6);
    let more = proptest::collection::vec(any::<u8>(), 0..200);
    let seed = select(replay::seeds(target));
    (seed, changes, any::<Index>(), more).prop_map(|(mut bytes, changes, end, more)| {
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        // Most stay whole.
        bytes.truncate((end.index(4 * bytes.len())).max(1));
        bytes.extend(more);
        bytes
    })
}

proptest! {
    // What is found goes to the corpus.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    #[test]
    fn any_driver_of_a_virtio_device(bytes in near("virtio")) {
        virtio::virtio(&bytes);
    }

    #[test]
    fn any_use_of_ports_and_addresses(bytes in near("ports")) {
        ports::ports(&bytes);
    }

    #[test]
    fn any_use_of_a_bus_full_of_cards(bytes in near("bus")) {
        bus::bus(&bytes);
    }

    #[test]
    fn anything_near_a_kernel(bytes in near("kernel")) {
        kernel::kernel(&bytes);
    }
}
