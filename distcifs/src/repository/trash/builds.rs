//! Builds: into the trash, out of it, and gone for good.

use super::{RACES_MAX, readable};
use crate::repository::builds::Builds;
use crate::repository::core::{bounded, lock};
use crate::repository::model::event::{Event, Stage};
use crate::repository::model::job::Job;
use crate::repository::model::json::from_json;
use crate::repository::model::keys::{LineKey, REMOVED_BUILD_LINES};
use crate::repository::model::ops::Changes;
use crate::repository::model::record::Indexed;
use crate::repository::model::steps::build::{into_trash, out_of_trash};
use crate::repository::model::trash::{BuildLine, Removal};
use crate::repository::records::{Going, Heed};
use crate::repository::store::Guarded;
use crate::repository::{Error, Result, flood};

impl Builds {
    /// Moves a finished build to the trash, or removes it where nothing stays.
    ///
    /// # Errors
    /// `Busy` while it is not finished.
    pub async fn trash_build(&self, job: &Job, n: u64, uid: u32) -> Result<()> {
        let Some(removal) = self.removal(uid).await else {
            return self.remove_build(job, n).await;
        };
        let turn = self.records.turn(job.uid(), n).await?;
        self.record_now(job, n).await?;
        self.check_finished(job, n).await?;
        let pin = self.store.pin_epoch().await?;
        let moved = match self.note(job.uid()).await {
            Ok(()) => self.move_to_trash(job, n, &removal).await,
            full => full,
        };
        drop((pin, turn));
        match moved {
            Ok(()) => {}
            // Whoever removes something makes room.
            Err(Error::Full(why)) => {
                if flood::has_line_of("removed at once", uid) {
                    tracing::warn!(job = %job.name, build = n, %why, "removed at once: the store is full");
                }
                return self.remove_build(job, n).await;
            }
            Err(error) => return Err(error),
        }
        let job = job.name.clone();
        self.events.announce(Event::BuildRemoved { job, n });
        Ok(())
    }

    /// Moves the line; back again if somebody has begun to retry the build meanwhile.
    pub(in crate::repository) async fn move_to_trash(&self, job: &Job, n: u64, removal: &Removal) -> Result<()> {
        self.move_build_line(job, n, removal).await?;
        let moves = self.trash.moved();
        lock(&self.records.records).forget(&(job.uid().to_owned(), n));
        bounded("sync", self.store.coordination.sync()).await?;
        if let Err(busy) = self.check_finished(job, n).await {
            self.bring_back(job, n).await?;
            return Err(busy);
        }
        self.sweep_after(moves);
        Ok(())
    }

    pub(in crate::repository) async fn move_build_line(&self, job: &Job, n: u64, removal: &Removal) -> Result<()> {
        let gone = || Error::NotFound(format!("jobs/{}/builds/{n}", job.name));
        for _ in 0..RACES_MAX {
            let key = LineKey::Build(n).key();
            let page = bounded("index of builds", self.store.contents.query(&job.record(), &key, "", 1)).await?;
            let Some((_, line)) = page.entries.first() else {
                // Nobody knew, and it had happened.
                let there = self.trashed_build(job, n).await?.0;
                return there.filter(|line| line.trash == *removal).map(drop).ok_or_else(gone);
            };
            let change = into_trash(n, from_json::<Indexed>(&key, line)?, removal);
            if self.change_builds(job, page.revision, change, &[(n, None)]).await? {
                return Ok(());
            }
        }
        Err(busy(job, n))
    }

    /// Changes a job's index as it was read; `false` if it was changed meanwhile, or nobody knows.
    pub(super) async fn change_builds(
        &self,
        job: &Job,
        revision: u64,
        change: Changes,
        lines: &[(u64, Option<Indexed>)],
    ) -> Result<bool> {
        let object = job.record();
        let update = self.store.update_guarded("index of builds", &object, revision, change);
        let Guarded::Done { revision } = update.await? else {
            return Ok(false);
        };
        lock(&self.records.indexes).follow(job.uid(), revision, lines);
        Ok(true)
    }

    /// Refuses while a build is not finished. The coordinator is asked itself: of a retry on another mount
    /// this one may not have heard yet.
    pub(in crate::repository) async fn check_finished(&self, job: &Job, n: u64) -> Result<()> {
        if !self.is_unfinished(job, n).await? {
            return Ok(());
        }
        Err(Error::Busy(format!(
            "jobs/{}/builds/{n} is not finished: write abort into its ctl first",
            job.name
        )))
    }

    /// The line of a build in the trash, and the index's revision.
    pub(super) async fn trashed_build(&self, job: &Job, n: u64) -> Result<(Option<BuildLine>, u64)> {
        let key = LineKey::RemovedBuild(n).key();
        let page = bounded("index of builds", self.store.contents.query(&job.record(), &key, "", 1)).await?;
        let line = page.entries.first().map(|(_, line)| from_json(&key, line));
        Ok((line.transpose()?, page.revision))
    }

