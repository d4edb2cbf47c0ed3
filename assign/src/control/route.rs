//! What can be asked of a running guest.

/// The description of all this in OpenAPI 3.1, for programs that ask.
pub const OPENAPI: &str = include_str!("../../control-api.json");

/// Something that can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// Give the guest devices.
    Attach,
    /// Say how much of its memory it is to keep.
    Balloon,
    /// Have its console: the stream is that afterwards.
    Console,
    /// Take a device from it.
    Detach,
    /// Hold its vCPUs.
    Pause,
    /// Reset it.
    Reset,
    /// Let its vCPUs go on.
    Resume,
    /// How it is.
    State,
    /// What is counted and timed of it.
    Stats,
    /// Have it end.
    Stop,
}

/// Why nothing can be asked so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// There is no such path.
    Path,
    /// There is, and it is asked by another method.
    Method(&'static str),
}

impl Route {
    /// All of them.
    pub const ALL: [Route; 10] = [
        Route::Attach,
        Route::Balloon,
        Route::Console,
        Route::Detach,
        Route::Pause,
        Route::Reset,
        Route::Resume,
        Route::State,
        Route::Stats,
        Route::Stop,
    ];

    /// The path of a request.
    pub fn path(self) -> &'static str {
        match self {
            Route::Attach => "/v1/attach",
            Route::Balloon => "/v1/balloon",
            Route::Console => "/v1/console",
            Route::Detach => "/v1/detach",
            Route::Pause => "/v1/pause",
            Route::Reset => "/v1/reset",
            Route::Resume => "/v1/resume",
            Route::State => "/v1/state",
            Route::Stats => "/v1/stats",
            Route::Stop => "/v1/stop",
        }
    }

    /// Its method: POST with a body, or GET without.
    pub fn method(self) -> &'static str {
        match self {
            Route::State | Route::Stats => "GET",
            Route::Attach
            | Route::Balloon
            | Route::Console
            | Route::Detach
            | Route::Pause
            | Route::Reset
            | Route::Resume
            | Route::Stop => "POST",
        }
    }

    /// What a request of this method and path asks.
    ///
    /// # Errors
    /// Why it asks nothing.
    pub fn find(method: &str, path: &str) -> Result<Route, Lost> {
        let route = Route::ALL.into_iter().find(|route| route.path() == path);
        match route.ok_or(Lost::Path)? {
            route if route.method() == method => Ok(route),
            route => Err(Lost::Method(route.method())),
        }
    }
}
