//! Which blobs were put while gc runs beside the builds, and the locks under which a blob gets its
//! name or is swept. Nobody sweeps while the store is closed: so marks live in memory, and only as
//! long as somebody sweeps.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

use super::lock;
use crate::storage::{Digest, Object};

/// Parts that the blobs are divided into by their digest, each with a lock of its own: a put seldom
/// waits for the removal of another blob.
const SHARDS: usize = 64;

/// Marks in one part, at most: a million in all, which take 80 MiB. Where more is put while gc runs,
/// it removes nothing more.
const MARKS_MAX: usize = 16_384;

/// The marks.
#[derive(Debug)]
pub(super) struct Marks {
    /// What is put now gets this as its mark; 0 while nobody sweeps.
    epoch: AtomicU64,
    /// Of this epoch and those before it all marks are forgotten.
    over: AtomicU64,
    /// Whether a mark had no room: then nobody knows what has none.
    full: AtomicBool,
    shards: Vec<Mutex<Shard>>,
}

/// Blobs put since somebody began to sweep, and the epoch in which each was put last.
pub(super) type Shard = HashMap<Object, u64>;

impl Default for Marks {
    fn default() -> Self {
        Marks {
            epoch: AtomicU64::new(0),
            over: AtomicU64::new(0),
            full: AtomicBool::new(false),
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
        }
    }
}

impl Marks {
    /// From now on what is put gets this mark; with 0 all marks are forgotten.
    pub(super) fn enter(&self, epoch: u64) {
        if epoch > 0 {
            self.epoch.fetch_max(epoch, Ordering::SeqCst);
            return;
        }
        let epoch = self.epoch.swap(0, Ordering::SeqCst);
        // A sweep that is just being given up finds nothing any more, though the next one begins.
        self.over.fetch_max(epoch, Ordering::SeqCst);
        for shard in &self.shards {
            // Its memory as well.
            *lock(shard) = Shard::new();
        }
        self.full.store(false, Ordering::SeqCst);
    }

    /// Whether puts are marked.
    pub(super) fn are_kept(&self) -> bool {
        self.epoch.load(Ordering::SeqCst) > 0
    }

    /// Keeps others from giving this blob its name or its mark, and from sweeping it.
    pub(super) fn hold(&self, digest: &Digest) -> MutexGuard<'_, Shard> {
        let first = digest.as_bytes().first().copied().unwrap_or_default();
        lock(&self.shards[usize::from(first) % SHARDS])
    }

    /// Marks a blob that is put.
    pub(super) fn mark(&self, shard: &mut Shard, object: &Object) {
        let epoch = self.epoch.load(Ordering::SeqCst);
        if epoch == 0 {
            return;
        }
        if shard.len() >= MARKS_MAX && !shard.contains_key(object) {
            self.full.store(true, Ordering::SeqCst);
            return;
        }
        let mark = shard.entry(object.clone()).or_default();
        *mark = epoch.max(*mark);
    }

    /// Whether a blob was put last before an epoch.
    pub(super) fn is_older(&self, shard: &Shard, object: &Object, epoch: u64) -> bool {
        // A sweep of what nobody else uses goes by no marks.
        if epoch == u64::MAX {
            return true;
        }
        self.are_kept()
            && epoch > self.over.load(Ordering::SeqCst)
            && !self.full.load(Ordering::SeqCst)
            && shard.get(object).copied().unwrap_or_default() < epoch
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(number: u32) -> (Object, Digest) {
        let digest = Digest::of(&number.to_le_bytes());
        (Object::Chunk(digest), digest)
    }

    #[test]
    fn what_was_put_since_an_epoch_is_not_older_than_it() {
        let marks = Marks::default();
        let ((early, digest), (late, other)) = (chunk(1), chunk(2));
        let older = |object, digest, epoch| marks.is_older(&marks.hold(digest), object, epoch);
        marks.mark(&mut marks.hold(&digest), &early);
        assert!(!older(&early, &digest, 1), "nobody sweeps: nothing is known");
        assert!(older(&early, &digest, u64::MAX), "alone, all goes");
        marks.enter(3);
        assert!(older(&early, &digest, 3), "put before");
        marks.mark(&mut marks.hold(&other), &late);
        marks.enter(4);
        assert!(!older(&late, &other, 3) && older(&late, &other, 4));
        marks.mark(&mut marks.hold(&other), &late);
        assert!(!older(&late, &other, 4), "put again");
        marks.enter(0);
        assert!(!older(&early, &digest, 3) && !older(&late, &other, 9), "over");
        marks.enter(5);
        assert!(!older(&early, &digest, 4), "of a sweep that was given up");
        assert!(older(&early, &digest, 5));
    }

    #[test]
    fn where_too_much_is_put_nothing_is_older() {
        let marks = Marks::default();
        marks.enter(1);
        let (garbage, digest) = chunk(u32::MAX);
        let wanted = usize::from(digest.as_bytes()[0]) % SHARDS;
        let mut put = 0;
        for number in 0.. {
            let (object, digest) = chunk(number);
            if usize::from(digest.as_bytes()[0]) % SHARDS != wanted {
                continue;
            }
            assert!(marks.is_older(&marks.hold(&digest), &garbage, 1), "{put}");
            marks.mark(&mut marks.hold(&digest), &object);
            put += 1;
            if put > MARKS_MAX {
                break;
            }
        }
        assert!(!marks.is_older(&marks.hold(&digest), &garbage, 1));
        marks.enter(0);
        marks.enter(2);
        assert!(marks.is_older(&marks.hold(&digest), &garbage, 2), "all is forgotten");
    }
}
