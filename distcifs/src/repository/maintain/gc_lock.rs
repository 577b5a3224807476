//! The lock to sweep beside mounts: one gc at a time, which begins epochs and waits for the mounts
//! to have ended what they began before. On a cluster it is taken with the coordinator; the one
//! mount of a folder gives it to its own gc.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::Progress;
use super::roots::Heads;
use crate::repository::core::{bounded, now, random_id};
use crate::repository::deadline::Deadline;
use crate::repository::model::json::from_json;
use crate::repository::model::keys::{EPOCH, GC_LOCK, Key, LEASES, NODES};
use crate::repository::model::ops::{create_ephemeral, delete, set};
use crate::repository::nodes::NodeFacts;
use crate::repository::store::epochs::{SessionPins, check, epoch_of};
use crate::repository::store::session_of;
use crate::repository::{Error, Result, format};
use crate::storage::{Commit, Contents, Coordination, Op};

/// How often the mounts are looked at, should no notice of them come.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Pause between two looks: notices come in bursts.
const LOOK_PAUSE: Duration = Duration::from_millis(50);

/// Tries to begin an epoch while nobody knows whether it was begun, [`TRY_PAUSE`] between them.
const TRIES: u32 = 50;
const TRY_PAUSE: Duration = Duration::from_millis(200);

/// The lock that keeps gc to one at a time.
pub(super) enum GcLock {
    /// Among all mounts of a cluster.
    Shared(Shared),
    /// Of the one mount of a folder.
    Own(Own),
}

impl GcLock {
    /// Gives it back.
    pub(super) async fn end(self) {
        match self {
            GcLock::Shared(gc_lock) => gc_lock.end().await,
            // Dropping it does.
            GcLock::Own(_) => {}
        }
    }

    /// What keeps a commit from happening once the lock is another's.
    pub(super) fn check(&self) -> Option<Op> {
        match self {
            GcLock::Shared(gc_lock) => Some(gc_lock.check()),
            GcLock::Own(_) => None,
        }
    }

    /// Whether the lock is still ours.
    pub(super) fn stands(&self) -> Result<()> {
        match self {
            GcLock::Shared(gc_lock) => gc_lock.stands(),
            // It goes with the process, and the process with the store.
            GcLock::Own(_) => Ok(()),
        }
    }

    /// How the heads of configurations are read the second time: who is late in a session that was
    /// lost long ago must be refused. The mount of a folder has one session, and pins do that.
    pub(super) fn heads(&self) -> Heads {
        match self {
            GcLock::Shared(_) => Heads::Fenced,
            GcLock::Own(_) => Heads::Read,
        }
    }

    /// Begins an epoch.
    pub(super) async fn begin(&self) -> Result<u64> {
        match self {
            GcLock::Shared(gc_lock) => gc_lock.begin().await,
            GcLock::Own(gc_lock) => Ok(gc_lock.begin()),
        }
    }

    /// Waits until nothing is under way that was begun before an epoch.
    ///
    /// # Errors
    /// `Busy` if that takes longer than `patience`, or can't be told of a mount.
    pub(super) async fn wait(&self, epoch: u64, patience: Duration, progress: &Progress) -> Result<()> {
        match self {
            GcLock::Shared(gc_lock) => gc_lock.wait(epoch, patience, progress).await,
            GcLock::Own(gc_lock) => gc_lock.wait(epoch, patience, progress).await,
        }
    }
}

/// The lock of the one mount of a folder. Dropping it ends it.
pub(super) struct Own {
    session: Arc<SessionPins>,
    contents: Arc<dyn Contents>,
}

impl Own {
    /// Takes it; that nobody else has it is the caller's affair.
    pub(super) fn take(session: Arc<SessionPins>, contents: Arc<dyn Contents>) -> Own {
        Own { session, contents }
    }

    fn begin(&self) -> u64 {
        let epoch = self.session.epoch() + 1;
        // Marks first: what is begun in an epoch has no older ones.
        self.contents.enter(epoch);
        self.session.raise(epoch);
        epoch
    }

    async fn wait(&self, epoch: u64, patience: Duration, progress: &Progress) -> Result<()> {
        let (deadline, mut least) = (Deadline::after(patience), self.session.least());
        loop {
            if *least.borrow_and_update() >= epoch {
                return Ok(());
            }
            if deadline.passed() {
                return Err(Error::Busy(format!(
                    "nothing was removed: the mount has not ended within {} s what was under way there (results \
                     being stored, configurations being written); try again later, or with a longer --wait",
                    patience.as_secs()
                )));
            }
            progress.wait(
                "what is under way on the mount",
                patience.saturating_sub(deadline.left()),
                patience,
            );
            // Timing out is no error: look again, and tell how long it has been.
            let _ = deadline.min(Deadline::after(LOOK_EVERY)).wait(least.changed()).await;
        }
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        self.contents.enter(0);
    }
}

/// The lock on a cluster, as long as the session lives in which it was taken.
pub(super) struct Shared {
    coordination: Arc<dyn Coordination>,
    session: u64,
    lease: String,
}

