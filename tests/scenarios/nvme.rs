//! An NVMe drive that divides itself: its virtual functions work, and its own disks go on working
//! whatever is done with them.

use std::time::{Duration, Instant};

use anyhow::Result;
use lab::Host;

use crate::documents::Guest;

const PF: &str = "/sys/bus/pci/devices/0000:01:00.0";
const NOTHING: &str = r#"{"online":false,"queues":0,"interrupts":0}"#;

/// What the host itself does with the drive all the time: writes to a file system on the disk that is
/// the physical function's own, and reads it back. A failure ends it.
const WORK: &str = "mke2fs -q /dev/nvme0n2 >&2 && mount -t ext4 /dev/nvme0n2 /mnt && cd /mnt || exit 1
    head -c 300000 /dev/urandom > /run/pattern; round=0
    until [ -e /run/enough ]; do
        cp /run/pattern file && sync && echo 3 > /proc/sys/vm/drop_caches && cmp /run/pattern file || exit 1
        round=$((round + 1)); echo $round > /run/next && mv /run/next /run/round
    done";

/// Rounds of the host's work so far.
fn rounds(host: &Host) -> u32 {
    host.ok("cat /run/round").trim().parse().expect("a number")
}

/// Waits for rounds of work that began after now, so that what was done before did not end it.
fn goes_on(host: &Host, when: &str) {
    let before = rounds(host);
    let begun = Instant::now();
    while rounds(host) < before + 3 {
        assert!(begun.elapsed() < Duration::from_secs(20), "the drive stands still {when}");
    }
}

