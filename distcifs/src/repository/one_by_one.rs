//! Turns of those here who change the same build: each would do in vain what another does meanwhile.

use std::hash::{DefaultHasher, Hash, Hasher};

use tokio::sync::{Mutex, MutexGuard};

use super::Result;
use super::deadline::locked;

/// Builds that may be changed at once; those that fall on the same number take turns.
const TURNS: usize = 64;

/// The turns of all builds.
pub(crate) struct OneByOne([Mutex<()>; TURNS]);

impl Default for OneByOne {
    fn default() -> Self {
        OneByOne(std::array::from_fn(|_| Mutex::default()))
    }
}

impl OneByOne {
    /// The turn of build `n` of the job with this uid, in the order of those who ask. Not of the number alone: the
    /// first builds of thousands of jobs would wait for each other.
    ///
    /// # Errors
    /// `TimedOut` if others have it for too long: nothing was done.
    pub(crate) async fn turn(&self, what: &str, uid: &str, n: u64) -> Result<MutexGuard<'_, ()>> {
        let mut hasher = DefaultHasher::new();
        (uid, n).hash(&mut hasher);
        let at = usize::try_from(hasher.finish() % TURNS as u64).unwrap_or_default();
        locked(what, &self.0[at]).await
    }
}
