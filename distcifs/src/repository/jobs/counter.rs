//! Under which name builds of a job may begin: its counter, and the list of jobs.
//!
//! The list of jobs is one record: the old line goes and the new one comes in one write. What that write
//! can't guard is the coordinator, where builds begin by tickets that are named after their job. So the
//! job's counter, whose version every build that begins is held to, says for which name builds may begin:
//! 1. the counter is set to what is no name; from here on nobody begins a build;
//! 2. if a build is unfinished the counter is set back, and the job is busy;
//! 3. the list is read, then the counter once more, then the list is changed if it is what was read;
//! 4. the counter is set to the new name.
//!
//! Whoever ends half-way leaves a counter without a name. Who then wants to begin a build sets
//! the counter to no name at all, changes the list's revision, so that a write of step 3 that is still on
//! its way is refused, reads the name out of the list, and sets the counter to that (`settle_name`). So of
//! a rename and a trigger one wins, and neither waits for the other.

use std::sync::Arc;

use bytes::Bytes;

use super::Jobs;
use crate::repository::core::{bounded, now, settled};
use crate::repository::model::job::{Counted, Job, JobEntry, jobs_record};
use crate::repository::model::json::{from_json, to_json};
use crate::repository::model::keys::Key;
use crate::repository::model::ops::Step;
use crate::repository::model::steps;
use crate::repository::model::steps::job::{Refused, Shift, UNKNOWN};
use crate::repository::names::Name;
use crate::repository::store::Guarded;
use crate::repository::work::RACES_MAX;
use crate::repository::{Error, Result};
use crate::storage::{Commit, Entry};

/// Refuses while builds are left.
fn none_left(job: &Job, live: &[u64]) -> Result<()> {
    match live.first() {
        Some(n) => Err(Error::Busy(format!(
            "jobs/{} has {} unfinished builds (build {n} is one): wait for their end (builds/{n}/.wait) or abort \
             them first",
            job.name,
            live.len()
        ))),
        None => Ok(()),
    }
}

impl Jobs {
    /// `Busy` if a build of the job is not finished, as the coordinator has it now, but for those that wait for approval:
    /// nothing of them knows the job's name.
    pub(crate) async fn check_idle(&self, job: &Job) -> Result<()> {
        let mut live = self.unfinished(job).await?;
        // Read after them: one that was approved meanwhile is seen to run.
        let folder = Key::HeldOf(job.uid()).path();
        let held = bounded(&folder, self.store.coordination.children(&folder)).await?;
        live.retain(|n| !held.iter().any(|child| child.parse() == Ok(*n)));
        none_left(job, &live)
    }

    /// The same without an exception.
    pub(crate) async fn check_empty(&self, job: &Job) -> Result<()> {
        none_left(job, &self.unfinished(job).await?)
    }

    /// The builds of a job that are not recorded, in order, as the coordinator has them now.
    async fn unfinished(&self, job: &Job) -> Result<Vec<u64>> {
        bounded("sync", self.store.coordination.sync()).await?;
        let path = job.path();
        let children = bounded(&path, self.store.coordination.children(&path)).await?;
        let mut live: Vec<u64> = children.iter().filter_map(|child| child.parse().ok()).collect();
        live.sort_unstable();
        Ok(live)
    }

    /// The counter of a job as it is now.
    async fn counter(&self, job: &Job) -> Result<Counted> {
        let path = job.path();
        let entry = bounded(&path, self.store.coordination.get(&path)).await?;
        counted(job, entry.as_ref())
    }

    /// Sets the name in a job's counter; the counter then.
    pub(crate) async fn name_counter(&self, job: &Job, name: &str) -> Result<Counted> {
        for _ in 0..RACES_MAX {
            let read = self.counter(job).await?;
            if let Some(named) = self.call(job, &read, name).await? {
                return Ok(named);
            }
        }
        Err(busy(job))
    }

    /// Sets the name in a job's counter as it was read; `None` if it is another by now.
    async fn call(&self, job: &Job, read: &Counted, name: &str) -> Result<Option<Counted>> {
        let Some(Step { after, ops }) = steps::job::call(job, read, name) else {
            return Ok(Some(read.clone()));
        };
        let data = to_json(&after.counter);
        let ours = |entry: Option<&Entry>| entry.is_some_and(|e| e.version == after.version && e.data == data);
        let set = self.store.commit_settled(ops, &job.path(), ours).await?;
        Ok((set == Commit::Done).then_some(after))
    }

    /// Moves a job's line in the list of jobs, as long as its counter is what it was.
    pub(crate) async fn move_line(&self, job: &Job, to: &Name, counter: &Counted, of: Option<u32>) -> Result<()> {
        let keys = (job.name.as_str(), to.as_str());
        let renamed = |entry: JobEntry| {
            entry.access.must_be_of(of, || format!("jobs/{}", job.name))?;
            let entry = steps::job::named(entry, now());
            Ok((to_json(&entry), entry))
        };
        self.shift(job, keys, counter, renamed).await
    }

