//! `assign stats`: what is counted and timed of a running guest.

use std::time::Duration;

use clap::Args;
use policies::Pages;
use vmm::spec::Exits;

use super::output::{self, Table};
use super::page::{Page, bytes};
use super::{Context, Format};
use crate::control::client;
use crate::control::route::Route;
use crate::control::stats::{
    Balloon, Device, Entry, ExitStats, Memory, Port, Said, Stats as Counted, Usage,
};
use crate::failure::Failure;

/// Arguments of `assign stats`.
#[derive(Debug, Args)]
pub struct Stats {
    /// The guest's name.
    #[arg(value_name = "GUEST")]
    guest: String,
}

impl Stats {
    pub fn run(&self, context: &Context) -> Result<u8, Failure> {
        let nothing = None::<&()>;
        let counted: Counted = client::ask(&context.root, &self.guest, Route::Stats, nothing)?;
        output::value(context.format, &counted)?;
        if context.format == Format::Table {
            page(&counted).print()?;
            output::text_out("")?;
            if !counted.devices.is_empty() {
                devices(&counted.devices).print()?;
                output::text_out("")?;
            }
            if !counted.ports.is_empty() {
                ports(&counted.ports).print()?;
                output::text_out("")?;
            }
            timeline(&counted.timeline).print()?;
        }
        Ok(0)
    }
}

fn page(counted: &Counted) -> Page {
    let Counted { guest, pid, exits, memory, balloon, usage, .. } = counted;
    let mut page = Page::default();
    page.section(guest);
    page.fact("process", pid.to_string());
    usage.iter().for_each(|usage| usage_facts(&mut page, usage));
    exit_facts(&mut page, exits);
    memory_facts(&mut page, memory);
    balloon.iter().for_each(|balloon| balloon_facts(&mut page, balloon));
    page
}

fn usage_facts(page: &mut Page, usage: &Usage) {
    let of = |used: String, most: Option<String>| match most {
        Some(most) => format!("{used} of at most {most}"),
        None => used,
    };
    let seconds = |us: u64| format!("{:.1} s", Duration::from_micros(us).as_secs_f64());
    let most = usage.cpu_percent_limit.map(|percent| format!(", at most {percent}% of a CPU"));
    let held_back = usage.held_back_us.filter(|_| most.is_some());
    let held_back = held_back.map(|us| format!(", held back for {}", seconds(us)));
    let (most, held_back) = (most.unwrap_or_default(), held_back.unwrap_or_default());
    page.fact("CPU time", format!("{}{most}{held_back}", seconds(usage.cpu_us)));
    let used = usage.memory_bytes.map(|used| of(bytes(used), usage.memory_bytes_limit.map(bytes)));
    page.fact("memory charged", used.unwrap_or_default());
    let tasks = usage
        .tasks
        .map(|tasks| of(tasks.to_string(), usage.tasks_limit.map(|most| most.to_string())));
    page.fact("threads", tasks.unwrap_or_default());
}

fn exit_facts(page: &mut Page, exits: &ExitStats) {
    page.section("exits to user space");
    page.fact("all", exits.user_space.to_string());
    let sum = |count: fn(&Exits) -> u64| exits.vcpus.iter().map(count).fold(0, u64::saturating_add);
    let (read, written) = (sum(|vcpu| vcpu.config_read), sum(|vcpu| vcpu.config_write));
    page.fact("PCI configuration", format!("{read} read, {written} written"));
    let (read, written) = (sum(|vcpu| vcpu.mmio_read), sum(|vcpu| vcpu.mmio_write));
    page.fact("device registers", format!("{read} read, {written} written"));
    let (read, written) = (sum(|vcpu| vcpu.port_in), sum(|vcpu| vcpu.port_out));
    page.fact("I/O ports", format!("{read} in, {written} out"));
    let rest = [
        (sum(|vcpu| vcpu.hlt), "halts"),
        (sum(|vcpu| vcpu.intr), "interruptions"),
        (sum(|vcpu| vcpu.shutdown), "shutdowns"),
        (sum(|vcpu| vcpu.other), "others"),
    ];
    let rest = rest.into_iter().filter(|(count, _)| *count > 0);
    let rest: Vec<String> = rest.map(|(count, name)| format!("{count} {name}")).collect();
    page.fact("other", rest.join(", "));
    page.section("exits handled in the kernel");
    page.fact("all", exits.kernel.map(|count| count.to_string()).unwrap_or_default());
    let Some(kvm) = &exits.kvm else { return };
    // Those that tell most, by KVM's names; `-o json` has them all. Its `io_exits` and `mmio_exits` are
    // none of them: most of what they count goes to user space, and is counted above.
    let named = |name: &str| kvm.vcpus.get(name).map(u64::to_string).unwrap_or_default();
    page.fact("halts", named("halt_exits"));
    page.fact("host interrupts", named("irq_exits"));
    page.section("interrupts injected");
    page.fact("all", named("irq_injections"));
}

