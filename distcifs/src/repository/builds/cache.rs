//! Records of finished builds that are kept in memory, and who records a build.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use tokio::sync::MutexGuard;

use super::indexes::Indexes;
use crate::repository::Result;
use crate::repository::cache::Cache;
use crate::repository::model::record::Record;
use crate::repository::one_by_one::OneByOne;

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
    turns: OneByOne,
    /// When keys were looked at for their age, milliseconds since 1970.
    pub(crate) swept: AtomicU64,
}

impl RecordCache {
    /// The turn to record or remove build `n` of the job with this uid.
    ///
    /// # Errors
    /// `TimedOut` if others have it for too long.
    pub(crate) async fn turn(&self, uid: &str, n: u64) -> Result<MutexGuard<'_, ()>> {
        self.turns.turn("the record of the build", uid, n).await
    }
}
