//! Tickets as they are now, after a change of them was told: read, taken in, repaired.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;

use super::Reconciler;
use crate::repository::Result;
use crate::repository::claims::Claim;
use crate::repository::deadline::Deadline;
use crate::repository::model::claim::Cause;
use crate::repository::model::event::Event as Told;
use crate::repository::model::ticket::{Posted, TicketKey, TicketState, ticket_of};
use crate::repository::queue_index::TicketSummary;
use crate::repository::work::{READS_MAX, in_parallel};

/// What was seen of a ticket.
struct Seen {
    /// The claim that was held of it here before the look.
    claim: Option<Arc<Claim>>,
    /// `None`: it is gone.
    posted: Option<Posted>,
    /// Whether its claim is gone, and other mounts come before this one to take it back.
    orphaned: bool,
}

impl Reconciler {
    /// Repairs and takes in tickets. One that is damaged must not keep the others from being
    /// worked on.
    pub(super) async fn refresh_all(self: &Arc<Self>, keys: Vec<TicketKey>) {
        for keys in keys.chunks(READS_MAX) {
            if let Err(error) = self.store.read_ahead(keys.iter().map(TicketKey::path)).await {
                tracing::warn!(%error, tickets = keys.len(), "reading them one by one");
            }
            self.refresh_part(keys.iter().map(|key| (key.clone(), true)).collect())
                .await;
        }
    }

    /// The same for at most [`READS_MAX`], of which some have lost their claims. They are read in any order and taken in
    /// by age: who waits is given the oldest that is known here. What may take longer than to read them goes on
    /// beside: the next ones do not wait for that.
    pub(super) async fn refresh_part(self: &Arc<Self>, part: Vec<(TicketKey, bool)>) {
        let reconciler = self.clone();
        let looks = in_parallel(part, move |(key, unclaimed)| {
            let reconciler = reconciler.clone();
            async move {
                let seen = reconciler.repair_and_see(&key, unclaimed).await;
                let seen = seen.inspect_err(|error| reconciler.retry_later(key.clone(), unclaimed, error));
                Some((key, seen.ok()??))
            }
        });
        let mut seen: Vec<(TicketKey, Seen)> = looks.await.into_iter().flatten().collect();
        seen.sort_by_key(|(_, seen)| seen.posted.as_ref().map(|posted| posted.created));
        let mut orphans: BTreeMap<Duration, Vec<TicketKey>> = BTreeMap::new();
        for (key, seen) in seen {
            if seen.orphaned {
                orphans
                    .entry(self.claims.repair_delay(&key))
                    .or_default()
                    .push(key.clone());
            }
            let before = self.place(&key, &seen);
            drop(self.follow_up(&key, seen, before));
        }
        for (delay, keys) in orphans {
            let reconciler = self.clone();
            self.store
                .runtime
                .spawn(async move { reconciler.repair_after(delay, keys).await });
        }
    }

    /// Takes tickets back whose claims are gone, if no other mount has done so within this time.
    async fn repair_after(self: Arc<Self>, delay: Duration, keys: Vec<TicketKey>) {
        tokio::time::sleep(delay).await;
        in_parallel(keys, move |key| {
            let reconciler = self.clone();
            async move {
                let repaired = reconciler.claims.reopen_orphan_after(&key, Duration::ZERO).await;
                let applied = match repaired {
                    Ok(()) => reconciler.apply(&key).await,
                    error => error,
                };
                if let Err(error) = applied {
                    reconciler.retry_later(key, true, &error);
                }
            }
        })
        .await;
    }

    /// Repairs a ticket if its claim is gone, when it is this mount's turn, and takes it in.
    pub(super) async fn refresh(self: &Arc<Self>, key: &TicketKey, unclaimed: bool) -> Result<()> {
        if let Some(seen) = self.repair_and_see(key, unclaimed).await? {
            let orphaned = seen.orphaned;
            self.take_in(key, seen).await;
            if orphaned {
                self.claims.reopen_orphan(key).await?;
                self.apply(key).await?;
            }
        }
        Ok(())
    }

