//! What is known of the files of a folder on the local disk, so that the next capture does not read
//! again what has not changed.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use nix::sys::stat::FileStat;

use super::format::{Segment, Time, Xattrs};
use super::local;

/// Device and inode number: a file keeps them when it or its folder is renamed.
pub(super) type FileKey = (u64, u64);

/// One file as it was read or written.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub(super) size: u64,
    pub(super) mtime: Time,
    pub(super) ctime: Time,
    pub(super) segments: Arc<[Segment]>,
    pub(super) xattrs: Xattrs,
}

impl Known {
    pub(super) fn new(stat: &FileStat, segments: Arc<[Segment]>, xattrs: Xattrs) -> Self {
        Known {
            size: stat.st_size as u64,
            mtime: local::mtime(stat),
            ctime: local::ctime(stat),
            segments,
            xattrs,
        }
    }

    /// Whether a file that looks like this now still has the same bytes. The change time moves
    /// with every write, chmod and utimens, and nobody can set it.
    pub(super) fn matches(&self, stat: &FileStat) -> bool {
        self.size == stat.st_size as u64 && self.mtime == local::mtime(stat) && self.ctime == local::ctime(stat)
    }
}

/// Files of the local disk whose bytes are known to be stored. Cheap to clone.
///
/// A file whose change time was too near to the clock when it was read is not in it: a later write
/// could leave the same time.
#[derive(Debug, Clone, Default)]
pub struct Manifest {
    files: Arc<HashMap<FileKey, Known>>,
}

impl Manifest {
    pub(super) fn new(files: HashMap<FileKey, Known>) -> Self {
        Manifest { files: Arc::new(files) }
    }

    /// How many files it knows.
    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// Whether it knows none.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Without what is known of these files (device and inode number).
    pub fn without(mut self, files: &HashSet<(u64, u64)>) -> Self {
        if files.iter().any(|key| self.files.contains_key(key)) {
            Arc::make_mut(&mut self.files).retain(|key, _| !files.contains(key));
        }
        self
    }

    /// What is known of a file that looks like this, if that still holds.
    pub(super) fn get(&self, key: FileKey, stat: &FileStat) -> Option<&Known> {
        self.files.get(&key).filter(|known| known.matches(stat))
    }
}
