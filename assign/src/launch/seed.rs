//! The disk from which a guest's cloud-init reads what it is told (its data source NoCloud): made anew
//! at each launch, in memory, of what the guest's document says. It stays the same over reboots.

mod iso;

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;

use policies::{CloudInit, Guest, MAX_SEED_FILE, SEED, SeedFile};
use rustix::fs::{MemfdFlags, SealFlags};
use vmm::spec::{Disk, DiskFormat};

use self::iso::Entry;
use super::image::read_only;
use super::{error, spec};
use crate::failure::Failure;

/// The files of the data source, of which cloud-init wants the first two in any case.
const USER_DATA: &str = "user-data";
const META_DATA: &str = "meta-data";
const NETWORK_CONFIG: &str = "network-config";

/// The disk of `guest`, open for reading; none where its document has nothing for cloud-init.
///
/// # Errors
/// Names the file that cannot be read or is not what cloud-init takes, with cause and remedy.
pub fn make(guest: &Guest) -> Result<Option<OwnedFd>, Failure> {
    let Some(told) = &guest.cloud_init else { return Ok(None) };
    let image = iso::image(SEED, &files(guest, told)?);
    let disk = in_memory(&image)
        .map_err(|error| error::system(guest, "make the disk of its cloud-init", &error))?;
    Ok(Some(disk))
}

/// How the VMM is told of it: as a disk whose serial number is its name, too.
pub fn described(file: &OwnedFd) -> Disk {
    Disk {
        name: SEED.to_owned(),
        file: spec::number(file),
        format: DiskFormat::Raw,
        read_only: true,
        serial: SEED.to_owned(),
        queues: 1,
    }
}

/// In the order of their names.
fn files(guest: &Guest, told: &CloudInit) -> Result<Vec<Entry>, Failure> {
    let CloudInit { user_data, instance_id, hostname, network_config } = told;
    let content = |field, file: &SeedFile, right: fn(&[u8]) -> bool, wrong| match file {
        SeedFile::Text(text) => Ok(text.clone().into_bytes()),
        SeedFile::File(path) => read(path)
            .and_then(|data| if right(&data) { Ok(data) } else { Err(str::to_owned(wrong)) })
            .map_err(|cause| error::seed_file(guest, field, path, &cause)),
    };
    // Both are made of letters, digits and any of . _ -; in quotes, none of them is a number.
    let meta = format!("instance-id: \"{instance_id}\"\nlocal-hostname: \"{hostname}\"\n");
    let mut files = vec![Entry { name: META_DATA, data: meta.into_bytes() }];
    if let Some(file) = network_config {
        let wrong = "it does not tell its version, as `version: 2` does";
        let data = content("networkConfig", file, CloudInit::is_network_config, wrong)?;
        files.push(Entry { name: NETWORK_CONFIG, data });
    }
    let data = match user_data {
        Some(file) => {
            let wrong =
                "its first line does not say what it is, as #cloud-config does, or #! and a shell";
            content("userData", file, CloudInit::is_user_data, wrong)?
        }
        None => Vec::new(),
    };
    files.push(Entry { name: USER_DATA, data });
    Ok(files)
}

/// What is in a file, if that is not too much.
fn read(path: &Path) -> Result<Vec<u8>, String> {
    let told = |error: io::Error| match error.kind() {
        ErrorKind::NotFound => "there is no such file".to_owned(),
        _ => error.to_string(),
    };
    // Looked at before it is opened: opening a pipe would wait for its writer.
    if !std::fs::metadata(path).map_err(told)?.is_file() {
        return Err("it is not a regular file".to_owned());
    }
    let mut data = Vec::new();
    let file = File::open(path).map_err(told)?;
    file.take(MAX_SEED_FILE + 1).read_to_end(&mut data).map_err(told)?;
    if data.len() as u64 > MAX_SEED_FILE {
        return Err("it is larger than 1 MiB".to_owned());
    }
    Ok(data)
}

