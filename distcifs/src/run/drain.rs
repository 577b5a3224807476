//! `distcifs drain`: a mount takes no more work, by its file `.drain`.

use std::io::{self, IsTerminal};
use std::path::Path;
use std::time::{Duration, Instant};

use super::mounts::{self, Probe};
use super::options::resolve;
use super::{Failure, Outcome};
use crate::cli;

/// The file, below the mount point.
const FILE: &str = ".drain";

/// Between two looks at what is still worked.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(200);

/// How long it may take before it shows on a terminal how far it is.
const QUIET_TIME: Duration = Duration::from_secs(2);

/// Tickets named when the time is up.
const NAMED_MAX: usize = 10;

/// Begins to drain a mount and waits, or ends it.
pub(super) fn drain(arguments: &cli::Drain) -> Outcome {
    let mountpoint = resolve(&arguments.mountpoint);
    let place = mountpoint.display();
    let found = mounts::find(&mountpoint).map_err(Failure::Refused)?;
    if !found.is_some_and(|entry| entry.is_ours()) {
        return Err(Failure::Refused(format!("{place}: no mount of distcifs is there")));
    }
    // A daemon that is stuck must not hold us up.
    match mounts::probe(&mountpoint) {
        Probe::Alive => {}
        Probe::Dead => {
            return Err(Failure::Refused(format!(
                "{place}: its daemon is dead; nothing is worked there"
            )));
        }
        Probe::Silent => return Err(Failure::Refused(format!("{place}: its daemon does not answer"))),
    }
    if arguments.end {
        return say(&mountpoint, "end").map_err(Failure::Refused);
    }
    say(&mountpoint, "begin").map_err(Failure::Refused)?;
    wait(&mountpoint, Duration::from_secs(arguments.time))
}

/// Waits until nothing is worked on a drained mount.
fn wait(mountpoint: &Path, time: Duration) -> Outcome {
    let (begun, mut shown) = (Instant::now(), false);
    let left = loop {
        let left = still_worked(mountpoint).map_err(Failure::Refused)?;
        if left.is_empty() || begun.elapsed() >= time {
            break left;
        }
        if begun.elapsed() >= QUIET_TIME && io::stderr().is_terminal() {
            let seconds = begun.elapsed().as_secs();
            eprint!("\r\x1b[Kwaiting for {} tickets, {seconds} s: {}", left.len(), left[0]);
            shown = true;
        }
        std::thread::sleep(LOOK_EVERY);
    };
    if shown {
        eprint!("\r\x1b[K");
    }
    if left.is_empty() {
        return Ok(());
    }
    Err(Failure::Left(told(mountpoint, &left, time)))
}

/// What is still worked when the time is up, in words.
pub(super) fn told(mountpoint: &Path, left: &[String], time: Duration) -> String {
    let named = left
        .iter()
        .take(NAMED_MAX)
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join(", ");
    let more = match left.len().saturating_sub(NAMED_MAX) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let place = mountpoint.display();
    format!(
        "{place} takes no work, but after {} s still worked are: {named}{more}",
        time.as_secs()
    )
}

/// Writes a word.
pub(super) fn say(mountpoint: &Path, word: &str) -> Result<(), String> {
    let file = mountpoint.join(FILE);
    std::fs::write(&file, format!("{word}\n")).map_err(|error| explain(&file, &error))
}

/// What is still worked there.
pub(super) fn still_worked(mountpoint: &Path) -> Result<Vec<String>, String> {
    let file = mountpoint.join(FILE);
    let text = std::fs::read_to_string(&file).map_err(|error| explain(&file, &error))?;
    Ok(text.lines().skip(1).map(str::to_owned).collect())
}

fn explain(file: &Path, error: &io::Error) -> String {
    let hint = match error.kind() {
        io::ErrorKind::PermissionDenied => "; only root and the user who mounted may drain it",
        io::ErrorKind::NotFound => "; its daemon is of a version that can't be drained",
        _ => "",
    };
    format!("{}: {error}{hint}", file.display())
}
