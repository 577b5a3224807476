//! Queues that somebody looks into without waiting there: what is read of them is cached as
//! long as a watch tells of its changes, and nothing else is done about these.
//!
//! A claim made by hand reads its ticket and its queue eight times on the way through the tree.
//! Following the queue would read all its tickets for that. A listing does so anyway, and whoever
//! lists a queue looks at its tickets next: they are cached from then on.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::Store;
use crate::repository::core::{bounded, lock};
use crate::repository::deadline::Deadline;
use crate::repository::model::keys::Key;
use crate::storage::Event;

/// How long a queue is watched after the last look into it.
const LINGER: Duration = Duration::from_secs(30);

/// Longest wait for the watch of a queue that is listed: it costs as much as one read of many.
const WATCH_MAX: Duration = Duration::from_millis(500);

/// Queues that are watched at once: looks into others are answered by the coordinator.
const CACHE_WATCHES_MAX: usize = 64;

/// Notices taken in together.
const BATCH_MAX: usize = 256;

/// What is watched, by path.
#[derive(Default)]
pub(crate) struct CacheWatches(Mutex<HashMap<String, CacheWatch>>);

struct CacheWatch {
    /// When somebody looked last.
    looked: Instant,
    /// Whether the watch stands.
    stands: watch::Sender<bool>,
    task: AbortHandle,
}

impl CacheWatches {
    /// Whether changes of this queue or ticket are told.
    pub(crate) fn tells(&self, path: &str) -> bool {
        queue_of(path).is_some_and(|queue| lock(&self.0).get(&queue).is_some_and(|watch| *watch.stands.borrow()))
    }

    /// Takes out what nobody has looked into for a while.
    fn take_idle(&self) -> Vec<String> {
        let mut idle = Vec::new();
        lock(&self.0).retain(|path, watch| {
            let keep = watch.looked.elapsed() < LINGER;
            if !keep {
                watch.task.abort();
                idle.push(path.clone());
            }
            keep
        });
        idle
    }

    /// Forgets a queue whose watch came to nothing.
    fn remove(&self, path: &str) {
        lock(&self.0).remove(path);
    }
}

/// The path of the queue that a path belongs to, if it does.
fn queue_of(path: &str) -> Option<String> {
    match Key::parse(path)? {
        Key::Queue(queue) | Key::Ticket(queue, _) | Key::Claim(queue, _) | Key::Post(queue, ..) => {
            Some(Key::Queue(queue).path())
        }
        _ => None,
    }
}

impl Store {
    /// Somebody is about to read all tickets of a queue; returns when they will be cached.
    pub(in crate::repository) async fn watch_to_list(self: &Arc<Self>, queue: &str) {
        if let Some(mut told) = self.watch_to_cache(queue) {
            // Without a watch they are read all the same.
            let _ = Deadline::after(WATCH_MAX).wait(told.wait_for(|told| *told)).await;
        }
    }

    /// Somebody looks into a queue: from when this says so, what is read of it is cached.
    pub(crate) fn watch_to_cache(self: &Arc<Self>, queue: &str) -> Option<watch::Receiver<bool>> {
        if !self.shared || self.subscriptions.tells(queue) {
            return None;
        }
        let mut watches = lock(&self.cache_watches.0);
        if watches.len() >= CACHE_WATCHES_MAX && !watches.contains_key(queue) {
            return None;
        }
        let watch = watches.entry(queue.to_owned()).or_insert_with(|| CacheWatch {
            looked: Instant::now(),
            stands: watch::Sender::new(false),
            task: self
                .runtime
                .spawn(self.clone().run_cache_watch(queue.to_owned()))
                .abort_handle(),
        });
        watch.looked = Instant::now();
        Some(watch.stands.subscribe())
    }

    /// Forgets what is told to have changed.
    async fn run_cache_watch(self: Arc<Self>, queue: String) {
        let mut watch = match bounded("watch", self.coordination.watch(&queue)).await {
            Ok(watch) => watch,
            Err(error) => {
                tracing::debug!(%error, %queue, "looking into it without a watch");
                return self.cache_watches.remove(&queue);
            }
        };
        // From here on all is told; what was asked before may be older.
        self.entry_cache.forget_below(&queue);
        if let Some(watch) = lock(&self.cache_watches.0).get(&queue) {
            watch.stands.send_replace(true);
        }
        let mut events: Vec<Event> = Vec::new();
        while watch.events.recv_many(&mut events, BATCH_MAX).await > 0 {
            self.entry_cache.apply(&queue, &events);
            events.clear();
        }
        self.cache_watches.remove(&queue);
        self.entry_cache.forget_below(&queue);
    }

    /// Lets go of queues that nobody looks into any more.
    pub(in crate::repository) fn drop_idle_cache_watches(&self) {
        for queue in self.cache_watches.take_idle() {
            self.entry_cache.forget_below(&queue);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_below_a_queue_is_its_own() {
        for path in [
            "/tickets/q",
            "/tickets/q/t",
            "/tickets/q/t/claim",
            "/tickets/q/t/post-1",
        ] {
            assert_eq!(queue_of(path).as_deref(), Some("/tickets/q"));
        }
        for path in ["/tickets", "/", "/jobs/q/1", "/tickets/q/t/odd"] {
            assert_eq!(queue_of(path), None);
        }
    }
}
