//! Shares: nobody takes so much of what the daemon has little of that nothing is left for others.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use super::Error;
use super::work::Work;
use crate::repository::core::lock;
use crate::repository::descriptors;

/// Who holds something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Party {
    /// A user. Root may take all that is left.
    User(u32),
    /// The folders of a claim, whoever works in them: an isolation has many user ids.
    Attempt(u64),
}

/// Something that there is only so much of.
///
/// Each party may hold as much as it leaves to all others: the first one half, the next a quarter,
/// and whoever comes after one that took its all finds as much again. What nobody else wants is not
/// kept from anybody, and no number of parties is planned for.
pub(crate) struct Shares {
    max: AtomicU64,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    total: u64,
    parties: HashMap<Party, u64>,
}

impl Shares {
    /// So much in all.
    pub(crate) fn new(max: u64) -> Arc<Shares> {
        Arc::new(Shares {
            max: AtomicU64::new(max),
            held: Mutex::default(),
        })
    }

    /// From now on so much in all; what is held stays held.
    pub(crate) fn resize(&self, max: u64) {
        self.max.store(max, Ordering::Relaxed);
    }

    /// Takes some; `None` if it is more than the party's share.
    pub(crate) fn take(self: &Arc<Self>, party: Party, amount: u64) -> Option<Lease> {
        let mut lease = Lease {
            shares: self.clone(),
            party,
            amount: 0,
        };
        lease.grow(amount).then_some(lease)
    }

    fn add(&self, party: Party, amount: u64) -> bool {
        let max = self.max.load(Ordering::Relaxed);
        let mut held = lock(&self.held);
        let own = held.parties.get(&party).copied().unwrap_or(0);
        let (own, total) = (own.saturating_add(amount), held.total.saturating_add(amount));
        let left = max.saturating_sub(total);
        if total > max || (party != Party::User(0) && own > left) {
            return false;
        }
        held.total = total;
        held.parties.insert(party, own);
        true
    }

    fn subtract(&self, party: Party, amount: u64) {
        let mut held = lock(&self.held);
        held.total = held.total.saturating_sub(amount);
        let own = held.parties.get(&party).copied().unwrap_or(0).saturating_sub(amount);
        if own == 0 {
            held.parties.remove(&party);
        } else {
            held.parties.insert(party, own);
        }
    }
}

/// What one holder has taken; it is given back when this is dropped.
pub(crate) struct Lease {
    shares: Arc<Shares>,
    party: Party,
    amount: u64,
}

impl Lease {
    /// Takes more; whether it could be had.
    pub(crate) fn grow(&mut self, more: u64) -> bool {
        let had = self.shares.add(self.party, more);
        if had {
            self.amount += more;
        }
        had
    }

    /// Holds exactly so much from now on; whether it could be had.
    pub(crate) fn set(&mut self, amount: u64) -> bool {
        if amount > self.amount {
            return self.grow(amount - self.amount);
        }
        self.shares.subtract(self.party, self.amount - amount);
        self.amount = amount;
        true
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.shares.subtract(self.party, self.amount);
    }
}

/// How often the limits of the process are looked at: they can be changed from outside.
const ADAPT_EVERY: Duration = Duration::from_secs(1);

/// Takes notice of changed limits, until the tree is gone.
pub(super) async fn adapt(work: Weak<Work>, shares: Arc<Shares>) {
    while let Some(work) = work.upgrade() {
        work.adapt();
        shares.resize(descriptors::for_users() as u64);
        drop(work);
        tokio::time::sleep(ADAPT_EVERY).await;
    }
}

/// The refusal of one who holds his whole share open.
pub(crate) fn out_of_descriptors(who: &str) -> Error {
    Error::System {
        what: format!("{who} as many files open as the daemon's limit of descriptors allows; close some"),
        errno: libc::EMFILE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_leaves_as_much_as_it_has() {
        let shares = Shares::new(100);
        let take_all = |party| {
            let mut lease = shares.take(party, 0).unwrap();
            while lease.grow(1) {}
            lease
        };
        let first = take_all(Party::User(1));
        let second = take_all(Party::Attempt(1));
        let third = take_all(Party::User(2));
        assert_eq!((first.amount, second.amount, third.amount), (50, 25, 12));
        assert!(shares.take(Party::User(1), 1).is_none());
        assert_eq!(take_all(Party::User(0)).amount, 13, "root takes what is left");
        drop(first);
        assert!(shares.take(Party::User(1), 30).is_some());
        drop((second, third));
        assert!(lock(&shares.held).parties.is_empty());
        assert_eq!(lock(&shares.held).total, 0);
    }

    #[test]
    fn a_limit_may_fall() {
        let shares = Shares::new(100);
        let mut lease = shares.take(Party::User(1), 40).unwrap();
        assert!(!lease.grow(20) && lease.grow(10));
        shares.resize(5);
        assert!(!lease.grow(1));
        drop(lease);
        assert!(shares.take(Party::User(2), 2).is_some());
    }
}
