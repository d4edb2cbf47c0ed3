//! Sockets between a guest and its host (AF_VSOCK, vsock(7)):
//! - `lab-vsock echo PORT` listens on this port, says so, and sends back what comes, for each that
//!   connects;
//! - `lab-vsock send CID PORT` connects, sends its standard input, and prints what comes back;
//! - with `messages` behind that it is one message each way, by a socket that keeps these apart
//!   (SOCK_SEQPACKET).

#![allow(unsafe_code)]

use std::fs::File;
use std::io::{self, Read, Write};
use std::mem::size_of;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::thread;

use anyhow::{Context, Result, bail};

/// Those that may wait to be let in.
const BACKLOG: libc::c_int = 16;
/// Bytes that are moved at a time; a message has no more.
const PIECE: usize = 64 << 10;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["echo", port] => echo(libc::SOCK_STREAM, port.parse()?),
        ["echo", port, "messages"] => echo(libc::SOCK_SEQPACKET, port.parse()?),
        ["send", cid, port] => send(cid.parse()?, port.parse()?),
        ["send", cid, port, "messages"] => send_message(cid.parse()?, port.parse()?),
        _ => bail!("lab-vsock echo PORT [messages], or lab-vsock send CID PORT [messages]"),
    }
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn socket(kind: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: it takes no pointer.
    let socket = check(unsafe { libc::socket(libc::AF_VSOCK, kind | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: it was opened just now, for nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(socket) })
}

type Call =
    unsafe extern "C" fn(libc::c_int, *const libc::sockaddr, libc::socklen_t) -> libc::c_int;

/// bind(2) or connect(2).
fn with_address(call: Call, socket: &OwnedFd, cid: u32, port: u32) -> io::Result<()> {
    // SAFETY: a structure of numbers, of which zeroes are a value.
    let mut address: libc::sockaddr_vm = unsafe { std::mem::zeroed() };
    address.svm_family = libc::AF_VSOCK as libc::sa_family_t;
    (address.svm_cid, address.svm_port) = (cid, port);
    let length = size_of::<libc::sockaddr_vm>() as libc::socklen_t;
    // SAFETY: the address is as long as is said, and outlives the call, which reads it only.
    check(unsafe { call(socket.as_raw_fd(), (&raw const address).cast(), length) }).map(drop)
}

fn echo(kind: libc::c_int, port: u32) -> Result<()> {
    let listener = socket(kind).context("a socket")?;
    with_address(libc::bind, &listener, libc::VMADDR_CID_ANY, port).context("its port")?;
    // SAFETY: it takes no pointer.
    check(unsafe { libc::listen(listener.as_raw_fd(), BACKLOG) }).context("listening")?;
    println!("listens on port {port}");
    loop {
        // SAFETY: no address is asked for.
        let accepted = unsafe {
            libc::accept(listener.as_raw_fd(), std::ptr::null_mut(), std::ptr::null_mut())
        };
        let accepted = check(accepted).context("letting somebody in")?;
        // SAFETY: it was opened just now, for nobody else.
        let stream = unsafe { File::from_raw_fd(accepted) };
        thread::spawn(move || {
            // Whoever breaks off is told nothing.
            send_back(&stream).ok();
        });
    }
}

fn send_back(mut stream: &File) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        match stream.read(&mut piece)? {
            0 => return Ok(()),
            length => stream.write_all(&piece[..length])?,
        }
    }
}

fn connect(kind: libc::c_int, cid: u32, port: u32) -> Result<File> {
    let socket = socket(kind).context("a socket")?;
    with_address(libc::connect, &socket, cid, port)
        .with_context(|| format!("connecting to port {port} of {cid}"))?;
    Ok(File::from(socket))
}

fn send(cid: u32, port: u32) -> Result<()> {
    let stream = connect(libc::SOCK_STREAM, cid, port)?;
    let mut back = stream.try_clone()?;
    let sender = thread::spawn(move || -> io::Result<()> {
        io::copy(&mut io::stdin(), &mut &stream)?;
        // SAFETY: it takes no pointer.
        check(unsafe { libc::shutdown(stream.as_raw_fd(), libc::SHUT_WR) }).map(drop)
    });
    io::copy(&mut back, &mut io::stdout()).context("what comes back")?;
    match sender.join() {
        Ok(sent) => sent.context("sending"),
        Err(_) => bail!("sending"),
    }
}

fn send_message(cid: u32, port: u32) -> Result<()> {
    let mut socket = connect(libc::SOCK_SEQPACKET, cid, port)?;
    let mut message = Vec::new();
    io::stdin().take(PIECE as u64).read_to_end(&mut message)?;
    let sent = socket.write(&message).context("sending")?;
    let mut back = vec![0; PIECE];
    let came = socket.read(&mut back).context("what comes back")?;
    if (sent, came) != (message.len(), message.len()) {
        bail!("{} bytes became {sent}, and {came} came back", message.len());
    }
    io::stdout().write_all(&back[..came]).context("printing")
}
