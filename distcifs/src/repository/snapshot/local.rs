//! The local disk: times, modes and descriptors, never through a symbolic link.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime};

use super::error::{Result, SnapshotError};
use super::format::{Meta, Time, Xattrs};
use super::manifest::FileKey;
use crate::storage::descriptors::spare_nix;

/// Flags of every folder that is opened.
const FOLDER_FLAGS: OFlag = OFlag::O_RDONLY
    .union(OFlag::O_DIRECTORY)
    .union(OFlag::O_NOFOLLOW)
    .union(OFlag::O_CLOEXEC);

/// Opens the folder that a capture or restore works in.
pub(super) fn open_root(dir: &Path) -> Result<OwnedFd> {
    spare_nix(|| open(dir, FOLDER_FLAGS, Mode::empty()))
        .map_err(|e| SnapshotError::local(format!("opening {}", dir.display()), e))
}

/// Opens a folder within another.
pub(super) fn open_folder(parent: impl AsFd, name: &[u8]) -> std::result::Result<OwnedFd, Errno> {
    spare_nix(|| openat(&parent, name, FOLDER_FLAGS, Mode::empty()))
}

/// Levels of folders that a walk holds open while it is below them; deeper ones are opened again
/// afterwards. So a walk takes few descriptors however deep folders nest.
const HELD_LEVELS: usize = 16;

/// A folder that a walk has left for one below it.
pub(super) enum Left {
    /// It is held open.
    Held(OwnedFd),
    /// It is to be found again: its device and number.
    Closed(u64, u64),
}

impl Left {
    /// Leaves a folder that is so many levels deep.
    pub(super) fn new(folder: OwnedFd, depth: usize) -> std::result::Result<Left, Errno> {
        if depth < HELD_LEVELS {
            return Ok(Left::Held(folder));
        }
        fstat(&folder).map(|stat| Left::Closed(stat.st_dev, stat.st_ino))
    }

    /// Goes back to it from the one below; `ESTALE` if that has been moved meanwhile.
    pub(super) fn enter(self, below: impl AsFd) -> std::result::Result<OwnedFd, Errno> {
        match self {
            Left::Held(folder) => Ok(folder),
            Left::Closed(device, number) => {
                let folder = open_folder(below, b"..")?;
                let stat = fstat(&folder)?;
                let same = (stat.st_dev, stat.st_ino) == (device, number);
                if same { Ok(folder) } else { Err(Errno::ESTALE) }
            }
        }
    }
}

/// Time of modification.
pub(super) fn mtime(stat: &FileStat) -> Time {
    Time {
        seconds: stat.st_mtime,
        nanoseconds: stat.st_mtime_nsec as u32,
    }
}

/// Time of the last change of bytes or attributes.
pub(super) fn ctime(stat: &FileStat) -> Time {
    Time {
        seconds: stat.st_ctime,
        nanoseconds: stat.st_ctime_nsec as u32,
    }
}

/// The clock that files are stamped with.
pub(super) fn stamp_clock() -> Time {
    // The call fails only for clocks that do not exist; time 0 makes nothing trusted.
    clock_gettime(ClockId::CLOCK_REALTIME_COARSE).map_or(Time::default(), |now| Time {
        seconds: now.tv_sec(),
        nanoseconds: now.tv_nsec() as u32,
    })
}

/// A time for utimensat.
pub(super) fn time_spec(time: Time) -> TimeSpec {
    TimeSpec::new(time.seconds, i64::from(time.nanoseconds))
}

/// Which file it is, whatever its name.
pub(super) fn key(stat: &FileStat) -> FileKey {
    (stat.st_dev, stat.st_ino)
}

/// The type bits.
pub(super) fn kind(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits())
}

/// Mode, owner and time as a listing has them.
pub(super) fn meta(stat: &FileStat, xattrs: Xattrs) -> Meta {
    Meta {
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: mtime(stat),
        xattrs,
    }
}

/// A path or name for people.
pub(super) fn shown(path: &Path) -> String {
    if path.as_os_str().is_empty() {
        ".".to_owned()
    } else {
        path.display().to_string()
    }
}
