//! Asking a running guest's launcher.

use std::io;
use std::os::unix::net::UnixStream;

use serde::Serialize;
use serde::de::DeserializeOwned;
use sriov::HostRoot;

use super::http::{Request, Response};
use super::socket;
use crate::failure::{Failure, OwnReason};

/// Asks `guest` for `path`, with a body where there is one, and waits for the answer.
///
/// # Errors
/// That no guest of this name runs, or what its launcher answers.
pub fn ask<T: DeserializeOwned>(
    root: &HostRoot,
    guest: &str,
    path: &str,
    body: Option<&impl Serialize>,
) -> Result<T, Failure> {
    let stream = UnixStream::connect(socket(root, guest)).map_err(|error| absent(guest, &error))?;
    let response = exchange(&stream, path, body).map_err(|error| {
        let message = format!("its launcher did not answer: {error}");
        Failure::failed(OwnReason::Guest, guest, message)
            .with_remedy("It may just have ended: see `assign status`.")
    })?;
    let unclear = |error: serde_json::Error| {
        let message = format!("its launcher's answer is not understood: {error}");
        Failure::failed(OwnReason::Guest, guest, message)
            .with_remedy("It may be of another version: start the guest again.")
    };
    if response.status == 200 {
        return serde_json::from_slice(&response.body).map_err(unclear);
    }
    let told: Told = serde_json::from_slice(&response.body).map_err(unclear)?;
    Err(told.error)
}

#[derive(serde::Deserialize)]
struct Told {
    error: Failure,
}

fn exchange(
    stream: &UnixStream,
    path: &str,
    body: Option<&impl Serialize>,
) -> io::Result<Response> {
    let method = if body.is_some() { "POST" } else { "GET" };
    let body = body.map(serde_json::to_vec).transpose()?.unwrap_or_default();
    Request { method: method.to_owned(), path: path.to_owned(), body }.write(stream)?;
    Response::read(stream)
}

fn absent(guest: &str, error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            let message = "this user may not speak to guests";
            Failure::failed(sriov::Reason::NotPermitted, guest, message)
                .with_remedy("Run assign as root.")
        }
        // What a killed launcher left refuses connections.
        _ => Failure::bad_input(OwnReason::NoSuchGuest, guest, "no guest of this name runs")
            .with_remedy("`assign status` shows who has which device."),
    }
}
