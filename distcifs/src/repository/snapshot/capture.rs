//! A folder of the local disk taken into the store.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat};
use tokio::runtime::Handle;

use super::cut::Cutter;
use super::error::{Result, SnapshotError};
use super::format::{Entry, Folder, Kind, Link, Meta, Segment, Time, XATTR_BYTES_MAX, Xattrs};
use super::lease::Look;
use super::local::{self, Left, shown};
use super::manifest::{FileKey, Known, Manifest};
use super::store::{Stop, Uploads, on_thread};
use super::unlock::Unlocked;
use super::{DEPTH_MAX, Snapshot, xattr};
use crate::storage::descriptors::{spare, spare_nix};
use crate::storage::{Contents, Digest};

/// A change time nearer to the capture's start than this is not trusted the next time,
/// nanoseconds: two ticks of the slowest kernel's clock (100 Hz).
const RACY_NANOSECONDS: u32 = 20_000_000;
/// What a folder's owner needs to see what is in it.
const FOLDER_NEEDS: u32 = 0o500;
/// What a file's owner needs to read it.
const FILE_NEEDS: u32 = 0o400;
/// Most names of skipped files that are kept: enough for a console's line.
const SKIPPED_NAMES_MAX: usize = 20;
/// Flags of every file that is read. Nonblocking: it may have become a fifo since it was looked at.
const FILE_FLAGS: OFlag = OFlag::O_RDONLY
    .union(OFlag::O_NOFOLLOW)
    .union(OFlag::O_NONBLOCK)
    .union(OFlag::O_NOCTTY)
    .union(OFlag::O_CLOEXEC);

/// What [`capture`] made.
#[derive(Debug, Clone)]
pub struct Captured {
    /// The root's listing; `Snapshot::empty()` for a folder that is as it was made.
    pub digest: Digest,
    /// Whether nothing is in it.
    pub is_bare: bool,
    /// For the next capture of the same folder, wherever it is then.
    pub manifest: Manifest,
    /// Names of regular files.
    pub files: u64,
    /// The sizes of these files, bytes.
    pub bytes: u64,
    /// Bytes that the store did not have, chunks and listings.
    pub new_bytes: u64,
    /// Bytes of files that were read and hashed; those that the manifest knew are not.
    pub hashed_bytes: u64,
    /// The first 20 of what is not carried over: fifos, sockets, devices, mounted folders.
    pub skipped: Vec<String>,
    /// How many there were.
    pub skipped_count: u64,
    /// Whether somebody may go on changing a file without opening it, among those that were read: it was open
    /// for writing, or is mapped so.
    pub has_writers: bool,
}

impl Captured {
    /// An empty folder, of which nothing is stored.
    pub(crate) fn nothing() -> Self {
        Captured {
            digest: Snapshot::empty(),
            is_bare: true,
            manifest: Manifest::default(),
            files: 0,
            bytes: 0,
            new_bytes: 0,
            hashed_bytes: 0,
            skipped: Vec::new(),
            skipped_count: 0,
            has_writers: false,
        }
    }
}

/// Takes all that is in `dir` into the store, durably. Symbolic links are kept, never followed.
///
/// `manifest` comes from an earlier capture or restore of this folder and saves reading what has
/// not changed since. Captures may run side by side. What others change in the folder meanwhile may
/// or may not be included.
pub async fn capture(contents: Arc<dyn Contents>, dir: &Path, manifest: Option<&Manifest>) -> Result<Captured> {
    take_in(contents, dir, manifest, (false, || ())).await
}

