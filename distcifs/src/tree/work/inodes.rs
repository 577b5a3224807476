//! The inodes that the kernel remembers.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use nix::fcntl::OFlag;
use nix::sys::stat::FileStat;

use super::super::{Ino, Kind};
use super::attempt::Attempt;
use super::attributes::kind_of;
use super::growth::Growth;
use super::quota::Counted;
use super::scarce::Passed;
use super::way::Names;
use crate::repository::{Error, Result};

/// What identifies a local file within an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    attempt: u64,
    dev: u64,
    number: u64,
}

/// A node of an attempt.
#[derive(Debug)]
pub(super) struct Inode {
    pub(super) ino: Ino,
    pub(super) kind: Kind,
    pub(super) attempt: Arc<Attempt>,
    /// The local device.
    pub(super) dev: u64,
    /// The number on that device.
    number: u64,
    /// How it is reached.
    pub(super) way: Mutex<Way>,
    /// Whether its descriptor was used since somebody asked.
    used: AtomicBool,
    /// The file that all opens share while one lasts.
    pub(super) backing: Mutex<Backing>,
    /// What counts of it of its attempt's `limits.disk`.
    pub(super) counted: Mutex<Counted>,
    /// Whether the kernel has got it to write.
    pub(super) passed: Arc<Passed>,
}

/// How an inode is reached.
#[derive(Debug, Default)]
pub(super) struct Way {
    /// Names it, opened with `O_PATH`; kept for a while.
    pub(super) fd: Option<Arc<File>>,
    /// Where it is found without.
    pub(super) names: Names,
    /// Nothing but the descriptor leads to it.
    pub(super) alone: bool,
    /// The attempt is over, and nothing leads to it.
    pub(super) over: bool,
    /// What it was, once it is gone.
    pub(super) last: Option<Box<FileStat>>,
}

/// The shared open file of an inode.
#[derive(Debug, Default)]
pub(super) struct Backing {
    pub(super) file: Weak<File>,
    pub(super) readable: bool,
    pub(super) writable: bool,
}

impl Backing {
    /// Makes later opens share this file.
    pub(super) fn share(&mut self, file: &Arc<File>, access: OFlag) -> Arc<File> {
        self.file = Arc::downgrade(file);
        self.readable = access != OFlag::O_WRONLY;
        self.writable = access != OFlag::O_RDONLY;
        file.clone()
    }
}

impl Inode {
    /// Whether somebody has it open.
    pub(super) fn is_open(&self) -> bool {
        let backing = self.backing.lock().unwrap_or_else(PoisonError::into_inner);
        backing.file.strong_count() > 0
    }

    /// Notes that its descriptor is of use.
    pub(super) fn use_it(&self) {
        self.used.store(true, Ordering::Relaxed);
    }

    /// Whether it was since this was asked before.
    pub(super) fn was_used(&self) -> bool {
        self.used.swap(false, Ordering::Relaxed)
    }

    /// Whether it is a folder of the attempt itself.
    pub(super) fn is_root(&self) -> bool {
        self.attempt.roots().contains(&self.ino)
    }

    /// Its local device and number.
    pub(super) fn place(&self) -> (u64, u64) {
        (self.dev, self.number)
    }

    /// For messages.
    pub(super) fn what(&self) -> String {
        format!("inode {} of attempt {}", self.ino.0, self.attempt.id)
    }

    fn key(&self) -> Key {
        Key {
            attempt: self.attempt.id,
            dev: self.dev,
            number: self.number,
        }
    }
}

/// An inode with what the kernel holds of it.
#[derive(Debug)]
struct Entry {
    inode: Arc<Inode>,
    lookups: u64,
    /// Kept although the kernel may not know it: a root of a living attempt.
    pinned: bool,
}

/// All inodes. The number of entries is bounded by what the kernel caches.
#[derive(Debug)]
pub(super) struct Table {
    next: u64,
    entries: HashMap<Ino, Entry>,
    /// Of living attempts only: the number of a discarded file may come again.
    keys: HashMap<Key, Ino>,
    /// Those that the kernel has forgotten while something was done with them here.
    left: HashSet<Ino>,
    growth: Arc<Growth>,
}

impl Table {
    /// Empty, numbering from `first`.
    pub(super) fn new(first: u64, growth: Arc<Growth>) -> Table {
        Table {
            growth,
            next: first,
            entries: HashMap::new(),
            keys: HashMap::new(),
            left: HashSet::new(),
        }
    }

    /// The inode of that number.
    pub(super) fn get(&self, ino: Ino) -> Option<Arc<Inode>> {
        self.entries.get(&ino).map(|entry| entry.inode.clone())
    }

    /// The number of a local file that is known already.
    pub(super) fn known(&self, attempt: &Attempt, dev: u64, number: u64) -> Option<Ino> {
        self.keys
            .get(&Key {
                attempt: attempt.id,
                dev,
                number,
            })
            .copied()
    }

    /// The inode of a local file, new or known; counts a lookup.
    pub(super) fn look_up(&mut self, attempt: &Arc<Attempt>, stat: &FileStat) -> Arc<Inode> {
        let entry = self.entry(attempt, stat);
        entry.lookups = entry.lookups.saturating_add(1);
        entry.inode.clone()
    }

    /// The same for a root, with the path that leads to it: it stays until the attempt ends.
    pub(super) fn pin(&mut self, attempt: &Arc<Attempt>, path: PathBuf, stat: &FileStat) -> Arc<Inode> {
        let entry = self.entry(attempt, stat);
        entry.pinned = true;
        entry.inode.change_names(|names| *names = Names::Root(path));
        entry.inode.clone()
    }

