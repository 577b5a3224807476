//! A process that ends right after a write, whichever it is: the next one finds nothing lost,
//! nothing twice, and goes on. These are the rows of the order of writes in doc/storage.md.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::watch;

use super::*;
use crate::backend::embedded::Embedded;
use crate::repository::maintain::Upkeep;
use crate::storage::{self, Appended, Commit, Entry, Fut, Listing, Notices, Object, Op, Page, Session, Updated, Watch};

/// The rows of the table.
const ROWS: [&str; 8] = [
    "trigger", "claim", "post", "output", "result", "final", "record", "tidy",
];

/// Most writes of one row that a build may need.
const WRITES_MAX: u64 = 50;

/// A store that is gone after some write, as for a process that ended there.
#[derive(Clone)]
struct Doomed {
    inner: Embedded,
    fate: Arc<Fate>,
}

#[derive(Default)]
struct Fate {
    /// The row of the table whose writes are counted.
    row: &'static str,
    /// Writes until the end; 0: no end.
    left: AtomicU64,
    over: AtomicBool,
    /// Writes under way.
    under_way: AtomicU64,
}

impl Fate {
    fn check(&self) -> storage::Result<()> {
        if !self.over.load(Ordering::SeqCst) {
            return Ok(());
        }
        let (what, why) = ("any call".to_owned(), "the process has ended".to_owned());
        Err(storage::Error::Unavailable { what, why })
    }

    fn wrote(&self, row: &'static str) {
        if row != self.row {
            return;
        }
        let ends = self
            .left
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if ends == Ok(1) {
            self.over.store(true, Ordering::SeqCst);
        }
    }
}

impl Doomed {
    fn read<'a, T: Send + 'a>(&'a self, call: Fut<'a, T>) -> Fut<'a, T> {
        Box::pin(async move {
            self.fate.check()?;
            call.await
        })
    }

    fn write<'a, T: Send + 'a>(&'a self, row: &'static str, call: Fut<'a, T>) -> Fut<'a, T> {
        Box::pin(async move {
            self.fate.check()?;
            self.fate.under_way.fetch_add(1, Ordering::SeqCst);
            let done = call.await;
            self.fate.under_way.fetch_sub(1, Ordering::SeqCst);
            let done = done?;
            // What comes back after the end is told to nobody.
            self.fate.check()?;
            self.fate.wrote(row);
            Ok(done)
        })
    }
}

/// The row of the table that a commit belongs to.
fn row_of(ops: &[Op]) -> &'static str {
    let live =
        |path: &str| path.starts_with("/jobs/") && path.rsplit('/').next().is_some_and(|n| n.parse::<u64>().is_ok());
    let mut control = false;
    for op in ops {
        match op {
            Op::Create { path, .. } if live(path) => return "trigger",
            Op::Create { path, .. } if path.ends_with("/claim") => return "claim",
            Op::Create { path, .. } if path.starts_with("/tickets/") => return "post",
            Op::Delete { path, .. } if live(path) => return "tidy",
            Op::Set { path, .. } => control = path.starts_with("/tickets/build-control/"),
            Op::Delete { path, .. } if path.ends_with("/claim") => return if control { "final" } else { "result" },
            _ => {}
        }
    }
    "other"
}

impl Coordination for Doomed {
    fn get(&self, path: &str) -> Fut<'_, Option<Entry>> {
        self.read(self.inner.get(path))
    }
    fn children(&self, path: &str) -> Fut<'_, Vec<String>> {
        self.read(self.inner.children(path))
    }
    fn commit(&self, ops: Vec<Op>) -> Fut<'_, Commit> {
        self.write(row_of(&ops), self.inner.commit(ops))
    }
    fn watch(&self, path: &str) -> Fut<'_, Watch> {
        self.read(self.inner.watch(path))
    }
    fn sync(&self) -> Fut<'_, ()> {
        self.read(Coordination::sync(&self.inner))
    }
    fn session(&self) -> watch::Receiver<Session> {
        self.inner.session()
    }
}

