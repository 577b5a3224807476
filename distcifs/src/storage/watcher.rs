//! The sending end of a watch: what it does when its reader lags.

use tokio::sync::mpsc::{self, Sender};

use super::coordination::WATCH_LAG_MAX;
use super::{Event, Watch};

/// Whom a watch tells.
#[derive(Debug)]
pub(crate) struct Watcher {
    sender: Sender<Event>,
    /// Whether the last word sent was [`Event::Resync`], and it is not yet read.
    lags: bool,
}

impl Watcher {
    /// A watch and whom to tell for it.
    pub(crate) fn new() -> (Watcher, Watch) {
        let (sender, events) = mpsc::channel(WATCH_LAG_MAX + 1);
        (Watcher { sender, lags: false }, Watch { events })
    }

    /// Whether nobody listens any more.
    pub(crate) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Returns when nobody listens any more.
    #[cfg(feature = "zookeeper")]
    pub(crate) fn ended(&self) -> impl Future<Output = ()> + Send + use<> {
        let sender = self.sender.clone();
        async move { sender.closed().await }
    }

    /// Tells an event, or once that some are lost; `false` if nobody listens any more.
    ///
    /// What is left out stands in the entries before the receiver reads the `Resync`: it can't
    /// be missed by whoever looks at them after that.
    pub(crate) fn tell(&mut self, event: impl FnOnce() -> Event) -> bool {
        if self.lags && self.sender.capacity() < self.sender.max_capacity() {
            return !self.sender.is_closed();
        }
        self.lags = self.sender.capacity() <= 1;
        let event = if self.lags { Event::Resync } else { event() };
        self.sender.try_send(event).is_ok()
    }
}
