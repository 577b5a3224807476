//! gc again and again while everything fails: it may fail as well, and nothing that is needed may go.

use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use super::farm::{Farm, SESSION_TIMEOUT};
use crate::cluster::text;
use crate::programs;

/// Between two runs: the bounds that the checker knows are of a machine that has room.
const PAUSE: Duration = Duration::from_secs(5);

/// Seconds that it waits for what is under way on a mount: longer than a stopped one has a session.
const WAIT: &str = "15";

/// What came of it.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Collected {
    /// Runs.
    pub runs: usize,
    /// Those that went to the end.
    pub done: usize,
    /// Chunks and folders that these removed.
    pub removed: usize,
}

impl Farm {
    /// Runs gc until everybody ends.
    pub(super) fn collect(&self) -> Collected {
        let mut collected = Collected::default();
        while !self.is_over() {
            let output = self.gc().output().expect("distcifs runs");
            let said = text(&output);
            collected.runs += 1;
            if output.status.success() {
                collected.done += 1;
                collected.removed += removed(&said).unwrap_or_else(|| panic!("gc said: {said}"));
            } else {
                // In the log of the test: what is damaged is a violation that fsck will find.
                eprintln!("gc failed: {}", said.trim_end());
            }
            sleep(PAUSE);
        }
        collected
    }

    fn gc(&self) -> Command {
        let mut gc = Command::new(programs::distcifs());
        gc.args(["gc", self.repository().source(), "--wait", WAIT]);
        let own = self.recorder().path().with_file_name("gc");
        let options = self.repository().options("gc", &own);
        gc.args(options.iter().flat_map(|options| ["-o", options]));
        gc.args(["-o", &format!("session_timeout={}", SESSION_TIMEOUT.as_secs())]);
        gc
    }
}

/// The number before the words "chunks and folders".
fn removed(said: &str) -> Option<usize> {
    let (before, _) = said.split_once(" chunks and folders,")?;
    before.rsplit(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_gc_says_is_read() {
        let said = "freed 12 bytes: 3 chunks and folders, 1 consoles, 0 records and entries; 7 chunks and folders are in use\n";
        assert_eq!(removed(said), Some(3));
        assert_eq!(removed("gc runs already"), None);
    }
}
