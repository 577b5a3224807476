//! What is done when the coordinator tells of a change.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::Error;
use super::builds::Builds;
use super::claims::Claims;
use super::core::lock;
use super::events::Events;
use super::jobs::Jobs;
use super::model::event::{Control, Event as Told, Stage};
use super::model::keys::{Key, UNTRUSTED_SLOTS};
use super::model::ticket::{BuildRef, CONTROL_QUEUE, Ticket, TicketKey, TicketState, Verdict, queue_path};
use super::names::{Name, TicketId};
use super::nodes::Nodes;
use super::queue_index::{QueueIndex, bound_of};
use super::store::Store;
use super::tickets::Tickets;
use super::wakers::Wakers;
use super::work::{FOLLOW_PAUSE, FOLLOW_PAUSE_MAX, FOLLOW_TRIES, READS_MAX, again_later, in_parallel};
use crate::storage::{Change, Event};

mod refresh;
mod unseen;

/// Notices in the order in which they are acted upon.
#[derive(Default)]
struct Sorted {
    /// Tickets that changed.
    tickets: BTreeMap<TicketKey, Changed>,
    /// Tickets that were claimed.
    claimed: BTreeSet<TicketKey>,
    /// Jobs and groups of which a place became free: as their slots are waited for, and by digest.
    places: BTreeSet<String>,
    /// Builds that are held from now on, by the job's uid.
    held: BTreeSet<(String, u64)>,
    /// Unfinished builds whose entry was set: somebody controls them. By the job's uid.
    builds: BTreeSet<(String, u64)>,
    /// Builds whose entry is gone.
    tidied: BTreeSet<(String, u64)>,
    /// Jobs that were configured, by their uid.
    configured: BTreeSet<String>,
    /// Mounts that came, went or told of themselves.
    nodes: BTreeSet<Name>,
    /// Whether gc began an epoch.
    epoch: bool,
    /// Paths that somebody may wait for.
    paths: BTreeSet<String>,
}

/// A ticket that changed.
#[derive(Clone, Copy)]
struct Changed {
    /// Its place among those that were told of: in the order in which they were posted, where they are new.
    place: usize,
    /// Whether its claim went, or it did.
    unclaimed: bool,
}

impl Sorted {
    fn note(&mut self, key: TicketKey, unclaimed: bool) {
        let new = Changed {
            place: self.tickets.len(),
            unclaimed,
        };
        self.tickets.entry(key).or_insert(new).unclaimed |= unclaimed;
    }

    /// The tickets in the order in which they were told of, and whether their claims are gone.
    fn take_tickets(&mut self) -> Vec<(TicketKey, bool)> {
        let mut tickets: Vec<_> = std::mem::take(&mut self.tickets).into_iter().collect();
        tickets.sort_unstable_by_key(|(_, changed)| changed.place);
        let known = tickets.into_iter().map(|(key, changed)| (key, changed.unclaimed));
        known.collect()
    }

    fn take(&mut self, path: &str, change: Change) {
        let Some(key) = Key::parse(path) else { return };
        match (key, change) {
            (Key::Ticket(queue, id) | Key::Claim(queue, id), Change::Deleted) => {
                if let Some(key) = ticket_key(queue, id) {
                    self.note(key, true);
                }
            }
            (Key::Ticket(queue, id), _) => {
                if let Some(key) = ticket_key(queue, id) {
                    self.note(key, false);
                }
            }
            (Key::Claim(queue, id), Change::Created) => self.claimed.extend(ticket_key(queue, id)),
            (Key::Slot(uid, slot), Change::Deleted) => {
                self.places.insert(bound_of(uid, slot >= UNTRUSTED_SLOTS));
            }
            (Key::Place(group, _), Change::Deleted) => {
                self.places.insert(group.to_owned());
            }
            (Key::Held(uid, n), Change::Created) => {
                self.held.insert((uid.to_owned(), n));
            }
            (Key::JobKeys(uid), Change::Set) => {
                self.configured.insert(uid.to_owned());
            }
            (Key::Epoch, _) => self.epoch = true,
            (Key::Node(node), _) => self.nodes.extend(Name::new(node)),
            (Key::Build(uid, n), Change::Set) => {
                self.paths.insert(path.to_owned());
                self.builds.insert((uid.to_owned(), n));
            }
            (Key::Build(uid, n), Change::Deleted) => {
                self.paths.insert(path.to_owned());
                self.tidied.insert((uid.to_owned(), n));
            }
            (Key::Jobs | Key::Job(_) | Key::Build(..) | Key::Slot(..) | Key::GcLock | Key::JobLock(_), _) => {
                self.paths.insert(path.to_owned());
            }
            _ => {}
        }
    }
}

