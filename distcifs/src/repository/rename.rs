//! A job gets another name. Its uid stays, and so does all that is kept under that.
//!
//! The list of jobs is one record: the old line goes and the new one comes in one write. What that write
//! can't guard is the coordinator, where builds begin by tickets that are named after their job. So the
//! job's counter, whose version every build that begins is held to, says for which name builds may begin:
//! 1. the counter is set to the new name; from here on nobody begins a build under the old one;
//! 2. if a build is unfinished the counter is set back, and the job is busy;
//! 3. the list is read, then the counter once more, then the list is changed if it is what was read.
//!
//! Whoever ends half-way leaves a counter that is ahead of the list. Who then wants to begin a build sets
//! the counter to no name at all, changes the list's revision, so that a write of step 3 that is still on
//! its way is refused, reads the name out of the list, and sets the counter to that (`settle_name`). So of
//! a rename and a trigger one wins, and neither waits for the other.

use std::sync::Arc;

use bytes::Bytes;

use super::core::{bounded, now, settled};
use super::model::event::Event;
use super::model::job::{Counter, Job, JobEntry, jobs_record};
use super::model::json::{from_json, to_json};
use super::model::ops::set;
use super::names::Name;
use super::work::RACES_MAX;
use super::{Error, Repository, Result};
use crate::storage::{Commit, Entry, Op, Updated};

/// The name in a counter while nobody knows what the job is called.
const UNKNOWN: &str = "";

impl Repository {
    /// Gives a job another name, if it belongs to this user.
    ///
    /// # Errors
    /// `Busy` while a build of it is not finished, `Exists` if another has the name, `Invalid` if it would
    /// trigger itself under that name.
    pub async fn rename_job(&self, job: &Job, to: &Name, of: Option<u32>) -> Result<()> {
        if job.name == *to {
            return Ok(());
        }
        if self.find_job(to.as_str()).await?.is_some() {
            return Err(taken(to.as_str()));
        }
        self.check_circle(job, to).await?;
        self.record_all(job).await?;
        self.check_idle(job).await?;
        let _hold = self.hold_epoch().await?;
        let counter = self.name_counter(job, to.as_str()).await?;
        let moved = match self.check_idle(job).await {
            Ok(()) => self.move_line(job, to, &counter, of).await,
            Err(busy) => Err(busy),
        };
        match moved {
            Ok(()) => {
                let (from, to) = (job.name.clone(), to.clone());
                self.events.announce(Event::JobRenamed { from, to });
                Ok(())
            }
            Err(error) => {
                // Whoever triggers it would do that, too.
                if let Err(left) = self.settle_name(job).await {
                    tracing::debug!(job = %job.name, error = %left, "its counter is ahead of its name");
                }
                Err(error)
            }
        }
    }

    /// Refuses a name under which a job would trigger itself.
    pub(super) async fn check_circle(&self, job: &Job, to: &Name) -> Result<()> {
        let Some(head) = self.head(job).await? else {
            return Ok(());
        };
        let config = self.parsed_config(&job.name, &head.digest).await?;
        let renamed = Job {
            name: to.clone(),
            entry: job.entry.clone(),
        };
        let own = config.downstream_jobs.iter().any(|next| next.job == *to);
        let circle = match own {
            true => Some(format!("downstream_jobs: {to} would trigger itself for ever")),
            false => self.circle(&renamed, &config).await?.map(|fault| fault.to_string()),
        };
        match circle {
            Some(circle) => Err(Error::Invalid(format!(
                "jobs/{} can't be renamed to {to}: its config.json:{circle}",
                job.name
            ))),
            None => Ok(()),
        }
    }

