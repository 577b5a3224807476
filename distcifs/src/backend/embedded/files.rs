//! What blobs and consoles share: the folders, the room left, errors, and making files durable.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use nix::sys::statvfs::statvfs;

use super::blobs::Blobs;
use super::consoles::Consoles;
use super::dirty::{Dirty, Todo};
use crate::storage::descriptors::{self, spare};
use crate::storage::{Error, Object, Result};

/// Room that puts and appends leave on the disk, bytes: contents stop growing while results,
/// which are small, can still be committed.
const RESERVE_BYTES: u64 = 8 << 20;

/// Most objects made durable one by one; for more, one syncfs is cheaper than their fsyncs, but it
/// waits for the bytes of everybody else on the file system as well.
const FEW: usize = 16;

/// The files of the store.
#[derive(Debug)]
pub(super) struct Files {
    dir: PathBuf,
    pub(super) blobs: Blobs,
    pub(super) consoles: Consoles,
    pub(super) dirty: Dirty,
}

impl Files {
    /// In the store's directory.
    pub(super) fn new(dir: &Path) -> Files {
        Files {
            dir: dir.to_owned(),
            blobs: Blobs::new(dir),
            consoles: Consoles::new(dir),
            dirty: Dirty::default(),
        }
    }

    /// Refuses to grow the contents when little room is left.
    pub(super) fn check_room(&self, what: &(impl ToString + ?Sized), bytes: usize) -> Result<()> {
        let (free, wanted) = (free_bytes(&self.dir), RESERVE_BYTES + bytes as u64);
        if free >= wanted {
            return Ok(());
        }
        let why = format!("{free} bytes are free, {wanted} are needed; remove old builds");
        Err(Error::Full {
            what: what.to_string(),
            why,
        })
    }

    /// Makes everything durable that was written before this process opened the store.
    pub(super) fn settle(&self) -> io::Result<()> {
        Ok(nix::unistd::syncfs(spare(|| File::open(&self.dir))?)?)
    }

    /// Makes these objects durable: the few that are not, one by one, or else all there is.
    pub(super) fn sync(&self, wanted: &[Object]) -> io::Result<()> {
        let todo = self.dirty.take(wanted, FEW);
        let done = match &todo {
            Todo::All => self.settle(),
            Todo::Objects(objects) => self.sync_few(objects),
        };
        if done.is_err() {
            self.dirty.give_back(todo);
        }
        done
    }

    fn sync_few(&self, objects: &[(Object, bool)]) -> io::Result<()> {
        let mut folders = Vec::new();
        for (object, named) in objects {
            let Some(path) = self.path(object) else {
                continue;
            };
            match spare(|| File::open(&path)) {
                Ok(file) => file.sync_all()?,
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            }
            let above = path.ancestors().skip(1).take_while(|above| *above != self.dir);
            if *named {
                folders.extend(above.take(2).map(Path::to_owned));
            }
        }
        folders.sort();
        folders.dedup();
        for folder in folders {
            match spare(|| File::open(&folder)) {
                Ok(folder) => folder.sync_all()?,
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The file of an object; a record has none.
    pub(super) fn path(&self, object: &Object) -> Option<PathBuf> {
        match object {
            Object::Chunk(digest) => Some(self.blobs.path("chunk", digest)),
            Object::Tree(digest) => Some(self.blobs.path("tree", digest)),
            Object::Console(name) => Some(self.consoles.path(name)),
            Object::Record(_) => None,
        }
    }
}

/// Bytes that this user may still write on the file system; all of them if it does not say.
pub(super) fn free_bytes(dir: &Path) -> u64 {
    let free = |s: nix::sys::statvfs::Statvfs| s.blocks_available().saturating_mul(s.fragment_size());
    statvfs(dir).map_or(u64::MAX, free)
}

/// The storage error for a system call that failed without leaving anything behind.
pub(super) fn failed(what: impl Into<String>, error: &io::Error) -> Error {
    let (what, why) = (what.into(), error.to_string());
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Error::Full { what, why },
        // Nothing is wrong with the disk, and it may be tried again.
        _ if descriptors::are_short(error) => Error::Full { what, why },
        _ => Error::Unavailable { what, why },
    }
}

/// Whether every name that begins with `prefix` comes before or at `after`.
pub(super) fn is_past(prefix: &str, after: &str) -> bool {
    after > prefix && !after.starts_with(prefix)
}

/// Reads up to `length` bytes from `offset` of a file that has `size` bytes.
pub(super) fn read_at(file: &File, size: u64, offset: u64, length: usize) -> io::Result<Bytes> {
    let left = usize::try_from(size.saturating_sub(offset)).unwrap_or(usize::MAX);
    let mut bytes = vec![0; length.min(left)];
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read_at(&mut bytes[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(filled);
    Ok(bytes.into())
}
