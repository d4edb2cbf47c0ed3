use policies::Source;
use sriov::recorded::{Function, Tree};

use super::*;
use crate::cli::output::text::columns;
use crate::plan::{Known, Reasons, plan_with};

const DOCUMENTS: &str = r#"apiVersion: assign/v1
kind: Policy
metadata: {name: edge-node}
spec:
  pools:
    - name: lan
      from: {interface: eth0}
      vfs: {count: 4}
      order: spread
      network: {mac: derive, vlan: {id: 100}, spoofCheck: true}
    - {name: far, from: {interface: eth1}, vfs: {count: 12}}
    - {name: gpu, devices: {vendor: "10de"}}
  protection:
    exceptions:
      - {device: "0000:00:1f.2", because: "the old disk, copied yesterday"}
---
apiVersion: assign/v1
kind: Guest
metadata: {name: web-1}
spec:
  memory: {size: 64MiB, numa: 1}
  boot: {kernel: k}
  networks:
    - {name: net0, claim: {pool: lan, numa: preferred}}
    - {name: net1, claim: {pool: wan}, fallback: {virtio: {bridge: br0}}}
    - {name: net2, virtio: {bridge: br1}}
  devices:
    - {name: gpu0, claim: {pool: gpu, numa: required}, optional: true}
---
apiVersion: assign/v1
kind: Guest
metadata: {name: web-2}
spec:
  memory: {size: 64MiB}
  boot: {kernel: k}
  networks:
    - {name: net0, claim: {pool: nowhere}}
  devices:
    - {name: gpu0, claim: {pool: gpu}}
---
apiVersion: assign/v1
kind: Guest
metadata: {name: web-3}
spec:
  memory: {size: 64MiB}
  boot: {kernel: k}
  devices:
    - {name: gpu0, claim: {pool: gpu}}
"#;

fn planned() -> (Plan, HostSnapshot) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let tree = Tree::lab(directory.path(), 2);
    tree.file("sys/class/net/eth0/flags", "0x1003\n");
    for vf in ["0000:01:10.0", "0000:01:10.2"] {
        let link = format!("sys/bus/pci/devices/{vf}/driver");
        tree.link(&link, "../../bus/pci/drivers/vfio-pci");
        tree.attribute(vf, "driver_override", "vfio-pci\n");
    }
    tree.add(
        Function::new("0000:02:00.0", (0x8086, 0x1583), 0x02_0000)
            .below("0000:00:01.0")
            .driver("i40e")
            .group(60)
            .netdev("eth1")
            .numa(0)
            .vfs(64, 0),
    );
    tree.add(Function::new("0000:03:00.0", (0x10de, 0x20b0), 0x03_0200).group(80).numa(0));
    let host = HostSnapshot::read(&tree.root());
    let source = Source { name: "edge.yaml".to_owned(), text: DOCUMENTS.to_owned() };
    let documents = policies::parse(&[source]).unwrap_or_else(|errors| panic!("{errors}"));
    let known = Known { reasons: Reasons::Sums, ..Known::default() };
    let plan = plan_with(&host, &documents.policies, &documents.guests, known);
    (plan, host)
}

fn plain(text: &str) -> String {
    anstream::adapter::strip_str(text).to_string()
}

#[test]
fn a_plan_reads_like_a_story() {
    let (plan, host) = planned();
    assert!(plan.refusals.is_empty(), "{:#?}", plan.refusals);
    let short = story(&plan, &host, false, Some(Path::new("edge.json")));
    insta::assert_snapshot!("plan_of_80_columns", plain(&lines(&short, 80)));
    let long = story(&plan, &host, true, None);
    insta::assert_snapshot!("plan_with_every_reason", plain(&lines(&long, 200)));
}

#[test]
fn every_line_fits() {
    let (plan, host) = planned();
    for (width, verbose) in [(80, false), (80, true), (200, false), (200, true)] {
        let text = plain(&lines(&story(&plan, &host, verbose, None), width));
        let longest = text.lines().max_by_key(|line| columns(line)).unwrap_or_default();
        assert!(columns(longest) <= width, "{width} columns: {longest}");
        assert!(text.lines().count() > 20, "{text}");
    }
}
