//! The claims that this mount holds.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use super::Claim;
use crate::repository::Result;
use crate::repository::core::lock;
use crate::repository::model::claim::{ClaimEntry, ClaimState};
use crate::repository::model::json::from_json;
use crate::repository::model::ticket::{BuildRef, Posted, TicketKey, TicketState};
use crate::repository::store::Store;
use crate::repository::tickets::Claimed;

/// The claims that this mount holds, by ticket.
pub struct Held {
    store: Arc<Store>,
    /// The truth is the claim's entry, which goes with its session: a result checks it, whatever stands here.
    claims: Mutex<HashMap<TicketKey, Arc<Claim>>>,
}

impl Claimed for Held {
    fn held(&self, key: &TicketKey) -> Option<Posted> {
        self.beyond_doubt(key).map(|claim| claim.posted())
    }
}

impl Held {
    /// The claim on a ticket that was seen like this, whoever holds it.
    pub async fn entry_of(&self, key: &TicketKey, posted: &Posted) -> Result<Option<ClaimEntry>> {
        if posted.ticket.state != TicketState::Claimed {
            return Ok(None);
        }
        if let Some(claim) = self.beyond_doubt(key) {
            return Ok(Some(ClaimEntry::of(&claim.ticket, claim.who())));
        }
        let entry = self.store.get(&key.claim_path()).await?;
        entry.map(|entry| from_json(&key.claim_path(), &entry.data)).transpose()
    }

    /// None yet.
    pub(crate) fn new(store: Arc<Store>) -> Arc<Self> {
        Arc::new(Held {
            store,
            claims: Mutex::default(),
        })
    }

    /// The claim on a ticket, if it is held here beyond doubt.
    pub(crate) fn beyond_doubt(&self, key: &TicketKey) -> Option<Arc<Claim>> {
        let held = |claim: &Arc<Claim>| claim.state() == ClaimState::Live && self.store.is_in_touch();
        self.get(key).filter(held)
    }

    /// Keeps a claim.
    pub(super) fn insert(&self, claim: &Arc<Claim>) {
        lock(&self.claims).insert(claim.key.clone(), claim.clone());
    }

    /// The claim held here on a ticket.
    pub fn get(&self, key: &TicketKey) -> Option<Arc<Claim>> {
        lock(&self.claims).get(key).cloned()
    }

    /// The claims held here.
    pub(crate) fn all(&self) -> Vec<Arc<Claim>> {
        lock(&self.claims).values().cloned().collect()
    }

    /// Number of claims held here.
    pub fn len(&self) -> usize {
        lock(&self.claims).len()
    }

    /// Whether none is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Those that belong to another session than this one.
    pub(crate) fn not_of(&self, session: Option<u64>) -> Vec<Arc<Claim>> {
        let claims = lock(&self.claims);
        let lost = claims.values().filter(|claim| Some(claim.session) != session);
        lost.cloned().collect()
    }

    /// Those of a build's tasks.
    pub(crate) fn of_build(&self, uid: &str, n: u64) -> Vec<Arc<Claim>> {
        let of = |claim: &&Arc<Claim>| {
            let part = claim.ticket.part.as_ref();
            part.is_some_and(|part| part.task.is_some() && part.build == n && part.uid == uid)
        };
        lock(&self.claims).values().filter(of).cloned().collect()
    }

    /// The tasks whose tickets are claimed here.
    pub(crate) fn parts(&self) -> Vec<BuildRef> {
        let claims = lock(&self.claims);
        let parts = claims.values().filter_map(|claim| claim.ticket.part.clone());
        parts.filter(|part| part.task.is_some()).collect()
    }

    /// Forgets a claim, unless another has taken its place.
    pub(super) fn remove(&self, claim: &Claim) {
        let mut claims = lock(&self.claims);
        if claims.get(&claim.key).is_some_and(|held| held.nonce == claim.nonce) {
            claims.remove(&claim.key);
        }
    }
}
