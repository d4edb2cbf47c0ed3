//! What somebody says on a guest's control socket, and what the other side takes for an answer; and, where
//! it is JSON, what a guest's process and its launcher say to each other. The fuzzer calls this, and so does
//! a test of the crate `assign` with all seeds and the corpus, which is why this file is part of both.

use assign::control::http::{Request, Response};
use assign::control::route::Route;
use assign::control::stats::Stats;
use assign::control::{
    Attach, Attached, Balloon, Ballooned, Detach, Detached, Nothing, Running, Stop, Stopped, Watch,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use vmm::spec::{self, GuestEvent, ImageAnswer, Reply};

/// Any bytes: as a request, and as an answer.
pub fn control(bytes: &[u8]) {
    if bytes.first() == Some(&b'{') {
        return between_processes(bytes);
    }
    if let Ok(request) = Request::read(bytes) {
        assert!(bytes.ends_with(&request.body) || request.body.len() < bytes.len());
        written(|to| request.write(to), |from| Request::read(from).expect("a request"), &request);
        if let Ok(route) = Route::find(&request.method, &request.path) {
            asked(route, &request.body);
        }
    }
    if let Ok(response) = Response::read(bytes) {
        written(
            |to| response.write(to),
            |from| Response::read(from).expect("an answer"),
            &response,
        );
        for read in [
            understood::<Attached>,
            understood::<Ballooned>,
            understood::<Detached>,
            understood::<Running>,
            understood::<Stats>,
            understood::<Stopped>,
        ] {
            read(&response.body);
        }
    }
}

/// A line of the guest's process or a request of its launcher, whose head is no HTTP.
fn between_processes(bytes: &[u8]) {
    understood::<GuestEvent>(bytes);
    understood::<ImageAnswer>(bytes);
    understood::<Reply>(bytes);
    understood::<spec::Request>(bytes);
}

/// A body is read as what goes with its route.
fn asked(route: Route, body: &[u8]) {
    match route {
        Route::Attach => understood::<Attach>(body),
        Route::Balloon => understood::<Balloon>(body),
        Route::Console => understood::<Watch>(body),
        Route::Detach => understood::<Detach>(body),
        Route::Stop => understood::<Stop>(body),
        Route::Pause | Route::Reset | Route::Resume => understood::<Nothing>(body),
        Route::State | Route::Stats => {}
    }
}

/// What was understood is written as what is understood as the same.
fn understood<T: Serialize + DeserializeOwned>(body: &[u8]) {
    let Ok(value) = serde_json::from_slice::<T>(body) else { return };
    let text = serde_json::to_string(&value).expect("plain data");
    let again: T = serde_json::from_str(&text).expect("what was written");
    assert_eq!(serde_json::to_string(&again).expect("plain data"), text);
}

fn written<T: PartialEq + std::fmt::Debug>(
    write: impl Fn(&mut Vec<u8>) -> std::io::Result<()>,
    read: impl Fn(&[u8]) -> T,
    value: &T,
) {
    let mut bytes = Vec::new();
    write(&mut bytes).expect("room");
    assert_eq!(&read(&bytes), value);
}
