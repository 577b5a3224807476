//! How long a call of a process may still be kept waiting.
//!
//! open(2) and its like reach us as several requests: a lookup for each name of the path, then what was
//! asked of its end. Promise 5 is about the call, so what a request answered slowly has taken is no longer
//! there for the next one of the same walk. It is the same walk if the thread goes on at once from the very
//! node that its last lookup led to.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::repository::core::STORE_TIMEOUT;

/// A lookup that takes longer counts against what follows it.
const SLOW: Duration = Duration::from_millis(100);

/// Longest pause within a walk: the kernel makes none of its own accord.
const PAUSE_MAX: Duration = Duration::from_millis(100);

/// What each request of a walk has in any case: enough for a store that has come back.
const LEAST: Duration = Duration::from_secs(1);

/// Walks remembered; the rest have all the time.
const WALKS_MAX: usize = 4096;

/// A thread's way through a path.
#[derive(Clone, Copy)]
struct Walk {
    begun: Instant,
    /// The node that the last lookup led to, and when.
    reached: u64,
    at: Instant,
}

/// See the module.
#[derive(Default)]
pub(super) struct Patience {
    walks: Mutex<HashMap<u32, Walk>>,
    /// How many there are: none, as a rule.
    count: AtomicUsize,
}

/// The time of one request.
#[derive(Clone, Copy)]
pub(super) struct Turn {
    tid: u32,
    begun: Instant,
    /// When it is to be answered at the latest.
    pub(super) end: Instant,
}

impl Patience {
    /// The time of a request of this thread about this node.
    pub(super) fn turn(&self, tid: u32, ino: u64) -> Turn {
        let now = Instant::now();
        let before = if self.count.load(Ordering::Relaxed) == 0 {
            None
        } else {
            let mut walks = self.lock();
            let walk = walks.remove(&tid);
            self.count.store(walks.len(), Ordering::Relaxed);
            walk
        };
        let goes_on = |walk: &Walk| walk.reached == ino && now.duration_since(walk.at) <= PAUSE_MAX;
        let begun = before.filter(goes_on).map_or(now, |walk| walk.begun);
        let end = (begun + STORE_TIMEOUT).max(now + LEAST);
        Turn { tid, begun, end }
    }

    /// Takes in that a lookup has led to this node, before its thread hears of it.
    pub(super) fn reached(&self, turn: Turn, ino: u64) {
        let at = Instant::now();
        // 0: the kernel itself, which walks for nobody.
        if turn.tid == 0 || at.duration_since(turn.begun) < SLOW {
            return;
        }
        let mut walks = self.lock();
        if walks.len() >= WALKS_MAX {
            walks.retain(|_, walk| at.duration_since(walk.at) <= PAUSE_MAX);
        }
        if walks.len() < WALKS_MAX {
            let (begun, reached) = (turn.begun, ino);
            walks.insert(turn.tid, Walk { begun, reached, at });
        }
        self.count.store(walks.len(), Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u32, Walk>> {
        self.walks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A turn of a thread that began so long ago.
    fn slow(tid: u32, ago: Duration) -> Turn {
        let begun = Instant::now().checked_sub(ago).unwrap();
        let end = begun + STORE_TIMEOUT;
        Turn { tid, begun, end }
    }

    /// What is left of it, in whole seconds.
    fn left(turn: Turn) -> u64 {
        let left = turn.end.saturating_duration_since(Instant::now());
        (left + Duration::from_millis(500)).as_secs()
    }

    #[test]
    fn a_walk_has_one_time() {
        let patience = Patience::default();
        patience.reached(slow(7, Duration::from_secs(4)), 70);
        let second = patience.turn(7, 70);
        assert_eq!(left(second), 6);
        patience.reached(second, 71);
        assert_eq!(left(patience.turn(7, 71)), 6);
        assert_eq!(left(patience.turn(7, 71)), 10, "a walk is over with what it led to");
    }

    #[test]
    fn each_request_of_it_has_a_second() {
        let patience = Patience::default();
        patience.reached(slow(7, Duration::from_secs(30)), 70);
        assert_eq!(left(patience.turn(7, 70)), 1);
    }

    #[test]
    fn others_and_other_places_have_theirs() {
        let patience = Patience::default();
        patience.reached(slow(7, Duration::from_secs(4)), 70);
        assert_eq!(left(patience.turn(8, 70)), 10, "another thread");
        assert_eq!(left(patience.turn(7, 69)), 10, "another node");
        patience.reached(slow(7, Duration::from_secs(4)), 70);
        std::thread::sleep(PAUSE_MAX * 2);
        assert_eq!(left(patience.turn(7, 70)), 10, "a call of its own, later");
    }

    #[test]
    fn what_was_quick_and_what_the_kernel_does_is_not_remembered() {
        let patience = Patience::default();
        patience.reached(patience.turn(7, 1), 70);
        patience.reached(slow(0, Duration::from_secs(4)), 70);
        assert_eq!(patience.lock().len(), 0);
    }

    #[test]
    fn walks_are_bounded() {
        let patience = Patience::default();
        for tid in 1..=WALKS_MAX as u32 + 10 {
            patience.reached(slow(tid, Duration::from_secs(4)), 70);
        }
        assert!(patience.lock().len() <= WALKS_MAX);
    }
}
