//! The life of one claim's folders.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use super::super::Ino;
use super::hidden::Unasked;
use super::locks::{Lock, Taken, may_stand};
use super::quota::Quota;
use crate::repository::attempts::view::Changes;
use crate::repository::{Error, Result};

/// Ids from 0 that a claim's folders can show in another place: as many as a container has.
const SHIFTED_IDS: u32 = 1 << 16;

/// The one among them that stands for those beyond: nobody.
const SHIFTED_NOBODY: u32 = SHIFTED_IDS - 2;

/// How long the end of an attempt waits for path operations that may stand, and a step of that: one that does not
/// stand takes some microseconds.
const END_WAIT: Duration = Duration::from_millis(250);
const END_STEP: Duration = Duration::from_millis(1);

/// Files opened for writing that one claim remembers, 24 bytes each: past that all count as changed when the
/// result is stored.
const WRITTEN_MAX: usize = 1 << 18;

/// Whom a claim's files are shown as belonging to. What stands on the disk, and in the result, knows
/// nothing of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Shift {
    /// As it stands on the disk.
    #[default]
    None,
    /// Id 0 as `uid` or `gid`, 1 as the next one, and so on: for an isolation with ids of its own.
    Range {
        /// What user 0 is shown as.
        uid: u32,
        /// What group 0 is shown as.
        gid: u32,
    },
    /// All as one user's, whoever made it; what that user makes stands as of 0.
    All {
        /// The user.
        uid: u32,
        /// The user's group.
        gid: u32,
    },
}

impl Shift {
    /// User and group that the folders were handed to.
    pub fn handed_to(self) -> Option<(u32, u32)> {
        match self {
            Shift::None => None,
            Shift::Range { uid, gid } | Shift::All { uid, gid } => Some((uid, gid)),
        }
    }

    /// The user, and its group, who does the work with the rights of the job's owner: not the ids of an isolation.
    pub fn user(self) -> Option<(u32, u32)> {
        match self {
            Shift::None | Shift::Range { .. } => None,
            Shift::All { uid, gid } => Some((uid, gid)),
        }
    }

    /// How a user and a group of the disk are shown.
    pub(super) fn shown(self, user: u32, group: u32) -> (u32, u32) {
        let place = |first: u32, id| first.saturating_add(if id < SHIFTED_IDS { id } else { SHIFTED_NOBODY });
        match self {
            Shift::None => (user, group),
            Shift::Range { uid, gid } => (
                if uid == 0 { user } else { place(uid, user) },
                if gid == 0 { group } else { place(gid, group) },
            ),
            Shift::All { uid, gid } => (uid, gid),
        }
    }

    /// The user of the disk for one that is shown; one from elsewhere stays what it is.
    pub(super) fn kept_user(self, id: u32) -> u32 {
        match self {
            Shift::None => id,
            Shift::Range { uid, .. } => kept(uid, id),
            Shift::All { .. } => 0,
        }
    }

    /// The same for a group.
    pub(super) fn kept_group(self, id: u32) -> u32 {
        match self {
            Shift::None => id,
            Shift::Range { gid, .. } => kept(gid, id),
            Shift::All { .. } => 0,
        }
    }
}

/// The id of the disk for one of a range that begins with `first`.
fn kept(first: u32, id: u32) -> u32 {
    match id.checked_sub(first) {
        Some(kept) if first != 0 && kept < SHIFTED_IDS => kept,
        _ => id,
    }
}

