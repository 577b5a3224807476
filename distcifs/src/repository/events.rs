//! Changes as they are told to everybody who reads `.events` on this mount.

use tokio::sync::broadcast;

use super::model::event::Event;

/// Changes that a slow reader may lag behind before it reads `resync`.
const LAG_MAX: usize = 4096;

/// Who is told of changes.
pub(crate) struct Events {
    all: broadcast::Sender<Event>,
    /// Those alone that take names away: few, so that nobody falls behind for all that happens to tickets.
    names: broadcast::Sender<Event>,
}

impl Default for Events {
    fn default() -> Self {
        Events {
            all: broadcast::Sender::new(LAG_MAX),
            names: broadcast::Sender::new(LAG_MAX),
        }
    }
}

impl Events {
    /// Tells of a change, after it can be seen.
    pub(crate) fn announce(&self, event: Event) {
        // Nobody listening is no error.
        if event.takes_names() {
            let _ = self.names.send(event.clone());
        }
        let _ = self.all.send(event);
    }

    /// Whether anybody listens to all of them.
    pub(crate) fn is_listened_to(&self) -> bool {
        self.all.receiver_count() > 0
    }

    /// The changes from now on.
    pub(crate) fn listen(&self) -> broadcast::Receiver<Event> {
        self.all.subscribe()
    }

    /// Those among them that take names away: see [`Event::takes_names`].
    pub(crate) fn listen_names(&self) -> broadcast::Receiver<Event> {
        self.names.subscribe()
    }
}
