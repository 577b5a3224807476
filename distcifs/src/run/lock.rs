//! Whether somebody has a source open: the store's own lock, seen from outside.
//!
//! It protects nothing (the store does that when it is opened); it lets `umount` wait for the end,
//! and makes errors clear.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::repository::deadline::Deadline;

/// The store's lock file, below the source.
const FILE: &str = "lock";

/// Between two tries: flock(2) has no time limit of its own.
const TRY_EVERY: Duration = Duration::from_millis(20);

/// Waits until nobody holds the lock; false if somebody still does after `patience`.
pub(super) fn wait_free(source: &Path, patience: Duration) -> bool {
    let deadline = Deadline::after(patience);
    loop {
        // A source without the file, or one that may not be read, has nobody to wait for.
        let Ok(file) = File::open(source.join(FILE)) else {
            return true;
        };
        match Flock::lock(file, FlockArg::LockSharedNonblock) {
            Err((_, Errno::EWOULDBLOCK)) if deadline.passed() => return false,
            Err((_, Errno::EWOULDBLOCK | Errno::EINTR)) => sleep(TRY_EVERY),
            Ok(_) | Err(_) => return true,
        }
    }
}

/// Takes the lock of a folder until the file is closed, and writes the process into it.
pub(super) fn take(folder: &Path) -> Result<Flock<File>, String> {
    let path = folder.join(FILE);
    let place = path.display();
    let file = File::options().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(|error| format!("{place}: {error}"))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(mut held) => {
            let written = held.set_len(0).and_then(|()| writeln!(held, "{}", std::process::id()));
            written.map_err(|error| format!("{place}: {error}")).map(|()| held)
        }
        Err((_, error)) => Err(format!("{place}: another mount of this machine holds it ({error})")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_source_is_waited_for_and_a_free_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        assert!(wait_free(dir.path(), Duration::ZERO), "no lock, nobody to wait for");
        let file = File::create(dir.path().join(FILE)).unwrap();
        let held = Flock::lock(file, FlockArg::LockExclusiveNonblock).unwrap();
        assert!(!wait_free(dir.path(), Duration::from_millis(50)));
        let other = std::thread::spawn(move || {
            sleep(Duration::from_millis(50));
            drop(held);
        });
        assert!(wait_free(dir.path(), Duration::from_secs(10)));
        other.join().unwrap();
    }
}