    /// What a ticket is, repaired if its claim is gone and no other mount comes before this one. `None`: it is damaged,
    /// and left out, as it is no other when it is read again.
    async fn repair_and_see(&self, key: &TicketKey, unclaimed: bool) -> Result<Option<Seen>> {
        let look = async {
            let mut seen = self.see(key).await?;
            let is_claimed = |posted: &Posted| posted.ticket.state == TicketState::Claimed;
            if unclaimed && seen.posted.as_ref().is_some_and(is_claimed) {
                seen.orphaned = !self.claims.repair_delay(key).is_zero();
                if !seen.orphaned {
                    self.claims.reopen_orphan_after(key, Duration::ZERO).await?;
                    return self.see(key).await;
                }
            }
            Ok(seen)
        };
        match look.await {
            Err(error) if self.tickets.is_damaged(key).await => {
                tracing::error!(%error, "left out");
                Ok(None)
            }
            seen => seen.map(Some),
        }
    }

    /// Takes in what a ticket is now, tells who waits for it, and ends a claim that it took.
    pub(in crate::repository) async fn apply(self: &Arc<Self>, key: &TicketKey) -> Result<()> {
        let seen = self.see(key).await?;
        self.take_in(key, seen).await;
        Ok(())
    }

    /// What a ticket is now.
    async fn see(&self, key: &TicketKey) -> Result<Seen> {
        // Before the look: a claim made after it is none of what is seen.
        let claim = self.claims.held.get(key);
        let entry = self.store.get(&key.path()).await?;
        let posted = entry.map(|entry| ticket_of(&key.to_string(), &entry)).transpose()?;
        Ok(Seen {
            claim,
            posted,
            orphaned: false,
        })
    }

    async fn take_in(self: &Arc<Self>, key: &TicketKey, seen: Seen) {
        let before = self.place(key, &seen);
        if let Some(ends) = self.follow_up(key, seen, before) {
            let _ = Deadline::of_call().wait(ends).await;
        }
    }

    /// Has the queue index know of what was seen of a ticket; what it knew before.
    fn place(&self, key: &TicketKey, seen: &Seen) -> Option<TicketState> {
        let Some(posted) = &seen.posted else {
            return self.queue_index.place(key, None);
        };
        if posted.ticket.state == TicketState::Finished {
            self.tickets.tombstones.remember(key, posted.clone());
        }
        self.queue_index
            .place(key, Some(TicketSummary::of(&posted.ticket, posted.created)))
    }

    /// Tells who waits for a ticket what was seen of it, and ends a claim that it took: what follows that end, if any
    /// does.
    fn follow_up(self: &Arc<Self>, key: &TicketKey, seen: Seen, before: Option<TicketState>) -> Option<JoinHandle<()>> {
        let Some(posted) = seen.posted else {
            if before.is_some_and(|state| state != TicketState::Finished) && self.events.is_listened_to() {
                let (reconciler, key) = (self.clone(), key.clone());
                self.store
                    .runtime
                    .spawn(async move { reconciler.tell_unseen_end(&key).await });
            }
            if before.is_some() {
                self.events.announce(Told::TicketRemoved(key.clone()));
            }
            self.wakers.notify(&key.path());
            // Tidied away with its build while somebody was at it.
            return self.claims.begin_end(&seen.claim?, Cause::Taken);
        };
        let ticket = &posted.ticket;
        let taken = |claim: &Arc<Claim>| ticket.state != TicketState::Claimed || ticket.nonce != claim.nonce;
        let taken = self.claims.held.get(key).filter(taken);
        let taken = taken.filter(|claim| claim.precedes(&posted));
        let ends = taken.and_then(|claim| self.claims.begin_end(&claim, Cause::Taken));
        if before != Some(ticket.state) {
            self.tell(key, ticket, before);
        }
        ends
    }
}