/// One claim's folders: they live and end together.
#[derive(Debug)]
pub struct Attempt {
    /// Distinguishes attempts of this mount.
    pub(super) id: u64,
    /// Whether it goes on. Path operations hold this for reading; ending it waits for them.
    alive: RwLock<bool>,
    /// The same for whoever may hold that.
    over: AtomicBool,
    open: AtomicUsize,
    /// Changes of names and attributes, and files opened for writing or closed after that.
    changes: AtomicU64,
    /// Device and number of each file that was opened for writing; `None` past [`WRITTEN_MAX`].
    written: Mutex<Option<HashSet<(u64, u64)>>>,
    roots: Mutex<Vec<Ino>>,
    /// Bytes written that the kernel asked for.
    bytes: AtomicU64,
    /// Names move only while this is held alone.
    still: RwLock<()>,
    shift: RwLock<Shift>,
    /// How deep folders nest that were made or moved.
    deepest: AtomicUsize,
    /// What its folders may take of the disk, if that is bounded.
    quota: OnceLock<Quota>,
    /// With whose rights the work is done.
    owner: AtomicU32,
    /// What it has removed of files that the kernel got to write.
    pub(super) unasked: Unasked,
    /// Taken by what walks through its folders, and by path operations that may stand.
    pub(super) walks: Lock,
    /// Whose it is, for the log.
    name: OnceLock<String>,
}