    /// The same between two keys, of which one may be no name: into the trash and out of it. `change` makes
    /// what is to stand at the second of what stood at the first, or refuses it.
    pub(crate) async fn shift(
        &self,
        job: &Job,
        (from, to): (&str, &str),
        counter: &Counted,
        change: impl Fn(JobEntry) -> Result<(Bytes, JobEntry)> + Send + Sync,
    ) -> Result<()> {
        for _ in 0..RACES_MAX {
            let (here, revision) = self.line_at(from).await?;
            let (there, later) = self.line_at(to).await?;
            if revision != later {
                continue;
            }
            let entry = match steps::job::shift(job.uid(), here.clone(), there) {
                Ok(Shift::Due(entry)) => entry,
                Ok(Shift::Done(entry)) => {
                    self.shifted(job, counter, revision, [(from, here), (to, Some(entry))])
                        .await;
                    return Ok(());
                }
                Err(Refused::Taken) => return Err(taken(to)),
                Err(_) => return Err(Error::NotFound(format!("jobs/{}", job.name))),
            };
            let (line, entry) = change(entry)?;
            // Not what this server has not heard of: it is asked for after the list was read.
            bounded("sync", self.store.coordination.sync()).await?;
            if self.counter(job).await? != *counter {
                return Err(busy(job));
            }
            let lines = steps::job::moved(from, to, line);
            let list = jobs_record();
            let update = self.store.update_guarded("jobs", &list, revision, lines);
            if let Guarded::Done { revision } = update.await? {
                self.shifted(job, counter, revision, [(from, None), (to, Some(entry))])
                    .await;
                return Ok(());
            }
        }
        Err(busy(job))
    }

    /// Takes in that a job's line was moved, where it has a name, and says so in the counter.
    async fn shifted(&self, job: &Job, counter: &Counted, revision: u64, ends: [(&str, Option<JobEntry>); 2]) {
        let to = ends[1].0;
        let named = ends.map(|(key, entry)| (Name::new(key), entry.map(Arc::new)));
        let lines = named
            .iter()
            .filter_map(|(name, entry)| Some((name.as_ref()?, entry.clone())));
        self.table.edited(revision, &lines.collect::<Vec<_>>());
        // Whoever triggers it would do that, too.
        if Name::new(to).is_some()
            && let Err(error) = self.call(job, counter, to).await
        {
            tracing::debug!(job = %job.name, %error, "its counter says no name");
        }
    }

    /// Has a job's counter say the name that the list has, whoever was about to change that.
    ///
    /// # Errors
    /// `NotFound` if the job is not called as it is known here any more, or gone.
    pub(crate) async fn settle_name(&self, job: &Job) -> Result<()> {
        for _ in 0..RACES_MAX {
            let unknown = self.name_counter(job, UNKNOWN).await?;
            let object = jobs_record();
            settled("jobs", || self.store.contents.update(&object, None, Vec::new())).await?;
            self.load().await?;
            let now = self.by_uid(job.uid());
            let now = now.ok_or_else(|| Error::NotFound(format!("jobs/{}", job.name)))?;
            if self.call(job, &unknown, now.name.as_str()).await?.is_none() {
                continue;
            }
            if now.name == job.name {
                return Ok(());
            }
            return Err(Error::NotFound(format!(
                "jobs/{}: it is called {} now",
                job.name, now.name
            )));
        }
        Err(busy(job))
    }

    /// The counter of a job under whose name builds may begin.
    pub(crate) async fn named(&self, job: &Job) -> Result<Counted> {
        for _ in 0..RACES_MAX {
            let read = self.counter(job).await?;
            if read.counter.is_of(job) {
                return Ok(read);
            }
            self.settle_name(job).await?;
        }
        Err(busy(job))
    }

    /// Removes a job's entries: from then on nothing can be triggered.
    pub(crate) async fn remove_counter(&self, job: &Job, version: u32) -> Result<()> {
        let tokens = self.store.children(&Key::JobKeys(job.uid()).path()).await?;
        let Step { after, ops } = steps::job::remove(job, version, &tokens);
        match self
            .store
            .commit_settled(ops, &job.path(), |entry| entry.is_none())
            .await?
        {
            Commit::Done => {}
            Commit::Mismatch { .. } => {
                return Err(Error::Busy(format!(
                    "job {}: a build was started, or it was restored, just now",
                    job.name
                )));
            }
        }
        for some in after {
            // What somebody else has taken away, or what is left by this, is gc's.
            self.store.commit(some).await?;
        }
        Ok(())
    }
}

/// The counter of a job out of its entry.
pub(crate) fn counted(job: &Job, entry: Option<&Entry>) -> Result<Counted> {
    let entry = entry.ok_or_else(|| Error::NotFound(format!("jobs/{}", job.name)))?;
    Ok(Counted {
        counter: from_json(&job.path(), &entry.data)?,
        version: entry.version,
    })
}

pub(crate) fn taken(name: &str) -> Error {
    Error::Exists(format!("job {name} exists: remove it first, or choose another name"))
}

fn busy(job: &Job) -> Error {
    Error::Busy(format!(
        "jobs/{}: a build of it was started just now, or others rename it: try again",
        job.name
    ))
}
