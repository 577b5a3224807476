//! Builds after builds: no circle of `downstream_jobs`.

use std::collections::{HashMap, VecDeque};

use super::config::{Downstream, Fault, JobConfig};
use super::jobs::Job;
use super::names::Name;
use super::{Error, Repository, Result};

/// Jobs looked at behind one job: each costs a read of the store.
const JOBS_MAX: usize = 1000;

impl Repository {
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
                        return Ok(Some(closed(first, job, &name, &triggered_by)));
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
        let Some(job) = self.job(name.as_str()) else {
            return Ok(Vec::new());
        };
        match self.current_config(&job).await {
            Ok((_, config)) => Ok(config.downstream_jobs.clone()),
            Err(Error::TimedOut(what)) => Err(Error::TimedOut(what)),
            Err(error) => {
                tracing::debug!(job = %name, %error, "not looked behind for a circle");
                Ok(Vec::new())
            }
        }
    }
}

/// The fault that names the whole circle, from the job round to itself.
fn closed(first: &Downstream, job: &Job, last: &Name, triggered_by: &HashMap<Name, Name>) -> Fault {
    let mut back = vec![job.name.as_str(), last.as_str()];
    let mut at = last;
    while let Some(before) = triggered_by.get(at).filter(|before| **before != job.name) {
        back.push(before.as_str());
        at = before;
    }
    back.push(job.name.as_str());
    back.reverse();
    Fault::new(first.at, format!("downstream_jobs: a circle: {}", back.join(" -> ")))
}