fn memory_facts(page: &mut Page, memory: &Memory) {
    page.section("memory");
    let pages = match memory.pages {
        Pages::Transparent => String::new(),
        pages => format!(" in pages of {}", pages.word()),
    };
    page.fact("RAM", format!("{}{pages}", bytes(memory.ram_bytes)));
    let merged = memory.ram_merged_bytes.filter(|bytes| *bytes > 0);
    page.fact("kept once (KSM)", merged.map(bytes).unwrap_or_default());
    page.fact("pinned for devices", bytes(memory.ram_pinned_bytes));
    let accounts = [(memory.locked_bytes, "locked"), (memory.pinned_bytes, "pinned")];
    let accounts = accounts.into_iter().filter_map(|(count, what)| Some((count?, what)));
    let accounts: Vec<String> =
        accounts.map(|(count, what)| format!("{} {what}", bytes(count))).collect();
    page.fact("by the kernel's books", accounts.join(", "));
    page.fact("VMM beside RAM", memory.vmm_bytes.map(bytes).unwrap_or_default());
}

fn balloon_facts(page: &mut Page, balloon: &Balloon) {
    page.section("balloon");
    let given = match balloon.driven {
        true => {
            format!("{}, has given {}", bytes(balloon.target_bytes), bytes(balloon.given_bytes))
        }
        false => format!("{}, has no driver for that", bytes(balloon.target_bytes)),
    };
    page.fact("is to give", given);
    let (inflated, reported) = (bytes(balloon.inflated_bytes), bytes(balloon.reported_bytes));
    page.fact("host got back", format!("{inflated} that it gave, {reported} that it told free"));
    let Some(Said { age_ms, total_bytes, free_bytes, available_bytes, caches_bytes }) =
        balloon.said
    else {
        return;
    };
    let named = [
        (free_bytes, "free"),
        (available_bytes, "available"),
        (caches_bytes, "for files"),
        (total_bytes, "in all"),
    ];
    let said = named.into_iter().filter_map(|(count, what)| Some((count?, what)));
    let mut said: Vec<String> =
        said.map(|(count, what)| format!("{} {what}", bytes(count))).collect();
    said.extend((age_ms >= 1000).then(|| format!("{} s ago", age_ms / 1000)));
    page.fact("guest says", said.join(", "));
}

fn devices(devices: &[Device]) -> Table {
    let mut table = Table::new(&["DEVICE", "IN GUEST", "INTERRUPTS", "EXITS"], &[0, 1, 2, 3]);
    for device in devices {
        table.row(&[
            device.address.map_or("virtio".to_owned(), |address| address.to_string()),
            device.guest_address.to_string(),
            device.interrupts.map_or("-".to_owned(), |count| count.to_string()),
            device.exits.to_string(),
        ]);
    }
    table
}

fn ports(ports: &[Port]) -> Table {
    let titles = ["PORT", "ON HOST", "IN GUEST", "TO GUEST", "FROM GUEST", "LOST"];
    let mut table = Table::new(&titles, &[1, 2, 3, 4, 5]);
    for port in ports {
        table.row(&[
            port.name.clone(),
            if port.client { "connected" } else { "-" }.to_owned(),
            if port.open { "open" } else { "-" }.to_owned(),
            bytes(port.to_guest_bytes),
            bytes(port.from_guest_bytes),
            bytes(port.lost_bytes),
        ]);
    }
    table
}

