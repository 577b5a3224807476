//! A store around another that sees every call of it: the one place that repeats the two traits for what
//! counts calls, lets them fail or ends them.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::watch;

use super::{
    Appended, Commit, Contents, Coordination, Entry, Fut, Listing, Notices, Object, Op, Page, Session, Updated, Watch,
};

/// A call before it is made.
#[derive(Debug, Clone, Copy)]
pub enum Asked<'a> {
    /// Of an entry.
    Get(&'a str),
    /// Of what is below an entry.
    Children(&'a str),
    /// Of a change of entries.
    Commit(&'a [Op]),
    /// Of a watch of an entry and what is below it.
    Watch(&'a str),
    /// Of all that the coordinator has.
    SyncEntries,
    /// Of a blob that is stored.
    Put(&'a Object),
    /// Of bytes.
    Read(&'a Object),
    /// Of a length.
    Size(&'a Object),
    /// Of a console.
    Append(&'a Object),
    /// Of a change of a record.
    Update(&'a Object),
    /// Of a record's entries whose keys begin like this.
    Query(&'a Object, &'a str),
    /// Of an object that goes.
    Remove(&'a Object),
    /// Of one that goes if it is not marked.
    Sweep(&'a Object),
    /// Of all objects of a kind.
    List(&'a str),
    /// Of the notices of a record.
    Listen(&'a Object),
    /// Of what must be durable.
    SyncObjects,
}

impl Asked<'_> {
    /// The method of the trait.
    pub fn verb(&self) -> &'static str {
        match self {
            Asked::Get(_) => "get",
            Asked::Children(_) => "children",
            Asked::Commit(_) => "commit",
            Asked::Watch(_) => "watch",
            Asked::SyncEntries | Asked::SyncObjects => "sync",
            Asked::Put(_) => "put",
            Asked::Read(_) => "read",
            Asked::Size(_) => "size",
            Asked::Append(_) => "append",
            Asked::Update(_) => "update",
            Asked::Query(..) => "query",
            Asked::Remove(_) => "remove",
            Asked::Sweep(_) => "sweep",
            Asked::List(_) => "list",
            Asked::Listen(_) => "listen",
        }
    }

    /// Whether it may change something, or makes a change durable.
    pub fn writes(&self) -> bool {
        match self {
            Asked::Commit(_)
            | Asked::Put(_)
            | Asked::Append(_)
            | Asked::Update(_)
            | Asked::Remove(_)
            | Asked::Sweep(_)
            | Asked::SyncObjects => true,
            Asked::Get(_)
            | Asked::Children(_)
            | Asked::Watch(_)
            | Asked::SyncEntries
            | Asked::Read(_)
            | Asked::Size(_)
            | Asked::Query(..)
            | Asked::List(_)
            | Asked::Listen(_) => false,
        }
    }
}

/// The path or object; of a commit those that it changes.
impl fmt::Display for Asked<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Asked::Get(path) | Asked::Children(path) | Asked::Watch(path) => f.write_str(path),
            Asked::Commit(ops) => told(ops, f),
            Asked::SyncEntries => f.write_str("the coordinator"),
            Asked::Put(object)
            | Asked::Read(object)
            | Asked::Size(object)
            | Asked::Append(object)
            | Asked::Update(object)
            | Asked::Remove(object)
            | Asked::Sweep(object)
            | Asked::Listen(object) => object.fmt(f),
            Asked::Query(object, prefix) => write!(f, "{object} {prefix}"),
            Asked::List(kind) => f.write_str(kind),
            Asked::SyncObjects => f.write_str("objects"),
        }
    }
}

/// What a commit changes, in short.
fn told(ops: &[Op], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for (at, op) in ops.iter().enumerate() {
        let (sign, path) = match op {
            Op::Create { path, .. } => ('+', path),
            Op::Set { path, .. } => ('=', path),
            Op::Delete { path, .. } => ('-', path),
            Op::Check { path, .. } => ('?', path),
        };
        let space = if at == 0 { "" } else { " " };
        write!(f, "{space}{sign}{path}")?;
    }
    Ok(())
}

/// What is done with every call of a store.
pub trait Around: Send + Sync + 'static {
    /// What is known of a call from when it is made.
    type Noted: Send + 'static;

    /// A call is made, in this order; nothing of it has happened.
    fn asked(&self, asked: &Asked<'_>) -> Self::Noted;

    /// What becomes of the call. It does nothing until it is polled: who drops it has prevented it.
    fn pass<'a, T: Send + 'a>(&'a self, noted: Self::Noted, call: Fut<'a, T>) -> Fut<'a, T>;

    /// What is told of entries, of what the store tells.
    fn watched<'a>(&'a self, _path: &str, told: Fut<'a, Watch>) -> Fut<'a, Watch> {
        told
    }

    /// What is told of a record, of what the store tells.
    fn heard<'a>(&'a self, _object: &Object, told: Fut<'a, Notices>) -> Fut<'a, Notices> {
        told
    }
}

/// A store with something around it; `S` is any of both traits' implementations.
#[derive(Debug)]
pub struct Wrapped<S: ?Sized, A> {
    inner: Arc<S>,
    around: A,
}

impl<S: ?Sized, A: Clone> Clone for Wrapped<S, A> {
    fn clone(&self) -> Self {
        let (inner, around) = (self.inner.clone(), self.around.clone());
        Wrapped { inner, around }
    }
}

impl<S: ?Sized, A> Wrapped<S, A> {
    /// Puts something around a store.
    pub fn around(inner: Arc<S>, around: A) -> Self {
        Wrapped { inner, around }
    }

    /// The store inside, with nothing around it.
    pub fn inner(&self) -> &S {
        &self.inner
    }

    /// What is around it.
    pub fn what(&self) -> &A {
        &self.around
    }
}

impl<S: Coordination + ?Sized, A: Around> Coordination for Wrapped<S, A> {
    fn get(&self, path: &str) -> Fut<'_, Option<Entry>> {
        let noted = self.around.asked(&Asked::Get(path));
        self.around.pass(noted, self.inner.get(path))
    }

    fn children(&self, path: &str) -> Fut<'_, Vec<String>> {
        let noted = self.around.asked(&Asked::Children(path));
        self.around.pass(noted, self.inner.children(path))
    }

    fn commit(&self, ops: Vec<Op>) -> Fut<'_, Commit> {
        let noted = self.around.asked(&Asked::Commit(&ops));
        self.around.pass(noted, self.inner.commit(ops))
    }

    fn watch(&self, path: &str) -> Fut<'_, Watch> {
        let noted = self.around.asked(&Asked::Watch(path));
        self.around
            .pass(noted, self.around.watched(path, self.inner.watch(path)))
    }

    fn sync(&self) -> Fut<'_, ()> {
        let noted = self.around.asked(&Asked::SyncEntries);
        self.around.pass(noted, self.inner.sync())
    }

    fn session(&self) -> watch::Receiver<Session> {
        self.inner.session()
    }
}

impl<S: Contents + ?Sized, A: Around> Contents for Wrapped<S, A> {
    fn room(&self) -> Fut<'_, ()> {
        self.inner.room()
    }

    fn put(&self, object: &Object, bytes: Bytes) -> Fut<'_, bool> {
        let noted = self.around.asked(&Asked::Put(object));
        self.around.pass(noted, self.inner.put(object, bytes))
    }

    fn read(&self, object: &Object, offset: u64, length: usize) -> Fut<'_, Option<Bytes>> {
        let noted = self.around.asked(&Asked::Read(object));
        self.around.pass(noted, self.inner.read(object, offset, length))
    }

    fn size(&self, object: &Object) -> Fut<'_, Option<u64>> {
        let noted = self.around.asked(&Asked::Size(object));
        self.around.pass(noted, self.inner.size(object))
    }

    fn append(&self, object: &Object, sequence: u64, bytes: Bytes) -> Fut<'_, Appended> {
        let noted = self.around.asked(&Asked::Append(object));
        self.around.pass(noted, self.inner.append(object, sequence, bytes))
    }

    fn update(
        &self,
        object: &Object,
        revision: Option<u64>,
        changes: Vec<(String, Option<Bytes>)>,
    ) -> Fut<'_, Updated> {
        let noted = self.around.asked(&Asked::Update(object));
        self.around.pass(noted, self.inner.update(object, revision, changes))
    }

    fn query(&self, object: &Object, prefix: &str, after: &str, limit: usize) -> Fut<'_, Page> {
        let noted = self.around.asked(&Asked::Query(object, prefix));
        self.around.pass(noted, self.inner.query(object, prefix, after, limit))
    }

    fn remove(&self, object: &Object) -> Fut<'_, ()> {
        let noted = self.around.asked(&Asked::Remove(object));
        self.around.pass(noted, self.inner.remove(object))
    }

    fn enter(&self, epoch: u64) {
        self.inner.enter(epoch);
    }

    fn sweep(&self, object: &Object, epoch: u64) -> Fut<'_, Option<u64>> {
        let noted = self.around.asked(&Asked::Sweep(object));
        self.around.pass(noted, self.inner.sweep(object, epoch))
    }

    fn list(&self, kind: &str) -> Fut<'_, Listing> {
        let noted = self.around.asked(&Asked::List(kind));
        self.around.pass(noted, self.inner.list(kind))
    }

    fn listen(&self, object: &Object) -> Fut<'_, Notices> {
        let noted = self.around.asked(&Asked::Listen(object));
        self.around
            .pass(noted, self.around.heard(object, self.inner.listen(object)))
    }

    fn sync(&self, objects: Vec<Object>) -> Fut<'_, ()> {
        let noted = self.around.asked(&Asked::SyncObjects);
        self.around.pass(noted, self.inner.sync(objects))
    }
}
