//! What this mount has under way that gc must wait for, by the epoch in which it was begun
//! (doc/decisions/032-gc-beside-builds.md).
//!
//! Whoever stores something that a later commit refers to, or copies a reference from one place to
//! another, holds the epoch meanwhile. On a cluster the hold belongs to the session in which it was
//! begun: a commit under it takes effect in that session or not at all.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;

use super::Store;
use crate::repository::core::lock;
use crate::repository::deadline::Deadline;
use crate::repository::model::keys::EPOCH;
use crate::repository::work::FOLLOW_PAUSE;
use crate::repository::{Error, Result};
use crate::storage::{Commit, Entry, Op};

/// How long one who wants to hold the epoch waits for a session: as long as calls to the coordinator
/// wait for a connection.
const SESSION_WAIT: Duration = Duration::from_secs(2);

/// Tries to read the epoch after a change of it was told, [`FOLLOW_PAUSE`] between them: a minute. What
/// is missed then comes with the next session or with the notices that were lost.
const LOOKS_MAX: u32 = 300;

/// The stay of this mount, if it has a session.
pub(crate) struct Epochs(watch::Sender<Option<Arc<Stay>>>);

/// The time of one session.
pub(crate) struct Stay {
    /// An entry that goes with the session and is never changed: a commit that checks it happens in
    /// this session. None where nobody else is.
    lease: Option<String>,
    held: Mutex<Held>,
    least: watch::Sender<u64>,
}

/// What is held.
#[derive(Debug)]
struct Held {
    /// The epoch as it is known here. The truth is its entry: who lags holds an older one, and gc waits for him.
    epoch: u64,
    /// How many hold an epoch.
    counts: BTreeMap<u64, usize>,
}

impl Held {
    /// The smallest epoch that is held, or the one that whoever comes next holds.
    fn least(&self) -> u64 {
        self.counts.keys().next().copied().unwrap_or(self.epoch)
    }
}

impl Stay {
    fn new(lease: Option<String>, epoch: u64) -> Arc<Stay> {
        Arc::new(Stay {
            lease,
            held: Mutex::new(Held {
                epoch,
                counts: BTreeMap::new(),
            }),
            least: watch::Sender::new(epoch),
        })
    }

    /// Holds the epoch that is known now.
    pub(in crate::repository) fn hold(self: &Arc<Self>) -> Hold {
        let mut held = lock(&self.held);
        let epoch = held.epoch;
        *held.counts.entry(epoch).or_default() += 1;
        Hold {
            stay: self.clone(),
            epoch,
        }
    }

    /// The epoch as it is known here.
    pub(in crate::repository) fn epoch(&self) -> u64 {
        lock(&self.held).epoch
    }

    /// Takes in a later epoch.
    pub(in crate::repository) fn raise(&self, epoch: u64) {
        self.change(|held| held.epoch = held.epoch.max(epoch));
    }

    fn change(&self, change: impl FnOnce(&mut Held)) {
        let mut held = lock(&self.held);
        change(&mut held);
        let least = held.least();
        // Within the lock: of two changes the later one is told last.
        self.least
            .send_if_modified(|told| std::mem::replace(told, least) != least);
    }

    /// The lease's entry; empty where there is none.
    pub(in crate::repository) fn lease(&self) -> String {
        self.lease.clone().unwrap_or_default()
    }

    /// The smallest epoch in which something is under way, and its changes.
    pub(in crate::repository) fn least(&self) -> watch::Receiver<u64> {
        self.least.subscribe()
    }
}

/// Holds an epoch while it lives.
pub(crate) struct Hold {
    stay: Arc<Stay>,
    epoch: u64,
}

impl Hold {
    /// The epoch that is held.
    #[cfg(test)]
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.stay.change(|held| {
            if let Some(count) = held.counts.get_mut(&self.epoch) {
                *count -= 1;
                if *count == 0 {
                    held.counts.remove(&self.epoch);
                }
            }
        });
    }
}

impl Epochs {
    /// Of a mount that has the store alone: its own gc raises the epoch.
    pub(in crate::repository) fn alone() -> Epochs {
        Epochs(watch::Sender::new(Some(Stay::new(None, 0))))
    }

    /// Of one of many, before its first session.
    pub(in crate::repository) fn shared() -> Epochs {
        Epochs(watch::Sender::new(None))
    }

    /// Begins the stay of a session.
    pub(in crate::repository) fn enter(&self, lease: String, epoch: u64) {
        self.0.send_replace(Some(Stay::new(Some(lease), epoch)));
    }

    /// The session is over: what is under way can't be committed any more.
    pub(in crate::repository) fn leave(&self) {
        self.0.send_replace(None);
    }

    /// Whether what is held is of the present session: else nothing can be committed under it.
    pub(in crate::repository) fn stays(&self, hold: &Hold) -> bool {
        self.stay().is_some_and(|stay| Arc::ptr_eq(&stay, &hold.stay))
    }

    /// The stay of the present session.
    pub(in crate::repository) fn stay(&self) -> Option<Arc<Stay>> {
        self.0.borrow().clone()
    }
}

