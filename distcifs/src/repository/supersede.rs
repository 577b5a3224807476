//! Newer builds of a job make an end of older ones that share a group with them (doc/tree.md, Groups).
//!
//! Whoever hears of the newer one does so, not whoever offers it to a worker: a group that is used up offers none.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::claims::Claims;
use super::core::{lock, now};
use super::model::build::{Live, live_path};
use super::model::deed::{Did, Person};
use super::model::job::Job;
use super::model::json::{from_json, to_json};
use super::model::ops::Step;
use super::model::steps::build::{Newer, Refused, supersede_running, supersede_waiting};
use super::model::ticket::{BuildRef, Ticket};
use super::nodes::Nodes;
use super::queue_index::{Ended, QueueIndex, Sides};
use super::store::Store;
use super::turns::CLAIM_TURN;
use super::work::{FOLLOW_PAUSE_MAX, in_parallel};
use super::{Error, Repository, Result};
use crate::storage::{Commit, Entry};

/// Races lost before the end of a build is left to the next look.
const RACES_MAX: u32 = 100;

/// How often the oldest of all that wait for places try again: what was told of these may have been lost.
const TRY_EVERY: Duration = Duration::from_secs(30);

/// See the module.
pub(crate) struct Superseding {
    store: Arc<Store>,
    queue_index: Arc<QueueIndex>,
    claims: Arc<Claims>,
    nodes: Arc<Nodes>,
    /// Those that are being acted on, and whether they are to be once more.
    under_way: Mutex<HashMap<Sides, bool>>,
}

impl Superseding {
    /// For the builds that this mount hears of.
    pub(crate) fn new(repository: &Repository) -> Arc<Self> {
        Arc::new(Superseding {
            store: repository.store.clone(),
            queue_index: repository.queue_index.clone(),
            claims: repository.claims.clone(),
            nodes: repository.nodes.clone(),
            under_way: Mutex::default(),
        })
    }

    /// Acts on newer builds as long as the store is open.
    pub(crate) async fn keep(self: Arc<Self>) {
        let mut tick = tokio::time::interval(TRY_EVERY);
        loop {
            let sides = tokio::select! {
                sides = self.queue_index.newer() => sides,
                _ = tick.tick() => {
                    self.queue_index.unpark_all();
                    self.queue_index.note_all_sides();
                    continue;
                }
            };
            for sides in sides {
                self.begin(sides);
            }
        }
    }

    /// Acts on a job and a group, in a task of its own: no other waits for it. Noted again meanwhile, it is looked at
    /// once more after that.
    fn begin(self: &Arc<Self>, sides: Sides) {
        let mut under_way = lock(&self.under_way);
        if let Some(again) = under_way.get_mut(&sides) {
            *again = true;
            return;
        }
        under_way.insert(sides.clone(), false);
        drop(under_way);
        let superseding = self.clone();
        self.store.runtime.spawn(async move {
            loop {
                superseding.act(&sides).await;
                let mut under_way = lock(&superseding.under_way);
                match under_way.get_mut(&sides) {
                    Some(again) if *again => *again = false,
                    _ => {
                        under_way.remove(&sides);
                        return;
                    }
                }
            }
        });
    }

    /// Makes an end of the older builds of a job that share a group.
    async fn act(self: &Arc<Self>, sides: &Sides) {
        let superseding = self.clone();
        let ends = in_parallel(self.queue_index.superseded(sides), move |ended| {
            let superseding = superseding.clone();
            async move {
                let result = superseding.end(&ended).await;
                result.inspect_err(|error| tracing::warn!(ticket = %ended.key, %error, "ending it for a newer build"))
            }
        });
        if ends.await.iter().any(Result::is_err) {
            let (queue_index, sides) = (self.queue_index.clone(), sides.clone());
            self.store.runtime.spawn(async move {
                tokio::time::sleep(FOLLOW_PAUSE_MAX).await;
                queue_index.note_sides(sides);
            });
        }
    }

