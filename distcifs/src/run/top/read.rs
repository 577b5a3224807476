//! Reads the tree for `top`: everything once, little by little, and then what `.events` says has changed. What is on the
//! screen is read again while it is under way; nothing else is.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::facts::{self, Board, Counts, JOBS_MAX, Key, Node, Queue, Row, State, Words};
use super::late::LateLook;
use super::sight::{Asked, FACTS_BYTES_MAX, Fault, Result, SMALL_BYTES_MAX, Sight, Top};

/// Tickets of the queue of builds that are listed.
const TICKETS_MAX: usize = 20_000;

/// Builds of a job, the newest, that are looked at when `top` starts.
const LAST: u64 = 4;

/// The queue in which each build that runs or waits has a ticket.
const BUILDS: &str = "build-control";

/// One round of looking takes as long, and there is as long a pause after it: so what is read at first takes a part of
/// one processor.
const ROUND: Duration = Duration::from_millis(50);
const PAUSE: Duration = Duration::from_millis(100);

/// How long it is waited for an event.
const IDLE: Duration = Duration::from_millis(400);

/// How often what no event tells of is read: `status`, and of the builds on the screen what they wait for.
const FACTS_EVERY: Duration = Duration::from_secs(2);

/// The same of nodes and queues, where nothing said that they changed.
const LATE: Duration = Duration::from_secs(10);

/// How long until a stream that ended is opened again.
const AGAIN: Duration = Duration::from_secs(1);

/// Longest line of `.events`, bytes.
const LINE_BYTES_MAX: u64 = 64 << 10;

/// Lines of `.events` taken in one round.
const LINES_MAX: usize = 10_000;

/// Builds whose words `--once` reads.
const WORDS_MAX: usize = 200;

/// What comes to the reader.
pub(super) enum Told {
    /// A line of `.events`.
    Line(String),
    /// The stream is there: all that was read before may be old.
    Listening,
    /// The stream ended, or there is none; why, if that is known.
    Lost(Option<String>),
    /// Somebody looks at something else.
    Look,
}

/// The tree as it was seen last.
#[derive(Debug, Clone, Default)]
pub(super) struct View {
    /// Where it is mounted, in words.
    pub(super) mount: String,
    /// Why nothing newer is known.
    pub(super) away: Option<String>,
    /// Whether it was ever read.
    pub(super) ready: bool,
    pub(super) status: Vec<(String, String)>,
    pub(super) counts: Counts,
    pub(super) rows: Vec<Row>,
    /// Builds that are not among the rows.
    pub(super) left: usize,
    pub(super) queues: Vec<Queue>,
    pub(super) nodes: Vec<Node>,
}

impl View {
    /// A value of `status`, or empty.
    pub(super) fn fact(&self, key: &str) -> &str {
        let found = self.status.iter().find(|(known, _)| known == key);
        found.map_or("", |(_, value)| value.as_str())
    }
}

/// What the reader and the screen share.
#[derive(Default)]
pub(super) struct Shared {
    view: Mutex<Arc<View>>,
    wanted: Mutex<Vec<Key>>,
}

fn lock<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// The newest view.
    pub(super) fn view(&self) -> Arc<View> {
        lock(&self.view).clone()
    }

    /// Shows what is known now.
    pub(super) fn show(&self, view: View) {
        *lock(&self.view) = Arc::new(view);
    }

    /// Says which builds are looked at; whether these are others than before.
    pub(super) fn want(&self, keys: Vec<Key>) -> bool {
        let mut wanted = lock(&self.wanted);
        let others = *wanted != keys;
        *wanted = keys;
        others
    }
}

/// Milliseconds since 1970.
pub(super) fn now() -> u64 {
    let time = SystemTime::now().duration_since(UNIX_EPOCH);
    time.map_or(0, |time| u64::try_from(time.as_millis()).unwrap_or(0))
}

/// Reads a tree.
pub(super) struct Reader {
    sight: Sight,
    board: Board,
    /// All names are to be listed.
    list: bool,
    tickets: bool,
    facts_at: Option<Instant>,
    queues_at: Option<Instant>,
    words_at: Option<Instant>,
    listed_at: Option<Instant>,
    away: Option<String>,
    ready: bool,
    /// What could not be read, and is tried again late.
    odd_builds: BTreeSet<Key>,
    odd_jobs: BTreeSet<Arc<str>>,
    /// Why not all names are known, if a listing failed; it is tried again.
    unlisted: Option<String>,
    /// Why `status` or `metrics` is not known; each is tried again.
    no_facts: Option<String>,
    no_figures: Option<String>,
    /// Why no events are heard.
    unheard: Option<String>,
    /// The look at nodes and queues that is under way.
    late: Option<LateLook>,
}

