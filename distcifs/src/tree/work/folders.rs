//! Open folders: a position in a stream of names.

use std::collections::{HashMap, VecDeque};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{FileStat, fstat, fstatat};
use nix::unistd::{Whence, lseek};

use super::super::{DirEntry, Ino, Kind, Opened};
use super::attempt::Attempt;
use super::attributes::{kind_of, offset};
use super::inodes::{Inode, expect_kind};
use super::{Work, io_error, sys, system};
use crate::repository::Result;

/// Most names that one readdir returns; each may be looked up, with a descriptor of its own.
const NAMES_MAX: usize = 1024;

/// What is asked of the system at a time, bytes of records: the size glibc uses, over 100 names of
/// the longest kind.
const RECORDS_BYTES: usize = 32 * 1024;

/// Inode number in a listing of a node that the kernel does not know, as libfuse gives it: numbers
/// are handed out by lookups only.
const UNKNOWN_INO: Ino = Ino(0xffff_ffff);

/// The folders that are open, by handle.
pub(super) type Folders = HashMap<u64, Arc<OpenFolder>>;

/// A folder opened once by somebody.
#[derive(Debug)]
pub(super) struct OpenFolder {
    inode: Arc<Inode>,
    /// `None` once the attempt is over.
    stream: Mutex<Option<Stream>>,
    /// What it was then.
    last: OnceLock<FileStat>,
}

/// Where a reader is.
#[derive(Debug)]
struct Stream {
    folder: File,
    /// The offset after which `ahead` begins.
    position: u64,
    /// Records that the system gave but nobody has taken yet.
    ahead: VecDeque<Record>,
}

/// A record of getdents64(2).
#[derive(Debug)]
struct Record {
    name: OsString,
    number: u64,
    /// The position after it.
    offset: u64,
    kind: u8,
}

impl Work {
    /// Opens a folder.
    pub fn opendir(&self, ino: Ino) -> Result<Opened> {
        let inode = self.inode(ino)?;
        let _gate = inode.attempt.enter()?;
        expect_kind(&inode, Kind::Directory)?;
        let folder = self
            .reopen(&*self.path(&inode)?, OFlag::O_RDONLY | OFlag::O_DIRECTORY)
            .map_err(|errno| system(inode.what(), errno))?;
        let handle = self.handle();
        let stream = Stream {
            folder,
            position: 0,
            ahead: VecDeque::new(),
        };
        let open = OpenFolder {
            inode: inode.clone(),
            stream: Mutex::new(Some(stream)),
            last: OnceLock::new(),
        };
        let mut folders = self.folders.write().unwrap_or_else(PoisonError::into_inner);
        folders.insert(handle, Arc::new(open));
        Ok(Opened {
            handle,
            direct_io: false,
            keep_cache: false,
            nonseekable: false,
            flushes: false,
            passes: true,
            passed: None,
            backing: None,
        })
    }

    /// At most `limit` names after `offset` (0: the first), `.` and `..` among them; none: the
    /// end. With `plus`, names that can be are looked up, which counts.
    pub fn readdir(&self, handle: u64, offset: u64, limit: usize, plus: bool) -> Result<Vec<DirEntry>> {
        let open = self.folder(handle)?;
        let _gate = open.inode.attempt.enter()?;
        let _taken = open.inode.take()?;
        let mut stream = open.stream.lock().unwrap_or_else(PoisonError::into_inner);
        let stream = stream.as_mut().ok_or_else(|| open.inode.attempt.stale())?;
        let records = stream
            .take(offset, limit.min(NAMES_MAX))
            .map_err(|error| io_error(open.inode.what(), &error))?;
        Ok(records
            .into_iter()
            .map(|record| self.entry(&open.inode, record, plus))
            .collect())
    }

