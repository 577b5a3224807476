//! What can go wrong with a snapshot, naming the file, the object and the remedy.

use std::path::Path;

use nix::errno::Errno;

use crate::repository;
use crate::storage::{self, Object};

/// Why a snapshot could not be made, read or laid out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// The system refused something about a file on the local disk.
    #[error("{what}: {}", std::io::Error::from_raw_os_error(*errno))]
    Local {
        /// The verb and the file.
        what: String,
        /// The errno.
        errno: i32,
    },
    /// The store failed.
    #[error("{place}: {error}")]
    Store {
        /// The file or folder it was for.
        place: String,
        /// What the store said.
        error: storage::Error,
    },
    /// The store has no such object.
    #[error("{place}: {object} is missing from the store; restore it from a backup or build again")]
    Missing {
        /// The file or folder it was for.
        place: String,
        /// The object.
        object: Object,
    },
    /// The store's object is not what its name says, or is no valid listing.
    #[error("{place}: {object} is damaged: {why}; restore it from a backup or build again")]
    Damaged {
        /// The file or folder it was for.
        place: String,
        /// The object.
        object: Object,
        /// How it shows.
        why: String,
    },
    /// Over a bound of the format.
    #[error("{place}: {why}")]
    TooLarge {
        /// The file or folder.
        place: String,
        /// Which bound, and what to do.
        why: String,
    },
    /// The work was given up: its caller went away, or the daemon is ending.
    #[error("the snapshot was given up before it was complete")]
    Stopped,
}

impl SnapshotError {
    /// An errno for a local file; `what` has the verb and the file.
    pub(super) fn local(what: impl Into<String>, errno: Errno) -> Self {
        SnapshotError::Local {
            what: what.into(),
            errno: errno as i32,
        }
    }

    /// The same, naming the file that it turned out to be for.
    pub(super) fn at(mut self, path: &Path) -> Self {
        match &mut self {
            SnapshotError::Store { place, .. }
            | SnapshotError::Missing { place, .. }
            | SnapshotError::Damaged { place, .. }
            | SnapshotError::TooLarge { place, .. } => *place = super::local::shown(path),
            SnapshotError::Local { .. } | SnapshotError::Stopped => {}
        }
        self
    }

    /// Whether it says that an object is missing or damaged, rather than that the store or the
    /// disk failed.
    pub fn is_broken_object(&self) -> bool {
        matches!(self, SnapshotError::Missing { .. } | SnapshotError::Damaged { .. })
    }
}

impl From<SnapshotError> for repository::Error {
    fn from(error: SnapshotError) -> Self {
        match error {
            SnapshotError::Local { what, errno } => repository::Error::System { what, errno },
            SnapshotError::Store { error, .. } => repository::Error::from(error),
            SnapshotError::Missing { .. } | SnapshotError::Damaged { .. } | SnapshotError::Stopped => {
                repository::Error::Io(repository::Failure::of(error))
            }
            SnapshotError::TooLarge { .. } => repository::Error::TooBig(error.to_string()),
        }
    }
}

/// What the functions on snapshots return.
pub type Result<T> = std::result::Result<T, SnapshotError>;
