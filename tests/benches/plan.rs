//! How long planning takes for 1,000 guests on 10,000 VFs, how that grows to ten times as many, and
//! how long an apply takes that has nothing to do on a host with 256 VFs: `cargo bench -p benches --bench
//! plan`.
//!
//! The hosts of plans are composed in memory. The apply is a whole process, on the server with two
//! nodes that assign/tests/hosts lays out, in files that are in memory too. Criterion's figures come
//! first; then each goal with its own; one that is missed fails the bench.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use assign::plan::{Known, Plan, plan_with};
use criterion::Criterion;
use policies::{Documents, Source};
use sriov::facts::iommu::{Iommu, IommuGroup};
use sriov::recorded::model;
use sriov::{HostSnapshot, MacAddress, PciAddress, PciFunction, PfFacts, VfRef, VfSettings};

#[path = "../../assign/tests/hosts/numa.rs"]
mod numa;
mod program;

/// What a plan for 1,000 guests on 10,000 VFs may take, in milliseconds.
const PLAN_GOAL: f64 = 100.0;
/// What ten times as much may take of each, against before.
const GROWTH_GOAL: f64 = 1.5;
/// What an apply with nothing to do may take on 256 VFs, in milliseconds.
const APPLY_GOAL: f64 = 50.0;
/// VFs of a card.
const EACH: u16 = 50;
/// Turns of each.
const TURNS: usize = 9;

fn main() -> Result<()> {
    let cases = [
        ("as wanted", Case::new(1_000, true)?, Case::new(10_000, true)?),
        ("to be made", Case::new(1_000, false)?, Case::new(10_000, false)?),
    ];
    let directory = Path::new("/dev/shm").join(format!("assign-plan-{}", std::process::id()));
    let idle = Idle::lay_out(&directory)?;
    let mut criterion = Criterion::default().sample_size(10).configure_from_args();
    for (name, small, large) in &cases {
        let mut group = criterion.benchmark_group(format!("plan, {name}"));
        for case in [small, large] {
            let guests = case.documents.guests.len();
            group.bench_function(format!("{guests} guests on {} VFs", guests * 10), |bencher| {
                bencher.iter(|| black_box(case.plan()));
            });
        }
        group.finish();
    }
    criterion.bench_function("apply with nothing to do on 256 VFs", |bencher| {
        bencher.iter(|| idle.apply().expect("nothing to do"));
    });
    criterion.final_summary();
    let reached = goals(&cases, &idle);
    std::fs::remove_dir_all(&directory).context("the composed host")?;
    ensure!(reached?, "a goal is missed");
    Ok(())
}

fn goals(cases: &[(&str, Case, Case)], idle: &Idle) -> Result<bool> {
    let mut reached = true;
    println!("medians of {TURNS} turns, milliseconds");
    for (name, small, large) in cases {
        let took = time(|| drop(black_box(small.plan())));
        let more = time(|| drop(black_box(large.plan())));
        let growth = more / took / 10.0;
        println!(
            "  1,000 guests on 10,000 VFs, {name}: {took:.1} (goal: at most {PLAN_GOAL}; {}); ten \
             times that: {more:.1}, {growth:.2} times for each (goal: at most {GROWTH_GOAL}; {})",
            said(took <= PLAN_GOAL),
            said(growth <= GROWTH_GOAL)
        );
        reached &= took <= PLAN_GOAL && growth <= GROWTH_GOAL;
    }
    idle.apply()?;
    let took = time(|| idle.apply().expect("nothing to do"));
    println!(
        "  apply with nothing to do on 256 VFs: {took:.1} (goal: at most {APPLY_GOAL}; {})",
        said(took <= APPLY_GOAL)
    );
    Ok(reached && took <= APPLY_GOAL)
}

fn said(reached: bool) -> &'static str {
    if reached { "reached" } else { "missed" }
}

