//! Turns of mounts that might do the same: each ticket has an order of them.

use std::time::Duration;

use super::model::ticket::TicketKey;
use super::names::Name;
use crate::storage::Digest;
use crate::storage::mix::mix;

/// Between the turns of two mounts that might claim the same ticket for a waiter: a multi that is
/// lost costs the coordinator as much as one that is won.
pub(super) const CLAIM_TURN: Duration = Duration::from_millis(5);

/// Mounts that wait for their turn; those after them don't wait longer.
const TURNS_MAX: u32 = 16;

/// The order of some mounts: each mount has them in the same one, which is another for each ticket.
pub(crate) struct Turns {
    mine: u64,
    peers: Vec<u64>,
}

impl Turns {
    /// The order of this mount and these others.
    pub(crate) fn among<'a>(mine: &Name, peers: impl Iterator<Item = &'a Name>) -> Self {
        Turns {
            mine: mark(mine),
            peers: peers.map(mark).collect(),
        }
    }

    /// How many of the others come before this mount when it is about this ticket.
    pub(crate) fn of(&self, key: &TicketKey) -> u32 {
        if self.peers.is_empty() {
            return 0;
        }
        let ticket = mark(key);
        let mine = weight(self.mine, ticket);
        let before = self.peers.iter().filter(|node| weight(**node, ticket) > mine).count();
        u32::try_from(before).unwrap_or(TURNS_MAX).min(TURNS_MAX)
    }
}

/// A number for a mount or a ticket, the same on all mounts.
fn mark(name: &impl ToString) -> u64 {
    let digest = Digest::of(name.to_string().as_bytes());
    digest
        .as_bytes()
        .first_chunk()
        .map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

/// The place of a mount in the order for a ticket: rendezvous hashing.
fn weight(node: u64, ticket: u64) -> u64 {
    mix(node ^ ticket)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::names::TicketId;

    #[test]
    fn each_ticket_has_an_order_of_its_own_and_all_orders_come_up() {
        let nodes = ["a", "b", "c"].map(|n| mark(&n));
        let mut first = [0; 3];
        for i in 0..300 {
            let id = TicketId::new(&format!("t{i}")).unwrap();
            let key = TicketKey {
                queue: Name::new("q").unwrap(),
                id,
            };
            let best = (0..3).max_by_key(|at| weight(nodes[*at], mark(&key))).unwrap();
            first[best] += 1;
        }
        assert!(first.iter().all(|count| *count > 60), "{first:?}");
    }
}
