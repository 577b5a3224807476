//! Calls of a store within their bound, and again where nobody knows; the clock, random numbers, locks.

use std::fs::File;
use std::future::Future;
use std::io::Read;
use std::sync::{LazyLock, Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::deadline::{Deadline, STORE_TIMEOUT};
use super::{Error, Result};
use crate::storage::{self, Fut};

/// Pause before a call is made again of which nobody knows whether it happened.
pub(super) const SETTLE_PAUSE: Duration = Duration::from_millis(5);

/// Bodies up to this many bytes stand in their coordination entry; longer ones are objects.
pub const INLINE_BYTES_MAX: usize = 1536;

/// Makes a call that may be made any number of times, again while nobody knows whether it happened.
pub(crate) async fn settled<'a, T>(what: &str, call: impl Fn() -> Fut<'a, T>) -> Result<T> {
    let settle = async {
        loop {
            match call().await {
                Err(error) if error.is_indeterminate() => tokio::time::sleep(SETTLE_PAUSE).await,
                other => return other,
            }
        }
    };
    bounded(what, settle).await
}

/// Waits for a storage call until [`Deadline::of_call`].
pub(crate) async fn bounded<T>(what: &str, call: impl Future<Output = storage::Result<T>>) -> Result<T> {
    match Deadline::of_call().wait(call).await {
        Some(done) => Ok(done?),
        None => Err(Error::TimedOut(
            format!("{what}: no answer from the store within {} s", STORE_TIMEOUT.as_secs()).into(),
        )),
    }
}

/// Seconds and milliseconds since 1970, for people: no rule compares it with another node's.
pub(crate) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// `now`'s milliseconds as a time.
pub(crate) fn time_of(millis: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(millis)
}

/// 64 random bits as 16 hexadecimal digits: uids of jobs and nonces of claims.
pub(crate) fn random_id() -> String {
    static RANDOM: LazyLock<Option<File>> = LazyLock::new(|| File::open("/dev/urandom").ok());
    let mut bytes = [0u8; 8];
    let read = RANDOM
        .as_ref()
        .is_some_and(|mut file| file.read_exact(&mut bytes).is_ok());
    if !read {
        // Without /dev (a bare chroot): the hasher's keys are random for each process and call.
        use std::hash::{BuildHasher, Hasher};
        let mut hasher = std::collections::hash_map::RandomState::new().build_hasher();
        hasher.write_u64(now());
        bytes = hasher.finish().to_ne_bytes();
    }
    format!("{:016x}", u64::from_ne_bytes(bytes))
}

/// Locks, also after a panic elsewhere: what the locks guard is kept consistent by single
/// assignments.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
