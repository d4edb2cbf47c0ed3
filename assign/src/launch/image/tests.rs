//! What is made of an answer, whatever it says.

use std::io::Write;

use super::*;

fn guest() -> Guest {
    let text = "apiVersion: assign/v1\nkind: Guest\nmetadata: {name: web-1}\nspec: {memory: {size: 64MiB}, \
                boot: {disk: root}, disks: [{name: root, path: root.raw}]}\n";
    let source = policies::Source { name: "guest.yaml".to_owned(), text: text.to_owned() };
    policies::parse(&[source]).expect("a valid guest").guests.remove(0)
}

const WANTED: OnDisk<'static> = OnDisk { disk: 0, entry: Some("lost"), cmdline: "quiet" };

fn memory(contents: &[u8]) -> File {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut file = File::from(rustix::fs::memfd_create("test", flags).expect("memory"));
    file.write_all(contents).expect("room");
    file
}

fn made(
    cmdline: &str,
    kernel: &[u8],
    initrd: Option<&[u8]>,
) -> Result<(String, BootFiles), String> {
    let (title, cmdline) = ("Title\x1b[2J".to_owned(), cmdline.to_owned());
    let found = FoundEntry { title, cmdline, has_initrd: initrd.is_some() };
    let initrd = memory(initrd.unwrap_or_default());
    files(found, &WANTED, memory(kernel), initrd).expect("files in memory")
}

#[test]
fn what_was_found_is_sealed_and_read_from_its_beginning() {
    let (title, files) =
        made(" root=/dev/vda1 ro\t", b"kernel", Some(b"initrd")).expect("an entry");
    assert_eq!(
        (title.as_str(), files.cmdline.as_str()),
        ("Title\u{fffd}[2J", "root=/dev/vda1 ro quiet")
    );
    let mut kernel = File::from(files.kernel);
    let mut text = String::new();
    kernel.read_to_string(&mut text).expect("a file");
    assert_eq!(text, "kernel");
    assert!(kernel.write_all(b"x").is_err() && kernel.set_len(0).is_err());
    assert!(File::from(files.initrd.expect("an initrd")).set_len(1).is_err());
    assert!(made("", b"kernel", None).expect("an entry").1.initrd.is_none());
}

#[test]
fn an_answer_that_is_no_guest_is_refused() {
    for (found, expected) in [
        (made("", b"", None), "impossible size"),
        (made("", b"kernel", Some(b"")), "impossible size"),
        (made("a\0b", b"kernel", None), "control characters"),
        (made("a\nb", b"kernel", None), "control characters"),
        (made(&"a".repeat(2042), b"kernel", None), "2048 bytes long"),
    ] {
        let cause = found.expect_err(expected);
        assert!(cause.contains(expected), "{cause}");
    }
    assert!(made(&"a".repeat(2041), b"kernel", None).is_ok());
}

#[test]
fn answers_are_heard_in_time_and_no_longer_than_they_may_be() {
    let soon = || Instant::now() + Duration::from_millis(50);
    let pipe = || {
        let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).expect("a pipe");
        (File::from(read), File::from(write))
    };
    let (mut read, mut write) = pipe();
    write.write_all(b"{}\n").expect("room");
    assert_eq!(hear(&mut read, soon()).expect("an answer"), Heard::Nonsense);
    let why = Unbootable::NoFilesystem { found: Vec::new() };
    let answer = ImageAnswer::Unbootable { why };
    let mut line = serde_json::to_vec(&answer).expect("plain data");
    // Half a line, and nothing more.
    write.write_all(&line).expect("room");
    assert_eq!(hear(&mut read, soon()).expect("an answer"), Heard::Nothing);
    line.push(b'\n');
    write.write_all(&line).expect("room");
    assert_eq!(hear(&mut read, soon()).expect("an answer"), Heard::Answer(answer));
    drop(write);
    assert_eq!(hear(&mut read, soon()).expect("an end"), Heard::End);
    let (mut read, mut write) = pipe();
    let flood = std::thread::spawn(move || while write.write_all(&[b'x'; 4096]).is_ok() {});
    assert_eq!(hear(&mut read, Instant::now() + LONGEST).expect("an answer"), Heard::Nonsense);
    drop(read);
    flood.join().expect("an end");
}

#[test]
fn each_reason_has_its_remedy() {
    let guest = guest();
    let one = |text: &str| vec![text.to_owned()];
    for (why, cause, remedy) in [
        (
            Unbootable::NoFilesystem { found: one("partition 1: XFS") },
            "partition 1: XFS",
            "boot: {kernel",
        ),
        (
            Unbootable::NoFilesystem { found: Vec::new() },
            "no filesystem that is known",
            "boot: {kernel",
        ),
        (
            Unbootable::NoEntries { found: one("partition 2: ext4") },
            "grub.cfg; partition 2",
            "boot: {kernel",
        ),
        (
            Unbootable::NoSuchEntry { entries: one("a\x07 (b)") },
            "no entry `lost`. It has: a\u{fffd} (b)",
            "boot: {entry",
        ),
        (
            Unbootable::BadEntry { title: "T".to_owned(), cause: "c".to_owned() },
            "its entry T cannot be booted: c",
            "boot: {entry",
        ),
        (Unbootable::Unreadable { cause: "its GPT".to_owned() }, "its GPT", "boot: {kernel"),
    ] {
        let text = unbootable(&guest, &guest.disks[0], &WANTED, &why).to_string();
        assert!(text.starts_with("web-1: cannot boot from its disk root, root.raw: "), "{text}");
        assert!(text.contains(cause) && text.contains(remedy), "{text}");
    }
    let text = died(&guest, &guest.disks[0], ExitStatus::from_raw(31)).to_string();
    assert!(text.contains("ended by signal 31"), "{text}");
}
