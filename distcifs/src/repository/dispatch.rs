//! Waiters and tickets are brought together: what stands behind `.next`.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::oneshot;

use super::claims::{Claim, Claims};
use super::core::lock;
use super::deadline::Deadline;
use super::model::claim::{Cause, Claimant};
use super::model::ticket::{TicketKey, queue_path};
use super::names::Name;
use super::nodes::Nodes;
use super::notices::Reconciler;
use super::queue_index::{Asker, Pair, QueueIndex, Waiter, bound_of};
use super::store::Store;
use super::tickets::Tickets;
use super::tops::Tops;
use super::turns::{CLAIM_TURN, Turns};
use super::work::{FOLLOW_PAUSE, FOLLOW_PAUSE_MAX};
use super::{Error, Result};

/// Open tickets among which one of many mounts chooses, in the order of turns. Each takes one whose turn is
/// its own: if all took the first, all but one would wait and ask in vain.
const CHOICE_MAX: usize = 256;

/// Longest wait until all tickets of a queue are known, before the oldest of those that are is given.
const LOOKED_MAX: Duration = Duration::from_millis(500);

/// How often a waiter whose time is up looks whether a claim for it came to nothing.
const WITHDRAW_LOOK: Duration = Duration::from_millis(10);

/// Gives open tickets to those who wait for one.
pub(crate) struct Dispatcher {
    store: Arc<Store>,
    queue_index: Arc<QueueIndex>,
    nodes: Arc<Nodes>,
    claims: Arc<Claims>,
    tickets: Arc<Tickets>,
    tops: Tops,
    reconciler: Arc<Reconciler>,
    /// Tickets that could not be claimed, and how often that was tried.
    failed: Mutex<HashMap<TicketKey, u32>>,
}

impl Dispatcher {
    /// Of the tickets that are looked at so.
    pub(super) fn new(reconciler: &Arc<Reconciler>, tops: Tops) -> Arc<Self> {
        Arc::new(Dispatcher {
            store: reconciler.store.clone(),
            queue_index: reconciler.queue_index.clone(),
            nodes: reconciler.nodes.clone(),
            claims: reconciler.claims.clone(),
            tickets: reconciler.tickets.clone(),
            tops,
            reconciler: reconciler.clone(),
            failed: Mutex::default(),
        })
    }

    /// Waits for a ticket, at most `time`; the claim on it. A claim that is being made when the time is
    /// up is waited for, as long as whoever asked may be kept waiting; then it is given back.
    pub(crate) async fn next(
        &self,
        queue: &Name,
        labels: &[String],
        who: Claimant,
        asker: Asker,
        time: Duration,
    ) -> Result<Option<Arc<Claim>>> {
        // Only while it is followed its tickets are known here.
        let (waits, end) = (Deadline::after(time), Deadline::of_call());
        let subscription = self.store.subscribe(&queue_path(queue)).await?;
        // The first ticket that is read need not be the oldest.
        subscription.scanned(waits.min(Deadline::after(LOOKED_MAX))).await;
        let (give, mut given) = oneshot::channel();
        let waiter = self.queue_index.enter(queue, labels, who, asker, give);
        let mut look = waits;
        loop {
            if let Some(done) = look.wait(&mut given).await {
                return Ok(done.ok());
            }
            // Time is up: withdraw, unless a ticket is being claimed for us right now.
            if lock(&waiter.give).take().is_some() {
                self.queue_index.leave(queue, &waiter);
                return Ok(None);
            }
            if end.passed() {
                // The claim, if it comes, is given back, and the waiter with it: see `let_wait`.
                drop(given);
                self.queue_index.leave(queue, &waiter);
                return Ok(None);
            }
            look = Deadline::after(WITHDRAW_LOOK);
        }
    }

    /// Pairs waiters with tickets until the store is closed.
    pub(crate) async fn keep_dispatching(self: Arc<Self>) {
        loop {
            for queue in self.queue_index.changed().await {
                self.dispatch(&queue);
            }
        }
    }

    /// Pairs waiters with tickets as long as there are both.
    fn dispatch(self: &Arc<Self>, queue: &Name) {
        let choice = if self.nodes.has_peers() { CHOICE_MAX } else { 1 };
        let turns: RefCell<HashMap<String, Turns>> = RefCell::default();
        let turn = |key: &TicketKey, needs: &str| {
            let mut turns = turns.borrow_mut();
            if !turns.contains_key(needs) {
                turns.insert(needs.to_owned(), self.nodes.turns(queue, needs));
            }
            turns.get(needs).map_or(0, |turns| turns.of(key))
        };
        while let Some(pair) = self.queue_index.pair(queue, choice, turn) {
            let dispatcher = self.clone();
            self.store.runtime.spawn(async move { dispatcher.deal(pair).await });
        }
    }

