//! A snapshot laid out as files on the local disk.

use std::collections::{HashMap, HashSet, VecDeque};
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{FileStat, Mode, UtimensatFlags, fchmod, fstat, fstatat, futimens, mkdirat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchown, fchownat, ftruncate, geteuid, linkat, symlinkat};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use super::error::{Result, SnapshotError};
use super::format::{Entry, Folder, Kind, Meta, Segment, Time, XATTR_BYTES_MAX};
use super::local::{self, Left, shown};
use super::manifest::{FileKey, Known, Manifest};
use super::store::{Stop, load_folder, on_thread, read_chunk};
use super::{DEPTH_MAX, Snapshot, xattr};
use crate::repository::reserve::{NAME_BYTES, Reserve};
use crate::storage::descriptors::spare_nix;
use crate::storage::{Contents, Digest};

/// Chunks on their way from the store at once.
const CHUNKS_AHEAD: usize = 16;
/// Bytes on their way, from which on no more are asked for: with one of the largest, 64 MiB.
const AHEAD_BYTES: usize = 56 << 20;
/// Listings of folders side by side on their way at once: few, because each level may have as many.
const LISTINGS_AHEAD: usize = 4;
/// Longest wait, at the end, for the clock of the files to move on: two ticks of the slowest
/// kernel. After it, what is still too new is left out of the manifest.
const CLOCK_WAIT_MAX: Duration = Duration::from_millis(20);
/// One step of that wait.
const CLOCK_STEP: Duration = Duration::from_micros(500);

/// Makes an existing empty folder hold exactly what the snapshot has: bytes, holes, modes, times,
/// links, attributes. What it writes leaves the reserve of the disk, as what claimants write does.
///
/// `owner` gives everything to that user and group; without it the recorded owners come back if we
/// are root, and all is ours if not. The manifest makes the next capture of the folder cheap. After
/// an error the folder holds a part, to be removed once `held` is dropped: until then it is worked in.
pub(crate) async fn lay_out(
    contents: Arc<dyn Contents>,
    digest: Digest,
    dir: &Path,
    owner: Option<(u32, u32)>,
    reserve: Arc<Reserve>,
    held: Arc<impl Send + Sync + 'static>,
) -> Result<Manifest> {
    let dir = dir.to_owned();
    let handle = Handle::current();
    on_thread(move |stop| {
        let _held = held;
        let mut layout = Layout {
            contents,
            handle,
            stop,
            owner,
            as_root: geteuid().is_root(),
            links: HashMap::new(),
            files: HashMap::new(),
            newest: Time::default(),
            path: PathBuf::new(),
            reserve,
            laid: 0,
            root: local::open_root(&dir)?,
        };
        layout.run(digest)
    })
    .await
}

/// The same where nobody else needs the disk.
#[cfg(test)]
pub async fn restore(
    contents: Arc<dyn Contents>,
    digest: Digest,
    dir: &Path,
    owner: Option<(u32, u32)>,
) -> Result<Manifest> {
    lay_out(contents, digest, dir, owner, Arc::default(), Arc::new(())).await
}

/// The state of a restore.
struct Layout {
    contents: Arc<dyn Contents>,
    handle: Handle,
    stop: Stop,
    owner: Option<(u32, u32)>,
    as_root: bool,
    /// The first name of each group of hard links, relative to the root.
    links: HashMap<u32, PathBuf>,
    files: HashMap<FileKey, Known>,
    /// The latest change time of all that was written.
    newest: Time,
    /// Relative to the root.
    path: PathBuf,
    reserve: Arc<Reserve>,
    /// Bytes written so far, names included.
    laid: u64,
    root: OwnedFd,
}

impl Layout {
    fn run(&mut self, digest: Digest) -> Result<Manifest> {
        let root = self
            .root
            .try_clone()
            .map_err(|_| self.failed("opening", Errno::EMFILE))?;
        if digest == Snapshot::empty() {
            // Its time and owner say nothing: nobody made it.
            self.own(&root, None)?;
            fchmod(&root, Mode::from_bits_truncate(Folder::MODE))
                .map_err(|e| self.failed("changing the mode of", e))?;
            return Ok(Manifest::default());
        }
        let folder = self.load(digest)?;
        self.folder(root, folder, 0)?;
        self.settle();
        Ok(Manifest::new(std::mem::take(&mut self.files)))
    }

