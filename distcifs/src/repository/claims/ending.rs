//! How a claim's ticket goes on without it: one commit for every end, tried until it is done.

use std::sync::Arc;
use std::time::Duration;

use super::{Claim, Claims};
use crate::repository::core::{bounded, now};
use crate::repository::model::claim::Cause;
use crate::repository::model::ops::Step;
use crate::repository::model::steps;
use crate::repository::model::ticket::{Ticket, TicketKey, TicketState, ticket_of};
use crate::repository::work::again_later;
use crate::repository::{Error, Result};
use crate::storage::Commit;

/// Pause before a ticket is given back again that could not be; it doubles each time.
const PAUSE: Duration = Duration::from_millis(if cfg!(test) { 1 } else { 200 });
/// Longest such pause.
const PAUSE_MAX: Duration = Duration::from_millis(if cfg!(test) { 2 } else { 5000 });

/// Tries that met another entry than was read just before. There is no such end then: its job is gone,
/// or its slot.
const RACES_MAX: u32 = 20;

/// A claim that is over without a result.
pub(super) struct Over {
    pub(super) key: TicketKey,
    pub(super) nonce: String,
    pub(super) cause: Cause,
    /// The ticket's place in the order of all, and the version that the claim made; what is older was
    /// read before it. `None`: nobody knows whether the claim was made.
    pub(super) made: Option<(u64, u32)>,
}

impl Over {
    /// The end of a claim that was held here.
    pub(super) fn of(claim: &Claim, cause: Cause) -> Over {
        Over {
            key: claim.key.clone(),
            nonce: claim.nonce.clone(),
            cause: claim.counted_cause(cause),
            made: Some((claim.created, claim.version)),
        }
    }
}

impl Claims {
    /// Gives a ticket back, however long the stores take nothing: the claim's entry stands as long as
    /// this mount, so nobody else can.
    pub(super) async fn let_go(self: &Arc<Self>, over: Over) {
        let (mut pause, mut tries, mut races) = (PAUSE, 0_u32, 0);
        // What may still be under way is waited for, unless the claim was seen.
        let mut settled = over.made.is_none();
        loop {
            match self.try_to_let_go(&over, settled).await {
                Ok(Commit::Done) => return,
                Ok(Commit::Mismatch { .. }) if races < RACES_MAX => races += 1,
                Ok(Commit::Mismatch { index }) => {
                    tracing::error!(ticket = %over.key, index, "it can't be given back; run distcifs fsck");
                    return;
                }
                Err(error) => {
                    tries += 1;
                    if tries.is_power_of_two() {
                        tracing::warn!(ticket = %over.key, tries, %error, "giving the ticket back failed, trying again");
                    }
                }
            }
            settled = true;
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Gives a ticket back, unless somebody did, or it was removed.
    async fn try_to_let_go(self: &Arc<Self>, over: &Over, settled: bool) -> Result<Commit> {
        let (key, path) = (&over.key, over.key.path());
        if settled {
            bounded(&path, self.store.coordination.sync()).await?;
            drop(self.store.entry_cache.changing(vec![path.clone(), key.claim_path()]));
        }
        let Some(entry) = self.store.get(&path).await? else {
            return Ok(Commit::Done);
        };
        if !settled && over.made.is_some_and(|made| (entry.created, entry.version) < made) {
            return Err(Error::Io(
                format!("{path}: what was read is from before the claim").into(),
            ));
        }
        let posted = ticket_of(&key.to_string(), &entry)?;
        if !posted.ticket.is_held_by(&over.nonce) {
            return Ok(Commit::Done);
        }
        let claimed = self.store.get(&key.claim_path()).await?.is_some();
        let lost = steps::lose(key, &posted, Some(&over.nonce), over.cause, now(), claimed);
        let Ok(Step { after, ops }) = lost else {
            return Ok(Commit::Done);
        };
        let commit = self.store.commit(ops).await?;
        if commit == Commit::Done {
            self.heed_later(key, &after.ticket).await;
        }
        Ok(commit)
    }

    /// Ends a ticket that is open again if its build was aborted meanwhile: whoever did that saw it
    /// claimed.
    pub(super) async fn heed_later(self: &Arc<Self>, key: &TicketKey, ticket: &Ticket) {
        if ticket.state != TicketState::Open {
            if ticket.is_notification() {
                let why = ticket.outcome.as_ref().map(|outcome| outcome.message.as_str());
                tracing::warn!(ticket = %key, why, "a notification is given up");
            }
            return;
        }
        if let Err(error) = self.heed_abort(key, ticket.part.as_ref()).await {
            let (key, part) = (key.clone(), ticket.part.clone());
            let what = format!("whether the build of {key} was aborted");
            let claims = self.clone();
            again_later(&self.store.runtime, what, error, move || {
                let (claims, key, part) = (claims.clone(), key.clone(), part.clone());
                async move { claims.heed_abort(&key, part.as_ref()).await }
            });
        }
    }
}
