//! A finished build that goes for good, unless somebody retries it: one of the two happens, whole.

use crate::repository::builds::Builds;
use crate::repository::core::bounded;
use crate::repository::model::build::build_record;
use crate::repository::model::job::Job;
use crate::repository::model::keys::LineKey;
use crate::repository::model::ops::set;
use crate::repository::model::record::{Indexed, Record};
use crate::repository::store::Guarded;
use crate::repository::{Error, Result};
use crate::storage::Entry;

/// Races lost before a removal is given up.
const RACES_MAX: u32 = 100;

/// What a removal heeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::repository) enum Heed {
    /// That somebody keeps the build.
    Keep,
    /// Nothing: somebody asked for this one.
    Nothing,
}

/// A build that ended.
pub(in crate::repository) struct Going<'a> {
    builds: &'a Builds,
    job: &'a Job,
    n: u64,
}

impl<'a> Going<'a> {
    /// The build of this number.
    pub(in crate::repository) fn new(builds: &'a Builds, job: &'a Job, n: u64) -> Going<'a> {
        Going { builds, job, n }
    }

    /// Whether the index has a line of it, as the store has it.
    pub(in crate::repository) async fn has_line(&self) -> Result<bool> {
        let (object, key) = (self.job.record(), LineKey::Build(self.n).key());
        let query = self.builds.store.contents.query(&object, &key, "", 1);
        Ok(!bounded("index of builds", query).await?.entries.is_empty())
    }

    /// Refuses one that ended and of which the index has no line: somebody removes it.
    pub(in crate::repository) async fn check_line(&self) -> Result<()> {
        if self.builds.is_unfinished(self.job, self.n).await? || self.has_line().await? {
            return Ok(());
        }
        Err(self.gone())
    }

    /// Removes what it has, and its line; if somebody has begun to retry it meanwhile, the line is put back instead. So
    /// it is if somebody keeps it, and this is to heed that. Its record had this revision when its end was looked at.
    ///
    /// # Errors
    /// `Busy` in both cases.
    pub(in crate::repository) async fn drop_unless_retried(
        &self,
        mut line: Indexed,
        mut revision: u64,
        heed: Heed,
    ) -> Result<()> {
        let (builds, job, n) = (self.builds, self.job, self.n);
        for _ in 0..RACES_MAX {
            builds.change_index(job, n, None).await?;
            if !builds.store.shared {
                return builds.drop_build_objects(job, n).await;
            }
            // Here a retry and a removal take turns. Who begins from now on looks for the line anew.
            self.outdate().await?;
            let finished = builds.check_finished(job, n).await;
            let spared = if heed == Heed::Keep && line.keep {
                Err(self.kept())
            } else {
                Ok(())
            };
            if let Err(busy) = finished.and(spared) {
                builds.change_index(job, n, Some(line)).await?;
                return Err(busy);
            }
            if builds.drop_build_of(job, n, revision).await? {
                // Who was late with the record may have written its line anew, or sees that there is no record.
                return builds.change_index(job, n, None).await;
            }
            // Somebody keeps it, or begins a retry by a line that came late.
            let (record, now) = builds.stored_record(job, n).await?;
            let Some(record) = record else { return Err(self.gone()) };
            (line, revision) = (Indexed::of(&record), now);
        }
        builds.change_index(job, n, Some(line)).await?;
        Err(Error::Busy(format!(
            "jobs/{}/builds/{n}: it changes too fast: try again",
            job.name
        )))
    }

    /// Gives the record that a retry begins from another revision: a removal that looked at it before does not go on
    /// by that. Whether it had the one that was read.
    pub(in crate::repository) async fn begin_from(&self, record: &Record, revision: u64) -> Result<bool> {
        let (builds, job, n) = (self.builds, self.job, self.n);
        if !builds.store.shared {
            // Here both wait for their turn.
            return Ok(true);
        }
        let (object, same) = (build_record(job.uid(), n), record.changes());
        let moved = builds.store.update_guarded("build", &object, revision, same).await?;
        Ok(matches!(moved, Guarded::Done { .. }))
    }

    /// Takes the line away of one whose record is gone, as another mount has removed it meanwhile.
    pub(in crate::repository) async fn heed(&self) -> Result<()> {
        let (builds, job, n) = (self.builds, self.job, self.n);
        if !builds.store.shared || builds.stored_record(job, n).await?.0.is_some() {
            return Ok(());
        }
        builds.change_index(job, n, None).await?;
        Err(self.gone())
    }

    /// Gives the entry of the job another version: what was to begin by the one that it had does not.
    pub(in crate::repository) async fn outdate(&self) -> Result<()> {
        let (store, path) = (&self.builds.store, self.job.path());
        bounded("sync", store.coordination.sync()).await?;
        let Some(entry) = bounded(&path, store.coordination.get(&path)).await? else {
            return Ok(());
        };
        // Where it is another by now, somebody else has changed it.
        let ours = |now: Option<&Entry>| now.is_none_or(|now| now.version != entry.version);
        let ops = vec![set(&path, entry.data.clone(), entry.version)];
        store.commit_settled(ops, &path, ours).await.map(drop)
    }

    /// What pruning is told of a build that it must leave.
    pub(in crate::repository) fn kept(&self) -> Error {
        Error::Busy(format!("jobs/{}/builds/{} is kept", self.job.name, self.n))
    }

    fn gone(&self) -> Error {
        Error::NotFound(format!("jobs/{}/builds/{}", self.job.name, self.n))
    }
}
