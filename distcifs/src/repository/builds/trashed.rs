//! What a mount knows of the trash.

use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

/// Days that things stay, where nobody says.
pub const DAYS_USUAL: u64 = 7;

/// What this mount knows of the trash.
pub(crate) struct Trash {
    pub(in crate::repository) days: AtomicU64,
    /// Jobs that are noted, by uid. The truth is the record of the trash: one that is noted twice costs a write.
    pub(in crate::repository) noted: Mutex<HashSet<String>>,
    /// Counts what goes into the trash: what was read before may be there by now.
    moves: AtomicU64,
    pub(in crate::repository) wake: Notify,
}

impl Default for Trash {
    fn default() -> Self {
        Trash {
            days: AtomicU64::new(DAYS_USUAL),
            noted: Mutex::default(),
            moves: AtomicU64::new(0),
            wake: Notify::new(),
        }
    }
}

impl Trash {
    /// Notes that something goes into the trash, or for good.
    pub(in crate::repository) fn moved(&self) -> u64 {
        self.moves.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// How much has gone into the trash from here.
    pub(in crate::repository) fn moves(&self) -> u64 {
        self.moves.load(Ordering::SeqCst)
    }
}
