//! How far work has come, for whoever watches it.

use std::fmt;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::repository::core::lock;

/// What is being done, and how far it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Far {
    /// What is being done; empty: nothing yet.
    pub doing: String,
    /// How many things it is done with.
    pub done: u64,
    /// Of how many; 0 where nobody knows.
    pub of: u64,
    /// Their bytes; 0 where nobody counts them.
    pub bytes: u64,
}

impl fmt::Display for Far {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.doing)?;
        match (self.done, self.of) {
            (0, 0) => {}
            (done, 0) => write!(f, ": {done}")?,
            (done, of) => write!(f, ": {done} of {of}")?,
        }
        match self.bytes {
            0 => Ok(()),
            bytes => write!(f, ", {}", Size(bytes)),
        }
    }
}

/// Bytes as people read them.
struct Size(u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 < 1024 {
            return write!(f, "{} bytes", self.0);
        }
        let (mut tenths, mut units) = (self.0.saturating_mul(10) / 1024, ["KiB", "MiB", "GiB", "TiB"].iter());
        let mut unit = units.next().unwrap_or(&"");
        for next in units {
            if tenths < 10_240 {
                break;
            }
            (tenths, unit) = (tenths / 1024, next);
        }
        write!(f, "{}.{} {unit}", tenths / 10, tenths % 10)
    }
}

/// The same while it goes on.
#[derive(Debug)]
pub struct Progress(Mutex<State>);

#[derive(Debug)]
struct State {
    far: Far,
    /// When that began.
    since: Instant,
}

impl State {
    fn set(&mut self, far: Far) {
        if far.doing != self.far.doing {
            self.since = Instant::now();
        }
        self.far = far;
    }
}

impl Default for Progress {
    fn default() -> Self {
        Progress(Mutex::new(State {
            far: Far::default(),
            since: Instant::now(),
        }))
    }
}

impl Progress {
    /// Tells what is done from now on.
    pub fn begin(&self, doing: impl Into<String>) {
        self.begin_of(doing, 0);
    }

    /// Tells what is done from now on, and to how many things.
    pub fn begin_of(&self, doing: impl Into<String>, of: usize) {
        lock(&self.0).set(Far {
            doing: doing.into(),
            of: of as u64,
            ..Far::default()
        });
    }

    /// Tells that one more is done.
    pub fn step(&self) {
        lock(&self.0).far.done += 1;
    }

    /// Tells that so many more are done.
    pub fn steps(&self, done: usize) {
        lock(&self.0).far.done += done as u64;
    }

    /// Tells that one more is done, of so many bytes.
    pub fn step_of(&self, bytes: u64) {
        let mut state = lock(&self.0);
        state.far.done += 1;
        state.far.bytes += bytes;
    }

    /// Tells for whom it waits, for how long so far, and how long at most.
    pub fn wait(&self, whom: &str, so_far: Duration, most: Duration) {
        self.follow(Far {
            doing: format!("waiting for {whom}, seconds"),
            done: so_far.as_secs(),
            of: most.as_secs(),
            bytes: 0,
        });
    }

    /// Takes over what somebody else tells, if he has begun.
    pub fn follow(&self, far: Far) {
        if !far.doing.is_empty() {
            lock(&self.0).set(far);
        }
    }

    /// What is being done, and how far it is.
    pub fn now(&self) -> Far {
        lock(&self.0).far.clone()
    }

    /// For how long it has been doing that.
    pub fn so_far(&self) -> Duration {
        lock(&self.0).since.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_is_told() {
        let progress = Progress::default();
        let said = || progress.now().to_string();
        assert_eq!(said(), "");
        progress.begin("reading tickets");
        assert_eq!(said(), "reading tickets");
        progress.step();
        assert_eq!(said(), "reading tickets: 1");
        progress.begin_of("copying objects", 7);
        assert_eq!(said(), "copying objects: 0 of 7");
        progress.step_of(1536);
        progress.steps(1);
        assert_eq!(said(), "copying objects: 2 of 7, 1.5 KiB");
        progress.begin("looking for consoles");
        assert_eq!(said(), "looking for consoles");
        progress.follow(Far {
            doing: "x".into(),
            done: 3,
            of: 0,
            bytes: 1 << 30,
        });
        assert_eq!(said(), "x: 3, 1.0 GiB");
        progress.follow(Far::default());
        assert_eq!(said(), "x: 3, 1.0 GiB");
        progress.wait("you", Duration::from_millis(2900), Duration::from_secs(60));
        assert_eq!(said(), "waiting for you, seconds: 2 of 60");
    }

    #[test]
    fn sizes_are_short() {
        for (bytes, text) in [
            (1, "1 bytes"),
            (1536, "1.5 KiB"),
            (1023 << 10, "1023.0 KiB"),
            (1 << 20, "1.0 MiB"),
            (5 << 40, "5.0 TiB"),
            (u64::MAX, "1677721.5 TiB"),
        ] {
            assert_eq!(Size(bytes).to_string(), text);
        }
    }
}
