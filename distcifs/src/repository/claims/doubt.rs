//! Results of which nobody could say whether they were committed, until somebody can.
//!
//! A commit that is under way when the coordinator loses its majority is told as unknown after ten
//! seconds. If it took effect after all, and the claim ended with its session meanwhile, the claimant
//! comes back to a ticket that it has finished.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use super::Claim;
use crate::repository::core::lock;
use crate::repository::tickets::{Posted, TicketKey};
use crate::repository::{Repository, Result};

/// Results in doubt: each had a claimant that waited ten seconds for it.
const DOUBTS_MAX: usize = 1024;

/// Results in doubt, with the ticket as it is if they stand.
#[derive(Default)]
pub(crate) struct Doubts(Mutex<HashMap<TicketKey, (Arc<Claim>, Posted)>>);

impl Doubts {
    /// Notes one.
    pub(super) fn note(&self, claim: &Arc<Claim>, finished: Posted) {
        let mut doubts = lock(&self.0);
        if doubts.len() < DOUBTS_MAX || doubts.contains_key(&claim.key) {
            doubts.insert(claim.key.clone(), (claim.clone(), finished));
        }
    }

    /// It is known now.
    pub(super) fn settle(&self, key: &TicketKey) {
        lock(&self.0).remove(key);
    }

    fn get(&self, key: &TicketKey) -> Option<(Arc<Claim>, Posted)> {
        lock(&self.0).get(key).cloned()
    }
}

impl Repository {
    /// A ticket that is gone, as it was last, for whoever still looks at it; `created` tells it from
    /// another of its name. A result in doubt is looked for in the build's record.
    pub async fn gone_ticket(&self, key: &TicketKey, created: u64) -> Result<Option<Posted>> {
        if let Some((claim, finished)) = self.doubts.get(key) {
            if self.is_recorded(&claim).await? {
                self.gone.remember(key, finished);
            }
            self.doubts.settle(key);
        }
        Ok(self.gone.get(key, created))
    }
}
