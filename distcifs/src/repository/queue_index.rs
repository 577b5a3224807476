//! The queue index: open tickets as this mount knows them, and who waits for one.
//!
//! It follows the coordinator's notices and is never asked what is true: claims are made against
//! the store, and a queue index that lags costs a lost race, nothing else.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::access::Access;
use super::claims::Claim;
use super::core::lock;
use super::drain::Drain;
use super::events::Events;
use super::model::build::live_path;
use super::model::claim::Claimant;
use super::model::keys::Key;
use super::model::skills::Skills;
use super::model::ticket::{CONTROL_QUEUE, Ticket, TicketKey, TicketState};
use super::names::{Name, TicketId};
use super::wakers::{Wakers, open_key};

mod bounds;
mod figures;
mod groups;
mod turns;

pub(super) use bounds::bound_of;
pub(crate) use groups::{Ended, Sides};
use groups::{Grouped, Newer};
pub use turns::Ahead;
use turns::{Lane, Open};

/// What the queue index knows of a ticket.
#[derive(Debug, Clone)]
pub(super) struct TicketSummary {
    state: TicketState,
    created: u64,
    lane: Lane,
    /// The job's uid, for tickets that wait for a slot of its concurrency.
    job: Option<String>,
    /// What it is of a group that it needs a place in.
    group: Option<Box<Grouped>>,
    /// Whether its build is a stranger's.
    untrusted: bool,
    /// The build that it is a part of, as its entry with the coordinator is called.
    build: Option<String>,
    /// Whether it is claimed, as was told and not read.
    told: bool,
}

impl TicketSummary {
    /// A ticket as its entry has it; `created`: its place in the order of all tickets.
    pub(super) fn of(ticket: &Ticket, created: u64) -> Self {
        TicketSummary {
            state: ticket.state,
            created,
            lane: Lane::of(ticket),
            job: ticket.part.as_ref().map(|part| part.uid.clone()),
            group: Grouped::of(ticket).map(Box::new),
            untrusted: ticket.untrusted,
            build: ticket.part.as_ref().map(|part| live_path(&part.uid, part.build)),
            told: false,
        }
    }

    /// What it shares a bound with others by: its group, else the job of a build's own ticket.
    fn bound_by(&self, queue: &Name) -> Option<String> {
        match (&self.group, &self.job) {
            (Some(group), _) => Some(group.digest.clone()),
            (None, Some(uid)) if queue.as_str() == CONTROL_QUEUE => Some(bound_of(uid, self.untrusted)),
            (None, _) => None,
        }
    }
}

/// Sets of labels kept of those who came lately, for each queue.
const LATELY_MAX: usize = 1024;

/// A question that can be asked of a waiter at any moment.
type Ask<T> = Box<dyn Fn(T) -> bool + Send + Sync>;

/// What is asked before a ticket is claimed for somebody.
pub struct Asker {
    /// Whether his process lives.
    pub alive: Ask<()>,
    /// Whether he may claim from a queue with this owner and mode.
    pub may: Ask<Access>,
}

/// Somebody who waits in `.next`.
pub struct Waiter {
    /// Its place among the waiters.
    place: u64,
    /// What it can do.
    skills: Skills,
    pub(super) who: Claimant,
    pub(super) asker: Asker,
    /// Whoever takes this out is the one who answers him: with a claim, or not at all.
    pub(super) give: Mutex<Option<Give>>,
}

/// By what a waiter gets a claim.
pub(super) type Give = oneshot::Sender<Arc<Claim>>;

/// A ticket for a waiter.
pub(super) struct Pair {
    pub(super) waiter: Arc<Waiter>,
    pub(super) key: TicketKey,
    /// How many mounts come before this one.
    pub(super) turn: u32,
}

/// One queue.
#[derive(Default)]
struct Queue {
    tickets: HashMap<TicketId, TicketSummary>,
    open: Open,
    /// Open tickets that wait for a place, by what they share it by, oldest first.
    parked: HashMap<String, BTreeSet<(u64, TicketId)>>,
    /// By the order in which they came.
    waiters: BTreeMap<u64, Arc<Waiter>>,
    /// When somebody with these labels (sorted, with a blank between) came last.
    lately: BTreeMap<String, Instant>,
    /// Whether anybody has come since this mount began, here or on another mount.
    worked: bool,
}

impl Queue {
    /// Takes a ticket's summary out.
    fn take_out(&mut self, id: &str) -> Option<TicketSummary> {
        let (id, old) = self.tickets.remove_entry(id)?;
        self.open.remove(&old.lane, old.created, &id);
        Some(old)
    }