/// The median of all turns, in milliseconds.
fn time(mut work: impl FnMut()) -> f64 {
    let turn = |_| {
        let begin = Instant::now();
        work();
        begin.elapsed().as_secs_f64() * 1e3
    };
    let mut times: Vec<f64> = (0..TURNS).map(turn).collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// A host and what is wanted of it.
struct Case {
    host: HostSnapshot,
    documents: Documents,
}

impl Case {
    /// So many guests on ten times as many VFs, which are there already or not.
    fn new(guests: u32, made: bool) -> Result<Case> {
        let documents = documents(guests)?;
        let mut case = Case { host: host(guests * 10, made)?, documents };
        let plan = case.plan();
        ensure!(plan.refusals.is_empty(), "{:?}", plan.refusals);
        ensure!(plan.guests.iter().all(|guest| guest.starts && guest.choice.given().count() == 1));
        if made {
            // The addresses that the policy wants are there as well.
            for step in plan.steps {
                if let sriov::Change::SetVfMac { vf, to, .. } = step.change {
                    let at = case.host.functions.binary_search_by_key(&vf.pf, |one| one.address);
                    let pf = at.ok().and_then(|at| case.host.functions.get_mut(at));
                    let facts = pf.and_then(|pf| pf.sriov.as_mut()).context("a PF")?;
                    facts.vf_settings.entry(vf.index).or_default().mac = to;
                }
            }
            ensure!(case.plan().steps.is_empty(), "something is left to do");
        }
        Ok(case)
    }

    fn plan(&self) -> Plan {
        let (policies, guests) = (&self.documents.policies, &self.documents.guests);
        plan_with(&self.host, policies, guests, Known::default())
    }
}

fn documents(guests: u32) -> Result<Documents> {
    let policy = format!(
        "apiVersion: assign/v1\nkind: Policy\nmetadata: {{name: bench}}\nspec:\n  pools:\n    - \
         {{name: lan, from: {{vendor: \"8086\", device: \"1583\"}}, vfs: {{count: {EACH}}}, order: \
         spread, network: {{mac: derive, trust: false}}}}\n"
    );
    let mut sources = vec![Source { name: "policy.yaml".to_owned(), text: policy }];
    for first in (0..guests).step_by(100) {
        let guest = |number: u32| {
            format!(
                "---\napiVersion: assign/v1\nkind: Guest\nmetadata: {{name: g{number}}}\nspec:\n  memory: \
                 {{size: 64MiB, numa: {}}}\n  boot: {{kernel: k}}\n  networks:\n    - {{name: net0, claim: \
                 {{pool: lan, numa: preferred}}}}\n",
                number % 2
            )
        };
        let text: String = (first..guests.min(first + 100)).map(guest).collect();
        sources.push(Source { name: format!("guests-{first}.yaml"), text });
    }
    policies::parse(&sources).map_err(|errors| anyhow::anyhow!("{errors}"))
}

/// A host of root ports, each with a card of [`EACH`] VFs.
fn host(vfs: u32, made: bool) -> Result<HostSnapshot> {
    let (mut functions, mut netdevs, mut groups) = (Vec::new(), Vec::new(), BTreeMap::new());
    let mut group = |member: PciAddress| {
        let number = u32::try_from(groups.len()).unwrap_or(u32::MAX);
        let alone = IommuGroup { members: vec![member], isolates: true, ..IommuGroup::default() };
        groups.insert(number, alone);
        Some(number)
    };
    for card in 0..vfs / u32::from(EACH) {
        let (domain, place) = (card / 200, card % 200);
        let byte = |number: u32| u8::try_from(number & 0xff).unwrap_or(0);
        let at = |bus, device, function| PciAddress::new(domain, bus, device, function);
        let port = at(0, byte(place / 8 + 1), byte(place % 8)).context("a port")?;
        let bus = byte(place + 1);
        let pf = at(bus, 0, 0).context("a card")?;
        let node = Some(card % 2);
        functions.push(PciFunction {
            class: 0x06_0400,
            driver: Some("pcieport".to_owned()),
            iommu_group: group(port),
            numa_node: node,
            ..PciFunction::new(port)
        });
        let name = format!("ens{card}");
        let mac = MacAddress([0x52, 0x54, 0, byte(card >> 16), byte(card >> 8), byte(card)]);
        netdevs.push(model::netdev(&name, 2 + card, pf, mac));
        let mut facts = PfFacts {
            total: EACH,
            present: if made { EACH } else { 0 },
            autoprobe: true,
            vf_device: 0x154c,
            offset: 0x80,
            stride: 2,
            ..PfFacts::default()
        };
        for index in 0..facts.present {
            let routing = byte(0x80 + 2 * u32::from(index));
            let vf = at(bus, routing >> 3, routing & 7).context("a VF")?;
            facts.vfs.insert(index, vf);
            let settings = VfSettings { trust: Some(false), ..VfSettings::default() };
            facts.vf_settings.insert(index, settings);
            functions.push(PciFunction {
                vendor: 0x8086,
                device: 0x154c,
                class: 0x02_0000,
                driver: Some("vfio-pci".to_owned()),
                iommu_group: group(vf),
                numa_node: node,
                parent: Some(port),
                vf_of: Some(VfRef { pf, index }),
                ..PciFunction::new(vf)
            });
        }
        functions.push(PciFunction {
            vendor: 0x8086,
            device: 0x1583,
            class: 0x02_0000,
            driver: Some("i40e".to_owned()),
            iommu_group: group(pf),
            numa_node: node,
            parent: Some(port),
            netdevs: vec![name],
            sriov: Some(facts),
            ..PciFunction::new(pf)
        });
    }
    functions.sort_by_key(|function| function.address);
    netdevs.sort_by(|one, other| one.name.cmp(&other.name));
    let iommu = Iommu { present: true, firmware: None, groups };
    let host = HostSnapshot { schema: 1, iommu, functions, netdevs, ..HostSnapshot::default() };
    host.check().map_err(|broken| anyhow::anyhow!("{broken}"))?;
    Ok(host)
}

/// A host in files that is as its policy says, and the program that finds that out.
struct Idle {
    program: PathBuf,
    directory: PathBuf,
}

impl Idle {
    fn lay_out(directory: &Path) -> Result<Idle> {
        let tree = numa::numa_up(&directory.join("host"));
        tree.file("policy.yaml", numa::POLICY);
        let idle = Idle { program: program::assign()?, directory: directory.to_owned() };
        // The first one remembers the policy.
        for _ in 0..2 {
            let output = idle.command().output()?;
            ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let said = String::from_utf8_lossy(&output.stdout);
            ensure!(said.contains("nothing to do"), "{said}");
        }
        Ok(idle)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        let at = |name: &str| self.directory.join(name);
        command.arg("--root").arg(at("host")).arg("--state").arg(at("state"));
        command.arg("apply").arg("-f").arg(at("host/policy.yaml"));
        command.stdin(Stdio::null());
        command
    }

    fn apply(&self) -> Result<()> {
        let status = self.command().stdout(Stdio::null()).stderr(Stdio::null()).status()?;
        ensure!(status.success(), "{status}");
        Ok(())
    }
}
