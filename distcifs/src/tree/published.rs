//! Published folders: read-only views of snapshots, numbered while the kernel remembers them.

use std::collections::HashMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::look::{Facts, LONG, NOT_AT_ALL};
use super::node::{Area, JobRef, Node, Numbers, TicketRef};
use bytes::Bytes;

use super::handles::OpenKind;
use super::rights::{READ, SEARCH};
use super::view::Viewer;
use super::{Attr, Attributes, DirEntry, Error, Found, Ino, Kind, Result, Space, Tree};
use crate::repository::Digest;
use crate::repository::access::Access;
use crate::repository::core::lock;
use crate::repository::snapshot::Snapshot;
use crate::repository::snapshot::{self, Entry, Folder};

/// Whose folder it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Whose {
    /// A build's.
    Build(Arc<JobRef>, u64, Area),
    /// A ticket's.
    Ticket(Arc<TicketRef>, Area),
    /// What a task published that a ticket's task waits for, by its index.
    Needed(Arc<TicketRef>, usize),
    /// A build's, seen through a ticket by whoever runs its work.
    Seen(Arc<TicketRef>, (u32, u32), Arc<JobRef>, u64, Area),
}

/// A published folder and where it stands.
#[derive(Clone)]
pub(crate) struct Place {
    /// Whose it is.
    pub(crate) whose: Whose,
    /// Owner and mode of what it belongs to. All below it is this owner's.
    pub(crate) access: Access,
    /// Who sees it, if that is not whoever asks.
    pub(crate) viewer: Option<Viewer>,
    /// When it was left like this.
    pub(crate) time: SystemTime,
    /// The folder that it stands in.
    pub(crate) parent: Ino,
}

/// What makes two lookups meet the same node.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key {
    /// A root: a build's workspace is another one after each task, and another's when the job is.
    Root(Whose, (u32, u32), Digest),
    /// A name in a folder.
    Child(u64, Box<[u8]>),
    /// All names of a group of hard links.
    Linked(u64, u32),
}

#[derive(Clone)]
enum What {
    Root {
        digest: Digest,
        place: Place,
    },
    /// With what it holds and no more: a listing has room for many, and the kernel knows a node for long.
    Entry(Arc<Entry>),
}

#[derive(Clone)]
struct Item {
    key: Key,
    root: u64,
    parent: Ino,
    what: What,
    lookups: u64,
}

#[derive(Default)]
struct Table {
    items: HashMap<u64, Item>,
    numbers: HashMap<Key, u64>,
    next: u64,
}

/// The published nodes that the kernel knows.
#[derive(Default)]
pub struct Published(Mutex<Table>);

impl Published {
    fn number(&self, key: Key, root: Option<u64>, parent: Ino, what: What) -> u64 {
        let mut table = lock(&self.0);
        if let Some(number) = table.numbers.get(&key).copied() {
            // Owner and mode of a root follow those of its job or queue.
            if let (What::Root { .. }, Some(item)) = (&what, table.items.get_mut(&number)) {
                item.what = what;
            }
            return number;
        }
        table.next += 1;
        let number = table.next;
        table.numbers.insert(key.clone(), number);
        table.items.insert(
            number,
            Item {
                key,
                root: root.unwrap_or(number),
                parent,
                what,
                lookups: 0,
            },
        );
        number
    }

    fn item(&self, id: u64) -> Result<Item> {
        lock(&self.0)
            .items
            .get(&id)
            .cloned()
            .ok_or_else(|| Error::Stale("a published file that has gone".into()))
    }

    /// Number of nodes that the kernel knows.
    pub fn len(&self) -> usize {
        lock(&self.0).items.len()
    }

    /// Whether it knows none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes lookups back; whether the kernel knows the node no more.
    pub fn forget(&self, id: u64, count: u64) -> bool {
        let mut table = lock(&self.0);
        let Some(item) = table.items.get_mut(&id) else {
            return true;
        };
        item.lookups = item.lookups.saturating_sub(count);
        let gone = item.lookups == 0;
        if gone {
            let key = item.key.clone();
            table.items.remove(&id);
            table.numbers.remove(&key);
        }
        gone
    }

