//! Builds and tasks of a job whose bound has changed: those of before hold places of which the new bound knows nothing.

use std::collections::HashSet;

use super::{Queue, QueueIndex, TicketSummary};
use crate::repository::core::lock;
use crate::repository::model::build::live_path;
use crate::repository::model::ticket::{CONTROL_QUEUE, Posted, TicketKey, TicketState};
use crate::repository::names::{Name, TicketId};

/// By what builds wait for a slot of their job: those of strangers have slots of their own, and whoever waits for one of
/// these is none of those who wait for the job's.
pub(in crate::repository) fn bound_of(uid: &str, untrusted: bool) -> String {
    let mark = if untrusted { "!" } else { "" };
    format!("{uid}{mark}")
}

impl TicketSummary {
    /// Whether two tickets of a queue are bounded otherwise; see
    /// [`is_bounded_otherwise`](crate::repository::model::group::is_bounded_otherwise).
    pub(in crate::repository) fn is_bounded_otherwise(&self, other: &TicketSummary) -> bool {
        let same = self.job.is_some() && self.job == other.job && self.untrusted == other.untrusted;
        same && match (&self.group, &other.group) {
            (Some(group), Some(another)) => {
                self.lane.owner != other.lane.owner
                    && group.of_builds == another.of_builds
                    && (group.of_builds || group.name == another.name)
            }
            (Some(group), None) | (None, Some(group)) => group.of_builds,
            (None, None) => false,
        }
    }
}

impl Queue {
    /// The tickets that one waits for, as they are older, have not ended, and are bounded otherwise.
    fn of_another_bound(&self, summary: &TicketSummary) -> impl Iterator<Item = (u64, &TicketId)> {
        let before = |other: &TicketSummary| {
            other.state != TicketState::Finished
                && other.created < summary.created
                && summary.is_bounded_otherwise(other)
        };
        let found = self.tickets.iter().filter(move |(_, other)| before(other));
        found.map(|(id, other)| (other.created, id))
    }

    /// Opens what waited for a build to end that has, as it is bounded otherwise: all that are in groups, and of those
    /// that a number bounds the oldest, as each of them lets the next one try. Whether there was any.
    ///
    /// Whoever waits is set aside by its own bound, whatever it waits for: that may become another meanwhile.
    pub(super) fn unpark_after(&mut self, ended: &TicketSummary) -> bool {
        let mut opened = Vec::new();
        for (bound, parked) in &self.parked {
            let waits = |(_, id): &&(u64, TicketId)| {
                let summary = self.tickets.get(id);
                summary.is_some_and(|summary| ended.is_bounded_otherwise(summary))
            };
            let mut waits = parked.iter().filter(waits).peekable();
            let first = waits.peek().and_then(|(_, id)| self.tickets.get(id));
            let most = if first.is_some_and(|first| first.group.is_some()) {
                usize::MAX
            } else {
                1
            };
            let waits = waits.take(most);
            opened.extend(waits.map(|(created, id)| (bound.clone(), *created, id.clone())));
        }
        for (bound, created, id) in &opened {
            if let Some(parked) = self.parked.get_mut(bound) {
                parked.remove(&(*created, id.clone()));
            }
            if let Some(summary) = self
                .tickets
                .get(id)
                .filter(|summary| summary.state == TicketState::Open)
            {
                self.open.insert(&summary.lane, *created, id.clone());
            }
        }
        self.parked.retain(|_, parked| !parked.is_empty());
        !opened.is_empty()
    }
}

impl QueueIndex {
    /// Whether a ticket is set aside until a place is free.
    #[cfg(test)]
    pub(crate) fn is_parked(&self, key: &TicketKey) -> bool {
        let queues = lock(&self.queues);
        let mut parked = queues
            .get(&key.queue)
            .into_iter()
            .flat_map(|queue| queue.parked.values());
        parked.any(|parked| parked.iter().any(|(_, id)| *id == key.id))
    }

    /// Those of some builds of the job with this uid that are not known here.
    pub(crate) fn unknown_builds(&self, uid: &str, mut numbers: Vec<u64>) -> Vec<u64> {
        let Some(name) = Name::new(CONTROL_QUEUE) else {
            return numbers;
        };
        let queues = lock(&self.queues);
        let summaries = queues.get(&name).into_iter().flat_map(|queue| queue.tickets.values());
        let of_job = summaries.filter(|summary| summary.job.as_deref() == Some(uid));
        let known: HashSet<&str> = of_job.filter_map(|summary| summary.build.as_deref()).collect();
        numbers.retain(|n| !known.contains(live_path(uid, *n).as_str()));
        numbers
    }

    /// The tickets that this one waits for, as their job's bound was another when they were triggered, the oldest first.
    pub(crate) fn of_another_bound(&self, key: &TicketKey, posted: &Posted) -> Vec<TicketId> {
        let summary = TicketSummary::of(&posted.ticket, posted.created);
        let queues = lock(&self.queues);
        let of_queue = queues.get(&key.queue).into_iter();
        let mut found: Vec<_> = of_queue.flat_map(|queue| queue.of_another_bound(&summary)).collect();
        found.sort_unstable();
        found.into_iter().map(|(_, id)| id.clone()).collect()
    }
}
