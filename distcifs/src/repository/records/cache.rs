//! Parsed configurations and records of finished builds that are kept in memory, and who records a build.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use crate::repository::configure::ParsedConfigs;
use crate::repository::configure::heads::Heads;
use crate::repository::model::record::Record;
use crate::repository::records::Indexes;

/// Parsed configurations and finished builds' records, bounded.
#[derive(Default)]
pub(crate) struct RecordCache {
    pub(crate) configs: ParsedConfigs,
    pub(crate) heads: Heads,
    pub(crate) records: Mutex<BTreeMap<(String, u64), Arc<Record>>>,
    pub(crate) indexes: Mutex<Indexes>,
    /// Digests of merged artifacts, by what they were merged of.
    pub(crate) merged: Mutex<BTreeMap<Vec<String>, String>>,
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
    pub(crate) async fn turn(&self, uid: &str, n: u64) -> tokio::sync::MutexGuard<'_, ()> {
        let mut hasher = DefaultHasher::new();
        (uid, n).hash(&mut hasher);
        let at = usize::try_from(hasher.finish() % TURNS as u64).unwrap_or_default();
        self.turns.0[at].lock().await
    }
}
