//! What the board can tell of its queues.

use std::collections::BTreeMap;

use super::{Board, Skills};
use crate::repository::core::lock;
use crate::repository::names::Name;
use crate::repository::tickets::TicketState;

impl Board {
    /// Waiters of a queue, and how many of them have all that a ticket needs, one a line.
    pub fn waiters(&self, queue: &str, needs: &str) -> (usize, usize) {
        let queues = lock(&self.queues);
        let Some(queue) = queues.get(queue) else { return (0, 0) };
        let able = queue.waiters.values().filter(|waiter| waiter.skills.meet(needs));
        (queue.waiters.len(), able.count())
    }

    /// Who waits in each queue, by their labels; the first `sets` of them, of `bytes` in all.
    pub(crate) fn waiting_sets(&self, sets: usize, bytes: usize) -> BTreeMap<String, BTreeMap<String, usize>> {
        let mut all: BTreeMap<String, BTreeMap<String, usize>> = BTreeMap::new();
        let (mut sets, mut bytes) = (sets, bytes);
        for (name, queue) in lock(&self.queues).iter() {
            for waiter in queue.waiters.values() {
                let mut labels: Vec<&str> = waiter.skills.labels().collect();
                labels.sort_unstable();
                let labels = labels.join(" ");
                let cost = name.as_str().len() + labels.len() + 16;
                let known = all.get(name.as_str()).is_some_and(|queue| queue.contains_key(&labels));
                if !known && (sets == 0 || bytes < cost) {
                    continue;
                }
                if !known {
                    (sets, bytes) = (sets - 1, bytes - cost);
                }
                *all.entry(name.to_string()).or_default().entry(labels).or_default() += 1;
            }
        }
        all
    }

    /// Whether a ticket stands open that a worker with these labels may take.
    pub fn has_open(&self, queue: &Name, labels: &[Name]) -> bool {
        let queues = lock(&self.queues);
        let Some(queue) = queues.get(queue) else { return false };
        let skills = Skills::new(labels.iter().map(Name::as_str));
        queue
            .open
            .iter()
            .any(|(needs, open)| !open.is_empty() && skills.meet(needs))
    }

    /// Open, claimed and finished tickets of each queue.
    pub fn figures(&self) -> Vec<(Name, [usize; 3], usize)> {
        let queues = lock(&self.queues);
        let mut figures: Vec<_> = queues
            .iter()
            .map(|(name, queue)| {
                let count = |state| queue.tickets.values().filter(|line| line.state == state).count();
                let counts = [TicketState::Open, TicketState::Claimed, TicketState::Finished].map(count);
                (name.clone(), counts, queue.waiters.len())
            })
            .collect();
        figures.sort();
        figures
    }
}
