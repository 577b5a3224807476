//! `distcifs drain`: a mount takes no more work, by its file `.drain`.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use super::mounts::{self, Probe};
use super::options::resolve;
use super::progress::Shown;
use super::{Failure, Outcome};
use crate::cli;
use crate::repository::maintain::Progress;

/// The file, below the mount point.
const FILE: &str = ".drain";

/// Between two looks at what is still worked.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(200);

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
    let (begun, shown) = (Instant::now(), Shown::new("asking what is worked"));
    let left = loop {
        let left = still_worked(mountpoint).map_err(Failure::Refused)?;
        if left.is_empty() || begun.elapsed() >= time {
            break left;
        }
        show(&shown.progress, &left, begun.elapsed(), time);
        std::thread::sleep(LOOK_EVERY);
    };
    drop(shown);
    if left.is_empty() {
        return Ok(());
    }
    Err(Failure::Left(told(mountpoint, &left, time)))
}

/// Shows for what it waits, the first of it by name.
pub(super) fn show(progress: &Progress, left: &[String], so_far: Duration, most: Duration) {
    let first = left.first().map_or("", String::as_str);
    let whom = match left.len() {
        1 => first.to_owned(),
        more => format!("{more} tickets ({first} ...)"),
    };
    progress.wait(&whom, so_far, most);
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
