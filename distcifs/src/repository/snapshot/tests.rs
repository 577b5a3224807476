//! Snapshots tried on real folders, over a store in memory that checks what it is given.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use nix::sys::stat::{Mode, UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;
use proptest::prelude::*;
use tempfile::TempDir;

use super::format::{Listing, decode};
use super::*;
use crate::repository::Error;
use crate::storage::contents::VALUE_BYTES_MAX;
use crate::storage::{self, Appended, Contents, Digest, Fut, Object, Page, Updated};

mod format;
mod joined;
mod measure;
mod round_trip;
mod waits;

/// Blobs in memory, or as plain files in a folder. Knows what was made durable.
#[derive(Default)]
struct Memory {
    blobs: Mutex<HashMap<Object, Bytes>>,
    folder: Option<PathBuf>,
    durable: Mutex<HashSet<Object>>,
    puts: AtomicU64,
    reads: AtomicU64,
    /// Puts that go well before every later one finds the store full.
    room: Option<u64>,
}

impl Memory {
    fn blob(&self, object: &Object) -> Option<Bytes> {
        match &self.folder {
            Some(folder) => fs::read(folder.join(object.to_string())).ok().map(Bytes::from),
            None => self.blobs.lock().unwrap().get(object).cloned(),
        }
    }

    fn store(&self, object: &Object, bytes: Bytes) -> bool {
        let Some(folder) = &self.folder else {
            return self.blobs.lock().unwrap().insert(object.clone(), bytes).is_none();
        };
        let path = folder.join(object.to_string());
        let new = !path.exists();
        if new {
            fs::write(path, &bytes).unwrap();
        }
        new
    }

    fn forget(&self, object: &Object) {
        assert!(
            self.blobs.lock().unwrap().remove(object).is_some(),
            "{object} is not there"
        );
    }

    fn objects(&self) -> BTreeSet<Object> {
        self.blobs.lock().unwrap().keys().cloned().collect()
    }
}

/// The digest in a blob's name.
fn refused<T>(object: &Object) -> storage::Result<T> {
    Err(storage::Error::Refused {
        what: object.to_string(),
        why: "blobs only".to_owned(),
    })
}

impl Contents for Memory {
    fn put(&self, object: &Object, bytes: Bytes) -> Fut<'_, bool> {
        let object = object.clone();
        Box::pin(async move {
            tokio::task::yield_now().await;
            if bytes.len() > VALUE_BYTES_MAX || object.digest() != Some(&Digest::of(&bytes)) {
                return refused(&object);
            }
            let before = self.puts.fetch_add(1, Ordering::SeqCst);
            if self.room.is_some_and(|room| before >= room) {
                return Err(storage::Error::Full {
                    what: object.to_string(),
                    why: "no room".to_owned(),
                });
            }
            Ok(self.store(&object, bytes))
        })
    }

    fn read(&self, object: &Object, offset: u64, length: usize) -> Fut<'_, Option<Bytes>> {
        let object = object.clone();
        Box::pin(async move {
            self.reads.fetch_add(1, Ordering::SeqCst);
            let Some(bytes) = self.blob(&object) else {
                return Ok(None);
            };
            if offset == 0 && length >= bytes.len() && object.digest() != Some(&Digest::of(&bytes)) {
                return Err(storage::Error::Damaged {
                    what: object.to_string(),
                    why: "other bytes".to_owned(),
                });
            }
            let from = usize::try_from(offset).unwrap().min(bytes.len());
            Ok(Some(bytes.slice(from..(from + length).min(bytes.len()))))
        })
    }

    fn size(&self, object: &Object) -> Fut<'_, Option<u64>> {
        let blob = self.blob(object);
        Box::pin(async { Ok(blob.map(|bytes| bytes.len() as u64)) })
    }

    fn append(&self, object: &Object, _: u64, _: Bytes) -> Fut<'_, Appended> {
        let object = object.clone();
        Box::pin(async move { refused(&object) })
    }

    fn update(&self, object: &Object, _: Option<u64>, _: Vec<(String, Option<Bytes>)>) -> Fut<'_, Updated> {
        let object = object.clone();
        Box::pin(async move { refused(&object) })
    }

    fn query(&self, object: &Object, _: &str, _: &str, _: usize) -> Fut<'_, Page> {
        let object = object.clone();
        Box::pin(async move { refused(&object) })
    }

    fn remove(&self, object: &Object) -> Fut<'_, ()> {
        let object = object.clone();
        Box::pin(async move {
            self.blobs.lock().unwrap().remove(&object);
            Ok(())
        })
    }

    fn list(&self, _: &str) -> Fut<'_, storage::Listing> {
        let mut pages = vec![Vec::new(), self.objects().into_iter().collect()];
        Box::pin(async { storage::Listing::by_thread("list".to_owned(), move || Ok(pages.pop().unwrap_or_default())) })
    }

    fn listen(&self, object: &Object) -> Fut<'_, storage::Notices> {
        let object = object.clone();
        Box::pin(async move { refused(&object) })
    }

    fn sync(&self, objects: Vec<Object>) -> Fut<'_, ()> {
        Box::pin(async move {
            self.durable.lock().unwrap().extend(objects);
            Ok(())
        })
    }
}

