//! Jobs: into the trash, out of it, and gone for good.

use super::{PAGE, RACES_MAX, notes, readable};
use crate::repository::builds::Builds;
use crate::repository::core::{bounded, now, settled};
use crate::repository::model::event::Event;
use crate::repository::model::job::{Job, JobEntry, jobs_record};
use crate::repository::model::json::{from_json, to_json};
use crate::repository::model::keys::{LineKey, REMOVED_BUILD_LINES};
use crate::repository::model::steps;
use crate::repository::model::steps::job::{GONE, MOVING};
use crate::repository::model::trash::{BuildLine, JobLine, Removal};
use crate::repository::names::Name;
use crate::repository::{Error, Result, flood};

impl Builds {
    /// Moves a job with its builds to the trash for user `uid`, or removes it where nothing stays, if it belongs
    /// to the user `of`.
    ///
    /// # Errors
    /// `Busy` while one of its builds is not finished.
    pub async fn trash_job(&self, job: &Job, uid: u32, of: Option<u32>) -> Result<()> {
        let Some(removal) = self.removal(uid).await else {
            return self.remove_job(job, of).await;
        };
        self.end_all(job, of).await?;
        if self.store.get(&job.path()).await?.is_none() {
            // A removal for good came to this point and no further.
            return self.remove_job(job, of).await;
        }
        match self.move_job_to_trash(job, &removal, of).await {
            Ok(()) => {}
            // Whoever removes something makes room.
            Err(Error::Full(why)) => {
                if flood::has_line_of("removed at once", uid) {
                    tracing::warn!(job = %job.name, %why, "removed at once: the store is full");
                }
                return self.remove_job(job, of).await;
            }
            Err(error) => {
                // Whoever triggers it would do that, too.
                if let Err(left) = self.jobs.settle_name(job).await {
                    tracing::debug!(job = %job.name, error = %left, "its counter says no name");
                }
                return Err(error);
            }
        }
        self.events.announce(Event::JobRemoved(job.name.clone()));
        let moves = self.trash.moved();
        self.sweep_after(moves);
        Ok(())
    }

    /// Ends and records what may end with a job that this user removes: builds that wait for approval.
    ///
    /// # Errors
    /// `Busy` while another of its builds is not finished.
    async fn end_all(&self, job: &Job, of: Option<u32>) -> Result<()> {
        self.record_all(job).await?;
        if of.is_some() {
            let line = self.jobs.line(&job.name).await?.0;
            let line = line.filter(|line| line.uid == job.uid());
            let line = line.ok_or_else(|| Error::NotFound(format!("jobs/{}", job.name)))?;
            line.access.must_be_of(of, || format!("jobs/{}", job.name))?;
        }
        self.jobs.check_idle(job).await?;
        self.dismiss_held(job.uid()).await?;
        self.record_all(job).await
    }

    /// Says so in the counter, and moves the line as long as no build begins.
    async fn move_job_to_trash(&self, job: &Job, removal: &Removal, of: Option<u32>) -> Result<()> {
        let _pin = self.store.pin_epoch().await?;
        let removed = self.trashed_builds(job).await?;
        let with_it = removed.iter().filter(|(_, line)| line.goes_with(removal)).count();
        let builds = (self.finished_numbers(job).await?.len() + with_it) as u64;
        let key = LineKey::RemovedJob(job.uid()).key();
        let counter = self.jobs.name_counter(job, &key).await?;
        // One that was triggered since is held, or runs: nothing of it may go along.
        self.jobs.check_empty(job).await?;
        let line = |entry: JobEntry| {
            entry.access.must_be_of(of, || format!("jobs/{}", job.name))?;
            let (_, line) = steps::job::into_trash(entry.clone(), &job.name, builds, removal.clone());
            Ok((to_json(&line), entry))
        };
        self.jobs
            .shift(job, (job.name.as_str(), key.as_str()), &counter, line)
            .await
    }

    /// The line of a removed job.
    pub(super) async fn trashed_job(&self, uid: &str) -> Result<Option<JobLine>> {
        let (key, list) = (LineKey::RemovedJob(uid).key(), jobs_record());
        let page = bounded("jobs", self.store.contents.query(&list, &key, "", 1)).await?;
        let line = page.entries.iter().find(|(found, _)| *found == key);
        line.map(|(key, line)| from_json(key, line)).transpose()
    }

