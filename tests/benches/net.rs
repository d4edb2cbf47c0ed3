//! How fast a guest's virtio network card is beside QEMU's: `cargo bench -p benches --bench net`.
//!
//! Both have the kernel move the frames (vhost-net), by a TAP in a bridge of the host. The guest sends to a
//! program of the host and receives from it by TCP, which is throughput, and has its pings answered one after
//! the other, which is latency.
//!
//! At the end ours is held against QEMU's, and a miss is an error.

mod speed;
mod turns;

use anyhow::Result;
use lab::{Host, image, setup};
use speed::{HOST_TIME, Measure, Way, Work};

const WORK: [Work; 3] = [
    Work { name: "send", measure: Measure::Bytes(32.0 * 1048576.0) },
    Work { name: "receive", measure: Measure::Bytes(32.0 * 1048576.0) },
    Work { name: "ping", measure: Measure::Times(1000.0) },
];

const CMDLINE: &str = "console=ttyS0 quiet mitigations=off lab=speed";

/// The host's end: what takes in all that is sent to port 7001 and says so, and sends as much to whoever
/// comes to port 7002.
const SERVE: &str = "ip link add bench type bridge && ip address add 10.0.9.1/24 dev bench && \
    ip link set bench up && \
    printf '#!/bin/sh\ndd of=/dev/null bs=64k count=512 iflag=fullblock 2>/dev/null; echo all\n' \
    >take && printf '#!/bin/sh\ndd if=/dev/zero bs=64k count=512 2>/dev/null\n' >give && \
    printf '#!/bin/sh\nip link set $1 master bench\nip link set $1 up\n' >up && \
    chmod +x take give up && \
    for each in '7001 take' '7002 give'; do set -- $each; \
    nc -ll -p $1 -e /root/$2 </dev/null >/dev/null 2>&1 & done";

fn main() -> Result<()> {
    setup::ready()?;
    image::build_programs()?;
    let networks = "  networks: [{name: lan, virtio: {bridge: bench}}]\n";
    let host = Host::intel()
        .qemu()
        .bridge()
        .file("root/guest.yaml", speed::document(CMDLINE, networks))
        .limit(HOST_TIME)
        .boot()?;
    host.ok("modprobe vhost_net");
    host.ok(SERVE);
    let options = "-netdev tap,id=lan,ifname=benchtap,vhost=on,script=/root/up,downscript=no \
                   -device virtio-net-pci,netdev=lan,romfile=";
    let ways = [
        Way { name: "assign", command: "assign run -f guest.yaml".to_owned() },
        Way { name: "QEMU", command: speed::qemu(CMDLINE, options) },
    ];
    speed::compare(&host, &ways, &WORK)
}
