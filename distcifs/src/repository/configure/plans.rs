//! What builds do, out of the texts that they began with.

use std::sync::Arc;

use super::Configurations;
use crate::repository::Result;
use crate::repository::model::build::{ConfigEntry, Live};
use crate::repository::model::plan::Plan;
use crate::repository::names::Name;

impl Configurations {
    /// What a build does that is not finished.
    pub(crate) async fn plan_of(&self, job: &Name, live: &Live) -> Result<Arc<Plan>> {
        self.plan(job, &live.config).await
    }

    /// What a build of this configuration does.
    pub(crate) async fn plan(&self, job: &Name, config: &ConfigEntry) -> Result<Arc<Plan>> {
        Ok(Arc::new(Plan::of(self.parsed(job, &config.digest).await?)))
    }
}