    /// Brings a job back from the trash under a name, with the builds that were removed in the hour before it.
    ///
    /// # Errors
    /// `NotFound` if it is not there any more, `Exists` if another has the name, `Invalid` if it would
    /// trigger itself under that name.
    pub async fn restore_job(&self, uid: &str, to: &Name) -> Result<Job> {
        let gone = || Error::NotFound(format!("jobs/.trash: the job {uid}"));
        let line = self.trashed_job(uid).await?.ok_or_else(gone)?;
        let job = line.job()?;
        // What this mount knows may be as old as the removal elsewhere.
        if self.jobs.line(to).await?.0.is_some() {
            return Err(Error::Exists(format!(
                "job {to} exists: restore the other under another name (distcifs trash restore {} --as NAME)",
                job.name
            )));
        }
        self.configs.check_circle(&job, to).await?;
        let _pin = self.store.pin_epoch().await?;
        let key = LineKey::RemovedJob(uid).key();
        let counter = self.jobs.name_counter(&job, MOVING).await?;
        // First: whoever ends after it restores the job once more.
        self.restore_with(&job, &line.trash).await?;
        let restored = |entry: JobEntry| {
            let entry = steps::job::named(entry, now());
            Ok((to_json(&entry), entry))
        };
        self.jobs
            .shift(&job, (key.as_str(), to.as_str()), &counter, restored)
            .await?;
        self.events.announce(Event::JobCreated(to.clone()));
        let entry = job.entry.clone();
        Ok(Job {
            name: to.clone(),
            entry,
        })
    }

    /// Brings the builds back that go with a job.
    async fn restore_with(&self, job: &Job, removal: &Removal) -> Result<()> {
        let (object, mut after, mut races) = (job.record(), String::new(), 0);
        while races < RACES_MAX {
            let page = bounded(
                "index of builds",
                self.store.contents.query(&object, REMOVED_BUILD_LINES, &after, PAGE),
            )
            .await?;
            let last = page.entries.last().map(|(key, _)| key.clone());
            let full = page.entries.len() == PAGE;
            let (mut change, mut told) = (Vec::new(), Vec::new());
            for (key, line) in readable::<BuildLine>(page.entries) {
                let n = LineKey::parse(&key).and_then(LineKey::build);
                if let Some(n) = n.filter(|_| line.goes_with(removal)) {
                    change.extend(steps::build::out_of_trash(n, line.indexed));
                    told.push((n, Some(line.indexed)));
                }
            }
            if !change.is_empty() && !self.change_builds(job, page.revision, change, &told).await? {
                races += 1;
                continue;
            }
            match last {
                Some(last) if full => after = last,
                _ => return Ok(()),
            }
        }
        Err(Error::Busy(format!(
            "{}: its builds change too fast: try again",
            job.name
        )))
    }

    /// Removes a job from the trash for good if it was to stay until then at most; whether it was.
    pub async fn discard_job(&self, uid: &str, until: u64) -> Result<bool> {
        let Some(line) = self.trashed_job(uid).await?.filter(|line| line.trash.until <= until) else {
            return Ok(false);
        };
        let job = line.job()?;
        match self.jobs.name_counter(&job, GONE).await {
            Ok(counted) => {
                // A write that restores it and is still on its way is refused from here on.
                let list = jobs_record();
                settled("jobs", || self.store.contents.update(&list, None, Vec::new())).await?;
                if self.trashed_job(uid).await?.is_none() {
                    return Ok(false);
                }
                self.jobs.remove_counter(&job, counted.version).await?;
            }
            // A removal for good came to this point and no further.
            Err(Error::NotFound(_)) => {}
            Err(error) => return Err(error),
        }
        self.store
            .update("jobs", &jobs_record(), vec![(LineKey::RemovedJob(uid).key(), None)])
            .await?;
        self.drop_job(&job).await?;
        Ok(true)
    }

    /// Removes a job with its builds for good, if it belongs to this user; `Busy` while one of them runs.
    pub async fn remove_job(&self, job: &Job, of: Option<u32>) -> Result<()> {
        self.end_all(job, of).await?;
        let live = self.live_numbers(job).await?;
        if let Some(n) = live.first() {
            return Err(Error::Busy(format!(
                "job {} has {} unfinished builds (build {n} is one): abort them first",
                job.name,
                live.len()
            )));
        }
        // Without a counter, an earlier removal came to this point and no further.
        if let Some(counter) = self.store.get(&job.path()).await? {
            self.jobs.remove_counter(job, counter.version).await?;
        }
        // Another job may have its name already.
        let others = |known: &JobEntry| known.uid != job.uid();
        self.jobs.edit(&job.name, |known| Ok(known.filter(others))).await?;
        self.events.announce(Event::JobRemoved(job.name.clone()));
        self.drop_job(job).await
    }

    /// Removes what is left of a job that is in no list any more.
    async fn drop_job(&self, job: &Job) -> Result<()> {
        for n in self.finished_numbers(job).await? {
            self.drop_build_objects(job, n).await?;
        }
        for (n, _) in self.trashed_builds(job).await? {
            self.drop_build_objects(job, n).await?;
        }
        let record = job.record();
        settled("job", || self.store.contents.remove(&record)).await?;
        self.forget_note(job.uid()).await
    }

    /// Forgets that builds of a job were removed, which is gone for good.
    pub(super) async fn forget_note(&self, uid: &str) -> Result<()> {
        self.store.update("trash", &notes(), vec![(uid.to_owned(), None)]).await
    }
}
