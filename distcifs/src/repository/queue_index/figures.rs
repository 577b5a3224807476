//! What the queue index can tell of its queues.

use std::collections::BTreeMap;
use std::time::Duration;

use super::QueueIndex;
use crate::repository::core::lock;
use crate::repository::model::skills::{Skills, Waiters};
use crate::repository::model::ticket::TicketState;
use crate::repository::names::Name;

/// How long after somebody came for a ticket it is expected back. While there are tickets for all,
/// those who work are hardly ever seen to wait, and other mounts must reckon with them all the same.
const LATELY: Duration = Duration::from_secs(3);

/// How long it is reckoned with when it is told what stands before a ticket: it may be at work.
const AT_WORK: Duration = Duration::from_secs(600);

impl QueueIndex {
    /// Waiters of a queue, in view of what a ticket needs, one a line.
    pub fn waiters(&self, queue: &str, needs: &str) -> Waiters {
        let mut waiters = Waiters::default();
        if let Some(queue) = lock(&self.queues).get(queue) {
            let all = queue.waiters.values();
            all.for_each(|waiter| waiters.add(&waiter.skills, 1, needs));
        }
        waiters
    }

    /// Notes that somebody works on a queue.
    pub(crate) fn note_worked(&self, queue: &Name) {
        lock(&self.queues).entry(queue.clone()).or_default().worked = true;
    }

    /// Whether anybody has come for a queue's tickets since this mount began, as far as it has heard.
    pub(crate) fn is_worked(&self, queue: &str) -> bool {
        lock(&self.queues).get(queue).is_some_and(|queue| queue.worked)
    }

    /// Who waits in each queue, by their labels; the first `sets` of them, of `bytes` in all. Whoever
    /// came a moment ago and has a ticket by now is there with none who waits: it comes back for more.
    pub(crate) fn waiting_sets(&self, sets: usize, bytes: usize) -> BTreeMap<String, BTreeMap<String, usize>> {
        let mut all: BTreeMap<String, BTreeMap<String, usize>> = BTreeMap::new();
        let (mut sets, mut bytes) = (sets, bytes);
        for (name, queue) in lock(&self.queues).iter_mut() {
            queue.lately.retain(|_, came| came.elapsed() < AT_WORK);
            let waiting = queue.waiters.values().map(|waiter| (waiter.skills.text(), 1));
            let lately = queue.lately.iter().filter(|(_, came)| came.elapsed() < LATELY);
            let lately = lately.map(|(labels, _)| (labels.clone(), 0));
            for (labels, count) in waiting.chain(lately) {
                let cost = name.as_str().len() + labels.len() + 16;
                let known = all.get(name.as_str()).is_some_and(|queue| queue.contains_key(&labels));
                if !known && (sets == 0 || bytes < cost) {
                    continue;
                }
                if !known {
                    (sets, bytes) = (sets - 1, bytes - cost);
                }
                *all.entry(name.to_string()).or_default().entry(labels).or_default() += count;
            }
        }
        all
    }

    /// Whether a ticket stands open that a worker with these labels may take.
    pub fn has_open(&self, queue: &Name, labels: &[String]) -> bool {
        let queues = lock(&self.queues);
        let Some(queue) = queues.get(queue) else { return false };
        queue.open.has_for(&Skills::new(labels.iter().map(String::as_str)))
    }

    /// Open, claimed and finished tickets of each queue.
    pub fn figures(&self) -> Vec<(Name, [usize; 3], usize)> {
        let queues = lock(&self.queues);
        let mut figures: Vec<_> = queues
            .iter()
            .map(|(name, queue)| {
                let count = |state| queue.tickets.values().filter(|summary| summary.state == state).count();
                let counts = [TicketState::Open, TicketState::Claimed, TicketState::Finished].map(count);
                (name.clone(), counts, queue.waiters.len())
            })
            .collect();
        figures.sort();
        figures
    }
}
