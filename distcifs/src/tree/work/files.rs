//! Open files. They go on working on their discarded copy after the end of the attempt.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, OFlag, fallocate, openat};
use nix::sys::stat::fstat;
use nix::unistd::{Whence, ftruncate, lseek};

use super::super::{Caller, Found, Ino, Kind, Opened};
use super::attributes::offset;
use super::inodes::{Inode, expect_kind};
use super::names::{NewNode, open_name, undo};
use super::quota::Range;
use super::way::spared;
use super::{Attempt, Work, io_error, sys, system};
use crate::repository::{Error, Result};

/// Most that one read returns, bytes: above the 1 MiB that the kernel asks for at most
/// (fs.fuse.max_pages_limit of 256 pages).
const READ_BYTES_MAX: usize = 16 << 20;

/// Most that one copy_file_range copies, bytes: some tens of milliseconds where the filesystem
/// can't share the blocks. The caller asks again for the rest.
const COPY_BYTES_MAX: u64 = 64 << 20;

/// Bytes that are copied at a time: who else writes the file waits for that long at most.
const COPY_PIECE_BYTES: u64 = 4 << 20;

/// The files that are open, by handle.
pub(super) type Files = HashMap<u64, Arc<OpenFile>>;

/// A file opened once by somebody. All input and output is at explicit offsets, so one descriptor
/// can serve any number of opens.
#[derive(Debug)]
pub(super) struct OpenFile {
    pub(super) inode: Arc<Inode>,
    pub(super) file: Arc<File>,
    pub(super) writable: bool,
    /// The one of the inode, kept so that later opens find it.
    backing: Arc<File>,
}

impl OpenFile {
    fn new(inode: Arc<Inode>, file: Arc<File>, writable: bool, backing: Arc<File>) -> OpenFile {
        inode.attempt.opened(inode.place(), writable);
        OpenFile {
            inode,
            file,
            writable,
            backing,
        }
    }

    fn error(&self, errno: Errno) -> Error {
        system(self.inode.what(), errno)
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        self.inode.attempt.closed(self.writable);
    }
}

impl Work {
    /// Opens a regular file; `flags` of open(2), of which the access and O_TRUNC count: offsets,
    /// synchronisation and the like are the kernel's. With O_TRUNC the file is to be [`empty`](Self::empty) next.
    pub fn open(&self, ino: Ino, flags: i32) -> Result<Opened> {
        let inode = self.inode(ino)?;
        let _gate = inode.attempt.enter()?;
        expect_kind(&inode, Kind::File)?;
        let flags = OFlag::from_bits_truncate(flags);
        if is_to_write(flags) {
            inode.may_change()?;
        }
        let open = self
            .open_file(&inode, flags)
            .map_err(|errno| system(inode.what(), errno))?;
        Ok(self.insert(open))
    }

    /// Takes all bytes from an open file.
    pub fn empty(&self, handle: u64) -> Result<()> {
        let open = self.file(handle)?;
        let _taken = open.inode.take_to_change()?;
        let cut = || ftruncate(&open.file, 0).map_err(|errno| open.error(errno));
        self.counting(&open.inode, &open.file, None, cut)
    }

    /// Makes and opens a regular file, or opens the one that is there unless O_EXCL is among the
    /// flags. Counts as a lookup. What was there is still in it.
    pub fn create(&self, caller: Caller, parent: Ino, name: &OsStr, mode: u32, flags: i32) -> Result<(Found, Opened)> {
        match self.create_new(caller, parent, name, mode) {
            Err(Error::System {
                errno: libc::EEXIST, ..
            }) if flags & libc::O_EXCL == 0 => {}
            done => return done,
        }
        let found = self.lookup(parent, name)?;
        let ino = found.attributes.attr.ino;
        self.open(ino, flags)
            .map(|opened| (found, opened))
            .inspect_err(|_| self.forget(ino, 1))
    }