    /// Claims a ticket for a waiter and gives it to it.
    async fn deal(self: &Arc<Self>, pair: Pair) {
        let Pair { waiter, key, turn } = pair;
        let gone = !(waiter.asker.alive)(());
        if gone || !self.is_let_in(&waiter, &key.queue).await {
            // The ticket is for the next.
            drop(lock(&waiter.give).take());
            return self.offer_again(&key).await;
        }
        // Taken out first: from here on the waiter's time-out waits for us.
        let Some(give) = lock(&waiter.give).take() else {
            return self.offer_again(&key).await;
        };
        if turn > 0 {
            tokio::time::sleep(CLAIM_TURN * turn).await;
        }
        if !self.queue_index.is_open(&key) {
            // Another mount has it.
            return self.queue_index.let_wait(&key.queue, &waiter, give);
        }
        let Ok(claiming) = self.nodes.begin_claim() else {
            // Drained since they were paired.
            self.offer_again(&key).await;
            return self.queue_index.let_wait(&key.queue, &waiter, give);
        };
        let claimed = self.claims.claim(&key, waiter.who).await;
        drop(claiming);
        if matches!(
            claimed,
            Ok(_) | Err(Error::Busy(_) | Error::Exists(_) | Error::NotFound(_))
        ) {
            lock(&self.failed).remove(&key);
        }
        match claimed {
            Ok(claim) => {
                if let Err(unread) = give.send(claim) {
                    self.claims.end_claim(&unread, Cause::Unbegun).await;
                }
                return;
            }
            Err(Error::Busy(_)) => {
                self.queue_index.park(&key);
                // A place may have become free before it was set aside.
                self.unpark_if_free(&key).await;
            }
            // Somebody else has it, or has the place that it was to have: then it is still open.
            Err(Error::Exists(_) | Error::NotFound(_)) => self.offer_again(&key).await,
            Err(error) => {
                self.set_aside(&key, &error);
                // It was the oldest of those that wait for a place, perhaps, and was tried for one that is free.
                self.queue_index.pass_over(&key);
                // Where it is the store or the waiter that fails, so would each of thousands of tickets, at full speed.
                tokio::time::sleep(FOLLOW_PAUSE).await;
            }
        }
        self.queue_index.let_wait(&key.queue, &waiter, give);
    }

    /// Offers a ticket that can't be claimed after a pause, which grows: it must not keep the others from being worked
    /// on.
    fn set_aside(self: &Arc<Self>, key: &TicketKey, error: &Error) {
        let mut failed = lock(&self.failed);
        let tries = failed.entry(key.clone()).or_default();
        *tries = tries.saturating_add(1);
        let tries = *tries;
        drop(failed);
        if tries.is_power_of_two() {
            tracing::warn!(ticket = %key, tries, %error, "claiming for .next; others go first meanwhile");
        }
        let pause = FOLLOW_PAUSE * (1 << (tries - 1).min(8));
        let (dispatcher, key) = (self.clone(), key.clone());
        self.store.runtime.spawn(async move {
            tokio::time::sleep(pause.min(FOLLOW_PAUSE_MAX)).await;
            dispatcher.offer_again(&key).await;
            if !dispatcher.queue_index.is_open(&key) {
                lock(&dispatcher.failed).remove(&key);
            }
        });
    }

    /// Whether the queue lets a waiter in as it is now: it may have been shut since he began to wait. What can't
    /// be read lets nobody in.
    async fn is_let_in(&self, waiter: &Waiter, queue: &Name) -> bool {
        match self.tops.queue_access(queue.as_str()).await {
            Ok(access) => access.is_some_and(|access| (waiter.asker.may)(access)),
            Err(error) => {
                tracing::warn!(%queue, %error, "looking whom it lets in");
                false
            }
        }
    }

    /// Offers a ticket again if there is a place for it after all.
    async fn unpark_if_free(&self, key: &TicketKey) {
        let Ok(Some(posted)) = self.tickets.get(key).await else {
            return;
        };
        let Some(part) = &posted.ticket.part else { return };
        if let Ok(true) = self.claims.has_place(key, &posted).await {
            let of_job = || bound_of(&part.uid, posted.ticket.untrusted);
            let group = posted.ticket.group.as_ref();
            self.queue_index
                .unpark(&group.map_or_else(of_job, |group| group.digest.clone()));
        }
    }

    /// Looks at a ticket that left the queue index's list without being claimed.
    async fn offer_again(&self, key: &TicketKey) {
        if let Err(error) = self.reconciler.apply(key).await {
            self.reconciler.retry_later(key.clone(), false, &error);
        }
        self.queue_index.poke(&key.queue);
    }
}
