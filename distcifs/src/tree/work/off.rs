//! Work on files that may wait for a disk, or for whoever holds a file: it is done apart from the threads that answer
//! the kernel.
//!
//! A sync waits for the device; a copy, a reservation and the cutting of a large file last as long as
//! they are large, and the system lets nobody else write that file meanwhile. So what touches a file
//! that such work is done on goes the same way, and what touches one that the kernel may write by itself.

use std::sync::Arc;
use std::time::Duration;

use super::super::{Attr, DirEntry, Found, Ino, Opened};
use super::Work;
#[cfg(test)]
use super::files::OpenFile;
use super::given_up::Call;
#[cfg(test)]
use super::locks::Taken;
use super::locks::standing;
use super::quota::BLOCK_BYTES;
use crate::repository::apart::Apart;
use crate::repository::deadline::STORE_TIMEOUT;
use crate::repository::{Error, Result};

/// Pieces of such work of one kind at once, of those that do not stand; more wait their turn. More than these gain
/// nothing on one disk.
const AT_ONCE_MAX: usize = 16;

/// Those for the claims of one owner, whether they stand or not: who waits for much holds up himself.
const OF_ONE_MAX: usize = 4;

/// From when on such work is said to stand, and takes no place but its owner's.
const STANDS: Duration = Duration::from_secs(5);

/// Longest wait for what moves data; for what needs no more than a lock it is that for a call of a store.
pub const LONG: Duration = Duration::from_secs(600);

/// From how many bytes of blocks on that go it takes long to cut a file: below that it takes less than a
/// millisecond, and most files that are cut are small.
const LONG_BYTES: u64 = 16 << 20;

/// The turns of such work. What needs no more than a lock has its own: who removes a file waits for no sync.
#[derive(Debug, Default)]
pub(super) struct Off {
    pub(super) data: Turns,
    pub(super) locks: Turns,
}

/// Those of one kind.
#[derive(Debug)]
pub(super) struct Turns {
    pub(super) places: Apart,
    /// What a piece passes before it begins.
    #[cfg(test)]
    pub(super) gate: Arc<super::tests::waits::Gate>,
    /// What it passes when it has begun to change something.
    #[cfg(test)]
    pub(super) within: Arc<super::tests::waits::Gate>,
}

impl Default for Turns {
    fn default() -> Turns {
        Turns {
            places: Apart::new(AT_ONCE_MAX, OF_ONE_MAX, STANDS),
            #[cfg(test)]
            gate: Arc::default(),
            #[cfg(test)]
            within: Arc::default(),
        }
    }
}

impl Work {
    /// Does something with an inode at once, or apart if somebody may hold it; for `late` see [`Apart::run`].
    pub async fn on_disk<T: Send + 'static>(
        self: &Arc<Self>,
        ino: Ino,
        act: impl Fn(&Work) -> Result<T> + Send + 'static,
        late: impl FnOnce(&Work, T) + Send + 'static,
    ) -> Result<T> {
        match act(self) {
            Err(
                Error::WouldBlock(_)
                | Error::System {
                    errno: libc::EAGAIN, ..
                },
            ) => self.off(ino, STORE_TIMEOUT, act, late).await,
            done => done,
        }
    }

    /// Does something with an inode on a thread where waiting is no harm, for so long at most. After that, and when
    /// nobody waits for it any more, nothing is changed that has not begun to be.
    pub async fn off<T: Send + 'static>(
        self: &Arc<Self>,
        ino: Ino,
        limit: Duration,
        act: impl FnOnce(&Work) -> Result<T> + Send + 'static,
        late: impl FnOnce(&Work, T) + Send + 'static,
    ) -> Result<T> {
        let (work, after) = (self.clone(), self.clone());
        let turns = if limit > STORE_TIMEOUT {
            &self.off.data
        } else {
            &self.off.locks
        };
        #[cfg(test)]
        let gate = turns.gate.clone();
        #[cfg(not(test))]
        let call = Arc::new(Call::default());
        #[cfg(test)]
        let call = Call::through(&turns.within);
        let _waits = call.waits();
        let act = move || {
            #[cfg(test)]
            gate.pass();
            let done = standing(|| call.make(|| act(&work)));
            work.forget_left();
            done
        };
        let late = move |done: Result<T>| {
            if let Ok(done) = done {
                standing(|| late(&after, done));
            }
        };
        let what = || self.place_of(ino);
        turns.places.run(self.owner_of(ino), limit, what, act, late).await?
    }

    /// With whose rights the work is done that an inode belongs to.
    pub fn owner_of(&self, ino: Ino) -> u32 {
        self.table().get(ino).map_or(0, |inode| inode.attempt.owner())
    }

    /// Whether setting a file's size takes long.
    pub fn is_long_to_cut(&self, ino: Ino, handle: Option<u64>, size: u64) -> bool {
        let long = |attr: Attr| attr.blocks.saturating_mul(BLOCK_BYTES) >= size.saturating_add(LONG_BYTES);
        self.getattr(ino, handle).is_ok_and(|found| long(found.attr))
    }
}

/// What is given back of an answer that came when nobody waited for it any more.
impl Work {
    /// What was looked up.
    pub fn unfound(&self, found: Found) {
        self.forget(found.attributes.attr.ino, 1);
    }

    /// What was opened.
    pub fn unopened(&self, opened: Opened) {
        self.release(opened.handle);
    }

    /// What was made and opened.
    pub fn uncreated(&self, (found, opened): (Found, Opened)) {
        self.unopened(opened);
        self.unfound(found);
    }

    /// What was listed.
    pub fn unlisted(&self, entries: Vec<DirEntry>) {
        entries
            .into_iter()
            .filter_map(|entry| entry.found)
            .for_each(|found| self.unfound(found));
    }
}

#[cfg(test)]
impl OpenFile {
    /// To be held while work is done on the file that keeps others from writing it.
    pub(super) fn busy(&self) -> Taken<'_> {
        self.inode.passed.lock.mark()
    }
}
