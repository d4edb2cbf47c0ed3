//! Trees, groups and pictures of composed hosts.

mod hosts;

use std::path::Path;

use assign::cli::devices::show_tree;
use assign::cli::output::text;
use assign::state::{Lease, Owner};
use assign::topology::groups::Verdict;
use assign::topology::svg::canvas::{Item, Rect};
use assign::topology::{Standings, Topology, groups, svg, tree};
use sriov::facts::iommu::{Region, RegionKind};
use sriov::recorded::{Function, Tree};
use sriov::{HostSnapshot, Scope};

/// A lease of this boot, by a process that nobody asks for here.
fn lease(device: &str, guest: &str) -> Lease {
    Lease {
        device: device.parse().expect("an address"),
        vf: None,
        pool: None,
        group: None,
        guest: guest.to_owned(),
        owner: Owner { pid: 1, started: 1 },
        launcher: None,
        boot_id: String::new(),
        created: 0,
        instance: None,
        loan: None,
    }
}

fn standings(snapshot: &HostSnapshot, leases: &[Lease]) -> Standings {
    Standings::new(snapshot, leases)
}

/// The tree as a terminal of this width shows it, without its colours.
fn drawn(snapshot: &HostSnapshot, leases: &[Lease], all: bool, width: Option<usize>) -> String {
    let standings = standings(snapshot, leases);
    let topology = Topology::new(snapshot, &standings);
    let lines = show_tree(&tree::rows(&topology, all)).lines(width);
    let plain = lines.iter().map(|line| anstream::adapter::strip_str(line).to_string());
    plain.collect::<Vec<_>>().join("\n")
}

fn picture(snapshot: &HostSnapshot, leases: &[Lease]) -> String {
    let standings = standings(snapshot, leases);
    let topology = Topology::new(snapshot, &standings);
    svg::draw(snapshot, &topology, "PCI topology", &["Linux 6.12.0-test".to_owned()])
}

/// A host that is drawn here, with who has what.
fn host(name: &str) -> (HostSnapshot, Vec<Lease>) {
    let read = |lay_out: &dyn Fn(&Path) -> Tree| {
        let directory = tempfile::tempdir().expect("a temporary directory");
        HostSnapshot::read_within(&lay_out(directory.path()).root(), Scope::Whole)
    };
    match name {
        "lab" => {
            let snapshot = read(&|directory| Tree::lab(directory, 7));
            (snapshot, vec![lease("0000:01:10.0", "web-1")])
        }
        "laptop" => (read(&hosts::laptop), Vec::new()),
        "server" => {
            (hosts::server(), vec![lease("0000:03:10.2", "a guest with a long name & <so on>")])
        }
        "cloud" => (read(&hosts::cloud), Vec::new()),
        "hostile" => (hosts::hostile(), Vec::new()),
        _ => (HostSnapshot::default(), Vec::new()),
    }
}

const ALL: [&str; 6] = ["lab", "laptop", "server", "cloud", "hostile", "empty"];

#[test]
fn the_tree_fits_a_terminal_and_uses_a_wide_one() {
    for name in ALL {
        let (snapshot, leases) = host(name);
        let narrow = drawn(&snapshot, &leases, false, Some(80));
        let widest = narrow.lines().map(text::columns).max().unwrap_or(0);
        assert!(widest <= 80 || name == "hostile", "{name}: {widest}\n{narrow}");
        if matches!(name, "lab" | "laptop" | "server") {
            insta::assert_snapshot!(format!("tree_of_{name}_80"), narrow);
        }
        if name == "laptop" {
            insta::assert_snapshot!(
                "tree_of_laptop_200",
                drawn(&snapshot, &leases, false, Some(200))
            );
        }
    }
}

#[test]
fn vfs_are_folded_into_ranges_and_unfolded_on_demand() {
    let (snapshot, leases) = host("server");
    let folded = drawn(&snapshot, &leases, false, None);
    assert!(folded.contains("VFs 3-63"), "{folded}");
    let unfolded = drawn(&snapshot, &leases, true, None);
    assert_eq!(unfolded.matches(" VF ").count(), 256);
}

#[test]
fn each_group_has_its_verdict() {
    let (snapshot, leases) = host("laptop");
    let standings = standings(&snapshot, &leases);
    let verdicts: Vec<(u32, Verdict)> =
        groups::all(&snapshot, &standings).into_iter().map(|g| (g.group, g.verdict)).collect();
    let of = |number| verdicts.iter().find(|(group, _)| *group == number).map(|(_, v)| v.clone());
    assert_eq!(of(1), Some(Verdict::Bridges));
    assert_eq!(of(2), Some(Verdict::Free { devices: 2, together: true }));
    assert_eq!(of(11), Some(Verdict::Free { devices: 1, together: false }));
    let carries = "0000:02:00.0 carries nvme0n1 → /".to_owned();
    assert_eq!(of(10), Some(Verdict::No { why: carries }));
}

#[test]
fn a_region_that_firmware_wants_keeps_its_group() {
    let (mut snapshot, leases) = host("laptop");
    let group = snapshot.iommu.groups.get_mut(&11).expect("the group");
    group.reserved =
        vec![Region { start: 0x7b80_0000, end: 0x7fff_ffff, kind: RegionKind::Direct }];
    let standings = standings(&snapshot, &leases);
    let found = groups::all(&snapshot, &standings);
    let verdict = found.into_iter().find(|group| group.group == 11).map(|group| group.verdict);
    assert!(
        matches!(&verdict, Some(Verdict::No { why }) if why.contains("0x7b800000")),
        "{verdict:?}"
    );
}

