//! When a notice is published in a channel, and with which names.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::Outcome;

/// Time between two notices that somebody hears: what changes meanwhile goes in one.
const PAUSE: Duration = Duration::from_millis(3);

/// Time between two notices that nobody hears, or that are not answered in time: whoever begins to
/// listen waits this long for the first.
const PAUSE_LONG: Duration = Duration::from_millis(30);

/// Notices under way from which on the longer pause holds.
const FLYING_SLOW: u32 = 4;

/// Notices under way at most: with the longer pause more than one that is not answered leaves behind.
const FLYING_MAX: u32 = 128;

/// Time until a notice that was not answered by all is repeated.
const AGAIN: Duration = Duration::from_secs(1);

/// Names in one notice, at most 26 KB; with more, all that listen are told.
const NAMES_MAX: usize = 128;

/// Names of objects that changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Names {
    some: BTreeSet<String>,
    /// Too many to name.
    all: bool,
}

impl Names {
    fn is_empty(&self) -> bool {
        self.some.is_empty() && !self.all
    }

    fn add(&mut self, name: &str) {
        if self.all || self.some.contains(name) {
            return;
        }
        self.some.insert(name.to_owned());
        if self.some.len() > NAMES_MAX {
            self.all = true;
            self.some.clear();
        }
    }

    fn extend(&mut self, other: Names) {
        if other.all {
            self.all = true;
            self.some.clear();
        }
        for name in other.some {
            self.add(&name);
        }
    }

    /// What is sent: a line for each name; `*` for all.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        if self.all {
            return b"*".to_vec();
        }
        let mut bytes = Vec::new();
        for name in &self.some {
            bytes.extend_from_slice(name.as_bytes());
            bytes.push(b'\n');
        }
        bytes
    }

    /// The names that were sent; `None` for all, and for what is not understood.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<impl Iterator<Item = &str>> {
        let text = std::str::from_utf8(bytes).ok()?.strip_suffix('\n')?;
        Some(text.split('\n'))
    }
}

/// The sending end of a channel.
#[derive(Debug, Default)]
pub(super) struct Publisher {
    changed: Names,
    /// What somebody has not acknowledged, and when to publish it again.
    again: Option<(Instant, Names)>,
    /// When it was published last.
    last: Option<Instant>,
    flying: u32,
    /// Whether somebody else heard it last time.
    heard: bool,
}

impl Publisher {
    /// An object changed; whether it is the first since the last notice.
    pub(super) fn add(&mut self, name: &str) -> bool {
        let first = self.changed.is_empty();
        self.changed.add(name);
        first
    }

    /// The names to publish now, if any; or when to look again.
    pub(super) fn due(&mut self, now: Instant) -> Result<Option<Names>, Instant> {
        if let Some((_, names)) = self.again.take_if(|(at, _)| *at <= now) {
            self.changed.extend(names);
        }
        let repeated = self.again.as_ref().map(|(at, _)| *at);
        if self.changed.is_empty() || self.flying >= FLYING_MAX {
            return repeated.map_or(Ok(None), Err);
        }
        let pause = if self.heard && self.flying < FLYING_SLOW {
            PAUSE
        } else {
            PAUSE_LONG
        };
        match self.last.map(|last| last + pause).filter(|at| *at > now) {
            Some(later) => Err(repeated.map_or(later, |at| at.min(later))),
            None => {
                self.last = Some(now);
                self.flying += 1;
                Ok(Some(std::mem::take(&mut self.changed)))
            }
        }
    }

    /// A notice has been sent: whether somebody else heard it, or why not all did.
    pub(super) fn published(&mut self, heard: Outcome<bool>, names: Names, now: Instant) {
        self.flying = self.flying.saturating_sub(1);
        match heard {
            Ok(heard) => self.heard = heard,
            // Nobody has ever listened here.
            Err(Errno::ENOENT) => self.heard = false,
            Err(_) => {
                self.heard = true;
                self.again
                    .get_or_insert((now + AGAIN, Names::default()))
                    .1
                    .extend(names);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Names {
        let mut all = Names::default();
        names.iter().for_each(|name| all.add(name));
        all
    }

    #[test]
    fn rings_at_once_then_after_a_pause_with_all_that_changed() {
        let (mut publisher, now) = (Publisher::default(), Instant::now());
        assert_eq!(publisher.due(now), Ok(None));
        assert!(publisher.add("a"));
        assert_eq!(publisher.due(now), Ok(Some(names(&["a"]))));
        assert!(publisher.add("b"));
        assert!(!publisher.add("c") && !publisher.add("b"));
        assert_eq!(publisher.due(now), Err(now + PAUSE_LONG), "nobody is known to listen");
        publisher.published(Ok(true), names(&["a"]), now);
        assert_eq!(publisher.due(now), Err(now + PAUSE));
        assert_eq!(publisher.due(now + PAUSE), Ok(Some(names(&["b", "c"]))));
        assert_eq!(publisher.due(now + PAUSE), Ok(None));
    }

    #[test]
    fn rings_again_what_was_not_answered() {
        let (mut publisher, now) = (Publisher::default(), Instant::now());
        publisher.add("a");
        let sent = publisher.due(now).unwrap().unwrap();
        publisher.published(Err(Errno::ETIMEDOUT), sent, now);
        assert_eq!(publisher.due(now), Err(now + AGAIN));
        publisher.add("b");
        assert_eq!(publisher.due(now + PAUSE), Ok(Some(names(&["b"]))));
        assert_eq!(publisher.due(now + AGAIN), Ok(Some(names(&["a"]))));
        publisher.published(Err(Errno::ENOENT), names(&["a"]), now);
        assert_eq!(publisher.due(now + 9 * AGAIN), Ok(None));
    }

    #[test]
    fn slows_down_while_rings_are_not_answered_and_stops_at_a_bound() {
        let (mut publisher, mut now) = (Publisher::default(), Instant::now());
        publisher.heard = true;
        for flying in 0..FLYING_MAX {
            publisher.add("a");
            let pause = if flying < FLYING_SLOW { PAUSE } else { PAUSE_LONG };
            if flying > 0 {
                assert_eq!(publisher.due(now), Err(now + pause));
            }
            now += pause;
            assert!(publisher.due(now).unwrap().is_some());
        }
        publisher.add("b");
        assert_eq!(publisher.due(now + AGAIN), Ok(None));
        publisher.published(Ok(true), Names::default(), now);
        assert_eq!(publisher.due(now + AGAIN), Ok(Some(names(&["b"]))));
    }

    #[test]
    fn names_survive_the_way_and_too_many_are_all() {
        let some = names(&["console.a.1", "b b"]);
        let bytes = some.to_bytes();
        let read: Vec<&str> = Names::from_bytes(&bytes).unwrap().collect();
        assert_eq!(read, ["b b", "console.a.1"]);
        let mut many = Names::default();
        for i in 0..=NAMES_MAX {
            many.add(&i.to_string());
        }
        assert!(many.all && Names::from_bytes(&many.to_bytes()).is_none());
        for strange in [&b""[..], b"\xff\n", b"a"] {
            assert!(Names::from_bytes(strange).is_none());
        }
    }
}