/// Tickets of a queue, whether their claims are gone, and how often they were tried.
type Tries = BTreeMap<TicketKey, (bool, u32)>;

/// Tickets that could not be read, of each queue where somebody sees to them.
#[derive(Default)]
struct RetryTickets(Mutex<HashMap<Name, Tries>>);

impl RetryTickets {
    /// Notes one; whether nobody sees to those of its queue yet.
    fn note(&self, key: TicketKey, unclaimed: bool, tries: u32) -> bool {
        let mut unread = lock(&self.0);
        let first = !unread.contains_key(&key.queue);
        let known = unread.entry(key.queue.clone()).or_default();
        let known = known.entry(key).or_insert((unclaimed, tries));
        *known = (known.0 || unclaimed, known.1.min(tries));
        first
    }

    /// Those that were noted since the last call; `None`: none, and nobody sees to the queue from now on.
    fn take(&self, queue: &Name) -> Option<Tries> {
        let mut unread = lock(&self.0);
        let noted = std::mem::take(unread.get_mut(queue)?);
        if noted.is_empty() {
            unread.remove(queue);
            return None;
        }
        Some(noted)
    }
}

/// Keeps what this mount knows in step with what the coordinator tells: one for all that it follows.
pub(crate) struct Reconciler {
    pub(super) store: Arc<Store>,
    jobs: Arc<Jobs>,
    pub(super) queue_index: Arc<QueueIndex>,
    pub(super) nodes: Arc<Nodes>,
    pub(super) claims: Arc<Claims>,
    pub(super) tickets: Arc<Tickets>,
    builds: Arc<Builds>,
    events: Arc<Events>,
    wakers: Arc<Wakers>,
    retries: RetryTickets,
}

impl Reconciler {
    /// Of what these builds and claims are part of.
    pub(super) fn new(
        builds: &Arc<Builds>,
        queue_index: Arc<QueueIndex>,
        nodes: Arc<Nodes>,
        claims: Arc<Claims>,
        wakers: Arc<Wakers>,
    ) -> Arc<Self> {
        Arc::new(Reconciler {
            store: builds.store.clone(),
            jobs: builds.jobs.clone(),
            queue_index,
            nodes,
            claims,
            tickets: builds.tickets.clone(),
            builds: builds.clone(),
            events: builds.events.clone(),
            wakers,
            retries: RetryTickets::default(),
        })
    }

    /// Acts on notices of a path that came together.
    pub(super) async fn act(self: &Arc<Self>, path: &str, events: Vec<Event>) {
        if events.contains(&Event::Resync) {
            self.events.announce(Told::Resync);
            self.rescan(path).await;
        }
        self.on_events(events).await;
    }

    /// Acts on notices that came together.
    async fn on_events(self: &Arc<Self>, events: Vec<Event>) {
        let mut sorted = Sorted::default();
        for event in events {
            if let Event::Changed { path, change } = event {
                sorted.take(&path, change);
            }
        }
        self.leave_out_claimed(&mut sorted);
        let tickets = sorted.take_tickets();
        for path in &sorted.paths {
            self.wakers.notify(path);
        }
        if sorted.epoch {
            self.store.refresh_epoch();
        }
        for node in sorted.nodes {
            self.nodes.refresh_node(&node).await;
        }
        for (uid, n) in &sorted.tidied {
            self.claims.stopped.forget(uid, *n);
        }
        for (uid, n) in &sorted.builds {
            self.claims.look_for_abort(uid.clone(), *n);
            let delay = |part: &BuildRef| self.nodes.record_delay_of(part);
            self.builds.refresh_held(uid, *n, delay).await;
        }
        for (uid, n) in &sorted.held {
            self.builds.tell_held(uid, *n);
        }
        if self.store.shared {
            self.tell_controls(sorted.builds, sorted.configured).await;
        }
        for part in tickets.chunks(READS_MAX) {
            self.refresh_part(part.to_vec()).await;
        }
        for bound in sorted.places {
            self.queue_index.unpark(&bound);
        }
    }

