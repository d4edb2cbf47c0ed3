//! A guest's ports as sockets of the host, to which programs connect: made here, since its process cannot,
//! and handed to it as they listen. Whoever connects is let in by the guest's process; between two of its
//! lives they wait.

use std::fs::{DirBuilder, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::Path;

use policies::Guest;

use crate::control::Place;
use crate::failure::{Failure, OwnReason};

/// Opens the socket of each port in the guest's place, for their owner alone, in the order of the document.
///
/// # Errors
/// Names the socket that cannot be made, with the cause.
pub fn listen(place: &Place, guest: &Guest) -> Result<Vec<OwnedFd>, Failure> {
    let folder = place.ports();
    if !guest.ports.is_empty() {
        // The guest's place is closed to others as well.
        let made = DirBuilder::new().mode(0o700).create(&folder);
        made.map_err(|error| not_made(guest, &folder, &error))?;
    }
    let open = |path: &Path| {
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, Permissions::from_mode(0o600))?;
        io::Result::Ok(OwnedFd::from(listener))
    };
    let sockets = guest.ports.iter().map(|port| {
        let path = folder.join(&port.name);
        open(&path).map_err(|error| not_made(guest, &path, &error))
    });
    sockets.collect()
}

fn not_made(guest: &Guest, path: &Path, error: &io::Error) -> Failure {
    let message = format!("cannot have its ports: {}: {error}", path.display());
    Failure::failed(OwnReason::Guest, &guest.name, message)
        .with_remedy("See to it that /run is there and has room.")
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use sriov::HostRoot;

    use super::*;
    use crate::control;

    fn guest(ports: &str) -> Guest {
        let text = format!(
            "apiVersion: assign/v1\nkind: Guest\nmetadata: {{name: web-1}}\nspec: {{memory: {{size: 64MiB}}, \
             boot: {{kernel: k}}{ports}}}\n"
        );
        let source = policies::Source { name: "guest.yaml".to_owned(), text };
        policies::parse(&[source]).expect("a valid guest").guests.remove(0)
    }

    #[test]
    fn each_port_has_a_socket_for_its_owner_until_the_guest_is_gone() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = HostRoot::at(folder.path());
        let place = Place::take(&root, "web-1").expect("nobody has it");
        let has = guest(", ports: [{name: org.qemu.guest_agent.0}, {name: hvc, console: true}]");
        let sockets = listen(&place, &has).expect("sockets");
        assert_eq!(sockets.len(), 2);
        let paths = has.ports.iter().map(|port| control::port(&root, "web-1", &port.name));
        let paths: Vec<_> = paths.collect();
        assert_eq!(
            paths[0],
            folder.path().join("run/assign/guests/web-1/ports/org.qemu.guest_agent.0")
        );
        let mode =
            |path: &Path| std::fs::metadata(path).expect("a file").permissions().mode() & 0o777;
        assert_eq!((mode(&paths[0]), mode(&place.ports())), (0o600, 0o700));
        UnixStream::connect(&paths[1]).expect("it listens");
        let told = listen(&place, &has).expect_err("there are some").to_string();
        assert!(
            told.contains("web-1: cannot have its ports: ") && told.contains("/ports: "),
            "{told}"
        );
        drop(place);
        assert!(!paths[0].exists() && !paths[0].parent().expect("a folder").exists());

        // A killed launcher leaves them, and the next command clears them away.
        let place = Place::take(&root, "web-1").expect("nobody has it");
        drop(listen(&place, &has).expect("sockets"));
        std::mem::forget(place);
        control::tidy(&root);
        assert!(paths[0].exists(), "its launcher is there");
        let lock = folder.path().join("run/assign/guests/web-1/lock");
        // As if it had ended: the lock goes with its process.
        std::fs::remove_file(&lock).expect("a file");
        std::fs::write(&lock, "").expect("room");
        control::tidy(&root);
        assert!(!paths[0].exists());
    }

    #[test]
    fn a_guest_without_ports_has_no_folder_for_them() {
        let folder = tempfile::tempdir().expect("a folder");
        let place = Place::take(&HostRoot::at(folder.path()), "web-1").expect("nobody has it");
        assert!(listen(&place, &guest("")).expect("nothing to do").is_empty());
        assert!(!place.ports().exists());
    }

    #[test]
    fn the_language_and_the_machine_have_the_same_limit() {
        assert_eq!(policies::MAX_PORTS, vmm::spec::MAX_PORTS);
    }
}
