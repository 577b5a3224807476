//! Calls of the store from the threads that walk folders, and folders read from it.

use std::collections::HashSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use nix::errno::Errno;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, SemaphorePermit, oneshot};

use super::Snapshot;
use super::error::{Result, SnapshotError};
use super::format::{Folder, Listing, decode};
use super::local::shown;
use super::wire::Malformed;
#[cfg(test)]
use crate::repository::apart::HeldClock;
use crate::repository::deadline::Deadline;
use crate::storage::contents::VALUE_BYTES_MAX;
use crate::storage::{self, Contents, Digest, Object};

/// Bytes on their way to the store at once, in KiB: eight of the usual chunks of large files.
const IN_FLIGHT_KIB: u32 = 32 << 10;
/// What an object on its way counts at least, KiB: so at most 1,024 calls are under way.
const IN_FLIGHT_LEAST_KIB: u32 = 32;

/// Set when whoever asked for the work has gone.
#[derive(Clone, Default)]
pub(super) struct Stop(Arc<AtomicBool>);

impl Stop {
    /// An error once nobody waits for the work any more.
    pub(super) fn check(&self) -> Result<()> {
        if self.0.load(Ordering::Relaxed) {
            Err(SnapshotError::Stopped)
        } else {
            Ok(())
        }
    }
}

/// Stops the work when the future that waits for it is dropped.
struct StopOnDrop(Stop);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Relaxed);
    }
}

/// Walks under way at once in this process; more wait their turn. Each takes up to 48 MiB (restores:
/// 64 MiB) of chunks, and more of them than this gain nothing on one disk.
const WALKS_MAX: usize = 8;
/// Stack of a walk, bytes: 32 KiB for each level of folders down to `DEPTH_MAX`. Only what is
/// used is ever real memory.
const STACK_BYTES: usize = 32 << 10 << 11;

static WALKS: Semaphore = Semaphore::const_new(WALKS_MAX);

/// From when on a walk is said to stand, and takes no turn of others: somebody may hold a file that it reads, and a
/// disk may make it wait for him. One that takes as long because it is large has one more beside it.
const STANDS: Duration = Duration::from_secs(300);

/// A turn that goes back with the walk, or when that stands.
type Turn = Arc<Mutex<Option<SemaphorePermit<'static>>>>;

