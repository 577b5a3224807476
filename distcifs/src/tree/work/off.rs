//! Work on files that may wait for a disk: it is done apart from the threads that answer the kernel.
//!
//! A sync waits for the device; a copy, a reservation and the cutting of a large file last as long as
//! they are large, and the system lets nobody else write that file meanwhile. So what touches a file
//! that such work is done on goes the same way.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Semaphore;

use super::super::{Attr, Ino};
use super::Work;
use super::files::OpenFile;
use super::inodes::Inode;
use super::quota::BLOCK_BYTES;
use crate::repository::{Error, Result};

/// Pieces of such work at once; more wait their turn. The runtime has 64 threads for all that blocks,
/// which the stores need as well, and more than these gain nothing on one disk.
const AT_ONCE_MAX: usize = 16;

/// Those among them for the claims of one owner: who waits for much holds up himself.
const OF_ONE_MAX: usize = 4;

/// Owners that are remembered before those who wait for nothing are looked for.
const OWNERS_KEPT: usize = 64;

/// From how many bytes of blocks on that go it takes long to cut a file: below that it takes less than a
/// millisecond, and most files that are cut are small.
const LONG_BYTES: u64 = 16 << 20;

/// The turns of such work.
#[derive(Debug)]
pub(super) struct Off {
    pub(super) turns: Arc<Semaphore>,
    /// The turns of each owner who has or wants some.
    owners: Mutex<HashMap<u32, Arc<Semaphore>>>,
    #[cfg(test)]
    pub(super) gate: super::tests::waits::Gate,
}

impl Default for Off {
    fn default() -> Off {
        Off {
            turns: Arc::new(Semaphore::new(AT_ONCE_MAX)),
            owners: Mutex::default(),
            #[cfg(test)]
            gate: super::tests::waits::Gate::default(),
        }
    }
}

impl Off {
    /// The turns of one owner.
    fn of(&self, owner: u32) -> Arc<Semaphore> {
        let mut owners = self.owners.lock().unwrap_or_else(PoisonError::into_inner);
        if owners.len() >= OWNERS_KEPT {
            // Whoever has a turn or waits for one holds it, too.
            owners.retain(|_, turns| Arc::strong_count(turns) > 1);
        }
        let turns = owners.entry(owner);
        turns.or_insert_with(|| Arc::new(Semaphore::new(OF_ONE_MAX))).clone()
    }
}

/// Held while work is done on a file that keeps others from writing it.
pub(super) struct Busy<'a>(&'a AtomicUsize);

impl<'a> Busy<'a> {
    pub(super) fn with(inode: &'a Inode) -> Busy<'a> {
        inode.busy.fetch_add(1, Ordering::AcqRel);
        Busy(&inode.busy)
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Work {
    /// Does something for the claims of this owner on a thread where waiting is no harm.
    pub async fn off<T: Send + 'static>(
        self: &Arc<Self>,
        owner: u32,
        act: impl FnOnce(&Work) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let over = || Error::Io("the daemon is ending".into());
        let of_owner = self.off.of(owner).acquire_owned().await.map_err(|_| over())?;
        let turn = self.off.turns.clone().acquire_owned().await.map_err(|_| over())?;
        let work = self.clone();
        let done = tokio::task::spawn_blocking(move || {
            let _turns = (turn, of_owner);
            #[cfg(test)]
            work.off.gate.pass();
            act(&work)
        });
        match done.await {
            Ok(done) => done,
            Err(error) if error.is_panic() => Err(Error::Io(format!("a defect of distcifs: {error}").into())),
            Err(_) => Err(over()),
        }
    }

    /// With whose rights the work is done that an inode belongs to.
    pub fn owner_of(&self, ino: Ino) -> u32 {
        self.table().get(ino).map_or(0, |inode| inode.attempt.owner())
    }

    /// The same of an open file.
    pub fn owner_of_open(&self, handle: u64) -> u32 {
        self.file(handle).map_or(0, |open| open.inode.attempt.owner())
    }

    /// Whether a read or write of an open file is to be done there, as work that lasts is done on the file.
    pub fn is_busy(&self, handle: u64) -> bool {
        self.file(handle).is_ok_and(|open| is_busy(&open.inode))
    }

    /// Whether setting a file's size is to be done there.
    pub fn is_long_to_cut(&self, ino: Ino, handle: Option<u64>, size: u64) -> bool {
        let busy = self.table().get(ino).is_some_and(|inode| is_busy(&inode));
        let long = |attr: Attr| attr.blocks.saturating_mul(BLOCK_BYTES) >= size.saturating_add(LONG_BYTES);
        busy || self.getattr(ino, handle).is_ok_and(|found| long(found.attr))
    }
}

fn is_busy(inode: &Inode) -> bool {
    inode.busy.load(Ordering::Acquire) > 0
}

impl OpenFile {
    /// To be held while work is done on the file that keeps others from writing it.
    pub(super) fn busy(&self) -> Busy<'_> {
        Busy::with(&self.inode)
    }
}
