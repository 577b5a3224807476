//! Consoles: what tasks write, kept as objects that are appended to.
//!
//! Each attempt of a task has a console of its own, so that a late append can't reach the next
//! attempt's; a build has one more, in which all that its tasks wrote stands in order of arrival.
//! A console is a row of objects ("parts") of [`PART_BYTES`].

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, Weak};

use bytes::{Bytes, BytesMut};
use tokio::sync::MutexGuard;

use super::Result;
use super::core::{bounded, lock, settled};
use super::deadline::locked;
use super::model::console::Extent;
use super::store::Store;
use super::wakers::Wakers;
use crate::storage::contents::{SEALED, standing};
use crate::storage::{Fut, Notices, Object};

mod append;
mod lines;

pub use append::{Appender, Fence};

/// Bytes of a part; all but the last are this long.
pub const PART_BYTES: u64 = 64 << 20;

/// Bytes appended at once.
const APPEND_BYTES_MAX: usize = 4 << 20;

/// Races lost against other appenders before an append gives up.
const RACES_MAX: u32 = 1000;

/// Where a console ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct End {
    part: u64,
    length: u64,
    sequence: u64,
    /// Its last byte, if that is known.
    last: Option<u8>,
}

impl End {
    fn total(self) -> u64 {
        self.part * PART_BYTES + self.length
    }

    /// Goes on to the next part if this one is full; bytes that can be appended at once.
    fn room(&mut self) -> usize {
        if self.length >= PART_BYTES {
            *self = End {
                part: self.part + 1,
                last: self.last,
                ..End::default()
            };
        }
        usize::try_from(PART_BYTES - self.length).map_or(APPEND_BYTES_MAX, |room| room.min(APPEND_BYTES_MAX))
    }
}

/// One console that is written or read here.
#[derive(Default)]
pub(crate) struct Stream {
    name: String,
    /// The truth is the object: an append by a sequence that is not its own is refused, and tells it.
    end: tokio::sync::Mutex<End>,
    /// Tells of appends to its first part by other mounts, once somebody reads it here.
    notices: Mutex<Option<Notices>>,
}

impl Stream {
    fn new(name: &str) -> Arc<Self> {
        Arc::new(Stream {
            name: name.to_owned(),
            ..Stream::default()
        })
    }

    /// Its end as it is known here, for whoever appends or looks: one at a time.
    async fn end(&self) -> Result<MutexGuard<'_, End>> {
        locked(&self.name, &self.end).await
    }

    /// Whether the end is known, as nothing was told since it was asked for.
    fn is_unchanged(&self) -> bool {
        let mut notices = lock(&self.notices);
        notices.as_mut().is_some_and(|notices| !notices.heard())
    }
}

impl Stream {
    fn object(&self, part: u64) -> Object {
        part_object(&self.name, part)
    }
}

/// The object of one part.
fn part_object(name: &str, part: u64) -> Object {
    Object::Console(format!("{name}.{part}"))
}

/// The consoles that this mount appends to or reads.
pub struct Consoles {
    store: Arc<Store>,
    wakers: Arc<Wakers>,
    /// Those in use, by name.
    used: Mutex<HashMap<String, Kept>>,
    appended: AtomicU64,
}

/// How long a console is kept.
enum Kept {
    /// Until it is forgotten: it is appended to here.
    Appended(Arc<Stream>),
    /// As long as somebody has it open.
    Read(Weak<Stream>),
}

impl Kept {
    fn stream(&self) -> Option<Arc<Stream>> {
        match self {
            Kept::Appended(stream) => Some(stream.clone()),
            Kept::Read(stream) => stream.upgrade(),
        }
    }
}

impl Consoles {
    /// The console of that name, to append to.
    fn stream(&self, name: &str) -> Arc<Stream> {
        let mut streams = lock(&self.used);
        let known = streams.get(name).and_then(Kept::stream);
        let stream = known.unwrap_or_else(|| Stream::new(name));
        streams.insert(name.to_owned(), Kept::Appended(stream.clone()));
        stream
    }

    /// The console of that name, kept while the caller has it.
    fn reader(&self, name: &str) -> Arc<Stream> {
        let mut streams = lock(&self.used);
        if let Some(known) = streams.get(name).and_then(Kept::stream) {
            return known;
        }
        if streams.len() >= 1024 && streams.len().is_power_of_two() {
            streams.retain(|_, kept| kept.stream().is_some());
        }
        let stream = Stream::new(name);
        streams.insert(name.to_owned(), Kept::Read(Arc::downgrade(&stream)));
        stream
    }

    /// The console of that name, if it is in use here.
    fn known(&self, name: &str) -> Option<Arc<Stream>> {
        lock(&self.used).get(name).and_then(Kept::stream)
    }

