//! How fast a guest's disk is beside QEMU's: `cargo bench -p benches --bench disk`.
//!
//! The same guest reads and writes the same raw file: in large pieces, which is throughput, and in pages one
//! after the other, which is latency. It does so past its own memory for files (O_DIRECT). The file is in the
//! host's memory, so that nothing is measured but the way there. QEMU has it by threads and by io_uring, in
//! turns with ours.
//!
//! At the end ours is held against the better of QEMU's, and a miss is an error.

mod speed;
mod turns;

use anyhow::Result;
use lab::{Host, image, setup};
use speed::{HOST_TIME, Measure, Way, Work};

const WORK: [Work; 4] = [
    Work { name: "write 1M", measure: Measure::Bytes(48.0 * 1048576.0) },
    Work { name: "read 1M", measure: Measure::Bytes(48.0 * 1048576.0) },
    Work { name: "write 4k", measure: Measure::Times(1500.0) },
    Work { name: "read 4k", measure: Measure::Times(1500.0) },
];

const FILE: &str = "/disks/root.raw";
const CMDLINE: &str = "console=ttyS0 quiet mitigations=off lab=disk";

fn qemu(name: &'static str, aio: &str) -> Way {
    let options = format!(
        "-drive file={FILE},format=raw,if=none,id=root,aio={aio} -device \
         virtio-blk-pci,drive=root,romfile="
    );
    Way { name, command: speed::qemu(CMDLINE, &options) }
}

fn main() -> Result<()> {
    setup::ready()?;
    image::build_programs()?;
    let disks = format!("  disks: [{{name: root, path: {FILE}}}]\n");
    let host = Host::intel()
        .qemu()
        .file("root/guest.yaml", speed::document(CMDLINE, &disks))
        .limit(HOST_TIME)
        .boot()?;
    host.ok(&format!("mkdir /disks && mount -t tmpfs none /disks && truncate -s 64M {FILE}"));
    let ways = [
        Way { name: "assign", command: "assign run -f guest.yaml".to_owned() },
        qemu("QEMU, threads", "threads"),
        qemu("QEMU, io_uring", "io_uring"),
    ];
    speed::compare(&host, &ways, &WORK)
}