#[test]
fn pictures_are_well_formed_deterministic_and_self_contained() {
    for name in ALL {
        let (snapshot, leases) = host(name);
        let svg = picture(&snapshot, &leases);
        assert_eq!(svg, picture(&snapshot, &leases), "{name}");
        let document = roxmltree::Document::parse(&svg).expect(name);
        let root = document.root_element();
        assert_eq!(root.tag_name().name(), "svg");
        assert_eq!((root.attribute("version"), root.attribute("role")), (Some("1.1"), Some("img")));
        for id in ["title", "description"] {
            let named = |node: &roxmltree::Node| node.attribute("id") == Some(id);
            let node = document.descendants().find(named).expect(id);
            assert!(node.text().is_some_and(|text| !text.is_empty()), "{name}: {id}");
        }
        for word in ["href", "url(", "@import", "<script", "<image", "<foreignObject"] {
            assert!(!svg.contains(word), "{name} has {word}");
        }
        // Each function is told to who points at it, whatever it is drawn as.
        for function in snapshot.functions.iter().take(600) {
            assert!(svg.contains(&function.address.to_string()), "{name}: {}", function.address);
        }
    }
}

#[test]
fn no_text_is_cut_or_on_another() {
    for name in ALL {
        let (snapshot, leases) = host(name);
        let standings = standings(&snapshot, &leases);
        let topology = Topology::new(&snapshot, &standings);
        let (canvas, (w, h)) = svg::compose(&snapshot, &topology, "PCI topology", &[]);
        let page = Rect { x: 0, y: 0, w, h };
        let mut texts: Vec<(Rect, &str)> = Vec::new();
        for item in &canvas.items {
            match item {
                Item::Text { at, text, .. } => texts.push((*at, text)),
                Item::Rect { at, .. } => assert!(page.holds(*at), "{name}: {at:?} leaves {page:?}"),
                _ => {}
            }
        }
        texts.sort_by_key(|(at, _)| at.y);
        for (number, (at, text)) in texts.iter().enumerate() {
            assert!(page.holds(*at), "{name}: {text:?} at {at:?} leaves {page:?}");
            let near = texts.iter().skip(number + 1).take_while(|(other, _)| other.y < at.bottom());
            for (other, covered) in near {
                assert!(!at.meets(*other), "{name}: {text:?} {at:?} on {covered:?} {other:?}");
            }
        }
    }
}

#[test]
fn a_frame_holds_its_group_and_nothing_else() {
    let (mut snapshot, leases) = host("laptop");
    // A group of two that have nothing to do with each other, and another one in between.
    for (address, group) in [("0000:00:04.0", 77), ("0000:00:12.0", 77)] {
        let address = address.parse().expect("an address");
        let function = snapshot.functions.iter_mut().find(|f| f.address == address);
        function.expect("a function").iommu_group = Some(group);
        snapshot.iommu.groups.entry(group).or_default().members.push(address);
        snapshot.iommu.groups.entry(group).or_default().isolates = true;
    }
    let svg = picture(&snapshot, &leases);
    let document = roxmltree::Document::parse(&svg).expect("XML");
    let named = |node: &roxmltree::Node| {
        node.has_tag_name("text") && node.text() == Some("group 77: 2 devices")
    };
    // The layout brings them together: one frame.
    assert_eq!(document.descendants().filter(named).count(), 1);
}

/// Lays the hosts out where they can be looked at with `assign --root`.
#[test]
fn lay_out() {
    let Some(directory) = std::env::var_os("ASSIGN_TEST_HOSTS") else { return };
    let directory = Path::new(&directory);
    let place = |name| directory.join(name);
    let lab = Tree::lab(&place("lab"), 7);
    for vf in ["0000:01:10.0", "0000:01:10.2", "0000:01:10.4"] {
        lab.link(&format!("sys/bus/pci/devices/{vf}/driver"), "../../x/vfio-pci");
    }
    let leases = [lease("0000:01:10.0", "web-1"), lease("0000:01:10.2", "db-with-a-long-name")];
    let snapshot = HostSnapshot::read(&lab.root());
    std::fs::write(directory.join("leased.svg"), picture(&snapshot, &leases)).expect("written");
    hosts::laptop(&place("laptop"));
    let (server, leases) = host("server");
    std::fs::write(directory.join("server.svg"), picture(&server, &leases)).expect("written");
    hosts::cloud(&place("cloud"));
}

/// Frames take room between devices; where there are none, nothing is left free for them.
#[test]
fn without_an_iommu_no_room_is_left_for_frames() {
    let tall = |is_grouped: bool| {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let tree = Tree::new(directory.path());
        for (group, address) in ["0000:00:03.0", "0000:00:04.0", "0000:00:05.0"].iter().enumerate()
        {
            let card = Function::new(address, (0x8086, 0x10d3), 0x02_0000).driver("e1000e");
            tree.add(match is_grouped {
                true => card.group(u32::try_from(group).expect("a small number")),
                false => card,
            });
        }
        let snapshot = HostSnapshot::read_within(&tree.root(), Scope::Whole);
        let standings = standings(&snapshot, &[]);
        let topology = Topology::new(&snapshot, &standings);
        let (canvas, _) = svg::compose(&snapshot, &topology, "PCI topology", &[]);
        let cards = canvas.items.iter().filter_map(|item| match item {
            Item::Rect { at, class: "card", .. } => Some(at.y),
            _ => None,
        });
        let tops: Vec<i32> = cards.collect();
        assert_eq!(tops.len(), 3, "{tops:?}");
        let steps: Vec<i32> = tops.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert_eq!(steps[0], steps[1], "{tops:?}");
        steps[0]
    };
    assert_eq!((tall(true), tall(false)), (88 + 38, 88 + 10));
}
