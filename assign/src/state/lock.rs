//! Lock files: one holder at a time, waited for with a limit, and named when it takes too long.
//!
//! The kernel drops a lock when its process ends, however it ends, so there is nothing stale to
//! clean up; the process id in the file is for messages only.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::State;
use crate::failure::{Failure, OwnReason};

/// The lock file around the database.
const DATABASE: &str = "state.lock";
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

    /// Whether a command is changing the host now; false where that cannot be seen.
    pub fn is_host_locked(&self) -> bool {
        let file = File::open(self.directory.join("host.lock"));
        file.is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)))
    }

    /// The lock around the database.
    pub(super) fn lock_database(&self) -> Result<File, Failure> {
        self.lock(DATABASE, "using the state")
    }

    /// Its file.
    pub(super) fn database_lock(&self) -> PathBuf {
        self.directory.join(DATABASE)
    }

    /// The same for those who only read; `None` where nobody ever wrote.
    pub(super) fn share_database(&self) -> Result<Option<File>, Failure> {
        let path = self.database_lock();
        match File::open(&path) {
            Ok(mut file) => {
                self.wait(&mut file, &path, File::try_lock_shared, "using the state")?;
                Ok(Some(file))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.unusable(&path, &error)),
        }
    }

    fn lock(&self, name: &str, doing: &str) -> Result<File, Failure> {
        let path = self.directory.join(name);
        let failed = |error: &io::Error| self.unusable(&path, error);
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.directory)
            .map_err(|error| failed(&error))?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file = options.open(&path).map_err(|error| failed(&error))?;
        self.wait(&mut file, &path, File::try_lock, doing)?;
        // Only for messages: a failure to note who we are (a full disk) is no reason to stop.
        file.set_len(0).and_then(|()| write!(file, "{}", std::process::id())).ok();
        Ok(file)
    }

    fn wait(
        &self,
        file: &mut File,
        path: &Path,
        attempt: fn(&File) -> Result<(), TryLockError>,
        doing: &str,
    ) -> Result<(), Failure> {
        let end = Instant::now() + self.patience;
        loop {
            match attempt(file) {
                Ok(()) => return Ok(()),
                Err(TryLockError::Error(error)) => return Err(self.unusable(path, &error)),
                Err(TryLockError::WouldBlock) if Instant::now() < end => {
                    std::thread::sleep(TRY_AGAIN);
                }
                Err(TryLockError::WouldBlock) => return Err(held(file, self.patience, doing)),
            }
        }
    }

    /// The state directory or one of its files cannot be used.
    pub(super) fn unusable(&self, path: &Path, error: &io::Error) -> Failure {
        let remedy = match error.kind() {
            ErrorKind::PermissionDenied => {
                "Run assign as root, or choose another directory with \
                                            --state."
            }
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "Make room on its filesystem.",
            ErrorKind::ReadOnlyFilesystem => {
                "Mount its filesystem writable, or choose another \
                                              directory with --state."
            }
            _ => "Look after that file, or choose another directory with --state.",
        };
        let message = format!("the state of assign cannot be used: {error}");
        Failure::failed(OwnReason::State, path.display(), message).with_remedy(remedy)
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