    /// `Busy` if a build of the job is not finished, as the coordinator has it now.
    pub(super) async fn check_idle(&self, job: &Job) -> Result<()> {
        bounded("sync", self.coordination.sync()).await?;
        let path = job.path();
        let children = bounded(&path, self.coordination.children(&path)).await?;
        let mut live: Vec<u64> = children.iter().filter_map(|child| child.parse().ok()).collect();
        live.sort_unstable();
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

    /// The counter of a job as it is now, and its entry's version.
    async fn counter(&self, job: &Job) -> Result<(Counter, u32)> {
        let path = job.path();
        let entry = bounded(&path, self.coordination.get(&path)).await?;
        let entry = entry.ok_or_else(|| Error::NotFound(format!("jobs/{}", job.name)))?;
        Ok((from_json(&path, &entry.data)?, entry.version))
    }

    /// Sets the name in a job's counter; the counter with its version then.
    pub(super) async fn name_counter(&self, job: &Job, name: &str) -> Result<(Counter, u32)> {
        for _ in 0..RACES_MAX {
            let (mut counter, version) = self.counter(job).await?;
            if counter.name.as_deref() == Some(name) && name == UNKNOWN {
                return Ok((counter, version));
            }
            counter.name = Some(name.to_owned());
            if self.set_counter(job, &counter, version).await? {
                return Ok((counter, version + 1));
            }
        }
        Err(busy(job))
    }

    /// Sets a job's counter if its entry has this version; `false` if it has another.
    async fn set_counter(&self, job: &Job, counter: &Counter, version: u32) -> Result<bool> {
        let (path, data) = (job.path(), to_json(counter));
        let ours = |entry: Option<&Entry>| entry.is_some_and(|e| e.version == version + 1 && e.data == data);
        let ops = vec![set(&path, data.clone(), version)];
        Ok(self.commit_settled(ops, &path, ours).await? == Commit::Done)
    }

    /// Moves a job's line in the list of jobs, as long as its counter is what it was.
    pub(super) async fn move_line(
        &self,
        job: &Job,
        to: &Name,
        counter: &(Counter, u32),
        of: Option<u32>,
    ) -> Result<()> {
        let keys = (job.name.as_str(), to.as_str());
        let renamed = |entry: JobEntry| {
            entry.access.must_be_of(of, || format!("jobs/{}", job.name))?;
            let named = Some(now());
            let entry = JobEntry { named, ..entry };
            Ok((to_json(&entry), entry))
        };
        self.shift(job, keys, counter, renamed).await
    }

    /// The same between two keys, of which one may be no name: into the trash and out of it. `change` makes
    /// what is to stand at the second of what stood at the first, or refuses it.
    pub(super) async fn shift(
        &self,
        job: &Job,
        (from, to): (&str, &str),
        counter: &(Counter, u32),
        change: impl Fn(JobEntry) -> Result<(Bytes, JobEntry)> + Send + Sync,
    ) -> Result<()> {
        for _ in 0..RACES_MAX {
            let (here, revision) = self.job_line_at(from).await?;
            let (there, later) = self.job_line_at(to).await?;
            if revision != later {
                continue;
            }
            let ours = |entry: &JobEntry| entry.uid == job.uid();
            // Nobody knew, and it had happened.
            if let Some(entry) = there.clone().filter(ours) {
                self.shifted(revision, (from, here), (to, entry));
                return Ok(());
            }
            let entry = here
                .filter(ours)
                .ok_or_else(|| Error::NotFound(format!("jobs/{}", job.name)))?;
            let (line, entry) = change(entry)?;
            if there.is_some() {
                return Err(taken(to));
            }
            // Not what this server has not heard of: it is asked for after the list was read.
            bounded("sync", self.coordination.sync()).await?;
            if self.counter(job).await? != *counter {
                return Err(busy(job));
            }
            let lines = vec![(from.to_owned(), None), (to.to_owned(), Some(line))];
            let update = self.contents.update(&jobs_record(), Some(revision), lines);
            match bounded("jobs", update).await {
                Ok(Updated::Done { revision }) => {
                    self.shifted(revision, (from, None), (to, entry));
                    return Ok(());
                }
                Ok(Updated::Mismatch { .. }) | Err(Error::TimedOut(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Err(busy(job))
    }

    /// Takes in that a job's line was moved, where it has a name.
    fn shifted(&self, revision: u64, from: (&str, Option<JobEntry>), to: (&str, JobEntry)) {
        let ends = [from, (to.0, Some(to.1))];
        let named = ends.map(|(key, entry)| (Name::new(key), entry.map(Arc::new)));
        let lines = named
            .iter()
            .filter_map(|(name, entry)| Some((name.as_ref()?, entry.clone())));
        self.jobs.edited(revision, &lines.collect::<Vec<_>>());
    }

    /// Has a job's counter say the name that the list has, whoever was about to change that.
    ///
    /// # Errors
    /// `NotFound` if the job is not called as it is known here any more, or gone.
    pub(super) async fn settle_name(&self, job: &Job) -> Result<()> {
        for _ in 0..RACES_MAX {
            let (mut counter, version) = self.name_counter(job, UNKNOWN).await?;
            let object = jobs_record();
            settled("jobs", || self.contents.update(&object, None, Vec::new())).await?;
            self.load_jobs().await?;
            let now = self.job_of_uid(job.uid());
            let now = now.ok_or_else(|| Error::NotFound(format!("jobs/{}", job.name)))?;
            counter.name = Some(now.name.to_string());
            if !self.set_counter(job, &counter, version).await? {
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

    /// The check that builds of a job may begin under its name.
    pub(super) async fn check_name(&self, job: &Job) -> Result<Op> {
        for _ in 0..RACES_MAX {
            let (counter, version) = self.counter(job).await?;
            if counter.is_of(job) {
                return Ok(Op::Check {
                    path: job.path(),
                    version: Some(version),
                });
            }
            self.settle_name(job).await?;
        }
        Err(busy(job))
    }
}

fn taken(name: &str) -> Error {
    Error::Exists(format!("job {name} exists: remove it first, or choose another name"))
}

fn busy(job: &Job) -> Error {
    Error::Busy(format!(
        "jobs/{}: a build of it was started just now, or others rename it: try again",
        job.name
    ))
}
