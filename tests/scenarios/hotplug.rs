//! Devices that come to running guests and leave them: with the guest's consent, without, and because
//! the host wants them back.

use std::time::Duration;

use anyhow::Result;
use lab::{Host, Job, Shape};
use serde_json::Value;

use crate::documents::{Guest, policy};
use crate::guests;

const GUEST_TIME: Duration = Duration::from_secs(180);

fn host(shape: Shape) -> Result<Host> {
    // Without this the guest's kernel listens to no eject request.
    let deaf = Guest::new("deaf", "hold acpiphp.disable=1").claim().to_string();
    let shape = shape
        .igb(1)
        .file("root/edge.yaml", policy(3))
        .file("root/web.yaml", Guest::new("web", "hold").claim().to_string())
        .file("root/bare.yaml", Guest::new("bare", "hold").to_string())
        .file("root/deaf.yaml", deaf);
    let host = shape.limit(Duration::from_secs(600)).boot()?;
    host.ok("assign apply -f edge.yaml");
    Ok(host)
}

/// Owner of each VF of eth0, in their order.
fn owners(host: &Host) -> Vec<Option<String>> {
    let list: Value = serde_json::from_str(&host.ok("assign vf list eth0 -o json")).expect("JSON");
    let vfs = list.as_array().expect("a list").iter();
    vfs.map(|vf| vf["owner"]["guest"].as_str().map(str::to_owned)).collect()
}

fn web() -> Option<String> {
    Some("web".to_owned())
}

fn start(host: &Host, name: &str) -> Result<Job> {
    guests::start(host, &format!("assign run -f {name}.yaml"), GUEST_TIME)
}

#[test]
#[ignore = "boots an emulated host: cargo lab test"]
fn devices_come_to_a_running_guest_and_leave_it() -> Result<()> {
    devices_come_and_leave(Host::intel())
}

/// The same in a host of this kind.
pub fn devices_come_and_leave(shape: Shape) -> Result<()> {
    let host = host(shape)?;
    let guest = start(&host, "web")?;
    assert_eq!(owners(&host), [web(), None, None]);

    let told = host.ok("assign attach web --pool lan");
    assert_eq!(told, "web has 0000:01:10.2 now\n");
    guest.wait_for("guest: eth1: came: igbvf", GUEST_TIME)?;
    guest.wait_for("guest: eth1: ping 10.0.2.2: 3 of 3 answered", GUEST_TIME)?;
    assert_eq!(owners(&host), [web(), web(), None]);
    // By name, and by its address where it is not bound: nothing of it stays.
    host.ok("assign attach web 01:10.4");
    guest.wait_for("guest: eth2: ping 10.0.2.2: 3 of 3 answered", GUEST_TIME)?;
    for (command, code, why) in [
        ("assign attach web --pool lan", 1, "no free VF"),
        ("assign attach web 01:10.4", 2, "is with web already"),
        ("assign attach web 00:00.0", 3, "is not bound to vfio-pci"),
        ("assign attach nobody --pool lan", 2, "no guest of this name runs"),
        ("assign detach web 00:00.0", 2, "is not with web"),
        ("assign run -f web.yaml", 3, "runs already"),
        ("assign vf destroy eth0 --yes", 3, "web"),
    ] {
        let output = host.run(command)?;
        assert_eq!(output.code, code, "{command}: {}", output.stderr);
        let said = output.stderr.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(said.contains(why), "{command}: {said}");
    }

    // The one it started with goes as well as those that came, and each is free for others.
    let told = host.ok("assign detach web 01:10.0");
    assert_eq!(told, "web has let go of 0000:01:10.0\n");
    guest.wait_for("guest: eth0: went", GUEST_TIME)?;
    host.ok("assign detach web 01:10.2");
    assert_eq!(owners(&host), [None, None, web()]);
    // And comes again.
    host.ok("assign attach web 01:10.0");
    guest.wait_for("guest: eth0: came: igbvf", GUEST_TIME)?;
    guests::stop(&guest)?;
    assert_eq!(owners(&host), [None, None, None]);
    Ok(())
}

#[test]
#[ignore = "boots an emulated host: cargo lab test"]
fn a_device_is_taken_where_the_guest_keeps_it_or_the_host_wants_it() -> Result<()> {
    devices_are_taken(Host::intel())
}

/// The same in a host of this kind.
pub fn devices_are_taken(shape: Shape) -> Result<()> {
    let host = host(shape)?;
    // The first device of a guest that has none: its memory is pinned now.
    let bare = start(&host, "bare")?;
    host.ok("assign attach bare --pool lan");
    bare.wait_for("guest: eth0: ping 10.0.2.2: 3 of 3 answered", GUEST_TIME)?;
    // Somebody takes the driver away from under it, and has to wait for the guest, not for ever.
    host.ok("echo 0000:01:10.0 > /sys/bus/pci/drivers/vfio-pci/unbind");
    bare.wait_for("bare: the host wants 0000:01:10.0 back", GUEST_TIME)?;
    bare.wait_for("bare: has let go of 0000:01:10.0", GUEST_TIME)?;
    assert_eq!(owners(&host), [None, None, None]);
    guests::stop(&bare)?;
    host.ok("assign apply -f edge.yaml");

    let deaf = start(&host, "deaf")?;
    let output = host.run("assign detach deaf 01:10.0 --timeout 2")?;
    assert_eq!(output.code, 1, "{}", output.stderr);
    assert!(output.stderr.contains("did not let it go within 2 s"), "{}", output.stderr);
    let output = host.run("assign detach deaf 01:10.0 --timeout 1 --force </dev/null")?;
    assert_eq!(output.code, 3, "nobody was asked: {}", output.stderr);
    let told = host.ok("assign detach deaf 01:10.0 --timeout 1 --force --yes");
    assert_eq!(told, "deaf had to give up 0000:01:10.0\n");
    assert_eq!(owners(&host), [None, None, None]);
    // The next guest finds it in order, while that one goes on without.
    let web = start(&host, "web")?;
    assert!(web.output_so_far().contains("guest: eth0: ping 10.0.2.2: 3 of 3 answered"));
    guests::stop(&web)?;
    guests::stop(&deaf)?;
    Ok(())
}
