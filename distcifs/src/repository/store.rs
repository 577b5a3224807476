//! The stores of a mount, what is cached and followed of the coordinator, and the epochs that are pinned.
//!
//! Nothing here knows what an entry is for. What follows from a change that is told is for the [`Reactor`] to do.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Weak};

use tokio::runtime::Handle;

use self::cache_watch::CacheWatches;
use self::entry_cache::EntryCache;
use self::subscriptions::Subscriptions;
use super::core::bounded;
use super::{Error, Result};
use crate::storage::{Contents, Coordination, Event, Session};

mod cache_watch;
mod calls;
mod entry_cache;
pub(crate) mod epochs;
mod subscriptions;

pub(crate) use self::calls::Guarded;
pub(crate) use self::epochs::{EpochPin, Epochs};
pub(crate) use self::subscriptions::Subscription;

/// What is done about changes.
pub(crate) type Acting = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Does what follows from changes of what is followed.
pub(crate) trait Reactor: Send + Sync {
    /// Scans all that is below a path: when it is followed from now on.
    fn rescan(self: Arc<Self>, path: String) -> Acting;
    /// Acts on notices of a path that came together.
    fn act(self: Arc<Self>, path: String, events: Vec<Event>) -> Acting;
    /// Nothing is told of a path any more.
    fn unsubscribed(&self, path: &str);
}

/// What every part of a mount has of its stores.
pub struct Store {
    /// Locks, tickets, claims, live builds.
    pub(crate) coordination: Arc<dyn Coordination>,
    /// Everything that is kept.
    pub(crate) contents: Arc<dyn Contents>,
    /// Whether other mounts may be on the same store.
    pub(crate) shared: bool,
    pub(crate) epochs: Epochs,
    pub(super) subscriptions: Subscriptions,
    pub(super) cache_watches: CacheWatches,
    pub(crate) entry_cache: EntryCache,
    pub(crate) runtime: Handle,
    /// Who has the store has this, too: it must not keep it.
    pub(super) reactor: Weak<dyn Reactor>,
}

impl Store {
    /// On these stores, of which nothing is followed yet.
    pub(crate) fn new(
        coordination: Arc<dyn Coordination>,
        contents: Arc<dyn Contents>,
        shared: bool,
        reactor: Weak<dyn Reactor>,
    ) -> Arc<Self> {
        Arc::new(Store {
            coordination,
            contents,
            shared,
            epochs: if shared { Epochs::shared() } else { Epochs::alone() },
            subscriptions: Subscriptions::default(),
            cache_watches: CacheWatches::default(),
            entry_cache: EntryCache::default(),
            runtime: Handle::current(),
            reactor,
        })
    }

    /// The session in which something is made now that goes with it.
    ///
    /// # Errors
    /// `Io` while there is none.
    pub(crate) fn current_session(&self) -> Result<u64> {
        self.session()
            .ok_or_else(|| Error::Io("the session with the coordinator is over; a new one is on its way".into()))
    }

    /// The session that is alive, if one is.
    pub(crate) fn session(&self) -> Option<u64> {
        session_of(&self.coordination.session().borrow())
    }

    /// The state of the session, in a word.
    pub fn session_word(&self) -> String {
        match *self.coordination.session().borrow() {
            Session::Live { id } => format!("{id:#x} live"),
            Session::Doubtful { id } => format!("{id:#x} doubtful"),
            Session::Lost { id } => format!("{id:#x} lost"),
        }
    }

    /// `Full` if the store has no room: what would begin more work is refused then before it is written.
    pub async fn check_room(&self) -> Result<()> {
        bounded("the store's room", self.contents.room()).await
    }

    /// Whether the session is beyond doubt.
    pub(crate) fn is_in_touch(&self) -> bool {
        matches!(*self.coordination.session().borrow(), Session::Live { .. })
    }
}

/// The session that is alive, if one is.
pub(crate) fn session_of(session: &Session) -> Option<u64> {
    match session {
        Session::Live { id } | Session::Doubtful { id } => Some(*id),
        Session::Lost { .. } => None,
    }
}