fn is_due(at: Option<Instant>, every: Duration) -> bool {
    at.is_none_or(|at| at.elapsed() >= every)
}

impl Reader {
    /// Of a tree that nothing is known of.
    pub(super) fn new(sight: Sight) -> Self {
        Reader {
            sight,
            board: Board::default(),
            list: true,
            tickets: true,
            facts_at: None,
            queues_at: None,
            words_at: None,
            listed_at: None,
            away: None,
            ready: false,
            odd_builds: BTreeSet::new(),
            odd_jobs: BTreeSet::new(),
            unlisted: None,
            no_facts: None,
            no_figures: None,
            unheard: None,
            late: None,
        }
    }

    /// What it waits for.
    pub(super) fn asked(&self) -> Asked {
        self.sight.asked.clone()
    }

    /// Looks at everything once, until a time: what is left then, the counts say.
    ///
    /// # Errors
    /// The tree is away, or its jobs, its builds or its figures can't be read: that must not look like a tree in which
    /// nothing runs.
    pub(super) fn once(&mut self, until: Instant) -> Result<View> {
        loop {
            self.round(&[], ROUND)?;
            if self.is_idle() || Instant::now() >= until {
                break;
            }
        }
        if let Some(late) = self.late.take() {
            self.take_late(late);
        }
        if let Some(why) = self
            .unlisted
            .as_ref()
            .or(self.no_facts.as_ref())
            .or(self.no_figures.as_ref())
        {
            return Err(Fault::Odd(why.clone()));
        }
        let top = self.sight.top()?;
        let rows = self.board.rows().0.into_iter();
        let told = rows.filter(|row| row.state.is_some_and(|state| !state.is_over() || state.is_red()));
        let keys: Vec<Key> = told.take(WORDS_MAX).map(|row| row.key).collect();
        for key in keys {
            if Instant::now() >= until {
                break;
            }
            self.words(&top, &key)?;
        }
        Ok(self.view())
    }