    /// Notes that a ticket is claimed: its owner has had his turn, if it was not given here.
    fn note_claimed(&mut self, id: &str) {
        let Some((id, summary)) = self.tickets.get_key_value(id) else {
            return;
        };
        if self.open.remove(&summary.lane, summary.created, id) {
            self.open.served(summary.lane.owner);
        }
    }

    /// The open ticket that a waiter is to have: of the highest priority among the first `choice` that its
    /// skills allow the first whose turn is ours, else the one with the nearest turn.
    fn choose(
        &self,
        skills: &Skills,
        choice: usize,
        turn: impl Fn(&TicketId, &str) -> u32,
    ) -> Option<(u32, u64, TicketId, Lane)> {
        let mut best: Option<(u32, u64, &TicketId, &Lane)> = None;
        for (created, id, lane) in self.open.first(skills, choice) {
            if best.is_some_and(|(.., best)| lane.priority < best.priority) {
                // Another mount is nearer to what goes first: that waits a moment for it, and goes first still.
                break;
            }
            let turn = turn(id, &lane.needs);
            if best.is_none_or(|(least, ..)| turn < least) {
                best = Some((turn, created, id, lane));
            }
            if turn == 0 {
                break;
            }
        }
        best.map(|(turn, created, id, lane)| (turn, created, id.clone(), lane.clone()))
    }

    /// Opens the oldest ticket that waited for a place of this group or job; whether there was any.
    fn unpark(&mut self, bound: &str) -> bool {
        let Some(parked) = self.parked.get_mut(bound) else {
            return false;
        };
        while let Some((created, id)) = parked.pop_first() {
            if let Some(summary) = self.tickets.get(&id)
                && summary.state == TicketState::Open
            {
                self.open.insert(&summary.lane, created, id);
                break;
            }
        }
        if parked.is_empty() {
            self.parked.remove(bound);
        }
        true
    }

    /// Forgets all tickets; who waits goes on waiting.
    fn forget(&mut self) {
        self.tickets.clear();
        self.open.clear();
        self.parked.clear();
    }
}

/// See the module.
pub struct QueueIndex {
    /// The truth is the tickets' entries: who has a summary here claims by them, and a summary that lags loses a race.
    queues: Mutex<HashMap<Name, Queue>>,
    events: Arc<Events>,
    wakers: Arc<Wakers>,
    poked: Notify,
    places: AtomicU64,
    dirty: Mutex<HashSet<Name>>,
    newer: Newer,
    pub(crate) drain: Drain,
}

impl QueueIndex {
    /// Of a mount that tells of changes and wakes who waits like this.
    pub(super) fn new(events: Arc<Events>, wakers: Arc<Wakers>) -> Self {
        QueueIndex {
            queues: Mutex::default(),
            events,
            wakers,
            poked: Notify::new(),
            places: AtomicU64::new(0),
            dirty: Mutex::default(),
            newer: Newer::default(),
            drain: Drain::default(),
        }
    }

    /// Waits until there is something to do; the queues in which there is.
    pub(super) async fn changed(&self) -> Vec<Name> {
        self.poked.notified().await;
        lock(&self.dirty).drain().collect()
    }

    /// Marks a queue for the dispatcher.
    pub(super) fn poke(&self, queue: &Name) {
        lock(&self.dirty).insert(queue.clone());
        self.poked.notify_one();
    }

