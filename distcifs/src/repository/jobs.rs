//! Jobs: made, listed, owned and removed.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

pub use super::access::Access;
use super::core::{bounded, lock, now, random_id};
use super::events::Events;
use super::model::event::Event;
use super::model::job::{Job, JobEntry, jobs_record};
use super::model::json::{from_json, to_json};
use super::model::keys::REMOVED_JOB_LINES;
use super::model::steps;
use super::names::Name;
use super::store::{Guarded, Store};
use super::work::{FOLLOW_PAUSE, FOLLOW_PAUSE_MAX, RACES_MAX};
use super::{Error, Result};
use crate::storage::Notices;

mod counter;

pub(crate) use counter::{counted, taken};

/// Keys read from the list of jobs at once.
const PAGE: usize = 1000;

/// Time that passes after the list of jobs was read before it is read again, in parts of the time
/// that it took.
const LOAD_SHARE: u32 = 4;

/// The same at least: a burst of changes is one.
const LOAD_PAUSE: Duration = Duration::from_millis(20);

/// Readings of a list of many pages that changes meanwhile.
const LOAD_TRIES: u32 = 3;

/// Changes of the list that may be made while one of them is told of.
const EDITS_LATE: u64 = 1000;

/// The jobs of a repository: the list of them as it is known here, and the store where it is kept.
pub struct Jobs {
    store: Arc<Store>,
    events: Arc<Events>,
    table: Table,
}

/// All jobs: one small entry each. The truth is the record of the list: a change is guarded by its revision.
#[derive(Default)]
struct Table {
    jobs: Mutex<Lines>,
    edits: Mutex<Edits>,
}

#[derive(Default)]
struct Edits {
    /// What was changed here, with the revision that the list had then: a list that was begun to be
    /// read before does not have it.
    by_name: BTreeMap<Name, Edit>,
    /// The revision of the list that was read last.
    loaded: u64,
}

/// A revision of the list of jobs, and what a job became with it; `None`: it was removed.
type Edit = (u64, Option<Arc<JobEntry>>);

/// The list of jobs by name, and each job's name by its uid.
#[derive(Default)]
struct Lines {
    by_name: BTreeMap<Name, Arc<JobEntry>>,
    names: HashMap<String, Name>,
}

impl Lines {
    /// Sets what has a name; `None`: nothing.
    fn set(&mut self, name: &Name, entry: Option<Arc<JobEntry>>) {
        let old = match entry {
            Some(entry) => {
                self.names.insert(entry.uid.clone(), name.clone());
                self.by_name.insert(name.clone(), entry)
            }
            None => self.by_name.remove(name),
        };
        let kept = self.by_name.get(name).map(|now| now.uid.as_str());
        if let Some(old) = old.filter(|old| kept != Some(&old.uid))
            && self.names.get(&old.uid) == Some(name)
        {
            self.names.remove(&old.uid);
        }
    }

    /// What became of the jobs of an earlier list, a line for each.
    fn changes_since(&self, old: &Lines) -> Vec<Event> {
        let mut changes = Vec::new();
        for (uid, name) in &old.names {
            match self.names.get(uid) {
                None => changes.push(Event::JobRemoved(name.clone())),
                Some(now) if now != name => {
                    let (from, to) = (name.clone(), now.clone());
                    changes.push(Event::JobRenamed { from, to });
                }
                Some(_) => {}
            }
        }
        let made = self.names.iter().filter(|(uid, _)| !old.names.contains_key(*uid));
        changes.extend(made.map(|(_, name)| Event::JobCreated(name.clone())));
        changes
    }
}

impl Table {
    /// Takes in changes that were made here as one, but where what is known is newer: of two changes, the
    /// earlier may be told of last.
    fn edited(&self, revision: u64, changes: &[(&Name, Option<Arc<JobEntry>>)]) {
        let mut edits = lock(&self.edits);
        let mut jobs = lock(&self.jobs);
        for (name, entry) in changes {
            let later = edits.by_name.get(*name).is_some_and(|(known, _)| *known > revision);
            if later || edits.loaded > revision {
                continue;
            }
            edits.by_name.insert((*name).clone(), (revision, entry.clone()));
            jobs.set(name, entry.clone());
        }
        if changes.iter().any(|(_, entry)| entry.is_none()) {
            // Where nobody else makes jobs the list is never read again.
            let kept = |edited: u64, removed: bool| !removed || edited + EDITS_LATE > revision;
            edits
                .by_name
                .retain(|_, (edited, entry)| kept(*edited, entry.is_none()));
        }
    }

    /// Takes the list as it was read at a revision; what became of the jobs that were known.
    fn replace(&self, mut all: Lines, revision: u64) -> Vec<Event> {
        let mut edits = lock(&self.edits);
        if revision < edits.loaded {
            // It took long to read, and a newer one is known.
            return Vec::new();
        }
        edits.loaded = revision;
        edits.by_name.retain(|_, (edited, _)| *edited > revision);
        for (name, (_, entry)) in &edits.by_name {
            all.set(name, entry.clone());
        }
        let mut jobs = lock(&self.jobs);
        let changes = all.changes_since(&jobs);
        *jobs = all;
        changes
    }
}

