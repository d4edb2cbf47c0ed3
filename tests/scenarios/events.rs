//! `assign events` against a real kernel, against messages as udev sends them, and of guests.

use std::time::Duration;

use anyhow::Result;
use lab::{Host, Job};

use crate::documents::{Guest, policy};

const GUEST_TIME: Duration = Duration::from_secs(180);
const SOON: Duration = Duration::from_secs(30);

/// Ends a follower as Ctrl-C does, and returns what it has printed: JSON lines, each without the
/// fields that differ from run to run.
fn ended(follower: &Job) -> Result<Vec<String>> {
    follower.signal(2);
    let output = follower.wait(SOON)?;
    assert_eq!(output.code, 0, "Ctrl-C is an ordinary end: {}", output.stderr);
    assert_eq!(output.stderr, "");
    Ok(output.stdout.lines().map(brief).collect())
}

fn brief(line: &str) -> String {
    let (time, rest) = line.split_once(',').unwrap_or_else(|| panic!("no time in {line:?}"));
    assert!(time.starts_with("{\"time\":\"20") && time.ends_with("Z\""), "{line:?}");
    rest.replace('"', "").trim_end_matches('}').to_owned()
}

/// Asserts that these texts occur, in this order.
#[track_caller]
fn assert_order(lines: &[String], expected: &[&str]) {
    let mut rest = lines.iter();
    for text in expected {
        let found = rest.any(|line| line.contains(text));
        assert!(found, "{text:?} does not come, or not here:\n{}", lines.join("\n"));
    }
}

#[test]
#[ignore = "boots an emulated host: cargo lab test"]
fn events_tell_the_life_of_a_vf_believe_root_only_and_survive_losses() -> Result<()> {
    let host = Host::intel()
        .igb(1)
        .file("root/true", bound_to("from-udev"))
        .file("root/forged", bound_to("forged"))
        .file("root/cut", &of_udev("ACTION=bind\0DEVPATH=/devices\0")[..50])
        .file("root/long", of_udev(&format!("LONG={}\0", "x".repeat(40_000))))
        .boot()?;
    without_udevd(&host)?;
    host.ok("mkdir -p /run/udev && touch /run/udev/control");
    with_udevd(&host)
}

