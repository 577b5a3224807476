//! Servers in memory, and mounts on them, for tests: both stores in one process, with no folder, no
//! thread and no server.
//!
//! It is stricter than the others, so that what works on it works on them:
//! - no call takes effect before it was polled twice, and its answer comes later than its effect;
//! - a mount reads what it has seen, and that is behind the others until it commits or syncs;
//! - notices come from a task of their own, in order, about [`LAG`] after what they tell of;
//! - what was put or appended is lost in a [`Memory::crash`] unless it was synced;
//! - a mount that is dropped leaves its session behind, with all that is ephemeral in it, until that
//!   times out; one that is cut off goes on by itself, and what its calls did is not told to it;
//! - blobs have the marks of gc as on RADOS, and no id of a session comes again.

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::storage::listeners::Listeners;
use crate::storage::{Contents, Coordination, Session};

mod contents;
mod coordination;
mod coordinator;
mod objects;
mod seat;
#[cfg(test)]
mod tests;

use coordinator::Coordinator;
use objects::Objects;
use seat::Seat;

/// How much later than its commit a change is seen and told on other mounts.
const LAG: Duration = Duration::from_millis(1);

/// How long a session outlives what was last heard of its mount, unless a test says otherwise.
const SESSION_TIMEOUT: Duration = Duration::from_secs(10);

/// The servers; clones are the same ones.
#[derive(Clone)]
pub struct Memory(Arc<Servers>);

/// What all mounts share.
struct Servers {
    state: Mutex<State>,
    /// Tells when there is something to see or to tell.
    changed: watch::Sender<()>,
    session_timeout: Duration,
}

/// Everything, under the one lock.
struct State {
    coordinator: Coordinator,
    objects: Objects,
    /// The mounts, by number.
    seats: HashMap<u64, Seat>,
    next_seat: u64,
}

/// A mount on the servers; clones are the same one. It is both stores.
#[derive(Clone)]
pub struct MemoryMount(Arc<Handle>);

/// The link between a mount and the coordinator.
pub struct Link {
    servers: Arc<Servers>,
    seat: u64,
}

/// A mount. Dropping it is what the end of a process is: nobody takes leave.
struct Handle {
    servers: Arc<Servers>,
    /// Its number.
    seat: u64,
    session: watch::Sender<Session>,
    listeners: Listeners,
    /// The mark of what is put now.
    epoch: AtomicU64,
}

impl Default for Memory {
    fn default() -> Self {
        Memory::new()
    }
}

impl Memory {
    /// New servers with nothing on them.
    pub fn new() -> Memory {
        Memory::with_session_timeout(SESSION_TIMEOUT)
    }

    /// The same, whose sessions time out after this.
    pub fn with_session_timeout(session_timeout: Duration) -> Memory {
        Memory::from(Coordinator::new(), Objects::default(), session_timeout)
    }

    fn from(coordinator: Coordinator, objects: Objects, session_timeout: Duration) -> Memory {
        let state = State {
            coordinator,
            objects,
            seats: HashMap::new(),
            next_seat: 0,
        };
        Memory(Arc::new(Servers {
            state: Mutex::new(state),
            changed: watch::Sender::new(()),
            session_timeout,
        }))
    }

    /// A new mount, which lives in the runtime that this is called in.
    pub fn mount(&self) -> MemoryMount {
        let mut state = self.0.state();
        let session = state.coordinator.begin();
        let seat = state.next_seat;
        state.next_seat += 1;
        let seen = Seat::new(&state.coordinator, session);
        state.seats.insert(seat, seen);
        drop(state);
        let handle = Arc::new(Handle {
            servers: self.0.clone(),
            seat,
            session: watch::Sender::new(Session::Live { id: session }),
            listeners: Listeners::default(),
            epoch: AtomicU64::new(0),
        });
        tokio::spawn(keep(Arc::downgrade(&handle), self.0.changed.subscribe()));
        MemoryMount(handle)
    }

