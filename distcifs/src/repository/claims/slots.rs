//! Places of a job's `concurrency`: each build holds one from its claim to its end.

use super::Claims;
use crate::repository::model::keys::Key;
use crate::repository::model::ticket::{CONTROL_QUEUE, Part, Ticket, TicketKey};
use crate::repository::{Error, Result};

impl Claims {
    /// A free slot of the job's `concurrency`, for a build's own ticket that holds none yet; nothing if the job
    /// has no bound.
    pub(super) async fn slot_for(&self, key: &TicketKey, ticket: &Ticket) -> Result<Option<u32>> {
        let part = ticket.part.as_ref();
        let part = part.filter(|_| key.queue.as_str() == CONTROL_QUEUE && ticket.slot.is_none());
        let Some(part) = part else { return Ok(None) };
        let Some(bound) = self.builds.concurrency_of(part).await? else {
            return Ok(None);
        };
        match self.free_slot_of(key, part, bound).await? {
            Some(slot) => Ok(Some(slot)),
            None => Err(Error::Busy(format!(
                "jobs/{}: {bound} builds run already (concurrency)",
                part.job
            ))),
        }
    }

    /// A slot of a job's `concurrency` for this ticket: a free one that no older build waits for.
    async fn free_slot_of(&self, key: &TicketKey, part: &Part, bound: u32) -> Result<Option<u32>> {
        let taken: Vec<String> = self.store.children(&Key::Job(&part.uid).path()).await?;
        let mut free = (0..bound).filter(|i| !taken.contains(&format!("slot-{i}")));
        let older = self
            .outlook
            .older(key, &part.uid, usize::try_from(bound).unwrap_or(usize::MAX));
        Ok(free.nth(older))
    }

    /// Whether a build could begin as far as its job's `concurrency` goes.
    pub(crate) async fn has_slot(&self, key: &TicketKey, part: &Part) -> Result<bool> {
        match self.builds.concurrency_of(part).await? {
            Some(bound) => Ok(self.free_slot_of(key, part, bound).await?.is_some()),
            None => Ok(true),
        }
    }
}
