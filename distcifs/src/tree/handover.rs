//! Handing a claimed ticket over: its folders show their owners where somebody else has his ids.
//!
//! A worker that is root keeps a foreign script from being root by running it under other ids. The
//! script must own the files that it works on, and they must come back as the worker's: so the ids
//! are moved as they are shown, and not on the disk, as an idmapped mount would do it.

use std::sync::Arc;
use std::time::Duration;

use super::node::TicketRef;
use super::work::{Attempt, Shift};
use super::{Caller, Error, Invalidation, Result, SetAttr, Tree};
use crate::repository::core::lock;

/// How long the kernel may take to forget the owners it knows: it writes back what was changed.
const FORGET_MAX: Duration = Duration::from_secs(5);

impl Tree {
    /// chown of a ticket's folder, by the claimant: its workspace and artifacts show user and group
    /// 0 as the ones given, 1 as the next ones, and so on; 0 takes that back.
    pub(crate) async fn hand_over(&self, caller: Caller, ticket: &Arc<TicketRef>, set: &SetAttr) -> Result<()> {
        let refused = |why: &str| Error::NotPermitted(format!("{}: chown: {why}", ticket.key));
        let claim = self.claim_of(caller, ticket).await?;
        if caller.uid != 0 || claim.uid != 0 || self.owner.0 != 0 {
            return Err(refused(
                "only root, holding the claim, can hand a ticket over, on a mount of root",
            ));
        }
        let held = lock(&self.held).get(&ticket.key).cloned();
        let held = held.ok_or_else(|| Error::Stale(ticket.key.to_string()))?;
        let attempt = self.folders(&held).attempt().await?;
        let before = attempt.shift();
        attempt.set_shift(Shift {
            uid: set.uid.unwrap_or(before.uid),
            gid: set.gid.unwrap_or(before.gid),
        });
        self.forget_owners(&attempt).await;
        Ok(())
    }

    /// User and group that a claimed ticket is handed over to: its folder is shown as theirs.
    pub(crate) fn handed_to(&self, ticket: &TicketRef) -> Option<(u32, u32)> {
        let held = lock(&self.held).get(&ticket.key).cloned()?;
        let shift = held.attempt()?.shift();
        (shift != Shift::default()).then_some((shift.uid, shift.gid))
    }

    /// Has the kernel forget the attributes of an attempt's files, and waits until it has.
    async fn forget_owners(&self, attempt: &Attempt) {
        let (done, mut forgotten) = tokio::sync::mpsc::channel(1);
        for ino in self.work.inodes_of(attempt) {
            // Nobody to tell: the mount is ending.
            let _ = self.invalidate.send(Invalidation::Pages(ino, done.clone()));
        }
        drop(done);
        if tokio::time::timeout(FORGET_MAX, forgotten.recv()).await.is_err() {
            tracing::warn!("the kernel may show former owners of a ticket's files for some seconds");
        }
    }
}