/// The kernel's events: VFs made, bound, released and unmade.
fn without_udevd(host: &Host) -> Result<()> {
    let all = host.spawn("assign events -o json");
    let one = host.spawn("assign events 01:10.2 --initial");
    let by_pf = host.spawn("assign events eth0 --count 1 --for 60");
    for follower in [&all, &one, &by_pf] {
        follower.wait_for("following", SOON)?;
    }
    host.ok("assign vf create eth0 2");
    host.ok("assign bind 01:10.2");
    host.ok("assign release 01:10.2");
    host.ok("assign vf destroy eth0 --yes");

    all.wait_for("\"from\":2,\"to\":0", SOON)?;
    let lines = ended(&all)?;
    assert_eq!(
        lines.first().map(String::as_str),
        Some("source:kernel,device:null,vf_of:null,kind:following,udev:false")
    );
    let vf =
        |text: &str| format!("device:0000:01:10.2,vf_of:{{pf:0000:01:00.0,index:1}},kind:{text}");
    let driver = |kind: &str, from: &str, to: &str| vf(&format!("{kind},from:{from},to:{to}"));
    let file = "device:0000:01:10.2,vf_of:{pf:0000:01:00.0,index:1},kind:vfio-";
    assert_order(
        &lines,
        &[
            &vf("device-added,id:8086:10ca,name:Intel 82576 Virtual Function,class:ethernet,"),
            "device:0000:01:00.0,vf_of:null,kind:vfs-changed,from:0,to:2",
            &driver("unbound", "igbvf", "null"),
            &format!("{file}added,file:vfio/"),
            &driver("bound", "igbvf", "vfio-pci"),
            &format!("{file}removed,file:vfio/"),
            &driver("unbound", "vfio-pci", "null"),
            &driver("bound", "vfio-pci", "igbvf"),
            &driver("unbound", "igbvf", "null"),
            &vf("device-removed,id:8086:10ca,"),
            "device:0000:01:00.0,vf_of:null,kind:vfs-changed,from:2,to:0",
        ],
    );
    // Both VFs got their driver and an interface, and lost them.
    let count = |text: &str| lines.iter().filter(|line| line.contains(text)).count();
    assert_eq!((count("kind:device-added"), count("kind:device-removed")), (2, 2));
    assert_eq!(count("to:igbvf"), 3, "{}", lines.join("\n"));
    let interfaces = (count("kind:interface-added"), count("kind:interface-removed"));
    assert_eq!(interfaces, (3, 3), "{}", lines.join("\n"));
    assert!(!lines.iter().any(|line| line.contains("lost")), "{}", lines.join("\n"));

    // The others got theirs: one VF, and the first thing that happens below a PF.
    one.signal(15);
    let output = one.wait(SOON)?;
    assert_eq!(output.code, 0, "{}", output.stderr);
    let mut lines = output.stdout.lines();
    assert!(lines.next().is_some_and(|line| line.contains("following")), "{}", output.stdout);
    assert!(lines.clone().count() >= 8, "{}", output.stdout);
    assert!(lines.all(|line| line.contains("0000:01:10.2")), "{}", output.stdout);
    let output = by_pf.wait(SOON)?;
    assert_eq!((output.code, output.stdout.lines().count()), (0, 2), "{}", output.stdout);
    assert!(output.stdout.contains("VF 0 of 0000:01:00.0"), "{}", output.stdout);

    // A script that waits in vain is told; a reader that has seen enough is no failure.
    let vain = host.run("assign events 01:10.2 --count 2 --for 0.5 -o json")?;
    assert_eq!(vain.code, 1, "{}", vain.stdout);
    assert!(
        vain.stderr.contains("\"timed-out\"") && vain.stderr.contains("0 of 2"),
        "{}",
        vain.stderr
    );
    let listed = host.ok("assign events --initial | head -n 1; echo end");
    assert_eq!(listed.lines().count(), 2, "{listed}");
    let initial = host.ok("assign events --initial --for 0 -o yaml");
    assert_eq!(initial.matches("kind: following").count(), 1, "{initial}");
    assert!(
        initial.starts_with("---\ntime: \"20") && initial.contains("interface: eth0"),
        "{initial}"
    );
    Ok(())
}

/// Gives the interfaces of VFs other names than the kernel does: by their numbers, which stay, since
/// the kernel gives a name again that has become free.
const RENAMES: &str =
    "SUBSYSTEM==\"net\", ACTION==\"add\", DRIVERS==\"igbvf\", NAME=\"late%s{ifindex}\"\n";

#[test]
#[ignore = "boots an emulated host: cargo lab test"]
fn where_udevd_runs_its_names_and_its_messages_are_waited_for() -> Result<()> {
    let host =
        Host::intel().igb(1).udevd().file("etc/udev/rules.d/70-lab.rules", RENAMES).boot()?;
    host.ok("test -S /run/udev/control");
    let follower = host.spawn("exec assign events -o json");
    follower.wait_for("following", SOON)?;

    // A name that is shown stays.
    let shown = host.ok("assign vf create eth0 2 && assign vf list eth0");
    let names: Vec<&str> =
        shown.split_whitespace().filter(|word| word.starts_with("late")).collect();
    assert_eq!(names.len(), 2, "{shown}");
    for name in &names {
        host.ok(&format!("test -e /sys/class/net/{name}"));
    }
    host.ok(&format!("assign bind {}", names[0]));
    host.ok("assign release 01:10.0");
    host.ok("assign vf destroy eth0 --yes");

    follower.wait_for("\"from\":2,\"to\":0", SOON)?;
    let lines = ended(&follower)?;
    let vf = "source:udev,device:0000:01:10.0,vf_of:{pf:0000:01:00.0,index:0},kind:";
    assert_eq!(
        lines.first().map(String::as_str),
        Some("source:udev,device:null,vf_of:null,kind:following,udev:true")
    );
    assert_order(
        &lines,
        &[
            &format!("{vf}device-added,"),
            &format!("{vf}interface-added,interface:late"),
            &format!("{vf}unbound,from:igbvf,to:null"),
            &format!("{vf}bound,from:igbvf,to:vfio-pci"),
            &format!("{vf}device-removed,"),
        ],
    );
    let other = lines.iter().find(|line| !line.starts_with("source:udev,"));
    assert_eq!(other, None, "{}", lines.join("\n"));
    Ok(())
}

