//! What `top` knows of a tree: builds under way, how each job's newest build ended, queues, nodes. It is plain data,
//! changed by what was read and by lines of `.events`; everything in it is bounded.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Serialize;

use super::sight::is_name;

/// Builds under way that are known, at most.
const BUILDS_MAX: usize = 20_000;

/// Jobs that are known, at most.
pub(super) const JOBS_MAX: usize = 100_000;

/// Rows that are shown, at most: those of builds under way, and of builds that ended.
const ROWS_MAX: usize = 1000;
const ENDED_MAX: usize = 200;

/// Queues and sets of labels of a node's workers that are known, at most.
const WAITING_MAX: usize = 200;

/// A build.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    /// Its job.
    pub(super) job: Arc<str>,
    /// Its number.
    pub(super) number: u64,
}

impl Key {
    /// Of a job's name and a number.
    pub(super) fn new(job: &str, number: u64) -> Self {
        Key {
            job: job.into(),
            number,
        }
    }

    /// Its folder, from the top of the tree.
    pub(super) fn folder(&self) -> String {
        format!("jobs/{}/builds/{}", self.job, self.number)
    }
}

/// How a build stands, as its file `state` says; the order is that in which they are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum State {
    Running,
    Held,
    Pending,
    Failure,
    Error,
    Aborted,
    Success,
}

impl State {
    const ALL: [State; 7] = [
        State::Running,
        State::Held,
        State::Pending,
        State::Failure,
        State::Error,
        State::Aborted,
        State::Success,
    ];

    /// Of its word.
    pub(super) fn of(word: &str) -> Option<State> {
        State::ALL.into_iter().find(|state| state.word() == word)
    }

    /// The word.
    pub(super) fn word(self) -> &'static str {
        match self {
            State::Running => "running",
            State::Held => "held",
            State::Pending => "pending",
            State::Failure => "failure",
            State::Error => "error",
            State::Aborted => "aborted",
            State::Success => "success",
        }
    }

    /// Whether the build is over.
    pub(super) fn is_over(self) -> bool {
        self > State::Pending
    }

    /// Whether somebody should look at it.
    pub(super) fn is_red(self) -> bool {
        matches!(self, State::Failure | State::Error)
    }
}

/// What is said of a build beside its state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Words {
    /// What it waits for, or why it ended so; lines.
    pub(super) why: String,
    /// Why it was triggered.
    pub(super) cause: String,
    /// What is built.
    pub(super) name: String,
    /// The commit that is built.
    pub(super) commit: String,
}

/// A build as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) key: Key,
    /// None: it was not looked at yet.
    pub(super) state: Option<State>,
    /// When it got its state, milliseconds since 1970; 0: that is not known.
    pub(super) since: u64,
    /// None: they were not read yet, or can't be.
    pub(super) words: Option<Words>,
}

/// A queue.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(super) struct Queue {
    pub(super) name: String,
    pub(super) open: u64,
    pub(super) claimed: u64,
    /// Workers that wait for a ticket of it.
    pub(super) workers: u64,
    /// Whether its tickets may not be listed by us.
    pub(super) closed: bool,
    /// The oldest open ticket that was found.
    pub(super) oldest: String,
    /// When that was posted, milliseconds since 1970; 0: not known.
    pub(super) since: u64,
    /// What that waits for.
    pub(super) why: String,
}

/// A node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(super) struct Node {
    pub(super) name: String,
    pub(super) version: String,
    pub(super) since: String,
    /// Queues, how many workers wait there, with which labels.
    pub(super) waiting: Vec<(String, u64, String)>,
}

/// How many there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(super) struct Counts {
    pub(super) jobs: usize,
    pub(super) running: usize,
    pub(super) held: usize,
    pub(super) pending: usize,
    /// Builds under way, jobs, queues and nodes that were not looked at yet, or can't be read just now.
    pub(super) unread: usize,
    /// Jobs whose newest ended build failed.
    pub(super) red: usize,
    /// Jobs whose builds are closed to us.
    pub(super) closed: usize,
    /// Whether the listing of all jobs is closed to us: there may be others.
    pub(super) unlisted: bool,
    /// Whether there are more jobs, builds under way, queues or nodes than are looked at.
    pub(super) cut: bool,
}

/// What a line of `.events` says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard<'a> {
    Build(&'a str, u64, &'a str),
    Job(&'a str, &'a str),
    Renamed(&'a str, &'a str),
    Ticket,
    Resync,
    Other,
}

