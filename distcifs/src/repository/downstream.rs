//! Builds after builds: what one knows of the one before, and no circle of `downstream_jobs`.

use std::collections::{HashMap, VecDeque};

use super::builds::Builds;
use super::config::{Downstream, Fault, JobConfig, Upstream};
use super::configure::Configurations;
use super::model::build::{Live, live_path};
use super::model::job::Job;
use super::model::json::from_json;
use super::names::Name;
use super::{Error, Result};

/// Jobs looked at behind one job: each costs a read of the store.
const JOBS_MAX: usize = 1000;

impl Builds {
    /// A build, as those that it triggers know it.
    pub(crate) async fn upstream(&self, job: &Job, n: u64) -> Result<Upstream> {
        let path = live_path(job.uid(), n);
        let params = match self.store.get(&path).await? {
            Some(entry) => self.live_params(&from_json::<Live>(&path, &entry.data)?).await?,
            None => {
                let missing = || Error::NotFound(format!("jobs/{}/builds/{n}", job.name));
                self.record(job, n).await?.ok_or_else(missing)?.params.clone()
            }
        };
        let depth = params.iter().find(|(name, _)| name == "upstream_depth");
        let depth: u64 = depth.and_then(|(_, value)| value.parse().ok()).unwrap_or_default();
        Ok(Upstream {
            job: job.name.clone(),
            build: n,
            depth: depth.saturating_add(1),
        })
    }
}

impl Configurations {
    /// Refuses a name under which a job would trigger itself.
    pub(crate) async fn check_circle(&self, job: &Job, to: &Name) -> Result<()> {
        let Some(head) = self.head(job).await? else {
            return Ok(());
        };
        let config = self.parsed(&job.name, &head.digest).await?;
        let renamed = Job {
            name: to.clone(),
            entry: job.entry.clone(),
        };
        let own = config.downstream_jobs.iter().any(|next| next.job == *to);
        let circle = match own {
            true => Some(format!("downstream_jobs: {to} would trigger itself for ever")),
            false => self.circle(&renamed, &config).await?.map(|fault| fault.to_string()),
        };
        match circle {
            Some(circle) => Err(Error::Invalid(format!(
                "jobs/{} can't be renamed to {to}: its config.json:{circle}",
                job.name
            ))),
            None => Ok(()),
        }
    }

    /// What is wrong with the jobs that a configuration triggers, if anything is: that one of them
    /// leads back to `job`. Two configurations written at the same moment may still close a circle:
    /// build-control ends that by its depth.
    pub(crate) async fn circle(&self, job: &Job, config: &JobConfig) -> Result<Option<Fault>> {
        // Who triggers a job, of those that lead to it from here.
        let mut triggered_by: HashMap<Name, Name> = HashMap::new();
        for first in &config.downstream_jobs {
            let mut open = VecDeque::new();
            if !triggered_by.contains_key(&first.job) {
                triggered_by.insert(first.job.clone(), job.name.clone());
                open.push_back(first.job.clone());
            }
            while let Some(name) = open.pop_front() {
                for next in self.downstream_of(&name).await? {
                    if next.job == job.name {
                        return Ok(Some(self.closed(first, job, &name, &triggered_by)));
                    }
                    if triggered_by.contains_key(&next.job) {
                        continue;
                    }
                    if triggered_by.len() >= JOBS_MAX {
                        let what = format!("downstream_jobs: more than {JOBS_MAX} jobs stand behind {}", first.job);
                        return Ok(Some(Fault::new(first.at, what)));
                    }
                    triggered_by.insert(next.job.clone(), name.clone());
                    open.push_back(next.job);
                }
            }
        }
        Ok(None)
    }

    /// What a job triggers; nothing if it is not there, or has no configuration that can be read:
    /// then it can't be triggered either.
    async fn downstream_of(&self, name: &Name) -> Result<Vec<Downstream>> {
        let Some(job) = self.jobs().get(name.as_str()) else {
            return Ok(Vec::new());
        };
        match self.current(&job).await {
            Ok((_, config)) => Ok(config.downstream_jobs.clone()),
            Err(Error::TimedOut(what)) => Err(Error::TimedOut(what)),
            Err(error) => {
                tracing::debug!(job = %name, %error, "not looked behind for a circle");
                Ok(Vec::new())
            }
        }
    }

    /// The fault that names the circle, from the job round to itself. Jobs that its owner may not read
    /// are counted: what they trigger is theirs to tell.
    fn closed(&self, first: &Downstream, job: &Job, last: &Name, triggered_by: &HashMap<Name, Name>) -> Fault {
        let mut back = vec![job.name.as_str(), last.as_str()];
        let mut at = last;
        while let Some(before) = triggered_by.get(at).filter(|before| **before != job.name) {
            back.push(before.as_str());
            at = before;
        }
        back.push(job.name.as_str());
        let mut words = Vec::new();
        let mut hidden = 0;
        for name in back.into_iter().rev() {
            // A job that is renamed or restored has its new name nowhere yet.
            if name != job.name.as_str() && !self.owner_may_read(job, name) {
                hidden += 1;
                continue;
            }
            words.extend(hidden_jobs(std::mem::take(&mut hidden)));
            words.push(name.to_owned());
        }
        Fault::new(first.at, format!("downstream_jobs: a circle: {}", words.join(" -> ")))
    }

    /// Whether the owner of a job may read another, as far as user and group of the two tell.
    fn owner_may_read(&self, job: &Job, other: &str) -> bool {
        let owner = job.entry.access;
        self.jobs().get(other).is_some_and(|other| {
            let access = other.entry.access;
            let shift = match () {
                () if owner.uid == 0 => return true,
                () if owner.uid == access.uid => 6,
                () if owner.gid == access.gid => 3,
                () => 0,
            };
            access.mode >> shift & 4 != 0
        })
    }
}

/// What stands for jobs that are not named.
fn hidden_jobs(count: usize) -> Option<String> {
    match count {
        0 => None,
        1 => Some("(a job that its owner may not read)".into()),
        count => Some(format!("({count} jobs that its owner may not read)")),
    }
}
