//! One session with the coordinator: its client, and how long it is sure to live.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use zookeeper_client::{Client, SessionState};

use super::clock;
use crate::storage::Session;

/// A session and what we know of it. It ends once: what is [`Session::Lost`] stays so, whatever
/// the server says later.
pub(super) struct Link {
    id: u64,
    timeout: Duration,
    /// Taken out when the session is over, so that its connection ends with the calls in flight.
    client: Mutex<Option<Client>>,
    /// When the last request was sent that a majority of servers is known to have served since,
    /// nanoseconds of [`clock::now`].
    heard: AtomicU64,
    over: AtomicBool,
    /// Since when there is no connection.
    away: Mutex<Option<Instant>>,
}

impl Link {
    /// A session that was asked for at `sent`.
    pub(super) fn new(client: Client, sent: Duration) -> Link {
        Link {
            id: client.session_id().0.cast_unsigned(),
            timeout: client.session_timeout(),
            client: Mutex::new(Some(client)),
            heard: AtomicU64::new(nanos(sent)),
            over: AtomicBool::new(false),
            away: Mutex::new(None),
        }
    }

    /// Its id.
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// How long the server keeps it after it heard of us.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Its client, unless the session is over.
    pub(super) fn client(&self) -> Option<Client> {
        match self.standing() {
            Session::Lost { .. } => None,
            Session::Live { .. } | Session::Doubtful { .. } => lock(&self.client).clone(),
        }
    }

    /// Ends it here.
    pub(super) fn retire(&self) -> Option<Client> {
        self.over.store(true, Ordering::SeqCst);
        lock(&self.client).take()
    }

    /// An answer came to what was sent then. Only what goes through the leader counts: reads are
    /// answered by a server that is cut off from the others for seconds after it is.
    pub(super) fn hear(&self, sent: Duration) {
        if sent < Duration::MAX {
            self.heard.fetch_max(nanos(sent), Ordering::SeqCst);
        }
    }

    /// Time since the sending of the last request that was answered.
    pub(super) fn silence(&self) -> Duration {
        let heard = Duration::from_nanos(self.heard.load(Ordering::SeqCst));
        clock::now().saturating_sub(heard)
    }

    /// From when on claims are in doubt.
    pub(super) fn doubt(&self) -> Duration {
        self.timeout * 2 / 3
    }

    /// How it stands now.
    pub(super) fn standing(&self) -> Session {
        let (id, silence) = (self.id, self.silence());
        if silence >= self.timeout {
            self.over.store(true, Ordering::SeqCst);
        }
        match self.over.load(Ordering::SeqCst) {
            true => Session::Lost { id },
            false if silence >= self.doubt() => Session::Doubtful { id },
            false => Session::Live { id },
        }
    }

    /// Takes note of what the client says of its connection.
    pub(super) fn note(&self, state: SessionState) {
        if is_connected(state) {
            *lock(&self.away) = None;
        } else {
            lock(&self.away).get_or_insert_with(Instant::now);
        }
    }

    /// Since when there is no connection; now, if nobody has taken note of it yet.
    pub(super) fn away_since(&self) -> Instant {
        lock(&self.away).unwrap_or_else(Instant::now)
    }
}

/// Whether requests are taken.
pub(super) fn is_connected(state: SessionState) -> bool {
    state == SessionState::SyncConnected
}

/// Whether the session is over for its client.
pub(super) fn is_over(state: SessionState) -> bool {
    use SessionState::{AuthFailed, Closed, Expired};
    matches!(state, Expired | AuthFailed | Closed)
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Locks, whatever a thread that panicked has left: all changes under these locks are single steps.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
