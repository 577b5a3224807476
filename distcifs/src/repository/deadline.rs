//! When a wait is given up.
//!
//! What somebody asks for may take several calls of the stores, each of which may be slow: they share one
//! [`Deadline`], so that the promise is about what was asked for and not about each of its parts. It goes
//! along with the request's task and not through every signature (doc/decisions/051-deadlines.md); who
//! waits takes the value, and whoever does a part of it in a task of its own brings it along: [`carried`].

use std::cell::Cell;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use super::{Error, Result};

/// Longest wait for one call of a store, as the contract's promise 5 has it.
pub(crate) const STORE_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest time a commit of a result may take: it writes a whole workspace.
pub(crate) const CAPTURE_TIMEOUT: Duration = Duration::from_secs(3600);

/// What is further away than this may be waited for as long as anybody lives: a year. A time that somebody
/// gives in seconds may be any number.
const FAR: Duration = Duration::from_secs(365 * 24 * 3600);

tokio::task_local! {
    /// The deadline of what is being answered.
    static ASKED: Cell<Deadline>;
}

/// The moment at which a wait is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Deadline(Instant);

impl Deadline {
    /// So long from now.
    pub(crate) fn after(time: Duration) -> Self {
        Deadline(Instant::now() + time.min(FAR))
    }

    /// Of what is being answered, if somebody asked.
    pub(crate) fn of_request() -> Option<Self> {
        ASKED.try_with(Cell::get).ok()
    }

    /// Of a call of a store that is made now: that of what is being answered, at most [`STORE_TIMEOUT`] from now.
    pub(crate) fn of_call() -> Self {
        let own = Deadline::after(STORE_TIMEOUT);
        Deadline::of_request().map_or(own, |asked| asked.min(own))
    }

    /// What is left until it.
    pub(crate) fn left(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    /// Whether it is over.
    pub(crate) fn passed(self) -> bool {
        self.left().is_zero()
    }

    /// Waits until it at most; what came, and what is at hand comes though it is over.
    pub(crate) async fn wait<T>(self, awaited: impl Future<Output = T>) -> Option<T> {
        timeout_at(self.0, awaited).await.ok()
    }

    /// Answers by it: what is waited for meanwhile is given up then, see [`Deadline::of_call`].
    pub(crate) async fn bind<T>(self, asked: impl Future<Output = T>) -> T {
        ASKED.scope(Cell::new(self), asked).await
    }
}

impl From<std::time::Instant> for Deadline {
    fn from(at: std::time::Instant) -> Self {
        Deadline(at.into())
    }
}

/// The same work with the deadline of what is being answered, for a task of its own that is waited for.
pub(crate) fn carried<T>(work: impl Future<Output = T>) -> impl Future<Output = T> {
    let asked = Deadline::of_request();
    async move {
        match asked {
            Some(deadline) => deadline.bind(work).await,
            None => work.await,
        }
    }
}

/// Does what takes as long as there is to copy; after it the time begins anew.
pub(crate) async fn unhurried<T>(work: impl Future<Output = T>) -> T {
    let done = Deadline::after(CAPTURE_TIMEOUT).bind(work).await;
    begin_anew();
    done
}

/// Lets the time of what is being answered begin anew: it has waited for its turn, in which others used it up.
pub(crate) fn begin_anew() {
    // Where nobody asked there is no time to set.
    let _ = ASKED.try_with(|asked| asked.set(Deadline::after(STORE_TIMEOUT)));
}

/// Waits for a lock, as long as for a call of a store: whoever holds it may wait for one.
///
/// # Errors
/// `TimedOut` if it is not had by then: nothing was done.
pub(crate) async fn locked<'a, T>(what: &str, lock: &'a Mutex<T>) -> Result<MutexGuard<'a, T>> {
    // Most are free, and the clock need not be asked.
    if let Ok(guard) = lock.try_lock() {
        return Ok(guard);
    }
    let had = Deadline::of_call().wait(lock.lock()).await;
    had.ok_or_else(|| not_had(what))
}