    /// Takes the summary of a ticket in, or out; the state that was known of it. Of another that had its id nothing was:
    /// a job that was made again under its name has tickets of the same ids, and what became of these is to be told.
    pub(super) fn place(&self, key: &TicketKey, summary: Option<TicketSummary>) -> Option<TicketState> {
        let mut queues = lock(&self.queues);
        let queue = queues.entry(key.queue.clone()).or_default();
        let state = summary.as_ref().map(|summary| summary.state);
        if state == Some(TicketState::Claimed) {
            queue.note_claimed(key.id.as_str());
        }
        let old = queue.take_out(key.id.as_str());
        if let Some(summary) = &summary {
            queue.tickets.insert(key.id.clone(), summary.clone());
        }
        let created = summary.as_ref().map(|summary| summary.created);
        let was_open = old.as_ref().is_none_or(|old| old.state == TicketState::Open);
        // Of one that was not known before it is told now what it was in the way of.
        let in_the_way = old
            .as_ref()
            .or(summary.as_ref())
            .and_then(|summary| summary.bound_by(&key.queue));
        // One that runs elsewhere may be heard of after the newer one.
        let new = summary
            .as_ref()
            .filter(|summary| old.is_none() && summary.state == TicketState::Claimed);
        let sides = new.and_then(TicketSummary::sides);
        // What is bounded otherwise waits for the end of each build of its job that is older.
        let has_ended = state.is_none_or(|state| state == TicketState::Finished);
        let was_over = old
            .as_ref()
            .is_some_and(|summary| summary.state == TicketState::Finished);
        let ended = old.as_ref().or(summary.as_ref()).filter(|_| has_ended && !was_over);
        let freed = ended.is_some_and(|ended| queue.unpark_after(ended));
        let open = summary.filter(|summary| summary.state == TicketState::Open);
        if let Some(summary) = open {
            queue.open.insert(&summary.lane, summary.created, key.id.clone());
            drop(queues);
            self.note_newer(&summary);
            self.poke(&key.queue);
            self.wakers.notify(&open_key(&key.queue));
        } else {
            drop(queues);
            sides.into_iter().for_each(|sides| self.note_sides(sides));
            // It is out of the way of the next one.
            if let Some(bound) = in_the_way.filter(|_| was_open) {
                self.unpark(&bound);
            }
            if freed {
                self.poke(&key.queue);
            }
        }
        old.filter(|old| created.is_none_or(|created| created == old.created))
            .map(|old| old.state)
    }

    /// Takes in that a ticket is claimed, without reading it, unless somebody here wants to know more of it.
    pub(super) fn claimed(&self, key: &TicketKey) {
        let mut queues = lock(&self.queues);
        let Some(queue) = queues.get_mut(&key.queue) else {
            return;
        };
        let is_open = |summary: &&TicketSummary| summary.state == TicketState::Open;
        let Some(summary) = queue.tickets.get(&key.id).filter(is_open) else {
            return;
        };
        if self.is_of_interest(key, summary) {
            return;
        }
        queue.note_claimed(key.id.as_str());
        let Some(mut summary) = queue.take_out(key.id.as_str()) else {
            return;
        };
        (summary.state, summary.told) = (TicketState::Claimed, true);
        if let Some(group) = &mut summary.group {
            group.waits = false;
        }
        let bound = summary.bound_by(&key.queue);
        queue.tickets.insert(key.id.clone(), summary);
        drop(queues);
        if let Some(bound) = bound {
            // It is out of the way of the next one.
            self.unpark(&bound);
        }
    }

    /// Whether a ticket need not be read again though its entry has changed: it is claimed, and
    /// whatever becomes of it, that claim goes.
    pub(super) fn is_known(&self, key: &TicketKey) -> bool {
        let queues = lock(&self.queues);
        let summary = queues.get(&key.queue).and_then(|queue| queue.tickets.get(&key.id));
        summary.is_some_and(|summary| summary.told && !self.is_of_interest(key, summary))
    }

    /// Whether somebody here waits for what becomes of a ticket, or of its build.
    fn is_of_interest(&self, key: &TicketKey, summary: &TicketSummary) -> bool {
        let awaited = |path: &String| self.wakers.is_awaited(path);
        self.events.is_listened_to() || awaited(&key.path()) || summary.build.as_ref().is_some_and(awaited)
    }

    /// Opens the oldest ticket of each queue that waited for a place of this group, or of this job (see [`bound_of`]):
    /// each that becomes free, and each that is taken or given up, lets one more try.
    pub(super) fn unpark(&self, bound: &str) {
        let mut freed = Vec::new();
        for (name, queue) in lock(&self.queues).iter_mut() {
            if queue.unpark(bound) {
                freed.push(name.clone());
            }
        }
        freed.iter().for_each(|queue| self.poke(queue));
    }

    /// Lets the next one try that waits for a place of what this ticket needs one of, which can't be claimed.
    pub(super) fn pass_over(&self, key: &TicketKey) {
        let bound = lock(&self.queues)
            .get(&key.queue)
            .and_then(|queue| queue.tickets.get(&key.id)?.bound_by(&key.queue));
        if let Some(bound) = bound {
            self.unpark(&bound);
        }
    }

    /// The same of all: notices of places were lost.
    pub(super) fn unpark_all(&self) {
        let mut freed = Vec::new();
        for (name, queue) in lock(&self.queues).iter_mut() {
            let bounds: Vec<String> = queue.parked.keys().cloned().collect();
            if !bounds.is_empty() {
                for bound in &bounds {
                    queue.unpark(bound);
                }
                freed.push(name.clone());
            }
        }
        freed.iter().for_each(|queue| self.poke(queue));
    }

