//! Telling other mounts of changes, and hearing of theirs, by watch and notify of RADOS.
//!
//! Records and consoles are spread over a few objects of this backend's own, the *notification channels*.
//! Who changed one publishes in its channel: a notice with the names of what changed, sent after the change
//! can be seen. Who listens to one watches its channel: so an object need not be there to be listened to,
//! and a mount has a bounded number of watches, however much it listens to.
//!
//! No change waits for a channel. Each has a notice every few milliseconds at most, less often where nobody
//! hears it; what changes meanwhile goes with the next one. A watcher that does not answer holds
//! up nothing: a notice that it missed is published again until it answers or is given up by the
//! cluster. Whoever was cut off for longer loses its watch, and is told that anything may have
//! changed when it has a new one.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::errno::Errno;

use self::publisher::{Names, Publisher};
use self::subscriber::Subscriber;
use super::rados::{Heard, Outcome, Pool, Standstill, Watch, Write};
use crate::storage::listeners::Listeners;
use crate::storage::{Notices, Object, Result};

mod publisher;
mod subscriber;

/// Channels of records and channels of consoles, as many of each: mounts listen to nearly all records and
/// to few consoles, and should not be woken by the others.
const CHANNELS_OF_EACH: usize = 16;

/// How long a watcher has to answer a notice; whole seconds.
const ANSWER_TIME: Duration = Duration::from_secs(1);

/// Seconds after which the cluster forgets a watcher that is away.
const WATCH_SECONDS: u32 = 10;

/// How often it is looked which channels are still listened to, and whether the cluster confirms them.
const TICK: Duration = Duration::from_secs(1);

/// All channels, and the thread that serves them.
pub(super) struct Channels {
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
    channels: Vec<Channel>,
    closed: bool,
    ticked: Instant,
}

/// One channel.
struct Channel {
    object: String,
    publisher: Publisher,
    subscriber: Subscriber,
}

/// What the thread has to do.
enum Task {
    /// Publish these names in a channel.
    Publish(usize, Names),
    /// Watch it.
    Watch(usize),
    /// Make it.
    Make(usize),
    /// End its watch: dropping it does.
    End(Watch),
}

/// The number of an object's channel.
fn channel_of(name: &str) -> usize {
    // FNV-1a: the same on all mounts and versions.
    let hash = name.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    let group = usize::from(name.starts_with("console."));
    group * CHANNELS_OF_EACH + hash as usize % CHANNELS_OF_EACH
}

/// The name of an object's channel.
#[cfg(test)]
pub(super) fn channel_object(name: &str) -> String {
    channel_name(channel_of(name))
}

fn channel_name(number: usize) -> String {
    // The stored name is the one that mounts of earlier versions share with this one.
    let group = ["record", "console"][number / CHANNELS_OF_EACH];
    format!("distcifs/bell.{group}.{}", number % CHANNELS_OF_EACH)
}

/// The names of all channels.
pub(super) fn channel_names() -> impl Iterator<Item = String> + Clone {
    (0..2 * CHANNELS_OF_EACH).map(channel_name)
}

impl Channels {
    /// Makes them, and starts the thread.
    pub(super) fn new(pool: Pool, standstill: Standstill) -> std::io::Result<Channels> {
        let now = Instant::now();
        let channels = channel_names().map(|object| Channel {
            object,
            publisher: Publisher::default(),
            subscriber: Subscriber::new(now),
        });
        let state = State {
            channels: channels.collect(),
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
            .name("ceph-channels".to_owned())
            .spawn(move || serving.serve(&pool, &standstill))?;
        Ok(Channels {
            shared,
            thread: Some(thread),
        })
    }

    /// Listens to an object; returns when no change is missed any more.
    pub(super) async fn listen(&self, object: &Object) -> Result<Notices> {
        let notices = self.shared.listeners.listen(object)?;
        let channel = channel_of(&object.to_string());
        let mut stands = self.shared.state().channels[channel].subscriber.want();
        self.shared.wake.notify_one();
        // The sender lives as long as the channels.
        let _stands = stands.wait_for(|stands| *stands).await;
        Ok(notices)
    }

    /// What to call when an object may have changed, from any thread.
    pub(super) fn notifier(&self, name: &str) -> impl FnOnce() + Send + 'static {
        let (shared, name) = (Arc::clone(&self.shared), name.to_owned());
        move || shared.changed(&name)
    }
}