impl Jobs {
    /// Those of a repository, before the list is read.
    pub(crate) fn new(store: Arc<Store>, events: Arc<Events>) -> Arc<Self> {
        Arc::new(Jobs {
            store,
            events,
            table: Table::default(),
        })
    }

    /// Reads the list of jobs, and tells of what came and went since it was read last.
    pub(crate) async fn load(&self) -> Result<()> {
        let mut tries = 1;
        let (all, revision) = loop {
            let (all, first, last) = self.read_list().await?;
            // A job that is renamed while pages are read may stand in none of them.
            if first == last || tries == LOAD_TRIES {
                break (all, first);
            }
            tries += 1;
        };
        let changes = self.table.replace(all, revision);
        changes.into_iter().for_each(|change| self.events.announce(change));
        Ok(())
    }

    /// The list of jobs page by page, with its revision at the first and the last.
    async fn read_list(&self) -> Result<(Lines, u64, u64)> {
        let (mut all, mut after, mut first) = (Lines::default(), String::new(), None);
        loop {
            let page = bounded("jobs", self.store.contents.query(&jobs_record(), "", &after, PAGE)).await?;
            let first = *first.get_or_insert(page.revision);
            let full = page.entries.len() == PAGE;
            for (key, value) in page.entries {
                match (Name::new(&key), from_json::<JobEntry>(&format!("job {key}"), &value)) {
                    (Some(name), Ok(entry)) => all.set(&name, Some(Arc::new(entry))),
                    (None, _) if key.starts_with(REMOVED_JOB_LINES) => {}
                    // One that is damaged must not keep the others from being seen.
                    (_, error) => tracing::error!(job = %key, ?error, "left out; run distcifs fsck"),
                }
                after = key;
            }
            if !full {
                return Ok((all, first, page.revision));
            }
        }
    }

    /// Reads the list of jobs whenever another mount may have changed it.
    pub(crate) async fn keep(self: Arc<Self>, mut notices: Notices) {
        while notices.next().await.is_ok() {
            let begun = Instant::now();
            // Nobody tells again of what could not be read.
            let mut pause = FOLLOW_PAUSE;
            while let Err(error) = self.load().await {
                tracing::warn!(%error, "reading the list of jobs; trying again");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(FOLLOW_PAUSE_MAX);
            }
            // Many changes are read as one, so that reading takes a small part of the time.
            tokio::time::sleep((begun.elapsed() * LOAD_SHARE).max(LOAD_PAUSE)).await;
        }
    }

    /// A job by its uid.
    pub(crate) fn by_uid(&self, uid: &str) -> Option<Job> {
        let jobs = lock(&self.table.jobs);
        let name = jobs.names.get(uid)?;
        Some(Job {
            name: name.clone(),
            entry: jobs.by_name.get(name)?.clone(),
        })
    }

    /// A job by its name, though another mount made it a moment ago.
    pub async fn find(&self, name: &str) -> Result<Option<Job>> {
        let known = self.get(name);
        let Some(valid) = Name::new(name).filter(|_| known.is_none() && self.store.shared) else {
            return Ok(known);
        };
        let (entry, revision) = self.line(&valid).await?;
        Ok(entry.map(|entry| {
            let entry = Arc::new(entry);
            self.table.edited(revision, &[(&valid, Some(entry.clone()))]);
            Job { name: valid, entry }
        }))
    }

    /// A job's line in the list of jobs as it is now, and the list's revision.
    pub(crate) async fn line(&self, name: &Name) -> Result<(Option<JobEntry>, u64)> {
        self.line_at(name.as_str()).await
    }

    /// The same by its key: a removed job's is no name.
    pub(crate) async fn line_at(&self, key: &str) -> Result<(Option<JobEntry>, u64)> {
        let page = bounded("jobs", self.store.contents.query(&jobs_record(), key, "", 1)).await?;
        let found = page.entries.iter().find(|(found, _)| found == key);
        let entry = found.map(|(key, value)| from_json(&format!("job {key}"), value));
        Ok((entry.transpose()?, page.revision))
    }

    /// Changes a job's line in the list of jobs, whoever else changes others: `edit` gets the line
    /// as it is and gives what it is to be. It is called again after a lost race, and when nobody
    /// knows whether the write happened.
    pub(crate) async fn edit(
        &self,
        name: &Name,
        mut edit: impl FnMut(Option<JobEntry>) -> Result<Option<JobEntry>>,
    ) -> Result<Option<JobEntry>> {
        for _ in 0..RACES_MAX {
            let (now, revision) = self.line(name).await?;
            let next = edit(now.clone())?;
            if next == now {
                self.table.edited(revision, &[(name, next.clone().map(Arc::new))]);
                return Ok(next);
            }
            let change = vec![(name.as_str().to_owned(), next.as_ref().map(to_json))];
            let list = jobs_record();
            let update = self.store.update_guarded("jobs", &list, revision, change);
            if let Guarded::Done { revision } = update.await? {
                self.table.edited(revision, &[(name, next.clone().map(Arc::new))]);
                return Ok(next);
            }
        }
        Err(Error::Busy(
            "jobs: too many others make and change jobs: try again".into(),
        ))
    }

