//! All jobs, with how their last builds ended: read once, then followed by events. So the first page costs no
//! walk over the tree, however many jobs there are.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::sync::broadcast;

use super::facts::{is_over, numbers};
use super::show::Moment;
use super::sight::{Fault, Kind, Result, Sight, modified};
use crate::tree::Tree;

/// Jobs that are known, at most.
const JOBS_MAX: usize = 200_000;

/// Builds of each job whose states are shown.
pub const LAST: usize = 8;

/// Changes that wait for a slow listener; past these it looks at everything.
const CHANGES_MAX: usize = 256;

/// How long until a tree that is away is tried again, and one that tells no events is looked at again.
const PAUSE: Duration = Duration::from_secs(1);

/// How long until a job is read again of which something could not be read: no event tells when it can.
const AGAIN: Duration = Duration::from_secs(5);

/// A job in the list of all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Row {
    /// Whether its builds are shown to everybody.
    pub open: bool,
    /// Whether it may be triggered.
    pub enabled: bool,
    /// The states of its last builds, the newest first.
    pub last: Vec<(u64, String)>,
    /// When the newest one got its state.
    pub when: Moment,
    /// What of it can't be read now, and why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

impl Row {
    /// The state of the newest build, or empty.
    pub fn state(&self) -> &str {
        self.last.first().map_or("", |(_, state)| state.as_str())
    }

    /// Of a job that can't be read now.
    pub fn unreadable(why: String) -> Self {
        Row {
            trouble: Some(why),
            ..Row::default()
        }
    }

    /// What should be looked at first comes first.
    pub fn rank(&self) -> u8 {
        match self.state() {
            _ if self.trouble.is_some() => 1,
            "running" | "pending" | "held" => 0,
            "failure" | "error" => 1,
            "" => 4,
            "aborted" => 2,
            _ => 3,
        }
    }
}

/// What changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Perhaps everything.
    All,
    /// Something of this job.
    Job(Arc<str>),
    /// Something of tickets.
    Tickets,
}

#[derive(Default)]
struct Known {
    jobs: BTreeMap<Arc<str>, Option<Arc<Row>>>,
    stale: BTreeSet<Arc<str>>,
    /// Those of which something could not be read.
    troubled: BTreeSet<Arc<str>>,
    /// When these are read again, if there are any: however much happens meanwhile.
    again: Option<Instant>,
    /// Which one was read last.
    last: Option<Arc<str>>,
}

impl Known {
    /// Notes that something of a job could not be read.
    fn trouble(&mut self, job: Arc<str>, now: Instant) {
        self.troubled.insert(job);
        self.again.get_or_insert(now + AGAIN);
    }

    /// The next one that is to be read, if any is now. They take turns: those that always change keep no others waiting.
    fn next(&mut self, now: Instant) -> Option<Arc<str>> {
        if self.again.is_some_and(|again| again <= now) {
            self.again = None;
            self.stale.append(&mut self.troubled);
        }
        let later = self.last.as_ref().and_then(|last| {
            let behind = (Bound::Excluded(last.clone()), Bound::Unbounded);
            self.stale.range(behind).next().cloned()
        });
        let job = later.or_else(|| self.stale.first().cloned())?;
        self.stale.remove(&job);
        self.last = Some(job.clone());
        Some(job)
    }
}

/// The jobs.
pub struct Table {
    sight: Sight,
    known: Mutex<Known>,
    woken: Condvar,
    up: AtomicBool,
    /// Whether events tell what changes.
    told: AtomicBool,
    changes: broadcast::Sender<Change>,
}

impl Table {
    /// Begins to follow a tree, on threads of its own.
    ///
    /// # Errors
    /// There are no threads left.
    pub fn follow(sight: Sight) -> std::io::Result<Arc<Self>> {
        let table = Arc::new(Table {
            sight,
            known: Mutex::default(),
            woken: Condvar::new(),
            up: AtomicBool::new(false),
            told: AtomicBool::new(false),
            changes: broadcast::Sender::new(CHANGES_MAX),
        });
        let (hears, reads) = (table.clone(), table.clone());
        std::thread::Builder::new()
            .name("events".into())
            .spawn(move || hears.hear())?;
        std::thread::Builder::new()
            .name("jobs".into())
            .spawn(move || reads.read())?;
        Ok(table)
    }

