//! Jobs get other names.

use super::Result;
use super::builds::Builds;
use super::jobs::taken;
use super::model::event::Event;
use super::model::job::Job;
use super::model::steps::job::MOVING;
use super::names::Name;

impl Builds {
    /// Gives a job another name, if it belongs to this user.
    ///
    /// # Errors
    /// `Busy` while a build of it is not finished, `Exists` if another has the name, `Invalid` if it would
    /// trigger itself under that name.
    pub async fn rename_job(&self, job: &Job, to: &Name, of: Option<u32>) -> Result<()> {
        if job.name == *to {
            return Ok(());
        }
        if self.jobs.find(to.as_str()).await?.is_some() {
            return Err(taken(to.as_str()));
        }
        self.configs.check_circle(job, to).await?;
        self.record_all(job).await?;
        self.jobs.check_idle(job).await?;
        let _pin = self.store.pin_epoch().await?;
        let counter = self.jobs.name_counter(job, MOVING).await?;
        let moved = match self.jobs.check_idle(job).await {
            Ok(()) => self.jobs.move_line(job, to, &counter, of).await,
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
                if let Err(left) = self.jobs.settle_name(job).await {
                    tracing::debug!(job = %job.name, error = %left, "its counter says no name");
                }
                Err(error)
            }
        }
    }
}
