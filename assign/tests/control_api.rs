//! `control-api.json` says what the program does: the routes, and each field of what goes over them, in
//! both directions.

use std::collections::{BTreeMap, BTreeSet};

use assign::control::route::{Lost, OPENAPI, Route};
use assign::control::stats::{
    self, Device, Entry, ExitStats, Launching, Memory, Phase, Process, Said, Stats, Usage,
};
use assign::control::{
    Attach, Attached, Balloon, Ballooned, Detach, Detached, Doing, Nothing, Port, Running, Stop,
    Stopped, Watch,
};
use assign::failure::{Failure, OwnReason};
use fitting::{Fitting, words};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use sriov::PciAddress;
use sriov::facts::interrupts::Interrupt;
use vmm::spec::{Departure, Exits, KvmStats};

mod fitting;

fn document() -> Value {
    serde_json::from_str(OPENAPI).expect("JSON")
}

fn schema(name: &str) -> Value {
    document()["components"]["schemas"].get(name).unwrap_or_else(|| panic!("no {name}")).clone()
}

fn fits(name: &str, value: &impl Serialize) -> Value {
    let value = serde_json::to_value(value).expect("plain data");
    let fitting = Fitting { document: document(), whole: true };
    if let Some(misfit) = fitting.misfit(&schema(name), &value, name) {
        panic!("{misfit}");
    }
    value
}

/// An answer with every field.
fn answered(name: &str, answer: &(impl Serialize + DeserializeOwned)) {
    let value = fits(name, answer);
    let (all, needed) = (value.as_object().expect("an object"), words(&schema(name)["required"]));
    for field in all.keys() {
        assert!(needed.contains(field), "{name}.{field} is always there");
    }
}

/// A request with every field: what may be left out may be, and nothing else, and nothing is added.
fn asked<T: Serialize + DeserializeOwned>(name: &str, request: &T) {
    let value = fits(name, request);
    let fields = value.as_object().expect("an object");
    let read = |fields: &Map<String, Value>| {
        serde_json::from_value::<T>(Value::Object(fields.clone())).is_ok()
    };
    assert!(read(fields), "{name}");
    let needed = words(&schema(name)["required"]);
    for field in fields.keys() {
        let mut without = fields.clone();
        without.remove(field);
        assert_eq!(read(&without), !needed.contains(field), "{name} without {field}");
        let default = &schema(name)["properties"][field]["default"];
        if !default.is_null() {
            let read: T = serde_json::from_value(Value::Object(without)).expect("it may be");
            assert_eq!(&serde_json::to_value(read).expect("plain data")[field], default, "{field}");
        }
    }
    let mut more = fields.clone();
    more.insert("more".to_owned(), Value::Null);
    assert!(!read(&more), "{name} with a field that there is not");
    assert_eq!(schema(name)["additionalProperties"], false, "{name}");
}

fn address() -> PciAddress {
    "0000:01:10.0".parse().expect("an address")
}

#[test]
fn the_routes_are_those_of_the_document() {
    let document = document();
    let mut described = BTreeMap::new();
    for (path, methods) in document["paths"].as_object().expect("paths") {
        for (method, operation) in methods.as_object().expect("methods") {
            described.insert((path.clone(), method.to_uppercase()), operation.clone());
        }
    }
    let known = Route::ALL.map(|route| (route.path().to_owned(), route.method().to_owned()));
    assert_eq!(described.keys().cloned().collect::<BTreeSet<_>>(), BTreeSet::from(known));
    for ((path, method), operation) in described {
        let route = Route::find(&method, &path).expect("it is one");
        assert_eq!(operation.get("requestBody").is_some(), route.method() == "POST", "{path}");
        let other = if method == "GET" { "POST" } else { "GET" };
        assert_eq!(Route::find(other, &path), Err(Lost::Method(route.method())));
    }
    assert_eq!(Route::find("GET", "/v1/nothing"), Err(Lost::Path));
}

#[test]
fn every_schema_is_there_and_used() {
    let used: BTreeSet<String> = OPENAPI
        .split("#/components/schemas/")
        .skip(1)
        .filter_map(|rest| Some(rest.split_once('"')?.0.to_owned()))
        .collect();
    let schemas = document()["components"]["schemas"].as_object().expect("schemas").clone();
    assert_eq!(schemas.keys().cloned().collect::<BTreeSet<_>>(), used);
}

