//! A guest that boots a stock system of a distribution: its own kernel, initrd, systemd and cloud-init.

use std::time::{Duration, Instant};

use anyhow::Result;
use lab::Host;
use serde_json::Value;

/// From the start of the guest to its login prompt, and as long again until cloud-init is done.
const BOOT_TIME: Duration = Duration::from_secs(400);
const SOON: Duration = Duration::from_secs(90);

const USER_DATA: &str = "#cloud-config\nusers: [{name: ann}]\nruncmd: [\"echo began > /begun\"]\n";

const GUEST: &str = r#"
apiVersion: assign/v1
kind: Guest
metadata: {name: web}
spec:
  memory: {size: 512MiB, balloon: true}
  vsock: {cid: 42}
  boot: {disk: root}
  disks: [{name: root, path: /dev/vda}]
  networks: [{name: net0, virtio: {bridge: br0}}]
  rng: true
  ports: [{name: org.qemu.guest_agent.0}]
  cloudInit:
    userData: {file: user-data}
    metaData: {hostname: web.example.net}
    networkConfig: |
      version: 2
      ethernets:
        ens1: {dhcp4: true, addresses: [10.0.3.40/24]}
"#;

/// A program of the guest that sends back, once, what comes to it by vsock, in the other order.
const MIRROR: &str = "python3 -c 'import socket as s; a = s.socket(s.AF_VSOCK); a.bind((s.VMADDR_CID_ANY, 5000)); \
                      a.listen(); print(\"mirror\" + \"s\"); b, _ = a.accept(); b.sendall(b.recv(99)[::-1])' &";
const MIB: u64 = 1 << 20;

#[test]
#[ignore = "boots an emulated host: cargo lab test"]
fn a_stock_debian_boots_as_cloud_init_is_told_runs_and_powers_off() -> Result<()> {
    let host = Host::intel()
        .bridge()
        .debian()
        .file("root/web.yaml", GUEST)
        .file("root/user-data", USER_DATA)
        .limit(Duration::from_secs(850))
        .boot()?;
    host.ok("modprobe vhost_vsock");
    let started = host.run_within("assign run -f web.yaml --detach", BOOT_TIME)?;
    assert_eq!(started.code, 0, "{started:?}");
    let told = "web: boots Debian GNU/Linux, of its disk root\n";
    assert!(started.stderr.contains(told), "{started:?}");

    // As people would, by its console.
    let console = host.spawn("assign console web --lines 2000");
    console.wait_for("web login:", BOOT_TIME)?;
    console.stdin("root\n");
    console.wait_for("root@web:~#", SOON)?;
    // What is typed comes back as well, and must not look like the answer.
    let ask_within = |command: &str, answer: &str, limit| -> Result<()> {
        console.stdin(&format!("{command}\n"));
        console.wait_for(answer, limit)
    };
    let ask = |command: &str, answer: &str| ask_within(command, answer, SOON);
    ask_within("cloud-init status --wait --long", "seed=/dev/vdb", BOOT_TIME)?;
    ask("echo cloud-init: $(cloud-init status)", "cloud-init: status: done")?;
    ask("echo state: $(systemctl is-system-running --wait)", "state: running")?;
    ask("echo virtualization: $(systemd-detect-virt)", "virtualization: kvm")?;
    ask("echo numbers: $(cat /sys/class/misc/hw_random/rng_current)", "numbers: virtio_rng")?;
    ask("echo buttons: $(grep -h . /sys/class/input/*/name)", "buttons: Power Button")?;

    // It is as its document says.
    ask("echo user: $(id -un ann), $(cat /begun)", "user: ann, began")?;
    let addresses = "echo addresses: $(ip -4 -o address show scope global | cut -d' ' -f7 | sort)";
    ask(addresses, "addresses: 10.0.3.15/24 10.0.3.40/24")?;

    // The disk that says so, by each of its kinds of names.
    let sum = host.ok("sha256sum user-data");
    let sum = sum.split_whitespace().next().unwrap_or_default();
    for (options, mode) in [("ro", "400"), ("ro,norock", "555")] {
        ask(
            &format!("mount -o {options} LABEL=cidata /mnt; cd /mnt; echo $(ls -A) by {options}."),
            &format!("meta-data network-config user-data by {options}."),
        )?;
        ask("echo mode: $(stat -c %a user-data) $(findmnt -no FSTYPE .)", &{
            format!("mode: {mode} iso9660")
        })?;
        ask(
            &format!("echo {options}: $(sha256sum user-data | cut -c1-64)"),
            &format!("{options}: {sum}"),
        )?;
        console.stdin("cd /; umount /mnt\n");
    }

    // Others reach it, but not while it is held.
    host.ok("ip address add 10.0.3.77/24 dev br0");
    let pings = |address: &str| host.ok(&format!("ping -c 3 -W 5 {address}"));
    for address in ["10.0.3.15", "10.0.3.40"] {
        assert!(pings(address).contains(" 0% packet loss"));
    }

    // So do they without a network.
    ask(MIRROR, "mirrors")?;
    assert_eq!(host.ok("printf 'stressed' | lab-vsock send 42 5000"), "desserts");

    // And as QEMU's agent is spoken to, which its system starts where it sees the port.
    let agent = host.spawn("assign console web --port org.qemu.guest_agent.0");
    let ask_agent = |question: &str, answer: &str| -> Result<()> {
        agent.stdin(&format!("{{\"execute\": \"{question}\"}}\n"));
        agent.wait_for(answer, SOON)
    };
    ask_agent("guest-ping", "{\"return\": {}}")?;
    ask_agent("guest-get-host-name", "\"host-name\": \"web")?;
    ask_agent("guest-get-osinfo", "\"id\": \"debian\"")?;
    agent.kill();

    // It gives memory back when asked, and has it again.
    let given = |mib: u64| -> Result<()> {
        let limit = Instant::now() + SOON;
        loop {
            let stats: Value = serde_json::from_str(&host.ok("assign stats web -o json"))?;
            if stats["balloon"]["given_bytes"] == mib * MIB {
                return Ok(());
            }
            assert!(Instant::now() < limit, "{:#}", stats["balloon"]);
            std::thread::sleep(Duration::from_secs(1));
        }
    };
    // Of what it has its kernel keeps a part to itself.
    let has = |least: u64, most: u64| {
        let total = "$(($(grep -m1 -o '[0-9]*' /proc/meminfo) / 1024";
        let answer = format!("echo memory: {total} > {least})) {total} < {most}))");
        ask(&answer, "memory: 1 1")
    };
    has(400, 512)?;
    host.ok("assign balloon web 384MiB");
    given(128)?;
    has(280, 384)?;
    host.ok("assign balloon web 512MiB");
    given(0)?;
    has(400, 512)?;

    host.ok("assign pause web");
    assert_ne!(host.run("ping -c 1 -W 3 10.0.3.15")?.code, 0);
    host.ok("assign resume web");
    assert!(pings("10.0.3.15").contains(" 0% packet loss"));
    ask("echo it goes $((2 - 1))n", "it goes 1n")?;

    // Its power button is heeded by systemd-logind.
    let stopped = host.run_within("assign stop web --timeout 200", BOOT_TIME)?;
    assert_eq!(
        (stopped.code, stopped.stdout.as_str()),
        (0, "web has powered off\n"),
        "{stopped:?}"
    );
    let log = host.ok("assign console web --log");
    assert!(log.contains("reboot: Power down"), "{log}");
    let happened = host.ok("cut -d' ' -f2- /var/lib/assign/guests/web/events.log");
    assert!(happened.ends_with("web: powered off\n"), "{happened}");
    Ok(())
}
