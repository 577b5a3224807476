//! Handing a claimed ticket over: its folders show their owners where somebody else has his ids.
//!
//! A worker that is root keeps a foreign script from being root by running it under other ids. The
//! script must own the files that it works on, and they must come back as the worker's: so the ids
//! are moved as they are shown, and not on the disk, as an idmapped mount would do it.
//!
//! Work outside an isolation is done as the job's owner: everything is shown as that user's, and what
//! is made stands as of 0, so that tasks of different users can follow each other.

use std::sync::Arc;
use std::time::Duration;

use super::node::TicketRef;
use super::work::{Attempt, Shift};
use super::{Caller, Deadline, Error, Invalidation, Result, SetAttr, Tree};
use crate::repository::core::lock;

/// How long the kernel may take to forget the owners it knows: it writes back what was changed.
const FORGET_MAX: Duration = Duration::from_secs(5);

/// What a ticket is handed over to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum To {
    /// Ids of an isolation: user and group 0 are shown as the ones given, 1 as the next ones, and so on.
    Range,
    /// One user, to whom everything belongs.
    User,
}

impl Tree {
    /// chown by the claimant: of a ticket's folder (a range of ids), or of its `claim` (one user).
    /// User and group 0 take it back.
    pub(crate) async fn hand_over(&self, caller: Caller, ticket: &Arc<TicketRef>, to: To, set: &SetAttr) -> Result<()> {
        let refused = |why: &str| Error::NotPermitted(format!("{}: chown: {why}", ticket.key));
        let claim = self.claim_of(caller, ticket).await?;
        if caller.uid != 0 || claim.uid != 0 || self.owner.0 != 0 {
            return Err(refused(
                "only root, holding the claim, can hand a ticket over, on a mount of root",
            ));
        }
        let held = lock(&self.held).get(&ticket.key).cloned();
        let held = held.ok_or_else(|| Error::claim_lost(&ticket.key))?;
        let attempt = self.folders(&held).attempt().await?;
        let (uid, gid) = attempt.shift().handed_to().unwrap_or_default();
        let (uid, gid) = (set.uid.unwrap_or(uid), set.gid.unwrap_or(gid));
        attempt.set_shift(match to {
            _ if (uid, gid) == (0, 0) => Shift::None,
            To::Range => Shift::Range { uid, gid },
            To::User => Shift::All { uid, gid },
        });
        self.forget_owners(&attempt).await;
        Ok(())
    }

    /// How the ids of a claimed ticket's files are shown.
    pub(crate) fn shift(&self, ticket: &TicketRef) -> Shift {
        let held = lock(&self.held).get(&ticket.key).cloned();
        held.and_then(|held| held.attempt())
            .map_or(Shift::None, |attempt| attempt.shift())
    }

    /// Has the kernel forget the attributes of an attempt's files, and waits until it has.
    async fn forget_owners(&self, attempt: &Attempt) {
        let (done, mut forgotten) = tokio::sync::mpsc::channel(1);
        for ino in self.work.inodes_of(attempt) {
            // Nobody to tell: the mount is ending.
            let _ = self.invalidate.send(Invalidation::Pages(ino, done.clone()));
        }
        drop(done);
        if Deadline::after(FORGET_MAX).wait(forgotten.recv()).await.is_none() {
            tracing::warn!("the kernel may show former owners of a ticket's files for some seconds");
        }
    }
}