/// Waits for one of some turns in the same way.
///
/// # Errors
/// `TimedOut` if none is had by then: nothing was done.
pub(crate) async fn permitted(what: &str, turns: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit> {
    let had = Deadline::of_call().wait(turns.clone().acquire_owned()).await;
    // It is never closed.
    had.and_then(std::result::Result::ok).ok_or_else(|| not_had(what))
}

fn not_had(what: &str) -> Error {
    let time = STORE_TIMEOUT.as_secs();
    Error::TimedOut(format!("{what}: others who use it waited for the store for {time} s; try again").into())
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;
    use crate::repository::core::bounded;
    use crate::repository::work::in_parallel;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn it_is_left_until_it_has_passed() {
        let deadline = Deadline::after(SECOND);
        assert_eq!((deadline.left(), deadline.passed()), (SECOND, false));
        assert!(deadline < Deadline::after(2 * SECOND));
        tokio::time::advance(SECOND / 4).await;
        assert_eq!((deadline.left(), deadline.passed()), (SECOND * 3 / 4, false));
        tokio::time::advance(SECOND).await;
        assert_eq!((deadline.left(), deadline.passed()), (Duration::ZERO, true));
        assert!(Deadline::after(Duration::ZERO).passed());
    }

    /// "fsck, gc and drain take a time in seconds": any number of them.
    #[tokio::test(start_paused = true)]
    async fn one_that_nobody_lives_to_see_is_far_away() {
        let deadline = Deadline::after(Duration::MAX);
        assert!(!deadline.passed() && deadline.left() >= FAR);
        assert_eq!(deadline.wait(async { 7 }).await, Some(7));
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_ends_with_it_and_what_is_at_hand_is_given_though_it_is_over() {
        let deadline = Deadline::after(SECOND);
        let begun = Instant::now();
        assert_eq!(deadline.wait(pending::<()>()).await, None);
        assert_eq!(begun.elapsed(), SECOND);
        assert_eq!(deadline.wait(async { 7 }).await, Some(7));
        let given = deadline.bind(bounded("a", async { Ok(7) })).await;
        assert_eq!(given.unwrap(), 7);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_has_ten_seconds_and_what_is_asked_for_no_more_than_it_has() {
        assert_eq!(Deadline::of_request(), None);
        assert_eq!(Deadline::of_call().left(), STORE_TIMEOUT);
        let short = Deadline::after(SECOND);
        assert_eq!(short.bind(async { Deadline::of_call() }).await, short);
        let long = Deadline::after(STORE_TIMEOUT * 2);
        let call = long.bind(async { Deadline::of_call() }).await;
        assert_eq!(call.left(), STORE_TIMEOUT);
    }

    /// Promise 5: "nothing hangs for more than 10 s", however many calls it takes, and in whatever tasks.
    #[tokio::test(start_paused = true)]
    async fn calls_of_one_request_share_its_time() {
        let slow = || bounded::<()>("a", pending());
        let begun = Instant::now();
        let asked = async { (slow().await, slow().await) };
        let told = Deadline::after(SECOND).bind(asked).await;
        assert!(
            matches!(told, (Err(Error::TimedOut(_)), Err(Error::TimedOut(_)))),
            "{told:?}"
        );
        assert_eq!(begun.elapsed(), SECOND);
        let begun = Instant::now();
        let many = async { in_parallel(0..200, move |_| slow()).await };
        let told = Deadline::after(SECOND).bind(many).await;
        assert_eq!(told.len(), 200);
        assert!(told.iter().all(|told| matches!(told, Err(Error::TimedOut(_)))));
        assert!(begun.elapsed() < SECOND * 2, "{:?}", begun.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn copying_has_all_the_time_and_gives_it_anew() {
        let asked = async {
            let within = unhurried(async { Deadline::of_call().left() }).await;
            (within, Deadline::of_call().left())
        };
        let told = Deadline::after(Duration::ZERO).bind(asked).await;
        assert_eq!(told, (STORE_TIMEOUT, STORE_TIMEOUT));
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_a_lock_waits_no_longer_than_for_a_store() {
        let lock = Mutex::new(());
        let held = locked("a", &lock).await.unwrap();
        let begun = Instant::now();
        assert!(matches!(locked("a", &lock).await, Err(Error::TimedOut(_))));
        assert_eq!(begun.elapsed(), STORE_TIMEOUT);
        let asked = async { locked("a", &lock).await.map(drop) };
        let told = Deadline::after(SECOND).bind(asked).await;
        assert!(matches!(told, Err(Error::TimedOut(_))), "{told:?}");
        assert_eq!(begun.elapsed(), STORE_TIMEOUT + SECOND);
        drop(held);
        assert!(locked("a", &lock).await.is_ok());
    }
}
