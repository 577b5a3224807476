//! The turn to sweep beside mounts: one gc at a time, which begins epochs and waits for the mounts
//! to have ended what they began before.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::Progress;
use crate::repository::core::{bounded, create_ephemeral, delete, from_json, now, random_id, set};
use crate::repository::epochs::{EPOCH, LEASES, check, epoch_of};
use crate::repository::nodes::{NodeFacts, session_of};
use crate::repository::{Error, Result, format};
use crate::storage::{Commit, Coordination, Op};

/// The entry of whoever has the turn.
const TURN: &str = "/locks/gc";

/// How often the mounts are looked at, should no notice of them come.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Pause between two looks: notices come in bursts.
const LOOK_PAUSE: Duration = Duration::from_millis(50);

/// Tries to begin an epoch while nobody knows whether it was begun, [`TRY_PAUSE`] between them.
const TRIES: u32 = 50;
const TRY_PAUSE: Duration = Duration::from_millis(200);

/// The turn, as long as the session lives in which it was taken.
pub(super) struct Turn {
    coordination: Arc<dyn Coordination>,
    session: u64,
    lease: String,
}

impl Turn {
    /// Takes the turn; `who` is told to those who come meanwhile.
    ///
    /// # Errors
    /// `Busy` if another has it.
    pub(super) async fn take(coordination: Arc<dyn Coordination>, who: &str) -> Result<Turn> {
        // Where no mount of this version has been yet.
        format::lay(&*coordination, EPOCH, Bytes::from_static(b"0")).await?;
        format::lay(&*coordination, LEASES, Bytes::new()).await?;
        let session = session_of(&coordination.session().borrow());
        let session = session.ok_or_else(|| Error::Io("there is no session with the coordinator".into()))?;
        let lease = format!("{LEASES}/{}", random_id());
        let ops = vec![
            create_ephemeral(TURN, Bytes::from(who.to_owned())),
            create_ephemeral(&lease, Bytes::new()),
        ];
        if bounded(TURN, coordination.commit(ops)).await? == Commit::Done {
            return Ok(Turn {
                coordination,
                session,
                lease,
            });
        }
        let other = bounded(TURN, coordination.get(TURN)).await?;
        let other = other.map(|other| String::from_utf8_lossy(&other.data).into_owned());
        Err(Error::Busy(format!(
            "gc runs already ({}): wait for its end; if it was killed, for that of its session, some seconds",
            other.as_deref().unwrap_or("it has just ended")
        )))
    }

    /// Gives the turn back. Where that fails it goes with the session.
    pub(super) async fn end(self) {
        let ops = vec![self.check(), delete(&self.lease, None), delete(TURN, None)];
        if let Err(error) = bounded(TURN, self.coordination.commit(ops)).await {
            tracing::warn!(%error, "giving the turn to sweep back");
        }
    }

    /// The check that keeps a commit from happening in another session.
    pub(super) fn check(&self) -> Op {
        check(&self.lease)
    }

    /// Whether the turn is still ours.
    pub(super) fn stands(&self) -> Result<()> {
        match session_of(&self.coordination.session().borrow()) {
            Some(id) if id == self.session => Ok(()),
            _ => Err(lost()),
        }
    }

    /// Begins an epoch. Its number follows the clock as well, so that it stays above all marks even
    /// if the coordinator loses its entries.
    pub(super) async fn begin(&self) -> Result<u64> {
        let mut sent = None;
        for _ in 0..TRIES {
            let entry = bounded(EPOCH, self.coordination.get(EPOCH)).await?;
            let entry = entry.ok_or_else(|| Error::Io(format!("{EPOCH}: missing")))?;
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
    pub(super) async fn wait(&self, epoch: u64, patience: Duration, progress: &Progress) -> Result<()> {
        let began = Instant::now();
        let mut watch = bounded("/nodes", self.coordination.watch("/nodes")).await?;
        loop {
            self.stands()?;
            let behind = self.behind(epoch).await?.join(", ");
            if behind.is_empty() {
                return Ok(());
            }
            if began.elapsed() >= patience {
                return Err(Error::Busy(format!(
                    "nothing was removed: mount {behind} has not ended within {} s what was under way there \
                     (results being stored, configurations being written); try again later, or with a longer --wait",
                    patience.as_secs()
                )));
            }
            progress.begin(format!("waiting for what is under way on {behind}, seconds"));
            progress.count(began.elapsed().as_secs());
            // Timing out is no error: look again.
            let _ = tokio::time::timeout(LOOK_EVERY, watch.events.recv()).await;
            tokio::time::sleep(LOOK_PAUSE).await;
            while watch.events.try_recv().is_ok() {}
        }
    }

    /// The mounts on which something may be under way that was begun before an epoch.
    async fn behind(&self, epoch: u64) -> Result<Vec<String>> {
        let mut behind = Vec::new();
        for node in bounded("/nodes", self.coordination.children("/nodes")).await? {
            let path = format!("/nodes/{node}");
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
    Error::Io("the session with the coordinator was lost, and with it the turn: run gc again".into())
}
