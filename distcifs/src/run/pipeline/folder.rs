//! The folder of a run, with its store and its mount: it ends with the process, and is swept up by the next one if that
//! was killed.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use distcifs_beneath as beneath;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::unistd::geteuid;
use rustix::fs::{AtFlags, unlinkat};

/// How the folders are called, before the process and a number.
const NAME: &str = "distcifs-run.";

/// What is in one.
const STORE: &str = "store";
const MOUNT: &str = "ci";

/// How often folders of one process are tried: one that was killed left its own.
const FOLDERS_MAX: u32 = 100;

/// A folder for a store and a mount, which ends with this process.
pub(super) struct Folder {
    pub(super) path: PathBuf,
    /// Held as long as this process lives: whoever sweeps leaves the folder alone. `None`: there are no such locks.
    lock: Option<Flock<File>>,
}

impl Folder {
    /// # Errors
    /// If none can be made.
    pub(super) fn make() -> Result<Self, String> {
        let base = std::env::temp_dir();
        Self::make_in(&base).map_err(|error| format!("can't make a folder in {}: {error}", base.display()))
    }

    fn make_in(base: &Path) -> io::Result<Self> {
        for number in 0..FOLDERS_MAX {
            let path = base.join(format!("{NAME}{}.{number}", std::process::id()));
            match DirBuilder::new().mode(0o700).create(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                other => other?,
            }
            let path = path.canonicalize()?;
            // Somebody who sweeps may have been quicker.
            let Some(lock) = locked(&path, open(&path)?) else {
                continue;
            };
            let folder = Folder { path, lock };
            // Whom root's tasks run as has to pass through; the store is closed.
            if geteuid().is_root() {
                fs::set_permissions(&folder.path, Permissions::from_mode(0o711))?;
            }
            DirBuilder::new().mode(0o700).create(folder.store())?;
            fs::create_dir(folder.mount())?;
            return Ok(folder);
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    pub(super) fn store(&self) -> PathBuf {
        self.path.join(STORE)
    }

    pub(super) fn mount(&self) -> PathBuf {
        self.path.join(MOUNT)
    }

    /// Removes what was made here. A mount that would not end is never gone into.
    pub(super) fn remove(self) {
        let removed = open(&self.path).and_then(|folder| empty(folder.into()));
        if let Err(error) = removed.and_then(|()| fs::remove_dir(&self.path)) {
            eprintln!("distcifs: {} is left: {error}", self.path.display());
        }
        drop(self.lock);
    }
}

/// Removes what runs of this user have left that were killed. What can't be removed is told, and is no error.
pub(super) fn sweep() {
    for (path, error) in sweep_in(&std::env::temp_dir()) {
        let (path, mount) = (path.display(), path.join(MOUNT));
        eprintln!(
            "distcifs: {path} is left of a run that was killed: {error}; if it is mounted still: \
             distcifs umount --lazy {}",
            mount.display()
        );
    }
}

/// The same for a base; what is left, and why.
fn sweep_in(base: &Path) -> Vec<(PathBuf, io::Error)> {
    let entries = fs::read_dir(base).into_iter().flatten().flatten();
    let named = entries.filter(|entry| entry.file_name().to_str().is_some_and(is_ours));
    let mut left = Vec::new();
    for path in named.map(|entry| entry.path()) {
        let Some((folder, lock)) = abandoned(&path) else {
            continue;
        };
        if let Err(error) = empty(folder).and_then(|()| fs::remove_dir(&path)) {
            left.push((path, error));
        }
        drop(lock);
    }
    left
}

/// A folder that its process has left, and the lock on it. None of somebody else's is, and none that others may write:
/// what is in it may be anybody's.
fn abandoned(path: &Path) -> Option<(OwnedFd, Flock<File>)> {
    let file = open(path).ok()?;
    let meta = file.metadata().ok()?;
    if meta.uid() != geteuid().as_raw() || meta.mode() & 0o022 != 0 {
        return None;
    }
    let folder = file.try_clone().ok()?.into();
    Some((folder, Flock::lock(file, FlockArg::LockExclusiveNonblock).ok()?))
}

/// Whether a name is that of such a folder.
fn is_ours(name: &str) -> bool {
    let numbers = name.strip_prefix(NAME).and_then(|rest| rest.split_once('.'));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    numbers.is_some_and(|(process, number)| is_number(process) && is_number(number))
}

/// Opens a folder, and no link to one.
fn open(path: &Path) -> io::Result<File> {
    let flags = libc::O_DIRECTORY | libc::O_NOFOLLOW;
    File::options().read(true).custom_flags(flags).open(path)
}

/// Takes the lock of a folder that was just made; `None` if somebody has swept it up, or is about to. The lock is `None`
/// where the file system has none: then nobody who sweeps gets it either.
fn locked(path: &Path, folder: File) -> Option<Option<Flock<File>>> {
    match Flock::lock(folder, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => {
            let (held, named) = (lock.metadata().ok()?, path.symlink_metadata().ok()?);
            ((held.dev(), held.ino()) == (named.dev(), named.ino())).then_some(Some(lock))
        }
        Err((_, Errno::EWOULDBLOCK)) => None,
        Err(_) => Some(None),
    }
}

/// Removes what is in such a folder: the mount point first, which is refused while something is mounted there.
fn empty(folder: OwnedFd) -> io::Result<()> {
    match unlinkat(&folder, MOUNT, AtFlags::REMOVEDIR) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    beneath::Folder::of(folder).remove(STORE.as_ref())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn left_in(base: &Path, name: &str) -> PathBuf {
        let path = base.join(name);
        fs::create_dir_all(path.join(STORE).join("contents")).unwrap();
        fs::create_dir_all(path.join(MOUNT)).unwrap();
        fs::write(path.join(STORE).join("contents/a"), "code").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o711)).unwrap();
        path
    }

