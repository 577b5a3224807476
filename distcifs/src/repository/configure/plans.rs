//! What builds do, out of the texts that they began with and those that their tasks added.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use lru::LruCache;

use super::Configurations;
use crate::repository::config::{Ceilings, read_added_stored};
use crate::repository::core::lock;
use crate::repository::model::build::{ConfigEntry, Live};
use crate::repository::model::json::{from_json, to_json};
use crate::repository::model::plan::{Addition, Plan, PlanEntry};
use crate::repository::model::record::Record;
use crate::repository::model::ticket::BuildRef;
use crate::repository::names::Name;
use crate::repository::{Error, Result};
use crate::storage::{Digest, Object};

/// Bytes of memory that plans take which are kept.
const PLANS_BYTES_MAX: usize = 128 << 20;

/// Most plans that are kept, however small they are.
const PLANS_MAX: usize = 2048;

/// Plans to which tasks were added. The truth is the stored list of texts, which never changes under its digest:
/// none is ever out of date.
#[derive(Default)]
pub(super) struct Plans(Mutex<Table>);

/// Those that were used least lately go first. Plans of one build share their tasks, which count once.
struct Table {
    plans: LruCache<Which, Arc<Plan>>,
    /// What they share, by its mark: how many of them have it, and its bytes.
    shared: HashMap<usize, (usize, usize)>,
    bytes: usize,
    most: usize,
}

impl Default for Table {
    fn default() -> Self {
        Table::of(PLANS_BYTES_MAX)
    }
}

impl Table {
    fn of(most: usize) -> Self {
        Table {
            plans: LruCache::unbounded(),
            shared: HashMap::new(),
            bytes: 0,
            most,
        }
    }

    /// Keeps a plan in the place of that which the key had.
    fn keep(&mut self, which: Which, plan: Arc<Plan>) {
        self.bytes += plan.own_bytes();
        for part in plan.shared() {
            let (times, bytes) = self.shared.entry(part.mark).or_insert((0, part.bytes));
            *times += 1;
            if *times == 1 {
                self.bytes += *bytes;
            }
        }
        if let Some(former) = self.plans.put(which, plan) {
            self.drop(&former);
        }
        while self.bytes > self.most || self.plans.len() > PLANS_MAX {
            let Some((_, oldest)) = self.plans.pop_lru() else { break };
            self.drop(&oldest);
        }
    }

    fn drop(&mut self, plan: &Plan) {
        self.bytes -= plan.own_bytes();
        for part in plan.shared() {
            let Some((times, bytes)) = self.shared.get_mut(&part.mark) else {
                continue;
            };
            *times -= 1;
            if *times == 0 {
                self.bytes -= *bytes;
                self.shared.remove(&part.mark);
            }
        }
    }
}

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
        lock(&self.0).plans.get(which).cloned()
    }

    fn keep(&self, which: Which, plan: &Arc<Plan>) {
        let mut table = lock(&self.0);
        if let Some(last) = which.last(plan.texts()) {
            table.keep(last, plan.clone());
        }
        table.keep(which, plan.clone());
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
            let is_last = plan.texts().len() + 1 == texts.len();
            let laid = tokio::task::spawn_blocking(move || {
                let laid = lay_on(plan, &ceilings, text, &bytes)?;
                if is_last {
                    laid.look_at_changed();
                }
                Ok::<_, Error>(laid)
            });
            let laid = laid.await;
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

    /// Stores what names a plan, durably with the text that was added to it last, and remembers it: who adds next begins
    /// with it.
    pub(crate) async fn keep_plan(&self, part: &BuildRef, live: &Live, plan: Plan, text: &Object) -> Result<PlanEntry> {
        let list = to_json(&plan.texts());
        let size = list.len() as u64;
        let digest = self.store.keep_body_with(list, text).await?.to_string();
        let tasks = plan.count();
        if let Some(job) = Name::new(&part.job) {
            let which = Which {
                job,
                config: live.config.digest.clone(),
                untrusted: live.source.untrusted,
                list: Some(digest.clone()),
                first: None,
            };
            self.plans.keep(which, &Arc::new(plan));
        }
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::repository::config::JobConfig;

    fn config() -> Arc<JobConfig> {
        let text = json!({"tasks": [{"type": "execute-shell", "params": {"script": "true"}}]}).to_string();
        Arc::new(JobConfig::read(text.as_bytes(), None).unwrap())
    }

    fn which(list: &str, first: Option<&str>) -> Which {
        Which {
            job: Name::new("a").unwrap(),
            config: String::new(),
            untrusted: false,
            list: Some(list.to_owned()).filter(|_| first.is_none()),
            first: first.map(str::to_owned),
        }
    }

    /// A plan with the tasks of a text on it.
    fn with(plan: &Plan, text: &Value) -> Plan {
        let bytes = text.to_string().into_bytes();
        let ceilings = Ceilings::of(plan.config(), &Name::new("a").unwrap(), &[], false);
        let count = text["tasks"].as_array().map_or(0, |tasks| {
            let of = |task: &Value| task["matrix"]["x"].as_array().map_or(1, Vec::len);
            tasks.iter().map(of).sum()
        });
        let addition = Addition {
            by: 0,
            at: plan.count(),
            count,
            text: Digest::of(&bytes).to_string(),
            bytes: bytes.len() as u64,
        };
        lay_on(plan.clone(), &ceilings, addition, &bytes).unwrap()
    }

    /// A short text that stands for megabytes.
    fn heavy(name: &str) -> Value {
        let values: Vec<usize> = (0..250).collect();
        json!({"tasks": [{
            "type": "execute-shell", "name": name, "params": {"script": "x".repeat(4000)}, "matrix": {"x": values},
        }]})
    }

    /// However short the texts are, what is kept is bounded by what their tasks take.
    #[test]
    fn what_is_kept_is_bounded_by_its_tasks() {
        let config = config();
        let one = with(&Plan::of(config.clone()), &heavy("x")).size().memory;
        assert!(one > 1_000_000, "{one}");
        let mut table = Table::of(4 * one);
        for at in 0..20 {
            let plan = with(&Plan::of(config.clone()), &heavy(&format!("t{at}")));
            table.keep(which(&at.to_string(), None), Arc::new(plan));
            let held: usize = table.plans.iter().map(|(_, plan)| plan.size().memory).sum();
            assert!(table.bytes <= table.most && held <= table.most, "{held}");
        }
        assert!((3..=4).contains(&table.plans.len()), "{}", table.plans.len());
        assert!(table.plans.contains(&which("19", None)));
    }

    /// The plans of a build share what they were made of: it counts once, and until the last of them goes.
    #[test]
    fn what_plans_share_counts_once() {
        let first = with(&Plan::of(config()), &heavy("x"));
        let heavy = first.size().memory;
        let mut table = Table::of(2 * heavy);
        let mut plan = first.clone();
        table.keep(which("first", None), Arc::new(first));
        for at in 0..20 {
            let small =
                json!({"tasks": [{"type": "execute-shell", "name": format!("s{at}"), "params": {"script": "true"}}]});
            plan = with(&plan, &small);
            table.keep(which(&at.to_string(), None), Arc::new(plan.clone()));
            table.keep(which("", Some("first")), Arc::new(plan.clone()));
        }
        assert_eq!(table.plans.len(), 22);
        assert!(table.bytes >= heavy && table.bytes < 2 * heavy);
        while let Some((_, plan)) = table.plans.pop_lru() {
            table.drop(&plan);
            assert_eq!(table.bytes >= heavy, !table.plans.is_empty());
        }
        assert_eq!((table.bytes, table.shared.len()), (0, 0));
    }
}
