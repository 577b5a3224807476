//! Reads the tree for `top`: everything once, little by little, and then what `.events` says has changed. What is on the
//! screen is read again while it is under way; nothing else is.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::facts::{self, Board, Counts, JOBS_MAX, Key, Node, Queue, Row, State, Words};
use super::sight::{Asked, FACTS_BYTES_MAX, Fault, Result, SMALL_BYTES_MAX, Sight, Top, is_name};

/// Tickets of the queue of builds that are listed, and queues and nodes.
const TICKETS_MAX: usize = 20_000;
const QUEUES_MAX: usize = 200;
const NODES_MAX: usize = 256;

/// Among so many of a queue's tickets, the oldest, one that is not claimed is looked for; claimed ones come first.
const LOOKED_MAX: usize = 256;
const LOOKED_MIN: usize = 16;

/// Tasks of a build among which that of a ticket is looked for.
const TASKS_MAX: usize = 4096;

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
    /// The stream ended.
    Lost,
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
        }
    }

    /// What it waits for.
    pub(super) fn asked(&self) -> Asked {
        self.sight.asked.clone()
    }

    /// Looks at everything once, until a time: what is left then, the counts say.
    ///
    /// # Errors
    /// The tree is away, or its jobs or its builds can't be listed: that must not look like a tree in which nothing runs.
    pub(super) fn once(&mut self, until: Instant) -> Result<View> {
        loop {
            self.round(&[], ROUND)?;
            if self.is_idle() || Instant::now() >= until {
                break;
            }
        }
        if let Some(why) = &self.unlisted {
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
            self.away = away.or_else(|| self.unlisted.clone());
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
            Told::Listening => (*listening, self.list) = (true, true),
            Told::Lost => *listening = false,
            Told::Look => self.words_at = None,
        }
    }

    fn is_idle(&self) -> bool {
        !self.list && self.board.stale_builds.is_empty() && self.board.stale_jobs.is_empty()
    }

    /// What is known now.
    pub(super) fn view(&self) -> View {
        let (rows, left) = self.board.rows();
        View {
            mount: super::sight::clean(&self.sight.root().display().to_string()),
            away: self.away.as_deref().map(super::sight::clean),
            ready: self.ready,
            status: self.board.status.clone(),
            counts: self.board.counts(),
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
            let (text, _) = top.text("status", FACTS_BYTES_MAX)?;
            self.board.status = facts::pairs(&text);
            self.facts_at = Some(Instant::now());
        }
        let late = if self.tickets { FACTS_EVERY } else { LATE };
        if is_due(self.queues_at, late) {
            self.board.stale_jobs.append(&mut self.odd_jobs);
            self.board.stale_builds.append(&mut self.odd_builds);
            self.tickets = false;
            self.board.nodes = nodes(&top)?;
            self.board.queues = queues(&top, &self.board.nodes)?;
            self.queues_at = Some(Instant::now());
        }
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
            Ok((names, _)) => self.board.list_jobs(names),
            Err(Fault::Away(why)) => return Err(Fault::Away(why)),
            Err(Fault::Odd(why)) => self.unlisted = Some(format!("jobs can't be listed: {why}")),
            Err(Fault::Closed | Fault::Absent) => {}
        }
        match builds {
            Ok((ids, _)) => self.board.list_builds(&ids),
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
        let why = file("why")?;
        let words = match words {
            Some(words) => Words { why, ..words },
            None => Words {
                why,
                cause: file("cause")?,
                name: file("ref")?,
                commit: file("commit")?,
            },
        };
        self.board.says(key, words);
        Ok(())
    }
}

/// How a build stands, and since when; `None` of a word that nobody knows.
fn state(top: &Top, key: &Key) -> Result<Option<(State, u64)>> {
    let (word, since) = top.text(&format!("{}/state", key.folder()), SMALL_BYTES_MAX)?;
    Ok(State::of(word.trim()).map(|state| (state, since)))
}

fn nodes(top: &Top) -> Result<Vec<Node>> {
    let mut names = match top.names("nodes", NODES_MAX) {
        Ok((names, _)) => names,
        Err(Fault::Away(why)) => return Err(Fault::Away(why)),
        Err(_) => return Ok(Vec::new()),
    };
    names.sort();
    let mut nodes = Vec::new();
    for name in names {
        match top.text(&format!("nodes/{name}"), FACTS_BYTES_MAX) {
            Ok((text, _)) => nodes.push(facts::node(&name, &text)),
            Err(Fault::Away(why)) => return Err(Fault::Away(why)),
            // It went meanwhile.
            Err(_) => {}
        }
    }
    Ok(nodes)
}