/// The controllers' side of VFs that need not exist: fails unless it has nothing.
fn has_nothing(host: &Host, vfs: std::ops::Range<u16>) {
    for index in vfs {
        let vf = format!(r#"{{"pf":"0000:01:00.0","index":{index}}}"#);
        host.ok(&format!(
            r#"lab-change '{{"change":"set-nvme-secondary","vf":{vf},"controller":{},"from":{NOTHING},"to":{NOTHING}}}'"#,
            index + 1
        ));
    }
}

/// Sets the share of the pool that the physical function has, behind the back of `assign`.
fn set_primary(host: &Host, from: (u16, u16), to: (u16, u16)) {
    let share = |(q, i)| format!(r#"{{"queues":{q},"interrupts":{i}}}"#);
    host.ok(&format!(
        r#"lab-change '{{"change":"set-nvme-primary","pf":"0000:01:00.0","from":{},"to":{},"used":null}}'"#,
        share(from),
        share(to)
    ));
}

#[test]
#[ignore = "boots an emulated host: cargo lab test"]
fn an_nvme_drive_is_shared_out_under_a_mounted_disk() -> Result<()> {
    let host = Host::intel().nvme().boot()?;
    let work = host.spawn(WORK);
    host.ok("until [ -e /run/round ]; do usleep 50000; done");
    goes_on(&host, "at first");

    // The drive has all of it itself: giving some up takes a reset, which is asked about.
    set_primary(&host, (0, 0), (72, 40));
    goes_on(&host, "after a reset");
    let refused = host.run("assign vf create 01:00.0 2 --driver vfio-pci")?;
    assert_eq!(refused.code, 3, "{}", refused.stderr);
    assert!(refused.stderr.contains("(nvme0n2 → /mnt waits for that long)"), "{}", refused.stderr);
    has_nothing(&host, 0..2);
    let begun = Instant::now();
    let made = host.ok("assign vf create 01:00.0 2 --driver vfio-pci --yes");
    println!("2 VFs, with a reset of the drive: {:.2} s", begun.elapsed().as_secs_f64());
    assert!(
        made.contains("reset it, for it to have 56 queues, 32 interrupts of the pool"),
        "{made}"
    );
    assert!(made.contains("VF 1: give it 8 queues, 4 interrupts and set it online"), "{made}");
    goes_on(&host, "with VFs");
    let listed = host.ok("assign vf list 01:00.0 -o json");
    assert!(listed.contains("\"queues\": 8") && !listed.contains("\"online\": false"), "{listed}");
    let table = host.ok("assign vf list");
    assert!(table.contains("ID  STATE   QUEUES  INTERRUPTS"), "{table}");

    // Half way is no state to stay in: what was given is taken back.
    let back = host.ok("assign vf destroy 01:00.0 --yes");
    assert!(
        back.contains("reset it, for it to have 72 queues, 40 interrupts of the pool"),
        "{back}"
    );
    set_primary(&host, (72, 40), (0, 0));
    has_nothing(&host, 0..2);
    let failed = host.run("assign vf create 01:00.0 3 --driver vfio-pcx")?;
    assert_eq!(failed.code, 1, "{}", failed.stderr);
    has_nothing(&host, 0..3);
    assert_eq!(host.ok(&format!("cat {PF}/sriov_numvfs")), "0\n");
    assert_eq!(host.ok(&format!("cat {PF}/sriov_drivers_autoprobe")), "1\n");
    goes_on(&host, "after a failure");

    // All it can have; killed half way, the next command takes back what there was.
    host.run(&format!(
        "assign vf create 01:00.0 32 --driver vfio-pci & \
         until [ \"$(cat {PF}/sriov_numvfs)\" = 32 ]; do usleep 10000; done; usleep 300000; kill -9 $!"
    ))?;
    let begun = Instant::now();
    let output = host.run("assign vf create 01:00.0 32 --driver vfio-pci")?;
    assert_eq!(output.code, 0, "{}", output.stderr);
    println!("32 VFs, after taking back: {:.2} s", begun.elapsed().as_secs_f64());
    assert!(output.stderr.contains("was interrupted"), "{}", output.stderr);
    assert!(output.stdout.contains("VF 31: give it 2 queues, 1 interrupt"), "{}", output.stdout);
    assert_eq!(host.ok("ls -d /sys/bus/pci/drivers/vfio-pci/0000:01:*").lines().count(), 32);
    goes_on(&host, "with 32 VFs");
    let begun = Instant::now();
    host.ok("assign vf destroy 01:00.0 --yes");
    println!("32 VFs destroyed: {:.2} s", begun.elapsed().as_secs_f64());
    has_nothing(&host, 0..32);

    host.ok("touch /run/enough");
    work.close_stdin();
    let done = work.wait(Duration::from_secs(20))?;
    assert_eq!(done.code, 0, "{}\n{}", done.stdout, done.stderr);
    Ok(())
}

/// The name of a disk of this controller by its namespace: names are given in the order in which the
/// kernel happens to find them.
fn disk(host: &Host, controller: &str, namespace: u8) -> String {
    let found = host.ok(&format!(
        "tries=0; while [ $tries -lt 200 ]; do
             for disk in /sys/class/block/{controller}n*; do
                 [ \"$(cat $disk/nsid)\" = {namespace} ] && [ -b /dev/${{disk##*/}} ] && exec echo ${{disk##*/}}
             done
             tries=$((tries + 1)); usleep 50000
         done"
    ));
    assert!(
        !found.is_empty(),
        "{controller} has no namespace {namespace}: {}",
        host.ok("dmesg | tail")
    );
    found.trim().to_owned()
}

#[test]
#[ignore = "boots an emulated host: cargo lab test"]
fn the_host_and_a_guest_reach_an_nvme_drive_through_its_vfs() -> Result<()> {
    let guest = Guest::new("reader", "net").claim().to_string().replace("pool: lan", "pool: disks");
    let host = Host::intel().nvme().file("root/guest.yaml", guest).boot()?;
    // Without multipathing each controller shows the disk as one of its own.
    host.ok("modprobe -r nvme nvme_core && modprobe nvme_core multipath=N && modprobe nvme");
    disk(&host, "nvme0", 1);
    host.ok("assign vf create 01:00.0 2");
    let disks = ["nvme0", "nvme1", "nvme2"].map(|controller| disk(&host, controller, 1));
    // Written through one VF, read through the other and the physical function, around all caches.
    host.ok("head -c 1048576 /dev/urandom > pattern");
    host.ok(&format!("dd if=pattern of=/dev/{} bs=64k oflag=direct 2>/dev/null", disks[1]));
    let sum = host.ok("sha256sum < pattern");
    for disk in &disks {
        let read =
            format!("dd if=/dev/{disk} bs=64k count=16 iflag=direct 2>/dev/null | sha256sum");
        assert_eq!(host.ok(&read), sum, "through {disk}");
    }
    // One that carries something stays, and with it all.
    let mounted = &disks[2];
    host.ok(&format!("mke2fs -q /dev/{mounted} >&2 && mount -t ext4 /dev/{mounted} /mnt"));
    let refused = host.run("assign vf destroy 01:00.0 --yes")?;
    assert_eq!(refused.code, 3, "{}", refused.stderr);
    assert!(refused.stderr.contains(&format!(" → {mounted} → /mnt")), "{}", refused.stderr);
    host.ok("umount /mnt && assign vf destroy 01:00.0 --yes");

    // With multipathing VFs are further ways to the same disk: they come and go under it.
    host.ok("modprobe -r nvme nvme_core && modprobe nvme_core multipath=Y && modprobe nvme");
    let shared = disk(&host, "nvme0", 1);
    host.ok(&format!("mke2fs -q /dev/{shared} >&2 && mount -t ext4 /dev/{shared} /mnt"));
    host.ok("cp pattern /mnt && sync");
    let reading = host.spawn(
        "until [ -e /run/enough ]; do echo 3 > /proc/sys/vm/drop_caches; \
         cmp pattern /mnt/pattern || exit 1; done",
    );
    host.ok("assign vf create 01:00.0 2");
    host.ok("until ls -d /sys/class/block/nvme0c2n*; do usleep 50000; done; sleep 1");
    host.ok("assign vf destroy 01:00.0 --yes && sleep 1 && touch /run/enough");
    let done = reading.wait(Duration::from_secs(20))?;
    assert_eq!(done.code, 0, "{}\n{}", done.stdout, done.stderr);
    host.ok(&format!(
        "umount /mnt && dd if=pattern of=/dev/{shared} bs=64k conv=fsync 2>/dev/null"
    ));

    // A guest reaches the disk by the driver of its own kernel.
    let applied = host.ok("assign apply -f /examples/nvme-slices.yaml");
    assert!(
        applied.contains("VF 1: give it 8 queues, 4 interrupts and set it online"),
        "{applied}"
    );
    assert_eq!(host.run("assign diff -f /examples/nvme-slices.yaml")?.code, 0);
    let output =
        host.run_within("assign run -f guest.yaml </dev/null", Duration::from_secs(120))?;
    let sum = sum.split(' ').next().unwrap_or_default();
    let line = format!("32 MiB, sha256 {sum}");
    assert!(output.stdout.contains(&line), "{}\n{}", output.stdout, output.stderr);
    host.ok("assign remove -f /examples/nvme-slices.yaml");
    has_nothing(&host, 0..2);
    assert_eq!(host.ok(&format!("cat {PF}/sriov_numvfs")), "0\n");
    Ok(())
}