    fn entry(&mut self, attempt: &Arc<Attempt>, stat: &FileStat) -> &mut Entry {
        let key = Key {
            attempt: attempt.id,
            dev: stat.st_dev,
            number: stat.st_ino,
        };
        let kind = kind_of(stat.st_mode);
        let entries = &self.entries;
        let known = self.keys.get(&key).copied();
        let ino = known.filter(|ino| entries.get(ino).is_some_and(|entry| entry.inode.kind == kind));
        let ino = ino.unwrap_or_else(|| {
            self.next += 1;
            Ino(self.next - 1)
        });
        self.keys.insert(key, ino);
        let passed = &self.growth;
        let new = || Entry {
            inode: Arc::new(Inode {
                ino,
                kind,
                attempt: attempt.clone(),
                dev: key.dev,
                number: key.number,
                way: Mutex::default(),
                used: AtomicBool::new(false),
                backing: Mutex::default(),
                counted: Mutex::default(),
                passed: Arc::new(Passed::new(attempt, passed)),
            }),
            lookups: 0,
            pinned: false,
        };
        self.entries.entry(ino).or_insert_with(new)
    }

    /// Forgets which file an inode is of, before the system may give its number to another.
    pub(super) fn unkey(&mut self, inode: &Inode) {
        let key = inode.key();
        if self.keys.get(&key) == Some(&inode.ino) {
            self.keys.remove(&key);
        }
    }

    /// Takes that back.
    pub(super) fn rekey(&mut self, inode: &Inode) {
        if self.entries.contains_key(&inode.ino) {
            self.keys.entry(inode.key()).or_insert(inode.ino);
        }
    }

    /// Counts one more lookup, unless it was forgotten meanwhile.
    pub(super) fn count(&mut self, inode: &Inode) {
        if let Some(entry) = self.entries.get_mut(&inode.ino) {
            entry.lookups = entry.lookups.saturating_add(1);
        }
    }

    /// Takes lookups away; the inode if that was the end of it, to be dropped without the lock. One that something is
    /// done with stays until [`Table::forget_left`]: a call that was given up may stand with the lock of what is below,
    /// and whoever finds the same file again has to know of that.
    pub(super) fn forget(&mut self, ino: Ino, count: u64) -> Option<Arc<Inode>> {
        self.left.remove(&ino);
        let entry = self.entries.get_mut(&ino)?;
        entry.lookups = entry.lookups.saturating_sub(count);
        if entry.lookups > 0 || entry.pinned {
            return None;
        }
        if is_used(entry) {
            self.left.insert(ino);
            return None;
        }
        let entry = self.entries.remove(&ino)?;
        self.unkey(&entry.inode);
        Some(entry.inode)
    }

    /// Whether the kernel has forgotten some that are still here though nothing is done with them any more. It is asked
    /// before the table is taken to change it: while one call stands, others end all the time.
    pub(super) fn has_left(&self) -> bool {
        let is_free = |ino| self.entries.get(ino).is_none_or(|entry| !is_used(entry));
        self.left.iter().any(is_free)
    }

    /// Forgets those of them with which nothing is done any more; they are to be dropped without the lock.
    pub(super) fn forget_left(&mut self) -> Vec<Arc<Inode>> {
        let left = std::mem::take(&mut self.left);
        left.into_iter().filter_map(|ino| self.forget(ino, 0)).collect()
    }

    /// Parts the inodes of an attempt from its files; they stay by number until forgotten.
    /// Returns them with their descriptors, to be dropped without the lock.
    pub(super) fn detach(&mut self, attempt: &Attempt) -> Vec<(Ino, Option<Arc<File>>)> {
        self.keys.retain(|key, _| key.attempt != attempt.id);
        let mut known = Vec::new();
        self.entries.retain(|_, entry| {
            if entry.inode.attempt.id != attempt.id {
                return true;
            }
            entry.pinned = false;
            known.push((entry.inode.ino, entry.inode.end()));
            entry.lookups > 0
        });
        known
    }

    /// All of which this is so.
    pub(super) fn all(&self, is_so: impl Fn(&Inode) -> bool) -> Vec<Arc<Inode>> {
        let inodes = self.entries.values().map(|entry| &entry.inode);
        inodes.filter(|inode| is_so(inode)).cloned().collect()
    }

    /// All of an attempt.
    pub(super) fn of(&self, attempt: &Attempt) -> Vec<Ino> {
        let of_it = |entry: &&Entry| entry.inode.attempt.id == attempt.id;
        self.entries
            .values()
            .filter(of_it)
            .map(|entry| entry.inode.ino)
            .collect()
    }
}

/// Whether something is done with an inode: whoever makes a call with it has it, from before he takes its lock until he
/// has given that back.
fn is_used(entry: &Entry) -> bool {
    Arc::strong_count(&entry.inode) > 1
}

/// Refuses a node of the wrong kind.
pub(super) fn expect_kind(inode: &Inode, kind: Kind) -> Result<()> {
    if inode.kind == kind {
        return Ok(());
    }
    Err(match (kind, inode.kind) {
        (Kind::Directory, _) => Error::NotDirectory(inode.what()),
        (_, Kind::Directory) => Error::IsDirectory(inode.what()),
        (_, Kind::Symlink) => Error::System {
            what: inode.what(),
            errno: libc::ELOOP,
        },
        _ => Error::System {
            what: inode.what(),
            errno: libc::EINVAL,
        },
    })
}