/// All queues, those first in which something waits.
fn queues(top: &Top, nodes: &[Node]) -> Result<Vec<Queue>> {
    let figures = match top.text("metrics", FACTS_BYTES_MAX) {
        Ok((text, _)) => facts::tickets(&text),
        Err(Fault::Away(why)) => return Err(Fault::Away(why)),
        Err(_) => Default::default(),
    };
    let mut queues = Vec::new();
    for (name, (open, claimed)) in figures.into_iter().filter(|(name, _)| is_name(name)).take(QUEUES_MAX) {
        let waits = nodes
            .iter()
            .flat_map(|node| &node.waiting)
            .filter(|(queue, ..)| *queue == name);
        let mut queue = Queue {
            workers: waits.map(|(_, count, _)| count).sum(),
            name,
            open,
            claimed,
            ..Queue::default()
        };
        if open > 0 {
            oldest(top, &mut queue)?;
        }
        queues.push(queue);
    }
    queues.sort_by(|a, b| (b.open > 0).cmp(&(a.open > 0)).then_with(|| a.name.cmp(&b.name)));
    Ok(queues)
}

/// Finds what the oldest ticket of a queue waits for that nobody has claimed.
fn oldest(top: &Top, queue: &mut Queue) -> Result<()> {
    let folder = format!("tickets/{}", queue.name);
    let claimed = usize::try_from(queue.claimed).unwrap_or(LOOKED_MAX);
    let most = (claimed.saturating_add(LOOKED_MIN)).min(LOOKED_MAX);
    let ids = match top.names(&folder, most) {
        Ok((ids, _)) => ids,
        Err(Fault::Away(why)) => return Err(Fault::Away(why)),
        Err(fault) => {
            queue.closed = fault == Fault::Closed;
            return Ok(());
        }
    };
    for id in ids {
        match top.changed(&format!("{folder}/{id}"), "claim") {
            Err(Fault::Absent) => {}
            Err(Fault::Away(why)) => return Err(Fault::Away(why)),
            Ok(_) | Err(Fault::Closed | Fault::Odd(_)) => continue,
        }
        // It may be gone by now.
        let Ok(since) = top.changed(&folder, &id) else { continue };
        queue.since = since;
        queue.why = why(top, &folder, &id)?;
        queue.oldest = id;
        return Ok(());
    }
    Ok(())
}

/// What a ticket waits for: its build says so; of one that stands alone, what a worker must have.
fn why(top: &Top, folder: &str, id: &str) -> Result<String> {
    let said = match facts::build_of(id) {
        Some((key, None)) => top.small(&format!("{}/why", key.folder()))?,
        Some((key, Some(task))) => {
            let tasks = format!("{}/tasks", key.folder());
            let begin = format!("{task}-");
            let names = match top.names(&tasks, TASKS_MAX) {
                Err(Fault::Away(why)) => return Err(Fault::Away(why)),
                other => other.map_or_else(|_| Vec::new(), |(names, _)| names),
            };
            match names.iter().find(|name| name.starts_with(&begin)) {
                Some(name) => top.small(&format!("{tasks}/{name}/why"))?,
                None => String::new(),
            }
        }
        None => String::new(),
    };
    if let Some(line) = said.lines().next() {
        return Ok(line.to_owned());
    }
    let labels = top.small(&format!("{folder}/{id}/labels"))?;
    let labels: Vec<&str> = labels.split_whitespace().collect();
    Ok(match labels.is_empty() {
        true => String::new(),
        false => format!("needs labels {}", labels.join(" ")),
    })
}

/// Tells the reader what `.events` says, until there is no reader any more. Each read answers within a second.
pub(super) fn listen(root: &Path, to: &SyncSender<Told>) {
    loop {
        let flags = nix::libc::O_NOFOLLOW | nix::libc::O_NOCTTY;
        let opened = File::options()
            .read(true)
            .custom_flags(flags)
            .open(root.join(".events"));
        if let Ok(file) = opened
            && to.send(Told::Listening).is_ok()
        {
            let mut stream = BufReader::new(file);
            let mut line = Vec::new();
            while let Ok(1..) = (&mut stream).take(LINE_BYTES_MAX).read_until(b'\n', &mut line) {
                let text = String::from_utf8_lossy(&line).trim().to_owned();
                line.clear();
                if !text.is_empty() && to.send(Told::Line(text)).is_err() {
                    return;
                }
            }
        }
        if to.send(Told::Lost).is_err() {
            return;
        }
        std::thread::sleep(AGAIN);
    }
}

#[cfg(test)]
mod tests;