#[test]
fn requests_are_as_described() {
    asked("Nothing", &Nothing {});
    asked("Attach", &Attach { devices: vec![address()], pool: Some("lan".to_owned()) });
    asked("Balloon", &Balloon { keep_bytes: 1 << 28 });
    asked("Detach", &Detach { device: address(), timeout: 5, force: true });
    asked("Stop", &Stop { timeout: 5 });
    asked("Watch", &Watch { lines: 24 });
}

#[test]
fn answers_are_as_described() {
    answered("Nothing", &Nothing {});
    answered("Attached", &Attached { devices: vec![address()] });
    let (keep_bytes, target_bytes) = (1 << 28, 1 << 27);
    answered("Ballooned", &Ballooned { keep_bytes, target_bytes, given_bytes: 5, driven: true });
    for by in [Departure::Guest, Departure::Forced] {
        let notes = vec!["a note".to_owned()];
        answered("Detached", &Detached { device: address(), by, notes });
        answered("Stopped", &Stopped { by });
    }
    for state in [Doing::Starting, Doing::Running, Doing::Paused] {
        // Whoever adds one adds it here and in the document.
        match state {
            Doing::Starting | Doing::Running | Doing::Paused => {}
        }
        let running = Running {
            guest: "web-1".to_owned(),
            state,
            up_s: 5,
            cpus: 2,
            pin: BTreeMap::from([(1, "0,2-3".parse().expect("CPUs"))]),
            emulator: Some("1".parse().expect("CPUs")),
            memory_bytes: 1 << 29,
            merge: true,
            balloon: false,
            devices: vec![address()],
            cid: Some(42),
            ports: vec![Port { name: "hvc".to_owned(), console: true, path: "/run/hvc".into() }],
            pid: 300,
            launcher_pid: 299,
        };
        answered("Running", &running);
    }
    let stats = |device: Option<PciAddress>, number: Option<u64>| Stats {
        guest: "web-1".to_owned(),
        pid: 300,
        exits: ExitStats {
            user_space: 5,
            kernel: number,
            vcpus: vec![Exits::default()],
            kvm: number.map(|number| KvmStats {
                vcpus: BTreeMap::from([("exits".to_owned(), number)]),
                vm: BTreeMap::from([("pages_2m".to_owned(), number)]),
            }),
        },
        devices: vec![Device {
            guest_address: address(),
            address: device,
            interrupts: number,
            vectors: vec![Interrupt { name: "msix[0]".to_owned(), count: 7 }],
            exits: 3,
        }],
        memory: Memory {
            ram_bytes: 1 << 29,
            pages: policies::Pages::Huge2M,
            ram_merged_bytes: number,
            ram_pinned_bytes: 1 << 29,
            locked_bytes: number,
            pinned_bytes: number,
            vmm_bytes: number,
        },
        balloon: device.map(|_| stats::Balloon {
            driven: true,
            target_bytes: 1 << 28,
            given_bytes: 1 << 27,
            inflated_bytes: 1 << 27,
            reported_bytes: 5,
            said: number.map(|age_ms| Said {
                age_ms,
                total_bytes: number,
                free_bytes: None,
                available_bytes: number,
                caches_bytes: number,
            }),
        }),
        ports: vec![stats::Port {
            name: "hvc".to_owned(),
            client: true,
            open: false,
            to_guest_bytes: 5,
            from_guest_bytes: 6,
            lost_bytes: 7,
        }],
        usage: device.map(|_| Usage {
            cpu_us: 5,
            held_back_us: number,
            cpu_percent_limit: number,
            memory_bytes: number,
            memory_bytes_limit: None,
            tasks: number,
            tasks_limit: None,
        }),
        timeline: [
            (Process::Assign, Phase::Assign(Launching::ReadHost)),
            (Process::AssignVmm, Phase::Vmm(vmm::spec::Phase::PinMemory)),
        ]
        .map(|(process, phase)| Entry {
            process,
            phase,
            device: Some("0000:01:10.0".to_owned()),
            start_ms: 0.5,
            took_ms: number.map(|number| number as f64),
        })
        .to_vec(),
    };
    answered("Stats", &stats(Some(address()), Some(9)));
    answered("Stats", &stats(None, None));
}

#[test]
fn errors_are_as_described() {
    let failures = [
        Failure::failed(OwnReason::Guest, "web-1", "it did not"),
        Failure::bad_input(OwnReason::Usage, "web-1", "it cannot be meant"),
        Failure::refused(OwnReason::Leased, "web-1", "it will not be").with_remedy("Try another."),
    ];
    for failure in failures {
        fits("Error", &json!({ "error": failure }));
    }
}