    fn create_new(&self, caller: Caller, parent: Ino, name: &OsStr, mode: u32) -> Result<(Found, Opened)> {
        let parent = self.inode(parent)?;
        let _gate = parent.attempt.enter_to_change()?;
        let dir = self.folder_for(&parent, name)?;
        let _taken = parent.take_to_change()?;
        let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_RDWR;
        let flags = flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let new = NewNode::new(caller, Some(mode), Kind::File);
        if let Err(error) = self.need_inode(&parent, &dir, name) {
            // One that is there needs no room to be opened.
            let there = open_name(&dir, name).is_ok();
            return Err(if there {
                system(name.display(), Errno::EEXIST)
            } else {
                error
            });
        }
        let ((file, path), _changes) = self.naming(&parent, &dir, 0, || {
            let file = spared(|| openat(&*dir, name, flags, new.first_mode())).map(File::from);
            let file = file.map_err(|errno| system(name.display(), errno))?;
            let path = self.reopen(&file, OFlag::O_PATH);
            let path = path.and_then(|path| self.adopt(&parent, &dir, &path, &new).map(|()| path));
            let path = path.map_err(|errno| undo(&dir, name, Kind::File, errno))?;
            Ok((file, path))
        })?;
        let found = self.meet_new(&parent, path, name)?;
        let inode = self.inode(found.attributes.attr.ino)?;
        let file = Arc::new(file);
        let mut shared = inode.backing.lock().unwrap_or_else(PoisonError::into_inner);
        let backing = shared
            .file
            .upgrade()
            .unwrap_or_else(|| shared.share(&file, OFlag::O_RDWR));
        let open = OpenFile::new(inode.clone(), file, true, backing);
        Ok((found, self.insert(open)))
    }

    /// Reads at most `size` bytes; fewer only at the end of the file.
    pub fn read(&self, handle: u64, offset: u64, size: u32) -> Result<Bytes> {
        let open = self.file(handle)?;
        let size = usize::try_from(size).unwrap_or(READ_BYTES_MAX).min(READ_BYTES_MAX);
        let at = self::offset(offset)?;
        let _taken = open.inode.take()?;
        let mut data = pread(&open, size, at)?;
        while data.len() < size {
            let more = pread(&open, size - data.len(), at.saturating_add_unsigned(data.len() as u64))?;
            if more.is_empty() {
                break;
            }
            data.extend_from_slice(&more);
        }
        Ok(data.into())
    }

    /// Writes; the number of bytes, fewer only where the filesystem takes no more.
    pub fn write(&self, handle: u64, offset: u64, data: &[u8]) -> Result<u32> {
        let open = self.file(handle)?;
        let _taken = open.inode.take_to_change()?;
        self.need_room(&open, data.len() as u64)?;
        let range = Range {
            at: offset,
            length: data.len() as u64,
        };
        self.counting(&open.inode, &open.file, Some(range), || write(&open, offset, data))
    }

    /// One copy of the descriptor was closed: a local file has nothing to report then.
    pub fn flush(&self, handle: u64) -> Result<()> {
        self.file(handle).map(|_| ())
    }

