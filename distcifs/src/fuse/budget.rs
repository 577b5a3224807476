//! How long a call of a process may still be kept waiting.
//!
//! open(2) and its like reach us as several requests: a lookup for each name of the path, a getattr for the
//! permissions of each folder, then what was asked of its end. Promise 5 is about the call, so what a slow
//! answer has taken is no longer there for the next request of the same walk. It is the same walk if the
//! thread goes on at once at the very node that its last request led to, or looks the same name up again:
//! the kernel does, once, where it knew the name and was refused. Asking for the size of what was opened
//! just now belongs to it, too: whoever reads a file does, and waits for the file and not for each call. A
//! read is a call by itself.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::tree::{Deadline, STORE_TIMEOUT};

/// A request that takes longer counts against what follows it.
const SLOW: Duration = Duration::from_millis(100);

/// Longest pause within a walk: the kernel makes none of its own accord.
const PAUSE_MAX: Duration = Duration::from_millis(100);

/// What each request of a walk has in any case: enough for a store that has come back.
const LEAST: Duration = Duration::from_secs(1);

/// Walks remembered; the rest have all the time.
const WALKS_MAX: usize = 4096;

/// Where a walk goes on.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// At this node.
    At(u64),
    /// With this name in this folder once more.
    Again(u64, OsString),
}

/// A thread's way through a path.
struct Walk {
    begun: Instant,
    next: Next,
    /// When its last request was answered.
    at: Instant,
}

/// The walks under way, for the budgets of the requests that go on with them.
#[derive(Default)]
pub(super) struct Budgets {
    walks: Mutex<HashMap<u32, Walk>>,
    /// How many there are: none, as a rule.
    count: AtomicUsize,
}

/// The time that one request may take.
#[derive(Clone, Copy)]
pub(super) struct Budget {
    tid: u32,
    begun: Instant,
    /// It has been refused before.
    again: bool,
    /// When it is to be answered at the latest.
    pub(super) end: Deadline,
}

impl Budget {
    /// The time of a request that is a call by itself.
    pub(super) fn alone(tid: u32) -> Budget {
        let begun = Instant::now();
        let (again, end) = (false, Deadline::after(STORE_TIMEOUT));
        Budget { tid, begun, again, end }
    }
}

impl Budgets {
    /// The time of a request of this thread about this node, or a name in it.
    pub(super) fn budget(&self, tid: u32, ino: u64, name: Option<&OsStr>) -> Budget {
        let now = Instant::now();
        let goes_on = |walk: &Walk| {
            let there = match &walk.next {
                Next::At(reached) => *reached == ino,
                Next::Again(parent, missed) => *parent == ino && name == Some(missed),
            };
            there && now.duration_since(walk.at) <= PAUSE_MAX
        };
        let walk = self.take(tid).filter(goes_on);
        let begun = walk.as_ref().map_or(now, |walk| walk.begun);
        let again = walk.is_some_and(|walk| matches!(walk.next, Next::Again(..)));
        let end = Deadline::from((begun + STORE_TIMEOUT).max(now + LEAST));
        Budget { tid, begun, again, end }
    }

    /// Takes in where a walk goes on, before its thread hears of it.
    pub(super) fn goes_on(&self, budget: Budget, next: Next) {
        let at = Instant::now();
        let refused = matches!(next, Next::Again(..));
        // 0: the kernel itself, which walks for nobody. Who is refused twice is told, and begins anew.
        if budget.tid == 0 || at.duration_since(budget.begun) < SLOW || (budget.again && refused) {
            return;
        }
        let walk = Walk {
            begun: budget.begun,
            next,
            at,
        };
        let mut walks = self.lock();
        if walks.len() >= WALKS_MAX {
            walks.retain(|_, walk| at.duration_since(walk.at) <= PAUSE_MAX);
        }
        if walks.len() < WALKS_MAX {
            walks.insert(budget.tid, walk);
        }
        self.count.store(walks.len(), Ordering::Relaxed);
    }

    /// The walk that a thread is on.
    fn take(&self, tid: u32) -> Option<Walk> {
        if self.count.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let mut walks = self.lock();
        let walk = walks.remove(&tid);
        self.count.store(walks.len(), Ordering::Relaxed);
        walk
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u32, Walk>> {
        self.walks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A thread whose lookup of a name took so long and led there.
    fn walked(budgets: &Budgets, tid: u32, ago: u64, next: Next) {
        let begun = Instant::now().checked_sub(Duration::from_secs(ago)).unwrap();
        let budget = Budget {
            tid,
            begun,
            again: false,
            end: Deadline::from(begun + STORE_TIMEOUT),
        };
        budgets.goes_on(budget, next);
    }

    fn refused() -> Next {
        Next::Again(1, "name".into())
    }

    /// What is left of a budget, in whole seconds.
    fn left(budget: Budget) -> u64 {
        (budget.end.left() + Duration::from_millis(500)).as_secs()
    }

    #[test]
    fn a_walk_has_one_time() {
        let budgets = Budgets::default();
        walked(&budgets, 7, 4, Next::At(70));
        let second = budgets.budget(7, 70, Some("more".as_ref()));
        assert_eq!(left(second), 6);
        budgets.goes_on(second, Next::At(71));
        assert_eq!(left(budgets.budget(7, 71, None)), 6);
        assert_eq!(left(budgets.budget(7, 71, None)), 10, "it is over with what it led to");
    }

    #[test]
    fn a_name_that_is_looked_up_again_has_what_is_left_once() {
        let budgets = Budgets::default();
        walked(&budgets, 7, 10, refused());
        assert_eq!(left(budgets.budget(7, 1, Some("other".as_ref()))), 10, "another name");
        walked(&budgets, 7, 10, refused());
        let again = budgets.budget(7, 1, Some("name".as_ref()));
        assert_eq!(left(again), 1);
        budgets.goes_on(again, refused());
        assert_eq!(
            left(budgets.budget(7, 1, Some("name".as_ref()))),
            10,
            "a try of its own"
        );
    }

    #[test]
    fn each_request_of_it_has_a_second() {
        let budgets = Budgets::default();
        walked(&budgets, 7, 30, Next::At(70));
        assert_eq!(left(budgets.budget(7, 70, None)), 1);
    }

    #[test]
    fn others_and_other_places_have_theirs() {
        let budgets = Budgets::default();
        walked(&budgets, 7, 4, Next::At(70));
        assert_eq!(left(budgets.budget(8, 70, None)), 10, "another thread");
        assert_eq!(left(budgets.budget(7, 69, None)), 10, "another node");
        walked(&budgets, 7, 4, Next::At(70));
        std::thread::sleep(PAUSE_MAX * 2);
        assert_eq!(left(budgets.budget(7, 70, None)), 10, "a call of its own, later");
    }

    #[test]
    fn what_was_quick_and_what_the_kernel_does_is_not_remembered() {
        let budgets = Budgets::default();
        walked(&budgets, 7, 0, Next::At(70));
        walked(&budgets, 0, 4, Next::At(70));
        assert_eq!(budgets.lock().len(), 0);
    }

    #[test]
    fn walks_are_bounded() {
        let budgets = Budgets::default();
        for tid in 1..=WALKS_MAX as u32 + 10 {
            walked(&budgets, tid, 4, Next::At(70));
        }
        assert!(budgets.lock().len() <= WALKS_MAX);
    }
}
