//! Contents: blobs named by digest, records of keys and values, consoles that are appended to.

use std::fmt;

use bytes::Bytes;
use tokio::sync::{mpsc, watch};

use super::{Error, Fut, Result};

/// Largest blob, record value or single append, bytes.
pub const VALUE_BYTES_MAX: usize = 8 << 20;

/// BLAKE3 of the bytes it names.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest([u8; 32]);

impl Digest {
    /// Names these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Digest(*blake3::hash(bytes).as_bytes())
    }

    /// From its 32 bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Digest(bytes)
    }

    /// Its 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// From 64 lower-case hexadecimal digits; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let lower = text.len() == 64 && !text.bytes().any(|b| b.is_ascii_uppercase());
        let hash = lower.then(|| blake3::Hash::from_hex(text).ok()).flatten()?;
        Some(Digest(*hash.as_bytes()))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", blake3::Hash::from_bytes(self.0).to_hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The name of an object; `Display` is its name in the store, as doc/storage.md has it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Object {
    /// A blob: a piece of a file, or a long body.
    Chunk(Digest),
    /// A blob: the listing of a folder.
    Tree(Digest),
    /// A record of keys and values, such as `jobs`, `job.<uid>`, `build.<uid>.<n>`.
    /// The name is printable ASCII without `/`, at most 200 bytes.
    Record(String),
    /// Bytes appended to, such as `console.<uid>.<n>.<task>.<attempt>.<part>`. Named like a record.
    Console(String),
}

impl Object {
    /// The digest of a blob's bytes; `None` for what is no blob.
    pub fn digest(&self) -> Option<&Digest> {
        match self {
            Object::Chunk(digest) | Object::Tree(digest) => Some(digest),
            Object::Record(_) | Object::Console(_) => None,
        }
    }
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Object::Chunk(digest) => write!(f, "chunk.{digest}"),
            Object::Tree(digest) => write!(f, "tree.{digest}"),
            Object::Record(name) | Object::Console(name) => f.write_str(name),
        }
    }
}

/// How a guarded change of a record ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Updated {
    /// It happened; the record has this revision now.
    Done {
        /// The new revision.
        revision: u64,
    },
    /// It did not: the record has another revision than asked for (0: no such record).
    Mismatch {
        /// The revision it has.
        revision: u64,
    },
}

/// How a guarded append ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Appended {
    /// It happened; the console has this length and this sequence number now.
    Done {
        /// The length, bytes.
        length: u64,
        /// The sequence number to give to the next append.
        sequence: u64,
    },
    /// It did not: the console stands at another sequence number.
    Mismatch {
        /// The length, bytes.
        length: u64,
        /// The sequence number it stands at; [`SEALED`] if nothing may be appended any more.
        sequence: u64,
    },
}

/// The sequence number of a console that refuses every append.
pub const SEALED: u64 = u64::MAX;

/// Where a console stands: its length in bytes and its sequence number; 0 and 0 if there is none.
/// It is asked by an append that no console takes.
///
/// # Errors
/// Those of `append`; none of them has changed anything.
pub async fn standing(contents: &dyn Contents, object: &Object) -> super::Result<(u64, u64)> {
    match contents.append(object, SEALED, Bytes::from_static(b"?")).await? {
        Appended::Done { length, sequence } | Appended::Mismatch { length, sequence } => Ok((length, sequence)),
    }
}

/// A piece of a record, in order of its keys.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Page {
    /// The record's revision; 0 if there is no such record.
    pub revision: u64,
    /// Keys and values; fewer than asked for only at the end.
    pub entries: Vec<(String, Bytes)>,
}

/// Names in one page of a [`Listing`], at most: 1,000 names are 100 KB.
pub const LISTING_PAGE_MAX: usize = 1000;

/// Pages of a [`Listing`] that are read ahead of whoever takes them.
const PAGES_AHEAD: usize = 1;

/// The names of all objects of one kind, page by page, in no order. What is there all the while is
/// given exactly once; what is made or removed meanwhile, once or not at all. Dropping it ends it.
#[derive(Debug)]
pub struct Listing {
    what: String,
    pages: mpsc::Receiver<Result<Vec<Object>>>,
    ended: bool,
}

impl Listing {
    /// Lists by a thread of its own that calls `page` for one page after the other, up to an
    /// empty one or an error. `what`: the verb and the kind.
    ///
    /// # Errors
    /// `Unavailable` if no thread can be started.
    pub fn by_thread(what: String, mut page: impl FnMut() -> Result<Vec<Object>> + Send + 'static) -> Result<Listing> {
        let (sender, pages) = mpsc::channel(PAGES_AHEAD);
        let work = move || {
            loop {
                let next = page();
                let last = next.as_ref().map_or(true, Vec::is_empty);
                if sender.blocking_send(next).is_err() || last {
                    return;
                }
            }
        };
        match std::thread::Builder::new().name("store-list".to_owned()).spawn(work) {
            Ok(_detached) => Ok(Listing {
                what,
                pages,
                ended: false,
            }),
            Err(error) => Err(Error::Unavailable {
                what,
                why: error.to_string(),
            }),
        }
    }

    /// Lists what is known already.
    #[cfg(any(test, feature = "conformance"))]
    pub(crate) fn of(what: String, objects: &[Object]) -> Listing {
        let pages = objects.chunks(LISTING_PAGE_MAX).map(<[Object]>::to_vec);
        let (sender, receiver) = mpsc::channel(pages.len() + 1);
        for page in pages.chain([Vec::new()]) {
            // There is room for all of them.
            let _room = sender.try_send(Ok(page));
        }
        Listing {
            what,
            pages: receiver,
            ended: false,
        }
    }