    /// The last copy of the descriptor was closed.
    pub fn releasedir(&self, handle: u64) {
        let open = self
            .folders
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&handle);
        drop(open);
        self.forget_left();
    }

    /// Makes the names in a folder durable; `Stale` after the attempt.
    pub fn fsyncdir(&self, handle: u64) -> Result<()> {
        let open = self.folder(handle)?;
        let folder = {
            let stream = open.stream.lock().unwrap_or_else(PoisonError::into_inner);
            let stream = stream.as_ref().ok_or_else(|| open.inode.attempt.stale())?;
            stream.folder.try_clone()
        };
        let done = folder.and_then(|folder| folder.sync_all());
        done.map_err(|error| io_error(open.inode.what(), &error))
    }

    /// Lets go of the open folders of an attempt.
    pub(super) fn close_folders(&self, attempt: &Attempt) {
        let folders = self.folders.read().unwrap_or_else(PoisonError::into_inner);
        for open in folders.values().filter(|open| open.inode.attempt.id == attempt.id) {
            // Who reads it and stands is refused when he goes on.
            let stream = open.stream.try_lock().ok().and_then(|mut stream| stream.take());
            if let Some(stat) = stream.and_then(|stream| fstat(&stream.folder).ok()) {
                open.last.get_or_init(|| stat);
            }
        }
    }

    /// What a folder was that is open and whose attempt is over.
    pub(super) fn last_of_folder(&self, ino: Ino) -> Option<FileStat> {
        let folders = self.folders.read().unwrap_or_else(PoisonError::into_inner);
        let mut of_it = folders.values().filter(|open| open.inode.ino == ino);
        of_it.find_map(|open| open.last.get().copied())
    }

    fn folder(&self, handle: u64) -> Result<Arc<OpenFolder>> {
        let folders = self.folders.read().unwrap_or_else(PoisonError::into_inner);
        let open = folders.get(&handle).cloned();
        open.ok_or_else(|| system(format!("handle {handle}"), Errno::EBADF))
    }

    /// A record as the kernel is told of it. One that can't be looked up (it was removed
    /// meanwhile, or descriptors are short) is listed all the same: the stream had it.
    fn entry(&self, folder: &Arc<Inode>, record: Record, plus: bool) -> DirEntry {
        let name = record.name.as_os_str();
        let dots = name == "." || name == "..";
        let found = if plus && !dots {
            self.look_up(folder, name).ok()
        } else {
            None
        };
        let (ino, kind) = match &found {
            Some(found) => (found.attributes.attr.ino, found.attributes.attr.kind),
            None => (self.listed_ino(folder, &record), self.listed_kind(folder, &record)),
        };
        DirEntry {
            name: record.name,
            ino,
            kind,
            offset: record.offset,
            found,
        }
    }

    /// The type of a record; some filesystems give it with the attributes only.
    fn listed_kind(&self, folder: &Arc<Inode>, record: &Record) -> Kind {
        match record.kind {
            libc::DT_REG => Kind::File,
            libc::DT_DIR => Kind::Directory,
            libc::DT_LNK => Kind::Symlink,
            libc::DT_FIFO => Kind::Fifo,
            libc::DT_SOCK => Kind::Socket,
            libc::DT_CHR => Kind::CharDevice,
            libc::DT_BLK => Kind::BlockDevice,
            _ => {
                let nofollow = AtFlags::AT_SYMLINK_NOFOLLOW;
                let stat = self
                    .path(folder)
                    .ok()
                    .and_then(|fd| fstatat(&*fd, record.name.as_os_str(), nofollow).ok());
                stat.map_or(Kind::File, |stat| kind_of(stat.st_mode))
            }
        }
    }

    fn listed_ino(&self, folder: &Inode, record: &Record) -> Ino {
        let is_self = record.name == "." || (record.name == ".." && folder.is_root());
        if is_self {
            return folder.ino;
        }
        let known = self.table().known(&folder.attempt, folder.dev, record.number);
        known.unwrap_or(UNKNOWN_INO)
    }
}

impl Stream {
    /// At most `limit` records after `offset`.
    fn take(&mut self, offset: u64, limit: usize) -> io::Result<Vec<Record>> {
        if offset != self.position {
            self.ahead.clear();
            let at = self::offset(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
            lseek(&self.folder, at, Whence::SeekSet)?;
            self.position = offset;
        }
        let mut taken = Vec::with_capacity(limit);
        while taken.len() < limit {
            if self.ahead.is_empty() {
                self.ahead = parse(&sys::getdents(&self.folder, RECORDS_BYTES)?);
            }
            let Some(record) = self.ahead.pop_front() else {
                break;
            };
            self.position = record.offset;
            taken.push(record);
        }
        Ok(taken)
    }
}

/// Takes the records of `struct linux_dirent64` apart: number and offset of 8 bytes, length of 2,
/// type of 1, then the name, ended by NUL.
fn parse(mut bytes: &[u8]) -> VecDeque<Record> {
    const NAME_AT: usize = 19;
    let mut records = VecDeque::new();
    while let Some((head, _)) = bytes.split_first_chunk::<NAME_AT>() {
        let [
            n0,
            n1,
            n2,
            n3,
            n4,
            n5,
            n6,
            n7,
            o0,
            o1,
            o2,
            o3,
            o4,
            o5,
            o6,
            o7,
            l0,
            l1,
            kind,
        ] = *head;
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let Some(name) = bytes.get(NAME_AT..length) else {
            break;
        };
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        records.push_back(Record {
            name: OsStr::from_bytes(name).to_owned(),
            number: u64::from_ne_bytes([n0, n1, n2, n3, n4, n5, n6, n7]),
            offset: u64::from_ne_bytes([o0, o1, o2, o3, o4, o5, o6, o7]),
            kind,
        });
        bytes = bytes.get(length..).unwrap_or_default();
    }
    records
}