/// Reads a line of `.events`.
pub(super) fn heard(line: &str) -> Heard<'_> {
    let mut words = line.split_ascii_whitespace();
    let name = |word: Option<&'_ str>| word.is_some_and(is_name);
    match (words.next(), words.next(), words.next(), words.next()) {
        (Some("resync"), ..) => Heard::Resync,
        (Some("ticket"), ..) => Heard::Ticket,
        (Some("build"), Some(place), Some(word), _) => match place.split_once('/') {
            Some((job, number)) if is_name(job) => {
                let number = number.parse();
                number.map_or(Heard::Other, |number| Heard::Build(job, number, word))
            }
            _ => Heard::Other,
        },
        (Some("job"), Some(job), Some("renamed"), to) if is_name(job) && name(to) => {
            Heard::Renamed(job, to.unwrap_or_default())
        }
        (Some("job"), Some(job), Some(what), _) if is_name(job) => Heard::Job(job, what),
        _ => Heard::Other,
    }
}

#[derive(Debug, Clone)]
struct Known {
    state: Option<State>,
    since: u64,
    words: Option<Words>,
}

/// Everything that is known.
#[derive(Debug, Default)]
pub(super) struct Board {
    under_way: BTreeMap<Key, Known>,
    ended: BTreeMap<Arc<str>, (u64, Known)>,
    jobs: BTreeSet<Arc<str>>,
    closed: BTreeSet<Arc<str>>,
    /// Whether the listing of all jobs is closed to us.
    pub(super) unlisted: bool,
    /// Whether jobs or builds were left out since all were listed, as there are too many, and whether queues or nodes were.
    pub(super) cut: bool,
    pub(super) cut_late: bool,
    /// Queues and nodes that were not looked at, or can't be read just now.
    pub(super) unread_late: usize,
    /// What is to be looked at.
    pub(super) stale_jobs: BTreeSet<Arc<str>>,
    pub(super) stale_builds: BTreeSet<Key>,
    pub(super) queues: Vec<Queue>,
    pub(super) nodes: Vec<Node>,
    pub(super) status: Vec<(String, String)>,
}

impl Board {
    /// All jobs by name: what is gone is forgotten, and all are to be looked at.
    pub(super) fn list_jobs(&mut self, names: Vec<String>) {
        self.jobs = names.iter().map(|name| name.as_str().into()).collect();
        let jobs = &self.jobs;
        self.under_way.retain(|key, _| jobs.contains(&key.job));
        self.ended.retain(|job, _| jobs.contains(job));
        self.closed.retain(|job| jobs.contains(job));
        self.stale_jobs = self.jobs.clone();
    }

    /// All tickets of builds by their ids: what has none is not under way, unless it is held; whether it still is, is
    /// to be looked at, as what ended it may not have been heard of.
    pub(super) fn list_builds(&mut self, ids: &[String]) {
        let keys: BTreeSet<Key> = ids.iter().filter_map(|id| build_of(id)).map(|(key, _)| key).collect();
        self.under_way
            .retain(|key, known| known.state == Some(State::Held) || keys.contains(key));
        let held: Vec<Key> = self.under_way.keys().cloned().collect();
        for key in keys.into_iter().chain(held) {
            self.stale(key);
        }
    }

    /// Has a build looked at.
    pub(super) fn stale(&mut self, key: Key) {
        if self.under_way.len() >= BUILDS_MAX && !self.under_way.contains_key(&key) {
            self.cut = true;
            return;
        }
        let unread = Known {
            state: None,
            since: 0,
            words: None,
        };
        self.under_way.entry(key.clone()).or_insert(unread);
        self.stale_builds.insert(key);
    }

    /// Takes a build as it was found, or heard of, to stand.
    pub(super) fn stands(&mut self, key: &Key, state: State, since: u64) {
        self.closed.remove(&key.job);
        let known = Known {
            state: Some(state),
            since,
            words: None,
        };
        if !state.is_over() {
            if self.under_way.len() < BUILDS_MAX || self.under_way.contains_key(key) {
                let words = self.under_way.get(key).and_then(|known| known.words.clone());
                // Until they are read anew the old ones are better than none, but for an approval.
                let words = words.filter(|_| state != State::Held);
                self.under_way.insert(key.clone(), Known { words, ..known });
            } else {
                self.cut = true;
            }
            return;
        }
        self.under_way.remove(key);
        self.stale_builds.remove(key);
        let newest = self.ended.get(&key.job).map_or(0, |(number, _)| *number);
        if key.number >= newest && (self.ended.len() < JOBS_MAX || newest > 0) {
            self.ended.insert(key.job.clone(), (key.number, known));
        } else if newest == 0 {
            self.cut = true;
        }
    }

