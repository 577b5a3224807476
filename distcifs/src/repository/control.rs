//! `ctl`: abort, retry, keep, unkeep.

use std::sync::Arc;

use super::builds::{begun, group_of, not_begun};
use super::core::{now, random_id};
use super::model::build::{Build, Live, live_path};
use super::model::deed::Did;
use super::model::event::{Control, Event};
use super::model::group::Member;
use super::model::job::Job;
use super::model::json::to_json;
use super::model::ops::Step;
use super::model::record::Record;
use super::model::steps;
use super::model::steps::build::{Again, Refused};
use super::model::ticket::Poster;
use super::records::Going;
use super::{Error, Repository, Result};
use crate::storage::{Commit, Entry};

/// Races lost before a control word is given up.
const RACES_MAX: u32 = 100;

/// What may be written into ctl.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// Stop it, or do not start it.
    Abort,
    /// Run again what did not succeed.
    Retry,
    /// Pruning must leave it.
    Keep,
    /// Pruning may take it.
    Unkeep,
}

impl Word {
    /// Reads a control word.
    pub fn read(text: &[u8]) -> Result<Self> {
        let text = String::from_utf8_lossy(text);
        match text.trim() {
            "abort" => Ok(Word::Abort),
            "retry" => Ok(Word::Retry),
            "keep" => Ok(Word::Keep),
            "unkeep" => Ok(Word::Unkeep),
            other => Err(Error::Invalid(format!(
                "ctl {:?}: write abort, retry, keep or unkeep",
                super::model::ticket::cut(other, 40)
            ))),
        }
    }
}

impl Repository {
    /// Does what was written into a build's ctl.
    pub async fn control(self: &Arc<Self>, job: &Job, n: u64, word: Word, who: Poster) -> Result<()> {
        let done = match word {
            Word::Abort => self.abort(job, n, who).await,
            Word::Retry => self.retry(job, n, who).await,
            Word::Keep => self.keep(job, n, Did::Kept, who).await,
            Word::Unkeep => self.keep(job, n, Did::Unkept, who).await,
        };
        if matches!(done, Err(Error::NotFound(_))) {
            Going::new(&self.builds, job, n).heed_if_over().await?;
        }
        done
    }

    /// Stops a build: what is queued of it ends as aborted at once, what is claimed when its claimant
    /// has ended it, a minute later at most. Its `always` tasks still run where build-control is at it;
    /// a second abort stops those, too. One that comes after another that was cut short finishes that.
    async fn abort(self: &Arc<Self>, job: &Job, n: u64, who: Poster) -> Result<()> {
        let who = self.builds.people.person(who.uid).await;
        for _ in 0..RACES_MAX {
            let build = self.builds.build(job, n).await?;
            if build.aborting() && self.claims.finish_stop(job, n).await? > 0 {
                return Ok(());
            }
            let Step { after, ops } = match steps::build::ask_abort(&build, who.clone(), now()) {
                Ok(step) => step,
                Err(Refused::Insisted) => break,
                Err(_) => return Err(over(&build)),
            };
            let (path, data) = (live_path(job.uid(), n), to_json(&after));
            let ours = |entry: Option<&Entry>| entry.is_some_and(|e| e.data == data);
            if self.store.commit_settled(ops, &path, ours).await? == Commit::Done {
                break;
            }
        }
        self.claims.stop_build(job, n).await
    }

    /// Runs again what did not succeed, in the state in which it ran.
    async fn retry(&self, job: &Job, n: u64, who: Poster) -> Result<()> {
        let pin = self.store.pin_epoch().await?;
        // Until its entry is there nobody here removes the record that it begins from.
        let _turn = self.builds.records.turn(job.uid(), n).await?;
        self.builds.record_now(job, n).await?;
        for _ in 0..RACES_MAX {
            // Before the record is read: a retry that began and ended since has changed it.
            let named = self.jobs.named(job).await?;
            // Whoever removes the record takes its line away, and changes then what was just read.
            Going::new(&self.builds, job, n).check_line().await?;
            let Some((live, group)) = self.live_again(job, n, who).await? else {
                continue;
            };
            let step = steps::build::retry(job, n, &named, &live, begun(who, group));
            let step = step.map_err(|refused| not_begun(job, n, refused))?;
            if self.builds.began(&pin, job, n, &live.nonce, step.ops).await? {
                self.builds.bring_back(job, n).await?; // Somebody may have removed it meanwhile.
                let (job, what) = (job.name.clone(), Control::Retry);
                self.events.announce(Event::Control { job, n, what });
                return Ok(());
            }
            // Else another build began meanwhile.
            if self.jobs.named(job).await? == named {
                break;
            }
        }
        Err(Error::Busy(format!("jobs/{}/builds/{n} is not finished", job.name)))
    }

