//! virtio drivers that are not Linux', in a guest without an operating system: what our devices do is
//! what others read in the standard as well.

use std::time::Duration;

use anyhow::Result;
use lab::{Host, bare};

const GUEST_TIME: Duration = Duration::from_secs(120);

const GUEST: &str = "apiVersion: assign/v1\nkind: Guest\nmetadata: {name: bare}\nspec:\n  memory: \
                     {size: 128MiB}\n  boot: {kernel: /root/bare.elf}\n  disks: [{name: data, \
                     path: /root/data.raw, serial: second}]\n  rng: true\n  vsock: {cid: 42}\n  \
                     networks: [{name: lan, virtio: {bridge: br0}}]\n";

#[test]
#[ignore = "boots an emulated host: cargo lab test"]
fn drivers_of_another_make_drive_our_devices() -> Result<()> {
    let host = Host::intel()
        .bridge()
        .file("root/bare.elf", bare::kernel()?)
        .file("root/bare.yaml", GUEST)
        .boot()?;
    host.ok("ip address add 10.0.9.1/24 dev br0");
    // Odd sizes: the last request of a half is a short one.
    host.ok(
        "head -c 520704 /dev/urandom >one && cat one >data.raw && truncate -s 1041408 data.raw",
    );
    host.ok("modprobe vhost_vsock");
    // The frames moved by ourselves, and by the kernel.
    for before in ["true", "modprobe vhost_net"] {
        host.ok(before);
        host.ok("truncate -s 520704 data.raw && truncate -s 1041408 data.raw");
        let echo = host.spawn("lab-vsock echo 7");
        echo.wait_for("listens on port 7", GUEST_TIME)?;
        let output = host.run_within("assign run -f bare.yaml </dev/null", GUEST_TIME)?;
        echo.kill();
        assert_eq!(output.code, 0, "{}\n{}", output.stdout, output.stderr);
        for line in [
            "bare: disk: 2034 sectors, serial number second, read-only: false\n",
            "bare: disk: copied 1017 sectors\n",
            "bare: random: two different answers\n",
            ": 320 answers\n",
            "bare: socket: CID 42, 66000 bytes came back\n",
            "bare: all is as it should be\n",
        ] {
            assert!(output.stdout.contains(line), "no {line}: {}", output.stdout);
        }
        host.ok("tail -c 520704 data.raw | cmp - one");
    }
    Ok(())
}
