//! Two snapshots joined into one.

use std::path::PathBuf;
use std::{collections::BTreeMap, ffi::OsStr, os::unix::ffi::OsStrExt, path::Path, sync::Arc};

use tokio::runtime::Handle;

use super::error::{Result, SnapshotError};
use super::format::{Entry, Folder, Kind};
use super::local::shown;
use super::store::{Stop, Uploads, load_folder, on_thread};
use super::{DEPTH_MAX, Snapshot};
use crate::storage::{Contents, Digest};

/// The union of two snapshots, durable. Folders that both have are merged; where both have another
/// thing of the same name, the one of `over` is taken. Hard links stay what they were in each; a
/// group that lost a name to `over` keeps its old count.
pub async fn merge(contents: Arc<dyn Contents>, base: Digest, over: Digest) -> Result<Digest> {
    if base == Snapshot::empty() || base == over {
        return Ok(over);
    }
    if over == Snapshot::empty() {
        return Ok(base);
    }
    let handle = Handle::current();
    on_thread(move |stop| {
        let uploads = Uploads::new(contents.clone(), handle.clone());
        let mut merge = Merge {
            contents,
            handle,
            uploads,
            shift: 0,
            path: PathBuf::new(),
            stop,
        };
        let base = merge.load(base)?;
        merge.shift = base.groups;
        let over = merge.load(over)?;
        let root = merge.folders(base, over, 0)?;
        let digest = merge.uploads.put_folder(&root, Path::new(""))?;
        merge.uploads.finish()?;
        Ok(digest)
    })
    .await
}

/// The state of a merge.
struct Merge {
    contents: Arc<dyn Contents>,
    handle: Handle,
    uploads: Uploads,
    /// Added to each number of a group of `over`.
    shift: u32,
    path: PathBuf,
    stop: Stop,
}

impl Merge {
    fn load(&self, digest: Digest) -> Result<Folder> {
        self.handle
            .block_on(load_folder(&*self.contents, digest, &shown(&self.path)))
    }

    /// The union of two folders, all below it sent.
    fn folders(&mut self, base: Folder, over: Folder, depth: usize) -> Result<Folder> {
        self.enter(depth)?;
        let groups = if over.groups == 0 {
            base.groups
        } else {
            base.groups.max(self.shifted(over.groups)?)
        };
        let mut entries: BTreeMap<Box<[u8]>, Entry> = base
            .entries
            .into_iter()
            .map(|entry| (entry.name.clone(), entry))
            .collect();
        for entry in over.entries {
            self.path.push(OsStr::from_bytes(&entry.name));
            let merged = match (entries.get(&entry.name).map(|old| &old.kind), &entry.kind) {
                (Some(Kind::Folder(old)), Kind::Folder(new)) if old == new && over.groups == 0 => entry,
                (Some(Kind::Folder(old)), Kind::Folder(new)) => {
                    let (old, new) = (self.load(*old)?, self.load(*new)?);
                    let folder = self.folders(old, new, depth + 1)?;
                    let digest = self.uploads.put_folder(&folder, &self.path)?;
                    Entry {
                        kind: Kind::Folder(digest),
                        ..entry
                    }
                }
                _ => self.moved(entry, over.groups, depth)?,
            };
            entries.insert(merged.name.clone(), merged);
            self.path.pop();
        }
        Ok(Folder {
            meta: over.meta,
            groups,
            entries: entries.into_values().collect(),
        })
    }

    /// An entry of `over`, its groups renumbered, in a folder with this bound of groups.
    fn moved(&mut self, mut entry: Entry, groups: u32, depth: usize) -> Result<Entry> {
        if groups == 0 || self.shift == 0 {
            return Ok(entry);
        }
        if let Some(link) = &mut entry.link {
            link.group = self.shifted(link.group)?;
        }
        if let Kind::Folder(digest) = entry.kind {
            let mut folder = self.load(digest)?;
            self.enter(depth + 1)?;
            if folder.groups > 0 {
                let groups = folder.groups;
                folder.groups = self.shifted(groups)?;
                for below in std::mem::take(&mut folder.entries) {
                    self.path.push(OsStr::from_bytes(&below.name));
                    let below = self.moved(below, groups, depth + 1)?;
                    folder.entries.push(below);
                    self.path.pop();
                }
                entry.kind = Kind::Folder(self.uploads.put_folder(&folder, &self.path)?);
            }
        }
        Ok(entry)
    }

    fn shifted(&self, group: u32) -> Result<u32> {
        group.checked_add(self.shift).ok_or_else(|| SnapshotError::TooLarge {
            place: shown(&self.path),
            why: "too many groups of hard links".to_owned(),
        })
    }

    /// Checks the depth, and whether anybody still waits.
    fn enter(&self, depth: usize) -> Result<()> {
        self.stop.check()?;
        if depth <= DEPTH_MAX {
            return Ok(());
        }
        let why = format!("folders nest deeper than {DEPTH_MAX}");
        Err(SnapshotError::TooLarge {
            place: shown(&self.path),
            why,
        })
    }
}
