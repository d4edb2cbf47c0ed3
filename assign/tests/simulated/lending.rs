//! `driver: host`: what the host keeps, gets back and lends, by the program itself.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use assign::state::{Lease, Loan, Owner};
use sriov::recorded::simulation::{Request, Simulation};
use sriov::{Binding, VfRef};

use super::Host;

const PF: &str = "0000:01:00.0";
const VFS: [&str; 4] = ["0000:01:10.0", "0000:01:10.2", "0000:01:10.4", "0000:01:10.6"];

impl Host {
    fn policy(&self, pools: &str) -> String {
        let text = format!(
            "apiVersion: assign/v1\nkind: Policy\nmetadata: {{name: edge}}\nspec:\n  pools:\n{pools}"
        );
        let path: PathBuf = self.directory.path().join("edge.yaml");
        std::fs::write(&path, text).expect("written");
        path.display().to_string()
    }

    /// One pool of all of 2 VFs.
    pub(super) fn pool(&self, rest: &str) -> String {
        self.policy(&format!(
            "    - {{name: lan, from: {{interface: eth0}}, vfs: {{count: 2}}, {rest}}}\n"
        ))
    }

    /// The drivers of the first VFs, each with `!` where an override keeps it.
    pub(super) fn drivers(&self, count: usize) -> Vec<String> {
        let snapshot = self.snapshot();
        let driver = |at: &&str| {
            let function = snapshot.function(at.parse().expect("an address")).expect("a VF");
            let kept = if function.driver_override.is_some() { "!" } else { "" };
            format!("{}{kept}", function.driver.as_deref().unwrap_or("none"))
        };
        VFS.iter().take(count).map(driver).collect()
    }

    fn lease_first(&self, loan: Option<Loan>) -> String {
        let me = std::process::id();
        let stat = format!("{me} (a) S 1 1 1 0 -1 4194304 1 0 0 0 1 1 0 0 20 0 1 0 7 1 1 1\n");
        self.tree().file(&format!("proc/{me}/stat"), &stat);
        let owner = Owner { pid: me, started: 7 };
        let device = VFS[0].parse().expect("an address");
        let pf = PF.parse().expect("an address");
        let lease = Lease {
            vf: Some(VfRef { pf, index: 0 }),
            loan,
            ..Lease::new(&self.root(), device, "web", owner)
        };
        self.state().take_leases(&self.root(), &[lease]).expect("free");
        format!("guest web (process {me})")
    }

    /// Runs a command that has to be refused; returns why.
    fn refused(&self, arguments: &[&str]) -> String {
        let output = self.assign(arguments);
        assert_eq!(output.status.code(), Some(3), "{output:?}");
        String::from_utf8_lossy(&output.stderr).split_whitespace().collect::<Vec<_>>().join(" ")
    }
}

fn lab() -> Host {
    Host::new(|directory| Simulation::lab(directory, 0))
}

#[test]
fn a_pool_that_is_switched_gives_its_vfs_back_and_takes_them_again() {
    let host = lab();
    let before = host.snapshot();
    let file = host.pool("driver: vfio-pci");
    host.done(&["apply", "-f", &file]);
    assert_eq!(host.drivers(2), ["vfio-pci!", "vfio-pci!"]);

    host.pool("driver: host");
    let plan = host.done(&["plan", "-f", &file]);
    let step = "VF 0: give back from vfio-pci to the host's driver";
    assert!(plan.contains(step) && plan.contains("2 steps"), "{plan}");
    let drift = host.assign(&["diff", "-f", &file]);
    let drift = String::from_utf8_lossy(&drift.stdout).into_owned();
    assert!(drift.contains("VF 1: driver is vfio-pci, should be the host's driver"), "{drift}");
    host.done(&["apply", "-f", &file]);
    assert_eq!(host.drivers(2), ["igbvf", "igbvf"]);
    assert!(host.done(&["apply", "-f", &file]).contains("nothing to do"));
    host.done(&["diff", "-f", &file]);

    host.pool("driver: vfio-pci");
    host.done(&["apply", "-f", &file]);
    assert_eq!(host.drivers(2), ["vfio-pci!", "vfio-pci!"]);
    host.done(&["remove", "edge"]);
    assert_eq!(host.snapshot(), before);
}

#[test]
fn what_the_host_had_before_it_has_again_as_it_was() {
    let host = Host::new(|directory| Simulation::lab(directory, 2));
    let before = host.snapshot();
    assert_eq!(host.drivers(2), ["igbvf", "igbvf"]);
    let file = host.pool("driver: vfio-pci, network: {mac: derive}");
    host.done(&["apply", "-f", &file]);
    host.pool("driver: host, network: {mac: derive}");
    let plan = host.done(&["plan", "-f", &file]);
    assert!(plan.contains("VF 0: give back to igbvf as "), "{plan}");
    host.done(&["apply", "-f", &file]);
    assert_eq!(host.drivers(2), ["igbvf", "igbvf"]);
    assert!(host.done(&["apply", "-f", &file]).contains("nothing to do"));
    host.done(&["remove", "edge"]);
    assert_eq!(host.drivers(2), ["igbvf", "igbvf"]);
    assert_eq!(host.snapshot().functions, before.functions);
}