    /// The answer to a lookup; it counts.
    pub(crate) fn found(&self, id: u64) -> Result<Found> {
        let (attr, ttl) = self.attr(id)?;
        if let Some(item) = lock(&self.0).items.get_mut(&id) {
            item.lookups += 1;
        }
        let root = matches!(self.item(id)?.what, What::Root { .. });
        Ok(Found {
            attributes: Attributes { attr, ttl },
            name_ttl: if root { NOT_AT_ALL } else { LONG },
            generation: 0,
        })
    }

    /// The folder that a node stands in.
    pub(crate) fn parent(&self, id: u64) -> Ino {
        self.item(id).map_or(Ino(1), |item| item.parent)
    }

    /// Attributes, as far as a generated node has them.
    pub(crate) fn facts(&self, id: u64) -> Result<Facts> {
        let (attr, ttl) = self.attr(id)?;
        let access = Access {
            uid: attr.uid,
            gid: attr.gid,
            mode: attr.mode,
        };
        Ok(Facts {
            kind: attr.kind,
            access,
            size: attr.size,
            time: attr.mtime,
            ttl,
            nlink: attr.nlink,
        })
    }

    /// Attributes and how long they hold.
    pub(crate) fn attr(&self, id: u64) -> Result<(Attr, Duration)> {
        let item = self.item(id)?;
        let ino = Numbers::default().ino(&Node::Published(id));
        Ok(match &item.what {
            What::Root { place, .. } => {
                let viewer = place.viewer.as_ref();
                let access = viewer.map_or(place.shown_root(), |viewer| viewer.show_published(place.access, true));
                (attr_of_root(ino, access, place.time), NOT_AT_ALL)
            }
            What::Entry(entry) => {
                let place = self.place(item.root)?;
                (attr_of(ino, entry, place.shown_entry(entry)), LONG)
            }
        })
    }

    /// Where the folder stands that a node is in, by the number of its root.
    fn place(&self, root: u64) -> Result<Place> {
        match self.item(root)?.what {
            What::Root { place, .. } => Ok(place),
            What::Entry(_) => Err(Error::Stale("a published folder that has gone".into())),
        }
    }

    /// Refuses what the one may not do for whom it is shown.
    pub(crate) fn need(&self, id: u64, rights: u32) -> Result<()> {
        let item = self.item(id)?;
        let (place, access) = match &item.what {
            What::Root { place, .. } => (place.clone(), place.access),
            What::Entry(entry) => {
                let place = self.place(item.root)?;
                let access = place.access_of(entry);
                (place, access)
            }
        };
        match &place.viewer {
            Some(viewer) => viewer.need(rights, access, "a published file"),
            None => Ok(()),
        }
    }

    /// A file, for reading.
    pub(crate) fn file(&self, id: u64) -> Result<Arc<Entry>> {
        match self.item(id)?.what {
            What::Entry(entry) if matches!(entry.kind, snapshot::Kind::File { .. }) => Ok(entry),
            _ => Err(Error::IsDirectory("a published folder".into())),
        }
    }

    /// Where a symbolic link leads.
    pub(crate) fn target(&self, id: u64) -> Result<OsString> {
        match &self.item(id)?.what {
            What::Entry(entry) => match &entry.kind {
                snapshot::Kind::Symlink(target) => Ok(OsString::from_vec(target.to_vec())),
                _ => Err(Error::Invalid("no symbolic link".into())),
            },
            What::Root { .. } => Err(Error::Invalid("no symbolic link".into())),
        }
    }

    /// The job whose build's `artifacts` folder this is.
    pub(crate) fn artifacts_of(&self, id: u64) -> Option<Arc<JobRef>> {
        match self.item(id).ok()?.key {
            Key::Root(Whose::Build(job, _, Area::Artifacts), ..) => Some(job),
            _ => None,
        }
    }

