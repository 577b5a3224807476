//! `distcifs fsck` and `distcifs gc`: work on a source that nobody serves.

use std::path::Path;
use std::time::Duration;

use super::{Failure, Outcome, lock};
use crate::cli;

/// Checks everything in a source; prints what is wrong.
pub(super) fn fsck(arguments: &cli::Source) -> Outcome {
    alone(&arguments.source, check_source)
}

/// Removes what nothing needs; prints what it freed.
pub(super) fn gc(arguments: &cli::Source) -> Outcome {
    alone(&arguments.source, sweep_source)
}

/// Runs work while nobody else has the source.
fn alone(source: &Path, work: fn(&Path) -> Result<(), String>) -> Outcome {
    let explain = |error| Failure::Refused(format!("{}: {error}", source.display()));
    let source = source.canonicalize().map_err(explain)?;
    if !lock::wait_free(&source, Duration::ZERO) {
        return Err(Failure::Refused(format!(
            "{} is mounted: unmount it first",
            source.display()
        )));
    }
    // Whoever comes between is refused by the store's lock, or refuses us.
    work(&source).map_err(Failure::Refused)
}

/// The check itself; to be joined with the store.
fn check_source(source: &Path) -> Result<(), String> {
    Err(format!("{}: this program can't check a source yet", source.display()))
}

/// The sweep itself; to be joined with the store.
fn sweep_source(source: &Path) -> Result<(), String> {
    Err(format!("{}: this program can't sweep a source yet", source.display()))
}
