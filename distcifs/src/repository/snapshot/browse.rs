//! A snapshot read in place, without laying it out: for the read-only folders of builds.

use std::collections::{BTreeMap, HashMap};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::sync::{Notify, OnceCell, Semaphore};

use super::error::{Result, SnapshotError};
use super::format::{Entry, Folder, Kind, Segment};
use super::store::{load_folder, load_folder_in_turn, read_chunk};
use crate::repository::deadline::Deadline;
use crate::storage::contents::VALUE_BYTES_MAX;
use crate::storage::{self, Contents, Digest};

/// Listings kept, bytes: some 100,000 entries.
const FOLDERS_BYTES_MAX: usize = 16 << 20;
/// Listings of several parts that are read at once: each may take a few hundred MiB.
const LARGE_READS_MAX: usize = 2;
/// Chunks kept, bytes: what is fetched ahead and a dozen that are being read, so that files read side
/// by side in small pieces fetch and verify each chunk once.
const CHUNKS_BYTES_MAX: usize = 128 << 20;
/// Of these, bytes of chunks that were read to their end: what the kernel asks for out of order, and
/// the last of each of several files, by which it shows that they are read in order. The files' pages
/// are kept by the kernel itself.
const SPENT_BYTES_MAX: usize = 32 << 20;
/// Fetched ahead and not read yet, KiB, for all readers together: what comes later must not drive it
/// out, or it is fetched twice.
const AHEAD_KIB_MAX: usize = 80 << 10;
/// How long it takes up that room: whoever has not come for it by then may have gone.
const AHEAD_TIME: Duration = Duration::from_secs(10);
/// Bytes fetched ahead of whoever reads a file from its beginning to its end: as much as keeps
/// several disks of a cluster busy.
const AHEAD_BYTES: u64 = 64 << 20;
/// The same of whoever has just begun: most files are short, and some are looked into only.
const AHEAD_BYTES_FIRST: u64 = 2 << 20;

impl Folder {
    /// Reads a folder's listing; `Snapshot::empty()` without asking the store.
    pub async fn load(contents: &dyn Contents, digest: Digest) -> Result<Arc<Folder>> {
        load_folder(contents, digest, "").await.map(Arc::new)
    }

    /// About how much memory it takes, bytes.
    fn weight(&self) -> usize {
        let entry = |entry: &Entry| {
            let own = match &entry.kind {
                Kind::File { segments, .. } => segments
                    .iter()
                    .map(|segment| match segment {
                        Segment::Inline(bytes) => size_of::<Segment>() + bytes.len(),
                        _ => size_of::<Segment>(),
                    })
                    .sum(),
                Kind::Folder(_) => 0,
                Kind::Symlink(target) => target.len(),
            };
            let xattrs: usize = entry
                .meta
                .xattrs
                .iter()
                .map(|(name, value)| 32 + name.len() + value.len())
                .sum();
            size_of::<Entry>() + entry.name.len() + own + xattrs
        };
        size_of::<Folder>() + self.entries.iter().map(entry).sum::<usize>()
    }
}

/// Reads snapshots, and keeps what it read lately: objects named by digest never change.
pub struct Browser {
    contents: Arc<dyn Contents>,
    /// The truth is the store's object, which never changes under its digest: none is wrong, and none is told of.
    folders: Mutex<Lately<Arc<Folder>>>,
    /// The listing that was read last of those too large for `folders`: whoever lists one comes again and again.
    large: Mutex<Option<(Digest, Arc<Folder>)>>,
    /// Those on their way for all who want them. Whoever waits keeps his; nobody's are dropped at the next read.
    reading: Mutex<HashMap<Digest, Weak<OnceCell<Arc<Folder>>>>>,
    turns: Semaphore,
    chunks: Mutex<Lately<Arc<Fetch>>>,
    /// What may still be fetched ahead, KiB.
    ahead: Arc<Semaphore>,
}

/// A chunk that is there, or on its way for all who want it.
struct Fetch {
    length: u32,
    bytes: OnceCell<Bytes>,
    /// Told when somebody reads it.
    wanted: Arc<Notify>,
}

impl Fetch {
    /// The bytes; whoever asks first reads them.
    async fn get(&self, contents: &dyn Contents, digest: Digest, place: &str) -> Result<Bytes> {
        let read = read_chunk(contents, digest, self.length, place);
        once(&self.bytes, place, digest, read).await
    }
}

impl Browser {
    /// A browser of this store, with nothing kept yet.
    pub fn new(contents: Arc<dyn Contents>) -> Self {
        let folders = Mutex::new(Lately::new(FOLDERS_BYTES_MAX, 0));
        Browser {
            contents,
            folders,
            large: Mutex::default(),
            reading: Mutex::default(),
            turns: Semaphore::new(LARGE_READS_MAX),
            chunks: Mutex::new(Lately::new(CHUNKS_BYTES_MAX, SPENT_BYTES_MAX)),
            ahead: Arc::new(Semaphore::new(AHEAD_KIB_MAX)),
        }
    }