    /// The job of the build in which it stands.
    pub(crate) fn build_of(&self, id: u64) -> Option<Arc<JobRef>> {
        let table = lock(&self.0);
        let root = table.items.get(&id).and_then(|item| table.items.get(&item.root));
        match &root?.key {
            Key::Root(Whose::Build(job, ..), ..) => Some(job.clone()),
            _ => None,
        }
    }

    /// Whether it is shown to a task that it was published for.
    pub(crate) fn is_needed(&self, id: u64) -> bool {
        let table = lock(&self.0);
        let root = table.items.get(&id).and_then(|item| table.items.get(&item.root));
        root.is_some_and(|root| matches!(root.key, Key::Root(Whose::Needed(..), ..)))
    }

    /// Shows another mode of a root from now on.
    pub(crate) fn set_mode(&self, id: u64, mode: u32) {
        if let Some(Item {
            what: What::Root { place, .. },
            ..
        }) = lock(&self.0).items.get_mut(&id)
        {
            place.access.mode = mode;
        }
    }

    /// The entry that a node is.
    fn entry_of(&self, id: u64) -> Result<Option<Arc<Entry>>> {
        match self.item(id)?.what {
            What::Entry(entry) => Ok(Some(entry)),
            What::Root { .. } => Ok(None),
        }
    }

    /// The digest of a folder's listing.
    fn digest(&self, id: u64) -> Result<Digest> {
        match &self.item(id)?.what {
            What::Root { digest, .. } => Ok(*digest),
            What::Entry(entry) => match &entry.kind {
                snapshot::Kind::Folder(digest) => Ok(*digest),
                _ => Err(Error::NotDirectory("a published file".into())),
            },
        }
    }

    /// The node of an entry of a folder.
    fn child(&self, parent: u64, found: &Entry) -> Result<u64> {
        let root = self.item(parent)?.root;
        let key = match found.link {
            Some(link) => Key::Linked(root, link.group),
            None => Key::Child(parent, found.name.clone()),
        };
        let above = Numbers::default().ino(&Node::Published(parent));
        Ok(self.number(key, Some(root), above, What::Entry(Arc::new(found.clone()))))
    }
}

impl Tree {
    /// The root of a published workspace: with the mode and time that it was left with, as far as
    /// `access` lets it be read.
    pub(crate) async fn published_workspace(&self, place: Place, digest: Option<&str>) -> Node {
        let root = match digest.and_then(Digest::parse) {
            Some(digest) => self.repository.browser.folder(digest).await.ok(),
            None => None,
        };
        let Some(root) = root else {
            return self.published_root(place, digest);
        };
        // Write bits tell what they were; nobody writes here.
        let mode = root.meta.mode & (place.access.mode | 0o222);
        let place = Place {
            access: Access { mode, ..place.access },
            time: time_of(root.meta.mtime),
            ..place
        };
        self.published_root(place, digest)
    }

    /// The root of a published folder; the empty one if there is no digest.
    pub(crate) fn published_root(&self, place: Place, digest: Option<&str>) -> Node {
        let digest = digest.and_then(Digest::parse).unwrap_or_else(Snapshot::empty);
        let (owner, parent) = ((place.access.uid, place.access.gid), place.parent);
        let key = Key::Root(place.whose.clone(), owner, digest);
        let what = What::Root { digest, place };
        Node::Published(self.published.number(key, None, parent, what))
    }

    /// A name in a published folder.
    pub(crate) async fn find_published(&self, parent: u64, name: &[u8]) -> Result<Node> {
        self.published.need(parent, SEARCH)?;
        let folder = self.repository.browser.folder(self.published.digest(parent)?).await?;
        let at = folder.entries.binary_search_by(|entry| entry.name.as_ref().cmp(name));
        let at = at.map_err(|_| Error::NotFound(String::from_utf8_lossy(name).into_owned()))?;
        Ok(Node::Published(self.published.child(parent, entry(&folder, at)?)?))
    }