    fn load(&self, digest: Digest) -> Result<Folder> {
        self.handle
            .block_on(load_folder(&*self.contents, digest, &shown(&self.path)))
    }

    /// Fills one folder: files, then folders, then its own mode and time.
    fn folder(&mut self, mut dir: OwnedFd, folder: Folder, depth: usize) -> Result<OwnedFd> {
        if depth > DEPTH_MAX {
            let why = format!("folders nest deeper than {DEPTH_MAX}");
            return Err(SnapshotError::TooLarge {
                place: shown(&self.path),
                why,
            });
        }
        let pieces = self.pieces(&folder);
        let mut ahead: Chunks = ReadAhead::new(self, CHUNKS_AHEAD, pieces, |contents, (digest, length)| {
            let read = async move { read_chunk(&*contents, digest, length, "").await };
            (Box::pin(read), length as usize)
        });
        for entry in &folder.entries {
            self.stop.check()?;
            self.path.push(OsStr::from_bytes(&entry.name));
            match (
                &entry.kind,
                entry.link.and_then(|link| self.links.get(&link.group).cloned()),
            ) {
                (Kind::Folder(_), _) => {}
                (_, Some(first)) => self.link(&dir, entry, &first)?,
                (Kind::File { size, segments }, None) => self.file(&dir, entry, *size, segments, &mut ahead)?,
                (Kind::Symlink(target), None) => self.symlink(&dir, entry, target)?,
            }
            if let Some(link) = entry.link {
                self.links.entry(link.group).or_insert_with(|| self.path.clone());
            }
            self.path.pop();
        }
        drop(ahead);
        dir = self.subfolders(dir, &folder, depth)?;
        self.finish(&dir, &folder.meta)?;
        Ok(dir)
    }

    /// Makes and fills the folders within a folder.
    fn subfolders(&mut self, mut dir: OwnedFd, folder: &Folder, depth: usize) -> Result<OwnedFd> {
        let listed = |entry: &Entry| match entry.kind {
            Kind::Folder(digest) => Some(digest),
            _ => None,
        };
        let wanted = folder.entries.iter().filter_map(listed).collect();
        let mut ahead = ReadAhead::new(self, LISTINGS_AHEAD, wanted, |contents, digest| {
            (Box::pin(async move { load_folder(&*contents, digest, "").await }), 0)
        });
        for entry in folder.entries.iter().filter(|entry| listed(entry).is_some()) {
            self.path.push(OsStr::from_bytes(&entry.name));
            let name = OsStr::from_bytes(&entry.name);
            self.need_name(&dir)?;
            mkdirat(&dir, name, Mode::S_IRWXU).map_err(|e| self.failed("making", e))?;
            let below = local::open_folder(&dir, &entry.name).map_err(|e| self.failed("opening", e))?;
            let listing = ahead.next(&self.path)?;
            let left = Left::new(dir, depth).map_err(|e| self.failed("looking at", e))?;
            let below = self.folder(below, listing, depth + 1)?;
            // Its owner may have shut the folder below for himself, too.
            let up = left.enter(&below).or_else(|_| self.parent(&self.path));
            dir = up.map_err(|e| self.failed("going up from", e))?;
            self.path.pop();
        }
        Ok(dir)
    }

    /// The chunks that a folder's files need, in the order in which they are written.
    fn pieces(&self, folder: &Folder) -> VecDeque<(Digest, u32)> {
        let mut met = HashSet::new();
        let mut pieces = VecDeque::new();
        for entry in &folder.entries {
            let again = entry
                .link
                .is_some_and(|l| self.links.contains_key(&l.group) || !met.insert(l.group));
            if let (Kind::File { segments, .. }, false) = (&entry.kind, again) {
                pieces.extend(segments.iter().filter_map(|segment| match segment {
                    Segment::Data { digest, length } => Some((*digest, *length)),
                    _ => None,
                }));
            }
        }
        pieces
    }