impl Contents for Doomed {
    fn put(&self, object: &Object, bytes: Bytes) -> Fut<'_, bool> {
        self.write("output", self.inner.put(object, bytes))
    }
    fn read(&self, object: &Object, offset: u64, length: usize) -> Fut<'_, Option<Bytes>> {
        Doomed::read(self, Contents::read(&self.inner, object, offset, length))
    }
    fn size(&self, object: &Object) -> Fut<'_, Option<u64>> {
        Doomed::read(self, self.inner.size(object))
    }
    fn append(&self, object: &Object, sequence: u64, bytes: Bytes) -> Fut<'_, Appended> {
        self.write("output", self.inner.append(object, sequence, bytes))
    }
    fn update(
        &self,
        object: &Object,
        revision: Option<u64>,
        changes: Vec<(String, Option<Bytes>)>,
    ) -> Fut<'_, Updated> {
        self.write("record", self.inner.update(object, revision, changes))
    }
    fn query(&self, object: &Object, prefix: &str, after: &str, limit: usize) -> Fut<'_, Page> {
        Doomed::read(self, self.inner.query(object, prefix, after, limit))
    }
    fn remove(&self, object: &Object) -> Fut<'_, ()> {
        self.write("removal", self.inner.remove(object))
    }
    fn list(&self, kind: &str) -> Fut<'_, Listing> {
        Doomed::read(self, self.inner.list(kind))
    }
    fn listen(&self, object: &Object) -> Fut<'_, Notices> {
        Doomed::read(self, self.inner.listen(object))
    }
    fn sync(&self, objects: Vec<Object>) -> Fut<'_, ()> {
        self.write("output", Contents::sync(&self.inner, objects))
    }
}

/// What a client was told before the end.
#[derive(Debug, Default)]
struct Told {
    triggered: bool,
    finished: bool,
}

/// One life of a process: makes a job unless there is one, then triggers and builds, up to its end.
async fn live(store: &Doomed, dir: &Path, writes: u64) -> Told {
    let repository = open(store, dir).await.unwrap();
    let job = job(&repository, "hello").await.unwrap();
    let mut told = Told::default();
    store.fate.left.store(writes, Ordering::SeqCst);
    let Ok(n) = repository.trigger(&job, b"@key=once", poster()).await else {
        return told;
    };
    told.triggered = true;
    told.finished = build(&repository, &job, n).await.is_ok();
    // The last write is seen before it is durable.
    while store.fate.under_way.load(Ordering::SeqCst) > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    told
}

/// The life after: everything that was told is there, and the build comes to its one end.
async fn go_on(store: &Embedded, dir: &Path, told: &Told) {
    let repository = open(store, dir).await.unwrap();
    let job = repository.job("hello").unwrap();
    let before = repository.build_numbers(&job).await.unwrap();
    assert_eq!(
        before.contains(&1),
        told.triggered || !before.is_empty(),
        "{told:?}: {before:?}"
    );
    let n = repository.trigger(&job, b"@key=once", poster()).await.unwrap();
    assert_eq!(n, 1, "the same token again is the same build");
    build(&repository, &job, n).await.unwrap();
    assert_whole(&repository, &job, n).await;
    assert_eq!(repository.build_numbers(&job).await.unwrap(), [1]);
    let task = repository.build(&job, 1).await.unwrap().task(0);
    assert_eq!(task.attempt, 1, "the loss of a mount is nobody's attempt");
    let console = repository.read_console(task.consoles.last().unwrap(), 0, 1 << 20).await;
    assert_eq!(
        console.unwrap(),
        LINE,
        "what a lost claim wrote has a console of its own"
    );
    assert_sound(&repository).await;
    let upkeep = Upkeep::new(repository.coordination.clone(), repository.contents.clone());
    let swept = upkeep.sweep().await.unwrap();
    assert_eq!(swept.faults, []);
    assert_eq!(assert_sound(&repository).await, 0, "gc leaves nothing: {swept}");
    assert_whole(&repository, &job, n).await;
}

/// Two lives, the first of which ends after so many writes of a row; whether it had as many.
fn two_lives(row: &'static str, writes: u64) -> bool {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let fate = Arc::new(Fate { row, ..Fate::default() });
    let told = {
        let (runtime, inner) = (runtime(), Embedded::open(&path).unwrap());
        let fate = fate.clone();
        let store = Doomed { inner, fate };
        runtime.block_on(live(&store, dir.path(), writes))
    };
    let store = reopen(&path);
    runtime().block_on(go_on(&store, dir.path(), &told));
    let ended = fate.over.load(Ordering::SeqCst);
    assert!(ended || told.finished, "{told:?}");
    ended
}

/// Ends the process after the first, second, third … write of each row.
#[test]
fn a_process_that_ends_after_any_write_loses_nothing() {
    for row in ROWS {
        let mut writes = 1;
        while two_lives(row, writes) {
            writes += 1;
            assert!(writes < WRITES_MAX, "{row}: a build has no end");
        }
        assert!(writes > 1, "{row}: no such write was met");
    }
}

/// Opens the store once the tasks of the life before have let go of it.
fn reopen(path: &Path) -> Embedded {
    let started = Instant::now();
    loop {
        match Embedded::open(path) {
            Ok(store) => return store,
            Err(error) => assert!(started.elapsed() < PATIENCE, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