/// The same; `begin` is called when the walk has its turn, and what it gives lives until nobody walks there any more,
/// also when nobody waits for that. Of a folder that is held up nothing is looked at here: somebody may stand in it.
pub(crate) async fn take_in<H>(
    contents: Arc<dyn Contents>,
    dir: &Path,
    manifest: Option<&Manifest>,
    (held_up, begin): (bool, impl FnOnce() -> H + Send + 'static),
) -> Result<Captured> {
    // Most tasks leave one of their two folders empty, and that is not worth a thread.
    if !held_up && is_untouched(dir) {
        return Ok(Captured::nothing());
    }
    let (dir, known) = (dir.to_owned(), manifest.cloned().unwrap_or_default());
    let handle = Handle::current();
    let walk = move |stop| {
        let _held = begin();
        run(Uploads::new(contents, handle), &dir, known, stop)
    };
    on_thread(walk).await
}

/// Whether a folder is as it was made: nothing in it, and neither mode nor attributes of its own.
pub(crate) fn is_untouched(dir: &Path) -> bool {
    std::fs::read_dir(dir).is_ok_and(|mut names| names.next().is_none())
        && local::open_root(dir).is_ok_and(|root| {
            fstat(&root).is_ok_and(|stat| stat.st_mode & 0o7777 == Folder::MODE)
                && xattr::read(root.as_fd()).is_ok_and(|xattrs| xattrs.is_empty())
        })
}

/// The whole capture, on a thread that may wait.
fn run(uploads: Uploads, dir: &Path, known: Manifest, stop: Stop) -> Result<Captured> {
    let start = local::stamp_clock();
    let mut walk = Walk::new(uploads, known, stop);
    let mut root = walk.root(dir)?;
    // Only now is it known how many names each file has within the folder. Where the kernel's count
    // is another, a name is outside: walk again, with the right counts; nothing is read again.
    if walk.links.values().any(|link| link.found != link.count) {
        walk.again();
        root = walk.root(dir)?;
    }
    let is_bare = root.entries.is_empty();
    let digest = match is_bare && root.meta.mode == Folder::MODE && root.meta.xattrs.is_empty() {
        true => Snapshot::empty(),
        false => walk.uploads.put_folder(&root, Path::new(""))?,
    };
    let new_bytes = walk.uploads.finish()?;
    let safe = earlier(start);
    let mut files = walk.fresh;
    files.retain(|_, (known, proven)| *proven || known.ctime < safe);
    Ok(Captured {
        digest,
        is_bare,
        manifest: Manifest::new(files.into_iter().map(|(key, (known, _))| (key, known)).collect()),
        files: walk.tally.files,
        bytes: walk.tally.bytes,
        new_bytes,
        hashed_bytes: walk.cutter.hashed,
        skipped: walk.tally.skipped,
        skipped_count: walk.tally.skipped_count,
        has_writers: walk.look.met_writers,
    })
}

/// The latest change time that is far enough from `start`.
fn earlier(start: Time) -> Time {
    match start.nanoseconds.checked_sub(RACY_NANOSECONDS) {
        Some(nanoseconds) => Time { nanoseconds, ..start },
        None => Time {
            seconds: start.seconds.saturating_sub(1),
            nanoseconds: start.nanoseconds + 1_000_000_000 - RACY_NANOSECONDS,
        },
    }
}

/// A file with several names, from its first one on.
struct Linked {
    group: u32,
    /// Names that it should have in the snapshot.
    count: u32,
    /// Names met so far.
    found: u32,
    meta: Meta,
    kind: Kind,
}

#[derive(Default)]
struct Tally {
    files: u64,
    bytes: u64,
    skipped: Vec<String>,
    skipped_count: u64,
}

/// The state of a walk: depth first, a folder's files before its folders, each in order of names.
struct Walk {
    uploads: Uploads,
    cutter: Cutter,
    known: Manifest,
    /// Files met in this capture; `true`: an earlier one has shown that its change time can be trusted.
    fresh: HashMap<FileKey, (Known, bool)>,
    links: HashMap<FileKey, Linked>,
    /// Names of each file within the folder, once a first walk has counted them.
    counts: Option<HashMap<FileKey, u32>>,
    next_group: u32,
    tally: Tally,
    look: Look,
    /// Relative to the root, for messages.
    path: PathBuf,
    device: u64,
    stop: Stop,
}

impl Walk {
    fn new(uploads: Uploads, known: Manifest, stop: Stop) -> Self {
        Walk {
            uploads,
            cutter: Cutter::default(),
            known,
            fresh: HashMap::new(),
            links: HashMap::new(),
            counts: None,
            next_group: 0,
            tally: Tally::default(),
            look: Look::default(),
            path: PathBuf::new(),
            device: 0,
            stop,
        }
    }

    /// Ready for a second walk, with the counts of the first.
    fn again(&mut self) {
        self.counts = Some(self.links.drain().map(|(key, link)| (key, link.found)).collect());
        self.next_group = 0;
        self.tally = Tally::default();
    }

    fn root(&mut self, dir: &Path) -> Result<Folder> {
        let root = local::open_root(dir)?;
        let stat = fstat(&root).map_err(|e| self.failed("looking at", e))?;
        self.device = stat.st_dev;
        self.folder(root, &stat, 0).map(|(folder, _)| folder)
    }

    /// One folder, with all below it sent; and a descriptor of it again.
    fn folder(&mut self, mut dir: OwnedFd, stat: &FileStat, depth: usize) -> Result<(Folder, OwnedFd)> {
        if depth > DEPTH_MAX {
            let why = format!("folders nest deeper than {DEPTH_MAX}; remove or pack them");
            return Err(SnapshotError::TooLarge {
                place: shown(&self.path),
                why,
            });
        }
        let mut folder = Folder {
            meta: local::meta(stat, self.attributes(&dir)?),
            groups: 0,
            entries: Vec::new(),
        };
        let mut below = Vec::new();
        for name in self.names(&dir)? {
            self.stop.check()?;
            self.path.push(OsStr::from_bytes(&name));
            match fstatat(&dir, OsStr::from_bytes(&name), AtFlags::AT_SYMLINK_NOFOLLOW) {
                Ok(stat) if local::kind(&stat) == SFlag::S_IFDIR => below.push(name),
                Ok(stat) => folder.entries.extend(self.file(&dir, name, stat)?),
                Err(Errno::ENOENT) => {}
                Err(errno) => return Err(self.failed("looking at", errno)),
            }
            self.path.pop();
        }
        for entry in &folder.entries {
            folder.groups = folder.groups.max(entry.link.map_or(0, |link| link.group + 1));
        }
        for name in below {
            self.path.push(OsStr::from_bytes(&name));
            let entered;
            (entered, dir) = self.subfolder(dir, name, depth)?;
            if let Some((entry, groups)) = entered {
                folder.groups = folder.groups.max(groups);
                folder.entries.push(entry);
            }
            self.path.pop();
        }
        folder.entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok((folder, dir))
    }

    /// The names in a folder, sorted.
    fn names(&self, dir: &OwnedFd) -> Result<Vec<Box<[u8]>>> {
        let failed = |errno| self.failed("listing", errno);
        let copy = spare(|| dir.try_clone()).map_err(|e| failed(errno_of(&e)))?;
        let mut stream = Dir::from_fd(copy).map_err(failed)?;
        let mut names = Vec::new();
        for entry in stream.iter() {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(name.into());
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// An entry for a folder within a folder, and the bound of its groups; `None` if it is gone by
    /// now or another filesystem is mounted there. And the folder that it is in.
    fn subfolder(&mut self, parent: OwnedFd, name: Box<[u8]>, depth: usize) -> Result<(Option<(Entry, u32)>, OwnedFd)> {
        let unlocked = Unlocked::new(&parent, &name, SFlag::S_IFDIR, FOLDER_NEEDS);
        let dir = match local::open_folder(&parent, &name) {
            Ok(dir) => dir,
            Err(Errno::ENOENT | Errno::ELOOP | Errno::ENOTDIR) => return Ok((None, parent)),
            Err(errno) => return Err(self.failed("opening", errno)),
        };
        let mut stat = fstat(&dir).map_err(|e| self.failed("looking at", e))?;
        if let Some(unlocked) = &unlocked {
            stat.st_mode = (stat.st_mode & !0o7777) | unlocked.mode;
        }
        if stat.st_dev != self.device {
            self.skip();
            return Ok((None, parent));
        }
        let left = Left::new(parent, depth).map_err(|e| self.failed("looking at", e))?;
        let (folder, dir) = self.folder(dir, &stat, depth + 1)?;
        let parent = left.enter(&dir).map_err(|e| self.failed("going up from", e))?;
        let digest = self.uploads.put_folder(&folder, &self.path)?;
        let entry = Entry {
            name,
            meta: folder.meta,
            kind: Kind::Folder(digest),
            link: None,
        };
        Ok((Some((entry, folder.groups)), parent))
    }

    /// An entry for anything but a folder; `None` if it is gone by now or not carried over.
    fn file(&mut self, dir: &OwnedFd, name: Box<[u8]>, stat: FileStat) -> Result<Option<Entry>> {
        let key = local::key(&stat);
        let count = match &self.counts {
            Some(counts) => counts.get(&key).copied().unwrap_or(1),
            None => u32::try_from(stat.st_nlink).unwrap_or(u32::MAX),
        };
        if let Some(link) = self.links.get_mut(&key) {
            link.found += 1;
            let entry = Entry {
                name,
                meta: link.meta.clone(),
                kind: link.kind.clone(),
                link: Some(Link {
                    group: link.group,
                    count: link.count,
                }),
            };
            self.count(&entry.kind);
            return Ok(Some(entry));
        }
        let (meta, kind) = match local::kind(&stat) {
            SFlag::S_IFREG => match self.regular(dir, &name, stat)? {
                Some(found) => found,
                None => return Ok(None),
            },
            SFlag::S_IFLNK => match readlinkat(dir, OsStr::from_bytes(&name)) {
                Ok(target) => (
                    local::meta(&stat, Xattrs::new()),
                    Kind::Symlink(target.as_bytes().into()),
                ),
                Err(Errno::ENOENT | Errno::EINVAL) => return Ok(None),
                Err(errno) => return Err(self.failed("reading", errno)),
            },
            _ => {
                self.skip();
                return Ok(None);
            }
        };
        self.count(&kind);
        let link = (count > 1).then_some(Link {
            group: self.next_group,
            count,
        });
        if link.is_some() {
            let linked = Linked {
                group: self.next_group,
                count,
                found: 1,
                meta: meta.clone(),
                kind: kind.clone(),
            };
            self.links.insert(key, linked);
            self.next_group += 1;
        }
        Ok(Some(Entry { name, meta, kind, link }))
    }

    /// The bytes of a regular file, from what is known of it or from the disk.
    fn regular(&mut self, dir: &OwnedFd, name: &[u8], stat: FileStat) -> Result<Option<(Meta, Kind)>> {
        let key = local::key(&stat);
        let proven = self.known.get(key, &stat).map(|known| (known.clone(), true));
        let met = || self.fresh.get(&key).filter(|(known, _)| known.matches(&stat)).cloned();
        if let Some((known, proven)) = proven.or_else(met) {
            let found = (
                local::meta(&stat, known.xattrs.clone()),
                Kind::file(known.segments.clone()),
            );
            self.fresh.insert(key, (known, proven));
            return Ok(Some(found));
        }
        let open = || spare_nix(|| openat(dir, OsStr::from_bytes(name), FILE_FLAGS, Mode::empty()));
        let opened = match open() {
            Err(Errno::EACCES) => {
                let _unlocked = Unlocked::new(dir, name, SFlag::S_IFREG, FILE_NEEDS);
                open()
            }
            opened => opened,
        };
        let file = match opened {
            Ok(file) => File::from(file),
            Err(Errno::ENOENT | Errno::ELOOP | Errno::ENXIO) => return Ok(None),
            Err(errno) => return Err(self.failed("opening", errno)),
        };
        let before = fstat(&file).map_err(|e| self.failed("looking at", e))?;
        if local::kind(&before) != SFlag::S_IFREG {
            return Ok(None);
        }
        self.look.at(&file);
        let xattrs = self.attributes(&file)?;
        let size = u64::try_from(before.st_size).unwrap_or(0);
        let segments: Arc<[Segment]> = self.cutter.cut(&file, size, &mut self.uploads, &self.path)?.into();
        let after = fstat(&file).map_err(|e| self.failed("looking at", e))?;
        let known = Known::new(&before, segments.clone(), xattrs.clone());
        if known.matches(&after) {
            self.fresh.insert(local::key(&after), (known, false));
        }
        Ok(Some((local::meta(&after, xattrs), Kind::file(segments))))
    }

    /// The extended attributes of a file or folder.
    fn attributes(&self, fd: impl AsFd) -> Result<Xattrs> {
        xattr::read(fd.as_fd()).map_err(|errno| match errno {
            Errno::E2BIG => SnapshotError::TooLarge {
                place: shown(&self.path),
                why: format!("its extended attributes have more than {XATTR_BYTES_MAX} bytes; remove some"),
            },
            errno => self.failed("reading attributes of", errno),
        })
    }

    fn count(&mut self, kind: &Kind) {
        if let Kind::File { size, .. } = kind {
            self.tally.files += 1;
            self.tally.bytes = self.tally.bytes.saturating_add(*size);
        }
    }

    /// Notes that the current path is not carried over.
    fn skip(&mut self) {
        self.tally.skipped_count += 1;
        if self.tally.skipped.len() < SKIPPED_NAMES_MAX {
            self.tally.skipped.push(shown(&self.path));
        }
    }

    fn failed(&self, verb: &str, errno: Errno) -> SnapshotError {
        SnapshotError::local(format!("{verb} {}", shown(&self.path)), errno)
    }
}

/// The errno of an error of the standard library.
fn errno_of(error: &std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}
