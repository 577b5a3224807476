//! What the board can tell of its queues.

use super::Board;
use crate::repository::core::lock;
use crate::repository::names::Name;
use crate::repository::tickets::TicketState;

impl Board {
    /// Waiters of a queue, and how many of them have all these labels.
    pub fn waiters(&self, queue: &str, labels: &[String]) -> (usize, usize) {
        let queues = lock(&self.queues);
        let Some(queue) = queues.get(queue) else { return (0, 0) };
        let able = queue
            .waiters
            .values()
            .filter(|w| labels.iter().all(|label| w.labels.contains(label)));
        (queue.waiters.len(), able.count())
    }

    /// Whether a ticket stands open that a worker with these labels may take.
    pub fn has_open(&self, queue: &Name, labels: &[Name]) -> bool {
        let queues = lock(&self.queues);
        let Some(queue) = queues.get(queue) else { return false };
        let able = |needs: &str| {
            needs
                .lines()
                .all(|need| labels.iter().any(|label| label.as_str() == need))
        };
        queue.open.iter().any(|(needs, open)| !open.is_empty() && able(needs))
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
