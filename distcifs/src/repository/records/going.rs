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

    /// Removes what it has, and then its line, unless somebody has begun to retry it meanwhile or, if this is to heed
    /// that, keeps it. Its record had this revision, and said this, when its end was looked at.
    ///
    /// On a cluster the record decides, by one change of the revision that was looked at. Nothing is touched before:
    /// whatever fails, or whoever dies, a build that somebody keeps has all that it had.
    ///
    /// # Errors
    /// `Busy` in both cases. After any the line stands, also of a build that is gone: whoever looks at it next takes
    /// that away ([`Going::heed`]), or gc does.
    pub(in crate::repository) async fn drop_unless_retried(
        &self,
        mut line: Indexed,
        mut revision: u64,
        heed: Heed,
    ) -> Result<()> {
        let (builds, job, n) = (self.builds, self.job, self.n);
        for _ in 0..RACES_MAX {
            if heed == Heed::Keep && line.keep {
                return Err(self.kept());
            }
            if !builds.store.shared {
                // Here all wait for their turn.
                builds.change_index(job, n, None).await?;
                return builds.drop_build_objects(job, n).await;
            }
            // A retry that has read the record before this has begun already, or does not begin by what it read; one
            // that reads it later gives it another revision.
            self.outdate().await?;
            builds.check_finished(job, n).await?;
            if let Some(dropped) = builds.drop_build_of(job, n, revision).await? {
                // A line without its record is what people see, so it goes before all that takes more calls.
                builds.change_index(job, n, None).await?;
                return builds.drop_consoles(job, n, &dropped).await;
            }
            // Somebody keeps it, or begins a retry.
            let (record, now) = builds.stored_record(job, n).await?;
            let Some(record) = record else {
                return self.heed().await;
            };
            (line, revision) = (Indexed::of(&record), now);
        }
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

    /// Takes the line away of one whose record is gone, as another mount has removed it meanwhile, or died before it
    /// had come as far as to the line.
    ///
    /// # Errors
    /// `NotFound` then.
    pub(in crate::repository) async fn heed(&self) -> Result<()> {
        let (builds, job, n) = (self.builds, self.job, self.n);
        if !builds.store.shared || builds.stored_record(job, n).await?.0.is_some() {
            return Ok(());
        }
        builds.change_index(job, n, None).await?;
        Err(self.gone())
    }

    /// Whether it is there; if it is gone, so is its line then.
    pub(in crate::repository) async fn stands(&self) -> Result<bool> {
        if self.builds.has_build(self.job, self.n).await? {
            return Ok(true);
        }
        match self.heed().await {
            Err(Error::NotFound(_)) => Ok(false),
            done => done.map(|()| true),
        }
    }

    /// The same of one that may run.
    pub(in crate::repository) async fn heed_if_over(&self) -> Result<()> {
        if self.builds.is_unfinished(self.job, self.n).await? {
            return Ok(());
        }
        self.heed().await
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
