//! Whether a job may be triggered: its file `enabled`, and what a change of its owner does to that.
//!
//! A job's tasks have its owner's rights, so whoever is given a job must not run what somebody else has
//! written into it. Nothing is switched by the change itself: each configuration says who wrote it and
//! under which owner, and that is looked at when it is used. So no write that is under way slips through.

use std::sync::Arc;

use super::builds::{Builds, not_begun};
use super::configure::Configurations;
use super::configure::heads::{Carried, Opened};
use super::model::job::{Job, Switch};
use super::model::record::Record;
use super::model::steps;
use super::model::steps::job::Refused;
use super::model::ticket::Poster;
use super::{Error, Result};

impl Configurations {
    /// How a job's switch stands now.
    pub async fn switch(&self, job: &Job) -> Result<Switch> {
        let head = self.head(job).await?;
        Ok(job.entry.switch(head.as_ref()))
    }

    /// Switches a job on or off.
    ///
    /// # Errors
    /// `NotClaimant` for whoever switches on what was given to another.
    pub async fn set_switch(&self, job: &Job, on: bool, who: Poster) -> Result<()> {
        let head = self.head(job).await?;
        if let Err(Refused::Given(owner)) = steps::job::may_switch(&job.entry, head.as_ref(), on, who.uid) {
            return Err(Error::NotClaimant(format!(
                "jobs/{}/enabled: the job was given to user {owner}: only he, or root, switches it on",
                job.name
            )));
        }
        let owner = job.entry.access.uid;
        let changed = self.jobs().change(job, |entry| {
            steps::job::switched(entry, head.as_ref(), on, owner);
            Ok(())
        });
        changed.await.map(|_| ())
    }
}

impl Builds {
    /// Refuses to trigger a job that has no configuration or is off, and any in a full store. What was read for
    /// that counts for the first build that is triggered next: a mount that is alone knows it anyway.
    pub async fn may_trigger(&self, job: &Job) -> Result<Carried> {
        let session = self.store.epochs.current().filter(|_| self.store.shared);
        let carried = match session {
            Some(session) => {
                let pin = session.pin();
                let (head, config) = self.configs.current(job).await?;
                job.check_switch(&head)?;
                Carried::new(Opened { pin, head, config }, &self.store.runtime)
            }
            None => {
                job.check_switch(&self.configs.current(job).await?.0)?;
                Carried::default()
            }
        };
        self.store.check_room().await?;
        Ok(carried)
    }

    /// Refuses to begin a recorded build again that is in the trash, that began under another owner, or whose
    /// job is off.
    pub(crate) async fn check_retry(&self, job: &Job, n: u64, record: &Arc<Record>) -> Result<()> {
        if self.is_trashed(job, n).await? {
            return Err(Error::NotFound(format!("jobs/{}/builds/{n}", job.name)));
        }
        let may = steps::build::may_retry(record, job.entry.access.uid);
        may.map_err(|refused| not_begun(job, n, refused))?;
        self.check_trust_again(job, n, record).await?;
        match self.configs.head(job).await? {
            Some(head) => job.check_switch(&head),
            None => Ok(()),
        }
    }
}
