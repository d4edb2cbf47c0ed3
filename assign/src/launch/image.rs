//! What a guest boots from a disk: the entry of the boot loader on it, as a process of its own reads it.
//!
//! The disk is hostile, and this is root. So `assign-vmm --read-boot` reads it, shut in as the guest's
//! process is, and copies what is wanted into files in memory. It is not believed either: it is ended
//! when it takes too long, its answer is bounded and looked through, and its files are sealed before
//! anybody reads them.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use policies::{Guest, GuestDisk, MAX_CMDLINE};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::pipe::PipeFlags;
use vmm::spec::{
    Descriptor, FoundEntry, ImageAnswer, ImageSpec, MAX_ANSWER, MAX_DISK_INITRD, MAX_DISK_KERNEL,
    Sandbox, Unbootable,
};

use super::error;
use super::handles::{BootFiles, OnDisk};
use super::process::{self, Start};
use super::spec;
use crate::failure::Failure;
use crate::visible::visible;

/// How long it may take: even a slow disk gives the kernel and the initial RAM disk in that time.
const LONGEST: Duration = Duration::from_secs(30);
/// How long an end may take that has begun.
const END: Duration = Duration::from_secs(1);
/// What to do without a boot loader.
const NAME_FILES: &str = "Copy the kernel and its initrd out of it, and name them in the document: \
                          `boot: {kernel: …, initrd: …, cmdline: …}`.";

/// Reads what `guest` is to boot from one of its open `disks`: the title of the entry, and its files.
///
/// # Errors
/// Names the guest, the disk, what is wrong and what to do.
pub fn read(
    guest: &Guest,
    wanted: &OnDisk<'_>,
    disks: &[OwnedFd],
    sandbox: Option<Sandbox>,
    last_words: Stdio,
) -> Result<(String, BootFiles), Failure> {
    let disk = &guest.disks[wanted.disk];
    let system =
        |error: io::Error| error::system(guest, &format!("read its disk {}", disk.name), &error);
    let memory = |name| {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        rustix::fs::memfd_create(name, flags).map(File::from)
    };
    let kernel = memory("kernel").map_err(|error| system(error.into()))?;
    let initrd = memory("initrd").map_err(|error| system(error.into()))?;
    let file = read_only(&disks[wanted.disk]).map_err(system)?;
    let (mut answers, answer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)
        .map(|(read, write)| (File::from(read), write))
        .map_err(|error| system(error.into()))?;
    let number = |descriptor: &dyn AsRawFd| Descriptor(descriptor.as_raw_fd());
    let spec = ImageSpec {
        disk: number(&file),
        format: spec::format(disk),
        kernel: number(&kernel),
        initrd: number(&initrd),
        answer: number(&answer),
        entry: wanted.entry.map(str::to_owned),
        sandbox,
    };
    let inherits =
        [spec.disk, spec.kernel, spec.initrd, spec.answer].map(|Descriptor(number)| number);
    let program = process::program();
    let start = Start {
        program: &program,
        task: "--read-boot",
        spec: &spec,
        inherits: inherits.to_vec(),
        is_shut_in: sandbox.is_some(),
        last_words,
    };
    let child = start.spawn(|| Ok(())).map_err(|error| error::vmm(guest, &program, &error))?;
    let mut reader = Reader(child);
    drop((answer, file));
    let heard = hear(&mut answers, Instant::now() + LONGEST);
    let status = reader.end(matches!(heard, Ok(Heard::End))).map_err(system)?;
    let failed = |cause: String| error::image(guest, disk, &cause).with_remedy(NAME_FILES);
    let found = match heard.map_err(system)? {
        Heard::Answer(ImageAnswer::Found(found)) => found,
        Heard::Answer(ImageAnswer::Unbootable { why }) => {
            return Err(unbootable(guest, disk, wanted, &why));
        }
        Heard::Nonsense => {
            let cause =
                "the process that reads it gave a wrong answer; what is on the disk may be damaged";
            return Err(failed(cause.to_owned()));
        }
        Heard::Nothing => {
            return Err(failed(format!("it was not read within {} s", LONGEST.as_secs())));
        }
        Heard::End => return Err(died(guest, disk, status)),
    };
    let files = files(found, wanted, kernel, initrd).map_err(system)?;
    files.map_err(|cause| bad(guest, disk, &cause))
}

/// The process, which does not outlive this.
struct Reader(Child);