impl Drop for Channels {
    fn drop(&mut self) {
        self.shared.state().closed = true;
        self.shared.wake.notify_one();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread of the channels ended in a panic");
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self, name: &str) {
        self.listeners.tell(name);
        if self.state().channels[channel_of(name)].publisher.add(name) {
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
                let doubtful = state.channels.iter().any(|channel| channel.subscriber.is_doubtful());
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
        let watches: Vec<Watch> = state
            .channels
            .iter_mut()
            .filter_map(|channel| channel.subscriber.close())
            .collect();
        drop(state);
        drop(watches);
    }

    /// Looks which channels are listened to, and whether the cluster confirms their watches.
    fn tick(&self, state: &mut State, now: Instant) {
        let mut wanted = [false; 2 * CHANNELS_OF_EACH];
        self.listeners.each(|name| wanted[channel_of(name)] = true);
        for (channel, wanted) in state.channels.iter_mut().zip(wanted) {
            channel.subscriber.wanted(wanted, now);
        }
        for number in 0..state.channels.len() {
            if state.channels[number].subscriber.came_back() {
                self.tell_all(number);
            }
        }
    }

    /// Tells all that listen at a channel: anything may have changed.
    fn tell_all(&self, channel: usize) {
        self.listeners.tell_those(|name| channel_of(name) == channel);
    }

    fn perform(self: &Arc<Self>, pool: &Pool, task: Task) {
        let shared = Arc::clone(self);
        match task {
            Task::Publish(channel, names) => {
                let object = &self.state().channels[channel].object.clone();
                let bytes = names.to_bytes();
                let own = self.own;
                let told = move |answer: Outcome<Vec<u64>>| {
                    let heard = answer.map(|from| from.iter().any(|from| *from != own));
                    shared.state().channels[channel]
                        .publisher
                        .published(heard, names, Instant::now());
                    shared.wake.notify_one();
                };
                pool.notify(object, &bytes, ANSWER_TIME, told);
            }
            Task::Watch(channel) => {
                let (object, round) = {
                    let state = self.state();
                    (
                        state.channels[channel].object.clone(),
                        state.channels[channel].subscriber.round(),
                    )
                };
                let receiving = Arc::clone(self);
                let receive = move |heard: Heard<'_>| receiving.heard(channel, round, &heard);
                pool.watch(&object, WATCH_SECONDS, receive, move |watch| {
                    shared.watched(channel, watch)
                });
            }
            Task::Make(channel) => {
                let object = self.state().channels[channel].object.clone();
                pool.write_alone(&object, Write::new().make(), move |made| {
                    shared.state().channels[channel]
                        .subscriber
                        .made(made.is_ok(), Instant::now());
                    shared.wake.notify_one();
                });
            }
            Task::End(watch) => drop(watch),
        }
    }

    /// A watch was asked for, and this is the answer.
    fn watched(&self, channel: usize, watch: Outcome<Watch>) {
        let (again, useless) = {
            let mut state = self.state();
            let closed = state.closed;
            match watch {
                Ok(watch) if closed => (false, Some(watch)),
                watch => (state.channels[channel].subscriber.watched(watch, Instant::now()), None),
            }
        };
        drop(useless);
        if again {
            self.tell_all(channel);
        }
        self.wake.notify_one();
    }

    /// Something reached a watch of ours.
    fn heard(&self, channel: usize, round: u64, heard: &Heard<'_>) {
        match heard {
            Heard::Notice { from, .. } if *from == self.own => {}
            Heard::Notice { bytes, .. } => match Names::from_bytes(bytes) {
                Some(names) => names.for_each(|name| self.listeners.tell(name)),
                None => self.tell_all(channel),
            },
            Heard::Lost(errno) => {
                tracing::debug!(channel, %errno, "a watch is lost; asking for another");
                self.state().channels[channel].subscriber.lost(round);
                self.wake.notify_one();
            }
        }
    }
}

impl State {
    /// What is to be done now, and when to look again.
    fn due(&mut self, now: Instant) -> (Vec<Task>, Instant) {
        let (mut tasks, mut next) = (Vec::new(), self.ticked + TICK);
        for (number, channel) in self.channels.iter_mut().enumerate() {
            match channel.publisher.due(now) {
                Ok(Some(names)) => tasks.push(Task::Publish(number, names)),
                Ok(None) => {}
                Err(later) => next = next.min(later),
            }
            match channel.subscriber.due(now) {
                subscriber::Due::Nothing => {}
                subscriber::Due::Later(later) => next = next.min(later),
                subscriber::Due::Watch => tasks.push(Task::Watch(number)),
                subscriber::Due::Make => tasks.push(Task::Make(number)),
                subscriber::Due::End(watch) => tasks.push(Task::End(watch)),
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
