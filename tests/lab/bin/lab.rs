//! `cargo lab`: the emulated host from the command line.

use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use lab::{
    Debian, Host, HostKernel, Scratch, Shape, Udevd, binaries, demo, fuzz, image, progress, setup,
};

/// An emulated SR-IOV host to try `assign` in: no such hardware, no KVM and no IOMMU is needed.
#[derive(Parser)]
#[command(name = "cargo lab", bin_name = "cargo lab")]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// See what assign does: devices, a policy, two guests, and the host as it was before
    Demo,
    /// Install and download what the lab needs (the other verbs do it by themselves)
    Setup,
    /// Build the kernel of hosts with iommufd (`test` does it by itself; 10 minutes and more)
    Kernel,
    /// Boot a host and open a shell in it; assign is in its PATH, examples are in /examples
    Shell {
        /// Leave the IOMMU out
        #[arg(long, conflicts_with = "iommufd")]
        no_iommu: bool,
        /// Run the lab's own kernel, with iommufd
        #[arg(long)]
        iommufd: bool,
        /// How many igb ports the host has
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(0..=8))]
        igb: u8,
        /// Count the host's instructions, a nanosecond each, as its clock (see lab-clock)
        #[arg(long)]
        counted: bool,
        /// Put this machine's QEMU into the host, below /opt/qemu
        #[arg(long)]
        qemu: bool,
    },
    /// Save what assign sees of an emulated host, as tests/hosts keeps it, to standard output
    Record {
        /// Which host
        #[arg(value_enum)]
        host: Recorded,
    },
    /// Measure: our own time in making VFs, listings beside lspci (the release programs are built)
    Bench {
        /// The benchmark: a file of tests/benches [default: all]
        name: Option<String>,
    },
    /// Run all tests, those in emulated hosts too
    Test {
        /// Then fuzz each target for 60 s, as `cargo lab fuzz` does (comes before other arguments)
        #[arg(long)]
        all: bool,
        /// Passed on to cargo nextest, for example the name of a test
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Run fuzz targets, two at a time: tests/fuzz has them and says what they are
    Fuzz(fuzz::Wanted),
}

/// Hosts that are recorded for tests.
#[derive(Clone, Copy, clap::ValueEnum)]
enum Recorded {
    /// Two cards with VFs, some of them ready for guests, a bridge, and a group of two
    Igb,
    /// An NVMe drive with VFs
    Nvme,
}

fn main() -> ExitCode {
    let done = match Arguments::parse().verb {
        Verb::Demo => demo().map(|()| ExitCode::SUCCESS),
        Verb::Setup => setup().map(|()| ExitCode::SUCCESS),
        Verb::Kernel => kernel().map(|()| ExitCode::SUCCESS),
        Verb::Shell { no_iommu, iommufd, igb, counted, qemu } => {
            let shape = if no_iommu { Host::no_iommu() } else { Host::intel() };
            let shape = shape.igb(igb).bridge().vmlinux();
            let shape = if iommufd { shape.iommufd() } else { shape };
            let shape = if counted { shape.counted() } else { shape };
            let shape = if qemu { shape.qemu() } else { shape };
            shell(shape, iommufd).map(|()| ExitCode::SUCCESS)
        }
        Verb::Record { host } => record(host).map(|()| ExitCode::SUCCESS),
        Verb::Bench { name } => bench(name.as_deref()),
        Verb::Test { all, arguments } => test(&arguments, all),
        Verb::Fuzz(wanted) => fuzz::run(&wanted),
    };
    done.unwrap_or_else(|error| {
        eprintln!("lab: {error:#}");
        ExitCode::FAILURE
    })
}

fn setup() -> Result<()> {
    let ready = setup::ready()?;
    Udevd::ready()?;
    if rustix::process::geteuid().is_root() {
        Debian::ready()?;
    } else {
        progress::note("for guests that boot a stock system: `cargo lab setup` as root");
    }
    progress::note(format!("ready: {}, {}", ready.qemu.display(), ready.kit.name()));
    Ok(())
}

fn demo() -> Result<()> {
    demo::run(&setup::ready()?)
}

fn kernel() -> Result<()> {
    setup::ready()?;
    progress::note(format!("ready: {}", HostKernel::ready()?.name()));
    Ok(())
}

fn shell(shape: Shape, iommufd: bool) -> Result<()> {
    let ready = setup::ready()?;
    if iommufd {
        HostKernel::ready()?;
    }
    image::build_programs()?;
    let scratch = Scratch::new()?;
    progress::note("booting a host; leave it with `exit`, or pull the plug with Ctrl-A X");
    shape.shell(&ready, scratch.path())
}

fn record(host: Recorded) -> Result<()> {
    setup::ready()?;
    let (shape, made, what) = match host {
        Recorded::Igb => (
            Host::intel().igb(2).bridge().shared_group(),
            "assign vf create eth0 7 --driver vfio-pci; ip link set eth1 up; assign vf create eth1 3",
            "two igb cards with VFs, a bridge, and two e1000e that share a group",
        ),
        Recorded::Nvme => (
            Host::intel().nvme(),
            "assign vf create 01:00.0 4 --driver vfio-pci",
            "an NVMe drive with 4 VFs",
        ),
    };
    let host = shape.boot()?;
    host.ok(&format!("set -e; {{ {made}; }} >&2"));
    let note = format!("Recorded in the emulated host of `cargo lab`: {what}.");
    print!("{}", host.ok(&format!("assign snapshot --note '{note}'")));
    Ok(())
}

fn bench(name: Option<&str>) -> Result<ExitCode> {
    setup::ready()?;
    let mut cargo = binaries::cargo();
    cargo.args(["bench", "--package", "benches", "--bench", name.unwrap_or("*")]);
    exit_code(&mut cargo)
}

fn test(arguments: &[String], all: bool) -> Result<ExitCode> {
    setup::ready()?;
    let asks = |word: &str| arguments.iter().any(|argument| argument.contains(word));
    if arguments.is_empty() || asks("iommufd") {
        HostKernel::ready()?;
    }
    if arguments.is_empty() || asks("debian") {
        Debian::ready()?;
    }
    if arguments.is_empty() || asks("udev") {
        Udevd::ready()?;
    }
    image::build_programs()?;
    let mut nextest = setup::nextest()?;
    nextest.args(["run", "--workspace", "--exclude", "benches", "--run-ignored", "all"]);
    nextest.args(arguments);
    nextest.current_dir(binaries::workspace()).env(binaries::BUILT, "1");
    let tested = exit_code(&mut nextest)?;
    if !all || tested != ExitCode::SUCCESS {
        return Ok(tested);
    }
    fuzz::run(&fuzz::Wanted::default())
}

fn exit_code(command: &mut Command) -> Result<ExitCode> {
    let status = command.status().context("cannot run cargo")?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}