    /// The entry of a build that is to run again, of its record as it is now, and the group that it needs a place in;
    /// `None` if the record changed meanwhile.
    async fn live_again(&self, job: &Job, n: u64, who: Poster) -> Result<Option<(Live, Option<Member>)>> {
        let (Some(record), revision) = self.builds.stored_record(job, n).await? else {
            Going::new(&self.builds, job, n).heed_if_over().await?;
            let stage = if self.builds.build(job, n).await?.aborting() {
                "is being aborted"
            } else {
                "is not finished"
            };
            return Err(Error::Busy(format!(
                "jobs/{}/builds/{n} {stage}: it can be retried when it has ended (read .wait)",
                job.name
            )));
        };
        self.builds.check_retry(job, n, &record).await?;
        if !Going::new(&self.builds, job, n).begin_from(&record, revision).await? {
            return Ok(None);
        }
        // The record may be removed meanwhile: put anew, the text is nobody's garbage.
        self.store
            .keep_body(self.configs.text_of(&record.config).await?)
            .await?;
        if let Some(plan) = &record.plan {
            self.configs.keep_plan_again(plan).await?;
        }
        let again = Again {
            params: None,
            params_digest: None,
            by: self.builds.people.person(who.uid).await,
            priority: self.priority_again(job, &record).await?,
            nonce: random_id(),
        };
        let config = self.configs.parsed(&job.name, &record.config.digest).await?;
        let owner = record.owner.unwrap_or(job.entry.access.uid);
        let group = group_of(owner, &config, &record.params, &record.source)?;
        let live = steps::build::again(&record, again);
        let live = self.builds.with_params(live, record.params.clone()).await?;
        Ok(Some((live, group)))
    }

    /// The priority of a retry: that of the build, and no more than the job may have by now.
    async fn priority_again(&self, job: &Job, record: &Record) -> Result<i8> {
        let then = self
            .configs
            .parsed(&job.name, &record.config.digest)
            .await?
            .priority
            .value;
        if then <= 0 {
            return Ok(then);
        }
        let now = match self.configs.head(job).await? {
            Some(head) => self.configs.parsed(&job.name, &head.digest).await?.priority.value,
            None => 0,
        };
        Ok(then.min(now.max(0)))
    }

    /// Sets whether pruning must leave a build.
    async fn keep(&self, job: &Job, n: u64, did: Did, who: Poster) -> Result<()> {
        let who = self.builds.people.person(who.uid).await;
        for _ in 0..RACES_MAX {
            let build = self.builds.build(job, n).await?;
            if let Ok(step) = steps::build::keep(&build, did, who.clone()) {
                if self.store.commit(step.ops).await? == Commit::Done {
                    return Ok(());
                }
                continue;
            }
            // Its line in the index comes after the record: nobody here removes both in between.
            let _turn = self.builds.records.turn(job.uid(), n).await?;
            let (Some(record), revision) = self.builds.stored_record(job, n).await? else {
                Going::new(&self.builds, job, n).heed_if_over().await?;
                continue;
            };
            let kept = steps::build::keep_record(&record, did, who.clone());
            if self.builds.save_record(job, n, revision, Arc::new(kept)).await? {
                return Going::new(&self.builds, job, n).heed().await;
            }
        }
        Err(Error::Busy(format!(
            "jobs/{}/builds/{n}: it changes too fast: try again",
            job.name
        )))
    }
}

fn over(build: &Build) -> Error {
    let (job, n, state) = (&build.job.name, build.n, build.state());
    Error::Busy(format!("jobs/{job}/builds/{n} is finished ({state})"))
}
