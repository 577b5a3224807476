//! `distcifs fsck` and `distcifs gc`: work on a source that nobody serves.

use std::fmt::Display;
use std::future::Future;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};

use super::{Failure, Outcome, lock};
use crate::backend::embedded::Embedded;
use crate::cli;
use crate::repository::maintain::{Progress, Upkeep};

/// How long work may take before it shows on a terminal how far it is, and how often then.
const QUIET_TIME: Duration = Duration::from_secs(2);
const SHOW_EVERY: Duration = Duration::from_millis(500);

/// Threads that read objects.
const THREADS: usize = 2;

/// Folders in a source that hold claimants' folders, or what is left of them.
const LEFTOVERS: [&str; 2] = ["attempts", "attempts.trash"];

/// Checks everything in a source; prints what is wrong.
pub(super) fn fsck(arguments: &cli::Source) -> Outcome {
    let (_source, store, runtime) = open(&arguments.source)?;
    let upkeep = Upkeep::new(store.coordination(), store.contents());
    let checked = watched(&runtime, &upkeep.progress, upkeep.check())?;
    for fault in &checked.faults {
        say(fault)?;
    }
    say(&checked)?;
    if checked.faults.is_empty() {
        Ok(())
    } else {
        Err(Failure::Told)
    }
}

/// Removes what nothing needs; prints what it freed.
pub(super) fn gc(arguments: &cli::Source) -> Outcome {
    let (source, store, runtime) = open(&arguments.source)?;
    let upkeep = Upkeep::new(store.coordination(), store.contents());
    let swept = watched(&runtime, &upkeep.progress, upkeep.sweep())?;
    for fault in &swept.faults {
        say(fault)?;
    }
    if !swept.faults.is_empty() {
        return Err(Failure::Refused(format!(
            "{}: nothing was removed, as what is damaged may need it; run distcifs fsck",
            source.display()
        )));
    }
    say(&swept)?;
    // The store's lock is ours: nobody works in these folders.
    for folder in LEFTOVERS.map(|name| source.join(name)) {
        let left = remove_below(&folder);
        let left = left.map_err(|error| Failure::Refused(format!("{}: {error}", folder.display())))?;
        if left > 0 {
            say(&format!(
                "removed {left} folders of former workers from {}",
                folder.display()
            ))?;
        }
    }
    Ok(())
}

/// Opens a source that nobody else has open.
fn open(source: &Path) -> Result<(PathBuf, Embedded, Runtime), Failure> {
    let explain = |error| Failure::Refused(format!("{}: {error}", source.display()));
    let source = source.canonicalize().map_err(explain)?;
    let place = source.display();
    if !source.join("format").exists() {
        return Err(Failure::Refused(format!("{place}: holds no store of distcifs")));
    }
    if !lock::wait_free(&source, Duration::ZERO) {
        return Err(Failure::Refused(format!("{place} is mounted: unmount it first")));
    }
    // Whoever comes between is refused by the store's lock, or we are.
    let store = Embedded::open(&source).map_err(|error| Failure::Refused(error.to_string()))?;
    let runtime = Builder::new_multi_thread()
        .worker_threads(THREADS)
        .enable_all()
        .build()
        .map_err(|error| Failure::Refused(format!("can't start threads: {error}")))?;
    Ok((source, store, runtime))
}

/// Does the work, and shows on a terminal how far it is.
fn watched<T>(
    runtime: &Runtime,
    progress: &Arc<Progress>,
    work: impl Future<Output = crate::repository::Result<T>>,
) -> Result<T, Failure> {
    let (end, ended) = mpsc::channel::<()>();
    let shown = progress.clone();
    let shower = std::thread::spawn(move || {
        let mut pause = QUIET_TIME;
        while std::io::stderr().is_terminal() && ended.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
            let (doing, done) = shown.now();
            eprint!("\r\x1b[K{doing}: {done}");
            pause = SHOW_EVERY;
        }
        if pause == SHOW_EVERY {
            eprint!("\r\x1b[K");
        }
    });
    let done = runtime.block_on(work);
    drop(end);
    // It only prints: how it ended does not matter.
    shower.join().ok();
    done.map_err(|error| Failure::Refused(error.to_string()))
}

/// Prints a line.
fn say(line: &dyn Display) -> Outcome {
    writeln!(std::io::stdout(), "{line}").map_err(|error| Failure::Refused(format!("standard output: {error}")))
}

/// Removes everything in a folder; how many things stood in it.
fn remove_below(folder: &Path) -> std::io::Result<u64> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error),
    };
    let mut removed = 0;
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            std::fs::remove_dir_all(entry.path())?;
        } else {
            std::fs::remove_file(entry.path())?;
        }
        removed += 1;
    }
    Ok(removed)
}
