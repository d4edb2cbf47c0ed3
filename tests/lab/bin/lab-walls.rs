//! `lab-walls` shuts itself in as a guest's process does, and then tries what somebody would who has
//! taken that over: each attempt in a process of its own. It prints a line for each, `NAME: OUTCOME`,
//! where the outcome is `refused`, `killed` or `DONE`, and first what is to be possible still.

#![allow(unsafe_code)]

use std::fs::File;
use std::io::{self, Write};
use std::net::{TcpListener, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use vmm::event::Reporter;
use vmm::sandbox::{self, Kind};
use vmm::spec::Sandbox;

/// Whom it becomes.
const USER: u32 = 0x7000_0000;

/// What is tried, and how.
type Attempt = (&'static str, fn() -> io::Result<()>);

fn system(result: libc::c_long) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Makes a system call whose arguments are numbers, or pointers to nothing.
macro_rules! call {
    ($number:expr $(, $argument:expr)*) => {
        // SAFETY: none of the calls that are tried writes through an argument.
        system(unsafe { libc::syscall($number $(, $argument as libc::c_long)*) })
    };
}

const ATTEMPTS: &[Attempt] = &[
    // What it needs. If these did not work, neither would the others mean anything.
    ("nothing", || Ok(())),
    ("a thread", || std::thread::spawn(|| ()).join().map_err(|_| io::Error::other("panicked"))),
    ("memory", || {
        std::hint::black_box(vec![1_u8; 1 << 24]);
        Ok(())
    }),
    ("a counter", || {
        rustix::event::eventfd(0, rustix::event::EventfdFlags::empty())
            .map(drop)
            .map_err(Into::into)
    }),
    // Files.
    ("read a file", || File::open("/etc/passwd").map(drop)),
    ("list the root", || std::fs::read_dir("/").map(drop)),
    ("make a file", || File::create("/file").map(drop)),
    ("make a directory", || std::fs::create_dir("/directory")),
    ("open /dev/mem", || File::open("/dev/mem").map(drop)),
    ("mount", || call!(libc::SYS_mount, 0, c"/".as_ptr(), c"tmpfs".as_ptr(), 0, 0)),
    ("leave by chroot", || call!(libc::SYS_chroot, c"..".as_ptr())),
    // Other processes.
    ("fork", || call!(libc::SYS_fork)),
    ("fork by clone", || call!(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0)),
    ("run a program", || Command::new("/bin/busybox").status().map(drop)),
    ("signal the first process", || call!(libc::SYS_kill, 1, 9)),
    ("signal all", || call!(libc::SYS_kill, -1, 9)),
    ("trace", || call!(libc::SYS_ptrace, libc::PTRACE_TRACEME, 0, 0, 0)),
    ("read another's memory", || call!(libc::SYS_process_vm_readv, 1, 0, 0, 0, 0, 0)),
    // Networks.
    ("a socket", || UdpSocket::bind("127.0.0.1:0").map(drop)),
    ("a TCP port", || TcpListener::bind("127.0.0.1:0").map(drop)),
    ("a netlink socket", || call!(libc::SYS_socket, libc::AF_NETLINK, libc::SOCK_RAW, 0)),
    // More than it has.
    ("choose a CID", || call!(libc::SYS_ioctl, 0, 0x4008_af60_u32, 0)),
    ("become root", || call!(libc::SYS_setresuid, 0, 0, 0)),
    ("capabilities", || call!(libc::SYS_capset, 0, 0)),
    ("a user name space", || call!(libc::SYS_unshare, libc::CLONE_NEWUSER)),
    ("a user name space by clone", || {
        call!(libc::SYS_clone, libc::CLONE_NEWUSER | libc::SIGCHLD, 0, 0, 0, 0)
    }),
    ("a module", || call!(libc::SYS_finit_module, 0, c"".as_ptr(), 0)),
    ("BPF", || call!(libc::SYS_bpf, 0, 0, 0)),
    ("performance counters", || call!(libc::SYS_perf_event_open, 0, 0, -1, -1, 0)),
    ("io_uring", || call!(libc::SYS_io_uring_setup, 1, 0)),
    ("a key", || call!(libc::SYS_keyctl, 0, 0, 0)),
    ("memory that is code", || {
        call!(
            libc::SYS_mmap,
            0,
            4096,
            libc::PROT_READ | libc::PROT_EXEC,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0
        )
    }),
    ("memory that becomes code", || {
        let page = vec![0_u8; 8192];
        let start = (page.as_ptr() as usize).next_multiple_of(4096);
        call!(libc::SYS_mprotect, start, 4096, libc::PROT_READ | libc::PROT_EXEC)
    }),
    ("type into the terminal", || {
        call!(libc::SYS_ioctl, io::stderr().as_raw_fd(), libc::TIOCSTI, c"x".as_ptr())
    }),
];

/// What a vCPU's thread may not do either, and the process may.
const OF_VCPU: &[Attempt] = &[
    ("a vCPU: an interrupt's counter", || {
        rustix::event::eventfd(0, rustix::event::EventfdFlags::empty())
            .map(drop)
            .map_err(Into::into)
    }),
    ("a vCPU: a thread", || std::thread::Builder::new().spawn(|| ()).map(drop)),
    ("a vCPU: receive descriptors", || call!(libc::SYS_recvmsg, 0, 0, 0)),
    ("a vCPU: name itself", || call!(libc::SYS_prctl, libc::PR_SET_NAME, c"x".as_ptr(), 0, 0, 0)),
];

/// What a process that reads a disk may not do either.
const OF_READER: &[Attempt] = &[
    ("a disk's reader: nothing", || Ok(())),
    ("a disk's reader: memory", || {
        std::hint::black_box(vec![1_u8; 1 << 24]);
        Ok(())
    }),
    ("a disk's reader: read a file", || File::open("/etc/passwd").map(drop)),
    ("a disk's reader: a thread", || std::thread::Builder::new().spawn(|| ()).map(drop)),
    ("a disk's reader: a socket", || UdpSocket::bind("127.0.0.1:0").map(drop)),
    ("a disk's reader: a counter", || call!(libc::SYS_eventfd2, 0, 0)),
    ("a disk's reader: ask KVM", || call!(libc::SYS_ioctl, 0, 0xae00, 0)),
    ("a disk's reader: receive descriptors", || call!(libc::SYS_recvmsg, 0, 0, 0)),
    ("a disk's reader: more files", || call!(libc::SYS_prlimit64, 0, 0, 0, 0)),
];

fn main() -> Result<ExitCode> {
    match std::env::args().nth(1) {
        None => all(),
        Some(name) => one(&name),
    }
}

fn all() -> Result<ExitCode> {
    let own = std::env::current_exe().context("cannot find this program's own file")?;
    for (name, _) in ATTEMPTS.iter().chain(OF_VCPU).chain(OF_READER) {
        let status = Command::new(&own).arg(name).status().context("cannot run it again")?;
        let outcome = match (status.code(), status.signal()) {
            (Some(0), _) => "DONE",
            (Some(3), _) => "refused",
            (None, Some(libc::SIGSYS)) => "killed",
            _ => bail!("{name}: {status}"),
        };
        println!("{name}: {outcome}");
    }
    Ok(ExitCode::SUCCESS)
}

fn one(name: &str) -> Result<ExitCode> {
    let mut attempts = ATTEMPTS.iter().chain(OF_VCPU).chain(OF_READER);
    let (_, attempt) = attempts.find(|(one, _)| *one == name).context("no such attempt")?;
    let kind = match name.starts_with("a disk's reader") {
        true => Kind::Image,
        false => Kind::Any { binds: false, places: false, accepts: false },
    };
    sandbox::enter(&Sandbox { user: USER, group: USER }, &Reporter::new(None), kind)?;
    let outcome = if name.starts_with("a vCPU") {
        let attempt = *attempt;
        let thread = std::thread::spawn(move || {
            sandbox::restrict(Kind::Vcpu);
            attempt()
        });
        thread.join().ok().context("it panicked")?
    } else {
        attempt()
    };
    match outcome {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => {
            writeln!(io::stderr(), "{name}: {error}").ok();
            Ok(ExitCode::from(3))
        }
    }
}
