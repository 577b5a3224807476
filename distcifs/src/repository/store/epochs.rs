//! What this mount has under way that gc must wait for, by the epoch in which it was begun
//! (doc/decisions/032-gc-beside-builds.md).
//!
//! Whoever stores something that a later commit refers to, or copies a reference from one place to
//! another, pins the epoch meanwhile. On a cluster the pin belongs to the session in which it was
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

/// How long one who wants to pin the epoch waits for a session: as long as calls to the coordinator
/// wait for a connection.
const SESSION_WAIT: Duration = Duration::from_secs(2);

/// Tries to read the epoch after a change of it was told, [`FOLLOW_PAUSE`] between them: a minute. What
/// is missed then comes with the next session or with the notices that were lost.
const LOOKS_MAX: u32 = 300;

/// What is pinned in the session of this mount, if it has one.
pub(crate) struct Epochs {
    sessions: watch::Sender<Option<Arc<SessionPins>>>,
    /// Why this mount was not let in when it tried last, as its program is too old by now.
    shut_out: Mutex<Option<String>>,
}

/// What is pinned in the time of one session.
pub(crate) struct SessionPins {
    /// An entry that goes with the session and is never changed: a commit that checks it happens in
    /// this session. None where nobody else is.
    lease: Option<String>,
    pinned: Mutex<Pinned>,
    least: watch::Sender<u64>,
}

/// What is pinned.
#[derive(Debug)]
struct Pinned {
    /// The epoch as it is known here. The truth is its entry: who lags pins an older one, and gc waits for him.
    epoch: u64,
    /// How many pin an epoch.
    counts: BTreeMap<u64, usize>,
}

impl Pinned {
    /// The smallest epoch that is pinned, or the one that whoever comes next pins.
    fn least(&self) -> u64 {
        self.counts.keys().next().copied().unwrap_or(self.epoch)
    }
}

impl SessionPins {
    fn new(lease: Option<String>, epoch: u64) -> Arc<SessionPins> {
        Arc::new(SessionPins {
            lease,
            pinned: Mutex::new(Pinned {
                epoch,
                counts: BTreeMap::new(),
            }),
            least: watch::Sender::new(epoch),
        })
    }

    /// Pins the epoch that is known now.
    pub(in crate::repository) fn pin(self: &Arc<Self>) -> EpochPin {
        let mut pinned = lock(&self.pinned);
        let epoch = pinned.epoch;
        *pinned.counts.entry(epoch).or_default() += 1;
        EpochPin {
            session: self.clone(),
            epoch,
        }
    }

    /// The epoch as it is known here.
    pub(in crate::repository) fn epoch(&self) -> u64 {
        lock(&self.pinned).epoch
    }

    /// Takes in a later epoch.
    pub(in crate::repository) fn raise(&self, epoch: u64) {
        self.change(|pinned| pinned.epoch = pinned.epoch.max(epoch));
    }

    fn change(&self, change: impl FnOnce(&mut Pinned)) {
        let mut pinned = lock(&self.pinned);
        change(&mut pinned);
        let least = pinned.least();
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

/// Pins an epoch while it lives.
pub(crate) struct EpochPin {
    session: Arc<SessionPins>,
    epoch: u64,
}

impl EpochPin {
    /// The epoch that is pinned.
    #[cfg(test)]
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }
}

impl Drop for EpochPin {
    fn drop(&mut self) {
        self.session.change(|pinned| {
            if let Some(count) = pinned.counts.get_mut(&self.epoch) {
                *count -= 1;
                if *count == 0 {
                    pinned.counts.remove(&self.epoch);
                }
            }
        });
    }
}

impl Epochs {
    /// Of a mount that has the store alone: its own gc raises the epoch.
    pub(in crate::repository) fn alone() -> Epochs {
        Epochs {
            sessions: watch::Sender::new(Some(SessionPins::new(None, 0))),
            shut_out: Mutex::default(),
        }
    }

    /// Of one of many, before its first session.
    pub(in crate::repository) fn shared() -> Epochs {
        Epochs {
            sessions: watch::Sender::new(None),
            shut_out: Mutex::default(),
        }
    }

    /// Begins the pins of a session.
    pub(in crate::repository) fn enter(&self, lease: String, epoch: u64) {
        *lock(&self.shut_out) = None;
        self.sessions.send_replace(Some(SessionPins::new(Some(lease), epoch)));
    }

    /// Notes that this mount was not let in, for good: a program that may write what is there is another one.
    pub(in crate::repository) fn shut_out(&self, why: String) {
        *lock(&self.shut_out) = Some(why);
    }

    /// The session is over: what is under way can't be committed any more.
    pub(in crate::repository) fn leave(&self) {
        self.sessions.send_replace(None);
    }

