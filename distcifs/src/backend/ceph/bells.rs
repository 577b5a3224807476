//! Telling other mounts of changes, and hearing of theirs, by watch and notify of RADOS.
//!
//! Records and consoles are spread over a few objects of this backend's own, the *bells*. Who
//! changed one rings its bell: a notice with the names of what changed, sent after the change can
//! be seen. Who listens to one watches its bell: so an object need not be there to be listened to,
//! and a mount has a bounded number of watches, however much it listens to.
//!
//! No change waits for a bell. Each rings every few milliseconds at most, less often where nobody
//! hears it; what changes meanwhile goes with the next ring. A watcher that does not answer holds
//! up nothing: a notice that it missed is rung again until it answers or is given up by the
//! cluster. Whoever was cut off for longer loses its watch, and is told that anything may have
//! changed when it has a new one.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::errno::Errno;

use self::hearing::Hearing;
use self::ringing::{Names, Ringing};
use super::rados::{Heard, Outcome, Pool, Standstill, Watch, Write};
use crate::storage::listeners::Listeners;
use crate::storage::{Notices, Object, Result};

mod hearing;
mod ringing;

/// Bells of records and bells of consoles, as many of each: mounts listen to nearly all records and
/// to few consoles, and should not be woken by the others.
const BELLS_OF_EACH: usize = 16;

/// How long a watcher has to answer a notice; whole seconds.
const ANSWER_TIME: Duration = Duration::from_secs(1);

/// Seconds after which the cluster forgets a watcher that is away.
const WATCH_SECONDS: u32 = 10;

/// How often it is looked which bells are still listened to, and whether the cluster confirms them.
const TICK: Duration = Duration::from_secs(1);

/// All bells, and the thread that serves them.
pub(super) struct Bells {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    listeners: Listeners,
    state: Mutex<State>,
    wake: Condvar,
    /// The number of this connection.
    own: u64,
}

struct State {
    bells: Vec<Bell>,
    closed: bool,
    ticked: Instant,
}

/// One bell.
struct Bell {
    object: String,
    ringing: Ringing,
    hearing: Hearing,
}

/// What the thread has to do.
enum Task {
    /// Ring a bell with these names.
    Ring(usize, Names),
    /// Watch it.
    Watch(usize),
    /// Make it.
    Make(usize),
    /// End its watch: dropping it does.
    End(Watch),
}

/// The number of an object's bell.
fn bell_of(name: &str) -> usize {
    // FNV-1a: the same on all mounts and versions.
    let hash = name.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    let group = usize::from(name.starts_with("console."));
    group * BELLS_OF_EACH + hash as usize % BELLS_OF_EACH
}

/// The name of an object's bell.
#[cfg(test)]
pub(super) fn bell_object(name: &str) -> String {
    bell_name(bell_of(name))
}

fn bell_name(number: usize) -> String {
    let group = ["record", "console"][number / BELLS_OF_EACH];
    format!("distcifs/bell.{group}.{}", number % BELLS_OF_EACH)
}

/// The names of all bells.
pub(super) fn bell_names() -> impl Iterator<Item = String> + Clone {
    (0..2 * BELLS_OF_EACH).map(bell_name)
}

impl Bells {
    /// Hangs them up.
    pub(super) fn new(pool: Pool, standstill: Standstill) -> std::io::Result<Bells> {
        let now = Instant::now();
        let bells = bell_names().map(|object| Bell {
            object,
            ringing: Ringing::default(),
            hearing: Hearing::new(now),
        });
        let state = State {
            bells: bells.collect(),
            closed: false,
            ticked: now,
        };
        let shared = Arc::new(Shared {
            listeners: Listeners::default(),
            state: Mutex::new(state),
            wake: Condvar::new(),
            own: pool.id(),
        });
        let serving = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("ceph-bells".to_owned())
            .spawn(move || serving.serve(&pool, &standstill))?;
        Ok(Bells {
            shared,
            thread: Some(thread),
        })
    }

    /// Listens to an object; returns when no change is missed any more.
    pub(super) async fn listen(&self, object: &Object) -> Result<Notices> {
        let notices = self.shared.listeners.listen(object)?;
        let bell = bell_of(&object.to_string());
        let mut stands = self.shared.state().bells[bell].hearing.want();
        self.shared.wake.notify_one();
        // The sender lives as long as the bells.
        let _stands = stands.wait_for(|stands| *stands).await;
        Ok(notices)
    }

    /// What to call when an object may have changed, from any thread.
    pub(super) fn ringer(&self, name: &str) -> impl FnOnce() + Send + 'static {
        let (shared, name) = (Arc::clone(&self.shared), name.to_owned());
        move || shared.changed(&name)
    }
}

impl Drop for Bells {
    fn drop(&mut self) {
        self.shared.state().closed = true;
        self.shared.wake.notify_one();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread of the bells ended in a panic");
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self, name: &str) {
        self.listeners.tell(name);
        if self.state().bells[bell_of(name)].ringing.add(name) {
            self.wake.notify_one();
        }
    }