    /// A job by its name.
    pub fn get(&self, name: &str) -> Option<Job> {
        let jobs = lock(&self.table.jobs);
        jobs.by_name.get_key_value(name).map(|(name, entry)| Job {
            name: name.clone(),
            entry: entry.clone(),
        })
    }

    /// At most `limit` jobs after a name, in order of their names.
    pub fn after(&self, after: Option<&Name>, limit: usize) -> Vec<Job> {
        use std::ops::Bound;
        let lower = after.map_or(Bound::Unbounded, |name| Bound::Excluded(name.as_str()));
        let jobs = lock(&self.table.jobs);
        jobs.by_name
            .range::<str, _>((lower, Bound::Unbounded))
            .take(limit)
            .map(|(name, entry)| Job {
                name: name.clone(),
                entry: entry.clone(),
            })
            .collect()
    }

    /// Number of jobs.
    pub fn count(&self) -> usize {
        lock(&self.table.jobs).by_name.len()
    }

    /// Makes a job without a configuration.
    pub async fn make(&self, name: &Name, access: Access) -> Result<Job> {
        if self.get(name.as_str()).is_some() {
            return Err(Error::Exists(format!("job {name} exists")));
        }
        let step = steps::job::make(random_id(), access, now());
        let job = Job {
            name: name.clone(),
            entry: Arc::new(step.after),
        };
        // Until the job stands in the list, its entries look like what is left of one.
        let _pin = self.store.pin_epoch().await?;
        self.store
            .commit_settled(step.ops, &job.path(), |entry| entry.is_some())
            .await?;
        let made = self.edit(name, |known| match known {
            Some(known) if known.uid != job.entry.uid => Err(Error::Exists(format!("job {name} exists"))),
            _ => Ok(Some((*job.entry).clone())),
        });
        if let Err(error) = made.await {
            // What nobody will ever find must not stay; gc would find it.
            if let Err(left) = self.remove_counter(&job, 0).await {
                tracing::warn!(job = %name, error = %left, "its entries are left for gc");
            }
            return Err(error);
        }
        self.events.announce(Event::JobCreated(name.clone()));
        Ok(job)
    }

    /// Changes owner or modes of a job; `change` may refuse what it sees to be so.
    pub async fn change(&self, job: &Job, mut change: impl FnMut(&mut JobEntry) -> Result<()>) -> Result<Job> {
        let gone = || Error::NotFound(format!("jobs/{}", job.name));
        let edited = self.edit(&job.name, |known| {
            let entry = known.filter(|known| known.uid == job.uid()).ok_or_else(gone)?;
            steps::job::changed(entry, &mut change).map(Some)
        });
        let entry = edited.await?.ok_or_else(gone)?;
        let changed = Job {
            name: job.name.clone(),
            entry: Arc::new(entry),
        };
        Ok(changed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::model::job::FileModes;

    fn entry(uid: &str) -> Arc<JobEntry> {
        let access = Access {
            uid: 1,
            gid: 1,
            mode: 0o755,
        };
        Arc::new(JobEntry {
            uid: uid.into(),
            access,
            files: FileModes::default(),
            created: 7,
            named: None,
            off: false,
            former: None,
            vouched: None,
        })
    }

    /// A change that is told of late undoes none that came after it, and jobs that went take no memory.
    #[test]
    fn the_table_keeps_what_is_newest() {
        let table = Table::default();
        let now = |name: &str| lock(&table.jobs).by_name.get(name).map(|entry| entry.uid.clone());
        let a = Name::new("a").unwrap();
        table.edited(6, &[(&a, Some(entry("later")))]);
        table.edited(5, &[(&a, Some(entry("earlier")))]);
        assert_eq!(now("a").as_deref(), Some("later"));
        table.edited(8, &[(&a, None)]);
        table.edited(7, &[(&a, Some(entry("earlier")))]);
        assert_eq!(now("a"), None);
        let mut list = Lines::default();
        list.set(&a, Some(entry("read")));
        table.replace(list, 20);
        table.edited(19, &[(&a, Some(entry("earlier")))]);
        assert!(table.replace(Lines::default(), 19).is_empty());
        assert_eq!(now("a").as_deref(), Some("read"));
        for revision in 21..10_000 {
            let name = Name::new(&format!("j{revision}")).unwrap();
            table.edited(revision, &[(&name, None)]);
        }
        assert!(lock(&table.edits).by_name.len() as u64 <= EDITS_LATE);
    }
}
