//! The order of commits: applied in memory at once, written by one thread in groups, answered
//! when durable. What is on disk is always a prefix of that order.

use std::collections::VecDeque;
use std::mem;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use tokio::sync::oneshot;

use super::disk::{Disk, Failure, Loaded, Outcome, Work};
use super::lock;
use crate::backend::entries::{self, Entries, Undo};
use crate::backend::watches::Watches;
use crate::storage::listeners::Listeners;
use crate::storage::{Change, Commit, Error, Op, Result, Updated};

/// Most work that may wait, pieces: far more than all readers of a mount can have in flight. Past
/// it a caller is told at once instead of waiting behind a disk that does not keep up.
const QUEUE_MAX: usize = 65_536;

/// Most bytes that may wait: four of the largest records' changes.
const QUEUE_BYTES_MAX: u64 = 64 << 20;

/// Most bytes in one transaction, so that a group of small commits does not wait for minutes of
/// large ones; one piece of work may be larger.
const GROUP_BYTES_MAX: u64 = 4 << 20;

/// Bits of a position that count within one opening of the store; the epoch stands above them.
const POSITION_BITS: u32 = 40;

/// Bytes counted for a piece of work beside its own.
const WORK_BYTES: u64 = 128;

/// What a commit's entries were before, and what watchers will be told of it.
type Changes = (Undo, Vec<(Box<str>, Change)>);

/// What waits to be written.
struct Queued {
    work: Work,
    bytes: u64,
    /// What the entries were before.
    undo: Undo,
    /// What watchers are told once it is durable.
    events: Vec<(Box<str>, Change)>,
    what: String,
    done: oneshot::Sender<Result<Outcome>>,
}

/// Everything under the one lock.
pub(super) struct State {
    pub(super) entries: Entries,
    pub(super) watches: Watches,
    queue: VecDeque<Queued>,
    queued_bytes: u64,
    /// Whether a group is being written.
    writing: bool,
    closing: bool,
    /// Position of the next commit.
    position: u64,
}

/// The entries, the queue and the disk.
pub(super) struct Committer {
    state: Mutex<State>,
    wake: Condvar,
    pub(super) disk: Disk,
    /// Who is told of records that changed.
    listeners: Arc<Listeners>,
}

/// A commit that was accepted.
pub(super) enum Accepted {
    /// It ended already.
    Ended(Commit),
    /// It ends when this says so.
    Waits(oneshot::Receiver<Result<Outcome>>),
}

impl Committer {
    /// With what was read from the disk.
    pub(super) fn new(disk: Disk, loaded: Loaded, listeners: Arc<Listeners>) -> Committer {
        let state = State {
            entries: Entries::new(loaded.nodes),
            watches: Watches::default(),
            queue: VecDeque::new(),
            queued_bytes: 0,
            writing: false,
            closing: false,
            position: (loaded.epoch << POSITION_BITS) + 1,
        };
        Committer {
            state: Mutex::new(state),
            wake: Condvar::new(),
            disk,
            listeners,
        }
    }