/// The epoch that an entry holds.
pub(in crate::repository) fn epoch_of(entry: &Entry) -> Result<u64> {
    let text = std::str::from_utf8(&entry.data).ok();
    let epoch = text.and_then(|text| text.parse().ok());
    epoch.ok_or_else(|| Error::Io(format!("{EPOCH}: damaged: {:?} is no epoch", entry.data).into()))
}

impl Store {
    /// Holds the epoch; the caller keeps it until what it does is committed or given up.
    ///
    /// # Errors
    /// `Io` if there is no session, and none comes.
    pub(crate) async fn hold_epoch(&self) -> Result<Hold> {
        let mut stays = self.epochs.0.subscribe();
        let stay = Deadline::after(SESSION_WAIT)
            .wait(stays.wait_for(Option::is_some))
            .await;
        let stay = stay.and_then(std::result::Result::ok);
        stay.and_then(|stay| stay.as_ref().map(Stay::hold)).ok_or_else(over)
    }

    /// Commits as `commit_settled` does, in the session in which the hold was begun.
    ///
    /// # Errors
    /// `Io` if that session is over: then it did not happen. What that costs is not for this to say:
    /// a claim ends with its own session.
    pub(crate) async fn commit_held(
        &self,
        hold: &Hold,
        mut ops: Vec<Op>,
        path: &str,
        ours: impl Fn(Option<&Entry>) -> bool,
    ) -> Result<Commit> {
        let own = ops.len();
        ops.extend(hold.stay.lease.as_ref().map(|lease| check(lease)));
        match self.commit_settled(ops, path, ours).await? {
            Commit::Mismatch { index } if index == own => Err(over()),
            committed => Ok(committed),
        }
    }

    /// Takes in the epoch after a change of it was told.
    pub(in crate::repository) fn look_at_epoch(self: &Arc<Self>) {
        let store = self.clone();
        self.runtime.spawn(async move {
            for _ in 0..LOOKS_MAX {
                match store.read_epoch().await {
                    Ok((epoch, _)) => {
                        // Marks first: what is begun in an epoch has no older ones.
                        store.contents.enter(epoch);
                        if let Some(stay) = store.epochs.stay() {
                            stay.raise(epoch);
                        }
                        return;
                    }
                    Err(error) => tracing::warn!(%error, "looking at the epoch"),
                }
                tokio::time::sleep(FOLLOW_PAUSE).await;
            }
        });
    }

    /// The epoch and its entry's version, as the coordinator has them.
    pub(in crate::repository) async fn read_epoch(&self) -> Result<(u64, u32)> {
        let entry = crate::repository::core::bounded(EPOCH, self.coordination.get(EPOCH)).await?;
        let entry = entry.ok_or_else(|| Error::Io(format!("{EPOCH}: missing; mount anew").into()))?;
        Ok((epoch_of(&entry)?, entry.version))
    }
}

/// The check that a lease stands.
pub(in crate::repository) fn check(lease: &str) -> Op {
    Op::Check {
        path: lease.to_owned(),
        version: Some(0),
    }
}

fn over() -> Error {
    Error::Io("the session with the coordinator is over; a new one is on its way".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_epoch_that_is_held_is_told() {
        let stay = Stay::new(None, 7);
        let mut least = stay.least();
        let (first, second) = (stay.hold(), stay.hold());
        stay.raise(9);
        assert_eq!(*least.borrow_and_update(), 7, "two are under way since 7");
        let third = stay.hold();
        drop(first);
        assert!(!least.has_changed().unwrap(), "one of them still is");
        drop(second);
        assert_eq!(*least.borrow_and_update(), 9);
        stay.raise(8);
        assert_eq!(*least.borrow(), 9, "an epoch never falls");
        stay.raise(12);
        assert_eq!(*least.borrow(), 9, "the third is under way since 9");
        drop(third);
        assert_eq!(*least.borrow(), 12);
        assert!(lock(&stay.held).counts.is_empty(), "nothing is kept of what ended");
    }

    #[test]
    fn what_an_earlier_session_holds_holds_nothing_up_in_the_next() {
        let epochs = Epochs::shared();
        assert!(epochs.stay().is_none());
        epochs.enter("/leases/a".into(), 1);
        let hold = epochs.stay().unwrap().hold();
        epochs.leave();
        assert!(epochs.stay().is_none());
        epochs.enter("/leases/b".into(), 5);
        let stay = epochs.stay().unwrap();
        assert_eq!(*stay.least().borrow(), 5);
        assert_eq!(
            hold.stay.lease.as_deref(),
            Some("/leases/a"),
            "it is committed there or not at all"
        );
        drop(hold);
        assert_eq!(*stay.least().borrow(), 5);
    }

    #[test]
    fn an_epoch_is_a_decimal_number() {
        let entry = |data: &'static str| Entry {
            data: data.into(),
            version: 0,
            created: 0,
            ephemeral: false,
        };
        assert_eq!(epoch_of(&entry("0")).unwrap(), 0);
        assert_eq!(epoch_of(&entry("1790000000000")).unwrap(), 1_790_000_000_000);
        for wrong in ["", "-1", "x", "18446744073709551616"] {
            assert!(epoch_of(&entry(wrong)).is_err(), "{wrong:?}");
        }
    }
}