    /// The listing of a folder. However many ask, it is read once, and is in memory once.
    pub async fn folder(&self, digest: Digest) -> Result<Arc<Folder>> {
        if let Some(folder) = self.kept(&digest) {
            return Ok(folder);
        }
        let cell = self.on_its_way(digest);
        let read = async {
            let folder = Arc::new(load_folder_in_turn(&*self.contents, digest, "", &self.turns).await?);
            self.keep(digest, &folder);
            Ok(folder)
        };
        once(&cell, "", digest, read).await
    }

    fn kept(&self, digest: &Digest) -> Option<Arc<Folder>> {
        let large = lock(&self.large).as_ref().filter(|(known, _)| known == digest).cloned();
        large
            .map(|(_, folder)| folder)
            .or_else(|| lock(&self.folders).get(digest))
    }

    fn keep(&self, digest: Digest, folder: &Arc<Folder>) {
        let weight = folder.weight();
        if weight > FOLDERS_BYTES_MAX / 2 {
            *lock(&self.large) = Some((digest, folder.clone()));
        } else {
            lock(&self.folders).insert(digest, folder.clone(), weight);
        }
    }

    fn on_its_way(&self, digest: Digest) -> Arc<OnceCell<Arc<Folder>>> {
        let mut reading = lock(&self.reading);
        reading.retain(|_, cell| cell.strong_count() > 0);
        if let Some(cell) = reading.get(&digest).and_then(Weak::upgrade) {
            return cell;
        }
        let cell = Arc::default();
        reading.insert(digest, Arc::downgrade(&cell));
        cell
    }

    /// At most `length` bytes of a file from `offset`: fewer only at its end, or where `length` is
    /// over 8 MiB. Nothing for what is no file. Every byte is verified.
    pub async fn read_file(&self, entry: &Entry, offset: u64, length: usize) -> Result<Bytes> {
        let Kind::File { size, segments } = &entry.kind else {
            return Ok(Bytes::new());
        };
        let end = offset.saturating_add(length.min(VALUE_BYTES_MAX) as u64).min(*size);
        self.fetch_ahead(segments, offset, end);
        let mut out = BytesMut::new();
        let wanted = end.saturating_sub(offset) as usize;
        let mut at = 0u64;
        for segment in segments.iter() {
            let next = at.saturating_add(segment.length());
            let (from, to) = (offset.max(at), end.min(next));
            if from < to {
                let range = (from - at) as usize..(to - at) as usize;
                let count = (to - from) as usize;
                match segment {
                    Segment::Hole(_) => out.resize(out.len() + count, 0),
                    Segment::Inline(bytes) => out.extend_from_slice(bytes.get(range).unwrap_or_default()),
                    Segment::Data { digest, length } => {
                        let bytes = self.chunk(*digest, *length, entry).await?;
                        if to == next {
                            lock(&self.chunks).spend(digest);
                        }
                        if count == wanted {
                            return Ok(bytes.slice(range));
                        }
                        out.reserve(wanted.saturating_sub(out.len()));
                        out.extend_from_slice(bytes.get(range).unwrap_or_default());
                    }
                }
            }
            if next >= end {
                break;
            }
            at = next;
        }
        Ok(out.freeze())
    }

    /// A whole chunk of a file.
    async fn chunk(&self, digest: Digest, length: u32, entry: &Entry) -> Result<Bytes> {
        let (fetch, _) = self.fetch(digest, length);
        fetch.wanted.notify_one();
        fetch
            .get(&*self.contents, digest, &String::from_utf8_lossy(&entry.name))
            .await
    }

    /// A chunk as it is kept, and whether it was not before.
    fn fetch(&self, digest: Digest, length: u32) -> (Arc<Fetch>, bool) {
        let mut chunks = lock(&self.chunks);
        // One chunk may be named with one length only, or the other listing is damaged.
        if let Some(known) = chunks.get(&digest).filter(|known| known.length == length) {
            return (known, false);
        }
        let (bytes, wanted) = (OnceCell::new(), Arc::default());
        let fetch = Arc::new(Fetch { length, bytes, wanted });
        chunks.insert(digest, fetch.clone(), length as usize);
        (fetch, true)
    }

    /// Begins to fetch what whoever reads a file in order will want next: so many chunks are on
    /// their way at once. Must be called inside the runtime.
    fn fetch_ahead(&self, segments: &[Segment], offset: u64, end: u64) {
        let mut until = end.saturating_add(AHEAD_BYTES_FIRST);
        let (mut at, mut before) = (0u64, None);
        for segment in segments {
            let next = at.saturating_add(segment.length());
            if let Segment::Data { digest, length } = segment {
                if next <= offset {
                    before = Some(digest);
                } else if at >= until {
                    return;
                } else if at >= end {
                    if !self.fetch_later(*digest, *length) {
                        return;
                    }
                } else if let Some(before) = before.take() {
                    // In order, if what stands before was read lately; a look into the middle else.
                    let in_order = lock(&self.chunks).has(before);
                    until = end.saturating_add(if in_order { AHEAD_BYTES } else { 0 });
                }
            }
            at = next;
        }
    }

