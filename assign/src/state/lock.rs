//! Lock files: one holder at a time, waited for with a limit, and named when it takes too long.
//!
//! The kernel drops a lock when its process ends, however it ends, so there is nothing stale to
//! clean up; the process id in the file is for messages only.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use super::State;
use crate::failure::{Failure, OwnReason};

const TRY_AGAIN: Duration = Duration::from_millis(20);

/// Held by whoever changes the host; dropping it lets the next one in.
#[derive(Debug)]
pub struct HostLock {
    _file: File,
}

impl State {
    /// Waits for the right to change the host.
    ///
    /// # Errors
    /// Names the process that has it.
    pub fn lock_host(&self) -> Result<HostLock, Failure> {
        Ok(HostLock { _file: self.lock("host.lock", "changing this host")? })
    }

    /// The lock around the database.
    pub(super) fn lock_database(&self) -> Result<File, Failure> {
        self.lock("state.lock", "using the state")
    }

    fn lock(&self, name: &str, doing: &str) -> Result<File, Failure> {
        let path = self.directory.join(name);
        let failed = |error: &std::io::Error| self.unusable(&path, error);
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.directory)
            .map_err(|error| failed(&error))?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file = options.open(&path).map_err(|error| failed(&error))?;
        let end = Instant::now() + self.patience;
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::Error(error)) => return Err(failed(&error)),
                Err(TryLockError::WouldBlock) if Instant::now() < end => {
                    std::thread::sleep(TRY_AGAIN);
                }
                Err(TryLockError::WouldBlock) => return Err(held(&mut file, self.patience, doing)),
            }
        }
        // Only for messages: a failure to note who we are is no reason to stop.
        let _ = file.set_len(0).and_then(|()| write!(file, "{}", std::process::id()));
        Ok(file)
    }

    /// The state directory or one of its files cannot be used.
    pub(super) fn unusable(&self, path: &Path, error: &dyn std::fmt::Display) -> Failure {
        let message = format!("the state of assign cannot be used: {error}");
        Failure::failed(OwnReason::State, path.display(), message)
            .with_remedy("Run assign as root, or choose another directory with --state.")
    }
}

fn held(file: &mut File, limit: Duration, doing: &str) -> Failure {
    let mut holder = String::new();
    let read =
        file.seek(SeekFrom::Start(0)).and_then(|_| file.take(20).read_to_string(&mut holder));
    let who = match read {
        Ok(length) if length > 0 => format!("process {}", holder.trim()),
        _ => "another process".to_owned(),
    };
    let waited = limit.as_secs();
    let message = format!("{who} is {doing}, and was not done within {waited} s");
    Failure::failed(OwnReason::Locked, "assign", message)
        .with_remedy("Wait for it to finish, and try again.")
}
