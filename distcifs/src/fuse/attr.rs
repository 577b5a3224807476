//! Attributes of the tree in the kernel's form.

use std::time::{Duration, SystemTime};

use fuser::{FileAttr, FileType, INodeNo, TimeOrNow};

use crate::tree::{Attr, Kind};

/// Bytes that stat(2) recommends for reading and writing: enough that cp needs few requests,
/// little enough for programs that allocate as much for each open file.
const BLOCK_SIZE_BYTES: u32 = 64 * 1024;

/// Permission bits with set-user-id, set-group-id and sticky.
const PERMISSION_BITS: u32 = 0o7777;

/// The attributes as fuser wants them.
pub(super) fn file_attr(attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.ino.0),
        size: attr.size,
        blocks: attr.blocks,
        atime: attr.atime,
        mtime: attr.mtime,
        ctime: attr.ctime,
        crtime: SystemTime::UNIX_EPOCH,
        kind: file_type(attr.kind),
        perm: u16::try_from(attr.mode & PERMISSION_BITS).unwrap_or_default(),
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        blksize: BLOCK_SIZE_BYTES,
        flags: 0,
    }
}

/// The type of a node as fuser wants it.
pub(super) fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::File => FileType::RegularFile,
        Kind::Directory => FileType::Directory,
        Kind::Symlink => FileType::Symlink,
        Kind::Fifo => FileType::NamedPipe,
        Kind::Socket => FileType::Socket,
        Kind::CharDevice => FileType::CharDevice,
        Kind::BlockDevice => FileType::BlockDevice,
    }
}

/// A time to set: `Some(None)` is now, `None` leaves alone.
pub(super) fn time_to_set(time: Option<TimeOrNow>) -> Option<Option<SystemTime>> {
    time.map(|time| match time {
        TimeOrNow::SpecificTime(time) => Some(as_set(time)),
        TimeOrNow::Now => None,
    })
}

/// A time as it was set. The kernel gives whole seconds and the nanoseconds after them; of a time before
/// 1970 fuser takes the nanoseconds off instead.
fn as_set(time: SystemTime) -> SystemTime {
    let Err(before) = time.duration_since(SystemTime::UNIX_EPOCH) else {
        return time;
    };
    let nanoseconds = Duration::from_nanos(u64::from(before.duration().subsec_nanos()));
    time.checked_add(nanoseconds * 2).unwrap_or(time)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::Ino;

    #[test]
    fn type_bits_never_reach_the_permissions() {
        let time = SystemTime::UNIX_EPOCH;
        let attr = Attr {
            ino: Ino(7),
            kind: Kind::Directory,
            mode: 0o4_1777 | 0o2000,
            nlink: 2,
            uid: 3,
            gid: 4,
            rdev: 5,
            size: 6,
            blocks: 8,
            atime: time,
            mtime: time,
            ctime: time,
        };
        let got = file_attr(&attr);
        assert_eq!((got.perm, got.kind, got.ino), (0o3777, FileType::Directory, INodeNo(7)));
    }

    #[test]
    fn now_is_told_from_leaving_alone() {
        assert_eq!(time_to_set(None), None);
        assert_eq!(time_to_set(Some(TimeOrNow::Now)), Some(None));
        // -0.75 s is second -1 and 250,000,000 nanoseconds, of which fuser makes -1.25 s.
        let (given, meant) = (Duration::from_millis(1250), Duration::from_millis(750));
        let before = |time| SystemTime::UNIX_EPOCH - time;
        assert_eq!(
            time_to_set(Some(TimeOrNow::SpecificTime(before(given)))),
            Some(Some(before(meant)))
        );
        let time = SystemTime::UNIX_EPOCH;
        assert_eq!(time_to_set(Some(TimeOrNow::SpecificTime(time))), Some(Some(time)));
    }
}
