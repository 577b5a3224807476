//! Attributes of nodes, and of the filesystem they are on.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::AsFd;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, SystemTime};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, readlinkat};
use nix::sys::stat::{
    FchmodatFlags, FileStat, Mode, SFlag, UtimensatFlags, fchmod, fchmodat, fstat, futimens, utimensat,
};
use nix::sys::statvfs::fstatvfs;
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchownat, ftruncate};

use super::super::{Attr, Attributes, Ino, Kind, SetAttr, Space};
use super::files::OpenFile;
use super::given_up::changes;
use super::inodes::{Inode, expect_kind};
use super::{TTL, Work, fd_name, system};
use crate::repository::{Error, Result};

impl Work {
    /// Attributes. With the handle of an open file they are answered after the attempt too.
    pub fn getattr(&self, ino: Ino, handle: Option<u64>) -> Result<Attributes> {
        if let Some(open) = handle.and_then(|handle| self.file(handle).ok()) {
            return open_attributes(&open);
        }
        let inode = self.inode(ino)?;
        let gate = match inode.attempt.enter() {
            Ok(gate) => gate,
            // The kernel asks for what fstat(2) wants without a handle.
            Err(stale) => return open_still(&inode).ok_or(stale),
        };
        let attributes = self.attributes(&inode);
        drop(gate);
        attributes
    }

    /// What a folder was when its attempt ended, if somebody has it open still.
    pub fn last_of_open(&self, ino: Ino) -> Option<Attributes> {
        let inode = self.inode(ino).ok()?;
        let last = self.last_of_folder(ino)?;
        Some(attributes_of(&inode, &last))
    }

    /// Changes attributes. With the handle of an open file, size and times can be set after the
    /// attempt too, and the size whatever the file's mode is by now.
    pub fn setattr(&self, ino: Ino, handle: Option<u64>, set: SetAttr) -> Result<Attributes> {
        let mut set = set;
        if let Some(open) = handle.and_then(|handle| self.file(handle).ok()) {
            let _taken = open.inode.take_to_change()?;
            let change = || change_open(&open, &mut set).map_err(|errno| system(open.inode.what(), errno));
            self.counting(&open.inode, &open.file, None, change)?;
            if set.mode.is_none() && set.uid.is_none() && set.gid.is_none() && set.size.is_none() {
                return open_attributes(&open);
            }
        }
        let inode = self.inode(ino)?;
        if let Some(size) = set.size.take() {
            self.cut(&inode, size)?;
        }
        let _gate = inode.attempt.enter_to_change()?;
        let shift = inode.attempt.shift();
        set.uid = set.uid.map(|uid| shift.kept_user(uid));
        set.gid = set.gid.map(|gid| shift.kept_group(gid));
        let fd = self.path(&inode)?;
        let _taken = inode.take_to_change()?;
        let _changes = changes(&[&inode])?;
        self.change(&fd, &set).map_err(|errno| system(inode.what(), errno))?;
        self.attributes(&inode)
    }

    /// Sets the size of a file that is not open for that. It is open meanwhile, so that the attempt can end:
    /// whoever ends it waits for no disk.
    fn cut(&self, inode: &Arc<Inode>, size: u64) -> Result<()> {
        let open = {
            let _gate = inode.attempt.enter_to_change()?;
            expect_kind(inode, Kind::File)?;
            self.open_file(inode, OFlag::O_WRONLY)
                .map_err(|errno| system(inode.what(), errno))?
        };
        let _taken = inode.take_to_change()?;
        let cut = || truncate(&open.file, size).map_err(|errno| system(inode.what(), errno));
        self.counting(inode, &open.file, None, cut)
    }

    /// Where a symbolic link points.
    pub fn readlink(&self, ino: Ino) -> Result<OsString> {
        let inode = self.inode(ino)?;
        let _gate = inode.attempt.enter()?;
        if inode.kind != Kind::Symlink {
            return Err(system(inode.what(), Errno::EINVAL));
        }
        readlinkat(&*self.path(&inode)?, "").map_err(|errno| system(inode.what(), errno))
    }

