//! Builds of a job whose bound has changed: those of before hold places of which the new bound knows nothing.

use std::collections::BTreeMap;
use std::mem;

use super::{Queue, QueueIndex, TicketSummary};
use crate::repository::core::lock;
use crate::repository::model::ticket::{CONTROL_QUEUE, Posted, TicketKey, TicketState};
use crate::repository::names::TicketId;

impl TicketSummary {
    /// Whether two builds are of one job, and their places are none of each other's: one is in a group and the other
    /// is not, or their groups are those of two owners.
    fn is_bounded_otherwise(&self, other: &TicketSummary) -> bool {
        let same = self.job.is_some() && self.job == other.job && self.untrusted == other.untrusted;
        same && match (&self.group, &other.group) {
            (Some(_), Some(_)) => self.lane.owner != other.lane.owner,
            (one, another) => one.is_some() != another.is_some(),
        }
    }
}

impl Queue {
    /// The builds that one waits for, as they are older, have not ended, and are bounded otherwise.
    fn of_another_bound(&self, summary: &TicketSummary) -> impl Iterator<Item = (u64, &TicketId)> {
        let before = |other: &TicketSummary| {
            other.state != TicketState::Finished
                && other.created < summary.created
                && summary.is_bounded_otherwise(other)
        };
        let found = self.tickets.iter().filter(move |(_, other)| before(other));
        found.map(|(id, other)| (other.created, id))
    }

    /// Whether there is one of them.
    pub(super) fn has_another_bound(&self, summary: &TicketSummary) -> bool {
        self.of_another_bound(summary).next().is_some()
    }

    /// Opens what waited for a build of this job to end: the oldest of those that its number bounds, each of which lets
    /// the next one try, and all that are in groups, of which each would wait for another name. Whether there was any.
    fn unpark_all_of(&mut self, job: &str) -> bool {
        let Some(parked) = self.parked.get_mut(job) else {
            return false;
        };
        let tickets = &self.tickets;
        let is_grouped = |id: &TicketId| tickets.get(id).is_some_and(|summary| summary.group.is_some());
        let (grouped, others): (BTreeMap<_, _>, BTreeMap<_, _>) =
            mem::take(parked).into_iter().partition(|(_, id)| is_grouped(id));
        *parked = others;
        for (created, id) in grouped {
            if let Some(summary) = self
                .tickets
                .get(&id)
                .filter(|summary| summary.state == TicketState::Open)
            {
                self.open.insert(&summary.lane, created, id);
            }
        }
        self.unpark(job)
    }
}

impl QueueIndex {
    /// The builds that this one waits for, as their job's bound was another when they were triggered, the oldest first.
    pub(crate) fn of_another_bound(&self, key: &TicketKey, posted: &Posted) -> Vec<TicketId> {
        if key.queue.as_str() != CONTROL_QUEUE {
            return Vec::new();
        }
        let summary = TicketSummary::of(&posted.ticket, posted.created);
        let queues = lock(&self.queues);
        let of_queue = queues.get(&key.queue).into_iter();
        let mut found: Vec<_> = of_queue.flat_map(|queue| queue.of_another_bound(&summary)).collect();
        found.sort_unstable();
        found.into_iter().map(|(_, id)| id.clone()).collect()
    }

    /// Opens what waited for a build of this job to end, which has.
    pub(super) fn unpark_all_of(&self, job: &str) {
        let mut freed = Vec::new();
        for (name, queue) in lock(&self.queues).iter_mut() {
            if queue.unpark_all_of(job) {
                freed.push(name.clone());
            }
        }
        freed.iter().for_each(|queue| self.poke(queue));
    }
}
