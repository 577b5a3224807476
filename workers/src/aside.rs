//! What is done with files that a script may hold, by a process of its own. Who writes such a file from memory that
//! never answers keeps the kernel's lock of it, and whoever removes it then stands until that one ends, whatever
//! signal he gets. So it is done by a process that is left behind when it does.

use std::io::{self, Read};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

/// Between two looks whether it has ended.
const STEP: Duration = Duration::from_millis(5);

/// What such a process wrote, and whether it ended well.
#[derive(Debug)]
pub struct Wrote {
    /// Its standard output.
    pub bytes: Vec<u8>,
    /// Whether its status was 0.
    pub well: bool,
}

/// Runs a program for so long at most. `None`: it takes longer; then it is killed, and left behind if that ends
/// nothing.
///
/// # Errors
/// If it can't be begun.
pub fn run(mut command: Command, limit: Duration) -> io::Result<Option<Wrote>> {
    let end = Instant::now() + limit;
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    let Some(mut out) = child.stdout.take() else {
        return Err(io::Error::other("a process without its output"));
    };
    let (told, heard) = channel();
    let reads = move || {
        let mut bytes = Vec::new();
        // What is cut short shows in how the process ended.
        drop(out.read_to_end(&mut bytes));
        drop(told.send(bytes));
    };
    thread::Builder::new().name("aside".into()).spawn(reads)?;
    let bytes = heard.recv_timeout(end.saturating_duration_since(Instant::now()));
    match (bytes, status(&mut child, end)) {
        (Ok(bytes), Some(well)) => Ok(Some(Wrote { bytes, well })),
        _ => {
            // Where it stands that does not reach it, and nobody waits.
            let _ = child.kill();
            let _ = status(&mut child, Instant::now() + 10 * STEP);
            Ok(None)
        }
    }
}

/// Whether it has ended well, once it has ended.
fn status(child: &mut Child, end: Instant) -> Option<bool> {
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status.success()),
            Ok(None) if Instant::now() < end => thread::sleep(STEP),
            Ok(None) => return None,
            Err(_) => return Some(false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdin(Stdio::null());
        command
    }

    #[test]
    fn what_it_wrote_and_how_it_ended_is_told() {
        let limit = Duration::from_secs(60);
        let wrote = run(sh("printf abc"), limit).unwrap().unwrap();
        assert!(wrote.well && wrote.bytes == b"abc");
        let wrote = run(sh("printf a; exit 3"), limit).unwrap().unwrap();
        assert!(!wrote.well && wrote.bytes == b"a");
        assert!(run(Command::new("/nowhere/at/all"), limit).is_err());
    }

    /// It is not waited for, nor for what it began, which has its output still.
    #[test]
    fn who_takes_longer_is_left_behind() {
        let limit = Duration::from_millis(50);
        let begun = Instant::now();
        assert!(run(sh("trap '' TERM; sleep 600"), limit).unwrap().is_none());
        assert!(run(sh("sleep 30 & exit 0"), limit).unwrap().is_none());
        assert!(begun.elapsed() < Duration::from_secs(20));
    }
}
