//! Fan-in: what the tasks that a task waits for published, each by itself.

use std::collections::{HashMap, HashSet};

use distcifs_settings::state::TaskState;

use super::config::Task;
use super::model::build::{Live, live_path};
use super::model::job::Job;
use super::model::json::from_json;
use super::model::plan::Plan;
use super::model::ticket::{BuildRef, part_key};
use super::{Error, Repository, Result};

/// Looks at a build that changes meanwhile: once, or once for each retry that comes and goes.
const LOOKS_MAX: u32 = 100;

/// A task that another waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Needed {
    /// Its index.
    pub index: usize,
    /// Digest of what it published; `None` if that is nothing.
    pub artifacts: Option<String>,
}

impl Repository {
    /// The names of the tasks that the task of a ticket waits for.
    ///
    /// # Errors
    /// `Stale` if the build is past the ticket's run.
    pub async fn needed_names(&self, job: &Job, part: &BuildRef) -> Result<Vec<String>> {
        let names = self.names_needed(job, part).await?;
        Ok(names.into_iter().map(|(name, _)| name).collect())
    }

    /// What one of them published in the attempt that counts; `None` if it is none of them.
    ///
    /// # Errors
    /// `Stale` if the build is past the ticket's run.
    pub async fn needed(&self, job: &Job, part: &BuildRef, name: &str) -> Result<Option<Needed>> {
        let path = live_path(job.uid(), part.build);
        for _ in 0..LOOKS_MAX {
            let before = self.store.get(&path).await?;
            let names = self.names_needed(job, part).await?;
            let Some((_, index)) = names.into_iter().find(|(known, _)| known == name) else {
                return Ok(None);
            };
            let artifacts = self.published_by(job, part, index).await?;
            // It goes with the tickets: while it stands, none of them was tidied away.
            if self.store.get(&path).await? == before {
                return Ok(Some(Needed { index, artifacts }));
            }
        }
        Err(Error::Busy(format!(
            "jobs/{}/builds/{}: it changes too fast: try again",
            job.name, part.build
        )))
    }

    /// Names and indexes of the tasks that the one of a ticket waits for.
    async fn names_needed(&self, job: &Job, part: &BuildRef) -> Result<Vec<(String, usize)>> {
        let stale = || Error::Stale(format!("jobs/{}/builds/{}: it was begun anew", job.name, part.build));
        let (plan, run) = match self.unfinished_entry(job, part).await? {
            Some(live) => (self.configs.plan_of(&job.name, &live).await?, live.run),
            None => {
                let record = self.builds.record(job, part.build).await?.ok_or_else(stale)?;
                (self.configs.plan_of_record(&job.name, &record).await?, record.run)
            }
        };
        if run != part.run {
            return Err(stale());
        }
        part.task.and_then(|index| names(&plan, index)).ok_or_else(stale)
    }

    async fn unfinished_entry(&self, job: &Job, part: &BuildRef) -> Result<Option<Live>> {
        let path = live_path(job.uid(), part.build);
        let entry = self.store.get(&path).await?;
        entry.map(|entry| from_json(&path, &entry.data)).transpose()
    }

    /// What a task published: in this run, or in an earlier one in which it succeeded.
    async fn published_by(&self, job: &Job, part: &BuildRef, index: usize) -> Result<Option<String>> {
        let live = self.unfinished_entry(job, part).await?;
        if let Some(live) = &live {
            let plan = self.configs.plan_of(&job.name, live).await?;
            let Some(task) = plan.task(index) else {
                return Ok(None);
            };
            let key = part_key(
                task.kind.as_str(),
                job.name.as_str(),
                part.build,
                &index.to_string(),
                part.run,
            )?;
            let posted = self.tickets.get(&key).await?;
            let ours = posted.filter(|posted| posted.ticket.part.as_ref().is_some_and(|part| part.uid == job.uid()));
            if let Some(posted) = ours {
                return Ok(posted.ticket.outcome.and_then(|outcome| outcome.artifacts));
            }
            if live.run == 0 {
                return Ok(None);
            }
        }
        let record = self.builds.record(job, part.build).await?;
        let task = record.as_ref().and_then(|record| record.tasks.get(index));
        let counts = task.filter(|task| task.run == part.run || task.state == TaskState::Success);
        Ok(counts.and_then(|task| task.artifacts.clone()))
    }
}

