//! What is followed of the coordinator, and for how long.
//!
//! A mount that is alone follows everything. One of many follows what somebody here waits for: the
//! queues of its workers, the tickets of its claims, what a reader of `.wait` or `.events` asks
//! about. Whoever needs a path subscribes to it; a while after the last one has left it is let go.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{OnceCell, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::Store;
use crate::repository::Result;
use crate::repository::core::{bounded, lock};
use crate::repository::deadline::Deadline;
use crate::repository::model::keys::{HELD, KEYS, TICKETS};
use crate::storage::{Event, Watch};

/// How long a path is followed after the last one has left: workers come back each second.
const LINGER: Duration = Duration::from_secs(30);

/// Notices taken in together.
const BATCH_MAX: usize = 256;

/// Notices that wait while those before are acted upon; past it everything is scanned again.
const WAITING_MAX: usize = crate::storage::coordination::WATCH_LAG_MAX;

/// Everything that is subscribed to, by path.
#[derive(Default)]
pub(crate) struct Subscriptions(Mutex<HashMap<String, Subscribed>>);

/// One path that is subscribed to, with all below it.
struct Subscribed {
    /// Who subscribes to it now.
    users: usize,
    /// When the last one left.
    left: Instant,
    start: Arc<Start>,
}

/// The beginning of following a path.
#[derive(Default)]
struct Start {
    /// Set once the watch stands.
    watching: OnceCell<AbortHandle>,
    /// Whether what was there at that time has been scanned.
    scanned: watch::Sender<bool>,
}

/// Keeps a path followed while it lives.
pub(crate) struct Subscription {
    store: Arc<Store>,
    path: String,
    start: Arc<Start>,
}

impl Subscription {
    /// Returns when what was there at the beginning has been scanned, or at the deadline.
    pub(crate) async fn scanned(&self, deadline: Deadline) {
        let mut scanned = self.start.scanned.subscribe();
        // What is missing then comes with the notices.
        let _ = deadline.wait(scanned.wait_for(|scanned| *scanned)).await;
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        if let Some(subscribed) = lock(&self.store.subscriptions.0).get_mut(&self.path) {
            subscribed.users -= 1;
            subscribed.left = Instant::now();
        }
    }
}

impl Subscriptions {
    /// Whether changes of this path are told.
    pub(crate) fn tells(&self, path: &str) -> bool {
        let table = lock(&self.0);
        let mut all = std::iter::once(path).chain(above(path));
        all.any(|path| table.get(path).is_some_and(|f| f.start.watching.initialized()))
    }

    /// Whether a path above this one is followed, which then tells the same.
    fn is_covered(&self, path: &str) -> bool {
        let table = lock(&self.0);
        above(path).any(|wider| table.get(wider).is_some_and(|f| f.start.watching.initialized()))
    }

    /// Takes out what nobody has subscribed to for a while.
    fn take_idle(&self) -> Vec<String> {
        let mut idle = Vec::new();
        lock(&self.0).retain(|path, subscribed| {
            let keep = subscribed.users > 0 || subscribed.left.elapsed() < LINGER;
            if !keep {
                if let Some(task) = subscribed.start.watching.get() {
                    task.abort();
                }
                idle.push(path.clone());
            }
            keep
        });
        idle
    }
}

/// The paths above this one, the nearest first.
fn above(path: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(path), |path| match path.rsplit_once('/') {
        Some(("", rest)) if !rest.is_empty() => Some("/"),
        Some((parent, _)) if !parent.is_empty() => Some(parent),
        _ => None,
    })
    .skip(1)
}

