//! Policies over time: drift and its repair, devices that were there before, devices that the host
//! lends, and a host that is booted.

use std::time::Duration;

use anyhow::Result;
use lab::Host;
use serde_json::Value;

use crate::documents::Guest;
use crate::guests;

const GUEST_TIME: Duration = Duration::from_secs(120);

/// A policy with one pool `lan` of eth0's VFs; `more` is written into the pool.
fn policy(vfs: u16, more: &str) -> String {
    format!(
        "apiVersion: assign/v1\nkind: Policy\nmetadata: {{name: edge}}\nspec:\n  pools:\n    \
         - {{name: lan, from: {{interface: eth0}}, vfs: {{count: {vfs}}}, {more}}}\n"
    )
}

/// Index, driver, override and interface's address of every VF of eth0, one a line.
const VFS: &str = "cd /sys/class/net/eth0/device; for vf in $(ls -d virtfn*); do \
                   echo $vf $(basename $(readlink $vf/driver)) $(cat $vf/driver_override) \
                   $(cat $vf/net/*/address 2>/dev/null); done";

/// Waits until `command` succeeds.
fn await_success(host: &Host, command: &str) {
    host.ok(&format!(
        "for i in $(seq 100); do if {command}; then exit 0; fi; usleep 100000; done; exit 1"
    ));
}