    /// An extended attribute of a published file.
    pub(crate) fn published_xattr(&self, ino: Ino, name: &[u8]) -> Result<Bytes> {
        let Some(Node::Published(id)) = self.numbers.node(ino) else {
            return Err(Error::NoData);
        };
        self.published.need(id, READ)?;
        let entry = self.published.entry_of(id)?.ok_or(Error::NoData)?;
        let xattrs = &entry.meta.xattrs;
        let found = xattrs.iter().find(|(known, _)| **known == *name).ok_or(Error::NoData)?;
        Ok(Bytes::copy_from_slice(&found.1))
    }

    /// The names of a published file's extended attributes, each ended by NUL.
    pub(crate) fn published_xattrs(&self, ino: Ino) -> Result<Bytes> {
        let Some(Node::Published(id)) = self.numbers.node(ino) else {
            return Ok(Bytes::new());
        };
        let Some(entry) = self.published.entry_of(id)? else {
            return Ok(Bytes::new());
        };
        let mut names = Vec::new();
        for (name, _) in &entry.meta.xattrs {
            names.extend_from_slice(name);
            names.push(0);
        }
        Ok(names.into())
    }

    /// SEEK_DATA and SEEK_HOLE in a published file.
    pub(crate) fn seek_published(&self, handle: u64, offset: i64, whence: i32) -> Result<i64> {
        let open = self.handles.get(handle)?;
        let OpenKind::Published(entry) = &open.kind else {
            return Err(Error::Unsupported("lseek".into()));
        };
        let snapshot::Kind::File { size, segments } = &entry.kind else {
            return Err(Error::Invalid("lseek".into()));
        };
        let past = || Error::System {
            what: "lseek".into(),
            errno: libc::ENXIO,
        };
        let from = u64::try_from(offset).ok().filter(|from| from < size).ok_or_else(past)?;
        let data = match whence {
            libc::SEEK_DATA => true,
            libc::SEEK_HOLE => false,
            _ => return Err(Error::Invalid("lseek: unknown whence".into())),
        };
        let mut start = 0;
        for segment in segments.iter() {
            let end = start + segment.length();
            if end > from && matches!(segment, snapshot::Segment::Hole(_)) != data {
                return i64::try_from(start.max(from)).map_err(|_| past());
            }
            start = end;
        }
        if data {
            Err(past())
        } else {
            i64::try_from(*size).map_err(|_| past())
        }
    }

    /// Figures of the disk that holds the claimants' folders.
    pub(crate) fn space(&self) -> Result<Space> {
        let failed = |errno: nix::Error| Error::System {
            what: "statfs".into(),
            errno: errno as i32,
        };
        let disk = nix::sys::statvfs::statvfs(self.repository.attempts.root()).map_err(failed)?;
        Ok(Space {
            block_size: u32::try_from(disk.fragment_size()).unwrap_or(4096),
            blocks: disk.blocks(),
            free: disk.blocks_free(),
            available: disk.blocks_available(),
            files: disk.files(),
            files_free: disk.files_free(),
        })
    }

    /// Entries of a published folder, after the first `skip`.
    pub(crate) async fn list_published(&self, id: u64, skip: usize, limit: usize, plus: bool) -> Result<Vec<DirEntry>> {
        self.published.need(id, READ)?;
        let folder = self.repository.browser.folder(self.published.digest(id)?).await?;
        let mut listed = Vec::new();
        for at in skip..folder.entries.len().min(skip.saturating_add(limit)) {
            let found = entry(&folder, at)?;
            let (ino, found_now) = if plus {
                let child = self.published.child(id, found)?;
                let found = self.published.found(child)?;
                (found.attributes.attr.ino, Some(found))
            } else {
                (Ino(u64::from(u32::MAX)), None)
            };
            listed.push(DirEntry {
                name: OsString::from_vec(found.name.to_vec()),
                ino,
                kind: kind_of(found),
                offset: at as u64 + 3,
                found: found_now,
            });
        }
        Ok(listed)
    }
}

/// An entry that a node refers to.
fn entry(folder: &Folder, at: usize) -> Result<&Entry> {
    folder
        .entries
        .get(at)
        .ok_or_else(|| Error::Stale("a published file that has gone".into()))
}