    /// Takes tickets out that are just claimed: with many mounts, most notices are of these.
    fn leave_out_claimed(&self, sorted: &mut Sorted) {
        for key in &sorted.claimed {
            if !sorted.tickets.get(key).is_some_and(|changed| changed.unclaimed) {
                self.queue_index.claimed(key);
            }
        }
        sorted
            .tickets
            .retain(|key, changed| changed.unclaimed || !self.queue_index.is_known(key));
    }

    /// Says what was done to builds and jobs, here or on another mount.
    async fn tell_controls(self: &Arc<Self>, builds: BTreeSet<(String, u64)>, configured: BTreeSet<String>) {
        if !self.events.is_listened_to() {
            return;
        }
        for uid in configured {
            if let Some(job) = self.jobs.by_uid(&uid) {
                self.events.announce(Told::JobConfigured(job.name));
            }
        }
        for (uid, n) in builds {
            let Some(job) = self.jobs.by_uid(&uid) else { continue };
            match self.builds.build(&job, n).await {
                Ok(build) if build.aborting() => {
                    let what = Control::Abort;
                    self.events.announce(Told::Control { job: job.name, n, what });
                }
                // Kept or not, or over by now.
                Ok(_) | Err(Error::NotFound(_)) => {}
                Err(error) => tracing::warn!(job = %job.name, build = n, %error, "looking what was done to it"),
            }
        }
    }

    /// Acts on a notice later, when the store may answer; the others need not wait for it.
    pub(super) fn retry_later(self: &Arc<Self>, key: TicketKey, unclaimed: bool, error: &Error) {
        let queue = key.queue.clone();
        tracing::warn!(ticket = %key, %error, "following the coordinator: trying again");
        if self.retries.note(key, unclaimed, 0) {
            let reconciler = self.clone();
            self.store.runtime.spawn(async move { reconciler.retry(queue).await });
        }
    }

    /// Looks at a queue's tickets that could not be read, until each is, or was tried often enough.
    async fn retry(self: Arc<Self>, queue: Name) {
        let mut pause = FOLLOW_PAUSE;
        while let Some(unread) = self.retries.take(&queue) {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(FOLLOW_PAUSE_MAX);
            let reconciler = self.clone();
            in_parallel(unread, move |(key, (unclaimed, tries))| {
                let reconciler = reconciler.clone();
                async move {
                    match reconciler.refresh(&key, unclaimed).await {
                        Ok(()) => {}
                        Err(error) if tries >= FOLLOW_TRIES => {
                            tracing::error!(ticket = %key, %error, "given up; run distcifs fsck");
                        }
                        Err(error) => {
                            tracing::debug!(ticket = %key, %error, tries, "trying again");
                            reconciler.retries.note(key, unclaimed, tries + 1);
                        }
                    }
                }
            })
            .await;
        }
    }

    /// Looks at all that is below a path: when it is followed from now on, and when notices of it
    /// were lost.
    pub(super) async fn rescan(self: &Arc<Self>, path: &str) {
        match Key::parse(path) {
            Some(Key::Root) => {
                self.claims.look_for_aborts();
                self.queue_index.unpark_all();
                self.nodes.refresh_nodes().await;
                self.rescan_queues(None).await;
            }
            Some(Key::Nodes) => self.nodes.refresh_nodes().await,
            Some(Key::Jobs) => {
                self.claims.look_for_aborts();
                self.look_for_stopped();
                self.queue_index.unpark_all();
            }
            Some(Key::Groups) => self.queue_index.unpark_all(),
            Some(Key::Epoch) => self.store.refresh_epoch(),
            Some(Key::Tickets) => self.rescan_queues(None).await,
            Some(Key::Queue(queue)) => self.rescan_queues(Name::new(queue)).await,
            Some(Key::Ticket(queue, id)) => {
                if let Some(key) = ticket_key(queue, id) {
                    self.refresh_all(vec![key]).await;
                }
            }
            _ => {}
        }
    }

    /// Reads all tickets of a queue, or of all queues; later, what can't be read now.
    async fn rescan_queues(self: &Arc<Self>, queue: Option<Name>) {
        let queues = match queue {
            Some(queue) => Ok(vec![queue]),
            None => self.tickets.queues().await,
        };
        let queues = queues.unwrap_or_else(|error| {
            let reconciler = self.clone();
            again_later(&self.store.runtime, "the queues".to_owned(), error, move || {
                let reconciler = reconciler.clone();
                async move {
                    for queue in reconciler.tickets.queues().await? {
                        reconciler.rescan_queue(&queue).await?;
                    }
                    Ok(())
                }
            });
            Vec::new()
        });
        for queue in queues {
            if let Err(error) = self.rescan_queue(&queue).await {
                let (reconciler, what) = (self.clone(), format!("the tickets of {queue}"));
                again_later(&self.store.runtime, what, error, move || {
                    let (reconciler, queue) = (reconciler.clone(), queue.clone());
                    async move { reconciler.rescan_queue(&queue).await }
                });
            }
        }
    }

