//! Claims that end without a result: given up here, or found to be gone with their mount.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::task::JoinHandle;

use super::ending::Over;
use super::{Claim, Claims};
use crate::repository::core::now;
use crate::repository::deadline::Deadline;
use crate::repository::model::claim::Cause;
use crate::repository::model::console::attempt_console;
use crate::repository::model::ops::Step;
use crate::repository::model::steps;
use crate::repository::model::ticket::{Ticket, TicketKey, TicketState};
use crate::repository::{Result, flood};

impl Claims {
    /// Ends a claim without a result: the ticket is open again, or finished when it has used up
    /// its attempts or its time. While its result is being written, that decides. Where the
    /// coordinator is away this goes on in the background.
    pub async fn end_claim(self: &Arc<Self>, claim: &Arc<Claim>, cause: Cause) {
        if let Some(given_up) = self.begin_end(claim, cause) {
            // Whoever asked is told that it is over, which it is here.
            let _ = Deadline::of_call().wait(given_up).await;
        }
    }

    /// The same for one who does not wait for what follows; `None`: nothing does.
    pub(crate) fn begin_end(self: &Arc<Self>, claim: &Arc<Claim>, cause: Cause) -> Option<JoinHandle<()>> {
        let began = claim.life.send_if_modified(|life| life.end(cause));
        let (claims, claim) = (self.clone(), claim.clone());
        let give_up = async move { claims.give_up(&claim, cause).await };
        began.then(|| self.store.runtime.spawn(give_up))
    }

    /// What follows the end of a claim: its folders go, its ticket is given back.
    pub(super) async fn give_up(self: &Arc<Self>, claim: &Arc<Claim>, cause: Cause) {
        claim.over(false);
        self.held.remove(claim);
        self.counts.claims_lost.fetch_add(1, Ordering::Relaxed);
        if flood::has_line_of("claim lost", claim.uid) {
            tracing::info!(ticket = %claim.key, pid = claim.pid, ?cause, "claim lost");
        }
        self.attempts.discard_folders(&claim.folders);
        let over = claim.clone();
        self.store
            .runtime
            .spawn(async move { over.storing.take_back(&over.key, over.uid).await });
        self.forget_console(claim);
        if matches!(cause, Cause::Taken | Cause::Session) {
            // Whoever took it wrote the ticket; one that was lost with its session is open again
            // once the coordinator has noticed, too.
            return;
        }
        self.let_go(Over::of(claim, cause)).await;
    }

    /// Gives a ticket back, in the background, that was claimed for somebody who could not be told:
    /// the claim's entry would stand as long as this mount.
    pub(super) fn disown(self: &Arc<Self>, key: TicketKey, nonce: String) {
        let claims = self.clone();
        let over = Over {
            key,
            nonce,
            cause: Cause::Unbegun,
            made: None,
        };
        self.store.runtime.spawn(async move { claims.let_go(over).await });
    }

    /// Seals the consoles of the claims before one that is to be made on this open ticket: what a
    /// former claimant that was cut off still writes is refused then. It is done before the claim, which
    /// so is not made, and not counted, while the store can't do it.
    pub(super) async fn fence_earlier(&self, key: &TicketKey, ticket: &Ticket) -> Result<()> {
        for ordinal in 1..ticket.ordinal() {
            self.consoles.seal(&attempt_console(key, ticket, ordinal)).await?;
        }
        Ok(())
    }

    /// Says in the build's console that another claim begins. It is for people: one that can't be
    /// said is left out.
    pub(super) async fn announce(&self, claim: &Claim) {
        let ordinal = claim.ticket.ordinal();
        if ordinal == 1 {
            return;
        }
        let line = format!("[claim {ordinal} of {}, on {}]\n", claim.key.id, self.about.node);
        let said = async { claim.console().await?.announce(&self.consoles, claim, &line).await };
        if let Err(error) = said.await {
            tracing::warn!(ticket = %claim.key, %error, "the console does not say that another claim begins");
        }
    }

    /// Takes back a ticket whose claim is gone with its mount, when it is this mount's turn.
    pub(crate) async fn reopen_orphan(self: &Arc<Self>, key: &TicketKey) -> Result<()> {
        self.reopen_orphan_after(key, self.repair_delay(key)).await
    }

    /// How long other mounts come before this one to take a ticket back.
    pub(crate) fn repair_delay(&self, key: &TicketKey) -> Duration {
        self.outlook.repair_delay(key)
    }

    /// The same after so long a time, in which another mount may do it.
    pub(crate) async fn reopen_orphan_after(self: &Arc<Self>, key: &TicketKey, delay: Duration) -> Result<()> {
        let Some(posted) = self.tickets.get(key).await? else {
            return Ok(());
        };
        let held = self
            .held
            .get(key)
            .is_some_and(|claim| claim.nonce == posted.ticket.nonce);
        if posted.ticket.state != TicketState::Claimed || held || self.store.get(&key.claim_path()).await?.is_some() {
            return Ok(());
        }
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
            // Another mount has done it by now, as a rule.
            if self
                .tickets
                .get(key)
                .await?
                .is_none_or(|now| now.version != posted.version)
            {
                return Ok(());
            }
        }
        let aborted = match &posted.ticket.part {
            Some(part) => self.is_aborted(part).await?,
            None => false,
        };
        let cause = if aborted { Cause::Aborted } else { Cause::Session };
        let Ok(Step { after, ops }) = steps::lose(key, &posted, None, cause, now(), false) else {
            return Ok(());
        };
        let ticket = after.ticket;
        tracing::info!(ticket = %key, node = %ticket.node, state = ?ticket.state, "its claim is gone with its mount");
        // A mismatch: another mount was first.
        self.store.commit(ops).await?;
        self.heed_later(key, &ticket).await;
        Ok(())
    }
}
