//! What is fuzzed: each target takes any bytes and must come back soon, without a panic. The
//! fuzzers call them, and so does a test of the crate `sriov` with all seeds and the corpus, which
//! is why this file is part of both and depends on `sriov` alone.
//!
//! What a target asserts beyond that is what callers rely on: bounds, and that what was understood
//! is written in a form that is understood as the same.

mod attribute;

use sriov::dma_fault::report;
use sriov::facts::capabilities::Capabilities;
use sriov::facts::names;
use sriov::facts::platform::memory::kib;
use sriov::facts::platform::numa::CpuSet;
use sriov::watch::message::Uevent;
use sriov::{HostSnapshot, MacAddress, PciAddress, isolation, usage};

pub use attribute::{FILES, attribute, host};

/// A target: any bytes.
pub type Target = fn(&[u8]);

/// All of them, by the names of their folders.
pub const TARGETS: &[(&str, Target)] = &[
    ("config_space", config_space),
    ("device_event", device_event),
    ("attribute", attribute),
    ("text", text),
    ("snapshot", snapshot),
];

/// The configuration space of a device.
pub fn config_space(image: &[u8]) {
    let (capabilities, odd) = Capabilities::parse(image);
    if let Some(msix) = &capabilities.msix {
        assert!((1..=2048).contains(&msix.vectors));
    }
    if let Some(msi) = &capabilities.msi {
        assert!(msi.vectors.is_power_of_two() && msi.vectors <= 32);
    }
    // No register belongs to two capabilities, and the smallest is a double word.
    assert!(capabilities.others.len() <= 48 && capabilities.extended.len() <= 960);
    assert!(odd.len() <= 2 * (48 + 960), "{} odd things", odd.len());
    assert!(odd.iter().all(|text| !text.is_empty() && text.len() <= 256), "{odd:?}");
    same_again(&capabilities);
}

/// A device event of the kernel or, where the first byte is odd, of udev.
pub fn device_event(bytes: &[u8]) {
    let Some((dialect, message)) = bytes.split_first() else { return };
    let understood = match dialect & 1 {
        0 => Uevent::of_kernel(message),
        _ => Uevent::of_udev(message),
    };
    match understood {
        Ok(event) => {
            for key in ["ACTION", "DEVPATH", "SUBSYSTEM"] {
                assert!(event.get(key).is_some_and(|value| !value.contains('\0')));
            }
            let _ = (event.action(), event.path(), event.subsystem(), event.number());
        }
        Err(error) => assert!(error.to_string().len() <= 1024, "{error}"),
    }
}

/// What a person or a file gives in a word, an address, a list of CPUs, a size; and a line of the
/// kernel's log, in which devices may have their say.
pub fn text(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(address) = text.parse::<PciAddress>() {
        assert_eq!(address.to_string().parse(), Ok(address));
    }
    if let Ok(mac) = text.parse::<MacAddress>() {
        assert_eq!(mac.to_string().parse(), Ok(mac));
    }
    if let Ok(cpus) = text.parse::<CpuSet>() {
        assert_eq!(cpus.iter().count(), cpus.count() as usize);
        assert_eq!(cpus.to_string().parse::<CpuSet>().ok().as_ref(), Some(&cpus));
    }
    kib(&text);
    if let Some(fault) = report::parse(&text) {
        assert!(fault.has_domain || fault.device.to_string().starts_with("0000:"));
        assert_eq!(fault.blocked.count, 1);
        assert!(fault.blocked.reason.is_none_or(|reason| reason.chars().count() <= 120));
    }
}

/// A saved snapshot that somebody sent, and what is concluded from it.
pub fn snapshot(bytes: &[u8]) {
    let Ok(host) = serde_json::from_slice::<HostSnapshot>(bytes) else { return };
    for function in &host.functions {
        names::device(function);
        names::of(function);
        for used in usage::of(&host, function) {
            assert!(!used.to_string().is_empty());
        }
        if let Err(reason) = isolation::viability(&host, function, &[]) {
            assert!(!reason.to_string().is_empty() && !reason.remedy().is_empty());
        }
        host.port_of(function);
        function.vf_of.map(|vf| host.vf_address(vf));
    }
    same_again(&host);
}

/// Written and read again, it is the same.
fn same_again<T>(value: &T)
where
    T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug,
{
    let text = serde_json::to_string(value).expect("plain data can be written");
    let again: T = serde_json::from_str(&text).expect("what was written can be read");
    assert_eq!(&again, value);
}
