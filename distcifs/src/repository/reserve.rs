//! Room on the disk: what claimants write, and what is laid out for them, stops before nothing is left for anybody else.
//!
//! The disk is looked at seldom: after a share of what was free the last time has been written.

use std::os::fd::AsFd;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::statvfs::fstatvfs;

/// What claimants leave on the disk, bytes, or a quarter of it if that is less: results, jobs, triggers and
/// the files of small tasks go on in it.
const RESERVE_BYTES: u64 = 64 << 20;
const RESERVE_SHARE: u64 = 4;

/// What a claim may write when only the reserve is left, bytes: then down to half of that.
const SMALL_BYTES: u64 = 1 << 20;

/// Inodes that claimants leave, or an eighth of the disk's if that is less: each result makes some.
const RESERVE_INODES: u64 = 16 << 10;
const RESERVE_INODES_SHARE: u64 = 8;

/// Most inodes that are made between two looks at the disk.
const UNSEEN_INODES: u64 = 4096;

/// What a new name counts, bytes: a folder or a long link takes a block.
pub(crate) const NAME_BYTES: u64 = 4096;

/// Most that is written between two looks at the disk, bytes, and the share of what is free.
const UNSEEN_BYTES: u64 = 16 << 20;
const UNSEEN_SHARE: u64 = 16;

/// Free bytes from which on the kernel may write files without asking: it asks nobody for room either.
const PASS_BYTES: u64 = 2 << 30;

/// The share of that at which who has filled the disk by such files is to end, one in so many.
const SCARCE_SHARE: u64 = 4;

/// How often that much is to be free for a look now and then to be enough.
const PLENTY_TIMES: u64 = 2;

/// How long that is believed.
const PASS_TTL: Duration = Duration::from_millis(200);

/// What is known of the disk.
#[derive(Debug)]
pub(crate) struct Reserve {
    /// Bytes that may be written before the disk is looked at again.
    unseen: AtomicU64,
    /// Inodes that may be made before.
    unseen_inodes: AtomicU64,
    /// The truth is the disk, which is looked at again when this is old.
    passes: Mutex<Option<(Instant, bool)>>,
    /// Free bytes from which on the kernel may write without asking.
    pass_from: AtomicU64,
    /// Whether it has got files to write so.
    passing: AtomicBool,
}

impl Default for Reserve {
    fn default() -> Self {
        Reserve {
            unseen: AtomicU64::default(),
            unseen_inodes: AtomicU64::default(),
            passes: Mutex::default(),
            pass_from: AtomicU64::new(PASS_BYTES),
            passing: AtomicBool::new(false),
        }
    }
}

/// The level of free space, against what the kernel may do without asking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Far more than it can write in a moment.
    Plenty,
    /// It may be gone in a moment.
    Near,
    /// Nearly gone.
    Scarce,
}

/// What is left of a disk.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Room {
    /// Free bytes.
    pub(crate) free: u64,
    /// Below so many free bytes it is scarce.
    pub(crate) mark: u64,
}

/// Free bytes, and those to be left, on the disk of a file.
fn look(file: impl AsFd) -> Option<(u64, u64)> {
    let figures = fstatvfs(file).ok()?;
    let bytes = |blocks: u64| blocks.saturating_mul(figures.fragment_size());
    let reserve = RESERVE_BYTES.min(bytes(figures.blocks()) / RESERVE_SHARE);
    Some((bytes(figures.blocks_available()), reserve))
}

impl Reserve {
    /// Whether so much may be written by a claim that has written `before`.
    pub(crate) fn check(&self, file: impl AsFd, before: u64, bytes: u64) -> nix::Result<()> {
        let take = |left: u64| left.checked_sub(bytes);
        if self
            .unseen
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
            .is_ok()
        {
            return Ok(());
        }
        // A disk that does not tell how much is free finds out by itself.
        let Some((free, reserve)) = look(file) else {
            return Ok(());
        };
        let small = before.saturating_add(bytes) <= SMALL_BYTES;
        // Who is asked for room stops first: what is below the mark is there to end in time whoever is not asked.
        let whole = if self.is_passing() { self.mark(reserve) } else { reserve };
        let floor = if small { reserve / 2 } else { whole };
        if free < floor.saturating_add(bytes) {
            self.unseen.store(0, Ordering::Relaxed);
            return Err(Errno::ENOSPC);
        }
        let unseen = free.saturating_sub(whole).saturating_sub(bytes) / UNSEEN_SHARE;
        self.unseen.store(unseen.min(UNSEEN_BYTES), Ordering::Relaxed);
        Ok(())
    }

    /// Whether an inode may be made by a claim that has written `before`.
    pub(crate) fn check_inode(&self, file: impl AsFd, before: u64) -> nix::Result<()> {
        self.check(&file, before, NAME_BYTES)?;
        let take = |left: u64| left.checked_sub(1);
        let unseen = &self.unseen_inodes;
        if unseen.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok() {
            return Ok(());
        }
        // A disk that does not count them makes as many as there is room for.
        let Some(figures) = fstatvfs(file).ok().filter(|figures| figures.files() > 0) else {
            return Ok(());
        };
        let free = figures.files_available();
        let reserve = RESERVE_INODES.min(figures.files() / RESERVE_INODES_SHARE);
        let small = before.saturating_add(NAME_BYTES) <= SMALL_BYTES;
        let floor = if small { reserve / 2 } else { reserve };
        if free <= floor {
            unseen.store(0, Ordering::Relaxed);
            return Err(Errno::ENOSPC);
        }
        let next = free.saturating_sub(reserve) / UNSEEN_SHARE;
        unseen.store(next.min(UNSEEN_INODES), Ordering::Relaxed);
        Ok(())
    }

    /// Lets the kernel write without asking from so many free bytes on.
    pub(crate) fn pass_from(&self, bytes: u64) {
        self.pass_from.store(bytes, Ordering::Relaxed);
    }

    /// Says whether the kernel has got files to write without asking.
    pub(crate) fn set_passing(&self, passing: bool) {
        self.passing.store(passing, Ordering::Relaxed);
    }

    pub(crate) fn is_passing(&self) -> bool {
        self.passing.load(Ordering::Relaxed)
    }

    /// Below so many free bytes the disk is scarce, of which so many are to be left.
    fn mark(&self, reserve: u64) -> u64 {
        reserve.max(self.pass_from.load(Ordering::Relaxed) / SCARCE_SHARE)
    }

    /// How much is free; all that there can be where the disk does not tell.
    pub(crate) fn room(&self, file: impl AsFd) -> Room {
        let (free, reserve) = look(file).unwrap_or((u64::MAX, RESERVE_BYTES));
        let mark = self.mark(reserve);
        Room { free, mark }
    }

    /// What that means.
    pub(crate) fn level(&self, room: Room) -> Level {
        let near = self.pass_from.load(Ordering::Relaxed).saturating_mul(PLENTY_TIMES);
        match room.free {
            free if free < room.mark => Level::Scarce,
            free if free < near => Level::Near,
            _ => Level::Plenty,
        }
    }

    /// Whether the kernel may read and write a file that is opened now without asking.
    pub(crate) fn passes(&self, file: impl AsFd) -> bool {
        let mut passes = self.passes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((when, passes)) = *passes
            && when.elapsed() < PASS_TTL
        {
            return passes;
        }
        let from = self.pass_from.load(Ordering::Relaxed);
        let now = look(file).is_none_or(|(free, _)| free >= from);
        *passes = Some((Instant::now(), now));
        now
    }
}
