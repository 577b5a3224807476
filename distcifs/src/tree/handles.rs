//! Open files and folders.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};

use bytes::Bytes;
use tokio::sync::{broadcast, oneshot};

use super::claim::{Held, Holder};
use super::job::ConfigWrite;
use super::node::Node;
use super::rights::Reader;
use super::shares::Lease;
use super::tasks::TasksWrite;
use super::texts::Text;
use super::{Caller, Error, Kind, Result};
use crate::repository::claims::Claim;
use crate::repository::config::Upstream;
use crate::repository::configure::heads::Carried;
use crate::repository::consoles::Stream;
use crate::repository::core::lock;
use crate::repository::model::console::Extent;
use crate::repository::model::event::Event;
use crate::repository::names::Name;
use crate::repository::snapshot::Entry;
use crate::repository::store::Subscription;

/// How the log calls an open file that many use at once, each in his turn.
pub(crate) const OPEN_FILE: &str = "the open file";

/// An open file.
pub(crate) struct Open {
    /// What it is of.
    pub(crate) node: Node,
    /// Who opened it.
    pub(crate) caller: Caller,
    /// The same with the groups, for what asks again at each act.
    pub(crate) reader: Option<Reader>,
    /// Whether it was opened for reading and writing.
    pub(crate) both: bool,
    /// Claims made by reading it (`.next`).
    pub(crate) claims: Mutex<Vec<Weak<Claim>>>,
    /// What it counts of its user's share of memory.
    pub(crate) memory: Mutex<Lease>,
    /// What it has taken of the daemon's descriptors.
    pub(crate) _lease: Option<Lease>,
    /// Wakes whoever polls it.
    pub(crate) polled: Mutex<Option<tokio::task::AbortHandle>>,
    /// What it does.
    pub(crate) kind: OpenKind,
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some(task) = lock(&self.polled).take() {
            task.abort();
        }
    }
}

/// Notes a claim that was made by reading this file.
pub(crate) fn remember_claim(open: &Open, claim: &Arc<Claim>) {
    let mut claims = lock(&open.claims);
    // Those that are over are looked for when the list has doubled: a look at all for each claim would
    // cost one who holds hundreds more than the claim does.
    if claims.len() == claims.capacity() {
        claims.retain(|known| known.upgrade().is_some_and(|known| known.check().is_ok()));
        let held = claims.len();
        claims.reserve(held.max(1));
    }
    claims.push(Arc::downgrade(claim));
}

/// The claims made by reading this file that are still held.
pub(crate) fn claims_of(open: &Open) -> Vec<Arc<Claim>> {
    lock(&open.claims)
        .iter()
        .filter_map(Weak::upgrade)
        .filter(|claim| claim.check().is_ok())
        .collect()
}

/// What an open file does.
pub(crate) enum OpenKind {
    /// Reads these bytes.
    Bytes(Arc<Text>),
    /// Reads these consoles; those that may grow are kept in mind.
    Consoles {
        names: Vec<Extent>,
        _kept: Vec<Arc<Stream>>,
    },
    /// Writes a configuration.
    Config(tokio::sync::Mutex<ConfigWrite>),
    /// Writes the tasks that a claimant adds.
    Tasks(tokio::sync::Mutex<TasksWrite>),
    /// Writes a text that is committed: trigger, .post, ctl, result.
    Commit(tokio::sync::Mutex<Committing>),
    /// Made a claim.
    Claim(Arc<Held>),
    /// Appends to a claimant's console.
    Append(Arc<Claim>),
    /// Records a parameter.
    Record(Arc<Claim>, Name, Mutex<Vec<u8>>),
    /// Asks for work.
    Next(tokio::sync::Mutex<Asking>, Arc<Holder>),
    /// Follows the changes.
    Events(tokio::sync::Mutex<Following>),
    /// Waits for an end.
    Wait(tokio::sync::Mutex<Option<Bytes>>),
    /// Reads and writes a scratch file.
    Scratch(u64),
    /// Reads a published file.
    Published(Arc<Entry>),
    /// Lists a folder.
    Folder(Mutex<Option<Listing>>),
}