/// The tasks that a task waits for, by their names. Where a name stands for more than one of them, or for the folder of
/// another, the task is called as its folder in the build. What a task of the configuration is called hangs on these
/// alone: nothing that is added takes its place.
fn names(plan: &Plan, index: usize) -> Option<Vec<(String, usize)>> {
    plan.task(index)?;
    let waits = plan.waits_for(index);
    let needed: Vec<_> = waits.iter().filter_map(|index| plan.task(*index)).collect();
    let (added, own): (Vec<&Task>, Vec<&Task>) = needed.iter().partition(|task| plan.added_by(task.index).is_some());
    let mut taken = HashSet::new();
    let mut called = HashMap::new();
    for tasks in [own, added] {
        let mut count: HashMap<&str, usize> = HashMap::new();
        for task in &tasks {
            *count.entry(task.name.as_str()).or_default() += 1;
        }
        let folders: HashSet<String> = tasks.iter().map(|task| task.folder()).collect();
        for task in &tasks {
            let name = task.name.as_str();
            let alone = count.get(name) == Some(&1) && !folders.contains(name) && !taken.contains(name);
            let name = if alone { name.to_owned() } else { task.folder() };
            called.insert(task.index, name);
        }
        taken.extend(folders);
        taken.extend(called.values().cloned());
    }
    let named = needed
        .iter()
        .filter_map(|task| Some((called.remove(&task.index)?, task.index)));
    Some(named.collect())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;
    use crate::repository::config::{Ceilings, JobConfig, read_added, read_added_stored};
    use crate::repository::names::Name;

    fn names_of(tasks: &Value, index: usize) -> Option<Vec<(String, usize)>> {
        let config = JobConfig::read(json!({ "tasks": tasks }).to_string().as_bytes(), None).unwrap();
        names(&Plan::of(Arc::new(config)), index)
    }

    /// "`needs/` has a folder for each task that it waits for, called by that task's name."
    #[test]
    fn what_is_needed_has_the_names_of_tasks() {
        let named = |names: &[(&str, usize)]| Some(names.iter().map(|(name, at)| ((*name).to_owned(), *at)).collect());
        let tasks = json!([
            {"type": "a"}, {"type": "b", "name": "unit", "matrix": {"x": ["1", "2/3"]}}, {"type": "a"},
            {"type": "c", "needs": ["unit", "a.x"]}, {"type": "a", "name": "a.x", "needs": []},
        ]);
        assert_eq!(names_of(&tasks, 0), named(&[]));
        assert_eq!(names_of(&tasks, 1), named(&[("a", 0)]));
        assert_eq!(names_of(&tasks, 3), named(&[("unit.1", 1), ("unit.2_3", 2)]));
        assert_eq!(
            names_of(&tasks, 4),
            named(&[("unit.1", 1), ("unit.2_3", 2), ("a.x", 5)])
        );
        assert_eq!(names_of(&tasks, 6), None);
        let twice = json!([
            {"type": "a", "matrix": {"x": ["x", "y"]}}, {"type": "a.x", "needs": []}, {"type": "c", "needs": ["a", "a.x"]},
        ]);
        assert_eq!(names_of(&twice, 3), named(&[("0-a.x", 0), ("a.y", 1), ("2-a.x", 2)]));
    }

    /// A name that is a folder's too stands for the folder of whoever has it.
    #[test]
    fn no_two_of_them_are_called_alike() {
        let tasks = json!([
            {"type": "a", "name": "x"}, {"type": "a", "name": "0-x"}, {"type": "b", "name": "1-0-x"},
            {"type": "c", "needs": ["x", "0-x", "1-0-x"]},
        ]);
        let names = names_of(&tasks, 3).unwrap();
        let names: Vec<&str> = names.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["x", "1-0-x", "2-1-0-x"]);
    }

    /// "What a task of config.json is called there hangs on nothing that is added."
    #[test]
    fn what_is_added_takes_no_name_of_the_configuration() {
        let config = json!({ "tasks": [
            {"type": "execute-shell", "name": "gen", "params": {"script": "true"}},
            {"type": "publish-artifacts", "params": {"artifacts": ["a"]}},
            {"type": "execute-shell", "name": "deploy", "needs": ["gen", "publish-artifacts"], "params": {"script": "true"}},
        ]});
        let config = Arc::new(JobConfig::read(config.to_string().as_bytes(), None).unwrap());
        let ceilings = Ceilings::of(&config, &Name::new("a").unwrap(), &[], false);
        let mut plan = Plan::of(config);
        let added = json!({ "tasks": [
            {"type": "publish-artifacts", "params": {"artifacts": ["b"]}},
            {"type": "publish-artifacts", "name": "1-publish-artifacts", "params": {"artifacts": ["c"]}},
            {"type": "execute-shell", "name": "own", "params": {"script": "true"}},
        ]});
        let text = added.to_string();
        let (adding, before) = plan.adding(0, &ceilings);
        // Such a name is refused today; one that was taken before is read still.
        assert!(read_added(text.as_bytes(), &adding).is_err());
        let tasks = read_added_stored(text.as_bytes(), &adding).unwrap();
        plan.push(0, &before, tasks, (String::new(), 0));
        let named: Vec<(String, usize)> = names(&plan, 2).unwrap();
        let wanted = [
            ("gen", 0),
            ("3-publish-artifacts", 3),
            ("4-1-publish-artifacts", 4),
            ("own", 5),
            ("publish-artifacts", 1),
        ];
        assert_eq!(named, wanted.map(|(name, at)| (name.to_owned(), at)));
    }

    /// Each is a single name of a folder, whatever a configuration says.
    #[test]
    fn names_of_tasks_are_no_paths() {
        for name in ["..", ".", "a/b", "", "-x", "/etc"] {
            let config = json!({ "tasks": [{"type": "t", "name": name}] }).to_string();
            assert!(JobConfig::read(config.as_bytes(), None).is_err(), "{name}");
        }
        let odd = json!([{"type": "t", "matrix": {"x": ["../..", "/"]}}, {"type": "t"}]);
        for (name, _) in names_of(&odd, 2).unwrap() {
            assert!(crate::repository::names::Name::new(&name).is_some(), "{name}");
        }
    }
}
