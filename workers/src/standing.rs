//! Calls that may stand for as long as a stranger likes, of which somebody waits for the answer: each on a thread of
//! its own, that is left behind when it stands, and few of those for each thing that stands.

use std::collections::HashMap;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// The tree answers within ten seconds, or fails: what takes longer stands.
const STANDS: Duration = Duration::from_secs(15);

/// Threads that may stand at one thing: the next one that is begun there would stand as well. Twice as many as make
/// calls side by side, so that none is refused for being one of many.
const STANDING_MAX: usize = 2 * crate::control::SHARDS;

/// The calls under way, by what they are made to.
#[derive(Debug, Clone)]
pub(crate) struct Standing {
    under_way: Arc<Mutex<HashMap<String, usize>>>,
    stands: Duration,
}

impl Default for Standing {
    fn default() -> Self {
        let under_way = Arc::default();
        Standing {
            under_way,
            stands: STANDS,
        }
    }
}

impl Standing {
    /// What a call gives; `None` if it stands, or all that may do at this place: then it may be done later.
    pub(crate) fn call<T: Send + 'static>(&self, place: &str, act: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let turn = self.turn(place)?;
        let (told, heard) = channel();
        let thread = thread::Builder::new().name("call".into()).spawn(move || {
            let done = act();
            drop(turn);
            // Who left hears nothing.
            drop(told.send(done));
        });
        thread.ok()?;
        heard.recv_timeout(self.stands).ok()
    }

    fn turn(&self, place: &str) -> Option<Turn> {
        let mut under_way = self.lock();
        let count = under_way.entry(place.to_owned()).or_default();
        if *count >= STANDING_MAX {
            return None;
        }
        *count += 1;
        Some(Turn(self.clone(), place.to_owned()))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call that is under way.
struct Turn(Standing, String);

impl Drop for Turn {
    fn drop(&mut self) {
        let mut under_way = self.0.lock();
        if let Some(count) = under_way.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                under_way.remove(&self.1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_is_left_behind_and_holds_up_no_other_place() {
        let standing = Standing {
            stands: Duration::from_millis(20),
            ..Standing::default()
        };
        let (go, wait) = channel::<()>();
        let wait = Arc::new(Mutex::new(wait));
        for _ in 0..STANDING_MAX {
            let wait = wait.clone();
            let stood = standing.call("one", move || assert!(wait.lock().unwrap().recv().is_err()));
            assert!(stood.is_none());
        }
        assert_eq!(standing.lock()["one"], STANDING_MAX);
        assert!(standing.call("one", || panic!("it is not begun")).is_none());
        let patient = Standing {
            stands: Duration::from_secs(600),
            ..standing.clone()
        };
        assert_eq!(patient.call("other", || 7), Some(7));
        drop(go);
        while !standing.lock().is_empty() {
            thread::yield_now();
        }
        assert_eq!(patient.call("one", || 8), Some(8));
    }
}
