//! Blobs: files that never change, named by the digest of their bytes.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

use super::dirty::Dirty;
use super::files::{failed, read_at};
use super::marks::Marks;
use crate::storage::bounds::refused;
use crate::storage::contents::VALUE_BYTES_MAX;
use crate::storage::descriptors::spare_now;
use crate::storage::{Digest, Error, Object, Result};

/// The folders of blobs.
#[derive(Debug)]
pub(super) struct Blobs {
    objects: PathBuf,
    tmp: PathBuf,
    next: AtomicU64,
    /// Held while a file gets its name and its mark of not being durable, so that nobody meets the
    /// one without the other, and while one is swept.
    marks: Marks,
}

/// The folder and the digest of a blob; `None` for another object.
fn blob(object: &Object) -> Option<(&'static str, &Digest)> {
    match object {
        Object::Chunk(digest) => Some(("chunk", digest)),
        Object::Tree(digest) => Some(("tree", digest)),
        Object::Record(_) | Object::Console(_) => None,
    }
}

impl Blobs {
    /// In the store's directory.
    pub(super) fn new(dir: &Path) -> Blobs {
        let (objects, tmp) = (dir.join("objects"), dir.join("tmp"));
        Blobs {
            objects,
            tmp,
            next: AtomicU64::new(0),
            marks: Marks::default(),
        }
    }

    /// The file of a blob.
    pub(super) fn path(&self, kind: &str, digest: &Digest) -> PathBuf {
        let name = digest.to_string();
        self.objects.join(kind).join(&name[..2]).join(name)
    }

    /// Whether there is a file of this length, which has its mark then; another length is what a
    /// crash left of it.
    pub(super) fn has(&self, object: &Object, length: usize) -> bool {
        let Some((kind, digest)) = blob(object) else {
            return false;
        };
        let path = self.path(kind, digest);
        let has = || fs::metadata(&path).is_ok_and(|found| found.is_file() && found.len() == length as u64);
        if !has() {
            return false;
        }
        let mut shard = self.marks.hold(digest);
        // It may have been swept in between.
        if self.marks.are_kept() && !has() {
            return false;
        }
        self.marks.mark(&mut shard, object);
        true
    }

    /// From now on what is put has this mark; with 0 marks are forgotten.
    pub(super) fn enter(&self, epoch: u64) {
        self.marks.enter(epoch);
    }

    /// Removes a blob that was put last before an epoch; how long it was.
    pub(super) fn sweep(&self, object: &Object, epoch: u64) -> Result<Option<u64>> {
        let Some((kind, digest)) = blob(object) else {
            return Err(refused(object.to_string(), "only a blob is swept"));
        };
        let path = self.path(kind, digest);
        // It goes though nobody can say how long it is.
        let length = match fs::metadata(&path) {
            Ok(found) => found.len(),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(_) => 0,
        };
        let mut shard = self.marks.hold(digest);
        if !self.marks.is_older(&shard, object, epoch) {
            return Ok(None);
        }
        self.remove(object)?;
        shard.remove(object);
        Ok(Some(length))
    }

    /// Stores a checked blob; `false` if somebody else just did. `dirty` gets its mark.
    pub(super) fn put(&self, object: &Object, bytes: &[u8], dirty: &Dirty) -> Result<bool> {
        let Some((kind, digest)) = blob(object) else {
            return Err(refused(object.to_string(), "only a blob can be put"));
        };
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let new = self.tmp.join(number.to_string());
        let path = self.path(kind, digest);
        let stored = write_new(&new, bytes).and_then(|()| {
            let mut shard = self.marks.hold(digest);
            let stored = name(&new, &path, bytes.len());
            dirty.mark(object, true);
            self.marks.mark(&mut shard, object);
            stored
        });
        if !matches!(stored, Ok(true)) {
            let _absent = fs::remove_file(&new);
        }
        stored.map_err(|e| failed(format!("put {object}"), &e))
    }

    /// Reads a range; the whole is verified.
    pub(super) fn read(&self, object: &Object, offset: u64, length: usize) -> Result<Option<Bytes>> {
        let Some((kind, digest)) = blob(object) else {
            return Ok(None);
        };
        let what = || format!("read {object}");
        let file = match spare_now(|| File::open(self.path(kind, digest))) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(what(), &error)),
        };
        let size = file.metadata().map_err(|e| failed(what(), &e))?.len();
        if size > VALUE_BYTES_MAX as u64 {
            let why = format!("it has {size} bytes, more than any blob");
            return Err(Error::Damaged { what: what(), why });
        }
        let bytes = read_at(&file, size, offset, length).map_err(|e| failed(what(), &e))?;
        if offset == 0 && bytes.len() as u64 == size && Digest::of(&bytes) != *digest {
            let why = "its bytes have another digest".to_owned();
            return Err(Error::Damaged { what: what(), why });
        }
        Ok(Some(bytes))
    }

    /// The length of a blob.
    pub(super) fn size(&self, object: &Object) -> Result<Option<u64>> {
        let Some((kind, digest)) = blob(object) else {
            return Ok(None);
        };
        match fs::metadata(self.path(kind, digest)) {
            Ok(found) => Ok(Some(found.len())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed(format!("size of {object}"), &error)),
        }
    }

    /// Removes a blob.
    pub(super) fn remove(&self, object: &Object) -> Result<()> {
        let Some((kind, digest)) = blob(object) else {
            return Ok(());
        };
        match fs::remove_file(self.path(kind, digest)) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(failed(format!("remove {object}"), &error)),
            _ => Ok(()),
        }
    }

    /// Lists blobs of a kind whose digest begins with this byte.
    pub(super) fn list(&self, kind: &str, first: u8) -> io::Result<Vec<Object>> {
        let make = if kind == "chunk" { Object::Chunk } else { Object::Tree };
        let shard = format!("{first:02x}");
        let mut found = Vec::new();
        for entry in fs::read_dir(self.objects.join(kind).join(&shard))? {
            let name = entry?.file_name();
            let digest = name.to_str().filter(|n| n.starts_with(&shard)).and_then(Digest::parse);
            found.extend(digest.map(make));
        }
        Ok(found)
    }
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o400);
    spare_now(|| options.open(path))?.write_all(bytes)
}

/// Gives a new file its name; `false` if there is one of that name and length.
fn name(new: &Path, path: &Path, length: usize) -> io::Result<bool> {
    let flags = RenameFlags::RENAME_NOREPLACE;
    match renameat2(AT_FDCWD, new, AT_FDCWD, path, flags) {
        Ok(()) => Ok(true),
        Err(Errno::EEXIST) if fs::metadata(path)?.len() == length as u64 => Ok(false),
        Err(Errno::EEXIST | Errno::EINVAL | Errno::ENOSYS) => {
            fs::rename(new, path)?;
            Ok(true)
        }
        Err(errno) => Err(errno.into()),
    }
}
