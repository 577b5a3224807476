//! How far a command is, on a terminal: one line of standard error, written anew and gone in the end.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::unistd::{getpgrp, tcgetpgrp};

use crate::repository::maintain::Progress;

/// How long work may take before it shows how far it is, and how often then.
const QUIET_TIME: Duration = Duration::from_secs(2);
const SHOW_EVERY: Duration = Duration::from_millis(500);

/// Columns of a terminal that does not say.
const COLUMNS: usize = 80;

/// Takes the cursor to the beginning of its line, which is cleared.
const CLEAR: &str = "\r\x1b[K";

/// Shows how far some work is until it is dropped; then the line is clean again. What else is printed, is
/// printed after that.
pub(super) struct Shown {
    /// What is told of the work.
    pub(super) progress: Arc<Progress>,
    running: Option<(Sender<()>, JoinHandle<()>)>,
}

impl Shown {
    /// Begins; `doing` is told until the work tells more.
    pub(super) fn new(doing: impl Into<String>) -> Shown {
        let progress = Arc::<Progress>::default();
        progress.begin(doing);
        let running = is_watched().then(|| {
            let (end, ended) = mpsc::channel::<()>();
            let shown = progress.clone();
            (end, std::thread::spawn(move || show(&shown, &ended)))
        });
        Shown { progress, running }
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        if let Some((end, shower)) = self.running.take() {
            drop(end);
            // It only prints: how it ended does not matter.
            shower.join().ok();
        }
    }
}

/// Whether standard error is a terminal that can take a line back. One with the variable TERM at `dumb` can't.
fn is_watched() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Whether the terminal is ours now: behind a `&` it is the shell's.
fn is_in_front() -> bool {
    tcgetpgrp(std::io::stderr()).map_or(true, |front| front == getpgrp())
}

/// Shows it again and again until it is over.
fn show(progress: &Progress, ended: &mpsc::Receiver<()>) {
    let (mut pause, mut dirty) = (QUIET_TIME, false);
    while ended.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
        pause = SHOW_EVERY;
        if is_in_front() {
            let far = progress.now();
            // What counts shows by that that it goes on.
            let counts = far.done > 0 || far.of > 0;
            let time = (!counts).then(|| progress.so_far());
            eprint!("{CLEAR}{}", fitted(&far.to_string(), time, columns()));
            dirty = true;
        }
    }
    if dirty {
        eprint!("{CLEAR}");
    }
}

/// Columns of the terminal.
fn columns() -> usize {
    let size = rustix::termios::tcgetwinsize(std::io::stderr());
    let columns = size.map_or(0, |size| usize::from(size.ws_col));
    if columns == 0 { COLUMNS } else { columns }
}

/// A text and how long it has been true, in one line: a longer one could not be taken back. Names in it may be
/// anybody's.
fn fitted(text: &str, since: Option<Duration>, columns: usize) -> String {
    let time = since.map_or(String::new(), |since| format!(" ({} s)", since.as_secs()));
    let room = columns.saturating_sub(1 + time.len());
    let plain: Vec<char> = text.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    let mut line: String = plain.iter().take(room).collect();
    if plain.len() > room && room > 3 {
        line = plain.iter().take(room - 3).collect::<String>() + "...";
    }
    line + &time
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_line() {
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        assert_eq!(fitted("reading: 3 of 7", None, 80), "reading: 3 of 7");
        assert_eq!(fitted("opening", seconds(12), 80), "opening (12 s)");
        assert_eq!(
            fitted("waiting for \x1b[2Jyou\n", seconds(1), 80),
            "waiting for ?[2Jyou? (1 s)"
        );
        let long = fitted(&"ä".repeat(200), seconds(5), 40);
        assert_eq!(long.chars().count(), 39);
        assert!(long.ends_with("ä... (5 s)"), "{long}");
        assert!(fitted("anything", seconds(1), 1).chars().count() <= 8);
    }
}
