//! Builds that are to stop: each is seen to its end, also where whoever asked for that was cut short.
//!
//! That a build is to stop is one commit, and the end of each of its open tickets another. In between a mount may
//! die, or its store may fail; so every mount that hears of such a build looks at it, now and then, until it is over.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;

use super::Claims;
use crate::repository::Result;
use crate::repository::core::lock;
use crate::repository::model::build::live_path;
use crate::repository::model::json::from_json;
use crate::repository::model::steps;
use crate::repository::model::ticket::{BuildRef, Ticket, control_key};
use crate::repository::work::READS_MAX;

/// How often it is looked which builds are due.
const TICK: Duration = Duration::from_millis(if cfg!(test) { 5 } else { 1000 });

/// How long whoever asked for the end of a build has to bring it about, before others look.
pub(super) const GRACE: Duration = Duration::from_millis(if cfg!(test) { 50 } else { 5000 });

/// Longest pause between two looks at a build; it doubles from [`GRACE`] on. What runs `always` may run for hours.
const PAUSE_MAX: Duration = Duration::from_secs(600);

/// A build: the job's uid, and its number.
type Of = (String, u64);

/// When a build is looked at.
#[derive(Debug, Clone, Copy)]
struct Look {
    due: Instant,
    /// The pause after it.
    pause: Duration,
    /// How many here are at it.
    working: u32,
}

/// Builds that were asked to stop, as far as this mount has heard, and that have an entry. The truth is that entry.
#[derive(Default)]
pub(crate) struct Stopped {
    builds: Mutex<HashMap<Of, Look>>,
    due: Notify,
}

/// Somebody brings a build to its end, as long as this lives; then it is looked at after a pause.
pub(super) struct Working {
    stopped: Arc<Stopped>,
    of: Of,
}

impl Stopped {
    /// Has a build looked at after a time, unless it is sooner.
    pub(crate) fn note(&self, uid: &str, n: u64, wait: Duration) {
        let due = Instant::now() + wait;
        let mut builds = lock(&self.builds);
        let look = builds.entry((uid.to_owned(), n)).or_insert(Look {
            due,
            pause: GRACE,
            working: 0,
        });
        look.due = look.due.min(due);
        drop(builds);
        if wait.is_zero() {
            self.due.notify_one();
        }
    }

    /// Whether a build was asked to stop, as far as was heard.
    pub(super) fn has(&self, part: &BuildRef) -> bool {
        lock(&self.builds).contains_key(&(part.uid.clone(), part.build))
    }

    /// Forgets a build, whose entry is gone.
    pub(crate) fn forget(&self, uid: &str, n: u64) {
        lock(&self.builds).remove(&(uid.to_owned(), n));
    }

    /// Notes that somebody is at it.
    pub(super) fn work(self: &Arc<Self>, uid: &str, n: u64) -> Working {
        self.note(uid, n, GRACE);
        let of = (uid.to_owned(), n);
        if let Some(look) = lock(&self.builds).get_mut(&of) {
            look.working += 1;
        }
        let stopped = self.clone();
        Working { stopped, of }
    }

    /// Those that are due and that nobody is at.
    fn take_due(self: &Arc<Self>) -> Vec<Working> {
        let now = Instant::now();
        let mut builds = lock(&self.builds);
        let due = builds
            .iter_mut()
            .filter(|(_, look)| look.working == 0 && look.due <= now);
        let taken = due.map(|(of, look)| {
            look.working += 1;
            let (stopped, of) = (self.clone(), of.clone());
            Working { stopped, of }
        });
        taken.collect()
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        if let Some(look) = lock(&self.stopped.builds).get_mut(&self.of) {
            // It may be another look than this one began with: the build was forgotten, and retried and stopped again.
            look.working = look.working.saturating_sub(1);
            look.due = Instant::now() + look.pause;
            look.pause = (look.pause * 2).min(PAUSE_MAX);
        }
    }
}

