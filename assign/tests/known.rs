//! Whole devices that a policy knows by what only their driver shows, and goes on to know when it is
//! gone.

use assign::apply::policies::{apply, plan_now, remove};
use assign::state::{Original, State, originals};
use policies::{Policy, Source};
use sriov::recorded::simulation::{Kernel, Simulation};
use sriov::recorded::{Function, Tree};
use sriov::{Binding, Change, HostRoot, PciAddress, Target};

const LEFT: &str = "0000:02:00.0";
const RIGHT: &str = "0000:03:00.0";

fn address(text: &str) -> PciAddress {
    text.parse().expect("an address")
}

/// Two cards that only their interfaces tell apart.
struct Lab {
    directory: tempfile::TempDir,
    tree: Tree,
    root: HostRoot,
    state: State,
    _kernel: Kernel,
}

impl Lab {
    fn new() -> Lab {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let card = |at, group, name| {
            let card = Function::new(at, (0x8086, 0x10d3), 0x02_0000).driver("e1000e");
            card.group(group).netdev(name)
        };
        let simulation = Simulation::lab(directory.path(), 0)
            .function(card(LEFT, 30, "left0"))
            .function(card(RIGHT, 31, "right0"));
        let tree = simulation.tree().clone();
        let kernel = simulation.start();
        tree.file("proc/sys/kernel/random/boot_id", "first\n");
        let (root, state) = (tree.root(), State::at(directory.path().join("state")));
        Lab { directory, tree, root, state, _kernel: kernel }
    }

    fn driver(&self, device: &str) -> Option<String> {
        let at = self.root.pci_attribute(address(device), "driver");
        sriov::attribute::link_name(&at).expect("readable")
    }

    fn drivers(&self) -> [String; 2] {
        [LEFT, RIGHT].map(|device| self.driver(device).unwrap_or_default())
    }

    fn apply(&self, policy: &Policy) -> Vec<String> {
        let policies = std::slice::from_ref(policy);
        let done = apply(&self.root, &self.state, policies, |_| Ok(()));
        let done = done.unwrap_or_else(|failure| panic!("{failure}"));
        done.changes.iter().map(ToString::to_string).collect()
    }

    fn steps(&self, policy: &Policy) -> Vec<String> {
        let plan = plan_now(&self.root, &self.state, std::slice::from_ref(policy)).expect("read");
        assert!(plan.refusals.is_empty(), "{:?}", plan.refusals);
        plan.steps.iter().map(|step| step.change.to_string()).collect()
    }
}

fn policy(name: &str, pools: &str) -> Policy {
    let text = format!(
        "apiVersion: assign/v1\nkind: Policy\nmetadata: {{name: {name}}}\nspec: {{pools: [{pools}]}}\n"
    );
    let parsed = policies::parse(&[Source { name: format!("{name}.yaml"), text }]);
    parsed.unwrap_or_else(|errors| panic!("{errors}")).policies.remove(0)
}

fn one(interface: &str) -> Policy {
    policy("edge", &format!("{{name: port, devices: {{interface: {interface}}}}}"))
}

fn given(device: &str) -> String {
    format!("{device}: bind to vfio-pci instead of e1000e")
}

#[test]
fn pools_that_differ_by_interface_only_keep_their_devices() {
    let lab = Lab::new();
    let pools = "{name: left, devices: {interface: left0}, expect: {max: 1}}, \
                 {name: right, devices: {interface: right0}, expect: {max: 1}}";
    let both = policy("edge", pools);
    assert_eq!(lab.apply(&both), [given(LEFT), given(RIGHT)]);
    assert_eq!(lab.steps(&both), [""; 0]);
    let plan = plan_now(&lab.root, &lab.state, std::slice::from_ref(&both)).expect("read");
    let fed: Vec<_> = plan.pools.iter().map(|pool| pool.accepted.clone()).collect();
    assert_eq!(fed, [[address(LEFT)], [address(RIGHT)]]);
    // Another policy does not get a device by a name that it had.
    let other = policy("other", "{name: mine, devices: {interface: left0}}");
    let plan = plan_now(&lab.root, &lab.state, &[other]).expect("read");
    assert!(plan.refusal().is_some_and(|refusal| refusal.message.contains("both take it")));
    remove(&lab.root, &lab.state, &["edge".to_owned()]).expect("removed");
    assert_eq!(lab.drivers(), ["e1000e", "e1000e"]);
}

#[test]
fn the_file_is_asked_again_each_time() {
    let lab = Lab::new();
    lab.apply(&one("left0"));
    // The file names another card now: that is taken, and the one before goes back.
    let back = format!("{LEFT}: give back to e1000e");
    assert_eq!(lab.steps(&one("right0")), [given(RIGHT), back]);
    // Somebody takes the card from vfio-pci: it is still the one.
    let device = Target::Function(address(LEFT));
    let (from, to) = (Binding::forced("vfio-pci"), Binding::default());
    Change::Restore { device, from, to }.perform(&lab.root).expect("unbound");
    assert_eq!(lab.drivers(), ["", "e1000e"]);
    let again = format!("{LEFT}: bind to vfio-pci");
    assert_eq!(lab.steps(&one("left0")), [&*again]);
    assert_eq!(lab.apply(&one("left0")), [again]);
    assert_eq!(lab.steps(&one("left0")), [""; 0]);
}

#[test]
fn another_boot_and_another_card_are_not_known_by_it() {
    let lab = Lab::new();
    lab.apply(&one("left0"));
    let refused = || {
        let plan = plan_now(&lab.root, &lab.state, &[one("left0")]).expect("read");
        plan.refusal().is_some_and(|refusal| refusal.message.contains("matches none"))
    };
    assert!(!refused());
    lab.tree.file("proc/sys/kernel/random/boot_id", "second\n");
    assert!(refused());
    lab.tree.file("proc/sys/kernel/random/boot_id", "first\n");
    assert!(!refused());
    lab.tree.attribute(LEFT, "device", "0x10d4\n");
    assert!(refused());
}

#[test]
fn a_device_that_was_bound_by_hand_is_known_as_well() {
    let lab = Lab::new();
    let host = lab.state.look(&lab.root).expect("read");
    let from = sriov::act::bind::original(&host, host.function(address(LEFT)).expect("there"));
    let original = Original {
        device: address(LEFT),
        vf: None,
        instance: originals::instance(&lab.root, address(LEFT)),
        binding: from.clone(),
        given_to: "vfio-pci".to_owned(),
        lost: Vec::new(),
        boot_id: "first".to_owned(),
    };
    lab.state.change(|state| state.remember_original(&original)).expect("remembered");
    let device = Target::Function(address(LEFT));
    let bind = Change::Bind { device, from, driver: "vfio-pci".to_owned() };
    bind.perform(&lab.root).expect("bound");
    assert_eq!(lab.steps(&one("left0")), [""; 0]);
    assert!(lab.directory.path().join("state").is_dir());
}