/// A message as udev 257 sends it: a header of 40 bytes, then the properties.
fn of_udev(properties: &str) -> Vec<u8> {
    let mut message = b"libudev\0\xfe\xed\xca\xfe".to_vec();
    for word in [40, 40, properties.len() as u32, 0, 0, 0, 0] {
        message.extend(word.to_ne_bytes());
    }
    message.extend(properties.bytes());
    message
}

/// What udev would say of the first VF when a driver took it.
fn bound_to(driver: &str) -> Vec<u8> {
    let place = "/devices/pci0000:00/0000:00:02.0/0000:01:10.0";
    of_udev(&format!(
        "ACTION=bind\0DEVPATH={place}\0SUBSYSTEM=pci\0DRIVER={driver}\0PCI_CLASS=20000\0\
         PCI_ID=8086:10CA\0ID_MODEL_FROM_DATABASE=82576 Virtual Function\0"
    ))
}

/// Messages like udev's, since no udevd runs in the lab, and such as it never sends.
fn with_udevd(host: &Host) -> Result<()> {
    host.ok("assign vf create eth0 1");
    let follower = host.spawn("exec assign events -o json");
    follower.wait_for("following", SOON)?;
    let told = |text: &str| follower.wait_for(text, SOON);

    // Neither somebody else with the right to send, nor the kernel's group, nor our own socket.
    host.ok("lab-agent uevent 2 1000 1 < forged");
    host.ok("lab-agent uevent 1 0 1 < forged");
    host.ok("lab-agent uevent 2 0 1 < true");
    told("from-udev")?;

    // What cannot be understood may have been important: the host is looked at instead.
    host.ok("lab-agent uevent 2 0 1 < cut");
    told("\"to\":\"igbvf\"")?;

    // More than the queue holds, while nobody reads, and a change among it.
    follower.signal(19);
    host.ok("lab-agent uevent 2 0 2000 < long");
    host.ok("assign bind 01:10.0");
    follower.signal(18);
    told("\"to\":\"vfio-pci\"")?;

    let lines = ended(&follower)?;
    assert_order(
        &lines,
        &[
            "source:udev,device:null,vf_of:null,kind:following,udev:true",
            "source:udev,device:0000:01:10.0,vf_of:{pf:0000:01:00.0,index:0},kind:bound,from:igbvf,to:from-udev",
            "kind:events-lost,cause:a message was not understood: its properties lie outside of it",
            "source:comparison,device:0000:01:10.0,vf_of:{pf:0000:01:00.0,index:0},kind:bound,from:from-udev,to:igbvf",
            "source:comparison,device:null,vf_of:null,kind:events-lost,",
            "source:comparison,device:0000:01:10.0,vf_of:{pf:0000:01:00.0,index:0},kind:bound,from:igbvf,to:vfio-pci",
        ],
    );
    assert!(!lines.iter().any(|line| line.contains("forged")), "{}", lines.join("\n"));
    assert!(
        lines.iter().any(|line| line.contains("faster than they were read")),
        "{}",
        lines.join("\n")
    );
    Ok(())
}

