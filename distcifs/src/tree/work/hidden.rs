//! Files that somebody may go on writing though nothing leads to them any more: they were mapped and closed, and
//! have lost their last name, or the kernel has forgotten them.
//!
//! The kernel maps a passed-through file by itself, and lets the file that was opened go. So what is left of it
//! is a mapping of which nobody tells; a lease does, and the descriptor that is kept here.

use std::fs::File;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use nix::fcntl::OFlag;
use nix::sys::stat::{FileStat, fstat};

use super::Work;
use super::attempt::Attempt;
use super::inodes::Inode;
use super::quota::blocks;
use super::scarce::{Passed, cut};
use crate::repository::{descriptors, snapshot};

/// Most of one claim, and of all together one in so many of the descriptors that are kept to save time. What
/// is more is cut at once.
const HIDDEN_MAX: usize = 64;
const ALL_SHARE: usize = 4;

/// What one claim may remove of such files before it is asked whether they are mapped, bytes: most files that
/// are removed are small, and asking takes longer than removing.
const UNASKED_BYTES: u64 = 16 << 20;

/// What counts of a file besides its bytes.
const FILE_BYTES: u64 = 4096;

/// One such file.
#[derive(Debug)]
struct One {
    attempt: Arc<Attempt>,
    passed: Arc<Passed>,
    /// Names it.
    file: Arc<File>,
    /// Whether it has a name, so that it may be in a folder in which another task goes on.
    named: bool,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Hidden(Mutex<Vec<One>>);

/// What a claim has removed without being asked for.
#[derive(Debug, Default)]
pub(super) struct Unasked(AtomicU64);

impl Unasked {
    /// Whether a file is to be asked for that is removed.
    fn asks(&self, stat: &FileStat) -> bool {
        let size = u64::try_from(stat.st_size).unwrap_or(0).max(blocks(stat));
        let bytes = size.saturating_add(FILE_BYTES);
        let before = self.0.fetch_add(bytes.min(UNASKED_BYTES), Ordering::Relaxed);
        size > 0 && before.saturating_add(bytes) > UNASKED_BYTES
    }
}

impl Work {
    /// A file that the kernel got to write has no name any more, and nobody has it open.
    pub(super) fn hide(&self, inode: &Inode, file: &Arc<File>) {
        if !inode.passed.is_marked() {
            return;
        }
        let asks = fstat(file).is_ok_and(|stat| inode.attempt.unasked.asks(&stat));
        if !asks || !self.is_written(file) {
            inode.passed.note(0);
            return;
        }
        if !self.has_place_for(&inode.attempt) {
            self.look_again(false);
            // A file that was just closed looks for a moment as if it were open.
            if !self.is_written(file) {
                inode.passed.note(0);
                return;
            }
        }
        if self.has_place_for(&inode.attempt) {
            self.all_hidden().push(One {
                attempt: inode.attempt.clone(),
                passed: inode.passed.clone(),
                file: file.clone(),
                named: false,
            });
        } else {
            inode.passed.note(0);
            self.cut_hidden(file);
        }
    }

    /// The kernel has forgotten a file that it got to write, and that has its name still: no mapping keeps it known.
    pub(super) fn forgotten(&self, inode: &Arc<Inode>) {
        if !inode.passed.is_marked() || inode.is_open() {
            return;
        }
        let Ok(_gate) = inode.attempt.enter() else { return };
        let Ok(file) = self.path(inode) else { return };
        let asks = fstat(&file).is_ok_and(|stat| inode.attempt.unasked.asks(&stat));
        if asks && self.is_written(&file) && self.has_place_for(&inode.attempt) {
            self.all_hidden().push(One {
                attempt: inode.attempt.clone(),
                passed: inode.passed.clone(),
                file,
                named: true,
            });
        }
    }

    /// Those of a claim that have a name, to be cut if it is lost.
    pub(super) fn named_hidden_of(&self, attempt: &Attempt) -> Vec<File> {
        let hidden = self.all_hidden();
        let of_it = hidden.iter().filter(|one| one.named && one.attempt.id == attempt.id);
        let files: Vec<_> = of_it.map(|one| one.file.clone()).collect();
        drop(hidden);
        let open = |file: &Arc<File>| self.reopen(file, OFlag::O_RDWR).ok();
        files.iter().filter_map(open).collect()
    }

    /// Looks which of them are still written: sees what those have, and cuts those of claims that are over. To be
    /// called where waiting for a disk is no harm.
    pub(super) fn look_at_hidden(&self) {
        self.look_again(true);
    }

    fn look_again(&self, cuts: bool) {
        let taken = std::mem::take(&mut *self.all_hidden());
        let (over, mut kept): (Vec<_>, Vec<_>) = taken.into_iter().partition(|one| cuts && one.attempt.is_over());
        kept.retain(|one| match fstat(&one.file) {
            Ok(stat) if self.is_written(&one.file) => {
                one.passed.look(&stat);
                true
            }
            _ => {
                if !one.named {
                    one.passed.note(0);
                }
                false
            }
        });
        self.all_hidden().append(&mut kept);
        let nameless = over.iter().filter(|one| !one.named);
        nameless.for_each(|one| self.cut_hidden(&one.file));
    }

    fn has_place_for(&self, attempt: &Attempt) -> bool {
        let hidden = self.all_hidden();
        let of_it = hidden.iter().filter(|one| one.attempt.id == attempt.id).count();
        let all = (descriptors::for_caches() / ALL_SHARE).max(HIDDEN_MAX);
        of_it < HIDDEN_MAX && hidden.len() < all
    }

    /// Whether somebody may go on writing a file. Of a disk that does not tell, nobody.
    fn is_written(&self, file: &File) -> bool {
        let reader = self.reopen(file, OFlag::O_RDONLY);
        reader.is_ok_and(|reader| snapshot::is_written(&reader))
    }

    fn cut_hidden(&self, file: &File) {
        if let Ok(file) = self.reopen(file, OFlag::O_RDWR) {
            cut(&file);
        }
    }

    fn all_hidden(&self) -> std::sync::MutexGuard<'_, Vec<One>> {
        self.hidden.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many there are.
    #[cfg(test)]
    pub(super) fn hidden_count(&self) -> usize {
        self.all_hidden().len()
    }
}
