//! A folder for a program that mounts by itself, such as `distcifs up`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, umount2};
use nix::sys::signal::Signal;

use crate::process;
use crate::repository::Repository;

/// A temporary folder; what was mounted at `ci` in it, and whatever works in it, ends with it.
pub struct Folder(tempfile::TempDir);

impl Folder {
    /// Makes it, with a folder `out` for the output of scripts beside the one to work in.
    pub fn new() -> Folder {
        let folder = tempfile::tempdir().expect("a temporary folder");
        // Tasks do not run as root, whoever runs the test.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("own folder");
        for name in ["out", "run"] {
            fs::create_dir(folder.path().join(name)).expect("own folder");
        }
        Folder(folder)
    }

    /// For the output of scripts.
    pub fn out(&self) -> PathBuf {
        self.0.path().join("out")
    }

    /// The folder to work in.
    pub fn path(&self) -> PathBuf {
        self.0.path().join("run")
    }

    /// What to mount: `store` in the folder to work in, or a repository on a cluster, whichever the
    /// environment says; then the options that it needs.
    pub fn repository(&self) -> Vec<String> {
        let repository = Repository::new(&self.path().join("store"));
        let mut words = vec![repository.source().to_owned()];
        if let Some(options) = repository.options("first", &self.path().join("state")) {
            words.extend(["-o".to_owned(), options]);
        }
        words
    }

    /// Where to mount: `ci` in the folder to work in; not made yet.
    pub fn mount_point(&self) -> PathBuf {
        self.path().join("ci")
    }
}

impl Default for Folder {
    fn default() -> Self {
        Folder::new()
    }
}

/// Whether something is mounted there.
pub fn is_mounted(path: &Path) -> bool {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    table
        .lines()
        .any(|line| line.split(' ').nth(4).is_some_and(|at| Path::new(at) == path))
}

impl Drop for Folder {
    fn drop(&mut self) {
        let kill = |pid| process::signal(pid, Signal::SIGKILL);
        process::working_below(self.0.path()).into_iter().for_each(kill);
        // Whoever was told the folder's name relatively ends with its mount.
        let _ = umount2(&self.mount_point(), MntFlags::MNT_DETACH);
        process::daemons(&self.mount_point()).into_iter().for_each(kill);
    }
}
