//! The session with the coordinator, and what its loss takes with it.

use std::sync::Arc;

use super::{Claim, Claims};
use crate::repository::deadline::{Deadline, STORE_TIMEOUT};
use crate::repository::model::claim::Cause;
use crate::repository::store::{Store, session_of};
use crate::repository::{Error, Result};
use crate::storage::Session;

impl Claim {
    /// `Stale` unless it is held in a session that lives: for what is written without the
    /// coordinator. A mount that was stopped for long meets this before it has noticed anything.
    pub(crate) fn check_in(&self, store: &Store) -> Result<()> {
        self.check()?;
        match store.session() {
            Some(id) if id == self.session => Ok(()),
            _ => Err(Error::claim_lost(&self.key)),
        }
    }
}

impl Claims {
    /// Ends the claims of sessions that are over, as long as the store is open.
    pub(crate) async fn keep_session(self: Arc<Self>) {
        let mut session = self.store.coordination.session();
        loop {
            let now = session_of(&session.borrow_and_update());
            // It comes out of a doubt, or is another: what was told meanwhile was not heard here.
            self.store.entry_cache.forget_below("/");
            for claim in self.held.not_of(now) {
                self.end_claim(&claim, Cause::Session).await;
            }
            if session.changed().await.is_err() {
                return;
            }
        }
    }

    /// Waits, before a result is committed, until it is certain whether the claim's session lives.
    ///
    /// # Errors
    /// `Stale` if it does not, `TimedOut` if that stays unknown: the claim may still hold.
    pub(crate) async fn certain(&self, claim: &Claim) -> Result<()> {
        let mut session = self.store.coordination.session();
        let known = session.wait_for(|now| !matches!(now, Session::Doubtful { .. }));
        let now = match Deadline::after(STORE_TIMEOUT).wait(known).await {
            Some(Ok(now)) => *now,
            // The store is being closed, and its session with it.
            Some(Err(_)) => return Err(Error::claim_lost(&claim.key)),
            None => {
                return Err(Error::TimedOut(
                    format!(
                        "{}: nothing was heard of the coordinator within {} s",
                        claim.key,
                        STORE_TIMEOUT.as_secs()
                    )
                    .into(),
                ));
            }
        };
        match now {
            Session::Live { id } if id == claim.session => Ok(()),
            _ => Err(Error::claim_lost(&claim.key)),
        }
    }
}
