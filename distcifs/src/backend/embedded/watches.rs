//! Who wants to know of which entries.

use std::collections::HashMap;

use tokio::sync::mpsc::{self, Sender};

use crate::storage::coordination::WATCH_LAG_MAX;
use crate::storage::{Change, Event, Watch};

/// Number of watches below which nobody looks for ended ones: a path where nothing happens would
/// keep them for ever.
const SWEEP_MIN: usize = 64;

/// Whom a watch tells.
#[derive(Debug)]
struct Watcher {
    sender: Sender<Event>,
    /// Whether the last word sent was [`Event::Resync`], and it is not yet read.
    lags: bool,
}

impl Watcher {
    /// Tells an event, or once that some are lost; `false` if nobody listens any more.
    ///
    /// What is left out stands in the entries before the receiver reads the `Resync`: it can't
    /// be missed by whoever looks at them after that.
    fn tell(&mut self, event: impl FnOnce() -> Event) -> bool {
        if self.lags && self.sender.capacity() < self.sender.max_capacity() {
            return !self.sender.is_closed();
        }
        self.lags = self.sender.capacity() <= 1;
        let event = if self.lags { Event::Resync } else { event() };
        self.sender.try_send(event).is_ok()
    }
}

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
                senders.retain(|watcher| !watcher.sender.is_closed());
                !senders.is_empty()
            });
            self.count = 1 + self.by_path.values().map(Vec::len).sum::<usize>();
            self.sweep_at = (2 * self.count).max(SWEEP_MIN);
        }
        let (sender, events) = mpsc::channel(WATCH_LAG_MAX + 1);
        let watcher = Watcher { sender, lags: false };
        self.by_path.entry(path.into()).or_default().push(watcher);
        Watch { events }
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