    /// The thread. What it asks librados for is answered on other threads.
    fn serve(self: Arc<Self>, pool: &Pool, standstill: &Standstill) {
        let mut state = self.state();
        while !state.closed {
            let now = Instant::now();
            if now.duration_since(state.ticked) >= TICK {
                state.ticked = now;
                self.tick(&mut state, now);
                let doubtful = state.bells.iter().any(|bell| bell.hearing.is_doubtful());
                if doubtful && standstill.is_due() {
                    drop(state);
                    standstill.end();
                    state = self.state();
                }
            }
            let (tasks, next) = state.due(now);
            if tasks.is_empty() {
                let pause = next.saturating_duration_since(now);
                let woken = self.wake.wait_timeout(state, pause);
                state = woken.unwrap_or_else(PoisonError::into_inner).0;
                continue;
            }
            drop(state);
            for task in tasks {
                self.perform(pool, task);
            }
            state = self.state();
        }
        let watches: Vec<Watch> = state.bells.iter_mut().filter_map(|bell| bell.hearing.close()).collect();
        drop(state);
        drop(watches);
    }

    /// Looks which bells are listened to, and whether the cluster confirms their watches.
    fn tick(&self, state: &mut State, now: Instant) {
        let mut wanted = [false; 2 * BELLS_OF_EACH];
        self.listeners.each(|name| wanted[bell_of(name)] = true);
        for (bell, wanted) in state.bells.iter_mut().zip(wanted) {
            bell.hearing.wanted(wanted, now);
        }
        for number in 0..state.bells.len() {
            if state.bells[number].hearing.came_back() {
                self.tell_all(number);
            }
        }
    }

    /// Tells all that listen at a bell: anything may have changed.
    fn tell_all(&self, bell: usize) {
        self.listeners.tell_those(|name| bell_of(name) == bell);
    }

    fn perform(self: &Arc<Self>, pool: &Pool, task: Task) {
        let shared = Arc::clone(self);
        match task {
            Task::Ring(bell, names) => {
                let object = &self.state().bells[bell].object.clone();
                let bytes = names.to_bytes();
                let own = self.own;
                let told = move |answer: Outcome<Vec<u64>>| {
                    let heard = answer.map(|from| from.iter().any(|from| *from != own));
                    shared.state().bells[bell].ringing.rung(heard, names, Instant::now());
                    shared.wake.notify_one();
                };
                pool.notify(object, &bytes, ANSWER_TIME, told);
            }
            Task::Watch(bell) => {
                let (object, round) = {
                    let state = self.state();
                    (state.bells[bell].object.clone(), state.bells[bell].hearing.round())
                };
                let hearing = Arc::clone(self);
                let ear = move |heard: Heard<'_>| hearing.heard(bell, round, &heard);
                pool.watch(&object, WATCH_SECONDS, ear, move |watch| shared.watched(bell, watch));
            }
            Task::Make(bell) => {
                let object = self.state().bells[bell].object.clone();
                pool.write_alone(&object, Write::new().make(), move |made| {
                    shared.state().bells[bell].hearing.made(made.is_ok(), Instant::now());
                    shared.wake.notify_one();
                });
            }
            Task::End(watch) => drop(watch),
        }
    }

    /// A watch was asked for, and this is the answer.
    fn watched(&self, bell: usize, watch: Outcome<Watch>) {
        let (again, useless) = {
            let mut state = self.state();
            let closed = state.closed;
            match watch {
                Ok(watch) if closed => (false, Some(watch)),
                watch => (state.bells[bell].hearing.watched(watch, Instant::now()), None),
            }
        };
        drop(useless);
        if again {
            self.tell_all(bell);
        }
        self.wake.notify_one();
    }

    /// Something reached a watch of ours.
    fn heard(&self, bell: usize, round: u64, heard: &Heard<'_>) {
        match heard {
            Heard::Notice { from, .. } if *from == self.own => {}
            Heard::Notice { bytes, .. } => match Names::from_bytes(bytes) {
                Some(names) => names.for_each(|name| self.listeners.tell(name)),
                None => self.tell_all(bell),
            },
            Heard::Lost(errno) => {
                tracing::debug!(bell, %errno, "a watch is lost; asking for another");
                self.state().bells[bell].hearing.lost(round);
                self.wake.notify_one();
            }
        }
    }
}

impl State {
    /// What is to be done now, and when to look again.
    fn due(&mut self, now: Instant) -> (Vec<Task>, Instant) {
        let (mut tasks, mut next) = (Vec::new(), self.ticked + TICK);
        for (number, bell) in self.bells.iter_mut().enumerate() {
            match bell.ringing.due(now) {
                Ok(Some(names)) => tasks.push(Task::Ring(number, names)),
                Ok(None) => {}
                Err(later) => next = next.min(later),
            }
            match bell.hearing.due(now) {
                hearing::Due::Nothing => {}
                hearing::Due::Later(later) => next = next.min(later),
                hearing::Due::Watch => tasks.push(Task::Watch(number)),
                hearing::Due::Make => tasks.push(Task::Make(number)),
                hearing::Due::End(watch) => tasks.push(Task::End(watch)),
            }
        }
        (tasks, next)
    }
}

/// Whether a change that ended so may have happened.
pub(super) fn may_have_happened(ended: Outcome<()>) -> bool {
    let refused = [
        Errno::ECANCELED,
        Errno::EEXIST,
        Errno::ENOENT,
        Errno::ENOSPC,
        Errno::EDQUOT,
        Errno::EPERM,
    ];
    !ended.is_err_and(|errno| refused.contains(&errno))
}