#[test]
#[ignore = "boots an emulated host: cargo lab test"]
fn what_happens_to_guests_is_told_in_order_to_people_and_programs() -> Result<()> {
    let guest = |name, kernel| Guest::new(name, "hold").kernel(kernel).claim_or_bridge();
    let host = Host::intel()
        .igb(1)
        .bridge()
        .file("root/policy.yaml", policy(1))
        .file("root/web.yaml", guest("web", "/boot/vmlinuz").to_string())
        .file("root/db.yaml", guest("db", "/boot/vmlinuz").to_string())
        .file("root/lost.yaml", guest("lost", "/nowhere").to_string())
        .limit(Duration::from_secs(500))
        .boot()?;
    host.ok("assign apply -f policy.yaml");
    // Before anything was ever written of a guest.
    let all = host.spawn("exec assign events --guests -o json");
    let web = host.spawn("exec assign events --guest web --count 5");
    for follower in [&all, &web] {
        follower.wait_for("following", SOON)?;
    }

    // One is held, goes on, and powers off.
    host.run_within("assign run -f web.yaml --detach", GUEST_TIME)?;
    host.ok("assign pause web && assign pause web && assign resume web");
    // Its power button is heeded when its system is up.
    let console = host.spawn("assign console web --lines 200");
    console.wait_for("guest: holding", GUEST_TIME)?;
    // Another one has no VF, and is killed meanwhile; a third does not start.
    let of_web = host.ok("pidof assign-vmm");
    let db = host.run_within("assign run -f db.yaml --detach", GUEST_TIME)?;
    assert_eq!(db.code, 0, "{}", db.stderr);
    let others = host.ok("pidof assign-vmm");
    let is_of_db = |pid: &&str| !of_web.split_whitespace().any(|one| one == *pid);
    let of_db: Vec<&str> = others.split_whitespace().filter(is_of_db).collect();
    host.ok(&format!("kill -9 {}", of_db.join(" ")));
    all.wait_for("\"how\":\"killed\"", SOON)?;
    assert_eq!(host.run("assign run -f lost.yaml --detach")?.code, 2);
    all.wait_for("\"kind\":\"not-started\"", SOON)?;
    let stopped = host.run_within("assign stop web --timeout 120", GUEST_TIME)?;
    assert_eq!(stopped.stdout, "web has powered off\n", "{}", all.output_so_far());
    all.wait_for("\"how\":\"powered-off\"", SOON)?;

    let lines = ended(&all)?;
    assert_order(
        &lines,
        &[
            "kind:following,",
            "guest:web,kind:connected,claim:net0,device:0000:01:10.0,message:web: net0: VF 0 of eth0",
            "guest:web,kind:started,message:web: runs",
            "guest:web,kind:paused,message:web: paused",
            "guest:web,kind:resumed,message:web: goes on",
            "guest:db,kind:fallback,claim:net0,reason:pool lan has no free VF: 0000:01:10.0 is leased",
            "guest:db,kind:started,",
            "guest:db,kind:ended,how:killed,reason:its virtual machine failed: assign-vmm was ended by \
             signal 9,message:assign: db: ",
            "guest:lost,kind:not-started,reason:cannot read its kernel /nowhere: ",
            "guest:web,kind:ended,how:powered-off,message:web: powered off",
        ],
    );
    assert_eq!(lines.len(), 10, "each once: {}", lines.join("\n"));

    // People are told the same, and both may look back.
    let output = web.wait(SOON)?;
    assert_eq!(output.code, 0, "{}", output.stderr);
    let kinds: Vec<&str> =
        output.stdout.lines().filter_map(|line| line.split_whitespace().nth(1)).collect();
    assert_eq!(kinds, ["following", "connected", "started", "paused", "resumed", "ended"]);
    let past = host.ok("assign events --guests --past -o json");
    assert_eq!(past.lines().map(brief).collect::<Vec<_>>(), lines[1..]);
    let past = host.ok("assign events --guest web --past");
    assert!(output.stdout.ends_with(&past) && past.lines().count() == 5, "{past}");
    let for_people = host.ok("cat /var/lib/assign/guests/web/events.log");
    let messages = |text: &str, at| -> Vec<String> {
        text.lines().filter_map(|line| Some(line.split_once(at)?.1.trim().to_owned())).collect()
    };
    let of_log = messages(&for_people, " web: ");
    assert_eq!(messages(&past, " web: "), of_log, "one text for both");
    let other = host.run("su -s /bin/sh nobody -c 'cd / && assign events --guests --past'")?;
    assert_eq!(other.code, 1, "{other:?}");
    assert!(other.stderr.contains("for root to see"), "{other:?}");
    Ok(())
}