#[test]
fn no_switch_goes_through_below_a_guest() {
    let host = lab();
    let file = host.pool("driver: vfio-pci");
    host.done(&["apply", "-f", &file]);
    let guest = host.lease_first(None);
    host.pool("driver: host");
    let why = host.refused(&["apply", "-f", &file]);
    assert!(why.contains("give back from vfio-pci") && why.contains(&guest), "{why}");
    assert_eq!(host.drivers(2), ["vfio-pci!", "vfio-pci!"], "not the other one either");
}

#[test]
fn what_is_lent_is_not_taken_from_the_host_for_good() {
    let host = lab();
    let file = host.pool("driver: host");
    host.done(&["apply", "-f", &file]);
    assert_eq!(host.drivers(2), ["igbvf", "igbvf"]);
    let from = Binding { driver: Some("igbvf".to_owned()), ..Binding::default() };
    let loan = Loan { from: from.clone(), driver: "vfio-pci".to_owned(), by_force: None };
    let guest = host.lease_first(Some(loan));
    let lease = host.state().leases(&host.root()).expect("leases").remove(0);
    lease.bind().expect("a loan").perform(&host.root()).expect("bound");
    assert!(host.done(&["apply", "-f", &file]).contains("nothing to do"), "lent is as wanted");
    host.pool("driver: vfio-pci");
    let why = host.refused(&["apply", "-f", &file]);
    assert!(why.contains("take it from the host for pool lan") && why.contains(&guest), "{why}");
    assert_eq!(host.drivers(2), ["vfio-pci!", "igbvf"]);
}

#[test]
fn the_hosts_driver_begins_with_a_vf_when_its_address_is_set() {
    let host = lab();
    let file = host.pool("driver: host, network: {mac: derive}");
    let seen = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&seen);
    host.kernel.before(move |request| {
        let what = match request {
            Request::SetLink(_) => Some("set".to_owned()),
            Request::Write(path, value) if path.ends_with("drivers_probe") => {
                Some(format!("probe {}", value.trim()))
            }
            Request::Write(path, value) if path.ends_with("sriov_drivers_autoprobe") => {
                Some(format!("autoprobe {}", value.trim()))
            }
            _ => None,
        };
        told.lock().expect("no panic").extend(what);
        Ok(())
    });
    host.done(&["apply", "-f", &file]);
    let mut seen = seen.lock().expect("no panic").split_off(0);
    // The two VFs may be probed in either order.
    seen.iter_mut().filter(|one| one.starts_with("probe")).for_each(|one| one.truncate(5));
    assert_eq!(seen, ["set", "autoprobe 0", "set", "set", "autoprobe 1", "probe", "probe"]);
    assert_eq!(host.drivers(2), ["igbvf", "igbvf"]);
    assert!(host.done(&["apply", "-f", &file]).contains("nothing to do"));

    // One that the host has already begins anew with the address.
    host.done(&["vf", "set", "eth0/0", "--mac", "02:00:00:00:00:07"]);
    let plan = host.done(&["plan", "-f", &file]);
    let steps: Vec<&str> =
        plan.lines().filter_map(|line| Some(line.split_once("VF 0: ")?.1)).collect();
    assert_eq!(steps.len(), 3, "{plan}");
    assert_eq!(steps.first(), Some(&"give back without a driver"), "{plan}");
    assert!(steps.get(1).is_some_and(|step| step.starts_with("set its address to ")), "{plan}");
    assert!(steps.get(2).is_some_and(|step| step.starts_with("give back to igbvf as ")), "{plan}");
    host.done(&["apply", "-f", &file]);
    assert_eq!(host.drivers(2), ["igbvf", "igbvf"]);
    assert!(host.done(&["apply", "-f", &file]).contains("nothing to do"));
}

#[test]
fn one_card_has_vfs_for_guests_beside_vfs_for_the_host() {
    let host = lab();
    let before = host.snapshot();
    let pools = |driver: &str| {
        host.policy(&format!(
            "    - {{name: lan, from: {{interface: eth0}}, vfs: {{count: 4}}, use: \"0-1\"}}\n    \
             - {{name: own, from: {{interface: eth0}}, vfs: {{count: 4}}, use: \"2-3\", \
             driver: {driver}, network: {{mac: derive}}}}\n"
        ))
    };
    let file = pools("host");
    host.done(&["apply", "-f", &file]);
    assert_eq!(host.drivers(4), ["vfio-pci!", "vfio-pci!", "igbvf", "igbvf"]);
    assert!(host.done(&["apply", "-f", &file]).contains("nothing to do"));
    host.done(&["diff", "-f", &file]);
    pools("vfio-pci");
    host.done(&["apply", "-f", &file]);
    assert_eq!(host.drivers(4), ["vfio-pci!"; 4]);
    pools("host");
    host.done(&["apply", "-f", &file]);
    assert_eq!(host.drivers(4), ["vfio-pci!", "vfio-pci!", "igbvf", "igbvf"]);
    host.done(&["remove", "edge"]);
    assert_eq!(host.snapshot(), before);
}

#[test]
fn a_host_that_binds_no_drivers_to_vfs_gets_none() {
    let host = lab();
    host.tree().attribute(PF, "sriov_drivers_autoprobe", "0\n");
    let file = host.pool("driver: host, network: {mac: derive}");
    host.done(&["apply", "-f", &file]);
    assert_eq!(host.drivers(2), ["none", "none"]);
    assert!(host.done(&["apply", "-f", &file]).contains("nothing to do"));
}
