//! Stops the program at system calls that may count, and at no other: stopping at all of them makes
//! it some ten times slower.

use std::io;

/// `AUDIT_ARCH_X86_64` (uapi/linux/audit.h).
const ARCH: u32 = 0xc000_003e;
/// Places in `struct seccomp_data` (uapi/linux/seccomp.h).
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;

/// The calls that may count.
const CALLS: [libc::c_long; 11] = [
    libc::SYS_write,
    libc::SYS_pwrite64,
    libc::SYS_writev,
    libc::SYS_pwritev,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_ioctl,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_ftruncate,
    libc::SYS_rename,
];

/// The filter as a program of the kernel's: stop at [`CALLS`], let all others be.
pub(super) fn program() -> Vec<libc::sock_filter> {
    let load = |k| libc::sock_filter {
        code: (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16,
        jt: 0,
        jf: 0,
        k,
    };
    let jump = |k, jt, jf| libc::sock_filter {
        code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16,
        jt,
        jf,
        k,
    };
    let answer =
        |k| libc::sock_filter { code: (libc::BPF_RET | libc::BPF_K) as u16, jt: 0, jf: 0, k };
    let count = CALLS.len() as u8;
    let mut program = vec![load(ARCHITECTURE), jump(ARCH, 0, count + 1), load(NUMBER)];
    for (at, call) in (0u8..).zip(CALLS) {
        // To the last line where it is this one, else on.
        program.push(jump(call as u32, count - at, 0));
    }
    program.push(answer(libc::SECCOMP_RET_ALLOW));
    program.push(answer(libc::SECCOMP_RET_TRACE));
    program
}

/// Puts the filter on this process, for the program it is to become: two system calls.
pub(super) fn put_on(program: &[libc::sock_filter]) -> io::Result<()> {
    let filter =
        libc::sock_fprog { len: program.len() as u16, filter: program.as_ptr().cast_mut() };
    // SAFETY: prctl(2) with these options changes this process only; the filter it is given is
    // `len` instructions that live until it has been copied, and is not written to.
    let done = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter) == 0
    };
    if done { Ok(()) } else { Err(io::Error::last_os_error()) }
}
