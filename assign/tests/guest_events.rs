//! `guest-events.json` says what is written of guests: each kind, each word, each field.

use std::collections::BTreeSet;
use std::time::{Duration, UNIX_EPOCH};

use assign::failure::{Failure, OwnReason};
use assign::history::{Event, How, SCHEMA, What};
use fitting::Fitting;
use serde_json::{Value, json};
use sriov::PciAddress;
use sriov::dma_fault::{Access, Blocked, IoAddress};
use vmm::spec::Departure;

mod fitting;

const HOWS: [How; 9] = [
    How::PoweredOff,
    How::Rebooted,
    How::Stopped,
    How::Crashed,
    How::TripleFault,
    How::Killed,
    How::OutOfMemory,
    How::DeviceError,
    How::Failed,
];

fn document() -> Value {
    serde_json::from_str(SCHEMA).expect("JSON")
}

/// Each thing that may happen, with and without what may be left out.
fn all<'a>(failure: &'a Failure, blocked: &'a [Blocked; 3]) -> Vec<What<'a>> {
    let device: PciAddress = "0000:01:10.0".parse().expect("an address");
    let (text, reason) = (|| "text".to_owned(), || "reason".to_owned());
    let mut all = vec![
        What::Connected { claim: "net0", device: Some(device), text: text() },
        What::Connected { claim: "net0", device: None, text: text() },
        What::Fallback { claim: "net0", reason: reason(), text: text() },
        What::LeftOut { claim: "gpu0", reason: reason(), text: text() },
        What::Started,
        What::not_started(failure),
        What::Paused,
        What::Resumed,
        What::NoDevices { reason: "reason" },
        What::Attached { device },
        What::Detached { device, by: Departure::Guest },
        What::Detached { device, by: Departure::Forced },
        What::Wanted { device },
        What::DeviceError { device: "0000:01:10.0" },
        What::DiskError { disk: "root", reason: "reason" },
        What::NetworkDown { network: "net0", reason: "reason" },
        What::NetworkUp { network: "net0" },
        What::trouble(failure),
        What::note("a note"),
        What::Memory { reason: "reason" },
        What::Overcommitted { vcpus: 4, host_cpus: 2 },
        What::Vsock { cid: 42 },
        What::Boots { disk: "root", entry: "Debian GNU/Linux" },
        What::KernelPacked { reason: "reason" },
        What::NoSandbox,
        What::Unwritten { reason: reason() },
        What::FaultsUnheard { reason: reason() },
    ];
    all.extend(blocked.iter().map(|blocked| What::DmaFault { device, blocked }));
    for how in HOWS {
        all.push(What::Ended { how, reason: None, failure: None });
        all.push(What::broke(how, failure));
    }
    // Whoever adds one adds it here and in the document.
    for what in &all {
        match what {
            What::Connected { .. }
            | What::Fallback { .. }
            | What::LeftOut { .. }
            | What::Started
            | What::NotStarted { .. }
            | What::Paused
            | What::Resumed
            | What::Ended { .. }
            | What::NoDevices { .. }
            | What::Attached { .. }
            | What::Detached { .. }
            | What::Wanted { .. }
            | What::DeviceError { .. }
            | What::DiskError { .. }
            | What::NetworkDown { .. }
            | What::NetworkUp { .. }
            | What::DmaFault { .. }
            | What::Trouble { .. }
            | What::Memory { .. }
            | What::Overcommitted { .. }
            | What::Vsock { .. }
            | What::Boots { .. }
            | What::KernelPacked { .. }
            | What::NoSandbox
            | What::Unwritten { .. }
            | What::FaultsUnheard { .. } => {}
        }
    }
    all
}

/// The same as they are written.
fn written() -> Vec<Value> {
    let failure = Failure::failed(OwnReason::GuestCrashed, "0000:01:10.0", "crashed: so")
        .with_remedy("Try again.");
    let blocked = |access, reason| Blocked { access, address: IoAddress(4096), reason, count: 1 };
    let blocked =
        [(Some(Access::Write), Some("why".to_owned())), (Some(Access::Read), None), (None, None)]
            .map(|(access, reason)| blocked(access, reason));
    let time = UNIX_EPOCH + Duration::from_secs(1_735_689_599);
    let written = all(&failure, &blocked).into_iter().map(|what| {
        let event = Event::new(time, "web-1", what);
        let json = event.json().expect("plain data");
        assert!(!json.contains('\n'), "{json}");
        let value: Value = serde_json::from_str(&json).expect("JSON");
        assert_eq!(value["time"], "2024-12-31T23:59:59.000Z");
        assert_eq!(value["message"], event.message(), "one text for both");
        assert_eq!(event.text(), format!("2024-12-31T23:59:59.000Z {}", event.message()));
        value
    });
    written.collect()
}

#[test]
fn each_event_is_as_described() {
    let fitting = Fitting { document: document(), whole: false };
    for event in written() {
        let misfit = fitting.misfit(&fitting.document, &event, "event");
        assert_eq!(misfit, None);
    }
    let wrong = json!({"time": "t", "guest": "web-1", "kind": "ended", "message": "m"});
    assert!(fitting.misfit(&fitting.document, &wrong, "event").is_some(), "how is missing");
}

#[test]
fn each_kind_field_and_word_that_is_described_occurs() {
    let written = written();
    for schema in document()["oneOf"].as_array().expect("kinds") {
        let kind = &schema["properties"]["kind"]["const"];
        let of_kind: Vec<&Value> = written.iter().filter(|one| one["kind"] == *kind).collect();
        let is_printed =
            schema["description"].as_str().is_some_and(|text| text.starts_with("Printed"));
        assert_eq!(of_kind.is_empty(), is_printed, "{kind}");
        for (name, field) in schema["properties"].as_object().expect("fields") {
            let values: Vec<&Value> = of_kind.iter().filter_map(|one| one.get(name)).collect();
            assert!(is_printed || !values.is_empty(), "{kind}: {name}");
            for word in field["enum"].as_array().into_iter().flatten() {
                assert!(values.contains(&word), "{kind}: {name}: {word}");
            }
        }
    }
}

#[test]
fn an_end_is_told_with_its_reason() {
    let ends: BTreeSet<String> = written()
        .iter()
        .filter(|event| event["kind"] == "ended" && event.get("reason").is_some())
        .map(|event| format!("{} {}: {}", event["how"], event["reason"], event["message"]))
        .collect();
    assert_eq!(ends.len(), HOWS.len());
    let crashed =
        "\"triple-fault\" \"crashed: so\": \"assign: 0000:01:10.0: crashed: so. Try again.\"";
    assert!(ends.contains(crashed), "{ends:?}");
}
