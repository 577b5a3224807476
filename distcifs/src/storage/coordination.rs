//! Coordination: a tree of small entries with versions, owners and watches, as ZooKeeper has it.

use bytes::Bytes;
use tokio::sync::{mpsc, watch};

use super::Fut;

/// Largest data of one entry, bytes: longer bodies are objects named by their digest.
pub const ENTRY_BYTES_MAX: usize = 4096;

/// Largest number of operations in one commit.
pub const COMMIT_OPS_MAX: usize = 4096;

/// Events that a watch may have waiting: more than one commit can make, at some hundred bytes each.
/// A receiver that lags further is sent [`Event::Resync`] and misses what follows until it has
/// read that.
pub const WATCH_LAG_MAX: usize = 16_384;

/// An entry as it is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its data, at most [`ENTRY_BYTES_MAX`].
    pub data: Bytes,
    /// Number of times it was set since it was made; 0 for a new one.
    pub version: u32,
    /// Position of its creation in the order of all commits (ZooKeeper's czxid): older is smaller.
    pub created: u64,
    /// Whether it vanishes with the session that made it.
    pub ephemeral: bool,
}

/// One operation of a commit. Paths are absolute, `/`-separated, without a trailing slash;
/// components are non-empty and contain neither `/` nor NUL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Makes an entry; mismatch if it exists or its parent does not. The root always exists.
    Create {
        /// Where.
        path: String,
        /// What it holds.
        data: Bytes,
        /// Whether it vanishes with the session that lives when the commit is sent, which a caller
        /// who waited may find to be another than before. An ephemeral entry has no children.
        ephemeral: bool,
    },
    /// Replaces the data; mismatch if the entry is absent or has another version.
    Set {
        /// Where.
        path: String,
        /// What it holds from now on.
        data: Bytes,
        /// The version it must have; `None` for any.
        version: Option<u32>,
    },
    /// Removes an entry; mismatch if it is absent, has children or has another version.
    Delete {
        /// Where.
        path: String,
        /// The version it must have; `None` for any.
        version: Option<u32>,
    },
    /// Changes nothing; mismatch if the entry is absent or has another version.
    Check {
        /// Where.
        path: String,
        /// The version it must have; `None` for any.
        version: Option<u32>,
    },
}

/// How a commit ended: all of it happened or none of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Commit {
    /// Every operation took effect, in order, at one point in time.
    Done,
    /// None did: the operation of this index met something else than it asked for.
    Mismatch {
        /// Index of the first operation refused.
        index: usize,
    },
}

/// What happened to an entry that is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It was made.
    Created,
    /// Its data were set.
    Set,
    /// It was removed, by a commit or with its session.
    Deleted,
}

/// One notice of a watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The entry at `path` changed; read it again. Events of one entry come in order.
    Changed {
        /// The entry.
        path: String,
        /// What happened to it.
        change: Change,
    },
    /// Events may have been lost: list everything below the watched path again.
    Resync,
}

/// Events of the watched path and everything below it, from the moment `watch` returned, each once
/// what it tells of is durable.
/// Dropping it ends the watch. A receiver that lags by [`WATCH_LAG_MAX`] is sent [`Event::Resync`],
/// never blocked on.
#[derive(Debug)]
pub struct Watch {
    /// The events.
    pub events: mpsc::Receiver<Event>,
}

/// The session that owns this mount's ephemeral entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Session {
    /// Alive, with an id that is never used again.
    Live {
        /// The id.
        id: u64,
    },
    /// Not heard of for two thirds of its timeout: claims are in doubt, results wait.
    Doubtful {
        /// The id.
        id: u64,
    },
    /// Over; its ephemeral entries are gone or will be. A new one follows by itself.
    Lost {
        /// The id.
        id: u64,
    },
}

/// What must be agreed on. Commits are serializable; a commit that returned is durable, and what
/// is durable is a prefix of the order of commits. Reads see every commit that returned before
/// them on this mount; after `sync`, on any mount. A read may see a commit that is about to be
/// durable; whatever is committed after such a read is durable only with it.
pub trait Coordination: Send + Sync + 'static {
    /// Reads an entry, `None` if there is none.
    fn get(&self, path: &str) -> Fut<'_, Option<Entry>>;

    /// Reads entries that may be many, in the order of their paths: each as `get` does, in fewer round trips
    /// where a round trip costs more than an entry.
    fn get_all(&self, paths: Vec<String>) -> Fut<'_, Vec<Option<Entry>>> {
        Box::pin(async move {
            let mut entries = Vec::with_capacity(paths.len());
            for path in &paths {
                entries.push(self.get(path).await?);
            }
            Ok(entries)
        })
    }

    /// Names of the direct children, in no order; empty if there are none or no such entry.
    fn children(&self, path: &str) -> Fut<'_, Vec<String>>;

    /// Changes several entries as one or not at all.
    ///
    /// # Errors
    /// `Refused` past [`ENTRY_BYTES_MAX`], [`COMMIT_OPS_MAX`] or with a malformed path;
    /// `Indeterminate` if nobody knows; `Full`, `Expired`, `Unavailable`.
    fn commit(&self, ops: Vec<Op>) -> Fut<'_, Commit>;

    /// Watches an entry and everything below it.
    fn watch(&self, path: &str) -> Fut<'_, Watch>;

    /// Returns when reads on this mount see everything committed anywhere before the call, and when
    /// what they saw before it is durable.
    fn sync(&self) -> Fut<'_, ()>;

    /// The session's state, right at this moment, and its changes. A look at it (`borrow`) is not to be held across an
    /// await: it holds up whoever publishes the next state.
    fn session(&self) -> watch::Receiver<Session>;
}
