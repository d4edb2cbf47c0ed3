//! What assign remembers between commands: who has which device, how each device was before it
//! was touched, which policies were applied and what they changed, and what is being changed now.
//!
//! All of it is in one small database in the state directory, opened for each operation and closed
//! again, under a lock file; each operation is one transaction. What was read is kept until the
//! database is written. Entries carry the boot's id, since
//! addresses, groups and bindings do not survive a boot.
//!
//! Whoever changes the host holds a second lock, [`State::lock_host`], for as long as it takes.

use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub mod choices;
pub mod conditions;
pub mod drives;
pub mod forced;
pub mod journal;
mod known;
pub mod leases;
mod lock;
pub mod originals;
pub mod policies;
mod shown;
mod store;
pub mod unreset;

use self::known::Known;
pub use self::policies::{Applied, Step};
pub use drives::Drive;
pub use forced::Forced;
pub use journal::{Entry, Intent};
pub use leases::{Lease, Loan, Owner};
pub use lock::HostLock;
pub use originals::Original;
pub use store::Transaction;
pub use unreset::Unreset;

/// Where the state is, unless told otherwise.
pub const DIRECTORY: &str = "/var/lib/assign";

/// How long to wait for another command: creating VFs takes seconds on slow cards.
const PATIENCE: Duration = Duration::from_secs(10);

/// The state directory.
#[derive(Debug, Clone)]
pub struct State {
    directory: PathBuf,
    patience: Duration,
    /// Shared by the clones.
    known: Arc<Known>,
}

impl State {
    /// The state in this directory, which need not exist yet: it is made when something is to be
    /// remembered.
    pub fn at(directory: impl Into<PathBuf>) -> State {
        State { directory: directory.into(), patience: PATIENCE, known: Arc::default() }
    }

    /// The same, waiting so long for other commands: 10 s unless told otherwise.
    #[must_use]
    pub fn with_patience(self, patience: Duration) -> State {
        State { patience, ..self }
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Where unpacked kernels are kept. They can be had again: it may be removed at any time.
    pub fn kernels(&self) -> PathBuf {
        self.directory.join("kernels")
    }

    /// Where it is written down what guests print and what happens to them: a directory for each.
    pub fn guests(&self) -> PathBuf {
        self.directory.join("guests")
    }

    /// The directory of the guest with this name.
    pub fn guest(&self, name: &str) -> PathBuf {
        self.guests().join(name)
    }

    /// Whether what is remembered is not for this user to see, be it the directory that is closed
    /// to them or only its files.
    pub fn is_hidden(&self) -> bool {
        let denied = |path: PathBuf| {
            File::open(path).is_err_and(|error| error.kind() == ErrorKind::PermissionDenied)
        };
        denied(self.database()) || denied(self.database_lock())
    }

    fn database(&self) -> PathBuf {
        self.directory.join("state.redb")
    }
}