/// Without its colours.
fn plain(line: &str) -> String {
    let mut plain = String::new();
    let mut rest = line.trim_end_matches('\r');
    while let Some((before, after)) = rest.split_once('\u{1b}') {
        plain.push_str(before);
        rest = after.split_once('m').map_or("", |(_, rest)| rest);
    }
    plain + rest
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
#[ignore = "boots an emulated host: cargo lab test"]
fn life_of_a_policy() -> Result<()> {
    let network = "network: {mac: derive, vlan: {id: 100}, spoofCheck: true}";
    let host = Host::intel().igb(1).file("root/edge.yaml", policy(3, network)).boot()?;
    // Two VFs that were there before, one of them given away by hand.
    host.ok("ip link set eth0 up");
    await_success(&host, "grep -q 1 /sys/class/net/eth0/carrier");
    host.ok("echo 2 > /sys/class/net/eth0/device/sriov_numvfs");
    await_success(&host, "grep -q 1 /sys/class/net/eth0/carrier");
    host.ok("cd /sys/bus/pci; echo vfio-pci > devices/0000:01:10.0/driver_override; \
             echo 0000:01:10.0 > drivers/igbvf/unbind; echo 0000:01:10.0 > drivers_probe");
    let before = host.ok(VFS);
    assert!(before.starts_with("virtfn0 vfio-pci vfio-pci\nvirtfn1 igbvf (null) "), "{before}");

    let nothing = host.ok("assign diff");
    assert!(nothing.contains("no policy is applied"), "{nothing}");
    host.ok("assign apply -f edge.yaml --yes");
    let vf = |index| format!("virtfn{index} vfio-pci vfio-pci\n");
    assert_eq!(host.ok(VFS), [0, 1, 2].map(vf).concat());
    assert_eq!(host.run("assign diff")?.code, 0);

    let status = host.ok("assign status");
    assert!(status.contains("lan: 3 of 3 free") && status.contains("InSync"), "{status}");
    assert_eq!(json(&host.ok("assign status -o json"))["policies"][0]["pools"][0]["free"], 3);
    // Who may not read what is remembered sees the files and what the host shows, and is told so.
    host.ok("mkdir -p /etc/assign && cp edge.yaml /etc/assign");
    let other = json(&host.ok("su -s /bin/sh nobody -c 'cd / && assign status -o json'"));
    host.ok("rm /etc/assign/edge.yaml");
    assert!(other["notes"][0].as_str().is_some_and(|note| note.contains("for root to see")));
    assert!(other["policies"][0]["conditions"].to_string().contains("Hidden"), "{other}");
    let terminal = host.spawn_on_terminal("assign status", 80);
    let page = terminal.wait(Duration::from_secs(20))?.stdout;
    let widest = page.lines().map(|line| plain(line).chars().count()).max();
    assert!(widest.is_some_and(|columns| (40..=80).contains(&columns)), "{widest:?}: {page}");

    // Somebody else's hand.
    host.ok("assign vf set eth0/0 --vlan 7");
    host.ok("assign vf set eth0/1 --spoof-check off --mac 02:00:00:00:00:77");
    host.ok("echo 0000:01:10.4 > /sys/bus/pci/drivers/vfio-pci/unbind; \
             echo > /sys/bus/pci/devices/0000:01:10.2/driver_override");
    let differs = host.run("assign diff -o json")?;
    assert_eq!(differs.code, 4, "{}", differs.stderr);
    let told = json(&differs.stdout);
    let mut told: Vec<String> = told["differences"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|one| {
            let text = |name: &str| one[name].as_str().unwrap_or_default().to_owned();
            format!("{} {}: {}", text("device"), text("attribute"), text("is"))
        })
        .collect();
    told.sort();
    assert_eq!(
        told,
        [
            "0000:01:00.0 VF 0 vlan: 7",
            "0000:01:00.0 VF 1 mac: 02:00:00:00:00:77",
            "0000:01:00.0 VF 1 override: none",
            "0000:01:00.0 VF 1 spoof-check: off",
            "0000:01:00.0 VF 2 driver: no driver (override vfio-pci)",
        ]
    );
    let told = host.ok("assign apply -f edge.yaml");
    assert!(told.contains("5 steps made"), "{told}");
    assert_eq!(host.run("assign diff")?.code, 0);
    assert_eq!(host.ok(VFS), [0, 1, 2].map(vf).concat());

    // What it took is as it was, and what was given away beforehand is so again.
    let unknown = host.run("assign remove egde")?;
    assert_eq!(unknown.code, 2, "{}", unknown.stderr);
    assert!(unknown.stderr.contains("Applied are: edge."), "{}", unknown.stderr);
    host.ok("assign remove edge");
    assert_eq!(host.ok(VFS), before);
    assert_eq!(host.ok("cat /sys/class/net/eth0/device/sriov_drivers_autoprobe"), "1\n");
    Ok(())
}

#[test]
#[ignore = "boots an emulated host: cargo lab test"]
fn what_the_host_lends_comes_back_however_its_guest_ends() -> Result<()> {
    let host = Host::intel()
        .igb(1)
        .file("root/edge.yaml", policy(2, "driver: host, network: {mac: derive}"))
        .file("root/hold.yaml", Guest::new("web", "hold").claim().to_string())
        .file("root/net.yaml", Guest::new("db", "net").claim().to_string())
        .boot()?;
    host.ok("assign apply -f edge.yaml");
    let with_host = host.ok(VFS);
    assert!(with_host.starts_with("virtfn0 igbvf (null) "), "{with_host}");
    let goes_by = |host: &Host| host.ok("cat /sys/class/net/eth0/device/virtfn0/net/*/address");
    let derived = json(&host.ok("assign vf list eth0 -o json"))[0]["mac"].clone();
    assert_eq!(goes_by(&host).trim(), derived, "the host's driver began with that address");
    let lent = |host: &Host| host.ok(VFS).starts_with("virtfn0 vfio-pci vfio-pci\n");

    // The VMM alone is killed: its launcher gives the VF back.
    let guest = guests::start(&host, "assign run -f hold.yaml", GUEST_TIME)?;
    assert!(lent(&host));
    assert_eq!(host.run("assign diff")?.code, 0, "lent is no drift");
    let status = json(&host.ok("assign status -o json"));
    let device = &status["devices"][0];
    assert_eq!((&device["state"], &device["owner"]["guest"]), (&"leased".into(), &"web".into()));
    host.ok("kill -9 $(pidof assign-vmm)");
    assert_eq!(guest.wait(Duration::from_secs(30))?.code, 1);
    assert_eq!(host.ok(VFS), with_host);

    // Launcher and VMM: nobody is left, and the next command returns it.
    let guest = guests::start(&host, "assign run -f hold.yaml", GUEST_TIME)?;
    host.ok("kill -9 $(pidof assign)");
    guest.wait(Duration::from_secs(30))?;
    guests::wait_until_none(&host);
    assert!(lent(&host), "nothing happens by itself");
    let status = json(&host.ok("assign status -o json"));
    assert_eq!(status["devices"][0]["state"], "returning", "{status}");
    let told = host.run("assign apply -f edge.yaml")?;
    assert!(told.stderr.contains("guest web") && told.stderr.contains("is gone"), "{told:?}");
    assert_eq!(host.ok(VFS), with_host);

    // The next guest finds it as good as new, and ends by itself.
    let output = host.run_within("assign run -f net.yaml </dev/null", GUEST_TIME)?;
    assert_eq!(output.code, 0, "{}\n{}", output.stdout, output.stderr);
    assert!(output.stdout.contains("guest: eth0: ping 10.0.2.2: 3 of 3"), "{}", output.stdout);
    assert_eq!(host.ok(VFS), with_host);

    // For guests from now on, and with the host again.
    host.write("/root/bound.yaml", policy(2, "driver: vfio-pci, network: {mac: derive}"));
    host.ok("assign apply -f bound.yaml");
    assert!(lent(&host));
    host.ok("assign apply -f edge.yaml");
    assert_eq!(host.ok(VFS), with_host);
    assert_eq!(goes_by(&host).trim(), derived);
    Ok(())
}

#[test]
#[ignore = "boots an emulated host: cargo lab test"]
fn a_boot_restores_the_host_from_its_files() -> Result<()> {
    let shape = || {
        Host::intel()
            .igb(1)
            .file("etc/assign/edge.yaml", policy(2, "network: {mac: derive}"))
            .file("etc/assign/broken.yaml", "apiVersion: assign/v1\nkind: Polisy\n")
            .file("root/db.yaml", Guest::new("db", "hold").claim().to_string())
            .file("root/web.yaml", Guest::new("web", "hold").claim().to_string())
    };
    let list = "assign vf list eth0 -o json";
    let apply = |host: &Host| -> Result<()> {
        let applied = host.run("assign apply --all --yes")?;
        assert_eq!(applied.code, 2, "one file is broken: {}", applied.stderr);
        assert!(applied.stderr.contains("Polisy"), "{}", applied.stderr);
        assert!(applied.stdout.contains("applied: edge"), "{}", applied.stdout);
        Ok(())
    };
    let owned = |host: &Host, guest: &str| -> Option<String> {
        let all = json(&host.ok(list));
        let vfs = all.as_array().expect("a list");
        let own = vfs.iter().find(|vf| vf["owner"]["guest"] == guest)?;
        own["name"].as_str().map(str::to_owned)
    };
    let start = |host: &Host| -> Result<lab::Job> {
        let guest = guests::start(host, "assign run -f web.yaml", GUEST_TIME)?;
        Ok(guest)
    };
    let first = shape().boot()?;
    apply(&first)?;
    let before = first.ok(list);
    let again = first.run("assign apply --all")?;
    assert!(again.stdout.contains("nothing to do"), "{}", again.stdout);
    // Another guest has the first VF, so that this one gets what it would not get by itself.
    let other = first.spawn("assign run -f db.yaml");
    other.wait_for("db: net0: VF 0 of eth0", GUEST_TIME)?;
    let guest = start(&first)?;
    assert_eq!(owned(&first, "db").as_deref(), Some("eth0/0"));
    assert_eq!(owned(&first, "web").as_deref(), Some("eth0/1"));
    let state = first.read("/var/lib/assign/state.redb");
    guest.signal(9);
    other.signal(9);
    drop(first);

    // The power comes back: nothing is left but the files, and what was remembered of the last boot.
    let second = shape().file("var/lib/assign/state.redb", state).boot()?;
    assert_eq!(second.ok("cat /sys/class/net/eth0/device/sriov_numvfs"), "0\n");
    apply(&second)?;
    assert_eq!(second.ok(list), before, "the same VFs, addresses and drivers; and no lease");
    assert_eq!(second.run("assign diff")?.code, 0);
    // It has its VF again, though the first one is free now.
    let guest = start(&second)?;
    assert_eq!(owned(&second, "web").as_deref(), Some("eth0/1"));
    assert_eq!(owned(&second, "db"), None);
    guests::stop(&guest)?;

    // And without what was remembered.
    second.ok("assign remove edge && rm -r /var/lib/assign");
    apply(&second)?;
    assert_eq!(second.ok(list), before);
    Ok(())
}

#[test]
#[ignore = "boots an emulated host: cargo lab test"]
fn what_the_host_uses_is_lent_where_its_policy_makes_an_exception() -> Result<()> {
    let host = Host::intel().igb(2).boot()?;
    let card = "0000:02:00.0";
    let driver = || host.ok(&format!("basename $(readlink /sys/bus/pci/devices/{card}/driver)"));
    host.ok("ip link set eth1 up && ip addr add 192.0.2.1/24 dev eth1");
    let example = "/examples/host-driver.yaml";
    let plan = host.ok(&format!("assign plan -f {example}"));
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let told = words(&plan);
    assert!(told.contains("guest probe: would start"), "{plan}");
    assert!(told.contains("by force: the host loses") && told.contains("192.0.2.1"), "{plan}");
    host.ok(&format!("assign apply -f {example}"));
    assert_eq!(driver(), "igb\n", "it stays with the host until a guest has it");
    let status = json(&host.ok("assign status -o json"));
    assert_eq!(status["devices"][0]["state"], "free", "{status}");

    // Nobody is there to ask, and nobody has answered: the host keeps its address.
    host.ok(&format!("sed 's/quiet/quiet lab=hold/' {example} > /root/probe.yaml"));
    let refused = host.run("assign run -f /root/probe.yaml </dev/null")?;
    assert_eq!(refused.code, 3, "{}", refused.stderr);
    assert!(
        words(&refused.stderr).contains("there is no terminal to ask on"),
        "{}",
        refused.stderr
    );
    assert!(host.ok("ip addr show dev eth1").contains("192.0.2.1"));

    let guest = guests::start(&host, "assign run --yes -f /root/probe.yaml", GUEST_TIME)?;
    assert_eq!(driver(), "vfio-pci\n");
    let status = json(&host.ok("assign status -o json"));
    assert_eq!(status["devices"][0]["state"], "leased", "{status}");
    assert!(
        status["forced"].to_string().contains("run probe"),
        "what was forced is recorded: {status}"
    );
    guests::stop(&guest)?;
    assert_eq!(driver(), "igb\n");
    Ok(())
}