    /// Reads all tickets of a queue that are there or were.
    async fn rescan_queue(self: &Arc<Self>, queue: &Name) -> super::Result<()> {
        let mut ids: BTreeSet<TicketId> = self.queue_index.ids(queue).into_iter().collect();
        let names = self.store.children(&queue_path(queue)).await;
        ids.extend(names.iter().flatten().filter_map(|name| TicketId::new(name)));
        let keys = ids.into_iter().map(|id| TicketKey {
            queue: queue.clone(),
            id,
        });
        self.refresh_all(keys.collect()).await;
        if queue.as_str() == CONTROL_QUEUE {
            self.look_for_stopped();
        }
        names.map(drop)
    }

    /// Has all builds that this mount knows of looked at: some may be to stop, and nobody told of it.
    fn look_for_stopped(&self) {
        for (uid, n) in self.queue_index.builds() {
            self.claims.stopped.note(&uid, n, Duration::ZERO);
        }
    }

    /// Says what became of a ticket.
    fn tell(self: &Arc<Self>, key: &TicketKey, ticket: &Ticket, before: Option<TicketState>) {
        let (key_told, state) = (key.clone(), ticket.state);
        self.events.announce(Told::Ticket { key: key_told, state });
        self.wakers.notify(&key.path());
        let Some(part) = &ticket.part else { return };
        if let Some(event) = became(key, ticket, part, before) {
            self.events.announce(event);
        }
        self.wakers
            .notify(&super::model::build::live_path(&part.uid, part.build));
        if part.task.is_none() && ticket.state == TicketState::Finished {
            self.builds
                .record_later(part.clone(), self.nodes.record_delay(key, ticket));
        }
    }
}

/// What a ticket's new state is for its build or task. A build whose controller has let it go is told of when it
/// goes on.
fn became(key: &TicketKey, ticket: &Ticket, part: &BuildRef, before: Option<TicketState>) -> Option<Told> {
    let verdict = ticket.outcome.as_ref().map(|outcome| outcome.verdict);
    let state = match ticket.state {
        TicketState::Open => Stage::Open,
        TicketState::Claimed => Stage::Running,
        TicketState::Finished => Stage::Ended(verdict.unwrap_or(Verdict::Error)),
    };
    let (job, n) = (Name::new(&part.job)?, part.build);
    let Some(index) = part.task else {
        let again = state == Stage::Open && before == Some(TicketState::Claimed);
        return (!again).then_some(Told::Build { job, n, state });
    };
    let name = Some(ticket.name.as_str()).filter(|name| !name.is_empty());
    let name = name.unwrap_or(key.queue.as_str()).to_owned();
    Some(Told::Task {
        job,
        n,
        index,
        name,
        state,
    })
}

/// A ticket's key from the parts of its entry's path.
fn ticket_key(queue: &str, id: &str) -> Option<TicketKey> {
    Some(TicketKey {
        queue: Name::new(queue)?,
        id: TicketId::new(id)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_sees_to_what_could_not_be_read_of_a_queue() {
        let unread = RetryTickets::default();
        let (a, b) = (ticket_key("q", "a").unwrap(), ticket_key("q", "b").unwrap());
        assert!(unread.note(a.clone(), false, 0));
        assert!(!unread.note(b.clone(), false, 0) && !unread.note(a.clone(), true, 0));
        assert!(unread.note(ticket_key("other", "a").unwrap(), false, 0));
        let both = unread.take(&a.queue).unwrap();
        assert_eq!(both, BTreeMap::from([(a.clone(), (true, 0)), (b, (false, 0))]));
        // Tried again, and noted by somebody else meanwhile.
        assert!(!unread.note(a.clone(), true, 1) && !unread.note(a.clone(), false, 0));
        let again = unread.take(&a.queue).unwrap();
        assert_eq!(again, BTreeMap::from([(a.clone(), (true, 0))]));
        assert!(unread.take(&a.queue).is_none());
        assert!(unread.note(a, false, 0), "nobody sees to them any more");
    }
}
