//! Errors of the stores: determinate or not, and what the log line needs.

/// What a storage call failed with.
///
/// A lost race is never an error: it is a value (`Commit::Mismatch`, `Updated::Mismatch`, …).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It did not happen: the store could not be reached.
    #[error("{what}: the store can't be reached: {why}")]
    Unavailable {
        /// The entry or object, with the verb.
        what: String,
        /// The client's words.
        why: String,
    },
    /// Nobody knows whether it happened: read back before trying again.
    #[error("{what}: it may or may not have happened: {why}")]
    Indeterminate {
        /// The entry or object, with the verb.
        what: String,
        /// The client's words.
        why: String,
    },
    /// It did not happen: no room.
    #[error("{what}: the store is full: {why}")]
    Full {
        /// The object, with the verb.
        what: String,
        /// The system's words.
        why: String,
    },
    /// What was read is not what was written.
    #[error("{what}: damaged: {why}")]
    Damaged {
        /// The object.
        what: String,
        /// How it shows.
        why: String,
    },
    /// It did not happen: the session that it belonged to is over.
    #[error("{what}: the session with the coordinator is over")]
    Expired {
        /// The entry, with the verb.
        what: String,
    },
    /// It did not happen: an argument is outside what the store takes.
    #[error("{what}: refused: {why}")]
    Refused {
        /// The entry or object, with the verb.
        what: String,
        /// Which bound.
        why: String,
    },
}

impl Error {
    /// Whether the call may have taken effect.
    pub fn is_indeterminate(&self) -> bool {
        matches!(self, Error::Indeterminate { .. })
    }
}

/// What a storage call returns.
pub type Result<T> = std::result::Result<T, Error>;
