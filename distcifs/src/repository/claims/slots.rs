//! Places of a job's `concurrency`: each build holds one from its claim to its end.

use crate::repository::model::json::to_json;
use crate::repository::model::ops::{create, delete};
use crate::repository::model::ticket::{Part, Ticket, TicketKey, TicketState};
use crate::repository::{Error, Repository, Result};
use crate::storage::Op;

impl Repository {
    /// A free slot of the job's `concurrency`, written into the ticket; nothing if it has none.
    pub(super) async fn slot_for(&self, key: &TicketKey, ticket: &mut Ticket) -> Result<Option<Op>> {
        let Some(part) = &ticket.part else { return Ok(None) };
        let Some(bound) = self.concurrency_of(part).await? else {
            return Ok(None);
        };
        let slot = self.free_slot_of(key, part, bound).await?;
        let slot =
            slot.ok_or_else(|| Error::Busy(format!("jobs/{}: {bound} builds run already (concurrency)", part.job)))?;
        let path = format!("/jobs/{}/slot-{slot}", part.uid);
        let build = to_json(&part.build);
        ticket.slot = Some(slot);
        Ok(Some(create(path, build)))
    }

    /// A slot of a job's `concurrency` for this ticket: a free one that no older build waits for.
    async fn free_slot_of(&self, key: &TicketKey, part: &Part, bound: u32) -> Result<Option<u32>> {
        let taken: Vec<String> = self.children(&format!("/jobs/{}", part.uid)).await?;
        let mut free = (0..bound).filter(|i| !taken.contains(&format!("slot-{i}")));
        let older = self
            .board
            .older(key, &part.uid, usize::try_from(bound).unwrap_or(usize::MAX));
        Ok(free.nth(older))
    }

    /// Whether a build could begin as far as its job's `concurrency` goes.
    pub(crate) async fn has_slot(&self, key: &TicketKey, part: &Part) -> Result<bool> {
        match self.concurrency_of(part).await? {
            Some(bound) => Ok(self.free_slot_of(key, part, bound).await?.is_some()),
            None => Ok(true),
        }
    }
}

/// The removal of the slot that a finished build-control ticket held.
pub(super) fn free_slot(ticket: &Ticket) -> Option<Op> {
    let (Some(Part { uid, .. }), Some(slot), TicketState::Finished) = (&ticket.part, ticket.slot, ticket.state) else {
        return None;
    };
    Some(delete(format!("/jobs/{uid}/slot-{slot}"), None))
}

/// The check that a ticket is the one that was read. A job that was removed and made again under its name has
/// tickets of the same names, and one that stands alone can be posted again under its id: their entries may
/// have the same versions.
pub(crate) fn same_ticket(key: &TicketKey, ticket: &Ticket) -> Option<Op> {
    let path = match &ticket.part {
        Some(part) => format!("/keys/{}", part.uid),
        None => ticket.post_path(key)?,
    };
    let version = None;
    Some(Op::Check { path, version })
}
