//! Guests with disks: files and block devices of the host.

use std::time::Duration;

use anyhow::Result;
use lab::Host;

use crate::documents::Guest;
use crate::guests;

const GUEST_TIME: Duration = Duration::from_secs(180);
const SOON: Duration = Duration::from_secs(60);

#[test]
#[ignore = "boots an emulated host: cargo lab test"]
fn what_a_guest_writes_to_its_disks_stays_and_what_fails_is_told() -> Result<()> {
    let root = "name: root, path: /disks/root.raw";
    let data = "name: data, path: /disks/data.raw, readOnly: true, serial: data-1";
    let host = Host::intel()
        .file(
            "root/web.yaml",
            Guest::new("web", "hold lab.write").cpus(2).disk(root).disk(data).to_string(),
        )
        .file("root/db.yaml", Guest::new("db", "net").disk(root).to_string())
        .file("root/reader.yaml", Guest::new("reader", "net").disk(data).to_string())
        .file("root/qcow2.yaml", Guest::new("q", "net").disk("name: a, path: /disks/q").to_string())
        .limit(Duration::from_secs(500))
        .boot()?;
    host.ok("mkdir /disks && mount -t tmpfs -o size=8m none /disks && cd /disks && \
             head -c 1048576 /dev/urandom > data.raw && truncate -s 16M root.raw && \
             truncate -s 4M data.raw && printf 'QFI\\373' > q && truncate -s 1M q");
    let sum = |from: u32, file: &str| {
        let words =
            host.ok(&format!("dd if={file} bs=64k skip={} count=16 | sha256sum", from * 16));
        words.split_whitespace().next().unwrap_or_default().to_owned()
    };
    let data = sum(0, "/disks/data.raw");

    // What is read is what is on the file, and what is written is.
    let web = guests::start(&host, "assign run -f web.yaml", GUEST_TIME)?;
    let told = web.output_so_far();
    for line in [
        "vda: 16 MiB, sha256 30e14955ebf1352266dc2ff8067e68104607e750abb9d3b36582b8af909fcb58",
        "vda: serial root, queues 2, read-only 0",
        "vda: 1 MiB written and read back: equal",
        "vda: 0 bytes are left of what was discarded",
        &format!("vdb: 4 MiB, sha256 {data}"),
        "vdb: serial data-1, queues 2, read-only 1",
    ] {
        assert!(told.contains(line), "{line}: {told}");
    }
    let wrote = told.split("vda: wrote sha256 ").nth(1).and_then(|rest| rest.get(..64));
    assert_eq!(wrote, Some(sum(8, "/disks/root.raw").as_str()), "{told}");
    assert_eq!(sum(0, "/disks/data.raw"), data);

    // Each queue's thread has its own list of system calls.
    let threads = host.ok("grep -l '^disk$' /proc/$(pidof assign-vmm)/task/*/comm | wc -l");
    assert_eq!(threads.trim(), "4");
    let rings = host.ok("ls -l /proc/$(pidof assign-vmm)/fd | grep -c io_uring");
    assert_eq!(rings.trim(), "4");

    // Nobody else may write to what it writes to; whoever only reads shares it.
    let second = host.run("assign run -f db.yaml")?;
    assert_eq!(second.code, 2, "{second:?}");
    let cause = "db: cannot have the disk root, /disks/root.raw: another guest or program uses it";
    assert!(second.stderr.contains(cause), "{second:?}");
    // This one does without io_uring, as on a host that has it switched off.
    host.ok("echo 2 > /proc/sys/kernel/io_uring_disabled");
    let reader = host.run_within("assign run -f reader.yaml", GUEST_TIME)?;
    assert!(reader.code == 0 && reader.stdout.contains(&data), "{reader:?}");
    host.ok("echo 0 > /proc/sys/kernel/io_uring_disabled");
    let qcow2 = host.run("assign run -f qcow2.yaml")?;
    assert!(qcow2.code == 2 && qcow2.stderr.contains("begins like a qcow2 image"), "{qcow2:?}");

    // The host's disk is full: the guest is told, goes on, and writes again when there is room.
    host.ok("dd if=/dev/zero of=/disks/fill bs=64k || test -s /disks/fill");
    web.stdin("write vda 4\n");
    web.wait_for("guest: write vda 4: FAILED", SOON)?;
    web.wait_for("web: disk root: cannot write", SOON)?;
    web.wait_for("No space left on device", SOON)?;
    host.ok("rm /disks/fill");
    web.stdin("write vda 4\n");
    web.wait_for("guest: write vda 4: done", SOON)?;

    // A part of it is gone.
    host.ok("sleep 10; truncate -s 1M /disks/data.raw");
    web.stdin("read vdb 2\n");
    web.wait_for("guest: read vdb 2: FAILED", SOON)?;
    web.wait_for("web: disk data: cannot read", SOON)?;
    web.wait_for("the file has 1048576 bytes; it had 4194304 at the start", SOON)?;
    web.stdin("read vdb 0\n");
    web.wait_for("guest: read vdb 0: done", SOON)?;

    // Whatever becomes of it, the next one has the disk, with what was written.
    web.signal(9);
    guests::wait_until_none(&host);
    let next = host.run_within("assign run -f db.yaml", GUEST_TIME)?;
    assert_eq!(next.code, 0, "{next:?}");
    assert_eq!(wrote, Some(sum(8, "/disks/root.raw").as_str()));
    Ok(())
}

#[test]
#[ignore = "boots an emulated host: cargo lab test"]
fn a_block_device_is_a_disk_unless_the_host_uses_it() -> Result<()> {
    let disk = "name: root, path: /dev/nvme0n2, queues: 1";
    let host = Host::intel()
        .nvme()
        .file("root/web.yaml", Guest::new("web", "net lab.write").disk(disk).to_string())
        .limit(Duration::from_secs(400))
        .boot()?;
    host.ok(
        "mke2fs -q /dev/nvme0n2 && mount -t ext4 /dev/nvme0n2 /mnt && echo precious > /mnt/file",
    );
    let mounted = host.run("assign run -f web.yaml")?;
    assert_eq!(mounted.code, 2, "{mounted:?}");
    let cause = "web: cannot have the disk root, /dev/nvme0n2: the host uses it";
    assert!(mounted.stderr.contains(cause), "{mounted:?}");
    assert_eq!(host.ok("cat /mnt/file"), "precious\n");

    host.ok("umount /mnt");
    let web = host.run_within("assign run -f web.yaml", GUEST_TIME)?;
    assert_eq!(web.code, 0, "{web:?}");
    assert!(web.stdout.contains("vda: serial root, queues 1, read-only 0"), "{web:?}");
    assert!(web.stdout.contains("vda: 1 MiB written and read back: equal"), "{web:?}");
    assert!(web.stdout.contains("vda: 0 bytes are left"), "{web:?}");
    Ok(())
}