/// A file in memory that nobody can change, with this in it.
fn in_memory(data: &[u8]) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut file = File::from(rustix::fs::memfd_create(SEED, flags)?);
    file.write_all(data)?;
    let seals = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&file, seals)?;
    Ok(read_only(&file.into())?.into())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    fn guest(cloud_init: &str) -> Guest {
        let text = format!(
            "apiVersion: assign/v1\nkind: Guest\nmetadata: {{name: web-1}}\nspec: {{memory: {{size: 64MiB}}, boot: {{kernel: k}}, cloudInit: {cloud_init}}}\n"
        );
        let source = policies::Source { name: "guest.yaml".to_owned(), text };
        policies::parse(&[source]).expect("a valid guest").guests.remove(0)
    }

    fn told(guest: &Guest) -> Vec<(&'static str, String)> {
        let files = files(guest, guest.cloud_init.as_ref().expect("a seed")).expect("its files");
        let text = |data| String::from_utf8(data).expect("text");
        files.into_iter().map(|Entry { name, data }| (name, text(data))).collect()
    }

    #[test]
    fn what_is_not_said_is_the_guests_name_and_nothing() {
        let least = guest("{metaData: {hostname: web-1.example.net}}");
        let meta = "instance-id: \"web-1\"\nlocal-hostname: \"web-1.example.net\"\n";
        assert_eq!(told(&least), [("meta-data", meta.to_owned()), ("user-data", String::new())]);
        let whole = guest(
            "{userData: \"#!/bin/sh\\n\", metaData: {instanceId: \"007\"}, networkConfig: \"version: 2\"}",
        );
        let meta = "instance-id: \"007\"\nlocal-hostname: \"web-1\"\n";
        let expected =
            [("meta-data", meta), ("network-config", "version: 2"), ("user-data", "#!/bin/sh\n")];
        assert_eq!(told(&whole), expected.map(|(name, text)| (name, text.to_owned())));
    }

    #[test]
    fn a_file_that_cloud_init_would_not_take_is_named_with_its_remedy() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("user-data");
        let guest = |field| guest(&format!("{{{field}: {{file: {}}}}}", path.display()));
        let refusal = |field| {
            let error = make(&guest(field)).expect_err("it is refused");
            assert_eq!(error.exit_code(), 2);
            error.to_string()
        };
        let text = refusal("userData");
        let begin = format!("web-1: cannot read the file of its cloudInit, {}: ", path.display());
        assert!(text.starts_with(&format!("{begin}there is no such file.")), "{text}");
        assert!(text.contains("`cloudInit: {userData: {file: …}}`"), "{text}");
        for (content, cause) in [
            ("packages: []\n".to_owned(), "its first line does not say what it is"),
            (format!("#!{}", " ".repeat(1 << 20)), "it is larger than 1 MiB"),
        ] {
            std::fs::write(&path, content).expect("a file");
            let text = refusal("userData");
            assert!(text.starts_with(&format!("{begin}{cause}")), "{text}");
        }
        std::fs::write(&path, "ethernets: {}\n").expect("a file");
        let text = refusal("networkConfig");
        assert!(text.contains("does not tell its version"), "{text}");
        std::fs::remove_file(&path).expect("the file");
        std::fs::create_dir(&path).expect("a folder");
        assert!(refusal("userData").contains("it is not a regular file"));
    }

    #[test]
    fn nobody_changes_the_disk() {
        let file = make(&guest("{userData: \"#cloud-config\\n\"}")).expect("a disk");
        let file = File::from(file.expect("a disk"));
        assert!(file.metadata().expect("a file").len().is_multiple_of(2048));
        assert!(file.write_at(b"x", 0).is_err());
        let mut label = [0; 6];
        file.read_exact_at(&mut label, 16 * 2048 + 40).expect("a label");
        assert_eq!(&label, b"cidata");
        let written = File::options()
            .write(true)
            .open(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file)));
        assert!(written.and_then(|file| file.write_at(b"x", 0)).is_err(), "it is sealed");
        assert!(
            make(&Guest { cloud_init: None, ..guest("{userData: \"#!\"}") })
                .expect("none")
                .is_none()
        );
    }
}
