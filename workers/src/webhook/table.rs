//! The jobs that wait for deliveries, kept up to date by a thread of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::quiet::Quiet;
use super::watched::Watched;
use crate::again::Again;
use crate::jobs::{self, Change};
use crate::tree::{Result, Tree, Trouble};

/// How long until a tree that is away is looked for again.
const AWAY_PAUSE: Duration = Duration::from_secs(1);

/// The stream of events says something every second: after this it hangs, and so will all else.
const SILENCE_MAX: Duration = Duration::from_secs(5);

/// Jobs by name and by repository.
#[derive(Default)]
struct Jobs {
    watched: BTreeMap<String, Arc<Watched>>,
    by_repository: BTreeMap<String, BTreeSet<String>>,
}

impl Jobs {
    fn set(&mut self, job: &str, watched: Option<Arc<Watched>>) {
        if let Some(old) = self.watched.remove(job) {
            for repository in old.repositories() {
                if let Some(jobs) = self.by_repository.get_mut(&repository) {
                    jobs.remove(job);
                    if jobs.is_empty() {
                        self.by_repository.remove(&repository);
                    }
                }
            }
        }
        if let Some(new) = watched {
            for repository in new.repositories() {
                self.by_repository.entry(repository).or_default().insert(job.to_owned());
            }
            self.watched.insert(job.to_owned(), new);
        }
    }
}

/// What is known of the jobs, and since when.
struct Known {
    /// `None` while the tree is away.
    jobs: Option<Jobs>,
    heard: Instant,
}

/// The table, shared by the thread that follows and those that deliver.
#[derive(Clone)]
pub struct Table(Arc<Mutex<Known>>);

/// A job and what it waits for.
pub type Candidate = (String, Arc<Watched>);

impl Default for Table {
    fn default() -> Self {
        Table(Arc::new(Mutex::new(Known {
            jobs: None,
            heard: Instant::now(),
        })))
    }
}

impl Table {
    /// Whether the tree is there, as far as was heard within the last seconds.
    pub fn is_up(&self) -> bool {
        let known = self.lock();
        known.jobs.is_some() && known.heard.elapsed() < SILENCE_MAX
    }

    /// How many jobs wait for deliveries.
    pub fn len(&self) -> usize {
        self.lock().jobs.as_ref().map_or(0, |jobs| jobs.watched.len())
    }

    /// Whether none does.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One job.
    pub fn job(&self, name: &str) -> Option<Candidate> {
        let known = self.lock();
        let (name, watched) = known.jobs.as_ref()?.watched.get_key_value(name)?;
        Some((name.clone(), watched.clone()))
    }

    /// The jobs of a repository.
    pub fn of_repository(&self, full_name: &str) -> Vec<Candidate> {
        let known = self.lock();
        let Some(jobs) = &known.jobs else { return Vec::new() };
        let names = jobs.by_repository.get(&full_name.to_ascii_lowercase());
        let one = |name: &String| Some((name.clone(), jobs.watched.get(name)?.clone()));
        names.into_iter().flatten().filter_map(one).collect()
    }

    /// All jobs.
    pub fn all(&self) -> Vec<Candidate> {
        let known = self.lock();
        let jobs = known.jobs.iter().flat_map(|jobs| &jobs.watched);
        jobs.map(|(name, watched)| (name.clone(), watched.clone())).collect()
    }

    /// Follows the tree for as long as the process lives.
    pub fn follow(&self, tree: Tree) -> std::io::Result<()> {
        let table = self.clone();
        let run = move || {
            let mut said = None;
            let mut follower = Follower {
                table: table.clone(),
                tree,
                again: Again::default(),
                said: Quiet::default(),
            };
            loop {
                let why = follower.follow().err().map(|trouble| trouble.to_string());
                let was_up = table.lock().jobs.take().is_some();
                if let Some(why) = why.filter(|why| was_up || said.as_ref() != Some(why)) {
                    eprintln!("github-webhook: {why}");
                    said = Some(why);
                }
                thread::sleep(AWAY_PAUSE);
            }
        };
        thread::Builder::new().name("follow".into()).spawn(run).map(drop)
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who keeps a table up to date.
struct Follower {
    table: Table,
    tree: Tree,
    /// Jobs whose configuration could not be read, as its owner holds it.
    again: Again<String>,
    said: Quiet,
}

impl Follower {
    /// Reads all, then follows until the tree is away.
    fn follow(&mut self) -> Result<()> {
        // First, so that no change is lost between reading and following.
        let mut events = self.tree.events()?;
        self.read_all()?;
        eprintln!("github-webhook: {} jobs wait for deliveries", self.table.len());
        loop {
            let line = events.next_line()?;
            match jobs::change(&line) {
                Change::None => {}
                Change::Job(job) | Change::Made(job) => self.read(job)?,
                Change::All | Change::Renamed(..) => self.read_all()?,
            }
            for job in self.again.due() {
                self.read(&job)?;
            }
            self.table.lock().heard = Instant::now();
        }
    }

    fn read(&mut self, job: &str) -> Result<()> {
        let watched = self.refresh(job)?;
        if let Some(jobs) = &mut self.table.lock().jobs {
            jobs.set(job, watched);
        }
        Ok(())
    }

    fn read_all(&mut self) -> Result<()> {
        let mut all = Jobs::default();
        for job in jobs::names(&self.tree)? {
            all.set(&job, self.refresh(&job)?);
            // It may take a while, but it goes on.
            self.table.lock().heard = Instant::now();
        }
        let mut known = self.table.lock();
        known.heard = Instant::now();
        known.jobs = Some(all);
        Ok(())
    }

    /// What a job waits for: what was read before, while its owner holds the configuration.
    fn refresh(&mut self, job: &str) -> Result<Option<Arc<Watched>>> {
        let key = job.to_owned();
        match jobs::configuration(&self.tree, job) {
            Err(Trouble::Held(why)) => {
                if self.again.put(&key) {
                    self.said
                        .say(&format!("{why}; it waits for what it did before, until it can be read"));
                }
                Ok(self.table.job(job).map(|(_, watched)| watched))
            }
            found => {
                self.again.done(&key);
                Ok(found?.and_then(|(text, _)| Watched::read(&text)).map(Arc::new))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_found_by_its_repository_as_it_is_now() {
        let watched = |repository: &str| {
            let text = format!(r#"{{"tasks": [], "github": {{"repository": "{repository}"}}}}"#);
            Watched::read(text.as_bytes()).map(Arc::new)
        };
        let table = Table::default();
        assert!(!table.is_up());
        let mut jobs = Jobs::default();
        jobs.set("a", watched("o/x"));
        jobs.set("b", watched("O/X"));
        jobs.set("b", watched("o/y"));
        jobs.set("c", watched("o/z"));
        jobs.set("c", None);
        table.lock().jobs = Some(jobs);
        let names = |repository: &str| {
            let found = table.of_repository(repository);
            found.into_iter().map(|(name, _)| name).collect::<Vec<_>>()
        };
        assert_eq!(
            (names("O/x"), names("o/Y"), names("o/z")),
            (vec!["a".into()], vec!["b".into()], vec![])
        );
        assert!(table.is_up() && table.len() == 2 && table.job("c").is_none());
    }
}