    /// The next page, empty only at the end. After an error there is nothing more.
    ///
    /// # Errors
    /// `Unavailable` if the rest can't be listed now; `Damaged`.
    pub async fn next(&mut self) -> Result<Vec<Object>> {
        if self.ended {
            return Ok(Vec::new());
        }
        let page = self.pages.recv().await.unwrap_or_else(|| {
            Err(Error::Unavailable {
                what: self.what.clone(),
                why: "the listing was cut short".to_owned(),
            })
        });
        self.ended = page.as_ref().map_or(true, Vec::is_empty);
        page
    }
}

/// Tells whenever an object may have changed, whoever did it, on any mount. Several changes may be
/// told as one; what is told can be read. After the store was away it tells once, as changes may
/// have been missed. Dropping it ends that.
#[derive(Debug)]
pub struct Notices {
    heard: watch::Receiver<()>,
}

impl Notices {
    pub(super) fn new(heard: watch::Receiver<()>) -> Self {
        Notices { heard }
    }

    /// Whether the object may have changed since the last return of this or of `next`, or since
    /// `listen` returned. Once the store is closed it always may.
    pub fn heard(&mut self) -> bool {
        match self.heard.has_changed() {
            Ok(changed) => {
                self.heard.mark_unchanged();
                changed
            }
            Err(_) => true,
        }
    }

    /// Returns when the object may have changed since the last return, or since
    /// `listen` returned. It may be dropped and called again; nothing is missed by that.
    ///
    /// # Errors
    /// `Unavailable` when the store is closed.
    pub async fn next(&mut self) -> Result<()> {
        self.heard.changed().await.map_err(|_| Error::Unavailable {
            what: "listen".to_owned(),
            why: "the store is closed".to_owned(),
        })
    }
}

/// What is kept. Blobs never change. Records and consoles change only under their guard.
pub trait Contents: Send + Sync + 'static {
    /// Stores a blob under the digest of its bytes; `true` if it was not there. Not durable
    /// before `sync`. `Refused` if the object is no blob, too large, or the digest is another's.
    fn put(&self, object: &Object, bytes: Bytes) -> Fut<'_, bool>;

    /// Reads up to `length` bytes from `offset` of a blob or console: fewer only at its end,
    /// `None` if there is no such object. A blob read whole is verified: `Damaged` if its bytes
    /// are not those of its name. Less than the digest may do to know them again, if no accident
    /// gets past it; who wants the digest's word computes it.
    fn read(&self, object: &Object, offset: u64, length: usize) -> Fut<'_, Option<Bytes>>;

    /// `Full` if there is no room for more, as far as that is known at once.
    fn room(&self) -> Fut<'_, ()> {
        Box::pin(async { Ok(()) })
    }

    /// The length of a blob or console, bytes, damaged or not; `None` if there is no such object.
    fn size(&self, object: &Object) -> Fut<'_, Option<u64>>;

    /// Appends to a console that stands at `sequence` (0: it is made by this). Empty bytes with
    /// `sequence` [`SEALED`] seal it, whatever it stands at, so that every later append is
    /// refused; other bytes with it are always refused, which [`standing`] makes use of. Not durable before `sync`.
    fn append(&self, object: &Object, sequence: u64, bytes: Bytes) -> Fut<'_, Appended>;

    /// Sets (`Some`) and removes (`None`) keys of a record as one, durable when it returns.
    /// `revision`: the one it must have (0: there must be none); `None` for any.
    /// Every update counts the revision up by one.
    fn update(&self, object: &Object, revision: Option<u64>, changes: Vec<(String, Option<Bytes>)>)
    -> Fut<'_, Updated>;

    /// Reads at most `limit` keys of a record, those after `after` (exclusive; "" for the first)
    /// and beginning with `prefix`.
    fn query(&self, object: &Object, prefix: &str, after: &str, limit: usize) -> Fut<'_, Page>;

    /// Removes an object; nothing if there is none. A blob is removed by gc only, which sweeps it.
    fn remove(&self, object: &Object) -> Fut<'_, ()>;

    /// From now on blobs that are put get this epoch as their mark, unless they have a later one.
    /// 0: nobody sweeps any more; a store that one process has for itself forgets all marks then.
    fn enter(&self, epoch: u64) {
        let _no_marks = epoch;
    }

    /// Removes a blob whose mark is older than `epoch`, compared and removed as one; its length if
    /// it was removed. `u64::MAX`: whatever its mark. A store without marks removes it.
    fn sweep(&self, object: &Object, epoch: u64) -> Fut<'_, Option<u64>> {
        let (object, _no_marks) = (object.clone(), epoch);
        Box::pin(async move {
            // It goes though nobody can say how long it is.
            let length = self.size(&object).await.unwrap_or(Some(0));
            self.remove(&object).await?;
            Ok(length)
        })
    }

    /// Lists all objects of one kind: for fsck and gc. `kind`: the prefix up to the first dot, such
    /// as `chunk`.
    fn list(&self, kind: &str) -> Fut<'_, Listing>;

    /// Listens to a record or console, be it there or not, from the moment this returns.
    /// `Refused` for a blob, and past the number of objects that a mount may listen to.
    fn listen(&self, object: &Object) -> Fut<'_, Notices>;

    /// Returns when everything put or appended to these objects before the call is durable.
    fn sync(&self, objects: Vec<Object>) -> Fut<'_, ()>;
}