    /// Fetches a chunk in the background, unless it is there or on its way; `false` if there is no
    /// room for it.
    fn fetch_later(&self, digest: Digest, length: u32) -> bool {
        if lock(&self.chunks).has(&digest) {
            return true;
        }
        let room = self.ahead.clone().try_acquire_many_owned(length.div_ceil(1 << 10));
        let Ok(room) = room else { return false };
        if let (fetch, true) = self.fetch(digest, length) {
            let (contents, wanted) = (self.contents.clone(), fetch.wanted.clone());
            tokio::spawn(async move {
                // Whoever reads it tries again, and is told of the error.
                let _ = fetch.get(&*contents, digest, "").await;
                // Without its bytes, which may be let go of meanwhile.
                drop(fetch);
                let _in_time_or_not = Deadline::after(AHEAD_TIME).wait(wanted.notified()).await;
                drop(room);
            });
        }
        true
    }
}

/// What a cell has, read by whoever comes first. The store bounds each of his reads; the others wait for him no
/// longer than for a call of it, as each of them would begin anew after one that failed.
async fn once<T: Clone>(
    cell: &OnceCell<T>,
    place: &str,
    digest: Digest,
    read: impl Future<Output = Result<T>>,
) -> Result<T> {
    let own = AtomicBool::new(false);
    let mut read = pin!(cell.get_or_try_init(|| {
        own.store(true, Ordering::Relaxed);
        read
    }));
    match Deadline::of_call().wait(&mut read).await {
        Some(known) => known.cloned(),
        None if own.load(Ordering::Relaxed) => read.await.cloned(),
        None => Err(SnapshotError::Store {
            place: place.to_owned(),
            error: storage::Error::Unavailable {
                what: format!("reading {digest}"),
                why: "somebody else reads it, and the store has not answered him in time; try again".to_owned(),
            },
        }),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Values used lately, bounded by the bytes that they take.
struct Lately<T> {
    values: HashMap<Digest, Kept<T>>,
    /// The order of use: a counter's value, and what was used then. What is spent stands below zero,
    /// in order, too: it goes first.
    order: BTreeMap<i64, Digest>,
    clock: i64,
    bytes: usize,
    bytes_max: usize,
    /// Of the bytes, those that are spent.
    spent: usize,
    spent_max: usize,
}

struct Kept<T> {
    value: T,
    bytes: usize,
    used: i64,
}

impl<T> Kept<T> {
    fn spent(&self) -> usize {
        if self.used < 0 { self.bytes } else { 0 }
    }
}

impl<T: Clone> Lately<T> {
    fn new(bytes_max: usize, spent_max: usize) -> Self {
        Lately {
            values: HashMap::new(),
            order: BTreeMap::new(),
            clock: 0,
            bytes: 0,
            bytes_max,
            spent: 0,
            spent_max,
        }
    }

    fn get(&mut self, digest: &Digest) -> Option<T> {
        let mut kept = self.take(digest)?;
        let value = kept.value.clone();
        kept.used = self.clock;
        self.keep(*digest, kept);
        Some(value)
    }

    /// Whether it is kept; looking is no use.
    fn has(&self, digest: &Digest) -> bool {
        self.values.contains_key(digest)
    }

    /// Lets go of this before anything else, as whoever read it to its end has no more use for it. It
    /// stays for a while: the kernel's requests may come out of order.
    fn spend(&mut self, digest: &Digest) {
        if let Some(mut kept) = self.take(digest) {
            kept.used = i64::MIN + self.clock;
            self.keep(*digest, kept);
        }
    }

    /// Keeps a value, and lets go of those used longest ago; one over half of the room is not kept.
    fn insert(&mut self, digest: Digest, value: T, bytes: usize) {
        if bytes > self.bytes_max / 2 {
            return;
        }
        self.take(&digest);
        let used = self.clock;
        self.keep(digest, Kept { value, bytes, used });
    }

    /// Takes a value out, if it is there, and counts the clock up.
    fn take(&mut self, digest: &Digest) -> Option<Kept<T>> {
        self.clock += 1;
        let kept = self.values.remove(digest)?;
        self.order.remove(&kept.used);
        self.bytes -= kept.bytes;
        self.spent -= kept.spent();
        Some(kept)
    }

    /// Puts a value at its place in the order; what stands first goes while there is too much.
    fn keep(&mut self, digest: Digest, kept: Kept<T>) {
        self.bytes += kept.bytes;
        self.spent += kept.spent();
        self.order.insert(kept.used, digest);
        self.values.insert(digest, kept);
        while (self.bytes > self.bytes_max || self.spent > self.spent_max)
            && let Some((_, first)) = self.order.pop_first()
        {
            let gone = self.values.remove(&first);
            self.bytes -= gone.as_ref().map_or(0, |gone| gone.bytes);
            self.spent -= gone.as_ref().map_or(0, Kept::spent);
        }
    }
}
