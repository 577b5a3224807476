//! A store that notes every call, and on whose behalf it was made: what a request costs is a number
//! that a test compares.

use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::watch;

use super::{
    Appended, Commit, Contents, Coordination, Entry, Fut, Listing, Notices, Object, Op, Page, Session, Updated, Watch,
};

tokio::task_local! {
    /// What is being done on this task.
    static DOING: &'static str;
}

/// What calls are noted for that nobody named.
const BESIDE: &str = "beside";

/// One call of a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// What it was made for, as [`Counted::on_behalf_of`] named it; `beside` for what goes on in
    /// other tasks.
    pub doing: &'static str,
    /// The method of the trait.
    pub verb: &'static str,
    /// The path or object; of a commit those that it changes.
    pub what: String,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} {}", self.doing, self.verb, self.what)
    }
}

/// A store around another that notes the calls; `S` is any of both traits' implementations. Copies
/// note them in one place.
#[derive(Debug, Clone)]
pub struct Counted<S> {
    inner: S,
    calls: Arc<Mutex<Vec<Call>>>,
}

impl<S> Counted<S> {
    /// Wraps a store.
    pub fn new(inner: S) -> Self {
        let calls = Arc::default();
        Counted { inner, calls }
    }

    /// The store inside: what is asked of it is not noted.
    pub fn inner(&self) -> &S {
        &self.inner
    }

    /// Does something whose calls are noted under this name, but for those of tasks that it spawns.
    pub async fn on_behalf_of<T>(&self, doing: &'static str, future: impl Future<Output = T>) -> T {
        DOING.scope(doing, future).await
    }

    /// The calls since the last `take`, in the order in which they were made.
    pub fn take(&self) -> Vec<Call> {
        std::mem::take(&mut self.calls.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The calls so far.
    pub fn calls(&self) -> Vec<Call> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note(&self, verb: &'static str, what: impl fmt::Display) {
        let doing = DOING.try_with(|doing| *doing).unwrap_or(BESIDE);
        let what = what.to_string();
        let call = Call { doing, verb, what };
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).push(call);
    }
}

/// What a commit changes, in short.
fn told(ops: &[Op]) -> String {
    let told = ops.iter().map(|op| match op {
        Op::Create { path, .. } => format!("+{path}"),
        Op::Set { path, .. } => format!("={path}"),
        Op::Delete { path, .. } => format!("-{path}"),
        Op::Check { path, .. } => format!("?{path}"),
    });
    told.collect::<Vec<_>>().join(" ")
}

impl<S: Coordination> Coordination for Counted<S> {
    fn get(&self, path: &str) -> Fut<'_, Option<Entry>> {
        self.note("get", path);
        self.inner.get(path)
    }

    fn get_all(&self, paths: Vec<String>) -> Fut<'_, Vec<Option<Entry>>> {
        paths.iter().for_each(|path| self.note("get", path));
        self.inner.get_all(paths)
    }

    fn children(&self, path: &str) -> Fut<'_, Vec<String>> {
        self.note("children", path);
        self.inner.children(path)
    }

    fn commit(&self, ops: Vec<Op>) -> Fut<'_, Commit> {
        self.note("commit", told(&ops));
        self.inner.commit(ops)
    }

    fn watch(&self, path: &str) -> Fut<'_, Watch> {
        self.note("watch", path);
        self.inner.watch(path)
    }

    fn sync(&self) -> Fut<'_, ()> {
        self.note("sync", "the coordinator");
        Coordination::sync(&self.inner)
    }

    fn session(&self) -> watch::Receiver<Session> {
        self.inner.session()
    }
}

impl<S: Contents> Contents for Counted<S> {
    fn room(&self) -> Fut<'_, ()> {
        self.inner.room()
    }

    fn put(&self, object: &Object, bytes: Bytes) -> Fut<'_, bool> {
        self.note("put", object);
        self.inner.put(object, bytes)
    }

    fn read(&self, object: &Object, offset: u64, length: usize) -> Fut<'_, Option<Bytes>> {
        self.note("read", object);
        self.inner.read(object, offset, length)
    }

    fn size(&self, object: &Object) -> Fut<'_, Option<u64>> {
        self.note("size", object);
        self.inner.size(object)
    }

    fn append(&self, object: &Object, sequence: u64, bytes: Bytes) -> Fut<'_, Appended> {
        self.note("append", object);
        self.inner.append(object, sequence, bytes)
    }

    fn update(
        &self,
        object: &Object,
        revision: Option<u64>,
        changes: Vec<(String, Option<Bytes>)>,
    ) -> Fut<'_, Updated> {
        self.note("update", object);
        self.inner.update(object, revision, changes)
    }

    fn query(&self, object: &Object, prefix: &str, after: &str, limit: usize) -> Fut<'_, Page> {
        self.note("query", format_args!("{object} {prefix}"));
        self.inner.query(object, prefix, after, limit)
    }

    fn remove(&self, object: &Object) -> Fut<'_, ()> {
        self.note("remove", object);
        self.inner.remove(object)
    }

    fn enter(&self, epoch: u64) {
        self.inner.enter(epoch);
    }

    fn sweep(&self, object: &Object, epoch: u64) -> Fut<'_, Option<u64>> {
        self.note("sweep", object);
        self.inner.sweep(object, epoch)
    }

    fn list(&self, kind: &str) -> Fut<'_, Listing> {
        self.note("list", kind);
        self.inner.list(kind)
    }

    fn listen(&self, object: &Object) -> Fut<'_, Notices> {
        self.note("listen", object);
        self.inner.listen(object)
    }

    fn sync(&self, objects: Vec<Object>) -> Fut<'_, ()> {
        self.note("sync", "objects");
        Contents::sync(&self.inner, objects)
    }
}
