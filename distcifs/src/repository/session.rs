//! The session with the coordinator, and what its loss takes with it.

use std::sync::Arc;

use super::claims::Claim;
use super::model::claim::Cause;
use super::patience::STORE_TIMEOUT;
use super::{Error, Repository, Result};
use crate::storage::Session;

impl Repository {
    /// The session in which a claim is made now.
    ///
    /// # Errors
    /// `Io` while there is none.
    pub(crate) fn current_session(&self) -> Result<u64> {
        let session = *self.coordination.session().borrow();
        session_of(&session)
            .ok_or_else(|| Error::Io("the session with the coordinator is over; a new one is on its way".into()))
    }

    /// `Stale` unless the claim is held in a session that lives: for what is written without the
    /// coordinator. A mount that was stopped for long meets this before it has noticed anything.
    pub(crate) fn check_claim(&self, claim: &Claim) -> Result<()> {
        claim.check()?;
        match session_of(&self.coordination.session().borrow()) {
            Some(id) if id == claim.session => Ok(()),
            _ => Err(Error::claim_lost(&claim.key)),
        }
    }

    /// Whether the session is beyond doubt.
    pub(crate) fn is_in_touch(&self) -> bool {
        matches!(*self.coordination.session().borrow(), Session::Live { .. })
    }

    /// Ends the claims of sessions that are over, as long as the store is open.
    pub(crate) async fn keep_session(self: Arc<Self>) {
        let mut session = self.coordination.session();
        loop {
            let now = session_of(&session.borrow_and_update());
            // It comes out of a doubt, or is another: what was told meanwhile was not heard here.
            self.remembered.forget_below("/");
            for claim in self.claims.not_of(now) {
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
        let mut session = self.coordination.session();
        let known = session.wait_for(|now| !matches!(now, Session::Doubtful { .. }));
        let now = match tokio::time::timeout(STORE_TIMEOUT, known).await {
            Ok(Ok(now)) => *now,
            // The store is being closed, and its session with it.
            Ok(Err(_)) => return Err(Error::claim_lost(&claim.key)),
            Err(_) => {
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

/// The session that is alive, if one is.
pub(crate) fn session_of(session: &Session) -> Option<u64> {
    match session {
        Session::Live { id } | Session::Doubtful { id } => Some(*id),
        Session::Lost { .. } => None,
    }
}
