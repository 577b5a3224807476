//! build-control: claims builds, posts the tickets of their tasks, and writes how they ended.
//!
//! One thread reads `.next`, one reads `.events`, one waits for signals. Each held build belongs to
//! one of a few shards, which work side by side because most of their time is waiting for a commit.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeSet, HashMap};
use std::hash::{Hash, Hasher};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::again::Again;
use crate::beneath::more_descriptors;
use crate::held::{Held, QUEUE, Step};
use crate::record::control_id;
use crate::signals;
use crate::ticket::UNTRUSTED;
use crate::tree::{self, Lines, Tree, Trouble};
use crate::turns::{Key, Turns};

/// Shards, threads: enough that commits of a few milliseconds each don't queue up behind one another.
pub(crate) const SHARDS: usize = 8;

/// Messages waiting for one shard; a full channel holds up the readers of the streams, and the tree
/// then says `resync`.
const QUEUE_LEN: usize = 1024;

/// How long until what failed for want of the store is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// How often every held build is looked at though nothing was heard of it: a net under lost events.
const RECHECK: Duration = Duration::from_secs(5);

/// The same of builds of hundreds of tasks, whose whole record takes long to read.
const RECHECK_LARGE: Duration = Duration::from_secs(60);

/// What a shard is told.
#[derive(Debug)]
enum Message {
    /// A build-control ticket was claimed.
    Claimed { id: String, key: Key },
    /// Something of the build changed: this task ended, or nobody says what.
    Changed(Key, Option<usize>),
    /// Events were lost.
    Resync,
    /// Give everything back and end.
    Stop,
}

/// Why the whole worker ends.
#[derive(Debug)]
enum End {
    Signal,
    Away(Trouble),
}

/// Runs until TERM or INT (`Ok`) or until the tree is away (`Err`).
pub fn run(tree: &Tree) -> tree::Result<()> {
    let broken = |e: std::io::Error| Trouble::Refused(format!("can't start: {e}"));
    let wake = signals::install().map_err(broken)?;
    // Each build that is held has its ticket's folder open.
    more_descriptors();
    let events = tree.events()?;
    // That a stranger's build triggers none is kept by the tree.
    let next = tree.next(QUEUE, &[UNTRUSTED.to_owned()])?;
    // One slot for each thread that may say it, so that none waits at the end.
    let (end_tx, end_rx) = sync_channel(SHARDS + 3);
    let mut shards = Vec::new();
    let mut workers = Vec::new();
    for _ in 0..SHARDS {
        let (tx, rx) = sync_channel(QUEUE_LEN);
        shards.push(tx);
        workers.push(spawn_shard(tree.clone(), rx, end_tx.clone()).map_err(broken)?);
    }
    let end = end_tx.clone();
    let to = shards.clone();
    thread::Builder::new()
        .spawn(move || send(&end, read_tickets(next, &to)))
        .map_err(broken)?;
    let end = end_tx.clone();
    let to = shards.clone();
    thread::Builder::new()
        .spawn(move || send(&end, read_events(events, &to)))
        .map_err(broken)?;
    thread::Builder::new()
        .spawn(move || send(&end_tx, wait_for_signal(&wake)))
        .map_err(broken)?;
    match end_rx.recv() {
        Ok(End::Away(trouble)) => Err(trouble),
        Ok(End::Signal) | Err(_) => {
            stop(&shards, workers);
            Ok(())
        }
    }
}

/// Lets every shard give back what it holds.
fn stop(shards: &[SyncSender<Message>], workers: Vec<JoinHandle<()>>) {
    for shard in shards {
        // A shard that has ended has nothing to give back.
        let _ = shard.send(Message::Stop);
    }
    for worker in workers {
        if worker.join().is_err() {
            eprintln!("build-control: a shard ended by a panic");
        }
    }
}

fn send(end: &SyncSender<End>, why: End) {
    // Nobody listens any more: the worker is ending already.
    let _ = end.send(why);
}

fn wait_for_signal(wake: &signals::Wake) -> End {
    while !signals::stopping() {
        wake.wait(None);
    }
    End::Signal
}

/// The shard of a build.
fn shard<'a>(shards: &'a [SyncSender<Message>], key: &Key) -> Option<&'a SyncSender<Message>> {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    shards.get((hasher.finish() % shards.len().max(1) as u64) as usize)
}

