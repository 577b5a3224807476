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

use crate::held::{Held, QUEUE, Step};
use crate::record::control_id;
use crate::signals;
use crate::ticket::UNTRUSTED;
use crate::tree::{self, Lines, Tree, Trouble};

/// Shards, threads: enough that commits of a few milliseconds each don't queue up behind one another.
const SHARDS: usize = 8;

/// Messages waiting for one shard; a full channel holds up the readers of the streams, and the tree
/// then says `resync`.
const QUEUE_LEN: usize = 1024;

/// How long until what failed for want of the store is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// How often every held build is looked at though nothing was heard of it: a net under lost events.
const RECHECK: Duration = Duration::from_secs(5);

/// Job and number of a build.
type Key = (String, u64);

/// What a shard is told.
#[derive(Debug)]
enum Message {
    /// A build-control ticket was claimed.
    Claimed { id: String, key: Key },
    /// Something of the build changed.
    Changed(Key),
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
        } else if let Some(key) = changed(&line)
            && let Some(to) = shard(shards, &key)
        {
            let _ = to.send(Message::Changed(key));
        }
    }
}

/// The build that an event is about, if there may be something to do: a task ended, an abort.
fn changed(line: &str) -> Option<Key> {
    let mut words = line.split_ascii_whitespace();
    let (kind, place, state) = (words.next()?, words.next()?, words.next()?);
    let mut parts = place.split('/');
    let (job, build) = (parts.next()?, parts.next()?.parse().ok()?);
    let ended = matches!(state, "success" | "failure" | "error" | "aborted" | "skipped");
    let matters = (kind == "task" && ended) || kind == "control";
    matters.then(|| (job.to_owned(), build))
}

fn spawn_shard(tree: Tree, rx: Receiver<Message>, end: SyncSender<End>) -> std::io::Result<JoinHandle<()>> {
    thread::Builder::new().spawn(move || {
        let mut shard = Shard {
            tree,
            held: HashMap::new(),
            dirty: BTreeSet::new(),
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
    dirty: BTreeSet<Key>,
}

impl Shard {
    fn run(&mut self, rx: &Receiver<Message>) -> tree::Result<()> {
        let mut rechecked = Instant::now();
        let mut again = BTreeSet::new();
        let mut retried = Instant::now();
        loop {
            match rx.recv_timeout(RETRY) {
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
                self.dirty.append(&mut again);
            }
            if rechecked.elapsed() >= RECHECK {
                rechecked = Instant::now();
                self.recheck();
            }
            self.work(&mut again)?;
        }
    }

    /// Notes what a message says; false is the end.
    fn take(&mut self, message: Message) -> bool {
        match message {
            Message::Claimed { id, key } => {
                let held = Held::new(&self.tree, &id, &key.0, key.1);
                self.held.insert(key.clone(), held);
                self.dirty.insert(key);
            }
            Message::Changed(key) => {
                if self.held.contains_key(&key) {
                    self.dirty.insert(key);
                }
            }
            Message::Resync => self.recheck(),
            Message::Stop => {
                self.held.values().for_each(Held::give_back);
                return false;
            }
        }
        true
    }

    fn recheck(&mut self) {
        self.held.values_mut().for_each(Held::distrust);
        self.dirty.extend(self.held.keys().cloned());
    }

    /// Looks at every dirty build; those that can't be looked at now are left in `again`.
    fn work(&mut self, again: &mut BTreeSet<Key>) -> tree::Result<()> {
        while let Some(key) = self.dirty.pop_first() {
            let Some(held) = self.held.get_mut(&key) else {
                continue;
            };
            match held.step(&self.tree)? {
                Step::Waiting => {}
                Step::Again => {
                    again.insert(key);
                }
                Step::Over => {
                    self.held.remove(&key);
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ends_and_controls_matter() {
        let key = |n| Some(("a.b".to_owned(), n));
        assert_eq!(changed("task a.b/12/0-execute-shell success"), key(12));
        assert_eq!(changed("task a.b/12/0-execute-shell error"), key(12));
        assert_eq!(changed("control a.b/3 abort"), key(3));
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
}