impl OpenKind {
    /// Whether close(2) has something to do: to commit, to refuse, or to notice who ends. What is only read has nothing,
    /// and a request for each close is one of four that reading a small file costs.
    pub(crate) fn flushes(&self) -> bool {
        use OpenKind::*;
        !matches!(
            self,
            Bytes(_) | Consoles { .. } | Published(_) | Events(_) | Wait(_) | Folder(_)
        )
    }

    /// What it holds when it is opened, bytes, beside what is counted with each open file. What grows later is counted
    /// as it does: what is written, and what a folder lists.
    pub(crate) fn holds(&mut self) -> usize {
        match self {
            OpenKind::Config(write) => write.get_mut().size_after(0, &[]),
            OpenKind::Tasks(write) => write.get_mut().size_after(0, &[]),
            OpenKind::Consoles { names, .. } => names.iter().map(|name| size_of::<Extent>() + name.name.len()).sum(),
            OpenKind::Commit(committing) => committing.get_mut().text.len(),
            OpenKind::Record(_, _, text) => lock(text).len(),
            // A text counts by itself, and what is written into a scratch file for who has that.
            OpenKind::Bytes(_) | OpenKind::Scratch(_) | OpenKind::Published(_) => 0,
            OpenKind::Claim(_) | OpenKind::Append(_) | OpenKind::Folder(_) => 0,
            OpenKind::Next(..) | OpenKind::Events(_) | OpenKind::Wait(_) => 0,
        }
    }
}

/// Names and types of a folder's entries, as they were at the first read of it.
pub(crate) type Listing = Arc<Vec<(String, Kind)>>;

/// A text on its way to a commit.
#[derive(Default)]
pub(crate) struct Committing {
    /// Written since the last commit.
    pub(crate) text: Vec<u8>,
    /// What a read gives back of the last commit.
    pub(crate) answer: Bytes,
    /// The claim that it is the result of.
    pub(crate) claim: Option<Arc<Claim>>,
    /// The build that triggers, of what is written to a trigger.
    pub(crate) upstream: Option<Upstream>,
    /// The configuration that the first build is triggered with.
    pub(crate) carried: Carried,
}

/// A reader of `.next`.
#[derive(Default)]
pub(crate) struct Asking {
    /// Its labels; absent until it wrote them.
    pub(crate) labels: Vec<String>,
    /// What was not read yet of the last line.
    pub(crate) rest: Bytes,
    /// A claim whose folders are being prepared; its id is told when they are.
    pub(crate) preparing: Option<(Arc<Held>, oneshot::Receiver<Result<()>>)>,
}

/// A reader of `.events`.
pub(crate) struct Following {
    /// Has everything told.
    pub(crate) _subscriptions: [Subscription; 3],
    /// Who reads it, as at the open.
    pub(crate) reader: Reader,
    /// The changes.
    pub(crate) lines: broadcast::Receiver<Event>,
    /// What was not read yet of the last line.
    pub(crate) rest: Bytes,
}

/// The open files of the generated tree.
pub(crate) struct Handles {
    next: Arc<AtomicU64>,
    open: Mutex<HashMap<u64, Arc<Open>>>,
}

impl Handles {
    /// Handles are numbered by a counter shared with the claimants' own files.
    pub(crate) fn new(next: Arc<AtomicU64>) -> Self {
        Handles {
            next,
            open: Mutex::default(),
        }
    }

    /// Keeps an open file; its number.
    pub(crate) fn insert(&self, open: Open) -> u64 {
        let handle = self.next.fetch_add(1, Ordering::Relaxed);
        lock(&self.open).insert(handle, Arc::new(open));
        handle
    }

    /// An open file by its number.
    pub(crate) fn get(&self, handle: u64) -> Result<Arc<Open>> {
        lock(&self.open)
            .get(&handle)
            .cloned()
            .ok_or_else(|| Error::Invalid("no such open file".into()))
    }

    /// Whether this thread has this open.
    pub(crate) fn has(&self, tid: u32, node: &Node) -> bool {
        let open = lock(&self.open);
        open.values().any(|open| open.caller.tid == tid && open.node == *node)
    }

    /// Lets it go.
    pub(crate) fn remove(&self, handle: u64) -> Option<Arc<Open>> {
        lock(&self.open).remove(&handle)
    }
}
