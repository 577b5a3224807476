//! The claims that this mount holds.

use std::sync::Arc;

use super::{Claim, Claims};
use crate::repository::core::lock;
use crate::repository::model::ticket::{Part, TicketKey};

impl Claims {
    /// The claim held here on a ticket.
    pub fn get(&self, key: &TicketKey) -> Option<Arc<Claim>> {
        lock(&self.held).get(key).cloned()
    }

    /// The claims held here.
    pub(crate) fn all(&self) -> Vec<Arc<Claim>> {
        lock(&self.held).values().cloned().collect()
    }

    /// Number of claims held here.
    pub fn len(&self) -> usize {
        lock(&self.held).len()
    }

    /// Whether none is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Those that belong to another session than this one.
    pub(crate) fn not_of(&self, session: Option<u64>) -> Vec<Arc<Claim>> {
        let claims = lock(&self.held);
        let lost = claims.values().filter(|claim| Some(claim.session) != session);
        lost.cloned().collect()
    }

    /// Those of a build's tasks.
    pub(crate) fn of_build(&self, uid: &str, n: u64) -> Vec<Arc<Claim>> {
        let of = |claim: &&Arc<Claim>| {
            let part = claim.ticket.part.as_ref();
            part.is_some_and(|part| part.task.is_some() && part.build == n && part.uid == uid)
        };
        lock(&self.held).values().filter(of).cloned().collect()
    }

    /// The tasks whose tickets are claimed here.
    pub(crate) fn parts(&self) -> Vec<Part> {
        let claims = lock(&self.held);
        let parts = claims.values().filter_map(|claim| claim.ticket.part.clone());
        parts.filter(|part| part.task.is_some()).collect()
    }

    /// Forgets a claim, unless another has taken its place.
    pub(super) fn remove(&self, claim: &Claim) {
        let mut claims = lock(&self.held);
        if claims.get(&claim.key).is_some_and(|held| held.nonce == claim.nonce) {
            claims.remove(&claim.key);
        }
    }
}