    /// Takes a job's builds as closed to us.
    pub(super) fn is_closed(&mut self, job: &str) {
        self.forget(job);
        if self.knows(job) {
            self.closed.insert(job.into());
        }
    }

    /// Takes a job's builds as open to us, though it may have none.
    pub(super) fn is_open(&mut self, job: &str) {
        self.closed.remove(job);
    }

    /// A build is gone.
    pub(super) fn gone(&mut self, key: &Key) {
        self.under_way.remove(key);
        self.stale_builds.remove(key);
        if self
            .ended
            .get(&key.job)
            .is_some_and(|(number, _)| *number == key.number)
        {
            self.ended.remove(&key.job);
            self.stale_jobs.insert(key.job.clone());
        }
    }

    /// A job is gone.
    pub(super) fn forget(&mut self, job: &str) {
        self.jobs.remove(job);
        self.closed.remove(job);
        self.stale_jobs.remove(job);
        self.ended.remove(job);
        // Those of this job alone are met: a listing may come to thousands of jobs that are closed.
        let all = Key::new(job, 0)..=Key::new(job, u64::MAX);
        let of_it: Vec<Key> = self.under_way.range(all.clone()).map(|(key, _)| key.clone()).collect();
        for key in of_it
            .iter()
            .chain(&self.stale_builds.range(all).cloned().collect::<Vec<_>>())
        {
            self.under_way.remove(key);
            self.stale_builds.remove(key);
        }
    }

    /// Takes a line of `.events` that came now; whether tickets changed, and whether all must be looked at again.
    pub(super) fn hear(&mut self, line: &str, now: u64) -> (bool, bool) {
        match heard(line) {
            Heard::Build(job, number, "removed") => self.gone(&Key::new(job, number)),
            Heard::Build(job, number, word) => {
                if let Some(state) = State::of(word)
                    && self.knows(job)
                {
                    self.stands(&Key::new(job, number), state, now);
                }
            }
            Heard::Job(job, "removed") => self.forget(job),
            Heard::Job(job, _) => self.look_at(job),
            Heard::Renamed(job, to) => {
                self.forget(job);
                self.look_at(to);
            }
            Heard::Ticket => return (true, false),
            Heard::Resync => return (true, true),
            Heard::Other => {}
        }
        (false, false)
    }

    /// Notes a job; whether there is room for it.
    fn knows(&mut self, job: &str) -> bool {
        if self.jobs.len() >= JOBS_MAX && !self.jobs.contains(job) {
            self.cut = true;
            return false;
        }
        self.jobs.insert(job.into());
        true
    }

    /// Has a job looked at.
    fn look_at(&mut self, job: &str) {
        if self.knows(job) {
            self.stale_jobs.insert(job.into());
        }
    }

    /// Whether a build that is known is over, and what it said.
    pub(super) fn known(&self, key: &Key) -> Option<(bool, Option<Words>)> {
        let ended = self.ended.get(&key.job).filter(|(number, _)| *number == key.number);
        let known = self.under_way.get(key).or(ended.map(|(_, known)| known))?;
        Some((known.state.is_some_and(State::is_over), known.words.clone()))
    }

    /// Takes what a build says.
    pub(super) fn says(&mut self, key: &Key, words: Words) {
        if let Some(known) = self.under_way.get_mut(key) {
            known.words = Some(words);
        } else if let Some((number, known)) = self.ended.get_mut(&key.job)
            && *number == key.number
        {
            known.words = Some(words);
        }
    }

    /// Forgets what builds said that nobody looks at.
    pub(super) fn only_words_of(&mut self, keys: &[Key]) {
        let forget = |job: &Arc<str>, number: u64, known: &mut Known| {
            if known.words.is_some() && !keys.iter().any(|key| key.number == number && key.job == *job) {
                known.words = None;
            }
        };
        for (key, known) in &mut self.under_way {
            forget(&key.job, key.number, known);
        }
        for (job, (number, known)) in &mut self.ended {
            forget(job, *number, known);
        }
    }

