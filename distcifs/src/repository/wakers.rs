//! Who waits on this mount for something to change, by the name of what changes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};

use tokio::sync::Notify;

use super::core::lock;
use super::names::Name;

/// Names from which on those that nobody waits for any more are looked for, each time that there are twice as
/// many.
const TIDY_FROM: usize = 1024;

/// Somebody may wait for an entry, by its path, for a console, by its name, or for a queue.
#[derive(Default)]
pub(crate) struct Wakers(Mutex<HashMap<String, Weak<Notify>>>);

/// What a queue's open tickets are called here.
pub(crate) fn open_key(queue: &Name) -> String {
    format!("open:{queue}")
}

impl Wakers {
    /// Something to wait on until `notify` is called for this key; made before the look that
    /// decides to wait.
    pub(crate) fn waiter(&self, key: &str) -> Arc<Notify> {
        let mut waiting = lock(&self.0);
        if let Some(known) = waiting.get(key).and_then(Weak::upgrade) {
            return known;
        }
        if waiting.len() >= TIDY_FROM && waiting.len().is_power_of_two() {
            waiting.retain(|_, weak| weak.strong_count() > 0);
        }
        let fresh = Arc::new(Notify::new());
        waiting.insert(key.to_owned(), Arc::downgrade(&fresh));
        fresh
    }

    /// Whether anybody waits on this key.
    pub(crate) fn is_awaited(&self, key: &str) -> bool {
        lock(&self.0).get(key).is_some_and(|weak| weak.strong_count() > 0)
    }

    /// Wakes whoever waits on this key.
    pub(crate) fn notify(&self, key: &str) {
        let known = lock(&self.0).remove(key).and_then(|weak| weak.upgrade());
        if let Some(known) = known {
            known.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_waits_on_a_key_is_woken_by_it_alone() {
        let wakers = Wakers::default();
        assert!(!wakers.is_awaited("a"));
        let waiter = wakers.waiter("a");
        assert!(wakers.is_awaited("a") && !wakers.is_awaited("b"));
        let mut told = std::pin::pin!(waiter.notified());
        told.as_mut().enable();
        wakers.notify("b");
        assert!(!told.as_mut().enable());
        wakers.notify("a");
        told.await;
        assert!(!wakers.is_awaited("a"), "each look waits anew");
    }

    #[test]
    fn keys_that_nobody_waits_on_are_forgotten() {
        let wakers = Wakers::default();
        for i in 0..=2 * TIDY_FROM {
            drop(wakers.waiter(&i.to_string()));
        }
        assert!(lock(&wakers.0).len() <= TIDY_FROM + 1);
    }
}