    /// Reads for a screen, until that is gone.
    pub(super) fn follow(mut self, shared: &Shared, told: &Receiver<Told>) {
        let mut listening = false;
        loop {
            let wanted = lock(&shared.wanted).clone();
            let away = self.round(&wanted, ROUND).err().map(|fault| {
                self.list |= matches!(fault, Fault::Away(_));
                fault.to_string()
            });
            let known = [&self.unlisted, &self.no_facts, &self.no_figures, &self.unheard];
            self.away = away.or_else(|| known.into_iter().flatten().next().cloned());
            shared.show(self.view());
            std::thread::sleep(PAUSE);
            let pause = if self.is_idle() { IDLE } else { Duration::ZERO };
            let mut next = match told.recv_timeout(pause) {
                Ok(first) => Some(first),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            for _ in 0..LINES_MAX {
                let Some(this) = next else { break };
                self.take(this, &mut listening);
                next = told.try_recv().ok();
            }
            // A tree that tells nothing is looked at anew.
            self.list |= !listening && is_due(self.listed_at, LATE);
        }
    }

    fn take(&mut self, told: Told, listening: &mut bool) {
        match told {
            Told::Line(line) => {
                let (tickets, all) = self.board.hear(&line, now());
                self.tickets |= tickets;
                self.list |= all;
            }
            Told::Listening => {
                (*listening, self.list) = (true, true);
                self.unheard = None;
            }
            Told::Lost(why) => {
                *listening = false;
                self.unheard = why;
            }
            Told::Look => self.words_at = None,
        }
    }

    fn is_idle(&self) -> bool {
        !self.list && self.late.is_none() && self.board.stale_builds.is_empty() && self.board.stale_jobs.is_empty()
    }

    /// What is known now.
    pub(super) fn view(&self) -> View {
        let (rows, left) = self.board.rows();
        View {
            mount: super::sight::clean(&self.sight.root().display().to_string()),
            away: self.away.as_deref().map(super::sight::clean),
            ready: self.ready,
            status: self.board.status.clone(),
            counts: Counts {
                unread: self.board.counts().unread + self.odd_jobs.len(),
                ..self.board.counts()
            },
            rows,
            left,
            queues: self.board.queues.clone(),
            nodes: self.board.nodes.clone(),
        }
    }

    /// Looks for a while at what was not looked at yet, and at what is due.
    fn round(&mut self, wanted: &[Key], time: Duration) -> Result<()> {
        let top = self.sight.top()?;
        let again = self.unlisted.is_some() && is_due(self.listed_at, FACTS_EVERY);
        if std::mem::take(&mut self.list) || again {
            self.list_all(&top)?;
        }
        let begun = Instant::now();
        while begun.elapsed() < time {
            if let Some(key) = self.board.stale_builds.pop_first() {
                self.look_at_build(&top, &key)?;
            } else if let Some(job) = self.board.stale_jobs.pop_first() {
                self.look_at_job(&top, &job)?;
            } else {
                break;
            }
        }
        if is_due(self.facts_at, FACTS_EVERY) {
            match top.text("status", FACTS_BYTES_MAX) {
                Ok((text, _)) => {
                    self.board.status = facts::pairs(&text);
                    self.no_facts = None;
                }
                Err(Fault::Odd(why)) => self.no_facts = Some(why),
                Err(fault) => return Err(fault),
            }
            self.facts_at = Some(Instant::now());
        }
        self.look_late(&top, begun, time)?;
        if is_due(self.words_at, FACTS_EVERY) {
            self.board.only_words_of(wanted);
            for key in wanted {
                self.words(&top, key)?;
            }
            self.words_at = Some(Instant::now());
        }
        self.ready = true;
        Ok(())
    }

    /// Looks at nodes and queues if they are due, for as long as a round lasts: what is left comes in the next one.
    fn look_late(&mut self, top: &Top, begun: Instant, time: Duration) -> Result<()> {
        let every = if self.tickets { FACTS_EVERY } else { LATE };
        let mut late = match self.late.take() {
            Some(late) => late,
            None if is_due(self.queues_at, every) => {
                self.board.stale_jobs.append(&mut self.odd_jobs);
                self.board.stale_builds.append(&mut self.odd_builds);
                self.tickets = false;
                LateLook::begin(top)?
            }
            None => return Ok(()),
        };
        // One at least in each round, or there would be no end.
        let mut is_over = late.step(top)?;
        while !is_over && begun.elapsed() < time {
            is_over = late.step(top)?;
        }
        if is_over {
            self.take_late(late);
        } else {
            self.late = Some(late);
        }
        Ok(())
    }

    /// Shows what was found of nodes and queues.
    fn take_late(&mut self, late: LateLook) {
        let found = late.found();
        self.board.unread_late = found.unread;
        self.board.cut_late = found.cut;
        (self.board.nodes, self.board.queues, self.no_figures) = (found.nodes, found.queues, found.no_figures);
        self.queues_at = Some(Instant::now());
    }

    fn list_all(&mut self, top: &Top) -> Result<()> {
        let jobs = top.names("jobs", JOBS_MAX);
        let builds = top.names(&format!("tickets/{BUILDS}"), TICKETS_MAX);
        // Not before: a listing that fails may take long.
        self.listed_at = Some(Instant::now());
        self.listed(jobs, builds)
    }

    /// Takes what came of listing all jobs, and all tickets of builds.
    fn listed(&mut self, jobs: Result<(Vec<String>, bool)>, builds: Result<(Vec<String>, bool)>) -> Result<()> {
        self.unlisted = None;
        // Who may not list the jobs may know some by name.
        self.board.unlisted = jobs == Err(Fault::Closed);
        match jobs {
            Ok((names, cut)) => {
                self.board.list_jobs(names);
                self.board.cut = cut;
            }
            Err(Fault::Away(why)) => return Err(Fault::Away(why)),
            Err(Fault::Odd(why)) => self.unlisted = Some(format!("jobs can't be listed: {why}")),
            Err(Fault::Closed | Fault::Absent) => {}
        }
        match builds {
            Ok((ids, cut)) => {
                self.board.list_builds(&ids);
                self.board.cut |= cut;
            }
            Err(Fault::Away(why)) => return Err(Fault::Away(why)),
            Err(Fault::Odd(why)) => self.unlisted = Some(format!("tickets/{BUILDS} can't be listed: {why}")),
            Err(Fault::Closed | Fault::Absent) => {}
        }
        Ok(())
    }

    fn look_at_build(&mut self, top: &Top, key: &Key) -> Result<()> {
        match state(top, key) {
            Ok(Some((state, since))) => self.board.stands(key, state, since),
            Ok(None) | Err(Fault::Absent) => self.board.gone(key),
            Err(Fault::Closed) => self.board.is_closed(&key.job),
            Err(Fault::Odd(_)) => drop(self.odd_builds.insert(key.clone())),
            Err(Fault::Away(why)) => return Err(Fault::Away(why)),
        }
        Ok(())
    }

    /// The newest builds of a job.
    fn look_at_job(&mut self, top: &Top, job: &Arc<str>) -> Result<()> {
        let newest = match top.target(&format!("jobs/{job}/builds"), "latest") {
            Ok(target) => target.parse::<u64>().unwrap_or(0),
            Err(Fault::Absent) => {
                self.board.is_open(job);
                0
            }
            Err(Fault::Closed) => {
                self.board.is_closed(job);
                0
            }
            Err(Fault::Odd(_)) => {
                self.odd_jobs.insert(job.clone());
                0
            }
            Err(Fault::Away(why)) => return Err(Fault::Away(why)),
        };
        for number in (newest.saturating_sub(LAST - 1).max(1)..=newest).rev() {
            let key = Key {
                job: job.clone(),
                number,
            };
            match state(top, &key) {
                Ok(Some((state, since))) => self.board.stands(&key, state, since),
                Ok(None) | Err(Fault::Absent | Fault::Closed) => {}
                Err(Fault::Odd(_)) => drop(self.odd_builds.insert(key)),
                Err(Fault::Away(why)) => return Err(Fault::Away(why)),
            }
        }
        Ok(())
    }

    /// What a build says of itself: of one that is over once.
    fn words(&mut self, top: &Top, key: &Key) -> Result<()> {
        let rows = self.board.known(key);
        let Some((over, words)) = rows else { return Ok(()) };
        if over && words.is_some() {
            return Ok(());
        }
        let folder = key.folder();
        let file = |name: &str| top.small(&format!("{folder}/{name}"));
        let read = || {
            let why = file("why")?;
            Ok(match words {
                Some(words) => Words { why, ..words },
                None => Words {
                    why,
                    cause: file("cause")?,
                    name: file("ref")?,
                    commit: file("commit")?,
                },
            })
        };
        match read() {
            Ok(words) => self.board.says(key, words),
            // What it said before stands on, and it is read again.
            Err(Fault::Odd(_)) => {}
            Err(fault) => return Err(fault),
        }
        Ok(())
    }
}

/// How a build stands, and since when; `None` of a word that nobody knows.
fn state(top: &Top, key: &Key) -> Result<Option<(State, u64)>> {
    let (word, since) = top.text(&format!("{}/state", key.folder()), SMALL_BYTES_MAX)?;
    Ok(State::of(word.trim()).map(|state| (state, since)))
}

/// Tells the reader what `.events` says, until there is no reader any more. Each read answers within a second.
pub(super) fn listen(sight: &Sight, to: &SyncSender<Told>) {
    loop {
        let lost = match sight.top().and_then(|top| top.open(".events")) {
            Ok(_) if to.send(Told::Listening).is_err() => return,
            Ok(file) => match heard(file, to) {
                Some(why) => why.err().map(|error| format!(".events: {error}")),
                None => return,
            },
            // The reader says that of the tree.
            Err(Fault::Away(_)) => None,
            Err(fault @ Fault::Odd(_)) => Some(fault.to_string()),
            Err(fault @ (Fault::Absent | Fault::Closed)) => Some(format!(".events: {fault}")),
        };
        if to.send(Told::Lost(lost)).is_err() {
            return;
        }
        std::thread::sleep(AGAIN);
    }
}

/// Tells the lines of a stream until that ends, and how it did; `None` if there is no reader any more.
fn heard(file: File, to: &SyncSender<Told>) -> Option<std::io::Result<()>> {
    let mut stream = BufReader::new(file);
    let mut line = Vec::new();
    loop {
        match (&mut stream).take(LINE_BYTES_MAX).read_until(b'\n', &mut line) {
            Ok(0) => return Some(Ok(())),
            Ok(_) => {}
            Err(error) => return Some(Err(error)),
        }
        let text = String::from_utf8_lossy(&line).trim().to_owned();
        line.clear();
        if !text.is_empty() && to.send(Told::Line(text)).is_err() {
            return None;
        }
    }
}

#[cfg(test)]
mod tests;
