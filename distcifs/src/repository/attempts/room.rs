//! A mount's own folder for workspaces. The folder that it lies in may hold anything else, other
//! mounts' among it, and only what is known to be a dead mount's is removed.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use super::remove_tree;

/// How the folders of mounts are called; mkdtemp(3) puts letters for the X.
const TEMPLATE: &str = "distcifs-mount-XXXXXX";

/// How often a folder is made anew that another mount, just looking for dead ones, has taken away.
const TRIES_MAX: usize = 100;

/// A mount's folder, held by a lock that ends with the process.
pub(super) struct Room {
    path: PathBuf,
    _lock: Flock<File>,
}

impl Room {
    /// Makes a folder for this mount below `cache`, and deletes those of dead mounts meanwhile.
    pub(super) fn take(cache: &Path) -> io::Result<Room> {
        DirBuilder::new().recursive(true).mode(0o700).create(cache)?;
        let dead = Room::dead(cache)?;
        std::thread::Builder::new()
            .name("old-workspaces".to_owned())
            .spawn(move || dead.iter().for_each(|room| remove_tree(&room.path)))?;
        for _ in 0..TRIES_MAX {
            let path = nix::unistd::mkdtemp(&cache.join(TEMPLATE))?;
            if let Some(room) = Room::lock(path) {
                return Ok(room);
            }
        }
        Err(io::ErrorKind::ResourceBusy.into())
    }

    /// The folder.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Those that nobody holds any more.
    fn dead(cache: &Path) -> io::Result<Vec<Room>> {
        let (prefix, _) = TEMPLATE.split_once('X').unwrap_or_default();
        let entries = std::fs::read_dir(cache)?.flatten();
        let ours = entries.filter(|entry| {
            let name = entry.file_name().into_string().unwrap_or_default();
            name.starts_with(prefix)
                && name.len() == TEMPLATE.len()
                && entry.file_type().is_ok_and(|kind| kind.is_dir())
        });
        Ok(ours.filter_map(|entry| Room::lock(entry.path())).collect())
    }

    /// Holds a folder; `None` if another process does, or it is gone.
    fn lock(path: PathBuf) -> Option<Room> {
        let folder = File::open(&path).ok()?;
        let lock = Flock::lock(folder, FlockArg::LockExclusiveNonblock).ok()?;
        // Whoever held it before may have deleted it.
        path.exists().then_some(Room { path, _lock: lock })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::time::{Duration, Instant};

    use super::*;

    /// Mounts share a folder with each other and with strangers; what a dead one left is removed.
    #[test]
    fn only_what_dead_mounts_left_is_removed() {
        let cache = tempfile::tempdir().unwrap();
        std::fs::create_dir(cache.path().join("distcifs-mount-here")).unwrap();
        std::fs::write(cache.path().join("precious"), "data").unwrap();
        let (living, dead) = (Room::take(cache.path()).unwrap(), Room::take(cache.path()).unwrap());
        for room in [&living, &dead] {
            std::fs::write(room.path().join("file"), "work").unwrap();
            let mode = std::fs::metadata(room.path()).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o700);
        }
        let left = dead.path().to_owned();
        drop(dead);
        let next = Room::take(cache.path()).unwrap();
        let begun = Instant::now();
        while left.exists() && begun.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(!left.exists() && next.path() != living.path());
        assert!(living.path().join("file").exists());
        assert!(cache.path().join("precious").exists() && cache.path().join("distcifs-mount-here").exists());
    }
}