/// What is compared of a file: everything that a snapshot keeps.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    mode: u32,
    owner: (u32, u32),
    mtime: (i64, i64),
    links: u64,
    bytes: Vec<u8>,
}

/// All below a folder by path, with the path that first names the same file.
fn seen(root: &Path) -> BTreeMap<PathBuf, (Seen, PathBuf)> {
    let mut found = BTreeMap::new();
    let mut first = HashMap::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(path) = waiting.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        let below = path.strip_prefix(root).unwrap().to_owned();
        let folder = meta.is_dir();
        let bytes = if folder {
            let mut names: Vec<_> = fs::read_dir(&path)
                .unwrap()
                .map(|entry| entry.unwrap().path())
                .collect();
            names.sort();
            waiting.extend(names.into_iter().rev());
            Vec::new()
        } else if meta.is_symlink() {
            fs::read_link(&path).unwrap().as_os_str().as_bytes().to_vec()
        } else {
            fs::read(&path).unwrap()
        };
        let same = first
            .entry((meta.dev(), meta.ino()))
            .or_insert_with(|| below.clone())
            .clone();
        let seen = Seen {
            mode: meta.mode(),
            owner: (meta.uid(), meta.gid()),
            mtime: (meta.mtime(), meta.mtime_nsec()),
            links: if folder { 0 } else { meta.nlink() },
            bytes,
        };
        found.insert(below, (seen, same));
    }
    found
}

/// Reads in ways that others can't guess: the same for the same seed.
fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new()
        .update(&seed.to_le_bytes())
        .finalize_xof()
        .fill(&mut bytes);
    bytes
}

fn set_time(path: &Path, seconds: i64, nanoseconds: i64) {
    let time = TimeSpec::new(seconds, nanoseconds);
    utimensat(
        nix::fcntl::AT_FDCWD,
        path,
        &time,
        &time,
        UtimensatFlags::NoFollowSymlink,
    )
    .unwrap();
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Long enough for the change times so far to be trusted.
async fn settle() {
    tokio::time::sleep(Duration::from_millis(60)).await;
}

fn memory() -> Arc<Memory> {
    Arc::new(Memory::default())
}

/// Captures, restores elsewhere, compares both folders and what a capture of the second gives.
async fn round_trip(dir: &Path) -> (Arc<Memory>, Captured) {
    let store = memory();
    let captured = capture(store.clone(), dir, None).await.unwrap();
    let there = TempDir::new().unwrap();
    let manifest = restore(store.clone(), captured.digest, there.path(), None)
        .await
        .unwrap();
    assert_eq!(seen(dir), seen(there.path()));
    let again = capture(store.clone(), there.path(), Some(&manifest)).await.unwrap();
    assert_eq!(
        (again.digest, again.hashed_bytes, again.new_bytes),
        (captured.digest, 0, 0)
    );
    assert_eq!(*store.durable.lock().unwrap(), store.objects().into_iter().collect());
    (store, captured)
}