    /// Whether what is pinned is of the present session: else nothing can be committed under it.
    pub(in crate::repository) fn is_current(&self, pin: &EpochPin) -> bool {
        self.current()
            .is_some_and(|session| Arc::ptr_eq(&session, &pin.session))
    }

    /// The pins of the present session.
    pub(in crate::repository) fn current(&self) -> Option<Arc<SessionPins>> {
        self.sessions.borrow().clone()
    }
}

/// The epoch that an entry holds.
pub(in crate::repository) fn epoch_of(entry: &Entry) -> Result<u64> {
    let text = std::str::from_utf8(&entry.data).ok();
    let epoch = text.and_then(|text| text.parse().ok());
    epoch.ok_or_else(|| Error::Io(format!("{EPOCH}: damaged: {:?} is no epoch", entry.data).into()))
}

impl Store {
    /// Pins the epoch; the caller keeps it until what it does is committed or given up.
    ///
    /// # Errors
    /// `Io` if there is no session, and none comes.
    pub(crate) async fn pin_epoch(&self) -> Result<EpochPin> {
        if let Some(why) = lock(&self.epochs.shut_out).as_ref() {
            return Err(Error::Io(format!("this mount is shut out: {why}").into()));
        }
        let mut sessions = self.epochs.sessions.subscribe();
        let session = Deadline::after(SESSION_WAIT)
            .wait(sessions.wait_for(Option::is_some))
            .await;
        let session = session.and_then(std::result::Result::ok);
        session
            .and_then(|session| session.as_ref().map(SessionPins::pin))
            .ok_or_else(over)
    }

    /// Lets only a mount change entries that was let in: one of many, whose program is too old by now, would write them
    /// anew without what it does not know.
    ///
    /// # Errors
    /// `Io` if it was not, and is not soon.
    pub(super) async fn check_let_in(&self) -> Result<()> {
        if !self.shared || self.epochs.current().is_some() {
            return Ok(());
        }
        self.pin_epoch().await.map(drop)
    }

    /// Commits as `commit_settled` does, in the session in which the pin was begun.
    ///
    /// # Errors
    /// `Io` if that session is over: then it did not happen. What that costs is not for this to say:
    /// a claim ends with its own session.
    pub(crate) async fn commit_pinned(
        &self,
        pin: &EpochPin,
        mut ops: Vec<Op>,
        path: &str,
        ours: impl Fn(Option<&Entry>) -> bool,
    ) -> Result<Commit> {
        let own = ops.len();
        ops.extend(pin.session.lease.as_ref().map(|lease| check(lease)));
        match self.commit_settled(ops, path, ours).await? {
            Commit::Mismatch { index } if index == own => Err(over()),
            committed => Ok(committed),
        }
    }

    /// Takes in the epoch after a change of it was told.
    pub(in crate::repository) fn refresh_epoch(self: &Arc<Self>) {
        let store = self.clone();
        self.runtime.spawn(async move {
            for _ in 0..LOOKS_MAX {
                match store.read_epoch().await {
                    Ok((epoch, _)) => {
                        // Marks first: what is begun in an epoch has no older ones.
                        store.contents.enter(epoch);
                        if let Some(session) = store.epochs.current() {
                            session.raise(epoch);
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
    fn the_smallest_epoch_that_is_pinned_is_told() {
        let session = SessionPins::new(None, 7);
        let mut least = session.least();
        let (first, second) = (session.pin(), session.pin());
        session.raise(9);
        assert_eq!(*least.borrow_and_update(), 7, "two are under way since 7");
        let third = session.pin();
        drop(first);
        assert!(!least.has_changed().unwrap(), "one of them still is");
        drop(second);
        assert_eq!(*least.borrow_and_update(), 9);
        session.raise(8);
        assert_eq!(*least.borrow(), 9, "an epoch never falls");
        session.raise(12);
        assert_eq!(*least.borrow(), 9, "the third is under way since 9");
        drop(third);
        assert_eq!(*least.borrow(), 12);
        assert!(lock(&session.pinned).counts.is_empty(), "nothing is kept of what ended");
    }

    #[test]
    fn what_an_earlier_session_pins_holds_nothing_up_in_the_next() {
        let epochs = Epochs::shared();
        assert!(epochs.current().is_none());
        epochs.enter("/leases/a".into(), 1);
        let pin = epochs.current().unwrap().pin();
        epochs.leave();
        assert!(epochs.current().is_none());
        epochs.enter("/leases/b".into(), 5);
        let session = epochs.current().unwrap();
        assert_eq!(*session.least().borrow(), 5);
        assert_eq!(
            pin.session.lease.as_deref(),
            Some("/leases/a"),
            "it is committed there or not at all"
        );
        drop(pin);
        assert_eq!(*session.least().borrow(), 5);
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
