//! A store that fails now and then, as a network does: before the call took effect, or after it
//! did without saying so. The same seed brings the same faults for the same calls.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;

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

/// Spreads a number over all 64 bits (the finalizer of splitmix64).
fn mix(number: u64) -> u64 {
    let n = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
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
    fn put(&self, object: &Object, bytes: Bytes) -> Fut<'_, bool> {
        self.pass("put", Kind::Writes, self.inner.put(object, bytes))
    }

    fn read(&self, object: &Object, offset: u64, length: usize) -> Fut<'_, Option<Bytes>> {
        self.pass("read", Kind::Reads, self.inner.read(object, offset, length))
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
pub(crate) mod tests {
    use super::*;
    use crate::backend::embedded::Embedded;
    use crate::storage::{Digest, Result, conformance};

    pub(crate) const RATES: Rates = Rates {
        before: 200,
        after: 200,
        delay: 100,
    };

    fn faulty(seed: u64, rates: Rates) -> (tempfile::TempDir, Faulty<Embedded>) {
        let dir = tempfile::tempdir().unwrap();
        let store = Embedded::open(dir.path()).unwrap();
        (dir, Faulty::new(store, seed, rates))
    }

    /// Calls until the answer is no error: right only for what may be done twice.
    async fn insist<T>(mut call: impl AsyncFnMut() -> Result<T>) -> T {
        loop {
            match call().await {
                Ok(value) => return value,
                Err(Error::Unavailable { .. } | Error::Indeterminate { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Adds one to the counter, and reads back whenever it is unknown whether that happened: each
    /// write carries a mark of its own.
    async fn increment(store: &dyn Coordination, mark: u32) {
        loop {
            let entry = insist(|| store.get("/counter")).await.unwrap();
            let text = String::from_utf8(entry.data.to_vec()).unwrap();
            let (count, last) = text.split_once(' ').unwrap();
            if last == mark.to_string() {
                return;
            }
            let data = format!("{} {mark}", count.parse::<u32>().unwrap() + 1).into();
            let path = "/counter".to_owned();
            let set = Op::Set {
                path,
                data,
                version: Some(entry.version),
            };
            match store.commit(vec![set]).await {
                Ok(Commit::Done) => return,
                Ok(Commit::Mismatch { .. }) | Err(_) => {}
            }
        }
    }

    /// Counts through a thousand faults, reading back what is unknown, and compares.
    pub(crate) async fn counts_right<S: Coordination>(store: &Faulty<S>) {
        let path = "/counter".to_owned();
        let create = Op::Create {
            path,
            data: "0 none".into(),
            ephemeral: false,
        };
        store.inner().commit(vec![create]).await.unwrap();
        let mut marks = 0;
        while store.faults() < 1000 {
            marks += 1;
            increment(store, marks).await;
        }
        store.set_on(false);
        let entry = store.get("/counter").await.unwrap().unwrap();
        assert_eq!(&entry.data[..], format!("{marks} {marks}").as_bytes());
        assert_eq!(entry.version, marks, "each was done exactly once");
    }

    #[tokio::test]
    async fn a_client_that_reads_back_counts_right_through_a_thousand_faults() {
        let (_dir, store) = faulty(11, RATES);
        counts_right(&store).await;
    }

    #[tokio::test]
    async fn an_appender_that_heeds_the_guard_writes_each_line_once() {
        let (_dir, store) = faulty(12, RATES);
        let object = Object::Console("console.a.1.1.1.0".to_owned());
        let (mut sequence, mut wanted) = (0, String::new());
        for line in 0..500 {
            let line = format!("line {line}\n");
            let before = wanted.len() as u64;
            let appended = insist(|| store.append(&object, sequence, line.clone().into())).await;
            let (length, next) = match appended {
                Appended::Done { length, sequence } | Appended::Mismatch { length, sequence } => (length, sequence),
            };
            assert_eq!(length, before + line.len() as u64, "it was written once");
            sequence = next;
            wanted.push_str(&line);
        }
        assert!(store.faults() > 100);
        store.set_on(false);
        let read = store.read(&object, 0, usize::MAX).await.unwrap().unwrap();
        assert!(read == wanted.as_bytes());
    }

    #[tokio::test]
    async fn the_same_seed_brings_the_same_faults() {
        let mut runs = Vec::new();
        for seed in [1, 1, 2] {
            let (_dir, store) = faulty(seed, RATES);
            let mut ends = Vec::new();
            for i in 0..200_u32 {
                let bytes = Bytes::copy_from_slice(&i.to_le_bytes());
                let object = Object::Chunk(Digest::of(&bytes));
                ends.push(store.put(&object, bytes).await);
            }
            runs.push(ends);
        }
        assert_eq!(runs[0], runs[1]);
        assert_ne!(runs[0], runs[2]);
        let indeterminate = |end: &Result<bool>| end.as_ref().is_err_and(Error::is_indeterminate);
        assert!(runs[0].iter().any(indeterminate));
        assert!(runs[0].iter().any(|end| matches!(end, Err(Error::Unavailable { .. }))));
    }

    #[tokio::test]
    async fn what_failed_before_did_not_happen_and_what_failed_after_did() {
        for (before, after, there) in [(1000, 0, false), (0, 1000, true)] {
            let (_dir, store) = faulty(
                3,
                Rates {
                    before,
                    after,
                    delay: 0,
                },
            );
            let create = Op::Create {
                path: "/a".to_owned(),
                data: Bytes::new(),
                ephemeral: false,
            };
            let end = store.commit(vec![create]).await;
            assert_eq!(end.is_err_and(|error| error.is_indeterminate()), there);
            assert_eq!(store.inner().get("/a").await.unwrap().is_some(), there);
        }
    }

    #[tokio::test]
    async fn conforms_when_switched_off_or_only_late() {
        let (_dir, store) = faulty(4, RATES);
        store.set_on(false);
        conformance::all_coordination(&store).await;
        conformance::all_contents(&store).await;
        let (_dir, store) = faulty(
            5,
            Rates {
                before: 0,
                after: 0,
                delay: 300,
            },
        );
        conformance::all_coordination(&store).await;
    }
}
