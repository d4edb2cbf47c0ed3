//! Tracing a program with all its threads and children.

use std::io;
use std::mem::MaybeUninit;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::ptr;

use super::point::Call;
use super::{Fault, How, Ran, Scope, filter};

/// Waits for tracees and children of this thread only (`__WALL | __WNOTHREAD`): other threads have
/// their own.
const OURS: libc::c_int = libc::__WALL | libc::__WNOTHREAD;

const OPTIONS: libc::c_int = libc::PTRACE_O_TRACESYSGOOD
    | libc::PTRACE_O_TRACESECCOMP
    | libc::PTRACE_O_TRACECLONE
    | libc::PTRACE_O_TRACEFORK
    | libc::PTRACE_O_TRACEVFORK
    | libc::PTRACE_O_TRACEEXEC
    | libc::PTRACE_O_EXITKILL;

/// See [`super::run`].
pub(super) fn run(mut command: Command, scope: Scope, fault: Option<Fault>) -> io::Result<Ran> {
    let filter = filter::program();
    // SAFETY: between fork and exec this makes system calls and nothing else: no memory is asked
    // for, no lock is taken.
    unsafe {
        command.pre_exec(move || {
            check(libc::ptrace(libc::PTRACE_TRACEME, 0, ptr::null_mut::<()>(), 0))?;
            filter::put_on(&filter)
        });
    }
    let child = command.spawn()?;
    let first = wait(pid(&child))?;
    if !libc::WIFSTOPPED(first.1) {
        return Err(io::Error::other("the program ended before it began"));
    }
    // SAFETY: the child is stopped and ours; the options are a number.
    check(unsafe {
        libc::ptrace(libc::PTRACE_SETOPTIONS, first.0, ptr::null_mut::<()>(), OPTIONS)
    })?;
    go_on(first.0, 0, false);
    Tracing { child, scope, fault, points: Vec::new(), hit: false, dying: None }.follow()
}

struct Tracing {
    child: Child,
    scope: Scope,
    fault: Option<Fault>,
    points: Vec<String>,
    hit: bool,
    /// The thread whose call is to come back, before all is over.
    dying: Option<libc::pid_t>,
}

impl Tracing {
    fn follow(mut self) -> io::Result<Ran> {
        let main = pid(&self.child);
        loop {
            let (thread, status) = wait(-1)?;
            if libc::WIFEXITED(status) || libc::WIFSIGNALED(status) {
                if thread != main {
                    continue;
                }
                let code = libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status));
                // Its children, if any are left, end with us.
                return Ok(Ran { code, points: self.points, hit: self.hit });
            }
            if libc::WIFSTOPPED(status) {
                self.stopped(thread, status)?;
            }
        }
    }

    fn stopped(&mut self, thread: libc::pid_t, status: libc::c_int) -> io::Result<()> {
        let (signal, event) = (libc::WSTOPSIG(status), status >> 16);
        let in_call = signal == libc::SIGTRAP | 0x80;
        if in_call && self.dying == Some(thread) {
            return self.kill();
        }
        if event == libc::PTRACE_EVENT_SECCOMP {
            return self.call(thread);
        }
        let deliver = match signal {
            _ if in_call || event != 0 => 0,
            // New threads begin with one.
            libc::SIGSTOP | libc::SIGTRAP => 0,
            signal => signal,
        };
        go_on(thread, deliver, false);
        Ok(())
    }

    fn call(&mut self, thread: libc::pid_t) -> io::Result<()> {
        // It may have died in between: then the next wait says so.
        let Ok(mut registers) = registers(thread) else {
            go_on(thread, 0, false);
            return Ok(());
        };
        let arguments = [registers.rdi, registers.rsi, registers.rdx];
        let call = Call { thread, number: registers.orig_rax, arguments };
        let Some(what) = call.counts(self.scope) else {
            go_on(thread, 0, false);
            return Ok(());
        };
        let number = self.points.len();
        self.points.push(what);
        let fault = self.fault.filter(|fault| fault.at == number && !self.hit);
        self.hit |= fault.is_some();
        match fault.map(|fault| fault.how) {
            None => go_on(thread, 0, false),
            Some(How::KillBefore) => return self.kill(),
            Some(How::KillAfter) => {
                self.dying = Some(thread);
                go_on(thread, 0, true);
            }
            Some(How::Fail(errno)) => {
                // No such call, so that none is made, and the answer is ours (seccomp(2)).
                registers.orig_rax = u64::MAX;
                registers.rax = i64::from(-errno).cast_unsigned();
                set_registers(thread, &registers)?;
                go_on(thread, 0, false);
            }
        }
        Ok(())
    }

    fn kill(&mut self) -> io::Result<()> {
        self.dying = None;
        self.child.kill()
    }
}

fn pid(child: &Child) -> libc::pid_t {
    // Process ids have 22 bits at most.
    child.id().cast_signed()
}

fn check(result: libc::c_long) -> io::Result<()> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn wait(whom: libc::pid_t) -> io::Result<(libc::pid_t, libc::c_int)> {
    let mut status = 0;
    loop {
        // SAFETY: waitpid writes a number to `status`.
        let thread = unsafe { libc::waitpid(whom, &raw mut status, OURS) };
        match thread {
            -1 if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
            -1 => return Err(io::Error::last_os_error()),
            thread => return Ok((thread, status)),
        }
    }
}

/// Lets a stopped thread go on, until its call comes back or for good. One that was killed meanwhile
/// cannot, and is waited for.
fn go_on(thread: libc::pid_t, signal: libc::c_int, until_back: bool) {
    let request = if until_back { libc::PTRACE_SYSCALL } else { libc::PTRACE_CONT };
    // SAFETY: the thread is stopped and ours, or gone; no memory is given.
    unsafe { libc::ptrace(request, thread, ptr::null_mut::<()>(), signal) };
}

fn registers(thread: libc::pid_t) -> io::Result<libc::user_regs_struct> {
    let mut registers = MaybeUninit::<libc::user_regs_struct>::uninit();
    // SAFETY: the kernel fills the structure where it answers 0, and it is used only then.
    unsafe {
        let none = ptr::null_mut::<()>();
        check(libc::ptrace(libc::PTRACE_GETREGS, thread, none, registers.as_mut_ptr()))?;
        Ok(registers.assume_init())
    }
}

fn set_registers(thread: libc::pid_t, registers: &libc::user_regs_struct) -> io::Result<()> {
    let none = ptr::null_mut::<()>();
    // SAFETY: the kernel reads the structure, and changes registers of the traced program only.
    check(unsafe { libc::ptrace(libc::PTRACE_SETREGS, thread, none, ptr::from_ref(registers)) })
}
