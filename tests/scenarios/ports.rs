//! Streams of bytes between programs of guests and of their host (virtio-console).

use std::time::{Duration, Instant};

use anyhow::Result;
use lab::{Host, Job};
use serde_json::Value;

use crate::documents::Guest;
use crate::guests;

const GUEST_TIME: Duration = Duration::from_secs(180);
const SOON: Duration = Duration::from_secs(60);
const MIB: u64 = 1 << 20;

/// What is counted of a port.
fn port(host: &Host, name: &str) -> Result<Value> {
    let stats: Value = serde_json::from_str(&host.ok("assign stats web -o json"))?;
    let all = stats["ports"].as_array().expect("a list");
    Ok(all.iter().find(|port| port["name"] == name).expect("the port").clone())
}

/// Waits until `is` says so of it.
fn await_port(host: &Host, name: &str, is: impl Fn(&Value) -> bool) -> Result<Value> {
    let end = Instant::now() + SOON;
    loop {
        let port = port(host, name)?;
        if is(&port) {
            return Ok(port);
        }
        assert!(Instant::now() < end, "{port:#}");
        std::thread::sleep(Duration::from_millis(500));
    }
}

fn attach(host: &Host, name: &str) -> Job {
    host.spawn(&format!("assign console web --port {name}"))
}

#[test]
#[ignore = "boots an emulated host: cargo lab test"]
fn programs_of_guest_and_host_speak_through_ports() -> Result<()> {
    let ports = "[{name: org.test.echo}, {name: hvc, console: true}, {name: log}]";
    let host = Host::intel()
        .file("root/web.yaml", Guest::new("web", "hold lab.ports").ports(ports).to_string())
        .limit(Duration::from_secs(900))
        .boot()?;
    let web = guests::start(&host, "assign run -f web.yaml", GUEST_TIME)?;
    let said = web.output_so_far();
    for told in ["port org.test.echo: vport", "port log: vport", "a shell on hvc0"] {
        assert!(said.contains(&format!("guest: {told}")), "{told}: {said}");
    }

    // The sockets are root's, and told.
    let folder = "/run/assign/guests/web/ports";
    let modes = host.ok(&format!("stat -c '%a %n' {folder} {folder}/*"));
    let names = ["", "/hvc", "/log", "/org.test.echo"];
    let modes: Vec<&str> = modes.lines().collect();
    let mode = |name: &&str| format!("{} {folder}{name}", if name.is_empty() { 700 } else { 600 });
    assert_eq!(modes, names.iter().map(mode).collect::<Vec<_>>());
    let all: Value = serde_json::from_str(&host.ok("assign ps -o json"))?;
    let told = &all[0]["ports"][1];
    let hvc = format!("{folder}/hvc");
    assert_eq!((&told["console"], &told["path"]), (&true.into(), &hvc.into()), "{told}");

    // Attached, left, and attached again; one at a time.
    for word in ["first", "second", "third"] {
        let echo = attach(&host, "org.test.echo");
        echo.stdin(&format!("{word}\n"));
        echo.wait_for(word, SOON)?;
        let another = host.run("assign console web --port org.test.echo")?;
        assert_eq!(another.code, 3, "{another:?}");
        let told = "web: another program is connected to its port org.test.echo.";
        assert!(another.stderr.contains(told), "{another:?}");
        echo.kill();
        assert_eq!(echo.wait(SOON)?.stdout, format!("{word}\n"));
        await_port(&host, "org.test.echo", |port| port["client"] == false)?;
    }
    let counted = port(&host, "org.test.echo")?;
    assert_eq!((&counted["to_guest_bytes"], &counted["lost_bytes"]), (&19.into(), &0.into()));
    let unknown = host.run("assign console web --port echo")?;
    assert_eq!(unknown.code, 2, "{unknown:?}");
    assert!(unknown.stderr.contains("It has org.test.echo, hvc, log."), "{unknown:?}");

    // More than there is room for on the way, there and back.
    let mib = "head -c 1048576 /dev/urandom >random; touch back; assign console web --port org.test.echo \
               <random >back & until [ $(wc -c <back) = 1048576 ]; do usleep 100000; done; kill $!; \
               cmp random back && echo equal";
    assert_eq!(host.ok(mib), "equal\n");

    // A client that takes nothing holds the program in the guest that speaks to it, and nothing else.
    let slow = host.spawn(
        "sh -c 'echo $$ >pid; exec assign console web --port log --read-only' | \
         (until [ -e go ]; do usleep 100000; done; wc -c)",
    );
    await_port(&host, "log", |port| port["client"] == true)?;
    web.stdin("port log 4\n");
    await_port(&host, "log", |port| port["from_guest_bytes"] != 0)?;
    web.stdin("ping 127.0.0.1 3\n");
    web.wait_for("guest: ping 127.0.0.1: 3 of 3 answered", SOON)?;
    assert!(!web.output_so_far().contains("guest: port log 4"), "it waits");
    host.ok("touch go");
    web.wait_for("guest: port log 4: done", 2 * SOON)?;
    await_port(&host, "log", |port| port["from_guest_bytes"] == 4 * MIB)?;
    // What is on the way to it arrives.
    std::thread::sleep(Duration::from_secs(3));
    host.ok("kill $(cat pid)");
    let taken = slow.wait(SOON)?;
    assert_eq!(taken.stdout.trim(), (4 * MIB).to_string(), "{taken:?}");

    // The terminal, on a terminal.
    let hvc = host.spawn_on_terminal("assign console web --port hvc", 80);
    hvc.stdin("echo a$((1+1))b\r");
    hvc.wait_for("a2b", SOON)?;
    hvc.stdin("\u{1d}");
    hvc.wait(SOON)?;
    let said = hvc.output_so_far();
    assert!(said.contains("left the port hvc of web"), "{said}");
    // It prints more than anybody takes, and goes on.
    let idle = host.spawn("assign console web --port hvc | sleep 1000");
    await_port(&host, "hvc", |port| port["client"] == true)?;
    web.stdin("flood\n");
    web.wait_for("guest: flood: done", GUEST_TIME)?;
    let lost = port(&host, "hvc")?["lost_bytes"].as_u64().expect("a number");
    assert!(lost > 0, "{lost}");
    idle.kill();
    await_port(&host, "hvc", |port| port["client"] == false)?;
    println!("{}", host.ok("assign stats web"));

    // Its next life has the same ports; who was connected is let go of.
    let echo = attach(&host, "org.test.echo");
    echo.stdin("before\n");
    echo.wait_for("before", SOON)?;
    host.ok("assign reset web");
    echo.wait(GUEST_TIME)?;
    guests::await_again(&web, GUEST_TIME);
    let echo = attach(&host, "org.test.echo");
    echo.stdin("after\n");
    echo.wait_for("after", SOON)?;
    echo.kill();

    // They go with it, or with the next command where its launcher was killed.
    guests::stop(&web)?;
    assert_eq!(host.run(&format!("ls {folder}"))?.code, 1);
    let web = guests::start(&host, "assign run -f web.yaml", GUEST_TIME)?;
    host.ok("kill -9 $(pidof assign)");
    web.wait(SOON)?;
    guests::wait_until_none(&host);
    host.ok(&format!("ls {folder}/hvc"));
    host.ok("assign recover");
    assert_eq!(host.run(&format!("ls {folder}"))?.code, 1);
    Ok(())
}
