//! Work that takes a while, kept off the threads that answer requests.

use tokio::runtime::Handle;

use crate::storage::{Error, Result};

/// Bytes that are read, written and hashed where the caller polls; more of them go to a thread for
/// blocking work. At this size it takes less than a tenth of a millisecond.
const INLINE_BYTES_MAX: usize = 128 << 10;

/// Runs work on so many bytes here, or on a thread for blocking work if they are many and there is
/// a runtime.
pub(super) async fn run<T: Send + 'static>(
    bytes: usize,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let cut_short = |error: tokio::task::JoinError| Error::Indeterminate {
        what: "the store's work".to_owned(),
        why: error.to_string(),
    };
    match Handle::try_current() {
        Ok(runtime) if bytes > INLINE_BYTES_MAX => runtime.spawn_blocking(work).await.map_err(cut_short)?,
        _ => work(),
    }
}