    fn file(
        &mut self,
        dir: &OwnedFd,
        entry: &Entry,
        size: u64,
        segments: &Arc<[Segment]>,
        ahead: &mut Chunks,
    ) -> Result<()> {
        self.need_name(dir)?;
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mode = Mode::S_IRUSR | Mode::S_IWUSR;
        let made = spare_nix(|| openat(dir, OsStr::from_bytes(&entry.name), flags, mode));
        let file = File::from(made.map_err(|e| self.failed("making", e))?);
        let mut at = 0;
        let mut sparse = false;
        for segment in segments.iter() {
            let chunk;
            let bytes: &[u8] = match segment {
                Segment::Inline(bytes) => bytes,
                Segment::Hole(_) => &[],
                Segment::Data { .. } => {
                    chunk = ahead.next(&self.path)?;
                    &chunk
                }
            };
            sparse = matches!(segment, Segment::Hole(_));
            self.need(&file, bytes.len() as u64)?;
            file.write_all_at(bytes, at)
                .map_err(|e| self.failed("writing", e.raw_os_error().map_or(Errno::EIO, Errno::from_raw)))?;
            at = at.saturating_add(segment.length());
        }
        if sparse {
            let length = i64::try_from(size).unwrap_or(i64::MAX);
            ftruncate(&file, length).map_err(|e| self.failed("writing", e))?;
        }
        self.finish(&file, &entry.meta)?;
        let stat = fstat(&file).map_err(|e| self.failed("looking at", e))?;
        self.note(&stat, segments, entry);
        Ok(())
    }

    /// Remembers a file that was written.
    fn note(&mut self, stat: &FileStat, segments: &Arc<[Segment]>, entry: &Entry) {
        let known = Known::new(stat, segments.clone(), entry.meta.xattrs.clone());
        self.newest = self.newest.max(known.ctime);
        self.files.insert(local::key(stat), known);
    }

    fn symlink(&mut self, dir: &OwnedFd, entry: &Entry, target: &[u8]) -> Result<()> {
        let name = OsStr::from_bytes(&entry.name);
        self.need_name(dir)?;
        symlinkat(OsStr::from_bytes(target), dir, name).map_err(|e| self.failed("making", e))?;
        if let Some((uid, gid)) = self.owner_of(Some(&entry.meta)) {
            fchownat(dir, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)
                .map_err(|e| self.failed("changing the owner of", e))?;
        }
        let time = local::time_spec(entry.meta.mtime);
        utimensat(dir, name, &TimeSpec::UTIME_OMIT, &time, UtimensatFlags::NoFollowSymlink)
            .map_err(|e| self.failed("changing the time of", e))
    }