    /// The last copy of the descriptor was closed.
    pub fn release(&self, handle: u64) {
        let open = self
            .files
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&handle);
        let inode = open.as_ref().map(|open| open.inode.clone());
        if let Some(open) = open.filter(|open| open.writable && open.inode.passed.is_marked())
            && let Ok(stat) = fstat(&open.file)
        {
            open.inode.passed.look(&stat);
        }
        if let Some(inode) = inode {
            self.closed(&inode);
        }
        self.forget_left();
    }

    /// Makes a file's contents durable; `Stale` after the attempt, for they never count.
    pub fn fsync(&self, handle: u64, datasync: bool) -> Result<()> {
        let open = self.file(handle)?;
        if !open.inode.attempt.is_alive() {
            return Err(open.inode.attempt.stale());
        }
        let done = if datasync {
            open.file.sync_data()
        } else {
            open.file.sync_all()
        };
        done.map_err(|error| io_error(open.inode.what(), &error))
    }

    /// Reserves, punches or moves space; `mode` of fallocate(2).
    pub fn fallocate(&self, handle: u64, offset: u64, length: u64, mode: i32) -> Result<()> {
        let open = self.file(handle)?;
        let (at, length) = (self::offset(offset)?, self::offset(length)?);
        let mode = FallocateFlags::from_bits(mode).ok_or_else(|| open.error(Errno::EOPNOTSUPP))?;
        let frees = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_COLLAPSE_RANGE;
        let range = Range {
            at: offset,
            length: length.unsigned_abs(),
        };
        let range = Some(range).filter(|_| !mode.intersects(frees));
        if let Some(range) = range {
            self.need_room(&open, range.length)?;
        }
        let _taken = open.inode.take_to_change()?;
        self.counting(&open.inode, &open.file, range, || {
            fallocate(&open.file, mode, at, length).map_err(|errno| open.error(errno))
        })
    }

    /// Finds data, a hole or the end of the file; `whence` of lseek(2).
    pub fn lseek(&self, handle: u64, offset: i64, whence: i32) -> Result<i64> {
        let open = self.file(handle)?;
        let whence = match whence {
            libc::SEEK_DATA => Whence::SeekData,
            libc::SEEK_HOLE => Whence::SeekHole,
            libc::SEEK_END => Whence::SeekEnd,
            _ => return Err(open.error(Errno::EINVAL)),
        };
        let _taken = open.inode.take()?;
        lseek(&open.file, offset, whence).map_err(|errno| open.error(errno))
    }

    /// Copies between two open files (handle and offset of each) within the system; the number of
    /// bytes, 0 at the end of the source. `Unsupported` where the system can't: copy by hand.
    pub fn copy_file_range(&self, from: (u64, u64), to: (u64, u64), length: u64) -> Result<u64> {
        let (source, target) = (self.file(from.0)?, self.file(to.0)?);
        offset(from.1).and(offset(to.1))?;
        let (_taken, length) = (
            (source.inode.take()?, target.inode.take_to_change()?),
            length.min(COPY_BYTES_MAX),
        );
        let mut copied = 0;
        while copied < length {
            let piece = (length - copied).min(COPY_PIECE_BYTES);
            let (from, to) = (from.1.saturating_add(copied), to.1.saturating_add(copied));
            match self.copy_piece((&source, from), (&target, to), piece) {
                Ok(0) => break,
                Ok(count) => copied += count,
                Err(_) if copied > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(copied)
    }

    fn copy_piece(&self, from: (&OpenFile, u64), to: (&OpenFile, u64), length: u64) -> Result<u64> {
        let ((source, from), (target, to)) = (from, to);
        let there = source
            .file
            .metadata()
            .map_or(u64::MAX, |meta| meta.len().saturating_sub(from));
        self.need_room(target, there.min(length))?;
        let range = Range {
            at: to,
            length: there.min(length),
        };
        let (from, to) = ((&source.file, offset(from)?), (&target.file, offset(to)?));
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        self.counting(&target.inode, &target.file, Some(range), || {
            sys::copy_file_range(from, to, length)
                .map(|count| count as u64)
                .map_err(|error| match error.raw_os_error() {
                    Some(libc::EXDEV | libc::ENOSYS) => Error::Unsupported(target.inode.what()),
                    _ => io_error(target.inode.what(), &error),
                })
        })
    }

    /// Refuses what would leave too little room for everybody else.
    fn need_room(&self, open: &OpenFile, bytes: u64) -> Result<()> {
        let before = open.inode.attempt.writes(bytes);
        self.room
            .check(&open.file, before, bytes)
            .map_err(|errno| open.error(errno))
    }

    /// The files of an attempt that are open for writing.
    pub fn being_written(&self, attempt: &Attempt) -> Vec<Ino> {
        let files = self.files.read().unwrap_or_else(PoisonError::into_inner);
        let written = files
            .values()
            .filter(|open| open.writable && open.inode.attempt.id == attempt.id);
        written.map(|open| open.inode.ino).collect()
    }

    /// The open file of a handle.
    pub(super) fn file(&self, handle: u64) -> Result<Arc<OpenFile>> {
        let files = self.files.read().unwrap_or_else(PoisonError::into_inner);
        let open = files.get(&handle).cloned();
        open.ok_or_else(|| system(format!("handle {handle}"), Errno::EBADF))
    }

    fn insert(&self, open: OpenFile) -> Opened {
        let handle = self.handle();
        let backing = Some(open.backing.clone());
        let passed = Some(open.inode.passed.clone());
        let passes = open.inode.attempt.quota().is_none() && self.room.passes(&open.file) && !has_set_id(&open.file);
        let mut files = self.files.write().unwrap_or_else(PoisonError::into_inner);
        files.insert(handle, Arc::new(open));
        Opened {
            handle,
            direct_io: false,
            keep_cache: true,
            nonseekable: false,
            flushes: true,
            passes,
            passed,
            backing,
        }
    }

    /// Opens a file with the inode's shared descriptor, or one of its own where that lacks the
    /// access asked for (which happens only when the daemon isn't root).
    pub(super) fn open_file(&self, inode: &Arc<Inode>, flags: OFlag) -> nix::Result<OpenFile> {
        let access = flags & OFlag::O_ACCMODE;
        let writes = is_to_write(flags);
        let reads = access != OFlag::O_WRONLY;
        // Found before the shared file is asked for: the way there may stand.
        let path = self.path(inode).map_err(|error| match error {
            Error::System { errno, .. } => Errno::from_raw(errno),
            Error::WouldBlock(_) => Errno::EWOULDBLOCK,
            _ => Errno::ESTALE,
        });
        let mut shared = inode.backing.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(backing) = shared.file.upgrade() {
            let enough = (shared.writable || !writes) && (shared.readable || !reads);
            let file = if enough {
                backing.clone()
            } else {
                Arc::new(self.open_as(&*path?, access, writes)?.0)
            };
            return Ok(OpenFile::new(inode.clone(), file, writes, backing));
        }
        let (file, got) = self.open_as(&*path?, access, writes)?;
        let file = Arc::new(file);
        let backing = shared.share(&file, got);
        Ok(OpenFile::new(inode.clone(), file, writes, backing))
    }

    /// Opens for reading and writing if possible, since the kernel's page cache reads what it
    /// writes; else for what was asked. Returns the access that it became.
    fn open_as(&self, path: &File, access: OFlag, writes: bool) -> nix::Result<(File, OFlag)> {
        match self.reopen(path, OFlag::O_RDWR) {
            Ok(file) => Ok((file, OFlag::O_RDWR)),
            Err(Errno::EACCES | Errno::EPERM | Errno::EROFS | Errno::ETXTBSY)
                if access != OFlag::O_RDWR && !(writes && access == OFlag::O_RDONLY) =>
            {
                self.reopen(path, access).map(|file| (file, access))
            }
            Err(errno) => Err(errno),
        }
    }
}

/// Whether a file is opened to change it.
fn is_to_write(flags: OFlag) -> bool {
    flags & OFlag::O_ACCMODE != OFlag::O_RDONLY || flags.contains(OFlag::O_TRUNC)
}

/// Whether writes must take permissions from a file, which the kernel leaves to us.
fn has_set_id(file: &File) -> bool {
    fstat(file).is_ok_and(|stat| stat.st_mode & (libc::S_ISUID | libc::S_ISGID) != 0)
}

/// Writes to an open file; the number of bytes.
fn write(open: &OpenFile, offset: u64, data: &[u8]) -> Result<u32> {
    let mut written = 0;
    while let Some(rest) = data.get(written..).filter(|rest| !rest.is_empty()) {
        match open.file.write_at(rest, offset.saturating_add(written as u64)) {
            Ok(0) => break,
            Ok(count) => written += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) if written > 0 => break,
            Err(error) => return Err(io_error(open.inode.what(), &error)),
        }
    }
    Ok(u32::try_from(written).unwrap_or(u32::MAX))
}

/// One pread(2) of an open file.
fn pread(open: &OpenFile, size: usize, at: i64) -> Result<Vec<u8>> {
    loop {
        match sys::pread(&open.file, size, at) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            done => return done.map_err(|error| io_error(open.inode.what(), &error)),
        }
    }
}
