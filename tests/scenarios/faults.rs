//! An apply that is killed, and one that gets an error, at every call by which it changes a real
//! kernel's devices. The same for other applies, and for what is written into the state, is tried on
//! simulated hosts (assign/tests/simulated).

use std::time::Duration;

use anyhow::Result;
use lab::Host;

/// All that the example changes on its card, and what the host says of its devices and policies.
const FACTS: &str = "cd /sys/class/net/eth0; cat device/sriov_numvfs \
                     device/sriov_drivers_autoprobe flags /proc/sys/net/ipv6/conf/eth0/accept_ra; \
                     cat /sys/bus/pci/devices/*/driver_override; assign devices -o json; \
                     assign vf list -o json";
const APPLY: &str = "assign apply -f /examples/edge-node.yaml";

const REMOVE: &str = "assign remove -f /examples/edge-node.yaml";
const EIO: u32 = 5;
const EBUSY: u32 = 16;

/// A host with what is known of it before and after the apply.
struct Tried {
    host: Host,
    before: String,
    planned: String,
    points: Vec<String>,
}

impl Tried {
    fn boot() -> Result<Tried> {
        let host = Host::intel().igb(1).limit(Duration::from_secs(900)).boot()?;
        let before = host.ok(FACTS);
        let counted =
            host.run_within(&format!("lab-fault host count -- {APPLY}"), Duration::from_secs(120))?;
        assert_eq!(counted.code, 0, "{}{}", counted.stdout, counted.stderr);
        let is_point = |line: &&str| line.starts_with("write /") || line.starts_with("change over");
        let points: Vec<String> =
            counted.stdout.lines().filter(is_point).map(str::to_owned).collect();
        assert!(points.len() >= 7, "{points:?}");
        assert!(points.iter().any(|point| point.ends_with("/sriov_numvfs")), "{points:?}");
        assert!(points.iter().any(|point| point == "change over rtnetlink"), "{points:?}");
        let planned = host.ok(FACTS);
        assert_ne!(planned, before);
        host.ok(REMOVE);
        assert_eq!(host.ok(FACTS), before, "removing it");
        Ok(Tried { host, before, planned, points })
    }

    /// Applies with a fault, recovers, and finds the host as planned or as before. Returns how the
    /// apply ended.
    fn fault(&self, how: &str, at: usize) -> Result<i32> {
        let host = &self.host;
        let long = |command: &str| host.run_within(command, Duration::from_secs(120));
        let told = format!("{how} {at} ({})", self.points[at]);
        let ran = long(&format!("lab-fault host {how} {at} -- {APPLY}"))?;
        let recovered = long("assign recover")?;
        assert_eq!(recovered.code, 0, "{told}: {}", recovered.stderr);
        let said = format!("{told}: {}{}{}", ran.stdout, ran.stderr, recovered.stdout);
        let facts = host.ok(FACTS);
        if facts == self.planned {
            let done = ran.code == 0 || recovered.stdout.contains("it is done now");
            assert!(done, "{said}");
            host.ok(REMOVE);
        } else {
            assert_ne!(ran.code, 0, "it said that all was well: {said}");
            assert_eq!(facts, self.before, "{said}");
        }
        assert!(host.ok("assign recover").contains("nothing to recover"), "{told}");
        Ok(ran.code)
    }

    /// That it can be applied all the same.
    fn end(&self) {
        self.host.ok(APPLY);
        assert_eq!(self.host.ok(FACTS), self.planned);
    }
}

#[test]
#[ignore = "boots an emulated host: cargo lab test"]
fn an_apply_that_is_killed_at_any_point_leaves_the_host_as_planned_or_as_before() -> Result<()> {
    let tried = Tried::boot()?;
    // Before each point, which is after the one before, and after the last one.
    let last = tried.points.len() - 1;
    let faults = (0..=last).map(|at| ("before", at)).chain([("after", last)]);
    let mut kills = 0;
    for (how, at) in faults {
        assert_eq!(tried.fault(how, at)?, 137, "{how} {at}");
        kills += 1;
    }
    println!("edge-node in the lab: {} points, {kills} kills", tried.points.len());
    tried.end();
    Ok(())
}

#[test]
#[ignore = "boots an emulated host: cargo lab test"]
fn an_apply_that_fails_at_any_point_leaves_the_host_as_planned_or_as_before() -> Result<()> {
    let tried = Tried::boot()?;
    let (mut errors, mut refused) = (0, 0);
    for errno in [EIO, EBUSY] {
        for at in 0..tried.points.len() {
            // It ends by itself: some calls it can do without, and busy ones it makes again.
            let code = tried.fault(&errno.to_string(), at)?;
            assert!(matches!(code, 0 | 1 | 3), "{errno} at {at}: {code}");
            errors += 1;
            refused += usize::from(code != 0);
        }
    }
    println!("edge-node in the lab: {} points, {errors} errors", tried.points.len());
    assert!(refused > errors / 2, "{refused} of {errors} had an effect");
    tried.end();
    Ok(())
}
