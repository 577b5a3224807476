//! A store that fails now and then, as a network does: before the call took effect, or after it
//! did without saying so. The same seed brings the same faults for the same calls.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;

use super::mix::mix;
use super::{
    Appended, Commit, Contents, Coordination, Entry, Error, Fut, Listing, Notices, Object, Op, Page, Session, Updated,
    Watch,
};

/// Longest delay of a call: long enough for another call to overtake it.
const DELAY_MAX: Duration = Duration::from_millis(2);

/// Probabilities are counted in parts of this many.
const WHOLE: u64 = 1000;

/// How often calls fail, each in thousandths of all calls; together at most 1000.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rates {
    /// The call fails with `Unavailable` and does nothing.
    pub before: u16,
    /// The call is done and fails with `Indeterminate`; a call that only reads, with
    /// `Unavailable`, as there is nothing to be in doubt about.
    pub after: u16,
    /// The call is late by up to 2 ms.
    pub delay: u16,
}

/// A store with faults around another; `S` is any of both traits' implementations.
#[derive(Debug)]
pub struct Faulty<S> {
    inner: S,
    rates: Rates,
    seed: u64,
    calls: AtomicU64,
    faults: AtomicU64,
    on: AtomicBool,
}

/// What befalls a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    Before,
    After,
    Delay(Duration),
}

/// Whether the call may change something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Reads,
    Writes,
}

impl<S: Sync> Faulty<S> {
    /// Wraps a store; faults are on.
    pub fn new(inner: S, seed: u64, rates: Rates) -> Self {
        let (calls, faults) = (AtomicU64::new(0), AtomicU64::new(0));
        Faulty {
            inner,
            rates,
            seed,
            calls,
            faults,
            on: AtomicBool::new(true),
        }
    }

    /// Switches the faults on or off.
    pub fn set_on(&self, on: bool) {
        self.on.store(on, Ordering::SeqCst);
    }

    /// Number of calls that failed by this wrapper's doing.
    pub fn faults(&self) -> u64 {
        self.faults.load(Ordering::SeqCst)
    }

    /// The store inside, without faults.
    pub fn inner(&self) -> &S {
        &self.inner
    }

    fn draw(&self) -> Fault {
        let call = self.calls.fetch_add(1, Ordering::SeqCst);
        if !self.on.load(Ordering::SeqCst) {
            return Fault::None;
        }
        let random = mix(self.seed ^ mix(call));
        let (before, after) = (u64::from(self.rates.before), u64::from(self.rates.after));
        match random % WHOLE {
            part if part < before => Fault::Before,
            part if part < before + after => Fault::After,
            part if part < before + after + u64::from(self.rates.delay) => {
                let share = u32::try_from(mix(random) % WHOLE).unwrap_or(0);
                Fault::Delay(DELAY_MAX * share / 1000)
            }
            _ => Fault::None,
        }
    }

    /// Lets a call through, with what befalls it. The fault is drawn when the call is made, not
    /// when it is polled, so that the order of calls alone decides.
    fn pass<'a, T: Send + 'a>(&'a self, what: &'static str, kind: Kind, call: Fut<'a, T>) -> Fut<'a, T> {
        let fault = self.draw();
        Box::pin(async move {
            match fault {
                Fault::None => call.await,
                Fault::Delay(delay) => {
                    tokio::time::sleep(delay).await;
                    call.await
                }
                Fault::Before => Err(self.fail(what, Kind::Reads)),
                Fault::After => {
                    call.await?;
                    Err(self.fail(what, kind))
                }
            }
        })
    }

    fn fail(&self, what: &str, kind: Kind) -> Error {
        self.faults.fetch_add(1, Ordering::SeqCst);
        let (what, why) = (what.to_owned(), "a fault of the test".to_owned());
        match kind {
            Kind::Reads => Error::Unavailable { what, why },
            Kind::Writes => Error::Indeterminate { what, why },
        }
    }
}

impl<S: Coordination> Coordination for Faulty<S> {
    fn get(&self, path: &str) -> Fut<'_, Option<Entry>> {
        self.pass("get", Kind::Reads, self.inner.get(path))
    }

    fn children(&self, path: &str) -> Fut<'_, Vec<String>> {
        self.pass("children", Kind::Reads, self.inner.children(path))
    }

    fn commit(&self, ops: Vec<Op>) -> Fut<'_, Commit> {
        self.pass("commit", Kind::Writes, self.inner.commit(ops))
    }

    fn watch(&self, path: &str) -> Fut<'_, Watch> {
        self.pass("watch", Kind::Reads, self.inner.watch(path))
    }

    fn sync(&self) -> Fut<'_, ()> {
        self.pass("sync", Kind::Reads, Coordination::sync(&self.inner))
    }

    fn session(&self) -> watch::Receiver<Session> {
        self.inner.session()
    }
}

impl<S: Contents> Contents for Faulty<S> {
    fn room(&self) -> Fut<'_, ()> {
        self.inner.room()
    }

    fn put(&self, object: &Object, bytes: Bytes) -> Fut<'_, bool> {
        self.pass("put", Kind::Writes, self.inner.put(object, bytes))
    }

    fn read(&self, object: &Object, offset: u64, length: usize) -> Fut<'_, Option<Bytes>> {
        self.pass("read", Kind::Reads, self.inner.read(object, offset, length))
    }

    fn size(&self, object: &Object) -> Fut<'_, Option<u64>> {
        self.pass("size", Kind::Reads, self.inner.size(object))
    }

    fn append(&self, object: &Object, sequence: u64, bytes: Bytes) -> Fut<'_, Appended> {
        self.pass("append", Kind::Writes, self.inner.append(object, sequence, bytes))
    }

    fn update(
        &self,
        object: &Object,
        revision: Option<u64>,
        changes: Vec<(String, Option<Bytes>)>,
    ) -> Fut<'_, Updated> {
        self.pass("update", Kind::Writes, self.inner.update(object, revision, changes))
    }

    fn query(&self, object: &Object, prefix: &str, after: &str, limit: usize) -> Fut<'_, Page> {
        self.pass("query", Kind::Reads, self.inner.query(object, prefix, after, limit))
    }

    fn remove(&self, object: &Object) -> Fut<'_, ()> {
        self.pass("remove", Kind::Writes, self.inner.remove(object))
    }

    fn enter(&self, epoch: u64) {
        self.inner.enter(epoch);
    }

    fn sweep(&self, object: &Object, epoch: u64) -> Fut<'_, Option<u64>> {
        self.pass("sweep", Kind::Writes, self.inner.sweep(object, epoch))
    }

    fn list(&self, kind: &str) -> Fut<'_, Listing> {
        self.pass("list", Kind::Reads, self.inner.list(kind))
    }

    fn listen(&self, object: &Object) -> Fut<'_, Notices> {
        self.pass("listen", Kind::Reads, self.inner.listen(object))
    }

    fn sync(&self, objects: Vec<Object>) -> Fut<'_, ()> {
        self.pass("sync", Kind::Writes, Contents::sync(&self.inner, objects))
    }
}

#[cfg(test)]
pub(crate) mod tests;