    /// "What a run leaves that was killed the next one of the same user removes", and nothing else: no folder of a run
    /// that lives, none of another name, none that others may write, nothing that a link names.
    #[test]
    fn what_a_run_has_left_is_swept_up() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path();
        let gone = left_in(base, "distcifs-run.77.0");
        let half = base.join("distcifs-run.77.1");
        fs::create_dir(&half).unwrap();
        fs::set_permissions(&half, Permissions::from_mode(0o700)).unwrap();
        let open_to_others = left_in(base, "distcifs-run.77.2");
        fs::set_permissions(&open_to_others, Permissions::from_mode(0o777)).unwrap();
        let named = [
            "distcifs-run.77",
            "distcifs-run.x.0",
            "distcifs-run.77.0.1",
            "distcifs-run..0",
        ];
        let others: Vec<PathBuf> = named.iter().map(|name| left_in(base, name)).collect();
        let elsewhere = left_in(base, "elsewhere");
        symlink(&elsewhere, base.join("distcifs-run.78.0")).unwrap();
        let lives = Folder::make_in(base).unwrap();
        // Something stands where the mount is: it is never gone into.
        let used = left_in(base, "distcifs-run.79.0");
        fs::write(used.join(MOUNT).join("file"), "").unwrap();
        let left = sweep_in(base);
        assert!(!gone.exists() && !half.exists());
        assert!(others.iter().all(|path| path.join(STORE).join("contents/a").exists()));
        assert!(open_to_others.exists() && elsewhere.join(STORE).join("contents/a").exists());
        assert!(lives.store().exists() && lives.mount().exists());
        assert!(used.join(STORE).join("contents/a").exists());
        assert_eq!(left.iter().map(|(path, _)| path.clone()).collect::<Vec<_>>(), [used]);
        let path = lives.path.clone();
        lives.remove();
        assert!(!path.exists());
    }

    /// A folder that somebody swept up between its making and its lock is not used.
    #[test]
    fn a_folder_that_is_gone_or_taken_is_not_locked() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("distcifs-run.1.0");
        fs::create_dir(&path).unwrap();
        let file = open(&path).unwrap();
        let taken = Flock::lock(open(&path).unwrap(), FlockArg::LockExclusiveNonblock).unwrap();
        assert!(locked(&path, open(&path).unwrap()).is_none());
        fs::remove_dir(&path).unwrap();
        drop(taken);
        assert!(locked(&path, file).is_none());
    }
}
