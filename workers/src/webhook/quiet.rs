//! The log of what anybody on the network can bring about: some lines in a while, the others counted.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long lines are counted together.
const WINDOW: Duration = Duration::from_secs(10);

/// Lines that are written in that time, at most.
const LINES_MAX: u64 = 20;

/// Lines of one kind for the log.
#[derive(Debug, Default)]
pub struct Quiet(Mutex<Count>);

#[derive(Debug, Default)]
struct Count {
    begun: Option<Instant>,
    /// Since then, written or not.
    lines: u64,
}

impl Quiet {
    /// Writes a line, or counts it if there were many just now.
    pub fn say(&self, line: &str) {
        let (counted, written) = self.count(Instant::now());
        if counted > 0 {
            eprintln!("github-webhook: {counted} more lines like these were left out");
        }
        if written {
            eprintln!("github-webhook: {line}");
        }
    }

    /// How many lines were left out that are to be told of now, and whether this one is written.
    fn count(&self, now: Instant) -> (u64, bool) {
        let mut count = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut left_out = 0;
        let open = |begun: Instant| now.saturating_duration_since(begun) < WINDOW;
        if !count.begun.is_some_and(open) {
            left_out = count.lines.saturating_sub(LINES_MAX);
            *count = Count {
                begun: Some(now),
                lines: 0,
            };
        }
        count.lines += 1;
        (left_out, count.lines <= LINES_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// "What anybody can bring about fills no log: 20 lines in 10 s, and how many more there were."
    #[test]
    fn lines_that_come_too_often_are_counted() {
        let quiet = Quiet::default();
        let begun = Instant::now();
        let written = |count| (0..count).filter(|_| quiet.count(begun).1).count();
        assert_eq!(written(5000), 20);
        assert_eq!(quiet.count(begun + WINDOW), (4980, true), "the next one tells of them");
        assert_eq!(quiet.count(begun + WINDOW), (0, true));
        assert_eq!(quiet.count(begun + 3 * WINDOW), (0, true), "none was left out");
    }
}