/// Held while a path operation is under way.
#[derive(Debug)]
pub(super) enum Gate<'a> {
    /// The end of the attempt waits for it.
    Here(#[expect(dead_code, reason = "it is held")] RwLockReadGuard<'a, bool>),
    /// It may stand, so the end waits for a moment.
    Apart(#[expect(dead_code, reason = "it is held")] Taken<'a>),
}

impl Attempt {
    /// A living attempt without folders.
    pub(super) fn new(id: u64) -> Attempt {
        Attempt {
            id,
            alive: RwLock::new(true),
            over: AtomicBool::new(false),
            open: AtomicUsize::new(0),
            changes: AtomicU64::new(0),
            written: Mutex::new(Some(HashSet::new())),
            roots: Mutex::default(),
            bytes: AtomicU64::new(0),
            still: RwLock::default(),
            shift: RwLock::default(),
            deepest: AtomicUsize::new(0),
            quota: OnceLock::new(),
            owner: AtomicU32::new(0),
            unasked: Unasked::default(),
            walks: Lock::default(),
            name: OnceLock::new(),
        }
    }

    /// Its number.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// How deep folders nest at most that were made or moved here.
    pub(super) fn deepest(&self) -> usize {
        self.deepest.load(Ordering::Relaxed)
    }

    /// A folder is made or moved that deep.
    pub(super) fn reaches(&self, depth: usize) {
        self.deepest.fetch_max(depth, Ordering::Relaxed);
    }

    /// Bounds what its folders take, once.
    pub(super) fn bound(&self, quota: Quota) {
        let _bounded = self.quota.set(quota);
    }

    /// What its folders may take, if that is bounded.
    pub(super) fn quota(&self) -> Option<&Quota> {
        self.quota.get()
    }

    /// What is to be said with a result that is no success: its folders were full.
    pub fn note(&self) -> Option<String> {
        self.quota()?.note()
    }

    /// With whose rights the work is done.
    pub(crate) fn owner(&self) -> u32 {
        self.owner.load(Ordering::Relaxed)
    }

    /// Says so.
    pub(crate) fn set_owner(&self, uid: u32) {
        self.owner.store(uid, Ordering::Relaxed);
    }

    /// Whose it is, for the log: a ticket, and its job.
    pub(crate) fn set_name(&self, name: String) {
        let _once = self.name.set(name);
    }

    /// The same.
    pub(super) fn name(&self) -> String {
        let unnamed = || format!("attempt {}", self.id);
        self.name.get().cloned().unwrap_or_else(unnamed)
    }

    /// Whether path operations that may stand are under way.
    pub(crate) fn is_held_up(&self) -> bool {
        self.walks.is_marked()
    }

    /// Bytes written before, so many more being written now.
    pub(super) fn writes(&self, bytes: u64) -> u64 {
        self.bytes.fetch_add(bytes, Ordering::Relaxed)
    }

    /// Where its owners are shown.
    pub fn shift(&self) -> Shift {
        *self.shift.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows its owners elsewhere from now on; the kernel is to be told.
    pub fn set_shift(&self, shift: Shift) {
        *self.shift.write().unwrap_or_else(PoisonError::into_inner) = shift;
    }

    /// Whether it has not been killed.
    pub fn is_alive(&self) -> bool {
        *self.alive.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Files that are open, for anything; each open counts until its release.
    pub fn open_files(&self) -> usize {
        self.open.load(Ordering::Acquire)
    }

    /// The inodes of its folders, in the order in which they were attached.
    pub fn roots(&self) -> Vec<Ino> {
        self.roots.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Begins a path operation; `Stale` once the attempt is over. Never to be taken twice by one
    /// operation: a thread that waits to end the attempt stands between.
    pub(super) fn enter(&self) -> Result<Gate<'_>> {
        let gate = self.alive.read().unwrap_or_else(PoisonError::into_inner);
        match (*gate, may_stand()) {
            (true, false) => Ok(Gate::Here(gate)),
            (true, true) => {
                let taken = self.walks.mark();
                drop(gate);
                self.walks.wait_for_others();
                Ok(Gate::Apart(taken))
            }
            (false, _) => Err(self.stale()),
        }
    }

    /// Ends it, after the path operations under way; those that stand are left behind, and lead nowhere.
    pub(super) fn end(&self) {
        *self.alive.write().unwrap_or_else(PoisonError::into_inner) = false;
        self.over.store(true, Ordering::Release);
        let begun = Instant::now();
        while self.walks.is_marked() && begun.elapsed() < END_WAIT {
            std::thread::sleep(END_STEP);
        }
    }

    /// Whether it has ended; may be asked within its gate.
    pub(super) fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    /// The error of all path operations after the end.
    pub(super) fn stale(&self) -> Error {
        Error::Stale(format!("folder of attempt {} of this mount: gone", self.id))
    }

    /// Remembers a folder of it.
    pub(super) fn add_root(&self, ino: Ino) {
        let mut roots = self.roots.lock().unwrap_or_else(PoisonError::into_inner);
        if !roots.contains(&ino) {
            roots.push(ino);
        }
    }

    /// Begins a path operation that changes something.
    pub(super) fn enter_to_change(&self) -> Result<Gate<'_>> {
        let gate = self.enter()?;
        self.changed();
        Ok(gate)
    }

    /// While this is held no name of it moves.
    pub(super) fn stand_still(&self) -> RwLockReadGuard<'_, ()> {
        self.still.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// While this is held names of it move, and nobody follows them.
    pub(super) fn move_names(&self) -> RwLockWriteGuard<'_, ()> {
        self.still.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something was changed, or may be from now on.
    fn changed(&self) {
        self.changes.fetch_add(1, Ordering::AcqRel);
    }

    /// How much was changed so far.
    pub fn change_count(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// What was done so far.
    pub fn changes(&self) -> Changes {
        Changes {
            count: self.change_count(),
            written: self.written.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }

    /// A file, of this device and number, was opened.
    pub(super) fn opened(&self, file: (u64, u64), writable: bool) {
        self.open.fetch_add(1, Ordering::AcqRel);
        if writable {
            self.changed();
            let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(files) = written.as_mut() {
                files.insert(file);
                if files.len() > WRITTEN_MAX {
                    *written = None;
                }
            }
        }
    }

    /// A file was closed.
    pub(super) fn closed(&self, writable: bool) {
        if writable {
            self.changed();
        }
        self.open.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_of_written_files_is_bounded() {
        let attempt = Attempt::new(1);
        for file in 0..WRITTEN_MAX as u64 {
            attempt.opened((1, file), true);
            attempt.opened((1, file), true);
        }
        let written = attempt.changes().written.unwrap();
        assert!(written.len() == WRITTEN_MAX && written.contains(&(1, 7)));
        attempt.opened((2, 0), true);
        assert!(attempt.changes().written.is_none());
        attempt.opened((1, 7), true);
        assert!(attempt.changes().written.is_none());
    }
}
