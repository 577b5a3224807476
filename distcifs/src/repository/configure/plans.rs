//! What builds do, out of the texts that they began with and those that their tasks added.

use std::sync::{Arc, Mutex};

use bytes::Bytes;

use super::Configurations;
use crate::repository::cache::Cache;
use crate::repository::config::{Ceilings, read_added_stored};
use crate::repository::core::lock;
use crate::repository::model::build::{ConfigEntry, Live};
use crate::repository::model::json::{from_json, to_json};
use crate::repository::model::plan::{Addition, Plan, PlanEntry};
use crate::repository::model::record::Record;
use crate::repository::names::Name;
use crate::repository::{Error, Result};
use crate::storage::Digest;

/// Bytes of the texts whose tasks are kept. Plans of one build share their tasks: they count for each.
const PLANS_BYTES_MAX: usize = 128 << 20;

/// What a plan counts at least, bytes.
const PLAN_BYTES_MIN: usize = 64 << 10;

/// Plans to which tasks were added. The truth is the stored list of texts, which never changes under its digest:
/// none is ever out of date.
#[derive(Default)]
pub(super) struct Plans(Mutex<Cache<Which, Arc<Plan>, PLANS_BYTES_MAX>>);

/// What a plan was read of.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Which {
    job: Name,
    config: String,
    untrusted: bool,
    /// The list; `None`: the last that was read of those that begin with this text.
    list: Option<String>,
    first: Option<String>,
}

impl Plans {
    fn get(&self, which: &Which) -> Option<Arc<Plan>> {
        lock(&self.0).get(which).cloned()
    }

    fn keep(&self, which: Which, plan: &Arc<Plan>) {
        let texts: u64 = plan.texts().iter().map(|text| text.bytes).sum();
        let weight = usize::try_from(texts).unwrap_or(usize::MAX).max(PLAN_BYTES_MIN);
        let mut plans = lock(&self.0);
        if let Some(last) = which.last(plan.texts()) {
            plans.keep_weighed(last, plan.clone(), PLAN_BYTES_MIN);
        }
        plans.keep_weighed(which, plan.clone(), weight);
    }
}

impl Which {
    fn last(&self, texts: &[Addition]) -> Option<Which> {
        Some(Which {
            list: None,
            first: Some(texts.first()?.text.clone()),
            ..self.clone()
        })
    }
}

impl Configurations {
    /// What a build does that is not finished.
    pub(crate) async fn plan_of(&self, job: &Name, live: &Live) -> Result<Arc<Plan>> {
        self.plan(job, &live.config, live.plan.as_ref(), live.source.untrusted)
            .await
    }

    /// What a finished build did.
    pub(crate) async fn plan_of_record(&self, job: &Name, record: &Record) -> Result<Arc<Plan>> {
        self.plan(job, &record.config, record.plan.as_ref(), record.source.untrusted)
            .await
    }

    /// What a build of this configuration does, with what was added to it.
    async fn plan(
        &self,
        job: &Name,
        config: &ConfigEntry,
        entry: Option<&PlanEntry>,
        untrusted: bool,
    ) -> Result<Arc<Plan>> {
        let parsed = self.parsed(job, &config.digest).await?;
        let Some(entry) = entry else {
            return Ok(Arc::new(Plan::of(parsed)));
        };
        let which = Which {
            job: job.clone(),
            config: config.digest.clone(),
            untrusted,
            list: Some(entry.digest.clone()),
            first: None,
        };
        if let Some(plan) = self.plans.get(&which) {
            return Ok(plan);
        }
        let texts = self.texts_of(entry).await?;
        let known = which.last(&texts).and_then(|last| self.plans.get(&last));
        let known = known.filter(|known| texts.starts_with(known.texts()));
        let mut plan = known.map_or_else(|| Plan::of(parsed.clone()), |known| (*known).clone());
        let ceilings = Arc::new(Ceilings::of(&parsed, job, &[], untrusted));
        for text in texts.get(plan.texts().len()..).unwrap_or_default() {
            let bytes = self.store.body(digest_of(&text.text)?).await?;
            let (ceilings, text) = (ceilings.clone(), text.clone());
            let laid = tokio::task::spawn_blocking(move || lay_on(plan, &ceilings, text, &bytes)).await;
            plan = laid.map_err(|error| Error::Io(format!("reading tasks: {error}").into()))??;
        }
        let plan = Arc::new(plan);
        self.plans.keep(which, &plan);
        Ok(plan)
    }

    /// The list of the texts that were added to a build.
    pub(crate) async fn texts_of(&self, entry: &PlanEntry) -> Result<Vec<Addition>> {
        let list = self.store.body(digest_of(&entry.digest)?).await?;
        from_json("plan.json", &list)
    }

    /// Stores what names a plan, durably, and the text that was added to it last.
    pub(crate) async fn keep_plan(&self, plan: &Plan, text: Bytes) -> Result<PlanEntry> {
        self.store.keep_body(text).await?;
        let list = to_json(&plan.texts());
        let size = list.len() as u64;
        let digest = self.store.keep_body(list).await?.to_string();
        let tasks = plan.count();
        Ok(PlanEntry { digest, size, tasks })
    }

    /// Stores all that a plan is made of again: nobody's garbage then, whatever is removed meanwhile.
    pub(crate) async fn keep_plan_again(&self, entry: &PlanEntry) -> Result<()> {
        for text in self.texts_of(entry).await? {
            let bytes = self.store.body(digest_of(&text.text)?).await?;
            self.store.keep_body(bytes).await?;
        }
        let list = self.store.body(digest_of(&entry.digest)?).await?;
        self.store.keep_body(list).await.map(|_| ())
    }
}

/// Lays a stored text on a plan.
fn lay_on(mut plan: Plan, ceilings: &Ceilings, text: Addition, bytes: &[u8]) -> Result<Plan> {
    let damaged = || Error::Io(format!("tasks that task {} added: damaged; run distcifs fsck", text.by).into());
    let (adding, before) = plan.adding(text.by, ceilings);
    let added = read_added_stored(bytes, &adding).map_err(|_| damaged())?;
    if (text.at, text.count) != (plan.count(), added.tasks.len()) {
        return Err(damaged());
    }
    plan.push(text.by, &before, added, (text.text, text.bytes));
    Ok(plan)
}

fn digest_of(text: &str) -> Result<Digest> {
    Digest::parse(text).ok_or_else(|| Error::Io("plan.json: damaged digest; run distcifs fsck".into()))
}
