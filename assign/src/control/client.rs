//! Asking a running guest's launcher.

use std::io;
use std::os::unix::net::UnixStream;

use serde::Serialize;
use serde::de::DeserializeOwned;
use sriov::HostRoot;

use super::http::{Request, Response, SWITCHING};
use super::route::Route;
use super::stats::Stats;
use super::{Port, Running, Watch, socket};
use crate::failure::{Failure, OwnReason};

/// Asks something of `guest`, with the body that goes with it, and waits for the answer.
///
/// # Errors
/// That no guest of this name runs, or what its launcher answers.
pub fn ask<T: DeserializeOwned>(
    root: &HostRoot,
    guest: &str,
    route: Route,
    body: Option<&impl Serialize>,
) -> Result<T, Failure> {
    let (_, response) = exchange(root, guest, route, body)?;
    if response.status == 200 {
        return serde_json::from_slice(&response.body).map_err(|error| unclear(guest, &error));
    }
    Err(refusal(guest, &response))
}

/// The console of `guest`, with the last lines that it printed first.
///
/// # Errors
/// As [`ask`].
pub fn console(root: &HostRoot, guest: &str, wanted: &Watch) -> Result<UnixStream, Failure> {
    let (stream, response) = exchange(root, guest, Route::Console, Some(wanted))?;
    if response.status == SWITCHING { Ok(stream) } else { Err(refusal(guest, &response)) }
}

/// A port of `guest`, and a stream to it.
///
/// # Errors
/// As [`ask`]; that there is no such port, or that another program has it.
pub fn port(root: &HostRoot, guest: &str, name: &str) -> Result<(Port, UnixStream), Failure> {
    let nothing = None::<&()>;
    let running: Running = ask(root, guest, Route::State, nothing)?;
    let names = running.ports.iter().map(|port| port.name.clone()).collect::<Vec<_>>();
    let Some(port) = running.ports.into_iter().find(|port| port.name == name) else {
        let remedy = match names.is_empty() {
            true => "It has none: `ports` in its document gives it some.".to_owned(),
            false => format!("It has {}.", names.join(", ")),
        };
        let message = format!("has no port {name}");
        return Err(Failure::bad_input(OwnReason::NoSuchPort, guest, message).with_remedy(remedy));
    };
    let stats: Stats = ask(root, guest, Route::Stats, nothing)?;
    if stats.ports.iter().any(|port| port.name == name && port.client) {
        let message = format!("another program is connected to its port {name}");
        return Err(Failure::refused(OwnReason::PortTaken, guest, message)
            .with_remedy("End that one first: one at a time is let in."));
    }
    let stream = UnixStream::connect(&port.path).map_err(|error| absent(guest, &error))?;
    Ok((port, stream))
}

fn refusal(guest: &str, response: &Response) -> Failure {
    let told = serde_json::from_slice(&response.body).map(|Told { error }| error);
    told.unwrap_or_else(|error| unclear(guest, &error))
}

fn unclear(guest: &str, error: &serde_json::Error) -> Failure {
    let message = format!("its launcher's answer is not understood: {error}");
    Failure::failed(OwnReason::Guest, guest, message)
        .with_remedy("It may be of another version: start the guest again.")
}

#[derive(serde::Deserialize)]
struct Told {
    error: Failure,
}

fn exchange(
    root: &HostRoot,
    guest: &str,
    route: Route,
    body: Option<&impl Serialize>,
) -> Result<(UnixStream, Response), Failure> {
    let stream = UnixStream::connect(socket(root, guest)).map_err(|error| absent(guest, &error))?;
    let asked = || -> io::Result<Response> {
        let (method, path) = (route.method().to_owned(), route.path().to_owned());
        let body = body.map(serde_json::to_vec).transpose()?.unwrap_or_default();
        Request { method, path, body }.write(&stream)?;
        Response::read(&stream)
    };
    let response = asked().map_err(|error| {
        let message = format!("its launcher did not answer: {error}");
        Failure::failed(OwnReason::Guest, guest, message)
            .with_remedy("It may just have ended: see `assign status`.")
    })?;
    Ok((stream, response))
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