/// Hands each claimed ticket to its shard until the stream ends.
fn read_tickets(mut next: Lines, shards: &[SyncSender<Message>]) -> End {
    loop {
        let id = match next.next_line() {
            Ok(id) => id,
            Err(trouble) => return End::Away(trouble),
        };
        if id.is_empty() {
            continue;
        }
        // An id of another shape goes the same way: its record is not there, or says what it is.
        let (job, build) = control_id(&id).unwrap_or((&id, 0));
        let key = (job.to_owned(), build);
        if let Some(to) = shard(shards, &key) {
            let _ = to.send(Message::Claimed { id, key });
        }
    }
}

/// Hands each change that can matter to the shard of its build.
fn read_events(mut events: Lines, shards: &[SyncSender<Message>]) -> End {
    loop {
        let line = match events.next_line() {
            Ok(line) => line,
            Err(trouble) => return End::Away(trouble),
        };
        if line == "resync" {
            for to in shards {
                let _ = to.send(Message::Resync);
            }
        } else if let Some((key, task)) = changed(&line)
            && let Some(to) = shard(shards, &key)
        {
            let _ = to.send(Message::Changed(key, task));
        }
    }
}

/// The build that an event is about, if there may be something to do: a task ended, which it names, or an abort.
fn changed(line: &str) -> Option<(Key, Option<usize>)> {
    let mut words = line.split_ascii_whitespace();
    let (kind, place, state) = (words.next()?, words.next()?, words.next()?);
    let mut parts = place.split('/');
    let (job, build) = (parts.next()?, parts.next()?.parse().ok()?);
    let ended = matches!(state, "success" | "failure" | "error" | "aborted" | "skipped");
    let matters = (kind == "task" && ended) || kind == "control";
    let task = parts.next().and_then(|name| name.split_once('-')?.0.parse().ok());
    matters.then(|| ((job.to_owned(), build), task))
}

fn spawn_shard(tree: Tree, rx: Receiver<Message>, end: SyncSender<End>) -> std::io::Result<JoinHandle<()>> {
    thread::Builder::new().spawn(move || {
        let mut shard = Shard {
            tree,
            held: HashMap::new(),
            dirty: Turns::default(),
            again: BTreeSet::new(),
            leased: Again::default(),
        };
        if let Err(trouble) = shard.run(&rx) {
            send(&end, End::Away(trouble));
        }
    })
}

/// Builds that one thread looks after.
struct Shard {
    tree: Tree,
    held: HashMap<Key, Held>,
    /// Builds to look at now.
    dirty: Turns,
    /// Those that could not be looked at just now.
    again: BTreeSet<Key>,
    /// Those of which somebody holds a file by a lease.
    leased: Again<Key>,
}

