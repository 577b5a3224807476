//! What could not be looked at just now, and is looked at again: soon, and then ever more seldom.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// First and longest pause. The kernel takes a lease away 45 s after it told its holder that it is in the way.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Things by their names. One that is looked at in vain is put back.
#[derive(Debug)]
pub(crate) struct Again<K>(BTreeMap<K, Waiting>);

#[derive(Debug, Clone, Copy)]
struct Waiting {
    pause: Duration,
    until: Instant,
}

impl<K> Default for Again<K> {
    fn default() -> Self {
        Again(BTreeMap::new())
    }
}

impl<K: Ord + Clone> Again<K> {
    /// It is to be looked at again. Tells whether that is new: then a log may be told of it.
    pub(crate) fn put(&mut self, key: &K) -> bool {
        let now = Instant::now();
        let known = self.0.get(key).copied();
        let pause = match known {
            None => PAUSES.0,
            // It was looked at before its time.
            Some(known) if known.until > now => return false,
            Some(known) => (known.pause * 2).min(PAUSES.1),
        };
        let until = now + pause;
        self.0.insert(key.clone(), Waiting { pause, until });
        known.is_none()
    }

    /// It was looked at, or need not be any more.
    pub(crate) fn done(&mut self, key: &K) {
        self.0.remove(key);
    }

    /// Those whose time has come: each is to be looked at now.
    pub(crate) fn due(&self) -> Vec<K> {
        let now = Instant::now();
        let due = self.0.iter().filter(|(_, one)| one.until <= now);
        due.map(|(key, _)| key.clone()).collect()
    }

    /// Whether its time is still to come.
    pub(crate) fn waits(&self, key: &K) -> bool {
        self.0.get(key).is_some_and(|one| one.until > Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// "It is tried again a second later, then ever more seldom, and every half minute at last."
    #[test]
    fn what_is_looked_at_in_vain_waits_longer_each_time() {
        let mut again = Again::default();
        assert!(again.put(&"a") && !again.put(&"a"));
        assert!(again.waits(&"a") && again.due().is_empty());
        let mut pauses = Vec::new();
        for _ in 0..7 {
            let one = again.0.get_mut("a").unwrap();
            pauses.push(one.pause.as_secs());
            one.until = Instant::now();
            assert!(again.due() == ["a"] && !again.waits(&"a"));
            assert!(!again.put(&"a") && again.waits(&"a"));
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30]);
        again.done(&"a");
        assert!(again.0.is_empty() && again.put(&"a"));
    }
}