    /// Figures of the filesystem that the folder is on.
    pub fn statfs(&self, ino: Ino) -> Result<Space> {
        let inode = self.inode(ino)?;
        let _gate = inode.attempt.enter()?;
        let fd = self.path(&inode)?;
        let figures = fstatvfs(&fd).map_err(|errno| system(inode.what(), errno))?;
        let (limit, used) = inode.attempt.quota().map_or((u64::MAX, 0), |quota| quota.figures());
        let bounded = |blocks: u64, bytes: u64| blocks.min(bytes / figures.fragment_size().max(1));
        let left = limit.saturating_sub(used);
        Ok(Space {
            block_size: u32::try_from(figures.fragment_size()).unwrap_or(u32::MAX),
            blocks: bounded(figures.blocks(), limit),
            free: bounded(figures.blocks_free(), left),
            available: bounded(figures.blocks_available(), left),
            files: figures.files(),
            files_free: figures.files_free(),
        })
    }

    /// Attributes of an inode, within its attempt's gate.
    pub(super) fn attributes(&self, inode: &Arc<Inode>) -> Result<Attributes> {
        let fd = match self.path(inode) {
            Ok(fd) => fd,
            Err(error) => return inode.last().map(|stat| attributes_of(inode, &stat)).ok_or(error),
        };
        let stat = fstat(&fd).map_err(|errno| system(inode.what(), errno))?;
        Ok(attributes_of(inode, &stat))
    }

    /// A change of bytes by anybody but root takes the set-id bits from a file, as the system would: by its handle if
    /// it is open, also after the end of its attempt.
    pub fn shed_set_id(&self, ino: Ino, handle: Option<u64>) -> Result<()> {
        if let Some(open) = handle.and_then(|handle| self.file(handle).ok()) {
            return Self::shed_open(&open);
        }
        let inode = self.inode(ino)?;
        let _gate = inode.attempt.enter()?;
        let fd = self.path(&inode)?;
        let stat = fstat(&fd).map_err(|errno| system(inode.what(), errno))?;
        let shed = set_id_to_shed(&stat);
        if inode.kind != Kind::File || shed == 0 {
            return Ok(());
        }
        let _taken = inode.take_to_change()?;
        let _changes = changes(&[&inode])?;
        self.chmod(&fd, stat.st_mode & !shed)
            .map_err(|errno| system(inode.what(), errno))
    }

    fn shed_open(open: &OpenFile) -> Result<()> {
        let error = |errno| system(open.inode.what(), errno);
        let stat = fstat(&open.file).map_err(error)?;
        let shed = set_id_to_shed(&stat);
        if shed == 0 {
            return Ok(());
        }
        let _taken = open.inode.take_to_change()?;
        let _changes = changes(&[&open.inode])?;
        let left = Mode::from_bits_truncate(stat.st_mode & 0o7777 & !shed);
        fchmod(&open.file, left).map_err(error)
    }

    /// A change of nothing: so the kernel announces what somebody else writes to a file with set-id bits, where
    /// it writes by itself, as it does through a descriptor from before the bits. chown(2) to nobody looks the same.
    pub fn heed_writer(&self, ino: Ino) -> Result<()> {
        if self.inode(ino)?.passed.is_marked() {
            self.shed_set_id(ino, None)?;
        }
        Ok(())
    }

    /// Owner, mode and times. The owner first: giving a file away clears its set-id bits.
    fn change(&self, fd: &File, set: &SetAttr) -> nix::Result<()> {
        if set.uid.is_some() || set.gid.is_some() {
            give(fd, set.uid, set.gid)?;
        }
        if let Some(mode) = set.mode {
            self.chmod(fd, mode)?;
        }
        if set.atime.is_some() || set.mtime.is_some() {
            let (atime, mtime) = (time_spec(set.atime), time_spec(set.mtime));
            let name = fd_name(fd);
            let follow = UtimensatFlags::FollowSymlink;
            utimensat(&self.proc_fds, name.as_str(), &atime, &mtime, follow)?;
        }
        Ok(())
    }

    /// Sets the permission bits of what an `O_PATH` descriptor names.
    pub(super) fn chmod(&self, fd: &File, mode: u32) -> nix::Result<()> {
        let mode = Mode::from_bits_truncate(mode & 0o7777);
        fchmodat(&self.proc_fds, fd_name(fd).as_str(), mode, FchmodatFlags::FollowSymlink)
    }
}

/// Gives what an `O_PATH` descriptor names, a symbolic link itself included, to somebody.
pub(super) fn give(fd: &File, uid: Option<u32>, gid: Option<u32>) -> nix::Result<()> {
    let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
    fchownat(fd, "", uid, gid, AtFlags::AT_EMPTY_PATH)
}

/// The bits that a write by another than the owner takes away.
fn set_id_to_shed(stat: &FileStat) -> u32 {
    let of_group = libc::S_ISGID | libc::S_IXGRP;
    let group = if stat.st_mode & of_group == of_group {
        libc::S_ISGID
    } else {
        0
    };
    stat.st_mode & (libc::S_ISUID | group)
}

