//! Shares: nobody takes so much of what the daemon has little of that nothing is left for others.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use super::Error;
use super::trust::Trust;
use super::work::Work;
use crate::repository::core::lock;
use crate::repository::descriptors;

/// Who holds something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Party {
    /// A user. Those whom the mount trusts may take all that is left.
    User(u32),
    /// The subordinate ids of one user, by the first of them.
    Subordinates(u32),
    /// The folders of a claim, whoever works in them: an isolation has many user ids.
    Attempt(u64),
    /// All claims that work with the rights of one user.
    Owner(u32),
}

/// Share of all that only those may take whom the mount trusts, one in so many.
const TRUSTED_SHARE: u64 = 4;

/// Something that there is only so much of.
///
/// Each party may hold as much as it leaves to all others: the first one half, the next a quarter,
/// and whoever comes after one that took its all finds as much again. What nobody else wants is not
/// kept from anybody, and no number of parties is planned for. However many take their all, a quarter is
/// left to those whom the mount trusts.
///
/// The claims of one owner together may hold twice what they leave to all others, and share that in the
/// same way.
pub(crate) struct Shares {
    max: AtomicU64,
    trust: Arc<Trust>,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    total: u64,
    parties: HashMap<Party, u64>,
}

impl Held {
    fn of(&self, party: Party) -> u64 {
        self.parties.get(&party).copied().unwrap_or(0)
    }

    fn put(&mut self, party: Party, amount: u64) {
        if amount == 0 {
            self.parties.remove(&party);
        } else {
            self.parties.insert(party, amount);
        }
    }
}

impl Shares {
    /// So much in all, of which those that are trusted may take the last.
    pub(crate) fn new(max: u64, trust: Arc<Trust>) -> Arc<Shares> {
        Arc::new(Shares {
            max: AtomicU64::new(max),
            trust,
            held: Mutex::default(),
        })
    }

    /// From now on so much in all; what is held stays held.
    pub(crate) fn resize(&self, max: u64) {
        self.max.store(max, Ordering::Relaxed);
    }

    /// Whose share it is that this user takes of.
    pub(crate) fn party(&self, uid: u32) -> Party {
        self.trust.party(uid)
    }

    /// Takes some of a user's share; `None` if it is more than that.
    pub(crate) fn take(self: &Arc<Self>, uid: u32, amount: u64) -> Option<Lease> {
        self.take_for(self.party(uid), None, amount)
    }

    /// The same for a claim, which works with the rights of `owner`.
    pub(crate) fn take_of_claim(self: &Arc<Self>, attempt: u64, owner: u32, amount: u64) -> Option<Lease> {
        self.take_for(Party::Attempt(attempt), Some(Party::Owner(owner)), amount)
    }

    fn take_for(self: &Arc<Self>, party: Party, group: Option<Party>, amount: u64) -> Option<Lease> {
        let mut lease = Lease {
            shares: self.clone(),
            party,
            group,
            amount: 0,
        };
        lease.grow(amount).then_some(lease)
    }

    fn add(&self, party: Party, group: Option<Party>, amount: u64) -> bool {
        let mut max = self.max.load(Ordering::Relaxed);
        let trusted = matches!(party, Party::User(uid) if self.trust.is_trusted(uid));
        if !trusted {
            max -= max / TRUSTED_SHARE;
        }
        let mut held = lock(&self.held);
        let (own, total) = (held.of(party).saturating_add(amount), held.total.saturating_add(amount));
        let left = max.saturating_sub(total);
        if total > max || (!trusted && own > left) {
            return false;
        }
        if let Some(group) = group {
            let together = held.of(group).saturating_add(amount);
            // So much more may be had, until together they hold twice what is left.
            let room = (2 * left).saturating_sub(together) / 3;
            if own > room {
                return false;
            }
            held.put(group, together);
        }
        held.total = total;
        held.put(party, own);
        true
    }

    fn subtract(&self, party: Party, group: Option<Party>, amount: u64) {
        let mut held = lock(&self.held);
        held.total = held.total.saturating_sub(amount);
        for party in [Some(party), group].into_iter().flatten() {
            let left = held.of(party).saturating_sub(amount);
            held.put(party, left);
        }
    }
}

/// What one holder has taken; it is given back when this is dropped.
pub(crate) struct Lease {
    shares: Arc<Shares>,
    party: Party,
    group: Option<Party>,
    amount: u64,
}