impl Store {
    /// Follows a path with all below it, until the last subscription of it is dropped. When this
    /// returns, no later change is missed.
    pub(crate) async fn subscribe(self: &Arc<Self>, path: &str) -> Result<Subscription> {
        let subscription = self.enter(path);
        let start = subscription.start.clone();
        let watching = start.watching.get_or_try_init(|| async {
            let watch = bounded("watch", self.coordination.watch(&subscription.path)).await?;
            // From here on all is told; what was asked before may be older.
            self.entry_cache.forget_below(&subscription.path);
            let (store, path, start) = (self.clone(), subscription.path.clone(), start.clone());
            let task = self.runtime.spawn(async move {
                if let Some(reactor) = store.reactor.upgrade() {
                    reactor.rescan(path.clone()).await;
                }
                start.scanned.send_replace(true);
                store.hear(&path, watch).await;
            });
            Ok::<_, crate::repository::Error>(task.abort_handle())
        });
        watching.await?;
        Ok(subscription)
    }

    /// Follows all that `.events` tells of, beside what is followed always.
    pub(crate) async fn subscribe_events(self: &Arc<Self>) -> Result<[Subscription; 3]> {
        let [tickets, keys, held] = [TICKETS, KEYS, HELD];
        Ok([
            self.subscribe(tickets).await?,
            self.subscribe(keys).await?,
            self.subscribe(held).await?,
        ])
    }

    /// Counts a user in, at the path itself or at one above it that is followed already.
    fn enter(self: &Arc<Self>, path: &str) -> Subscription {
        let mut table = lock(&self.subscriptions.0);
        let known = |path: &&str| table.get(*path).is_some_and(|f| f.start.watching.initialized());
        let path = above(path).find(known).unwrap_or(path).to_owned();
        let subscribed = table.entry(path.clone()).or_insert_with(|| Subscribed {
            users: 0,
            left: Instant::now(),
            start: Arc::default(),
        });
        subscribed.users += 1;
        let start = subscribed.start.clone();
        Subscription {
            store: self.clone(),
            path,
            start,
        }
    }

    /// Takes in the notices of a path until the store is closed: what is cached is forgotten at
    /// once, however long it takes to act on the notices before.
    async fn hear(self: &Arc<Self>, path: &str, mut watch: Watch) {
        let mut waiting: Vec<Event> = Vec::new();
        let mut events: Vec<Event> = Vec::new();
        let mut acting = std::pin::pin!(None);
        loop {
            if acting.is_none() && !waiting.is_empty() {
                acting.set(Some(self.act(path, std::mem::take(&mut waiting))));
            }
            tokio::select! {
                heard = watch.events.recv_many(&mut events, BATCH_MAX) => {
                    if heard == 0 {
                        return;
                    }
                    self.entry_cache.apply(path, &events);
                    waiting.append(&mut events);
                    if waiting.len() > WAITING_MAX {
                        waiting = vec![Event::Resync];
                    }
                }
                () = async { if let Some(acting) = acting.as_mut().as_pin_mut() { acting.await } }, if acting.is_some() => {
                    acting.set(None);
                }
            }
        }
    }

    /// Acts on notices that came together.
    async fn act(self: &Arc<Self>, path: &str, events: Vec<Event>) {
        if self.subscriptions.is_covered(path) {
            // They come twice then, and are acted upon there.
            return;
        }
        if let Some(reactor) = self.reactor.upgrade() {
            reactor.act(path.to_owned(), events).await;
        }
    }

    /// Lets go of what nobody subscribes to, now and then.
    pub(crate) async fn unsubscribe_idle(self: Arc<Self>) {
        let mut tick = tokio::time::interval(LINGER / 2);
        loop {
            tick.tick().await;
            self.drop_idle_cache_watches();
            for path in self.subscriptions.take_idle() {
                self.entry_cache.forget_below(&path);
                if let Some(reactor) = self.reactor.upgrade() {
                    reactor.unsubscribed(&path);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_paths_above_end_at_the_root() {
        let all: Vec<&str> = above("/tickets/q/t").collect();
        assert_eq!(all, ["/tickets/q", "/tickets", "/"]);
        assert_eq!(above("/jobs").collect::<Vec<_>>(), ["/"]);
        assert_eq!(above("/").count(), 0);
    }
}
