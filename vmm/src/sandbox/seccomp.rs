//! The system calls that remain, by kind of thread: whatever is not on the list ends the process.
//!
//! All threads of a machine have the list of [`Kind::Any`] from the start, and most a shorter one besides;
//! the reader of a disk has that of [`Kind::Image`] instead. `ioctl` is allowed by subsystem: KVM, VFIO
//! with iommufd, vhost, and the few of a TAP; `madvise` by what is advised. Opening files is refused with an
//! error instead, since the standard library tries to read how many CPUs it may use: there are no files.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter,
};

/// Whether the first list was taken.
static IS_ON: AtomicBool = AtomicBool::new(false);

/// What a thread is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Anything that this process does.
    Any {
        /// Whether threads choose the CPUs of the host that they run on.
        binds: bool,
        /// Whether memory is taken from nodes of the host that are named.
        places: bool,
        /// Whether programs of the host connect to sockets that are open.
        accepts: bool,
    },
    /// A vCPU: what the guest does reaches these first.
    Vcpu,
    /// The event loop, once the machine runs.
    Events {
        /// Whether programs of the host connect to sockets that are open.
        accepts: bool,
    },
    /// A disk's queue.
    Disk,
    /// The only thread of a process that reads the boot loader's entries on a disk: what is on the disk
    /// reaches this first.
    Image,
}

/// What whoever is restricted needs: memory, locks, its stack, the files it has open, and its end.
const OWN: &[i64] = &[
    libc::SYS_brk,
    libc::SYS_clock_gettime,
    libc::SYS_close,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_fcntl,
    libc::SYS_futex,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_gettid,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_pread64,
    libc::SYS_restart_syscall,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    // Pausing vCPUs, and abort.
    libc::SYS_tgkill,
    libc::SYS_tkill,
    libc::SYS_write,
    libc::SYS_writev,
    // Refused with an error by another list.
    libc::SYS_open,
    libc::SYS_openat,
];

/// What every thread of a guest's process needs besides.
const EACH: &[i64] = &[
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_read,
    libc::SYS_sched_yield,
    // Devices that come, go and are programmed.
    libc::SYS_eventfd2,
    libc::SYS_epoll_ctl,
    libc::SYS_pwrite64,
];

/// What the event loop needs besides.
const EVENTS: &[i64] = &[
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_wait,
    libc::SYS_readv,
    // Closing disks at the end.
    libc::SYS_fallocate,
    libc::SYS_fdatasync,
];

/// What a disk's queue needs besides. A ring of io_uring is restricted itself, before this list, and no
/// other can be made.
const DISK: &[i64] = &[
    libc::SYS_fallocate,
    libc::SYS_fdatasync,
    libc::SYS_fstat,
    libc::SYS_io_uring_enter,
    libc::SYS_preadv,
    libc::SYS_pwritev2,
    libc::SYS_statx,
];

/// What the reader of a disk needs besides: it has no other list.
const IMAGE: &[i64] = &[libc::SYS_fstat];

/// What else there is: to build the machine, to load its kernel, to start threads, and to be asked.
const ANY: &[i64] = &[
    // Refused with an error by another list.
    libc::SYS_clone3,
    libc::SYS_dup,
    libc::SYS_epoll_create1,
    libc::SYS_geteuid,
    libc::SYS_getpriority,
    libc::SYS_lseek,
    libc::SYS_newfstatat,
    libc::SYS_prlimit64,
    libc::SYS_recvmsg,
    libc::SYS_rseq,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_getparam,
    libc::SYS_sched_getscheduler,
    libc::SYS_sched_setscheduler,
    // Takes away only.
    libc::SYS_seccomp,
    libc::SYS_sendmsg,
    libc::SYS_set_robust_list,
    libc::SYS_setpriority,
];

/// Refused with `EACCES`.
const FILES: &[i64] = &[libc::SYS_open, libc::SYS_openat];
/// Refused with `ENOSYS`: its flags are out of a filter's sight, and the C library takes `clone` then.
const UNSEEN: &[i64] = &[libc::SYS_clone3];

/// Request numbers of ioctl(2) carry the letter of their subsystem here.
const SUBSYSTEM: u64 = 0xff00;
/// KVM (`KVMIO`), VFIO with iommufd (`VFIO_TYPE`, `IOMMUFD_TYPE`), and vhost (`VHOST_VIRTIO`).
const SUBSYSTEMS: [u64; 3] = [0xae00, (b';' as u64) << 8, 0xaf00];
/// Of vhost all the same not (`VHOST_VSOCK_SET_GUEST_CID`): the launcher chooses a guest's CID, and nobody
/// who takes the process over may be taken for another guest.
const SET_GUEST_CID: u64 = 0x4008_af60;
/// Those of subsystems whose others are not allowed: `FIONBIO`, and of TAPs `TUNSETOFFLOAD`,
/// `TUNSETVNETHDRSZ` and `TUNSETQUEUE`.
const REQUESTS: [u64; 4] = [0x5421, 0x4004_54d0, 0x4004_54d8, 0x4004_54d9];

/// Advice of madvise(2) that any thread gives: that pages go back to the host, of the guest's memory and, by
/// the C library, of its own.
const GIVING_BACK: [u64; 1] = [libc::MADV_DONTNEED as u64];
/// Others, while the machine is built: which pages the guest's memory is made of, that these are found now;
/// and the guards of new threads' stacks (`MADV_GUARD_INSTALL`, `MADV_GUARD_REMOVE`; a C library of 2025).
const BUILDING: [u64; 6] = [
    libc::MADV_HUGEPAGE as u64,
    libc::MADV_NOHUGEPAGE as u64,
    libc::MADV_MERGEABLE as u64,
    libc::MADV_POPULATE_WRITE as u64,
    102,
    103,
];