    /// The servers as they are after a power cut: what is durable is there and nothing else, and all
    /// sessions are over. The mounts stay where they are, on what is gone.
    #[must_use]
    pub fn crash(&self) -> Memory {
        let state = self.0.state();
        let (coordinator, objects) = (state.coordinator.crash(), state.objects.crash());
        Memory::from(coordinator, objects, self.0.session_timeout)
    }
}

impl MemoryMount {
    /// It as a coordination service.
    pub fn coordination(&self) -> Arc<dyn Coordination> {
        Arc::new(self.clone())
    }

    /// It as a store of contents.
    pub fn contents(&self) -> Arc<dyn Contents> {
        Arc::new(self.clone())
    }

    /// Its link to the coordinator, which keeps nothing alive.
    pub fn link(&self) -> Link {
        Link {
            servers: self.0.servers.clone(),
            seat: self.0.seat,
        }
    }

    /// Has the coordinator end its session now; a new one follows.
    pub fn expire(&self) {
        let handle = &self.0;
        let mut state = handle.servers.state();
        if let Some(session) = state.seats.get(&handle.seat).map(Seat::session) {
            state.end(session);
        }
        drop(state);
        handle.publish();
        handle.servers.tell_mounts();
    }
}

impl Link {
    /// Cuts the mount off from the coordinator, not from the contents: calls that are under way are not
    /// answered, later ones are not sent.
    pub fn cut(&self) {
        self.servers.state().cut(self.seat, self.servers.session_timeout);
        self.servers.tell_mounts();
    }

    /// Lets it through again.
    pub fn heal(&self) {
        self.servers.state().heal(self.seat, self.servers.session_timeout);
        self.servers.tell_mounts();
    }
}

impl Servers {
    fn state(&self) -> MutexGuard<'_, State> {
        // All changes under the lock are made before anything can fail.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has every mount look what there is to see.
    fn tell_mounts(&self) {
        self.changed.send_replace(());
    }
}

impl Handle {
    /// Sees and tells what others did, lets sessions end whose time is over, and says when to do so
    /// at the latest if nothing happens.
    fn turn(&self) -> Option<Instant> {
        let now = Instant::now();
        let timeout = self.servers.session_timeout;
        let mut state = self.servers.state();
        state.end_overdue(now);
        let changed = state.see(self.seat);
        let follows = state.begin_anew(self.seat, now, timeout);
        let doubt = state.seats.get(&self.seat)?.next_doubt(now, timeout);
        let next = [state.coordinator.next_end(), doubt];
        drop(state);
        if follows {
            self.servers.tell_mounts();
        }
        self.publish();
        for name in changed {
            self.listeners.tell(&name);
        }
        next.into_iter().flatten().min()
    }

    /// Tells how the session stands now.
    fn publish(&self) {
        let mut guard = self.servers.state();
        let state = &mut *guard;
        let Some(seat) = state.seats.get_mut(&self.seat) else {
            return;
        };
        let now = seat.standing(&state.coordinator, Instant::now(), self.servers.session_timeout);
        // Within the lock: of two states the later one is told last.
        self.session
            .send_if_modified(|told| std::mem::replace(told, now) != now);
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let mut state = self.servers.state();
        if let Some(seat) = state.seats.remove(&self.seat) {
            let end = Instant::now() + self.servers.session_timeout;
            state.coordinator.leave(seat.session(), end);
        }
        drop(state);
        self.servers.tell_mounts();
    }
}

/// Keeps a mount up with the others as long as it is there.
async fn keep(mount: Weak<Handle>, mut changed: watch::Receiver<()>) {
    loop {
        let Some(next) = mount.upgrade().map(|mount| mount.turn()) else {
            return;
        };
        let told = match next {
            Some(at) => tokio::time::timeout_at(at, changed.changed()).await.unwrap_or(Ok(())),
            None => changed.changed().await,
        };
        if told.is_err() {
            return;
        }
        tokio::time::sleep(LAG).await;
    }
}
