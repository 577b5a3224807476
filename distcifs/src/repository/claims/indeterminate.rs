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
use crate::repository::model::ticket::{Posted, TicketKey};

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