/// Sets a file's size.
fn truncate(file: impl AsFd, size: u64) -> nix::Result<()> {
    let size = i64::try_from(size).map_err(|_| Errno::EFBIG)?;
    ftruncate(file, size)
}

/// Attributes of an open file.
fn open_attributes(open: &OpenFile) -> Result<Attributes> {
    let stat = fstat(&open.file).map_err(|errno| system(open.inode.what(), errno))?;
    Ok(attributes_of(&open.inode, &stat))
}

/// Attributes of a file that somebody has open.
fn open_still(inode: &Inode) -> Option<Attributes> {
    let backing = inode.backing.lock().unwrap_or_else(PoisonError::into_inner);
    let file = backing.file.upgrade()?;
    drop(backing);
    let stat = fstat(&*file).ok()?;
    Some(attributes_of(inode, &stat))
}

/// Takes from a change what the descriptor of an open file is enough for: size and times.
fn change_open(open: &OpenFile, set: &mut SetAttr) -> nix::Result<()> {
    if open.writable
        && let Some(size) = set.size.take()
    {
        truncate(&open.file, size)?;
    }
    let (atime, mtime) = (set.atime.take(), set.mtime.take());
    if atime.is_some() || mtime.is_some() {
        futimens(&open.file, &time_spec(atime), &time_spec(mtime))?;
    }
    Ok(())
}

/// What the kernel is told of a local file.
pub(super) fn attributes_of(inode: &Inode, stat: &FileStat) -> Attributes {
    let (uid, gid) = inode.attempt.shift().shown(stat.st_uid, stat.st_gid);
    let attr = Attr {
        ino: inode.ino,
        kind: kind_of(stat.st_mode),
        mode: stat.st_mode & 0o7777,
        nlink: u32::try_from(stat.st_nlink).unwrap_or(u32::MAX),
        uid,
        gid,
        rdev: u32::try_from(stat.st_rdev).unwrap_or(0),
        size: u64::try_from(stat.st_size).unwrap_or(0),
        blocks: u64::try_from(stat.st_blocks).unwrap_or(0),
        atime: system_time(stat.st_atime, stat.st_atime_nsec),
        mtime: system_time(stat.st_mtime, stat.st_mtime_nsec),
        ctime: system_time(stat.st_ctime, stat.st_ctime_nsec),
    };
    Attributes { attr, ttl: TTL }
}

/// The type in a mode.
pub(super) fn kind_of(mode: u32) -> Kind {
    match SFlag::from_bits_truncate(mode & libc::S_IFMT) {
        SFlag::S_IFDIR => Kind::Directory,
        SFlag::S_IFLNK => Kind::Symlink,
        SFlag::S_IFIFO => Kind::Fifo,
        SFlag::S_IFSOCK => Kind::Socket,
        SFlag::S_IFCHR => Kind::CharDevice,
        SFlag::S_IFBLK => Kind::BlockDevice,
        _ => Kind::File,
    }
}

/// A time of stat(2). Nanoseconds count upwards before 1970 as well.
fn system_time(seconds: i64, nanos: i64) -> SystemTime {
    let whole = Duration::from_secs(seconds.unsigned_abs());
    let base = if seconds < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(whole)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(whole)
    };
    let nanos = Duration::from_nanos(u64::try_from(nanos).unwrap_or(0));
    base.and_then(|base| base.checked_add(nanos))
        .unwrap_or(SystemTime::UNIX_EPOCH)
}

/// A time for utimensat(2).
fn time_spec(time: Option<Option<SystemTime>>) -> TimeSpec {
    let time = match time {
        None => return TimeSpec::new(0, libc::UTIME_OMIT),
        Some(None) => return TimeSpec::new(0, libc::UTIME_NOW),
        Some(Some(time)) => time,
    };
    let seconds = |whole: Duration| i64::try_from(whole.as_secs()).unwrap_or(i64::MAX);
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => TimeSpec::new(seconds(after), i64::from(after.subsec_nanos())),
        Err(before) => {
            let before = before.duration();
            match i64::from(before.subsec_nanos()) {
                0 => TimeSpec::new(-seconds(before), 0),
                nanos => TimeSpec::new(-seconds(before) - 1, 1_000_000_000 - nanos),
            }
        }
    }
}

/// Refuses an offset or length that off_t can't hold.
pub(super) fn offset(value: u64) -> Result<i64> {
    i64::try_from(value).map_err(|_| Error::Invalid(format!("offset {value}")))
}
