//! A finished build that goes for good, unless somebody retries it: one of the two happens, whole.

use crate::repository::builds::Builds;
use crate::repository::core::bounded;
use crate::repository::model::job::Job;
use crate::repository::model::keys::LineKey;
use crate::repository::model::ops::set;
use crate::repository::model::record::Indexed;
use crate::repository::{Error, Result};
use crate::storage::Entry;

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

    /// Removes what it has, of which there is no line any more; if somebody has begun to retry it meanwhile, the
    /// line is put back instead.
    ///
    /// # Errors
    /// `Busy` in that case.
    pub(in crate::repository) async fn drop_unless_retried(&self, line: Indexed) -> Result<()> {
        let (builds, job, n) = (self.builds, self.job, self.n);
        // Here a retry and a removal take turns.
        if builds.store.shared {
            // Who begins from now on looks for the line anew.
            self.outdate().await?;
            if let Err(busy) = builds.check_finished(job, n).await {
                builds.change_index(job, n, Some(line)).await?;
                return Err(busy);
            }
        }
        builds.drop_build_objects(job, n).await?;
        // Who was late with the record may have written its line anew, or sees that there is no record.
        if builds.store.shared {
            builds.change_index(job, n, None).await?;
        }
        Ok(())
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
    async fn outdate(&self) -> Result<()> {
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

    fn gone(&self) -> Error {
        Error::NotFound(format!("jobs/{}/builds/{}", self.job.name, self.n))
    }
}