    /// Whether a build is in the trash.
    pub(in crate::repository) async fn is_trashed(&self, job: &Job, n: u64) -> Result<bool> {
        Ok(self.trashed_build(job, n).await?.0.is_some())
    }

    /// A job's builds in the trash, ascending.
    pub(super) async fn trashed_builds(&self, job: &Job) -> Result<Vec<(u64, BuildLine)>> {
        let lines = readable(
            self.lines("index of builds", &job.record(), REMOVED_BUILD_LINES)
                .await?,
        );
        let number = |(key, line): (String, BuildLine)| Some((LineKey::parse(&key)?.build()?, line));
        Ok(lines.into_iter().filter_map(number).collect())
    }

    /// Brings a build back from the trash.
    ///
    /// # Errors
    /// `NotFound` if it is not there any more.
    pub async fn restore_build(&self, job: &Job, n: u64) -> Result<()> {
        let _pin = self.store.pin_epoch().await?;
        let gone = || Error::NotFound(format!("jobs/{}/builds/{n} in the trash", job.name));
        let line = self.bring_back(job, n).await?.ok_or_else(gone)?;
        let (job, state) = (job.name.clone(), Stage::Ended(line.indexed.state));
        self.events.announce(Event::Build { job, n, state });
        Ok(())
    }

    /// Moves the line of a build back, if it is in the trash.
    pub(in crate::repository) async fn bring_back(&self, job: &Job, n: u64) -> Result<Option<BuildLine>> {
        let mut last = None;
        for _ in 0..RACES_MAX {
            let (line, revision) = self.trashed_build(job, n).await?;
            // Nobody knew, and it had happened; or it is gone.
            let Some(line) = line else {
                let there = self.index_line(job, n).await?.is_some();
                return Ok(last.filter(|_| there));
            };
            let change = out_of_trash(n, line.indexed);
            let told = [(n, Some(line.indexed))];
            if self.change_builds(job, revision, change, &told).await? {
                return Ok(Some(line));
            }
            last = Some(line);
        }
        Err(busy(job, n))
    }

    /// Takes a build's line out of the index that somebody late has written into it, if the build is in the
    /// trash by then; whether it is. One that was retried while it was moved there comes back: it has its entry.
    pub(in crate::repository) async fn heed_trash(&self, job: &Job, n: u64) -> Result<bool> {
        for _ in 0..RACES_MAX {
            let (line, revision) = self.trashed_build(job, n).await?;
            let Some(trashed) = line else {
                return Ok(false);
            };
            if self.is_unfinished(job, n).await? {
                // The index has what was recorded just now.
                let indexed = self.index_line(job, n).await?.unwrap_or(trashed.indexed);
                let change = out_of_trash(n, indexed);
                if self.change_builds(job, revision, change, &[(n, Some(indexed))]).await? {
                    return Ok(false);
                }
                continue;
            }
            let change = vec![(LineKey::Build(n).key(), None)];
            if self.change_builds(job, revision, change, &[(n, None)]).await? {
                return Ok(true);
            }
        }
        Err(busy(job, n))
    }

    /// Removes a build from the trash for good if it was to stay until then at most; whether it was.
    pub async fn discard_build(&self, job: &Job, n: u64, until: u64) -> Result<bool> {
        for _ in 0..RACES_MAX {
            let of_record = self.stored_record(job, n).await?.1;
            let (line, revision) = self.trashed_build(job, n).await?;
            let Some(line) = line.filter(|line| line.trash.until <= until) else {
                return Ok(false);
            };
            let (object, key) = (job.record(), LineKey::Build(n).key());
            let page = bounded("index of builds", self.store.contents.query(&object, &key, "", 1)).await?;
            if page.revision != revision {
                continue;
            }
            if !self
                .change_builds(job, revision, vec![(LineKey::RemovedBuild(n).key(), None)], &[])
                .await?
            {
                continue;
            }
            if !page.entries.is_empty() {
                return Ok(false);
            }
            let going = Going::new(self, job, n);
            return match going.drop_unless_retried(line.indexed, of_record, Heed::Nothing).await {
                Ok(()) => Ok(true),
                // Somebody retries it: it is one of the job's builds again.
                Err(Error::Busy(_)) => {
                    if let Some(record) = self.stored_record(job, n).await?.0 {
                        self.change_index(job, n, Some(Indexed::of(&record))).await?;
                    }
                    Ok(false)
                }
                Err(error) => Err(error),
            };
        }
        Err(busy(job, n))
    }
}

fn busy(job: &Job, n: u64) -> Error {
    Error::Busy(format!(
        "jobs/{}/builds/{n}: the job's builds change too fast: try again",
        job.name
    ))
}