    /// Forgets consoles that nobody will append to any more.
    pub(crate) fn forget(&self, names: &[String]) {
        let mut streams = lock(&self.used);
        for name in names {
            if let Some(Kept::Appended(stream)) = streams.remove(name) {
                // Whoever has it open goes on with it.
                streams.insert(name.clone(), Kept::Read(Arc::downgrade(&stream)));
            }
        }
        streams.retain(|_, kept| kept.stream().is_some());
    }
}

impl Consoles {
    /// Of a mount with these stores; whoever waits for output is told of it by the wakers.
    pub(crate) fn new(store: Arc<Store>, wakers: Arc<Wakers>) -> Self {
        Consoles {
            store,
            wakers,
            used: Mutex::default(),
            appended: AtomicU64::new(0),
        }
    }

    /// Bytes appended here since the mount was made.
    pub fn appended(&self) -> &AtomicU64 {
        &self.appended
    }

    /// Refuses every later append to a console.
    pub(crate) async fn seal(&self, name: &str) -> Result<()> {
        let part = self.length_anew(name).await? / PART_BYTES;
        let object = part_object(name, part);
        settled(name, || self.store.contents.append(&object, SEALED, Bytes::new())).await?;
        self.forget(&[name.to_owned()]);
        Ok(())
    }

    /// The length of a console, bytes.
    pub async fn length(&self, name: &str) -> Result<u64> {
        // Kept only for what is appended to here: a walk over old builds must leave nothing.
        let known = self.known(name);
        let stream = known.unwrap_or_else(|| Stream::new(name));
        let mut end = stream.end().await?;
        // Alone, nobody else appends to it.
        if end.sequence > 0 && (!self.store.shared || (end.part == 0 && stream.is_unchanged())) {
            return Ok(end.total());
        }
        // Not to be believed if asking fails.
        (end.sequence, end.last) = (0, None);
        loop {
            let object = stream.object(end.part);
            let standing = || Box::pin(standing(&*self.store.contents, &object)) as Fut<'_, _>;
            (end.length, end.sequence) = settled(name, standing).await?;
            if end.length < PART_BYTES {
                return Ok(end.total());
            }
            *end = End {
                part: end.part + 1,
                ..End::default()
            };
        }
    }

    /// The length of a console as the store has it, whatever was told here or not yet.
    pub(crate) async fn length_anew(&self, name: &str) -> Result<u64> {
        if let Some(stream) = self.known(name) {
            stream.end().await?.sequence = 0;
        }
        self.length(name).await
    }

    /// The length of one that may be known already.
    pub async fn extent_length(&self, extent: &Extent) -> Result<u64> {
        match extent.length {
            Some(length) => Ok(length),
            None => self.length(&extent.name).await,
        }
    }

    /// Keeps a console in mind that somebody has open, and is told of appends by other mounts.
    pub(crate) async fn open(&self, name: &str) -> Result<Arc<Stream>> {
        let stream = self.reader(name);
        if self.store.shared && lock(&stream.notices).is_none() {
            // Past the bound of what may be listened to it is asked at each read.
            if let Some(notices) = self.store.listen(&stream.object(0)).await? {
                *lock(&stream.notices) = Some(notices);
            }
            // From here on all is told: what was known before may be less.
            let mut end = stream.end().await?;
            (end.sequence, end.last) = (0, None);
        }
        Ok(stream)
    }

    /// Reads up to `size` bytes of a console from `offset`.
    pub async fn read(&self, name: &str, offset: u64, size: usize) -> Result<Bytes> {
        // Whoever waits at the end for more does not ask the store each time.
        if self.store.shared && self.known(name).is_some() && offset >= self.length(name).await? {
            return Ok(Bytes::new());
        }
        let mut read = BytesMut::new();
        while read.len() < size {
            let at = offset + read.len() as u64;
            let object = part_object(name, at / PART_BYTES);
            let room = usize::try_from(PART_BYTES - at % PART_BYTES).unwrap_or(usize::MAX);
            let want = (size - read.len()).min(room);
            let Some(piece) = bounded(name, self.store.contents.read(&object, at % PART_BYTES, want)).await? else {
                break;
            };
            read.extend_from_slice(&piece);
            if piece.len() < want {
                break;
            }
        }
        Ok(read.freeze())
    }

    /// Removes consoles.
    pub(crate) async fn remove(&self, names: &[String]) -> Result<()> {
        for name in names {
            let parts = self.length_anew(name).await?.div_ceil(PART_BYTES).max(1);
            for part in 0..parts {
                let object = part_object(name, part);
                settled(name, || self.store.contents.remove(&object)).await?;
            }
        }
        self.forget(names);
        Ok(())
    }
}
