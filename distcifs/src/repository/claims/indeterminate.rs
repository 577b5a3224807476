//! Indeterminate results: those of which nobody could say whether they were committed, until somebody can.
//!
//! A commit that is under way when the coordinator loses its majority is told as unknown after ten
//! seconds. If it took effect after all, and the claim ended with its session meanwhile, the claimant
//! comes back to a ticket that it has finished.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use super::{Claim, Claims};
use crate::repository::Result;
use crate::repository::core::lock;
use crate::repository::model::ticket::{Posted, TicketKey, ticket_of};

/// Indeterminate results: each had a claimant that waited ten seconds for it. Past it the oldest goes, whose
/// claimant has not come back.
const INDETERMINATE_MAX: usize = 1024;

/// Indeterminate results, with the ticket as it is if they stand.
#[derive(Default)]
pub(super) struct IndeterminateResults(Mutex<VecDeque<(Arc<Claim>, Posted)>>);

impl IndeterminateResults {
    /// Notes one.
    pub(super) fn note(&self, claim: &Arc<Claim>, finished: Posted) {
        self.settle(&claim.key, claim.created);
        let mut results = lock(&self.0);
        if results.len() >= INDETERMINATE_MAX {
            results.pop_front();
        }
        results.push_back((claim.clone(), finished));
    }

    /// It is known now; `created` tells the ticket from another of its name.
    pub(super) fn settle(&self, key: &TicketKey, created: u64) {
        lock(&self.0).retain(|(claim, _)| claim.created != created || claim.key != *key);
    }

    fn get(&self, key: &TicketKey, created: u64) -> Option<(Arc<Claim>, Posted)> {
        let results = lock(&self.0);
        let found = results
            .iter()
            .find(|(claim, _)| claim.created == created && claim.key == *key);
        found.cloned()
    }
}

impl Claims {
    /// The ticket with the result of a claim, if an earlier try of which nobody knew took effect. To make another one of
    /// it would find the tasks that it added, and take them for others of the same names.
    pub(super) async fn stands(&self, claim: &Claim) -> Result<Option<Posted>> {
        let Some((_, finished)) = self.indeterminate.get(&claim.key, claim.created) else {
            return Ok(None);
        };
        match self.store.get_anew(&claim.key.path()).await? {
            Some(entry) => {
                let posted = ticket_of(&claim.key.to_string(), &entry)?;
                let ticket = &posted.ticket;
                let is_ours = ticket.nonce == claim.nonce && ticket.outcome.is_some();
                Ok(is_ours.then_some(posted))
            }
            // Tidied away with its build by now.
            None => Ok(self.is_recorded(claim).await?.then_some(finished)),
        }
    }

    /// A ticket that is gone, as it was last, for whoever still looks at it; `created` tells it from
    /// another of its name. An indeterminate result is looked for in the build's record.
    pub async fn gone_ticket(&self, key: &TicketKey, created: u64) -> Result<Option<Posted>> {
        if let Some((claim, finished)) = self.indeterminate.get(key, created) {
            if self.is_recorded(&claim).await? {
                self.tickets.tombstones.remember(key, finished);
            }
            self.indeterminate.settle(key, created);
        }
        Ok(self.tickets.tombstones.get(key, created))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use crate::backend::memory::Memory;
    use crate::repository::claims::TaskResult;
    use crate::repository::model::ticket::Verdict;
    use crate::repository::tests::{claimant, control_key, job, open, post, poster, runtime, task_key};
    use crate::storage::Commit;

    /// "A second result is EEXIST only for one whose own result stands", and that is what it is: written again after a
    /// try of which nobody knew, it is not held against the tasks that it added itself.
    #[test]
    fn a_result_that_stood_is_not_made_again() {
        let dir = tempfile::tempdir().unwrap();
        runtime().block_on(async {
            let here = open(&Memory::new().mount(), dir.path()).await.unwrap();
            let job = job(&here, "a").await.unwrap();
            let n = here.builds.trigger(&job, b"", poster()).await.unwrap();
            let claims = &here.claims;
            let _control = claims.claim(&control_key(&job, n), claimant()).await.unwrap();
            post(&here, &job, n).await.unwrap();
            let claim = claims.claim(&task_key(&job, n), claimant()).await.unwrap();
            let text = br#"{"tasks": [{"type": "execute-shell", "name": "added", "params": {"script": "true"}}]}"#;
            let held = std::sync::Arc::new(());
            claims
                .write_tasks(&claim, Bytes::from_static(text), held)
                .await
                .unwrap();
            let pin = here.store.pin_epoch().await.unwrap();
            let kept = claims.capture_folders(&claim).await.unwrap();
            let mut verdicts = Vec::new();
            for _ in 0..2 {
                let success = TaskResult::read(b"0").unwrap();
                let (finished, commit) = claims.commit_outcome(&claim, &pin, &kept, success).await.unwrap();
                assert_eq!(commit.unwrap(), Commit::Done);
                let outcome = finished.ticket.outcome.clone().unwrap();
                verdicts.push((outcome.verdict, outcome.adds));
                claims.indeterminate.note(&claim, finished);
            }
            assert_eq!(verdicts, [(Verdict::Success, true); 2]);
        });
    }
}
