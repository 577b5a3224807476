//! Records of finished builds that are kept in memory, and who records a build.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use super::indexes::Indexes;
use crate::repository::Result;
use crate::repository::cache::Cache;
use crate::repository::deadline::locked;
use crate::repository::model::record::Record;

/// Records of finished builds kept in memory.
const RECORDS_MAX: usize = 512;

/// Merged artifacts whose digests are kept, some hundred bytes each.
const MERGED_MAX: usize = 1024;

/// Finished builds' records, bounded.
#[derive(Default)]
pub(crate) struct RecordCache {
    /// The truth is the record in the store. One changes only by a retry or the trash, which forget it here;
    /// of other mounts' the line of the index tells, which is compared.
    pub(crate) records: Mutex<Cache<(String, u64), Arc<Record>, RECORDS_MAX>>,
    pub(crate) indexes: Mutex<Indexes>,
    /// Digests of merged artifacts, by what they were merged of: the same of the same parts for ever.
    pub(crate) merged: Mutex<Cache<Vec<String>, String, MERGED_MAX>>,
    /// Held while a build is recorded or removed.
    turns: Turns,
    /// When keys were looked at for their age, milliseconds since 1970.
    pub(crate) swept: AtomicU64,
}

/// Builds that may be recorded or removed at once; those that fall on the same number take turns.
const TURNS: usize = 64;

struct Turns([tokio::sync::Mutex<()>; TURNS]);

impl Default for Turns {
    fn default() -> Self {
        Turns(std::array::from_fn(|_| tokio::sync::Mutex::default()))
    }
}

impl RecordCache {
    /// The turn to record or remove build `n` of the job with this uid. Not of the number alone: the
    /// first builds of thousands of jobs would wait for each other.
    ///
    /// # Errors
    /// `TimedOut` if others have it for too long.
    pub(crate) async fn turn(&self, uid: &str, n: u64) -> Result<tokio::sync::MutexGuard<'_, ()>> {
        let mut hasher = DefaultHasher::new();
        (uid, n).hash(&mut hasher);
        let at = usize::try_from(hasher.finish() % TURNS as u64).unwrap_or_default();
        locked("the record of the build", &self.turns.0[at]).await
    }
}