fn kind_of(entry: &Entry) -> Kind {
    match &entry.kind {
        snapshot::Kind::File { .. } => Kind::File,
        snapshot::Kind::Folder(_) => Kind::Directory,
        snapshot::Kind::Symlink(_) => Kind::Symlink,
    }
}

fn attr_of_root(ino: Ino, access: Access, time: SystemTime) -> Attr {
    Attr {
        ino,
        kind: Kind::Directory,
        mode: access.mode,
        nlink: 2,
        uid: access.uid,
        gid: access.gid,
        rdev: 0,
        size: 0,
        blocks: 0,
        atime: time,
        mtime: time,
        ctime: time,
    }
}

impl Place {
    /// Owner and mode of an entry below it: whoever's ids a task had, what it left is the job's owner's.
    fn access_of(&self, entry: &Entry) -> Access {
        Access {
            mode: entry.meta.mode,
            ..self.access
        }
    }

    /// How owner and mode of an entry are shown: through a ticket as the rights of its job's owner, to
    /// root there as they were recorded.
    fn shown_entry(&self, entry: &Entry) -> Access {
        let folder = matches!(entry.kind, snapshot::Kind::Folder(_));
        match &self.viewer {
            Some(viewer) if viewer.runner.0 == 0 => Access {
                uid: entry.meta.uid,
                gid: entry.meta.gid,
                mode: entry.meta.mode,
            },
            Some(viewer) => viewer.show_published(self.access_of(entry), folder),
            None if folder && self.is_removable() => removable(self.access_of(entry)),
            None => self.access_of(entry),
        }
    }

    /// How its topmost folder is shown to who asks himself.
    fn shown_root(&self) -> Access {
        match self.whose {
            // The mode of `artifacts` is the job's owner's to set.
            Whose::Build(_, _, Area::Workspace) | Whose::Ticket(_, Area::Workspace) => removable(self.access),
            _ => self.access,
        }
    }

    /// Whether it goes by `rm -r` of what it stands in, and no task copies from here.
    fn is_removable(&self) -> bool {
        matches!(self.whose, Whose::Build(..) | Whose::Ticket(..))
    }
}

/// Shows a folder's owner all rights on it: `rm -r` lists it and asks for permission to write, whatever mode a
/// task left it with (Go's module cache has no `w`).
fn removable(access: Access) -> Access {
    Access {
        mode: access.mode | 0o700,
        ..access
    }
}

fn attr_of(ino: Ino, entry: &Entry, access: Access) -> Attr {
    let (size, blocks) = match &entry.kind {
        snapshot::Kind::File { size, segments } => {
            let held = segments.iter().filter(|s| !matches!(s, snapshot::Segment::Hole(_)));
            (*size, held.map(|s| s.length().div_ceil(512)).sum())
        }
        snapshot::Kind::Folder(_) => (0, 0),
        snapshot::Kind::Symlink(target) => (target.len() as u64, 0),
    };
    let folder = matches!(entry.kind, snapshot::Kind::Folder(_));
    let time = time_of(entry.meta.mtime);
    Attr {
        ino,
        kind: kind_of(entry),
        mode: access.mode,
        nlink: if folder {
            2
        } else {
            entry.link.map_or(1, |link| link.count)
        },
        uid: access.uid,
        gid: access.gid,
        rdev: 0,
        size,
        blocks,
        atime: time,
        mtime: time,
        ctime: time,
    }
}

/// A snapshot's time as the system has it.
fn time_of(time: snapshot::Time) -> SystemTime {
    let nanoseconds = Duration::from_nanos(u64::from(time.nanoseconds));
    let whole = Duration::from_secs(time.seconds.unsigned_abs());
    let base = if time.seconds >= 0 {
        UNIX_EPOCH.checked_add(whole)
    } else {
        UNIX_EPOCH.checked_sub(whole)
    };
    base.and_then(|base| base.checked_add(nanoseconds))
        .unwrap_or(UNIX_EPOCH)
}