    /// Looks at the entries.
    pub(super) fn state<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut lock(&self.state))
    }

    /// Applies a commit in memory and queues its rows. A commit that leaves nothing to write
    /// waits only for those before it.
    pub(super) fn commit(&self, what: String, ops: Vec<Op>) -> Result<Accepted> {
        let mut guard = lock(&self.state);
        let state = &mut *guard;
        state.check_room(&what)?;
        let applied = match state.entries.apply(ops, state.position) {
            Ok(applied) => applied,
            Err(index) => return Ok(Accepted::Ended(Commit::Mismatch { index })),
        };
        state.position += 1;
        if applied.rows.is_empty() && state.queue.is_empty() && !state.writing {
            state.tell(applied.events);
            return Ok(Accepted::Ended(Commit::Done));
        }
        let data = |node: &entries::Node| node.data.len();
        let size = |(path, node): &entries::Row| path.len() + node.as_ref().map_or(0, data);
        let bytes = applied.rows.iter().map(size).sum::<usize>() as u64;
        let waits = state.push(
            Work::Rows(applied.rows, applied.ends),
            bytes,
            (applied.undo, applied.events),
            what,
        );
        self.wake.notify_one();
        Ok(Accepted::Waits(waits))
    }

    /// Queues work on records, behind every commit before it.
    pub(super) fn queue(&self, what: String, work: Work, bytes: u64) -> Result<oneshot::Receiver<Result<Outcome>>> {
        let mut state = lock(&self.state);
        state.check_room(&what)?;
        let waits = state.push(work, bytes, Default::default(), what);
        self.wake.notify_one();
        Ok(waits)
    }

    /// Lets the thread end when the queue is empty.
    pub(super) fn close(&self) {
        lock(&self.state).closing = true;
        self.wake.notify_all();
    }

    /// The committing thread.
    pub(super) fn run(&self) {
        while let Some(group) = self.take() {
            self.write(group);
        }
    }

    /// Takes the next group; `None` when the store closes.
    fn take(&self) -> Option<Vec<Queued>> {
        let mut state = lock(&self.state);
        state.writing = false;
        while state.queue.is_empty() {
            if state.closing {
                return None;
            }
            state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.writing = true;
        let mut group = Vec::new();
        let mut bytes = 0;
        while bytes < GROUP_BYTES_MAX
            && let Some(next) = state.queue.pop_front()
        {
            bytes += next.bytes;
            group.push(next);
        }
        state.queued_bytes -= bytes;
        Some(group)
    }

    fn write(&self, mut group: Vec<Queued>) {
        let empty = |queued: &Queued| matches!(&queued.work, Work::Rows(rows, _) if rows.is_empty());
        let written = if group.iter().all(empty) {
            Ok(group.iter().map(|_| Outcome::Done).collect())
        } else {
            let works: Vec<&Work> = group.iter().map(|queued| &queued.work).collect();
            let bytes = group.iter().map(|queued| queued.bytes).sum();
            self.disk.write(&works, bytes)
        };
        let outcomes = match written {
            Ok(outcomes) => outcomes,
            Err(failure) => return self.fail(group, &failure),
        };
        self.state(|state| {
            for queued in &mut group {
                state.tell(mem::take(&mut queued.events));
            }
        });
        for (queued, outcome) in group.into_iter().zip(outcomes) {
            match (&queued.work, &outcome) {
                (Work::Rows(..), _) | (_, Outcome::Updated(Updated::Mismatch { .. })) => {}
                (Work::Update { name, .. } | Work::Remove { name }, _) => self.listeners.tell(name),
            }
            let _gone = queued.done.send(Ok(outcome));
        }
    }

    /// Takes back in memory what could not be written and everything built upon it, newest
    /// first, so that memory is what the disk has.
    fn fail(&self, group: Vec<Queued>, failure: &Failure) {
        let mut failed = Vec::new();
        {
            let mut guard = lock(&self.state);
            let state = &mut *guard;
            let later = mem::take(&mut state.queue);
            state.queued_bytes = 0;
            let all: Vec<Queued> = group.into_iter().chain(later).collect();
            for queued in all.into_iter().rev() {
                let events = state.entries.revert(queued.undo);
                // Whoever read what never was reads again.
                state.tell(events);
                failed.push((queued.done, queued.what));
            }
        }
        for (done, what) in failed.into_iter().rev() {
            let error = match failure.clone() {
                Failure::Full(why) => Error::Full { what, why },
                Failure::Broken(why) => Error::Indeterminate { what, why },
                Failure::Closed(why) => Error::Unavailable { what, why },
            };
            let _gone = done.send(Err(error));
        }
    }
}

impl State {
    fn check_room(&self, what: &str) -> Result<()> {
        if self.queue.len() < QUEUE_MAX && self.queued_bytes < QUEUE_BYTES_MAX {
            return Ok(());
        }
        let why = "too much waits for the disk; try again later".to_owned();
        Err(Error::Unavailable {
            what: what.to_owned(),
            why,
        })
    }

    /// Tells watchers of what is durable.
    fn tell(&mut self, events: Vec<(Box<str>, Change)>) {
        for (path, change) in events {
            self.watches.notify(&path, change);
        }
    }

    fn push(&mut self, work: Work, bytes: u64, applied: Changes, what: String) -> oneshot::Receiver<Result<Outcome>> {
        let (done, waits) = oneshot::channel();
        let bytes = bytes + WORK_BYTES;
        let (undo, events) = applied;
        self.queued_bytes += bytes;
        self.queue.push_back(Queued {
            work,
            bytes,
            undo,
            events,
            what,
            done,
        });
        waits
    }
}
