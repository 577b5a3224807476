//! Who wants to know of which entries.

use std::collections::HashMap;

use crate::storage::watcher::Watcher;
use crate::storage::{Change, Event, Watch};

/// Number of watches below which nobody looks for ended ones: a path where nothing happens would
/// keep them for ever.
const SWEEP_MIN: usize = 64;

/// The watches, by the path they were asked for.
#[derive(Debug, Default)]
pub(super) struct Watches {
    by_path: HashMap<Box<str>, Vec<Watcher>>,
    /// Watches added and not yet found ended.
    count: usize,
    /// The count at which to look for ended ones.
    sweep_at: usize,
}

impl Watches {
    /// Watches a path and everything below it.
    pub(super) fn add(&mut self, path: &str) -> Watch {
        self.count += 1;
        if self.count > self.sweep_at {
            self.by_path.retain(|_, senders| {
                senders.retain(|watcher| !watcher.is_closed());
                !senders.is_empty()
            });
            self.count = 1 + self.by_path.values().map(Vec::len).sum::<usize>();
            self.sweep_at = (2 * self.count).max(SWEEP_MIN);
        }
        let (watcher, watch) = Watcher::new();
        self.by_path.entry(path.into()).or_default().push(watcher);
        watch
    }

    /// Tells everybody that events were lost.
    #[cfg(any(test, feature = "conformance"))]
    pub(super) fn resync(&mut self) {
        for senders in self.by_path.values_mut() {
            senders.retain_mut(|watcher| watcher.tell(|| Event::Resync));
        }
    }

    /// Tells everybody who watches this entry or one above it.
    pub(super) fn notify(&mut self, path: &str, change: Change) {
        if self.by_path.is_empty() {
            return;
        }
        let mut watched = Some(path);
        while let Some(at) = watched {
            if let Some(senders) = self.by_path.get_mut(at) {
                let event = || Event::Changed {
                    path: path.to_owned(),
                    change,
                };
                senders.retain_mut(|watcher| watcher.tell(event));
                if senders.is_empty() {
                    self.by_path.remove(at);
                }
            }
            watched = match at.rsplit_once('/') {
                Some(("", "")) | None => None,
                Some(("", _)) => Some("/"),
                Some((above, _)) => Some(above),
            };
        }
    }
}
