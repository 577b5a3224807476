//! `distcifs umount`.

use std::time::Duration;

use super::mounts::{self, Refusal};
use super::options::resolve;
use super::progress::Shown;
use super::{Failure, Outcome, lock};
use crate::cli;

/// How long the daemon may take to let go of the source.
const RELEASE_TIME: Duration = Duration::from_secs(10);

/// Processes named when a mount is busy.
const USERS_NAMED_MAX: usize = 5;

/// Unmounts, and waits until the source can be mounted again.
pub(super) fn umount(arguments: &cli::Umount) -> Outcome {
    let mountpoint = resolve(&arguments.mountpoint);
    let place = mountpoint.display();
    let found = mounts::find(&mountpoint).map_err(Failure::Refused)?;
    let Some(entry) = found else {
        return Err(Failure::Refused(format!("{place}: nothing is mounted there")));
    };
    if !entry.is_ours() {
        return Err(Failure::Refused(format!(
            "{place}: that is a mount of type {}, not of distcifs",
            entry.kind
        )));
    }
    if let Some(pid) = mounts::keeper(&mountpoint) {
        return Err(Failure::Refused(format!(
            "{place} is kept mounted by distcifs up, process {pid}: end that (kill {pid}); it unmounts"
        )));
    }
    let dead = mounts::probe(&mountpoint) == mounts::Probe::Dead;
    match mounts::unmount(&mountpoint, arguments.lazy || dead) {
        Ok(()) => {}
        Err(Refusal::Busy) => return Err(Failure::Refused(busy(&mountpoint))),
        Err(Refusal::Other(reason)) => return Err(Failure::Refused(reason)),
    }
    let shown = Shown::new(format!(
        "waiting until the daemon lets go of {}",
        entry.source.display()
    ));
    if lock::wait_free(&entry.source, RELEASE_TIME) {
        return Ok(());
    }
    drop(shown);
    let source = entry.source.display();
    let why = if arguments.lazy {
        "; processes are still inside"
    } else {
        ""
    };
    Err(Failure::Refused(format!(
        "{place} is unmounted, but its daemon still holds {source} after {RELEASE_TIME:?}{why}"
    )))
}

/// Who is inside.
fn busy(mountpoint: &std::path::Path) -> String {
    let users = mounts::users(mountpoint, USERS_NAMED_MAX);
    let named: Vec<String> = users
        .into_iter()
        .map(|user| format!("{} ({})", user.pid, user.name))
        .collect();
    let place = mountpoint.display();
    match named.as_slice() {
        [] => format!("{place} is busy, by processes that you may not see; --lazy detaches it all the same"),
        _ => format!("{place} is busy: {}; end them, or use --lazy", named.join(", ")),
    }
}