    /// Sets a ticket aside until a place for it is free.
    pub(super) fn park(&self, key: &TicketKey) {
        let mut queues = lock(&self.queues);
        let Some(queue) = queues.get_mut(&key.queue) else {
            return;
        };
        let Some(summary) = queue.tickets.get(&key.id) else {
            return;
        };
        queue.open.remove(&summary.lane, summary.created, &key.id);
        let bound = summary.bound_by(&key.queue).unwrap_or_default();
        queue
            .parked
            .entry(bound)
            .or_default()
            .insert((summary.created, key.id.clone()));
    }

    /// Open tickets of this one's queue and job that are older, at most `most`, in no order: those of strangers, or the
    /// others.
    pub(crate) fn older(&self, key: &TicketKey, (uid, untrusted): (&str, bool), most: usize) -> Vec<TicketId> {
        let queues = lock(&self.queues);
        let Some(queue) = queues.get(&key.queue) else {
            return Vec::new();
        };
        // One that the queue index has not heard of is younger than all that it has.
        let created = queue.tickets.get(&key.id).map_or(u64::MAX, |summary| summary.created);
        let before = |(_, summary): &(&TicketId, &TicketSummary)| {
            summary.state == TicketState::Open
                && summary.created < created
                && summary.untrusted == untrusted
                && summary.job.as_deref() == Some(uid)
        };
        let older = queue.tickets.iter().filter(before).take(most);
        older.map(|(id, _)| id.clone()).collect()
    }

    /// The tickets of a queue that the queue index knows of.
    pub(super) fn ids(&self, queue: &Name) -> Vec<TicketId> {
        let queues = lock(&self.queues);
        queues
            .get(queue)
            .map(|queue| queue.tickets.keys().cloned().collect())
            .unwrap_or_default()
    }

    /// The builds that have not ended, as far as the queue index knows: by the job's uid.
    pub(super) fn builds(&self) -> Vec<(String, u64)> {
        let Some(queue) = Name::new(CONTROL_QUEUE) else {
            return Vec::new();
        };
        let queues = lock(&self.queues);
        let summaries = queues.get(&queue).into_iter().flat_map(|queue| queue.tickets.values());
        let build = |summary: &TicketSummary| match Key::parse(summary.build.as_deref()?) {
            Some(Key::Build(uid, n)) => Some((uid.to_owned(), n)),
            _ => None,
        };
        summaries
            .filter(|summary| summary.state != TicketState::Finished)
            .filter_map(build)
            .collect()
    }

    /// Whether a ticket stands open, as far as the queue index knows.
    pub(super) fn is_open(&self, key: &TicketKey) -> bool {
        let queues = lock(&self.queues);
        let summary = queues.get(&key.queue).and_then(|queue| queue.tickets.get(&key.id));
        summary.is_some_and(|summary| summary.state == TicketState::Open)
    }

    /// Forgets the tickets below a path that is not followed any more: they may be anything soon.
    pub(super) fn forget_below(&self, path: &str) {
        let mut queues = lock(&self.queues);
        match Key::parse(path) {
            Some(Key::Tickets) => queues.values_mut().for_each(Queue::forget),
            Some(Key::Queue(queue)) => {
                if let Some(queue) = queues.get_mut(queue) {
                    queue.forget();
                }
            }
            Some(Key::Ticket(queue, id)) => {
                if let Some(queue) = queues.get_mut(queue) {
                    queue.take_out(id);
                }
            }
            _ => {}
        }
    }

    /// The next waiter with a ticket that its labels allow; both leave their lists.
    /// `turn`: how many mounts come before this one for a ticket that needs these labels.
    pub(super) fn pair(&self, name: &Name, choice: usize, turn: impl Fn(&TicketKey, &str) -> u32) -> Option<Pair> {
        let mut queues = lock(&self.queues);
        let queue = queues.get_mut(name)?;
        if queue.open.is_empty() || self.drain.is_on() {
            return None;
        }
        let key = |id: &TicketId| TicketKey {
            queue: name.clone(),
            id: id.clone(),
        };
        let found = queue.waiters.iter().find_map(|(place, waiter)| {
            let chosen = queue.choose(&waiter.skills, choice, |id, labels| turn(&key(id), labels));
            chosen.map(|chosen| (*place, chosen))
        });
        let (place, (turn, created, id, lane)) = found?;
        let waiter = queue.waiters.remove(&place)?;
        queue.open.remove(&lane, created, &id);
        queue.open.served(lane.owner);
        let key = key(&id);
        Some(Pair { waiter, key, turn })
    }