    /// Makes an end of a build, unless it has one.
    async fn end(&self, ended: &Ended) -> Result<()> {
        let Some(posted) = self.claims.tickets.get(&ended.key).await? else {
            return Ok(());
        };
        // Of many mounts that hear of it one does it, as a rule.
        let turn = self
            .nodes
            .turns(&ended.key.queue, &posted.ticket.needs())
            .of(&ended.key);
        tokio::time::sleep(CLAIM_TURN * turn).await;
        let Some((job, part)) = self.job_of(&posted.ticket).await? else {
            return Ok(());
        };
        let (builds, n) = (&self.claims.builds, part.build);
        let newer = Newer {
            n: ended.by,
            by: self.who_triggered(&job, ended.by).await?,
        };
        for _ in 0..RACES_MAX {
            let build = match builds.build(&job, n).await {
                Ok(build) if build.run() == part.run => build,
                Ok(_) | Err(Error::NotFound(_)) => return Ok(()),
                // Nobody can begin it, and it stands before nobody: there is nothing to end, now or later.
                Err(error) if builds.is_damaged(job.uid(), n).await? => {
                    tracing::warn!(job = %job.name, build = n, %error, "superseded, and left as it is");
                    return Ok(());
                }
                Err(error) => return Err(error),
            };
            // A stranger's clean-up must not hold the place.
            let insist = posted.ticket.untrusted;
            let (step, runs) = match supersede_waiting(&build, &newer, now()) {
                Err(Refused::Begun) if ended.though_it_runs => (supersede_running(&build, &newer, insist), true),
                step => (step, false),
            };
            let Step { after, ops } = match step {
                Ok(step) => step,
                // Whoever asked it to stop may have been cut short.
                Err(Refused::Insisted) => {
                    self.claims.stopped.note(job.uid(), n, Duration::ZERO);
                    return Ok(());
                }
                Err(_) => return Ok(()),
            };
            let data = to_json(&after);
            let ours = |entry: Option<&Entry>| entry.is_some_and(|entry| entry.data == data);
            let path = live_path(job.uid(), n);
            if self.store.commit_settled(ops, &path, ours).await? != Commit::Done {
                continue;
            }
            tracing::info!(job = %job.name, build = n, by = newer.n, "superseded");
            if runs {
                return self.claims.stop_build(&job, n).await;
            }
            return Ok(());
        }
        Err(Error::Busy(format!(
            "jobs/{}/builds/{n}: it changes too fast",
            job.name
        )))
    }

    /// The job of a build's own ticket.
    async fn job_of(&self, ticket: &Ticket) -> Result<Option<(Job, BuildRef)>> {
        let Some(part) = ticket.part.clone() else {
            return Ok(None);
        };
        let job = self
            .claims
            .jobs
            .find(&part.job)
            .await?
            .filter(|job| job.uid() == part.uid);
        Ok(job.map(|job| (job, part)))
    }

    /// Who began a build last; nobody by name where its entry can't be read: its group must not stop for that.
    pub(super) async fn who_triggered(&self, job: &Job, n: u64) -> Result<Person> {
        let path = live_path(job.uid(), n);
        let live = self.store.get(&path).await?;
        let deeds = match live.map(|entry| from_json::<Live>(&path, &entry.data)) {
            Some(live) => live.map(|live| live.deeds()).unwrap_or_default(),
            None => match self.claims.builds.build_head(job, n).await {
                Ok(build) => build.deeds(),
                Err(Error::NotFound(_)) => Vec::new(),
                Err(error) => return Err(error),
            },
        };
        let began = deeds
            .into_iter()
            .rev()
            .find(|deed| matches!(deed.did, Did::Triggered | Did::Retried));
        let nobody = || Person {
            uid: job.entry.access.uid,
            name: String::new(),
        };
        Ok(began.map_or_else(nobody, |deed| deed.who))
    }
}
