//! What a process was told is removed, though it stays.
//!
//! `rm -r` of a job must not stop at what is generated in it, so unlink and rmdir of that succeed and change
//! nothing. Who unlinks a file to make it anew (GNU tar) finds it there again, and would do both for ever. So it
//! is told so once: the second time is EBUSY, until the process has tried to remove the folder, as `rm -r` does.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

use super::node::Node;
use super::process::process_of;
use super::{Caller, Error, Ino, Result, Tree};
use crate::repository::core::lock;

/// How long it is remembered that a process was told: it tries again at once, or has given up.
const TOLD: Duration = Duration::from_secs(2);

/// Most that is remembered at a time; the oldest is forgotten first.
const TOLD_MAX: usize = 4096;

/// Who was told what, the oldest first.
#[derive(Debug, Default)]
pub(crate) struct Told(Mutex<VecDeque<Entry>>);

#[derive(Debug)]
struct Entry {
    process: u32,
    folder: Ino,
    node: Ino,
    /// Of what is published several names may be one file.
    name: Box<str>,
    until: Instant,
}

impl Told {
    /// Remembers that a process is told; `false` if it was told before.
    fn tell(&self, process: u32, folder: Ino, node: Ino, name: &str) -> bool {
        let mut entries = lock(&self.0);
        let now = Instant::now();
        // All stay for as long, so those that are over stand in front.
        let over = entries.partition_point(|entry| entry.until <= now);
        entries.drain(..over);
        let same = |entry: &Entry| {
            (entry.process, entry.folder, entry.node) == (process, folder, node) && *entry.name == *name
        };
        if entries.iter().any(same) {
            return false;
        }
        if entries.len() >= TOLD_MAX {
            entries.pop_front();
        }
        let until = now + TOLD;
        entries.push_back(Entry {
            process,
            folder,
            node,
            name: name.into(),
            until,
        });
        true
    }

    /// Forgets what a process was told: of what is in this folder, or of all.
    fn forget(&self, process: u32, folder: Option<Ino>) {
        let of_it = |entry: &Entry| entry.process == process && folder.is_none_or(|folder| entry.folder == folder);
        lock(&self.0).retain(|entry| !of_it(entry));
    }

    fn is_empty(&self) -> bool {
        lock(&self.0).is_empty()
    }
}

impl Tree {
    /// Tells the caller that something generated is removed, which stays; `Busy` if it was told so just now.
    pub(crate) fn tell_removed(&self, caller: Caller, folder: &Node, node: &Node, name: &str) -> Result<()> {
        let Some(process) = process_of(caller.tid) else {
            return Ok(());
        };
        let (at, ino) = (self.numbers.ino(folder), self.numbers.ino(node));
        if self.told.tell(process, at, ino, name) {
            return Ok(());
        }
        Err(Error::Busy(format!(
            "{name} in {}: it is generated and stays for as long as its folder does, so nothing can be put in its \
             place; process {process} has removed it once already",
            folder.path()
        )))
    }

    /// A process has tried to remove this folder. If that was refused it may begin anew.
    pub(crate) fn tried_folder(&self, caller: Caller, folder: Ino, refused: bool) {
        if self.told.is_empty() {
            return;
        }
        if let Some(process) = process_of(caller.tid) {
            self.told.forget(process, Some(folder).filter(|_| !refused));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// "the same process that tries again within two seconds gets EBUSY, until it has tried to remove the folder".
    #[tokio::test(start_paused = true)]
    async fn a_process_is_told_once_until_it_tries_the_folder() {
        let told = Told::default();
        let (job, builds, trigger, latest) = (Ino(1), Ino(2), Ino(3), Ino(4));
        assert!(told.tell(7, job, trigger, "trigger"));
        assert!(!told.tell(7, job, trigger, "trigger"));
        assert!(told.tell(8, job, trigger, "trigger"), "another process");
        assert!(told.tell(7, builds, latest, "latest"));
        assert!(told.tell(7, job, trigger, "link"), "another name of the same file");
        told.forget(7, Some(job));
        assert!(told.tell(7, job, trigger, "trigger"), "rm -r by the same process again");
        assert!(!told.tell(7, builds, latest, "latest"), "what is in another folder");
        told.forget(7, None);
        assert!(told.tell(7, builds, latest, "latest"));
        assert!(!told.tell(8, job, trigger, "trigger"), "what another process was told");
        tokio::time::advance(TOLD).await;
        assert!(told.tell(8, job, trigger, "trigger"), "it is forgotten");
        assert_eq!(lock(&told.0).len(), 1);
    }

    /// What is remembered is bounded, however much is removed.
    #[tokio::test(start_paused = true)]
    async fn what_is_remembered_is_bounded() {
        let told = Told::default();
        for file in 0..=TOLD_MAX as u64 {
            assert!(told.tell(7, Ino(1), Ino(10 + file), "f"));
        }
        assert_eq!(lock(&told.0).len(), TOLD_MAX);
        assert!(
            !told.tell(7, Ino(1), Ino(10 + TOLD_MAX as u64), "f"),
            "the newest is known"
        );
        assert!(told.tell(7, Ino(1), Ino(10), "f"), "the oldest is not");
    }
}