    /// Gives a file that is already there one more name.
    fn link(&mut self, dir: &OwnedFd, entry: &Entry, first: &Path) -> Result<()> {
        let name = OsStr::from_bytes(&entry.name);
        self.need_name(dir)?;
        let there = self.parent(first).map_err(|e| self.failed("linking", e))?;
        let old = first.file_name().unwrap_or_default();
        linkat(&there, old, dir, name, AtFlags::empty()).map_err(|e| self.failed("linking", e))?;
        if let Kind::File { segments, .. } = &entry.kind {
            // A new name moves the change time.
            let stat = fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW).map_err(|e| self.failed("looking at", e))?;
            let known = self.files.get(&local::key(&stat)).map(|known| known.segments.clone());
            self.note(&stat, &known.unwrap_or_else(|| segments.clone()), entry);
        }
        Ok(())
    }

    /// The folder of a path, opened name by name: whole, it may be longer than the system takes.
    fn parent(&self, path: &Path) -> std::result::Result<OwnedFd, Errno> {
        let mut at = self.root.try_clone().map_err(|_| Errno::EMFILE)?;
        for name in path.parent().unwrap_or(Path::new("")).iter() {
            at = local::open_folder(&at, name.as_bytes())?;
        }
        Ok(at)
    }

    /// Owner, attributes, mode and time, in the order in which none undoes another.
    fn finish(&mut self, fd: impl AsFd, meta: &Meta) -> Result<()> {
        self.own(&fd, Some(meta))?;
        if !meta.xattrs.is_empty() {
            self.need(&fd, XATTR_BYTES_MAX as u64)?;
        }
        xattr::write(fd.as_fd(), &meta.xattrs).map_err(|e| self.failed("writing attributes of", e))?;
        let mode = Mode::from_bits_truncate(meta.mode);
        fchmod(&fd, mode).map_err(|e| self.failed("changing the mode of", e))?;
        futimens(&fd, &TimeSpec::UTIME_OMIT, &local::time_spec(meta.mtime))
            .map_err(|e| self.failed("changing the time of", e))
    }

    fn own(&self, fd: impl AsFd, meta: Option<&Meta>) -> Result<()> {
        match self.owner_of(meta) {
            Some((uid, gid)) => fchown(fd, Some(uid), Some(gid)).map_err(|e| self.failed("changing the owner of", e)),
            None => Ok(()),
        }
    }

    /// Who is to own it; `None`: whoever does.
    fn owner_of(&self, meta: Option<&Meta>) -> Option<(Uid, Gid)> {
        let (uid, gid) = match (self.owner, meta) {
            (Some(owner), _) => owner,
            (None, Some(meta)) if self.as_root => (meta.uid, meta.gid),
            _ => return None,
        };
        Some((Uid::from_raw(uid), Gid::from_raw(gid)))
    }

    /// Waits until the clock of the files has passed all that was written, so that any later
    /// write shows in a change time; what is newer still is forgotten.
    fn settle(&mut self) {
        let mut waited = Duration::ZERO;
        let mut now = local::stamp_clock();
        while now <= self.newest && waited < CLOCK_WAIT_MAX {
            std::thread::sleep(CLOCK_STEP);
            waited += CLOCK_STEP;
            now = local::stamp_clock();
        }
        self.files.retain(|_, known| known.ctime < now);
    }

    /// Refuses what would leave too little room for everybody else.
    fn need(&mut self, fd: impl AsFd, bytes: u64) -> Result<()> {
        let checked = self.reserve.check(fd, self.laid, bytes);
        self.laid = self.laid.saturating_add(bytes);
        checked.map_err(|errno| self.full(errno))
    }

    /// The same for a new name in a folder.
    fn need_name(&mut self, dir: impl AsFd) -> Result<()> {
        let checked = self.reserve.check_inode(dir, self.laid);
        self.laid = self.laid.saturating_add(NAME_BYTES);
        checked.map_err(|errno| self.full(errno))
    }

    fn full(&self, errno: Errno) -> SnapshotError {
        let what = format!(
            "laying out the workspace, {} after {} KiB of it: what is left of the disk is kept for others; make \
             room in the mount's cache",
            shown(&self.path),
            self.laid >> 10
        );
        SnapshotError::local(what, errno)
    }

    fn failed(&self, verb: &str, errno: Errno) -> SnapshotError {
        SnapshotError::local(format!("{verb} {}", shown(&self.path)), errno)
    }
}

/// A read that will end.
type Coming<T> = Pin<Box<dyn Future<Output = Result<T>> + Send>>;

/// How one thing is read from the store, and the bytes that are bounded of it.
type Fetch<W, T> = fn(Arc<dyn Contents>, W) -> (Coming<T>, usize);

/// Things asked for before they are needed, a bounded number of them and of their bytes.
struct ReadAhead<W, T> {
    contents: Arc<dyn Contents>,
    handle: Handle,
    fetch: Fetch<W, T>,
    window: usize,
    wanted: VecDeque<W>,
    coming: VecDeque<(JoinHandle<Result<T>>, usize)>,
    bytes: usize,
}

/// Chunks by digest and length.
type Chunks = ReadAhead<(Digest, u32), Bytes>;

impl<W, T: Send + 'static> ReadAhead<W, T> {
    fn new(layout: &Layout, window: usize, wanted: VecDeque<W>, fetch: Fetch<W, T>) -> Self {
        let (contents, handle) = (layout.contents.clone(), layout.handle.clone());
        ReadAhead {
            contents,
            handle,
            fetch,
            window,
            wanted,
            coming: VecDeque::new(),
            bytes: 0,
        }
    }

    /// The next one, for the file or folder at `path`.
    fn next(&mut self, path: &Path) -> Result<T> {
        while self.coming.len() < self.window
            && self.bytes < AHEAD_BYTES
            && let Some(wanted) = self.wanted.pop_front()
        {
            let (fetch, bytes) = (self.fetch)(self.contents.clone(), wanted);
            self.bytes += bytes;
            self.coming.push_back((self.handle.spawn(fetch), bytes));
        }
        let (first, bytes) = self.coming.pop_front().ok_or(SnapshotError::Stopped)?;
        self.bytes -= bytes;
        let read = self.handle.block_on(first).map_err(|_| SnapshotError::Stopped)?;
        read.map_err(|error| error.at(path))
    }
}

impl<W, T> Drop for ReadAhead<W, T> {
    fn drop(&mut self) {
        self.coming.iter().for_each(|(read, _)| read.abort());
    }
}
