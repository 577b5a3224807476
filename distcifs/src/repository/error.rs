//! What can go wrong above the stores. Every variant carries the words for the log line, and those that a
//! store or the system brings about the error behind them.

use std::sync::Arc;

use crate::storage;

/// Why a request was refused; `fuse/errno.rs` gives each its errno.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A name, configuration, parameter, outcome or control word that is not valid.
    #[error("{0}")]
    Invalid(String),
    /// No such job, build, ticket, file.
    #[error("{0}: no such thing")]
    NotFound(String),
    /// Already claimed, already has a result, already there.
    #[error("{0}")]
    Exists(String),
    /// A lock held too long; removing what is running.
    #[error("{0}")]
    Busy(String),
    /// A lock held, and the caller would not wait.
    #[error("{0}")]
    WouldBlock(String),
    /// A claim that is lost, or another thing that was replaced since the caller got hold of it.
    #[error("{0}")]
    Stale(String),
    /// Writing to what is published or generated.
    #[error("{0}: read-only")]
    ReadOnly(String),
    /// A result, console or post from somebody who is not the claimant.
    #[error("{0}")]
    NotClaimant(String),
    /// An operation that this kind of node never takes.
    #[error("{0}: not possible here")]
    NotPermitted(String),
    /// The kernel's permission bits refuse it.
    #[error("{0}: permission denied")]
    Access(String),
    /// Over its bound.
    #[error("{0}")]
    TooBig(String),
    /// A name over NAME_MAX.
    #[error("{0}: the name is too long")]
    NameTooLong(String),
    /// A file where a folder is needed.
    #[error("{0}: not a folder")]
    NotDirectory(String),
    /// A folder where a file is needed.
    #[error("{0}: is a folder")]
    IsDirectory(String),
    /// A folder that still has entries.
    #[error("{0}: not empty")]
    NotEmpty(String),
    /// Another filesystem or folder kind.
    #[error("{0}: can't be moved or linked across folders of another kind")]
    CrossDevice(String),
    /// Not done by this filesystem; the caller falls back.
    #[error("{0}: not supported")]
    Unsupported(String),
    /// No such extended attribute.
    #[error("no such attribute")]
    NoData,
    /// A size or offset out of range (extended attributes: the buffer is too small).
    #[error("out of range")]
    Range,
    /// The store is full.
    #[error(transparent)]
    Full(Failure),
    /// The caller holds his share of what there is.
    #[error("{0}")]
    Quota(String),
    /// Nothing was heard of the store or coordinator in time.
    #[error(transparent)]
    TimedOut(Failure),
    /// The store or coordinator can't be reached, or what it gave is damaged.
    #[error(transparent)]
    Io(Failure),
    /// An errno that the system gave for a file of a workspace.
    #[error("{what}: {}", std::io::Error::from_raw_os_error(*errno))]
    System {
        /// The file.
        what: String,
        /// The errno.
        errno: i32,
    },
}

/// What failed in words, and the error behind it if there is one.
#[derive(Debug, Clone)]
pub struct Failure {
    words: String,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

impl Failure {
    /// In the words of the error behind it.
    pub fn of(error: impl std::error::Error + Send + Sync + 'static) -> Failure {
        Failure::because(error.to_string(), error)
    }

    /// In words of our own.
    pub fn because(words: impl Into<String>, error: impl std::error::Error + Send + Sync + 'static) -> Failure {
        Failure {
            words: words.into(),
            source: Some(Arc::new(error)),
        }
    }

    /// The error of the stores that is behind it, if it is one.
    fn storage(&self) -> Option<&storage::Error> {
        self.source.as_ref()?.downcast_ref()
    }
}

impl From<String> for Failure {
    fn from(words: String) -> Self {
        Failure { words, source: None }
    }
}

impl From<&str> for Failure {
    fn from(words: &str) -> Self {
        words.to_owned().into()
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.words)
    }
}

impl std::error::Error for Failure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(self.source.as_deref()?)
    }
}

/// What is behind it shows in its words.
impl PartialEq for Failure {
    fn eq(&self, other: &Self) -> bool {
        self.words == other.words
    }
}

impl Eq for Failure {}

impl Error {
    /// What who lost the claim of a ticket gets.
    pub(crate) fn claim_lost(key: &impl std::fmt::Display) -> Error {
        Error::Stale(format!("{key}: the claim is lost"))
    }

    /// Whether nothing was heard of the store or coordinator.
    pub(crate) fn is_away(&self) -> bool {
        match self {
            Error::TimedOut(_) => true,
            Error::Io(failure) => matches!(failure.storage(), Some(storage::Error::Unavailable { .. })),
            _ => false,
        }
    }

    /// Whether the same may be done a while later: the store or coordinator is away, full or busy.
    pub(crate) fn is_passing(&self) -> bool {
        matches!(
            self,
            Error::TimedOut(_) | Error::Io(_) | Error::Full(_) | Error::Busy(_)
        )
    }
}

impl From<storage::Error> for Error {
    fn from(error: storage::Error) -> Self {
        match error {
            storage::Error::Unavailable { .. } | storage::Error::Damaged { .. } => Error::Io(Failure::of(error)),
            storage::Error::Indeterminate { .. } => Error::TimedOut(Failure::of(error)),
            storage::Error::Full { .. } => Error::Full(Failure::of(error)),
            storage::Error::Expired { what } => Error::Stale(format!("{what}: the session of this mount has expired")),
            storage::Error::Refused { .. } => Error::Invalid(error.to_string()),
        }
    }
}

/// What the repository and the tree return.
pub type Result<T> = std::result::Result<T, Error>;

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;

    /// Users read what the store said; whoever looks behind it finds which error that was.
    #[test]
    fn what_a_store_said_is_kept_behind_the_words() {
        let (what, why) = (|| "get /jobs".to_owned(), || "connection refused".to_owned());
        let all = [
            storage::Error::Unavailable {
                what: what(),
                why: why(),
            },
            storage::Error::Damaged {
                what: what(),
                why: why(),
            },
            storage::Error::Indeterminate {
                what: what(),
                why: why(),
            },
            storage::Error::Full {
                what: what(),
                why: why(),
            },
        ];
        for error in all {
            let told = Error::from(error.clone());
            assert_eq!(told.to_string(), error.to_string());
            let behind = told.source().and_then(|source| source.downcast_ref::<storage::Error>());
            assert_eq!(behind, Some(&error));
        }
        assert!(Error::Io("in words alone".into()).source().is_none());
    }
}