impl Reader {
    /// Ends it, if it has not ended or is `ending` by itself: nothing more is wanted of it.
    fn end(&mut self, ending: bool) -> io::Result<ExitStatus> {
        let until = Instant::now() + if ending { END } else { Duration::ZERO };
        while Instant::now() < until {
            if let Some(status) = self.0.try_wait()? {
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        self.0.kill()?;
        self.0.wait()
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        // Both fail for a process that is reaped.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// The same disk, which whoever has this cannot write to. The locks are on the other one.
pub fn read_only(disk: &OwnedFd) -> io::Result<File> {
    File::open(format!("/proc/self/fd/{}", disk.as_raw_fd()))
}

/// What became of the answer.
#[derive(Debug, PartialEq, Eq)]
enum Heard {
    /// It came.
    Answer(ImageAnswer),
    /// Something else did.
    Nonsense,
    /// None has come, and time is over.
    Nothing,
    /// None will come.
    End,
}

/// Waits for the answer, which is a line.
fn hear(answers: &mut File, until: Instant) -> io::Result<Heard> {
    let mut told = Vec::new();
    let mut bytes = [0; 4096];
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let limit = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        let mut polled = [PollFd::new(&*answers, PollFlags::IN)];
        match poll(&mut polled, Some(&limit)) {
            Ok(0) => return Ok(Heard::Nothing),
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        match answers.read(&mut bytes) {
            Ok(0) => return Ok(Heard::End),
            Ok(count) => told.extend(&bytes[..count]),
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        }
        if told.ends_with(b"\n") || told.len() > MAX_ANSWER {
            return Ok(serde_json::from_slice(&told).map_or(Heard::Nonsense, Heard::Answer));
        }
    }
}

/// What the guest boots, if it is as it should be: nobody has the files but us by now.
fn files(
    found: FoundEntry,
    wanted: &OnDisk<'_>,
    kernel: File,
    initrd: File,
) -> io::Result<Result<(String, BootFiles), String>> {
    let FoundEntry { title, cmdline, has_initrd } = found;
    let title = visible(&title);
    let sealed = |mut file: File, most: u64| {
        let seals = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&file, seals)?;
        // The other process has moved it.
        file.rewind()?;
        let size = file.metadata()?.len();
        io::Result::Ok((1..=most).contains(&size).then(|| OwnedFd::from(file)))
    };
    let kernel = sealed(kernel, MAX_DISK_KERNEL)?;
    let initrd = if has_initrd { Some(sealed(initrd, MAX_DISK_INITRD)?) } else { None };
    let (Some(kernel), None | Some(Some(_))) = (kernel, &initrd) else {
        return Ok(Err(format!("the files of its entry {title} have an impossible size")));
    };
    let both = [cmdline.trim(), wanted.cmdline].into_iter().filter(|part| !part.is_empty());
    let cmdline = both.collect::<Vec<_>>().join(" ");
    if cmdline.contains(char::is_control) {
        let cause = format!("the command line of its entry {title} has control characters");
        return Ok(Err(cause));
    }
    if cmdline.len() > MAX_CMDLINE {
        let length = cmdline.len();
        return Ok(Err(format!(
            "the command line of its entry {title} is {length} bytes long, and {MAX_CMDLINE} are the most"
        )));
    }
    Ok(Ok((title, BootFiles { kernel, initrd: initrd.flatten(), cmdline })))
}

fn listed(texts: &[String]) -> String {
    texts.iter().map(|text| visible(text)).collect::<Vec<_>>().join(", ")
}

fn bad(guest: &Guest, disk: &GuestDisk, cause: &str) -> Failure {
    let remedy = "Choose another entry by `boot: {entry: …}`, or name the kernel and its initrd in the \
                  document.";
    error::image(guest, disk, cause).with_remedy(remedy)
}

fn died(guest: &Guest, disk: &GuestDisk, status: ExitStatus) -> Failure {
    let how = match (status.code(), status.signal()) {
        (Some(code), _) => format!("with exit status {code}"),
        (None, signal) => format!("by signal {}", signal.unwrap_or_default()),
    };
    let cause =
        format!("the process that reads it ended {how}; what is on the disk may be damaged");
    error::image(guest, disk, &cause).with_remedy(NAME_FILES)
}

fn unbootable(guest: &Guest, disk: &GuestDisk, wanted: &OnDisk<'_>, why: &Unbootable) -> Failure {
    match why {
        Unbootable::NoFilesystem { found } => {
            let known = "ext2, ext3, ext4 or FAT";
            let cause = match found.as_slice() {
                [] => format!("it has no filesystem that is known here ({known})"),
                found => format!(
                    "it has no filesystem that can be read here ({known}); {}",
                    listed(found)
                ),
            };
            error::image(guest, disk, &cause).with_remedy(NAME_FILES)
        }
        Unbootable::NoEntries { found } => {
            let cause = format!(
                "no boot loader's entries are found on it, neither loader/entries nor a menu in grub.cfg; \
                 {}",
                listed(found)
            );
            error::image(guest, disk, &cause).with_remedy(NAME_FILES)
        }
        Unbootable::NoSuchEntry { entries } => {
            let wanted = wanted.entry.unwrap_or_default();
            let cause =
                format!("its boot loader has no entry `{wanted}`. It has: {}", listed(entries));
            error::image(guest, disk, &cause).with_remedy(
                "Correct `boot: {entry: …}` in its document; left out, it is the boot loader's default.",
            )
        }
        Unbootable::BadEntry { title, cause } => {
            let cause =
                format!("its entry {} cannot be booted: {}", visible(title), visible(cause));
            bad(guest, disk, &cause)
        }
        Unbootable::Unreadable { cause } => {
            error::image(guest, disk, &visible(cause)).with_remedy(NAME_FILES)
        }
    }
}

#[cfg(test)]
mod tests;
