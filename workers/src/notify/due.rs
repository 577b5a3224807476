//! Which of what is to be told is next: when its time has come, and few to the same server at once.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use crate::pauses::{growing, spread};

/// Those to one server that are tried at once.
const AT_ONCE: usize = 2;

/// First and longest pause between two tries: a server that is away for a day is asked some thirty times.
const PAUSES: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(3600));

/// What is known of one.
#[derive(Debug)]
struct Waiting {
    whom: String,
    /// Not before that.
    at: Instant,
    tries: u32,
    under_way: bool,
}

/// How often something was tried, and when it is again.
#[derive(Debug, PartialEq, Eq)]
pub struct Tried {
    /// Until the next try.
    pub pause: Duration,
    /// So far.
    pub tries: u32,
}

/// All that wait.
#[derive(Debug, Default)]
pub struct Due {
    waiting: BTreeMap<String, Waiting>,
    /// Under way, by whom they go to.
    busy: HashMap<String, usize>,
}

impl Due {
    /// Takes one in that may be tried at once, or says whom a known one goes to.
    pub fn add(&mut self, id: String, whom: String, now: Instant) {
        self.remove(&id);
        let waiting = Waiting {
            whom,
            at: now,
            tries: 0,
            under_way: false,
        };
        self.waiting.insert(id, waiting);
    }

    /// One whose time has come, the one that waits for longest; it is under way then.
    pub fn take(&mut self, now: Instant) -> Option<String> {
        let free = |waiting: &Waiting| {
            // Nobody knows yet whom it goes to.
            waiting.whom.is_empty() || self.busy.get(&waiting.whom).is_none_or(|busy| *busy < AT_ONCE)
        };
        let due = self
            .waiting
            .iter()
            .filter(|(_, one)| !one.under_way && one.at <= now && free(one));
        let id = due.min_by_key(|(_, one)| one.at).map(|(id, _)| id.clone())?;
        let one = self.waiting.get_mut(&id)?;
        one.under_way = true;
        *self.busy.entry(one.whom.clone()).or_default() += 1;
        Some(id)
    }

    /// It was tried, and is to be again: later each time, up to an hour, and not before that time if one is said.
    pub fn again(&mut self, id: &str, now: Instant, after: Option<Duration>) -> Tried {
        self.rest(id);
        let Some(one) = self.waiting.get_mut(id) else {
            return Tried {
                pause: Duration::ZERO,
                tries: 0,
            };
        };
        one.tries += 1;
        let grown = growing(PAUSES, one.tries);
        // Many that failed together don't come back together.
        let pause = (grown / 2 + spread(grown / 2)).max(after.unwrap_or_default().min(PAUSES.1));
        one.at = now + pause;
        Tried {
            pause,
            tries: one.tries,
        }
    }

    /// It is over.
    pub fn remove(&mut self, id: &str) {
        self.rest(id);
        self.waiting.remove(id);
    }

    /// It is under way no more.
    fn rest(&mut self, id: &str) {
        let Some(one) = self.waiting.get_mut(id).filter(|one| one.under_way) else {
            return;
        };
        one.under_way = false;
        if let Some(busy) = self.busy.get_mut(&one.whom) {
            *busy -= 1;
            if *busy == 0 {
                self.busy.remove(&one.whom);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(due: &mut Due, id: &str, whom: &str, now: Instant) {
        due.add(id.to_owned(), whom.to_owned(), now);
    }

    /// "One server that hangs holds up no other": two of its are tried at once, and those of others meanwhile.
    #[test]
    fn who_hangs_holds_up_no_other() {
        let (mut due, now) = (Due::default(), Instant::now());
        for id in ["a", "b", "c"] {
            add(&mut due, id, "hangs", now);
        }
        add(&mut due, "d", "answers", now);
        let taken: Vec<String> = std::iter::from_fn(|| due.take(now)).collect();
        assert_eq!(taken, ["a", "b", "d"]);
        due.again("a", now, None);
        assert_eq!(due.take(now).as_deref(), Some("c"), "a waits for its time");
        due.remove("c");
        due.remove("b");
        assert_eq!(due.take(now), None);
        due.remove("d");
        due.remove("a");
        assert!(due.busy.is_empty() && due.waiting.is_empty());
    }

    /// "A server that answers 500 for an hour": by a clock of its own. It is tried again and again, ever more seldom,
    /// not before it asks for, and soon enough after it has come back.
    #[test]
    fn a_server_that_fails_for_an_hour_is_asked_seldom() {
        let (mut due, begun) = (Due::default(), Instant::now());
        add(&mut due, "a", "fails", begun);
        let (mut now, mut tries, mut last) = (begun, 0, Duration::ZERO);
        while now.duration_since(begun) < Duration::from_secs(3600) {
            assert_eq!(due.take(now).as_deref(), Some("a"));
            let Tried { pause, tries: counted } = due.again("a", now, None);
            tries += 1;
            assert_eq!(counted, tries);
            assert!(pause >= last / 4 && pause <= PAUSES.1);
            assert_eq!(due.take(now + pause - Duration::from_millis(1)), None);
            (now, last) = (now + pause, pause);
        }
        assert!((8..=14).contains(&tries), "{tries}");
        assert!(last <= Duration::from_secs(3600));
        let asked = due
            .take(now)
            .map(|id| due.again(&id, now, Some(Duration::from_secs(90_000))));
        assert_eq!(asked.unwrap().pause, PAUSES.1, "nobody has it wait for longer");
    }

    /// "With jitter": many that failed together don't come back together.
    #[test]
    fn pauses_are_spread() {
        let (mut due, now) = (Due::default(), Instant::now());
        let pauses: Vec<Duration> = (0..100)
            .map(|n| {
                let id = n.to_string();
                add(&mut due, &id, &id, now);
                assert!(due.take(now).is_some());
                due.again(&id, now, None).pause
            })
            .collect();
        assert!(pauses.iter().all(|pause| (PAUSES.0 / 2..=PAUSES.0).contains(pause)));
        assert!(
            pauses.iter().any(|pause| *pause < PAUSES.0 * 5 / 8)
                && pauses.iter().any(|pause| *pause > PAUSES.0 * 7 / 8)
        );
        assert_eq!(growing(PAUSES, u32::MAX), PAUSES.1);
        // One that is not known any more.
        assert_eq!(due.again("x", now, None).tries, 0);
    }
}