    /// Has all queues looked at in which somebody waits.
    pub(super) fn poke_all(&self) {
        let waited = |(name, queue): (&Name, &Queue)| (!queue.waiters.is_empty()).then(|| name.clone());
        let names: Vec<Name> = lock(&self.queues).iter().filter_map(waited).collect();
        names.iter().for_each(|name| self.poke(name));
    }

    /// Lets somebody in who waits for a ticket.
    pub(super) fn enter(&self, name: &Name, labels: &[String], who: Claimant, asker: Asker, give: Give) -> Arc<Waiter> {
        let waiter = Arc::new(Waiter {
            place: self.places.fetch_add(1, Ordering::Relaxed),
            skills: Skills::new(labels.iter().map(String::as_str)),
            who,
            asker,
            give: Mutex::new(Some(give)),
        });
        let mut queues = lock(&self.queues);
        let queue = queues.entry(name.clone()).or_default();
        queue.waiters.insert(waiter.place, waiter.clone());
        queue.worked = true;
        let labels = waiter.skills.text();
        if queue.lately.len() < LATELY_MAX || queue.lately.contains_key(&labels) {
            queue.lately.insert(labels, Instant::now());
        }
        let any = !queue.open.is_empty();
        drop(queues);
        if any {
            self.poke(name);
        }
        waiter
    }

    /// Lets a waiter go.
    pub(super) fn leave(&self, queue: &Name, waiter: &Waiter) {
        if let Some(queue) = lock(&self.queues).get_mut(queue) {
            queue.waiters.remove(&waiter.place);
        }
    }

    /// Puts a waiter back at its place, unless it has gone meanwhile.
    pub(super) fn let_wait(&self, queue: &Name, waiter: &Arc<Waiter>, give: Give) {
        lock(&self.queues)
            .entry(queue.clone())
            .or_default()
            .waiters
            .insert(waiter.place, waiter.clone());
        let mut place = lock(&waiter.give);
        // Looked at once it stands there: who goes takes itself out after it has stopped listening.
        if place.insert(give).is_closed() {
            drop(place);
            self.leave(queue, waiter);
        }
        self.poke(queue);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A waiter who listens, or does not any more.
    fn waits(queue_index: &QueueIndex, queue: &Name, listens: bool) -> usize {
        let (give, given) = oneshot::channel();
        let waiter = Arc::new(Waiter {
            place: 1,
            skills: Skills::new(std::iter::empty()),
            who: Claimant { pid: 1, uid: 0, gid: 0 },
            asker: Asker {
                alive: Box::new(|()| true),
                may: Box::new(|_| true),
            },
            give: Mutex::new(None),
        });
        let _given = listens.then_some(given);
        queue_index.let_wait(queue, &waiter, give);
        lock(&queue_index.queues)
            .get(queue)
            .map_or(0, |queue| queue.waiters.len())
    }

    /// "Waiting tasks of the higher go first", whichever mount they are nearest to.
    #[test]
    fn a_higher_priority_goes_first_though_another_mount_is_nearer() {
        let mut queue = Queue::default();
        let (skills, mut ids) = (Skills::new(std::iter::empty()), Vec::new());
        for (created, priority) in [(1, 0), (2, 5), (3, 5), (4, 0)] {
            let id = TicketId::new(&format!("{created:016x}")).unwrap();
            let needs = String::new();
            let owner = 1;
            let lane = Lane { priority, owner, needs };
            queue.open.insert(&lane, created, id.clone());
            ids.push(id);
        }
        let choose = |turns: [u32; 4]| {
            let turn = |id: &TicketId, _: &str| turns[ids.iter().position(|other| other == id).unwrap()];
            let chosen = queue.choose(&skills, 256, turn).unwrap();
            (chosen.0, chosen.1)
        };
        assert_eq!(choose([0, 2, 1, 0]), (1, 3));
        assert_eq!(choose([0, 2, 2, 0]), (2, 2));
        assert_eq!(choose([0, 2, 0, 0]), (0, 3));
    }

    #[test]
    fn who_has_gone_while_a_ticket_was_claimed_for_him_waits_no_more() {
        let (queue_index, queue) = (QueueIndex::new(Arc::default(), Arc::default()), Name::new("q").unwrap());
        assert_eq!(waits(&queue_index, &queue, true), 1);
        assert_eq!(waits(&queue_index, &queue, false), 0);
    }
}
