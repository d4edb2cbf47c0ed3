//! Virtio devices with packed rings, as a guest's own drivers use them.

use std::time::Duration;

use anyhow::Result;
use lab::Host;

use crate::documents::Guest;
use crate::guests;

const GUEST_TIME: Duration = Duration::from_secs(180);
const FLOOD_TIME: Duration = Duration::from_secs(300);
const SOON: Duration = Duration::from_secs(60);
const PINGS: u32 = 2000;

/// Device types (virtio 1.3, section 5).
const CARD: u32 = 1;
const DISK: u32 = 2;
const NUMBERS: u32 = 4;
const BALLOON: u32 = 5;

#[test]
#[ignore = "boots an emulated host: cargo lab test"]
fn a_guests_drivers_have_packed_rings_where_its_document_says_so() -> Result<()> {
    let guest = |name| {
        Guest::new(name, "hold lab.rings lab.rng lab.write")
            .cpus(2)
            .memory("{size: 256MiB, balloon: true}")
            .disk("name: root, path: /disks/root.raw")
            .rng()
            .bridge()
    };
    let host = Host::intel()
        .bridge()
        .file("root/web.yaml", guest("web").virtio("{rings: packed}").to_string())
        .file("root/plain.yaml", guest("plain").to_string())
        .limit(Duration::from_secs(900))
        .boot()?;
    host.ok(
        "mkdir /disks && mount -t tmpfs -o size=32m none /disks && truncate -s 16M /disks/root.raw",
    );
    let sum = |from: u32| {
        let words = host
            .ok(&format!("dd if=/disks/root.raw bs=64k skip={} count=16 | sha256sum", from * 16));
        words.split_whitespace().next().unwrap_or_default().to_owned()
    };
    let expect = |told: &str, kinds: [(u32, &str); 4]| {
        for (kind, rings) in kinds {
            let line = format!("guest: rings of type {kind}: {rings}\n");
            assert!(told.replace('\r', "").contains(&line), "{line}{told}");
        }
    };

    // The kernel, which serves the card here, has split rings only.
    let web = guests::start(&host, "assign run -f web.yaml", GUEST_TIME)?;
    let kinds = [(CARD, "split"), (DISK, "packed"), (NUMBERS, "packed"), (BALLOON, "packed")];
    expect(&web.output_so_far(), kinds);
    guests::stop(&web)?;

    host.ok("rmmod vhost_net && rm -f /dev/vhost-net");
    let web = guests::start(&host, "assign run -f web.yaml", GUEST_TIME)?;
    let told = web.output_so_far();
    expect(&told, [CARD, DISK, NUMBERS, BALLOON].map(|kind| (kind, "packed")));
    for line in [
        "rng: virtio_rng.0, 262144 bytes, ",
        "vda: 16 MiB, sha256 30e14955ebf1352266dc2ff8067e68104607e750abb9d3b36582b8af909fcb58",
        "vda: serial root, queues 2, read-only 0",
        "vda: 1 MiB written and read back: equal",
        "vda: 0 bytes are left of what was discarded",
    ] {
        assert!(told.contains(line), "{line}: {told}");
    }
    let wrote = told.split("vda: wrote sha256 ").nth(1).and_then(|rest| rest.get(..64));
    assert_eq!(wrote, Some(sum(8).as_str()), "{told}");
    web.stdin("write vda 4\n");
    web.wait_for("guest: write vda 4: done", SOON)?;
    web.stdin(&format!("ping 10.0.3.2 {PINGS}\n"));
    web.wait_for(&format!("guest: ping 10.0.3.2: {PINGS} of {PINGS} answered"), FLOOD_TIME)?;
    host.ok("assign balloon web 192MiB");
    let balloon = "for i in $(seq 100); do assign stats web | grep -q '64 MiB, has given 64 MiB' && exit 0; \
                   usleep 200000; done; assign stats web >&2; exit 1";
    host.ok(balloon);
    guests::stop(&web)?;

    // Left out, all are as they always were.
    let plain = guests::start(&host, "assign run -f plain.yaml", GUEST_TIME)?;
    expect(&plain.output_so_far(), [CARD, DISK, NUMBERS, BALLOON].map(|kind| (kind, "split")));
    guests::stop(&plain)?;
    Ok(())
}
