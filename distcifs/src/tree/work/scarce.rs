//! A disk that runs full of files which the kernel writes without asking.
//!
//! Nothing takes such a file back from the kernel, and who has it open goes on writing it after his claim
//! is over. So the claim that grew most ends, and its files are cut, as often as it takes.

use std::collections::HashMap;
use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};

use nix::fcntl::OFlag;
use nix::sys::stat::{FileStat, fstat};
use nix::unistd::ftruncate;

use super::Work;
use super::attempt::Attempt;
use super::inodes::Inode;
use super::quota::blocks;
use crate::repository::reserve::Stand;

/// What a claim must have grown by to be the one that filled the disk, bytes.
const GROWN_BYTES: u64 = 1 << 20;

/// Most files of it that are cut when it ends; those that are open are cut later, too.
const CUT_MAX: usize = 64;

/// What a file had when the kernel got it to write, bytes, and one more; 0 while it has not.
#[derive(Debug, Default)]
pub struct Passed(AtomicU64);

impl Passed {
    /// The kernel writes this file from now on.
    pub fn mark(&self, file: &File) {
        if let Ok(stat) = fstat(file) {
            let first = blocks(&stat) + 1;
            let _known = self.0.compare_exchange(0, first, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// By how much a file has grown since.
    fn grown(&self, stat: &FileStat) -> u64 {
        match self.0.load(Ordering::Relaxed) {
            0 => 0,
            first => blocks(stat).saturating_sub(first - 1),
        }
    }

    pub(super) fn is_marked(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
    }
}

/// The claim whose files fill the disk.
#[derive(Debug)]
pub struct Filler {
    /// Its folders.
    pub attempt: Arc<Attempt>,
    /// By how much those files have grown, bytes.
    pub grown: u64,
    files: Vec<File>,
}

impl Filler {
    /// Gives the room of its files back, once its folders are over.
    pub fn cut(&self) {
        if !self.attempt.is_alive() {
            self.files.iter().for_each(cut);
        }
    }
}

/// What has grown of one claim's files, in all and each.
#[derive(Default)]
struct Grown {
    bytes: u64,
    files: Vec<(u64, Arc<Inode>)>,
}

fn cut(file: &File) {
    if let Err(error) = ftruncate(file, 0) {
        tracing::warn!(%error, "a file that fills the disk can't be cut");
    }
}

impl Work {
    /// How the disk of the folders stands, and the claim that is to end. To be called where waiting for a
    /// disk is no harm.
    pub fn look_at_room(&self, place: &Path) -> (Stand, Option<Filler>) {
        let Ok(disk) = File::open(place) else {
            return (Stand::Plenty, None);
        };
        let stand = self.room.stand(&disk);
        if stand != Stand::Scarce {
            return (stand, None);
        }
        let was_cut = self.cut_files_of_the_dead();
        if was_cut && self.room.stand(&disk) != Stand::Scarce {
            return (Stand::Near, None);
        }
        let filler = self.filler();
        // With nobody to be ended there is no hurry.
        let stand = if was_cut || filler.is_some() {
            Stand::Near
        } else {
            stand
        };
        (stand, filler)
    }

    /// Cuts what claims that are over still have open; whether there was something.
    fn cut_files_of_the_dead(&self) -> bool {
        let files: Vec<_> = {
            let files = self.files.read().unwrap_or_else(PoisonError::into_inner);
            let dead = files.values().filter(|open| {
                let inode = &open.inode;
                open.writable && inode.passed.is_marked() && !inode.attempt.is_alive()
            });
            dead.map(|open| open.file.clone()).collect()
        };
        let full = files
            .iter()
            .filter(|file| fstat(file).is_ok_and(|stat| stat.st_blocks > 0));
        full.map(|file| cut(file)).count() > 0
    }

    /// The living claim that has grown most.
    fn filler(&self) -> Option<Filler> {
        let passed = self
            .table()
            .all(|inode| inode.passed.is_marked() && inode.attempt.is_alive());
        let mut claims: HashMap<u64, Grown> = HashMap::new();
        for inode in passed {
            let Some(stat) = self.path(&inode).ok().and_then(|fd| fstat(&fd).ok()) else {
                continue;
            };
            let grown = inode.passed.grown(&stat);
            let claim = claims.entry(inode.attempt.id).or_default();
            claim.bytes += grown;
            if grown > 0 {
                claim.files.push((grown, inode));
            }
        }
        let Grown {
            bytes: grown,
            mut files,
        } = claims.into_values().max_by_key(|claim| claim.bytes)?;
        if grown < GROWN_BYTES {
            return None;
        }
        let attempt = files.first()?.1.attempt.clone();
        files.sort_by_key(|file| std::cmp::Reverse(file.0));
        files.truncate(CUT_MAX);
        let open = |inode: &Arc<Inode>| self.reopen(&*self.path(inode).ok()?, OFlag::O_RDWR).ok();
        let files = files.iter().filter_map(|(_, inode)| open(inode)).collect();
        Some(Filler { attempt, grown, files })
    }
}