impl Lease {
    /// Takes more; whether it could be had.
    pub(crate) fn grow(&mut self, more: u64) -> bool {
        let had = self.shares.add(self.party, self.group, more);
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
        self.shares.subtract(self.party, self.group, self.amount - amount);
        self.amount = amount;
        true
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.shares.subtract(self.party, self.group, self.amount);
    }
}

/// How often the limits of the process are looked at: they can be changed from outside.
const ADAPT_EVERY: Duration = Duration::from_secs(1);

/// Takes notice of changed limits and of new users, until the tree is gone.
pub(super) async fn adapt(work: Weak<Work>, shares: Arc<Shares>) {
    while let Some(work) = work.upgrade() {
        work.adapt();
        shares.resize(descriptors::for_users() as u64);
        drop(work);
        let trust = shares.trust.clone();
        // What can't be read now is read the next time.
        let _ = tokio::task::spawn_blocking(move || trust.read_again()).await;
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

    fn shares(max: u64) -> Arc<Shares> {
        Shares::new(
            max,
            Arc::new(Trust::of(&[990], "alice:100000:65536\nroot:200000:131072")),
        )
    }

    fn all(mut lease: Lease) -> Lease {
        while lease.grow(1) {}
        lease
    }

    fn take_all(shares: &Arc<Shares>, uid: u32) -> Lease {
        all(shares.take(uid, 0).unwrap())
    }

    #[test]
    fn each_leaves_as_much_as_it_has() {
        let shares = shares(200);
        let first = take_all(&shares, 1);
        let second = take_all(&shares, 2);
        let third = take_all(&shares, 3);
        assert_eq!((first.amount, second.amount, third.amount), (75, 37, 19));
        assert!(shares.take(1, 1).is_none());
        assert_eq!(take_all(&shares, 0).amount, 69, "root takes what is left");
        drop(first);
        assert!(shares.take(1, 5).is_some());
        drop((second, third));
        assert!(lock(&shares.held).parties.is_empty());
        assert_eq!(lock(&shares.held).total, 0);
    }

    /// "However many take their all, a quarter is left" (doc/tree.md) for root and programs that steer.
    #[test]
    fn any_number_of_users_leaves_a_quarter_to_those_who_steer() {
        let shares = shares(400);
        let held: Vec<Lease> = (1000..1100).map(|uid| take_all(&shares, uid)).collect();
        assert!(shares.take(1100, 1).is_none());
        assert!(take_all(&shares, 990).amount >= 100);
        drop(held);
    }

    /// A user is no more than two parties, however many ids are subordinate to him; a task of an isolation,
    /// which has a block of root's, is one.
    #[test]
    fn ids_of_one_user_have_one_share() {
        let shares = shares(400);
        let held: Vec<Lease> = (100_000..100_014).map(|uid| take_all(&shares, uid)).collect();
        assert_eq!(held.iter().map(|lease| lease.amount).sum::<u64>(), 150);
        assert!(shares.take(4001, 75).is_some(), "another has a half of what is left");
        let tasks = [200_000, 200_001, 265_536].map(|uid| take_all(&shares, uid).amount);
        assert_eq!(tasks, [75, 75, 75], "each was dropped before the next");
        let one = take_all(&shares, 200_000);
        assert!(shares.take(200_001, 1).is_none() && shares.take(265_536, 1).is_some());
        drop((held, one));
    }

    /// The tasks of one job at once leave something to those of other owners, and to each other.
    #[test]
    fn claims_of_one_owner_share() {
        let shares = shares(400);
        let claim = |attempt, owner| all(shares.take_of_claim(attempt, owner, 0).unwrap());
        let held: Vec<Lease> = (0..12).map(|attempt| claim(attempt, 7)).collect();
        let amounts: Vec<u64> = held.iter().map(|lease| lease.amount).collect();
        assert_eq!(amounts[..3], [100, 50, 25]);
        let other = claim(100, 8);
        assert!(other.amount >= 20, "{amounts:?} and {}", other.amount);
        drop((held, other));
        assert!(lock(&shares.held).parties.is_empty());
    }

    #[test]
    fn a_limit_may_fall() {
        let shares = shares(100);
        let mut lease = shares.take(1, 30).unwrap();
        assert!(!lease.grow(20) && lease.grow(5));
        shares.resize(5);
        assert!(!lease.grow(1));
        drop(lease);
        assert!(shares.take(2, 1).is_some());
    }
}
