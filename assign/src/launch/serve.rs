//! The socket on which a running guest is spoken to: see [`crate::control`]. Each request has a thread
//! of its own, since a guest may take its time.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread::{self, Scope};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use sriov::Class;

use super::console::Console;
use super::supervisor::Supervisor;
use crate::control::http::{self, Request, Response};
use crate::control::route::{Lost, Route};
use crate::control::{CONSOLE_PROTOCOL, Nothing, Place, Watch};
use crate::failure::{Failure, OwnReason};

/// How long somebody may take to say what is wanted.
const SAYS_WITHIN: Duration = Duration::from_secs(10);
/// How long nobody is let in after the kernel has refused to.
const PAUSE: Duration = Duration::from_millis(100);

/// Opens the socket in the guest's place, for its owner alone.
///
/// # Errors
/// The kernel's.
pub fn listen(place: &Place) -> io::Result<UnixListener> {
    let listener = UnixListener::bind(place.socket())?;
    // The directory is closed to others as well.
    std::fs::set_permissions(place.socket(), Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Lets people in until [`stop`] is called.
///
/// # Errors
/// Where a thread cannot be started.
pub fn serve<'scope>(
    scope: &'scope Scope<'scope, '_>,
    listener: &'scope UnixListener,
    supervisor: &'scope Supervisor<'_, '_, '_>,
    console: &'scope Console,
) -> io::Result<()> {
    let work = move || {
        loop {
            match listener.accept() {
                Ok(_) if supervisor.has_gone() => return,
                Ok((stream, _)) => {
                    let answer = move || answer(stream, supervisor, console);
                    // Without a thread the stream is closed, which is an answer as well.
                    thread::Builder::new().name("request".into()).spawn_scoped(scope, answer).ok();
                }
                Err(_) if supervisor.has_gone() => return,
                Err(_) => thread::sleep(PAUSE),
            }
        }
    };
    thread::Builder::new().name("control".into()).spawn_scoped(scope, work).map(drop)
}

/// Ends [`serve`], after the supervisor has been told that its guest is gone.
pub fn stop(place: &Place) {
    // Whoever waits for the next one gets this one.
    UnixStream::connect(place.socket()).ok();
}

fn answer(stream: UnixStream, supervisor: &Supervisor<'_, '_, '_>, console: &Console) {
    // Fails for a limit of zero only.
    stream.set_read_timeout(Some(SAYS_WITHIN)).ok();
    stream.set_write_timeout(Some(SAYS_WITHIN)).ok();
    let request = match Request::read(&stream) {
        Ok(request) => request,
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            let message = format!("is not understood: {error}");
            let failure = Failure::bad_input(OwnReason::Usage, "the request", message);
            refuse(400, &failure).write(&stream).ok();
            return;
        }
        // Whoever asked is gone.
        Err(_) => return,
    };
    let response = match Route::find(&request.method, &request.path) {
        Ok(Route::Console) => match parse::<Watch>(&request) {
            Ok(Watch { lines }) => return watch(stream, lines, console),
            Err(failure) => refuse(400, &failure),
        },
        Ok(Route::Attach) => with(&request, |wanted| supervisor.attach(&wanted)),
        Ok(Route::Balloon) => with(&request, |wanted| supervisor.balloon(&wanted)),
        Ok(Route::Detach) => with(&request, |wanted| supervisor.detach(&wanted)),
        Ok(Route::Pause) => with(&request, |Nothing {}| supervisor.pause()),
        Ok(Route::Reset) => with(&request, |Nothing {}| supervisor.reset()),
        Ok(Route::Resume) => with(&request, |Nothing {}| supervisor.resume()),
        Ok(Route::State) => told(supervisor.state()),
        Ok(Route::Stats) => told(supervisor.stats()),
        Ok(Route::Stop) => with(&request, |wanted| supervisor.stop(&wanted)),
        Err(lost) => astray(&request, lost),
    };
    response.write(&stream).ok();
}

/// From here on the stream is somebody's console.
fn watch(stream: UnixStream, lines: usize, console: &Console) {
    // Whoever asked may be gone.
    if http::switch(&stream, CONSOLE_PROTOCOL).is_ok() {
        console.attach(stream, lines).ok();
    }
}

fn astray(request: &Request, lost: Lost) -> Response {
    let (status, message) = match lost {
        Lost::Path => (404, "there is no such thing to ask".to_owned()),
        Lost::Method(method) => {
            (405, format!("cannot be asked by {}, only by {method}", request.method))
        }
    };
    refuse(status, &Failure::bad_input(OwnReason::Usage, &request.path, message))
}

fn with<T: DeserializeOwned, R: Serialize>(
    request: &Request,
    work: impl FnOnce(T) -> Result<R, Failure>,
) -> Response {
    told(parse(request).and_then(work))
}

fn parse<T: DeserializeOwned>(request: &Request) -> Result<T, Failure> {
    serde_json::from_slice(&request.body).map_err(|error| {
        let message = format!("is not understood: {error}");
        Failure::bad_input(OwnReason::Usage, "the request", message)
    })
}

fn told(done: Result<impl Serialize, Failure>) -> Response {
    match done {
        // Plain data always serializes.
        Ok(done) => Response { status: 200, body: serde_json::to_vec(&done).unwrap_or_default() },
        Err(failure) => {
            let status = match failure.class {
                Class::BadInput => 400,
                Class::Refused => 409,
                Class::Failed => 500,
            };
            refuse(status, &failure)
        }
    }
}

fn refuse(status: u16, failure: &Failure) -> Response {
    let body = serde_json::to_vec(&serde_json::json!({ "error": failure }));
    Response { status, body: body.unwrap_or_default() }
}