    /// Whether the tree was there when it was last looked at.
    pub fn up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }

    /// Whether events tell what changes.
    pub fn told(&self) -> bool {
        self.told.load(Ordering::Relaxed)
    }

    /// All changes from now on.
    pub fn changes(&self) -> broadcast::Receiver<Change> {
        self.changes.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many jobs are known, and how many of them were not looked at yet.
    pub fn count(&self) -> (usize, usize) {
        let known = self.lock();
        (
            known.jobs.len(),
            known.jobs.values().filter(|row| row.is_none()).count(),
        )
    }

    /// All names with what is known of each.
    pub fn all(&self) -> Vec<(Arc<str>, Option<Arc<Row>>)> {
        let known = self.lock();
        known
            .jobs
            .iter()
            .map(|(name, row)| (name.clone(), row.clone()))
            .collect()
    }

    /// Reads a job now, for whom it is to be shown.
    ///
    /// # Errors
    /// It is not there, or the tree is away. What can't be read of it stands in the row.
    pub fn look(&self, job: &str) -> Result<Arc<Row>> {
        let row = Arc::new(row(&self.sight, job)?);
        if let Some(found) = self.lock().jobs.get_mut(job) {
            *found = Some(row.clone());
        }
        Ok(row)
    }

    /// Follows events, for ever.
    fn hear(&self) {
        let mut silent = false;
        loop {
            if let Err(why) = self.hear_once() {
                // The first reason is said, and the first of each time that the tree is away.
                if self.up.swap(false, Ordering::Relaxed) || !silent {
                    eprintln!("web: {why}");
                }
                silent = true;
                let _ = self.changes.send(Change::All);
            }
            self.told.store(false, Ordering::Relaxed);
            std::thread::sleep(PAUSE);
        }
    }

    /// Lists all jobs and follows events until they end.
    fn hear_once(&self) -> std::result::Result<(), String> {
        let tree = Tree::new(self.sight.mount()).map_err(|error| error.to_string())?;
        let events = tree.events();
        self.list()?;
        self.up.store(true, Ordering::Relaxed);
        let _ = self.changes.send(Change::All);
        // A tree without events is looked at every second: everything in it may have changed.
        let Ok(mut events) = events else { return Ok(()) };
        self.told.store(true, Ordering::Relaxed);
        loop {
            let line = events.next_line().map_err(|trouble| trouble.to_string())?;
            if !line.is_empty() {
                self.heard(&line)?;
            }
        }
    }

    fn list(&self) -> std::result::Result<(), String> {
        let said = |fault: Fault| match fault {
            Fault::Away(why) | Fault::Unreadable(why) => why,
            other => format!("{other:?}"),
        };
        let jobs = self.sight.at(&["jobs"]).map_err(said)?;
        let (names, _) = jobs.names(JOBS_MAX).map_err(said)?;
        let names = names.into_iter().filter(|(_, kind)| *kind == Kind::Folder);
        let names: BTreeSet<Arc<str>> = names.filter_map(|(name, _)| name.to_str().map(Into::into)).collect();
        let mut known = self.lock();
        known.jobs.retain(|name, _| names.contains(name));
        for name in &names {
            known.jobs.entry(name.clone()).or_default();
        }
        known.stale = names;
        drop(known);
        self.woken.notify_one();
        Ok(())
    }

    /// One line of `.events`.
    fn heard(&self, line: &str) -> std::result::Result<(), String> {
        let mut words = line.split_ascii_whitespace();
        let change = match (words.next(), words.next(), words.next(), words.next()) {
            (Some("resync"), ..) => {
                self.list()?;
                Change::All
            }
            (Some("job"), Some(job), Some("removed"), _) => {
                self.lock().jobs.remove(job);
                Change::Job(job.into())
            }
            (Some("job"), Some(job), Some("renamed"), Some(to)) => {
                self.lock().jobs.remove(job);
                self.stale(to);
                Change::All
            }
            (Some("job"), Some(job), ..) => self.stale(job),
            (Some("build" | "task" | "control"), Some(place), ..) => {
                let job = place.split('/').next().unwrap_or_default();
                match words_of_task(line) {
                    // A task's state is not in the table.
                    true => Change::Job(job.into()),
                    false => self.stale(job),
                }
            }
            (Some("ticket"), ..) => Change::Tickets,
            _ => return Ok(()),
        };
        let _ = self.changes.send(change);
        Ok(())
    }

    /// Has a job read again.
    fn stale(&self, job: &str) -> Change {
        let name: Arc<str> = job.into();
        let mut known = self.lock();
        if known.jobs.len() < JOBS_MAX || known.jobs.contains_key(job) {
            known.jobs.entry(name.clone()).or_default();
            known.stale.insert(name.clone());
        }
        drop(known);
        self.woken.notify_one();
        Change::Job(name)
    }

    /// The next job that is to be read.
    fn next(&self) -> Arc<str> {
        let mut known = self.lock();
        loop {
            let now = Instant::now();
            if let Some(job) = known.next(now) {
                return job;
            }
            known = match known.again {
                None => self.woken.wait(known).unwrap_or_else(PoisonError::into_inner),
                Some(again) => {
                    let waited = self.woken.wait_timeout(known, again.saturating_duration_since(now));
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// Reads jobs that are stale, for ever.
    fn read(&self) {
        loop {
            let job = self.next();
            let before = self.lock().jobs.get(&job).cloned();
            match row(&self.sight, &job) {
                Ok(row) => {
                    let mut known = self.lock();
                    if row.trouble.is_some() {
                        known.trouble(job.clone(), Instant::now());
                    }
                    if let Some(found) = known.jobs.get_mut(&job) {
                        *found = Some(Arc::new(row));
                    }
                }
                Err(Fault::Away(_)) => {
                    self.lock().stale.insert(job);
                    std::thread::sleep(PAUSE);
                    continue;
                }
                Err(_) => drop(self.lock().jobs.remove(&job)),
            }
            // Who was told of the event may have looked at what stood here before.
            if before != self.lock().jobs.get(&job).cloned() {
                let _ = self.changes.send(Change::Job(job));
            }
        }
    }
}

/// Whether a line of events is about a task alone.
fn words_of_task(line: &str) -> bool {
    line.starts_with("task ")
}

/// Reads a job for the list of all. What can't be read of it is its own trouble, and nobody else's.
fn row(sight: &Sight, job: &str) -> Result<Row> {
    let mut row = Row::default();
    match read(sight, job, &mut row) {
        Ok(()) | Err(Fault::Closed) => Ok(row),
        Err(Fault::Unreadable(why)) => {
            row.trouble = Some(why);
            Ok(row)
        }
        Err(fault) => Err(fault),
    }
}

/// Reads into a row as far as it gets; `Closed` where the rest is.
fn read(sight: &Sight, job: &str, row: &mut Row) -> Result<()> {
    let folder = sight.at(&["jobs", job])?;
    row.enabled = folder.text("enabled")? == "on";
    let builds = folder.enter("builds").map_err(|fault| fault.at("builds"))?;
    row.open = true;
    let newest = match builds.target("latest") {
        Ok(target) => target.parse().ok(),
        Err(fault) if fault.passes() => return Err(fault.at("builds/latest")),
        Err(_) => None,
    };
    let Some(newest) = newest else { return Ok(()) };
    let nearby = (newest..=newest).chain((1..newest).rev().take(2 * LAST));
    let mut missing = false;
    for number in nearby {
        if row.last.len() == LAST {
            break;
        }
        missing |= !take(&builds, number, row)?;
    }
    // Many were removed: look which there are.
    if missing && row.last.len() < LAST {
        let known: Vec<u64> = row.last.iter().map(|(number, _)| *number).collect();
        let further = numbers(&builds).unwrap_or_default();
        let further = further
            .into_iter()
            .filter(|number| !known.contains(number) && *number < newest);
        for number in further.take(LAST - row.last.len()) {
            take(&builds, number, row)?;
        }
        row.last.sort_unstable_by_key(|(number, _)| std::cmp::Reverse(*number));
    }
    Ok(())
}

/// Takes one build into a row; whether there is one. The first that can't be read is the row's trouble.
fn take(builds: &super::sight::Seen, number: u64, row: &mut Row) -> Result<bool> {
    match state(builds, number) {
        Ok((state, when)) => {
            if row.last.is_empty() {
                row.when = when;
            }
            row.last.push((number, state));
            Ok(true)
        }
        Err(Fault::Unreadable(why)) => {
            row.trouble.get_or_insert(format!("builds/{number}/{why}"));
            Ok(true)
        }
        Err(Fault::Away(why)) => Err(Fault::Away(why)),
        Err(_) => Ok(false),
    }
}

fn state(builds: &super::sight::Seen, number: u64) -> Result<(String, Moment)> {
    let build = builds.enter(number.to_string())?;
    let when = Moment(modified(&build.stat("state")?));
    let state = build.text("state")?;
    let known = is_over(&state) || matches!(state.as_str(), "running" | "pending" | "held");
    match known {
        true => Ok((state, when)),
        false => Err(Fault::Closed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// However much happens of others meanwhile.
    #[test]
    fn what_could_not_be_read_is_read_again_in_time() {
        let (mut known, begun) = (Known::default(), Instant::now());
        known.trouble("trouble".into(), begun);
        for second in 1..5 {
            let now = begun + Duration::from_secs(second);
            known.stale.insert("busy".into());
            known.trouble("other".into(), now);
            assert_eq!(known.next(now).as_deref(), Some("busy"));
            assert_eq!(known.next(now), None);
        }
        let now = begun + AGAIN;
        known.stale.insert("busy".into());
        let read: Vec<Arc<str>> = std::iter::from_fn(|| known.next(now)).collect();
        assert_eq!(read, ["other", "trouble", "busy"].map(Arc::from));
        assert!(known.again.is_none() && known.troubled.is_empty());
    }

    #[test]
    fn jobs_take_turns() {
        let (mut known, now) = (Known::default(), Instant::now());
        known.stale.extend(["a", "b", "c"].map(Arc::from));
        let mut read = Vec::new();
        for _ in 0..4 {
            read.extend(known.next(now));
            // This one changes all the time.
            known.stale.insert("a".into());
        }
        assert_eq!(read, ["a", "b", "c", "a"].map(Arc::from));
    }
}
