//! What its owner has shut for himself too, opened for the length of a capture: an ordinary user's
//! daemon may not read it otherwise. Root's may.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, openat};
use nix::sys::stat::{FchmodatFlags, Mode, SFlag, fchmodat, fstat};
use nix::unistd::geteuid;

use super::local;

/// A file or folder that has more permissions than it was given, until this is dropped.
pub(super) struct Unlocked {
    path: OwnedFd,
    /// The mode that it was given.
    pub(super) mode: u32,
}

impl Unlocked {
    /// Adds the permission bits `needed` to what `name` is, if it lacks them, belongs to an
    /// ordinary daemon's user and is of this kind. `None` if nothing is to be done, or it can't be.
    pub(super) fn new(parent: impl AsFd, name: &[u8], kind: SFlag, needed: u32) -> Option<Unlocked> {
        if geteuid().is_root() {
            return None;
        }
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let path = openat(parent, name, flags, Mode::empty()).ok()?;
        let stat = fstat(&path).ok()?;
        let mode = stat.st_mode & 0o7777;
        let shut = local::kind(&stat) == kind && stat.st_uid == geteuid().as_raw() && mode & needed != needed;
        if !shut {
            return None;
        }
        change(&path, mode | needed).ok()?;
        Some(Unlocked { path, mode })
    }
}

impl Drop for Unlocked {
    fn drop(&mut self) {
        if let Err(errno) = change(&self.path, self.mode) {
            tracing::warn!(%errno, "a claimant's file keeps permissions that it was lent");
        }
    }
}

/// chmod by a descriptor opened with `O_PATH`.
fn change(path: &OwnedFd, mode: u32) -> Result<(), Errno> {
    let place = PathBuf::from(format!("/proc/self/fd/{}", path.as_raw_fd()));
    fchmodat(
        AT_FDCWD,
        &place,
        Mode::from_bits_truncate(mode),
        FchmodatFlags::FollowSymlink,
    )
}
