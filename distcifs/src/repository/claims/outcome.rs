//! The one commit of a result.

use std::sync::Arc;

use super::adding::Adding;
use super::{Claim, Claims, TaskResult, has_nonce};
use crate::repository::attempts::Kept;
use crate::repository::core::now;
use crate::repository::model::ops::Step;
use crate::repository::model::ticket::{Outcome, Posted, Ticket};
use crate::repository::store::EpochPin;
use crate::repository::{Error, Result};
use crate::storage::{Commit, Entry};

/// Races lost against others that change the entry of a build to which tasks are added.
const RACES_MAX: u32 = 1000;

impl Claims {
    /// The one commit of a result, as it is then: the ticket, and the build's entry if tasks are added to that. The
    /// ticket as it stands after it, and what became of the commit.
    pub(super) async fn commit_outcome(
        &self,
        claim: &Arc<Claim>,
        pin: &EpochPin,
        kept: &Kept,
        result: TaskResult,
    ) -> Result<(Posted, Result<Commit>)> {
        let nonce = &claim.nonce;
        let ours = |entry: Option<&Entry>| {
            entry.map_or(claim.ticket.is_notification(), |e| {
                has_nonce(e, nonce) && serde_json::from_slice(&e.data).is_ok_and(|t: Ticket| t.outcome.is_some())
            })
        };
        if let Some(stands) = self.stands(claim).await? {
            return Ok((stands, Ok(Commit::Done)));
        }
        let adding = self.adding(claim, &result).await?;
        // Those of this mount that add to one build would lose to each other, each time with all that they read.
        let owner = claim.ticket.owner.unwrap_or(claim.ticket.uid);
        let _turn = match &adding {
            Some(Adding { part, .. }) => Some(self.adders.turn("tasks.json", owner, &part.uid, part.build).await?),
            None => None,
        };
        for _ in 0..RACES_MAX {
            let (result, grown) = self.grown(claim, result.clone(), adding.as_ref()).await?;
            let outcome = Outcome {
                verdict: result.verdict,
                exit: result.exit,
                message: result.message,
                workspace: kept.workspace.map(|d| d.to_string()),
                artifacts: kept.artifacts.map(|d| d.to_string()),
                recorded: claim.recorded(),
                adds: grown.is_some(),
                finished: now(),
            };
            let Step { after: finished, ops } = claim.finished(outcome, grown.as_ref());
            let last = ops.len() - 1;
            self.certain(claim).await?;
            let commit = self.store.commit_pinned(pin, ops, &claim.key.path(), ours).await;
            match &commit {
                // Somebody else has changed the build's entry: that is no loss of the claim.
                Ok(Commit::Mismatch { index }) if grown.is_some() && *index == last => continue,
                Err(Error::TimedOut(_)) => {
                    self.indeterminate.note(claim, finished.clone());
                    claim.storing.keep();
                }
                _ => {}
            }
            return Ok((finished, commit));
        }
        Err(Error::Busy(format!(
            "{}: its build changes too fast: try again",
            claim.key
        )))
    }
}