/// Gives a turn back once its walk stands.
async fn watch(turn: Turn, over: oneshot::Receiver<()>) {
    if Deadline::after(STANDS).wait(over).await.is_none() {
        drop(turn.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

/// Runs work that may wait on a thread of its own; it ends soon after the caller is gone.
pub(super) async fn on_thread<T, F>(work: F) -> Result<T>
where
    T: Send + 'static,
    F: FnOnce(Stop) -> Result<T> + Send + 'static,
{
    let turn = WALKS.acquire().await.map_err(|_| SnapshotError::Stopped)?;
    let turn: Turn = Arc::new(Mutex::new(Some(turn)));
    let (running, over) = oneshot::channel();
    tokio::spawn(watch(turn.clone(), over));
    let stop = Stop::default();
    let _guard = StopOnDrop(stop.clone());
    let (done, result) = oneshot::channel();
    #[cfg(test)]
    let clock = HeldClock::new();
    let body = move || {
        // Nobody listens any more if the caller is gone.
        let _gone = done.send(work(stop));
        drop(turn.lock().unwrap_or_else(PoisonError::into_inner).take());
        drop(running);
        #[cfg(test)]
        drop(clock);
    };
    std::thread::Builder::new()
        .name("snapshot".to_owned())
        .stack_size(STACK_BYTES)
        .spawn(body)
        .map_err(|error| {
            let errno = error.raw_os_error().map_or(Errno::EAGAIN, Errno::from_raw);
            SnapshotError::local("starting a thread", errno)
        })?;
    result.await.map_err(|_| SnapshotError::Stopped)?
}

/// Reads a whole blob of at most `length` bytes, verified by the store.
pub(super) async fn read_blob(contents: &dyn Contents, object: Object, length: usize, place: &str) -> Result<Bytes> {
    match contents.read(&object, 0, length).await {
        Ok(Some(bytes)) => Ok(bytes),
        Ok(None) => Err(SnapshotError::Missing {
            place: place.to_owned(),
            object,
        }),
        Err(storage::Error::Damaged { why, .. }) => Err(SnapshotError::Damaged {
            place: place.to_owned(),
            object,
            why,
        }),
        Err(error) => Err(SnapshotError::Store {
            place: place.to_owned(),
            error,
        }),
    }
}

/// Reads a chunk that a listing says to have `length` bytes.
pub(super) async fn read_chunk(contents: &dyn Contents, digest: Digest, length: u32, place: &str) -> Result<Bytes> {
    let object = Object::Chunk(digest);
    // One byte more than expected: so the store sees the whole blob and verifies it.
    let bytes = read_blob(contents, object.clone(), length as usize + 1, place).await?;
    if bytes.len() == length as usize {
        return Ok(bytes);
    }
    let why = format!("{} bytes where the listing says {length}", bytes.len());
    Err(SnapshotError::Damaged {
        place: place.to_owned(),
        object,
        why,
    })
}

/// Reads one `Tree` object, whichever it is.
pub(super) async fn load_listing(contents: &dyn Contents, digest: Digest, place: &str) -> Result<Listing> {
    let object = Object::Tree(digest);
    let bytes = read_blob(contents, object, VALUE_BYTES_MAX, place).await?;
    decode(&bytes).map_err(|why| malformed(digest, place, why))
}

/// Reads a folder's whole listing; the empty snapshot without asking the store.
pub(super) async fn load_folder(contents: &dyn Contents, digest: Digest, place: &str) -> Result<Folder> {
    load_folder_in_turn(contents, digest, place, &Semaphore::new(1)).await
}

/// The same; a listing of several parts, which may take 64 MiB and several times that in memory, is read by
/// whoever has one of the `turns`.
pub(super) async fn load_folder_in_turn(
    contents: &dyn Contents,
    digest: Digest,
    place: &str,
    turns: &Semaphore,
) -> Result<Folder> {
    if digest == Snapshot::empty() {
        return Ok(Folder::empty());
    }
    let (mut folder, parts) = match load_listing(contents, digest, place).await? {
        Listing::Whole(folder) => return Ok(folder),
        Listing::Head(folder, parts) => (folder, parts),
        Listing::Part(_) => {
            return Err(malformed(digest, place, Malformed("a part where a folder should be")));
        }
    };
    // It is never closed.
    let _turn = turns.acquire().await;
    for part in parts {
        let Listing::Part(entries) = load_listing(contents, part, place).await? else {
            return Err(malformed(part, place, Malformed("a folder where a part should be")));
        };
        folder.extend(entries).map_err(|why| malformed(part, place, why))?;
    }
    Ok(folder)
}

/// A listing that does not decode.
pub(super) fn malformed(digest: Digest, place: &str, why: Malformed) -> SnapshotError {
    SnapshotError::Damaged {
        place: place.to_owned(),
        object: Object::Tree(digest),
        why: why.to_string(),
    }
}

impl Drop for Uploads {
    /// Whoever hears that it failed may remove what was stored: nothing of it comes afterwards.
    fn drop(&mut self) {
        let _all = self.handle.block_on(self.room.acquire_many(IN_FLIGHT_KIB));
    }
}

/// What the tasks that send objects tell.
#[derive(Default)]
struct Sent {
    done: AtomicU64,
    new_bytes: AtomicU64,
    failed: Mutex<Option<SnapshotError>>,
}

/// Objects on their way to the store: a bounded number of bytes at once, each object once.
pub(super) struct Uploads {
    contents: Arc<dyn Contents>,
    handle: Handle,
    room: Arc<Semaphore>,
    sent: Arc<Sent>,
    objects: HashSet<Object>,
}

impl Uploads {
    /// Sends through this runtime; `put` and `finish` must be called from a thread that may wait.
    pub(super) fn new(contents: Arc<dyn Contents>, handle: Handle) -> Self {
        let room = Arc::new(Semaphore::new(IN_FLIGHT_KIB as usize));
        Uploads {
            contents,
            handle,
            room,
            sent: Arc::default(),
            objects: HashSet::new(),
        }
    }

    /// Sends an object, unless it was sent before; waits while too much is under way.
    pub(super) fn put(&mut self, object: Object, bytes: Bytes, place: &Path) -> Result<()> {
        if !self.objects.insert(object.clone()) {
            return Ok(());
        }
        let cost = u32::try_from(bytes.len().div_ceil(1 << 10)).unwrap_or(IN_FLIGHT_KIB);
        let room = self
            .room
            .clone()
            .acquire_many_owned(cost.clamp(IN_FLIGHT_LEAST_KIB, IN_FLIGHT_KIB));
        let permit = self.handle.block_on(room).map_err(|_| SnapshotError::Stopped)?;
        self.failure()?;
        let (contents, sent, place) = (self.contents.clone(), self.sent.clone(), place.to_owned());
        self.handle.spawn(async move {
            let length = bytes.len() as u64;
            match contents.put(&object, bytes).await {
                Ok(new) => {
                    sent.new_bytes
                        .fetch_add(if new { length } else { 0 }, Ordering::Relaxed);
                    sent.done.fetch_add(1, Ordering::Release);
                }
                Err(error) => {
                    let error = SnapshotError::Store {
                        place: shown(&place),
                        error,
                    };
                    sent.failed
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .get_or_insert(error);
                }
            }
            drop(permit);
        });
        Ok(())
    }

    /// Encodes and sends a folder's listing; its digest.
    pub(super) fn put_folder(&mut self, folder: &Folder, place: &Path) -> Result<Digest> {
        let objects = folder.encode().map_err(|why| SnapshotError::TooLarge {
            place: shown(place),
            why: why.to_string(),
        })?;
        let last = objects.last().map(|(digest, _)| *digest);
        for (digest, bytes) in objects {
            self.put(Object::Tree(digest), bytes, place)?;
        }
        last.ok_or(SnapshotError::Stopped)
    }

    /// Waits for all that was sent, makes it durable, and gives the number of bytes that were new.
    pub(super) fn finish(mut self) -> Result<u64> {
        let all = self
            .handle
            .block_on(self.room.acquire_many(IN_FLIGHT_KIB))
            .map_err(|_| SnapshotError::Stopped)?;
        self.failure()?;
        // A task that was cut short by the end of the runtime counted nothing.
        if self.sent.done.load(Ordering::Acquire) != self.objects.len() as u64 {
            return Err(SnapshotError::Stopped);
        }
        drop(all);
        if !self.objects.is_empty() {
            // Those that were there already, too: another capture may have put them a moment ago.
            let objects = std::mem::take(&mut self.objects);
            let sync = self.contents.sync(objects.into_iter().collect());
            self.handle.block_on(sync).map_err(|error| SnapshotError::Store {
                place: "making a snapshot durable".to_owned(),
                error,
            })?;
        }
        Ok(self.sent.new_bytes.load(Ordering::Relaxed))
    }

    /// The first failure of what was sent.
    fn failure(&self) -> Result<()> {
        match &*self.sent.failed.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error.clone()),
            None => Ok(()),
        }
    }
}
