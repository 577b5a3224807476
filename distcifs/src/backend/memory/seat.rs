//! What one mount has seen of the coordinator, and what is still on its way there.

use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::State;
use super::coordinator::Coordinator;
use crate::backend::entries::Entries;
use crate::backend::watches::Watches;
use crate::storage::{Change, Op, Session};

/// A mount, as the servers know it.
pub(super) struct Seat {
    /// The entries as it sees them.
    pub(super) entries: Entries,
    pub(super) watches: Watches,
    /// Commits that it has not seen, with their positions.
    commits: VecDeque<(u64, Arc<[Op]>)>,
    /// What it has seen and not told.
    events: Vec<(Box<str>, Change)>,
    /// Records and consoles of whose change it has not heard.
    changed: Vec<String>,
    session: u64,
    /// Since when it is cut off.
    cut: Option<Instant>,
    /// Whether it has given its session up by its own clock.
    over: bool,
    /// Whether it was let through again and has not looked since.
    missed: bool,
}

impl Seat {
    /// One that sees what is there now.
    pub(super) fn new(coordinator: &Coordinator, session: u64) -> Seat {
        Seat {
            entries: coordinator.entries().clone(),
            watches: Watches::default(),
            commits: VecDeque::new(),
            events: Vec::new(),
            changed: Vec::new(),
            session,
            cut: None,
            over: false,
            missed: false,
        }
    }

    /// Its session, over or not.
    pub(super) fn session(&self) -> u64 {
        self.session
    }

    /// Whether it is cut off from the coordinator.
    pub(super) fn is_cut(&self) -> bool {
        self.cut.is_some()
    }

    /// The session that it may commit in.
    pub(super) fn live(&self, coordinator: &Coordinator) -> Option<u64> {
        (!self.over && coordinator.lives(self.session)).then_some(self.session)
    }

    /// How its session stands by its own clock, which is before the coordinator's. What is lost stays so.
    pub(super) fn standing(&mut self, coordinator: &Coordinator, now: Instant, timeout: Duration) -> Session {
        let id = self.session;
        let silence = self.cut.map(|cut| now.saturating_duration_since(cut));
        self.over |= silence.map_or(!coordinator.lives(id), |silence| silence >= timeout);
        match silence {
            _ if self.over => Session::Lost { id },
            Some(silence) if silence >= doubt(timeout) => Session::Doubtful { id },
            None | Some(_) => Session::Live { id },
        }
    }

    /// When it stands otherwise, though nothing happens.
    pub(super) fn next_doubt(&self, now: Instant, timeout: Duration) -> Option<Instant> {
        let ends = |cut| [cut + doubt(timeout), cut + timeout];
        self.cut.map(ends)?.into_iter().find(|end| *end > now)
    }

    /// Sees every commit up to now.
    pub(super) fn catch_up(&mut self) {
        for (position, ops) in mem::take(&mut self.commits) {
            // What the coordinator has done can be done here.
            if let Ok(applied) = self.entries.apply(ops.to_vec(), position) {
                self.events.extend(applied.events);
            }
        }
    }

    /// Tells who watches of what it has seen, once.
    pub(super) fn tell(&mut self) {
        let events = mem::take(&mut self.events);
        if mem::take(&mut self.missed) {
            self.watches.resync();
            return;
        }
        for (path, change) in events {
            self.watches.notify(&path, change);
        }
    }
}

/// After how long a silence claims are in doubt.
fn doubt(timeout: Duration) -> Duration {
    timeout * 2 / 3
}

impl State {
    /// Commits in the session of a mount, which sees it and all before it at once: a mismatch, too, is
    /// answered after what it met.
    pub(super) fn commit(&mut self, seat: u64, session: u64, ops: Vec<Op>) -> Result<(), usize> {
        let committed = self.commit_in(session, ops);
        if let Some(seat) = self.seats.get_mut(&seat) {
            seat.catch_up();
        }
        committed
    }

    fn commit_in(&mut self, session: u64, ops: Vec<Op>) -> Result<(), usize> {
        let position = self.coordinator.commit(session, &ops)?;
        let ops: Arc<[Op]> = ops.into();
        for seat in self.seats.values_mut() {
            seat.commits.push_back((position, ops.clone()));
        }
        Ok(())
    }

    /// Ends a session with all that is ephemeral in it.
    pub(super) fn end(&mut self, session: u64) {
        let ops = self.coordinator.end(session);
        if !ops.is_empty() {
            // What a session owned is there, and has no children.
            let _ended = self.commit_in(session, ops);
        }
    }

    /// Ends the sessions whose time is over.
    pub(super) fn end_overdue(&mut self, now: Instant) {
        for session in self.coordinator.overdue(now) {
            self.end(session);
        }
    }

    /// Takes note that a record or console has changed.
    pub(super) fn change(&mut self, name: &str) {
        for seat in self.seats.values_mut() {
            seat.changed.push(name.to_owned());
        }
    }

    /// Has a mount see what was done up to now, as far as it is let through; what has changed of
    /// records and consoles is returned.
    pub(super) fn see(&mut self, seat: u64) -> Vec<String> {
        let Some(seat) = self.seats.get_mut(&seat) else {
            return Vec::new();
        };
        if seat.cut.is_none() {
            seat.catch_up();
            seat.tell();
        }
        mem::take(&mut seat.changed)
    }

    /// Begins the next session of a mount whose last one is over, once that was told.
    /// Whether the next is to begin at the next turn.
    pub(super) fn begin_anew(&mut self, seat: u64, now: Instant, timeout: Duration) -> bool {
        let Some(seat) = self.seats.get_mut(&seat) else {
            return false;
        };
        if seat.over && seat.cut.is_none() {
            // It may still live by the coordinator's clock: nobody counts on that.
            seat.session = self.coordinator.begin();
            seat.over = false;
            seat.watches.resync();
            return false;
        }
        seat.standing(&self.coordinator, now, timeout);
        seat.over && seat.cut.is_none()
    }

    /// Cuts a mount off.
    pub(super) fn cut(&mut self, seat: u64, timeout: Duration) {
        let now = Instant::now();
        if let Some(seat) = self.seats.get_mut(&seat) {
            seat.cut.get_or_insert(now);
            // The mount gives up first.
            self.coordinator.leave(seat.session, now + timeout + timeout / 4);
        }
    }

    /// Lets a mount through again: what was told meanwhile is lost.
    pub(super) fn heal(&mut self, seat: u64, timeout: Duration) {
        let Some(seat) = self.seats.get_mut(&seat).filter(|seat| seat.cut.is_some()) else {
            return;
        };
        seat.standing(&self.coordinator, Instant::now(), timeout);
        (seat.cut, seat.missed) = (None, true);
        if !seat.over {
            self.coordinator.hear(seat.session);
        }
    }
}