impl Claims {
    /// Sees to builds that are to stop, as long as the store is open.
    pub(crate) async fn keep_stopping(self: Arc<Self>) {
        // A large build takes one of these, and not the turn of all others.
        let turns = Arc::new(Semaphore::new(READS_MAX));
        let mut tick = tokio::time::interval(TICK);
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = self.stopped.due.notified() => {}
            }
            for working in self.stopped.take_due() {
                let (claims, turns) = (self.clone(), turns.clone());
                self.store.runtime.spawn(async move {
                    let Ok(_turn) = turns.acquire().await else { return };
                    claims.see_to_its_end(&working).await;
                });
            }
        }
    }

    /// Looks whether something of a build that is to stop stands open, and ends it.
    async fn see_to_its_end(self: &Arc<Self>, working: &Working) {
        let (uid, n) = (working.of.0.as_str(), working.of.1);
        match self.end_what_is_open(uid, n).await {
            Ok(Some(0)) => {}
            Ok(Some(tickets)) => {
                tracing::info!(job = %uid, build = n, tickets, "ended what was open of a build that is to stop");
            }
            Ok(None) => self.stopped.forget(uid, n),
            Err(error) => {
                tracing::warn!(job = %uid, build = n, %error, "ending what is open of a build that is to stop")
            }
        }
    }

    /// How many open tickets of a build were ended; `None`: it is not to stop, or gone.
    async fn end_what_is_open(self: &Arc<Self>, uid: &str, n: u64) -> Result<Option<usize>> {
        let Some(live) = self.live(uid, n).await?.filter(|live| live.abort) else {
            return Ok(None);
        };
        // One in the trash has no entry; one that this mount has not heard of is looked at again.
        let Some(job) = self.jobs.by_uid(uid) else {
            return Ok(Some(0));
        };
        let build = self.builds.build(&job, n).await?;
        if !steps::build::stop(&build, live.insist)?.is_some_and(|stop| stop.is_something()) {
            return Ok(Some(0));
        }
        // Of many mounts that hear of it one does it, as a rule.
        let key = control_key(job.name.as_str(), n, live.run)?;
        tokio::time::sleep(self.outlook.repair_delay(&key)).await;
        self.finish_stop(&job, n).await.map(Some)
    }

    /// Whether the task of a ticket is to stop, as far as this mount was told: it is not to be begun then.
    pub(super) async fn is_stopped(&self, ticket: &Ticket) -> Result<bool> {
        let Some(part) = ticket.part.as_ref().filter(|part| part.task.is_some()) else {
            return Ok(false);
        };
        let path = live_path(&part.uid, part.build);
        match self.store.get(&path).await? {
            Some(entry) => self.stops(&from_json(&path, &entry.data)?, part).await,
            None => Ok(false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever is cut short leaves the build to the next look; whoever is at it is left alone.
    #[test]
    fn a_build_is_looked_at_when_nobody_is_at_it() {
        let stopped = Arc::<Stopped>::default();
        let working = stopped.work("a", 1);
        stopped.note("a", 1, Duration::ZERO);
        assert!(stopped.take_due().is_empty(), "somebody is at it");
        drop(working);
        assert!(stopped.take_due().is_empty(), "after a pause");
        stopped.note("a", 1, Duration::ZERO);
        let due = stopped.take_due();
        assert_eq!(due.len(), 1);
        assert!(stopped.take_due().is_empty());
        stopped.forget("a", 1);
        drop(due);
        stopped.note("b", 1, GRACE);
        assert!(stopped.take_due().is_empty() && lock(&stopped.builds).len() == 1);
    }

    /// A build that is forgotten while somebody is at it may be retried and stopped again.
    #[test]
    fn a_build_that_is_stopped_again_is_looked_at() {
        let stopped = Arc::<Stopped>::default();
        let working = stopped.work("a", 1);
        stopped.forget("a", 1);
        stopped.note("a", 1, Duration::ZERO);
        drop(working);
        stopped.note("a", 1, Duration::ZERO);
        assert_eq!(stopped.take_due().len(), 1);
    }

    /// What runs `always` may run for hours: the pause grows.
    #[test]
    fn the_pause_grows_up_to_its_bound() {
        let stopped = Arc::<Stopped>::default();
        for _ in 0..40 {
            drop(stopped.work("a", 1));
        }
        let builds = lock(&stopped.builds);
        assert_eq!(builds.values().next().map(|look| look.pause), Some(PAUSE_MAX));
    }
}