/// Flags of clone(2) that make a thread of this process: nothing else is made.
const THREAD: u64 = (libc::CLONE_VM | libc::CLONE_FILES | libc::CLONE_THREAD) as u64;
/// Those that make name spaces.
const SPACES: u64 = (libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWUTS) as u64;
/// What prctl(2) may be asked: names of threads and of memory, and what goes before a shorter list.
const NAMES: [u64; 3] =
    [libc::PR_SET_NAME as u64, libc::PR_SET_VMA as u64, libc::PR_SET_NO_NEW_PRIVS as u64];

/// How whoever connects to a port is let in: by a socket that does not block.
const ACCEPTED: u64 = (libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK) as u64;

/// The one policy that memory may be given by mbind(2).
const BIND: u64 = libc::MPOL_BIND as u64;

/// Whether this process is restricted.
pub fn is_on() -> bool {
    IS_ON.load(Ordering::Relaxed)
}

/// Restricts the calling thread, and those that it starts from now on.
///
/// # Errors
/// The kernel's.
pub fn restrict(kind: Kind) -> io::Result<()> {
    if let Kind::Any { .. } | Kind::Image = kind {
        for (calls, error) in [(FILES, libc::EACCES), (UNSEEN, libc::ENOSYS)] {
            let refuse = SeccompAction::Errno(error.unsigned_abs());
            apply(&program(rules(&[calls]), SeccompAction::Allow, refuse)?)?;
        }
    }
    let mut allowed = rules(match kind {
        Kind::Any { .. } => &[OWN, EACH, EVENTS, DISK, ANY],
        Kind::Vcpu => &[OWN, EACH],
        Kind::Events { .. } => &[OWN, EACH, EVENTS],
        Kind::Disk => &[OWN, EACH, DISK],
        Kind::Image => &[OWN, IMAGE],
    });
    let is = |at, masked, value| condition(at, SeccompCmpOp::MaskedEq(masked), value);
    let any_of = |values: &[u64], at| -> io::Result<Vec<SeccompRule>> {
        values.iter().map(|value| condition(at, SeccompCmpOp::Eq, *value)).collect()
    };
    if kind != Kind::Image {
        let mut requests = any_of(&REQUESTS, 1)?;
        for subsystem in SUBSYSTEMS {
            let of_it = part(1, SeccompCmpOp::MaskedEq(SUBSYSTEM), subsystem)?;
            let no_cid = part(1, SeccompCmpOp::Ne, SET_GUEST_CID)?;
            requests.push(SeccompRule::new(vec![of_it, no_cid]).map_err(other)?);
        }
        allowed.insert(libc::SYS_ioctl, requests);
    }
    let mut advice = any_of(&GIVING_BACK, 2)?;
    // No memory becomes code.
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        allowed.insert(call, vec![is(2, libc::PROT_EXEC as u64, 0)?]);
    }
    if let Kind::Any { accepts: true, .. } | Kind::Events { accepts: true } = kind {
        allowed.insert(libc::SYS_accept4, any_of(&[ACCEPTED], 3)?);
    }
    if let Kind::Any { binds, places, .. } = kind {
        if places {
            // Memory that was touched stays where it is (no flags).
            let bind = SeccompCondition::new(2, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, BIND);
            let no_flags = SeccompCondition::new(5, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, 0);
            let conditions = vec![bind.map_err(other)?, no_flags.map_err(other)?];
            let rule = SeccompRule::new(conditions).map_err(other)?;
            allowed.insert(libc::SYS_mbind, vec![rule]);
        }
        if binds {
            // Its own only; whoever has a shorter list has it no more.
            let own = condition(0, SeccompCmpOp::Eq, 0)?;
            allowed.insert(libc::SYS_sched_setaffinity, vec![own]);
        }
        allowed.insert(libc::SYS_clone, vec![is(0, THREAD | SPACES, THREAD)?]);
        allowed.insert(libc::SYS_prctl, any_of(&NAMES, 0)?);
        advice.extend(any_of(&BUILDING, 2)?);
    }
    allowed.insert(libc::SYS_madvise, advice);
    apply(&program(allowed, SeccompAction::KillProcess, SeccompAction::Allow)?)?;
    IS_ON.store(true, Ordering::Relaxed);
    Ok(())
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Whatever the arguments.
fn rules(lists: &[&[i64]]) -> Rules {
    lists.iter().copied().flatten().map(|call| (*call, Vec::new())).collect()
}

/// Where the low half of this argument is so.
fn condition(at: u8, operator: SeccompCmpOp, value: u64) -> io::Result<SeccompRule> {
    SeccompRule::new(vec![part(at, operator, value)?]).map_err(other)
}

/// The same, as a part of a rule.
fn part(at: u8, operator: SeccompCmpOp, value: u64) -> io::Result<SeccompCondition> {
    SeccompCondition::new(at, SeccompCmpArgLen::Dword, operator, value).map_err(other)
}

fn program(rules: Rules, others: SeccompAction, these: SeccompAction) -> io::Result<BpfProgram> {
    let filter = SeccompFilter::new(rules, others, these, TargetArch::x86_64).map_err(other)?;
    filter.try_into().map_err(other)
}

fn apply(program: &BpfProgram) -> io::Result<()> {
    apply_filter(program).map_err(other)
}

fn other(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::other(error)
}