impl Shared {
    /// Takes the lock; `who` is told to those who come meanwhile.
    ///
    /// # Errors
    /// `Busy` if another has it.
    pub(super) async fn take(coordination: Arc<dyn Coordination>, who: &str) -> Result<Shared> {
        // Where no mount of this version has been yet.
        format::lay(&*coordination, EPOCH, Bytes::from_static(b"0")).await?;
        format::lay(&*coordination, LEASES, Bytes::new()).await?;
        let session = session_of(&coordination.session().borrow());
        let session = session.ok_or_else(|| Error::Io("there is no session with the coordinator".into()))?;
        let lease = Key::Lease(&random_id()).path();
        let ops = vec![
            create_ephemeral(GC_LOCK, Bytes::from(who.to_owned())),
            create_ephemeral(&lease, Bytes::new()),
        ];
        if bounded(GC_LOCK, coordination.commit(ops)).await? == Commit::Done {
            return Ok(Shared {
                coordination,
                session,
                lease,
            });
        }
        let other = bounded(GC_LOCK, coordination.get(GC_LOCK)).await?;
        let other = other.map(|other| String::from_utf8_lossy(&other.data).into_owned());
        Err(Error::Busy(format!(
            "gc runs already ({}): wait for its end; if it was killed, for that of its session, some seconds",
            other.as_deref().unwrap_or("it has just ended")
        )))
    }

    /// Gives the lock back. Where that fails it goes with the session.
    async fn end(self) {
        let ops = vec![self.check(), delete(&self.lease, None), delete(GC_LOCK, None)];
        if let Err(error) = bounded(GC_LOCK, self.coordination.commit(ops)).await {
            tracing::warn!(%error, "giving the lock of gc back");
        }
    }

    /// The check that keeps a commit from happening in another session.
    fn check(&self) -> Op {
        check(&self.lease)
    }

    /// Whether the lock is still ours.
    fn stands(&self) -> Result<()> {
        match session_of(&self.coordination.session().borrow()) {
            Some(id) if id == self.session => Ok(()),
            _ => Err(lost()),
        }
    }

    /// Begins an epoch. Its number follows the clock as well, so that it stays above all marks even
    /// if the coordinator loses its entries.
    async fn begin(&self) -> Result<u64> {
        let mut sent = None;
        for _ in 0..TRIES {
            let entry = bounded(EPOCH, self.coordination.get(EPOCH)).await?;
            let entry = entry.ok_or_else(|| Error::Io(format!("{EPOCH}: missing").into()))?;
            let epoch = epoch_of(&entry)?;
            if sent == Some(epoch) {
                return Ok(epoch);
            }
            let next = now().max(epoch + 1);
            sent = Some(next);
            let ops = vec![self.check(), set(EPOCH, next.to_string().into(), entry.version)];
            match bounded(EPOCH, self.coordination.commit(ops)).await {
                Ok(Commit::Done) => return Ok(next),
                Ok(Commit::Mismatch { index: 0 }) => return Err(lost()),
                // Perhaps our own of a try before.
                Ok(Commit::Mismatch { .. }) | Err(Error::TimedOut(_)) => {}
                Err(error) => return Err(error),
            }
            tokio::time::sleep(TRY_PAUSE).await;
        }
        Err(Error::Busy(format!("{EPOCH}: it changes too fast: try again")))
    }

    /// Waits until nothing is under way that was begun before an epoch.
    ///
    /// # Errors
    /// `Busy` if that takes longer than `patience`, or can't be told of a mount.
    async fn wait(&self, epoch: u64, patience: Duration, progress: &Progress) -> Result<()> {
        let deadline = Deadline::after(patience);
        let mut watch = bounded(NODES, self.coordination.watch(NODES)).await?;
        loop {
            self.stands()?;
            let behind = self.behind(epoch).await?.join(", ");
            if behind.is_empty() {
                return Ok(());
            }
            if deadline.passed() {
                return Err(Error::Busy(format!(
                    "nothing was removed: mount {behind} has not ended within {} s what was under way there \
                     (results being stored, configurations being written); try again later, or with a longer --wait",
                    patience.as_secs()
                )));
            }
            let so_far = patience.saturating_sub(deadline.left());
            progress.wait(&format!("what is under way on {behind}"), so_far, patience);
            // Timing out is no error: look again.
            let _ = Deadline::after(LOOK_EVERY).wait(watch.events.recv()).await;
            tokio::time::sleep(LOOK_PAUSE).await;
            while watch.events.try_recv().is_ok() {}
        }
    }

    /// The mounts on which something may be under way that was begun before an epoch.
    async fn behind(&self, epoch: u64) -> Result<Vec<String>> {
        let mut behind = Vec::new();
        for node in bounded(NODES, self.coordination.children(NODES)).await? {
            let path = Key::Node(&node).path();
            let Some(entry) = bounded(&path, self.coordination.get(&path)).await? else {
                continue;
            };
            let facts: NodeFacts = from_json(&path, &entry.data)?;
            match facts.epoch {
                Some(told) if told >= epoch => {}
                Some(_) => behind.push(node),
                None => {
                    return Err(Error::Busy(format!(
                        "nothing was removed: {node} runs version {:?}, which does not tell what is under way there: \
                         upgrade distcifs on that node, or unmount there",
                        facts.version
                    )));
                }
            }
        }
        behind.sort();
        Ok(behind)
    }
}

fn lost() -> Error {
    Error::Io("the session with the coordinator was lost, and with it the lock of gc: run it again".into())
}
