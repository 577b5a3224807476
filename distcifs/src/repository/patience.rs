//! How long whoever asked may still be kept waiting.
//!
//! What somebody asks for may take several calls of the stores, each of which may be slow: they share one
//! time, so that the promise is about what was asked for and not about each of its parts.

use std::cell::Cell;
use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;

/// Longest wait for one call of a store, as the contract's promise 5 has it.
pub(crate) const STORE_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest time a commit of a result may take: it writes a whole workspace.
pub(crate) const CAPTURE_TIMEOUT: Duration = Duration::from_secs(3600);

tokio::task_local! {
    /// When the time of what is being answered is over.
    static END: Cell<Instant>;
}

/// Answers within a time: what it waits for is given up at `end`, see [`left`].
pub(crate) async fn until<T>(end: impl Into<Instant>, asked: impl Future<Output = T>) -> T {
    END.scope(Cell::new(end.into()), asked).await
}

/// What is left for a call of a store, at most [`STORE_TIMEOUT`]; all of that where nobody asked.
pub(crate) fn left() -> Duration {
    let left = END.try_with(|end| end.get().saturating_duration_since(Instant::now()));
    left.map_or(STORE_TIMEOUT, |left| left.min(STORE_TIMEOUT))
}

/// Does what takes as long as there is to copy; after it the time begins anew.
pub(crate) async fn unhurried<T>(work: impl Future<Output = T>) -> T {
    let done = until(Instant::now() + CAPTURE_TIMEOUT, work).await;
    // Where nobody asked there is no time to set.
    let _ = END.try_with(|end| end.set(Instant::now() + STORE_TIMEOUT));
    done
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::Error;
    use crate::repository::core::bounded;

    #[tokio::test]
    async fn calls_of_one_request_share_its_time() {
        let begun = Instant::now();
        let slow = || bounded::<()>("a", std::future::pending());
        let asked = async { (slow().await, slow().await) };
        let told = until(begun + Duration::from_millis(50), asked).await;
        assert!(
            matches!(told, (Err(Error::TimedOut(_)), Err(Error::TimedOut(_)))),
            "{told:?}"
        );
        assert!(begun.elapsed() < STORE_TIMEOUT, "{:?}", begun.elapsed());
    }

    #[tokio::test]
    async fn what_is_at_hand_is_given_though_the_time_is_over() {
        let given = until(Instant::now(), bounded("a", async { Ok(7) })).await;
        assert_eq!(given.unwrap(), 7);
    }

    #[tokio::test]
    async fn copying_has_all_the_time_and_gives_it_anew() {
        let asked = async {
            let within = unhurried(async { left() }).await;
            (within, left())
        };
        let (within, after) = until(Instant::now(), asked).await;
        assert_eq!(within, STORE_TIMEOUT);
        assert!(after > STORE_TIMEOUT / 2, "{after:?}");
        assert_eq!(left(), STORE_TIMEOUT);
    }
}