/// A launch, a line a phase.
pub fn timeline(entries: &[Entry]) -> Table {
    let number = |ms: f64| format!("{ms:>9.1}");
    let mut table = Table::new(&[" START ms", "  TOOK ms", "PROCESS", "PHASE"], &[0, 1, 2]);
    for entry in entries {
        let device = entry.device.as_deref().map(|device| format!(": {device}"));
        table.row(&[
            number(entry.start_ms),
            entry.took_ms.map_or("    lasts".to_owned(), number),
            entry.process.to_string(),
            format!("{}{}", entry.phase, device.unwrap_or_default()),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use sriov::facts::interrupts::Interrupt;
    use vmm::spec::{KvmStats, Phase as VmmPhase};

    use super::*;
    use crate::control::stats::{Launching, Phase, Process};

    fn counted() -> Counted {
        let exits = Exits { config_read: 311, mmio_write: u64::MAX, intr: 2, ..Exits::default() };
        let kvm = KvmStats {
            vcpus: BTreeMap::from([("halt_exits".to_owned(), 99)]),
            vm: BTreeMap::new(),
        };
        let entry = |process, phase, device: Option<&str>, took_ms| Entry {
            process,
            phase,
            device: device.map(str::to_owned),
            start_ms: 123_456.78,
            took_ms,
        };
        let held = Phase::Vmm(VmmPhase::HoldBusMaster);
        let read = Phase::Assign(Launching::ReadHost);
        let address = |text: &str| text.parse().expect("an address");
        Counted {
            guest: "web-1".to_owned(),
            pid: 312,
            exits: ExitStats {
                user_space: u64::MAX,
                kernel: Some(5),
                vcpus: vec![exits; 2],
                kvm: Some(kvm),
            },
            devices: vec![Device {
                guest_address: address("0000:00:01.0"),
                address: Some(address("0000:01:10.0")),
                interrupts: Some(u64::MAX),
                vectors: vec![Interrupt { name: "msix[0]".to_owned(), count: 7 }],
                exits: u64::MAX,
            }],
            memory: Memory {
                ram_bytes: 256 << 20,
                pages: Pages::Huge2M,
                ram_merged_bytes: Some(1 << 20),
                ram_pinned_bytes: 256 << 20,
                locked_bytes: Some(256 << 20),
                pinned_bytes: Some(0),
                vmm_bytes: None,
            },
            balloon: Some(Balloon {
                driven: true,
                target_bytes: 100 << 20,
                given_bytes: 60 << 20,
                inflated_bytes: u64::MAX,
                reported_bytes: 9 << 20,
                said: Some(Said {
                    age_ms: 7_300,
                    total_bytes: Some(230 << 20),
                    free_bytes: Some(u64::MAX),
                    available_bytes: Some(41 << 20),
                    caches_bytes: None,
                }),
            }),
            ports: vec![Port {
                name: "org.qemu.guest_agent.0".to_owned(),
                client: true,
                open: true,
                to_guest_bytes: 5 << 20,
                from_guest_bytes: u64::MAX,
                lost_bytes: 0,
            }],
            usage: Some(Usage {
                cpu_us: 83_456_789,
                held_back_us: Some(12_300_000),
                cpu_percent_limit: Some(10_000),
                memory_bytes: Some(261 << 20),
                memory_bytes_limit: Some(768 << 20),
                tasks: Some(5),
                tasks_limit: None,
            }),
            timeline: vec![
                entry(Process::Assign, read, None, Some(0.25)),
                entry(Process::AssignVmm, held, Some("0000:01:10.0"), None),
            ],
        }
    }

    #[test]
    fn what_people_see_fits_a_terminal() {
        let counted = counted();
        let page = anstream::adapter::strip_str(&page(&counted).render(Some(80))).to_string();
        let (devices, timeline) = (devices(&counted.devices), timeline(&counted.timeline));
        let ports = ports(&counted.ports).lines(Some(80));
        let tables = [devices.lines(Some(80)), ports, timeline.lines(Some(80))].concat();
        let tables: Vec<String> =
            tables.iter().map(|line| anstream::adapter::strip_str(line).to_string()).collect();
        for line in page.lines().chain(tables.iter().map(String::as_str)) {
            assert!(line.chars().count() <= 80, "{line}");
        }
        assert!(page.contains("622 read, 0 written"), "{page}");
        for used in [
            "83.5 s, at most 10000% of a CPU, held back for 12.3 s",
            "261 MiB of at most 768 MiB",
            "threads                5\n",
            "256 MiB in pages of 2MiB\n",
            "kept once (KSM)        1 MiB\n",
            "is to give             100 MiB, has given 60 MiB\n",
            "9 MiB that it told free\n",
            "TiB free, 41 MiB available, 230 MiB in all,",
        ] {
            assert!(page.contains(used), "{used}: {page}");
        }
        assert!(page.contains("4 interruptions") && !page.contains("shutdowns"), "{page}");
        assert!(!page.contains("VMM beside"), "what is not known is left out: {page}");
        let told = tables.join("\n");
        assert!(told.contains("connected  open      5 MiB"), "{told}");
        assert!(told.contains("123456.8        0.2  assign      host read"), "{told}");
        assert!(
            told.contains("lasts  assign-vmm  vCPU held until memory is pinned: 0000"),
            "{told}"
        );
    }

    #[test]
    fn a_program_reads_what_was_written() {
        let counted = counted();
        let text = serde_json::to_string(&counted).expect("plain data");
        assert_eq!(serde_json::from_str::<Counted>(&text).expect("the same"), counted);
    }
}