impl Shard {
    fn run(&mut self, rx: &Receiver<Message>) -> tree::Result<()> {
        let mut rechecked = Instant::now();
        let mut last_large = Instant::now();
        let mut retried = Instant::now();
        loop {
            // While there is something to do, what is said is taken in after each step.
            let wait = if self.dirty.is_empty() { RETRY } else { Duration::ZERO };
            match rx.recv_timeout(wait) {
                Ok(message) => {
                    let more = std::iter::once(message).chain(rx.try_iter().take(QUEUE_LEN));
                    for message in more.collect::<Vec<_>>() {
                        if !self.take(message) {
                            return Ok(());
                        }
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
            if retried.elapsed() >= RETRY {
                retried = Instant::now();
                let again = std::mem::take(&mut self.again);
                for key in again.into_iter().chain(self.leased.due()) {
                    self.mark_dirty(key);
                }
            }
            if rechecked.elapsed() >= RECHECK {
                rechecked = Instant::now();
                let large = last_large.elapsed() >= RECHECK_LARGE;
                if large {
                    last_large = Instant::now();
                }
                self.recheck(large);
            }
            self.step()?;
        }
    }

    /// Notes what a message says; false is the end.
    fn take(&mut self, message: Message) -> bool {
        match message {
            Message::Claimed { id, key } => {
                let held = Held::new(&self.tree, &id, &key.0, key.1);
                self.held.insert(key.clone(), held);
                self.mark_dirty(key);
            }
            Message::Changed(key, task) => {
                if let Some(held) = self.held.get_mut(&key) {
                    held.changed(task);
                }
                self.mark_dirty(key);
            }
            Message::Resync => self.recheck(true),
            Message::Stop => {
                self.held.values().for_each(Held::give_back);
                return false;
            }
        }
        true
    }

    /// A build that is held is to be looked at.
    fn mark_dirty(&mut self, key: Key) {
        if let Some(held) = self.held.get(&key) {
            self.dirty.add(held.owner(), key);
        }
    }

    /// Looks at all builds anew; at large ones only if they are meant too.
    fn recheck(&mut self, large: bool) {
        for (key, held) in &mut self.held {
            if held.is_large() && !large {
                continue;
            }
            held.distrust();
            self.dirty.add(held.owner(), key.clone());
        }
    }

    /// Does some of what is to be done, for the build whose turn it is.
    fn step(&mut self) -> tree::Result<()> {
        let Some(key) = self.dirty.next() else { return Ok(()) };
        let Some(held) = self.held.get_mut(&key) else {
            self.leased.done(&key);
            return Ok(());
        };
        if self.leased.waits(&key) {
            return Ok(());
        }
        let step = held.step(&self.tree)?;
        if !matches!(step, Step::Held(_)) {
            self.leased.done(&key);
        }
        match step {
            Step::Waiting => {}
            Step::Held(why) => {
                if self.leased.put(&key) {
                    eprintln!("build-control: {why}; this build waits for that");
                }
            }
            Step::More => self.mark_dirty(key),
            Step::Again => {
                held.changed(None);
                self.again.insert(key);
            }
            Step::Doubtful => {
                held.changed(None);
                self.mark_dirty(key);
            }
            Step::Over => {
                self.held.remove(&key);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use serde_json::json;

    use super::*;

    #[test]
    fn only_ends_and_controls_matter() {
        let key = |n, task| Some((("a.b".to_owned(), n), task));
        assert_eq!(changed("task a.b/12/0-execute-shell success"), key(12, Some(0)));
        assert_eq!(changed("task a.b/12/3999-execute-shell error"), key(12, Some(3999)));
        assert_eq!(changed("control a.b/3 abort"), key(3, None));
        for line in [
            "",
            "resync",
            "task a.b/12/0-x running",
            "build a.b/1 running",
            "ticket q/x open",
            "task a.b x y",
            "job a created",
        ] {
            assert_eq!(changed(line), None, "{line}");
        }
    }

    /// "It posts at most 16 tasks of a build, and then another one has its turn": however many tasks a build has,
    /// the next one waits for so many of them.
    #[test]
    fn a_large_build_holds_up_no_other() {
        let folder = std::env::temp_dir().join(format!("distcifs-shard-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        let queue = folder.join("tickets/q");
        fs::create_dir_all(&queue).unwrap();
        // What is written there is taken, and an answer comes.
        symlink("/dev/zero", queue.join(".post")).unwrap();
        let tree = Tree::new(&folder).unwrap();
        let mut shard = Shard {
            tree: tree.clone(),
            held: HashMap::new(),
            dirty: Turns::default(),
            again: BTreeSet::new(),
            leased: Again::default(),
        };
        let builds = [("large", 40), ("small", 1)].map(|(job, count)| {
            let record = tree.build(job, 1);
            fs::create_dir_all(&record).unwrap();
            let task = |index| json!({ "index": index, "type": "q", "state": "waiting" });
            let tasks: Vec<_> = (0..count).map(task).collect();
            let text = json!({ "job": job, "build": 1, "tasks": tasks }).to_string();
            fs::write(record.join("build.json"), text).unwrap();
            let (id, key) = (format!("{job}.1"), (job.to_owned(), 1));
            fs::create_dir_all(tree.ticket("build-control", &id)).unwrap();
            assert!(shard.take(Message::Claimed { id, key: key.clone() }));
            key
        });
        let mut posted = Vec::new();
        while !shard.dirty.is_empty() {
            shard.step().unwrap();
            posted.push(builds.each_ref().map(|key| shard.held[key].posted()));
        }
        assert_eq!(posted, [[16, 0], [16, 1], [32, 1], [40, 1]]);
        fs::remove_dir_all(&folder).unwrap();
    }
}