    /// How many there are.
    pub(super) fn counts(&self) -> Counts {
        let of = |state| self.under_way.values().filter(|known| known.state == state).count();
        let red = |(job, (number, known)): &(&Arc<str>, &(u64, Known))| {
            known.state.is_some_and(State::is_red) && !self.under_way.contains_key(&Key::new(job, *number))
        };
        Counts {
            jobs: self.jobs.len(),
            running: of(Some(State::Running)),
            held: of(Some(State::Held)),
            pending: of(Some(State::Pending)),
            unread: of(None) + self.stale_jobs.len() + self.unread_late,
            red: self.ended.iter().filter(red).count(),
            closed: self.closed.len(),
            unlisted: self.unlisted,
            cut: self.cut || self.cut_late,
        }
    }

    /// What is shown, in this order: what runs, is held and waits, the oldest first; what ended, first what failed, the
    /// newest first. And how many are left out.
    pub(super) fn rows(&self) -> (Vec<Row>, usize) {
        let row = |key: Key, known: &Known| Row {
            key,
            state: known.state,
            since: known.since,
            words: known.words.clone(),
        };
        let mut rows: Vec<(&Key, &Known)> = self.under_way.iter().collect();
        // What is not known yet comes after what is.
        rows.sort_by_key(|(key, known)| (known.state.is_none(), known.state, known.since, key.number));
        let mut left = rows.len().saturating_sub(ROWS_MAX);
        let mut all: Vec<Row> = rows
            .into_iter()
            .take(ROWS_MAX)
            .map(|(key, known)| row(key.clone(), known))
            .collect();
        let ended = self.ended.iter().map(|(job, (number, known))| {
            (
                Key {
                    job: job.clone(),
                    number: *number,
                },
                known,
            )
        });
        let mut ended: Vec<_> = ended.filter(|(key, _)| !self.under_way.contains_key(key)).collect();
        ended.sort_by_key(|(_, known)| (!known.state.is_some_and(State::is_red), std::cmp::Reverse(known.since)));
        left += ended.len().saturating_sub(ENDED_MAX);
        all.extend(ended.into_iter().take(ENDED_MAX).map(|(key, known)| row(key, known)));
        (all, left)
    }
}

/// Build and task of a ticket's id, if it is that of one of a build; the build's own has no task.
pub(super) fn build_of(id: &str) -> Option<(Key, Option<u64>)> {
    let mut parts = id.rsplitn(3, '.');
    let (last, number, job) = (parts.next()?, parts.next()?, parts.next()?);
    // After a retry `.r<k>` follows.
    if last.strip_prefix('r').is_some_and(|run| run.parse::<u64>().is_ok()) {
        return build_of(id.strip_suffix(last)?.strip_suffix('.')?);
    }
    let task = match last {
        "control" => None,
        task => Some(task.parse().ok()?),
    };
    Some((Key::new(job, number.parse().ok()?), task))
}

/// `key value` lines.
pub(super) fn pairs(text: &str) -> Vec<(String, String)> {
    let pair = |line: &str| {
        line.split_once(' ')
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
    };
    text.lines().filter_map(pair).collect()
}

/// A node by what its file says.
pub(super) fn node(name: &str, text: &str) -> Node {
    let mut node = Node {
        name: name.to_owned(),
        ..Node::default()
    };
    for (key, value) in pairs(text) {
        match key.as_str() {
            "version" => node.version = value,
            "since" => node.since = value,
            "waiting" if node.waiting.len() < WAITING_MAX => {
                let mut words = value.splitn(3, ' ');
                if let (Some(queue), Some(Ok(count))) = (words.next(), words.next().map(str::parse)) {
                    let labels = words.next().unwrap_or_default().to_owned();
                    node.waiting.push((queue.to_owned(), count, labels));
                }
            }
            _ => {}
        }
    }
    node
}

/// Open and claimed tickets of each queue, by the text of `metrics`.
pub(super) fn tickets(metrics: &str) -> BTreeMap<String, (u64, u64)> {
    let mut found = BTreeMap::<String, (u64, u64)>::new();
    for line in metrics.lines() {
        let parts = line
            .strip_prefix("distcifs_tickets{queue=\"")
            .and_then(|rest| rest.split_once("\",state=\""));
        let Some((queue, rest)) = parts else { continue };
        let Some((state, count)) = rest.split_once("\"} ") else {
            continue;
        };
        let (queue, count) = (found.entry(queue.to_owned()).or_default(), count.parse().unwrap_or(0));
        match state {
            "open" => queue.0 = count,
            "claimed" => queue.1 = count,
            _ => {}
        }
    }
    found
}

#[cfg(test)]
mod tests;
