//! A process that ends right after a write, whichever it is: the next one finds nothing lost,
//! nothing twice, and goes on. These are the rows of the order of writes in doc/storage.md.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use distcifs_settings::state::TaskState;

use super::*;
use crate::backend::embedded::Embedded;
use crate::repository::maintain::Upkeep;
use crate::storage::around::{Around, Asked, Wrapped};
use crate::storage::{self, Fut, Object, Op, Session};

/// The rows of the table.
const ROWS: [&str; 8] = [
    "trigger", "claim", "post", "output", "result", "final", "record", "tidy",
];

/// The rows of a build to which a task is added, by the commit of a result.
const ROWS_THAT_ADD: [&str; 8] = ["claim", "post", "output", "adds", "result", "final", "record", "tidy"];

/// Every row at once.
pub(super) const ANY: &str = "any";

/// Most writes of one row that a build may need.
const WRITES_MAX: u64 = 50;

/// Where a repository is, whoever has it open.
pub(super) trait Place: Send + Sync + 'static {
    /// The stores, as the first process opens them.
    async fn first(&self) -> Stores;
    /// The same for the one after it.
    async fn next(&self) -> Stores;
    /// Cuts the first off from the coordinator.
    fn cut(&self);
    /// Lets it through again.
    fn heal(&self);
}

/// How the first process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// It is killed.
    Killed,
    /// It is cut off from the coordinator, and does what it can until that is over.
    Cut,
}

/// Stores of a process that ends after some write.
#[derive(Clone)]
pub(super) struct Doomed {
    coordination: Arc<Wrapped<dyn Coordination, Arc<Fate>>>,
    contents: Arc<Wrapped<dyn Contents, Arc<Fate>>>,
    shared: bool,
    fate: Arc<Fate>,
}

pub(super) struct Fate {
    /// The configuration of the job that is built.
    config: &'static str,
    /// The row of the table whose writes are counted.
    row: &'static str,
    end: End,
    cut: Box<dyn Fn() + Send + Sync>,
    /// Writes until the end; 0: no end.
    left: AtomicU64,
    over: AtomicBool,
    /// Writes under way.
    under_way: AtomicU64,
}

impl Fate {
    fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    fn check(&self) -> storage::Result<()> {
        if self.end == End::Cut || !self.is_over() {
            return Ok(());
        }
        let (what, why) = ("any call".to_owned(), "the process has ended".to_owned());
        Err(storage::Error::Unavailable { what, why })
    }

    fn wrote(&self, row: &'static str) {
        if row != self.row && self.row != ANY {
            return;
        }
        let ends = self
            .left
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if ends == Ok(1) {
            self.over.store(true, Ordering::SeqCst);
            (self.cut)();
        }
    }
}

impl Doomed {
    fn new(inner: Stores, fate: Arc<Fate>) -> Doomed {
        Doomed {
            coordination: Arc::new(Wrapped::around(inner.coordination, fate.clone())),
            contents: Arc::new(Wrapped::around(inner.contents, fate.clone())),
            shared: inner.shared,
            fate,
        }
    }

    /// They as the stores of a repository.
    pub(super) fn stores(&self) -> Stores {
        Stores {
            coordination: self.coordination.clone(),
            contents: self.contents.clone(),
            shared: self.shared,
        }
    }

    /// Has it end after so many more writes.
    pub(super) fn arm(&self, writes: u64) {
        self.fate.left.store(writes, Ordering::SeqCst);
    }

    /// Whether it has ended.
    pub(super) fn is_over(&self) -> bool {
        self.fate.is_over()
    }
}

impl Around for Arc<Fate> {
    /// The row of a call that writes.
    type Noted = Option<&'static str>;

    fn asked(&self, asked: &Asked<'_>) -> Option<&'static str> {
        match asked {
            Asked::Commit(ops) => Some(row_of(ops)),
            Asked::Put(_) | Asked::Append(_) | Asked::SyncObjects => Some("output"),
            Asked::Update(Object::Record(name)) if name == "jobs" => Some("name"),
            Asked::Update(_) => Some("record"),
            Asked::Remove(_) | Asked::Sweep(_) => Some("removal"),
            _ => None,
        }
    }

    fn pass<'a, T: Send + 'a>(&'a self, row: Option<&'static str>, call: Fut<'a, T>) -> Fut<'a, T> {
        Box::pin(async move {
            self.check()?;
            let Some(row) = row else {
                return call.await;
            };
            self.under_way.fetch_add(1, Ordering::SeqCst);
            let done = call.await;
            self.under_way.fetch_sub(1, Ordering::SeqCst);
            let done = done?;
            // What comes back after the end is told to nobody.
            self.check()?;
            self.wrote(row);
            Ok(done)
        })
    }
}

/// The row of the table that a commit belongs to.
fn row_of(ops: &[Op]) -> &'static str {
    let live =
        |path: &str| path.starts_with("/jobs/") && path.rsplit('/').next().is_some_and(|n| n.parse::<u64>().is_ok());
    let (mut control, mut ends) = (false, false);
    for op in ops {
        match op {
            Op::Create { path, .. } if live(path) => return "trigger",
            Op::Create { path, .. } if path.ends_with("/claim") => return "claim",
            Op::Create { path, .. } if path.starts_with("/tickets/") => return "post",
            Op::Delete { path, .. } if live(path) => return "tidy",
            Op::Set { path, .. } if path.starts_with("/jobs/") && ops.len() == 1 => return "name",
            Op::Set { path, .. } if live(path) => return "adds",
            Op::Set { path, .. } => control = path.starts_with("/tickets/build-control/"),
            Op::Delete { path, .. } if path.ends_with("/claim") => ends = true,
            _ => {}
        }
    }
    match (ends, control) {
        (true, true) => "final",
        (true, false) => "result",
        (false, _) => "other",
    }
}

/// What a client was told before the end.
#[derive(Debug, Default)]
struct Told {
    triggered: bool,
    finished: bool,
}

/// The first life of a process: makes a job, then triggers and builds, up to its end.
async fn live(inner: Stores, fate: &Arc<Fate>, dir: &Path, writes: u64) -> (Arc<Repository>, Told) {
    let store = Doomed::new(inner, fate.clone());
    let repository = store.stores().open("first", dir).await.unwrap();
    let job = configured(&repository, "hello", fate.config).await.unwrap();
    let mut told = Told::default();
    store.fate.left.store(writes, Ordering::SeqCst);
    let Ok(n) = repository.builds.trigger(&job, b"@key=once", poster()).await else {
        return (repository, told);
    };
    told.triggered = true;
    let began = Instant::now();
    told.finished = build(&repository, &job, n).await.is_ok();
    assert!(
        began.elapsed() < PATIENCE / 2,
        "it does not notice that it is cut off from all that happens"
    );
    // The last write is seen before it is durable.
    while store.fate.under_way.load(Ordering::SeqCst) > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    store.fate.left.store(0, Ordering::SeqCst);
    (repository, told)
}

/// The life after: everything that was told is there, and the build comes to its one end.
async fn go_on(stores: Stores, dir: &Path, told: &Told) -> Arc<Repository> {
    let repository = stores.open("next", dir).await.unwrap();
    let job = repository.jobs.get("hello").unwrap();
    let before = repository.builds.build_numbers(&job).await.unwrap();
    assert_eq!(
        before.contains(&1),
        told.triggered || !before.is_empty(),
        "{told:?}: {before:?}"
    );
    let n = repository.builds.trigger(&job, b"@key=once", poster()).await.unwrap();
    assert_eq!(n, 1, "the same token again is the same build");
    build(&repository, &job, n).await.unwrap();
    assert_once(&repository, &job).await;
    assert_sound(&repository).await;
    let upkeep = Upkeep::new(repository.store.coordination.clone(), repository.store.contents.clone());
    let swept = upkeep.sweep().await.unwrap();
    assert_eq!(swept.faults, []);
    assert_eq!(assert_sound(&repository).await, 0, "gc leaves nothing: {swept}");
    assert_whole(&repository, &job, n).await;
    repository
}

/// There is one build, and each of its lines was written once.
async fn assert_once(repository: &Arc<Repository>, job: &Job) {
    assert_whole(repository, job, 1).await;
    assert_eq!(repository.builds.build_numbers(job).await.unwrap(), [1]);
    let build = repository.builds.build(job, 1).await.unwrap();
    let told = repository.store.coordination.children("/tickets/notify").await.unwrap();
    assert_eq!(told.len(), build.config.notify.len(), "each entry tells once");
    let adds = build.task_name(0).is_some_and(|name| name == "0-generate");
    assert_eq!(
        build.plan.count(),
        if adds { 2 } else { 1 },
        "each added task is made once"
    );
    for task in (0..build.plan.count()).map(|index| build.task(index)) {
        assert_eq!(
            (task.state, task.attempt),
            (TaskState::Success, 1),
            "the loss of a mount is nobody's attempt"
        );
        let console = repository
            .consoles
            .read(task.consoles.last().unwrap(), 0, 1 << 20)
            .await;
        assert_eq!(
            console.unwrap(),
            LINE,
            "what a lost claim wrote has a console of its own"
        );
    }
}

/// A process that was cut off sees, once it is let through, what the other one did, holds nothing
/// any more, and works.
async fn come_back(repository: &Arc<Repository>) {
    let mut session = repository.store.coordination.session();
    let live = session.wait_for(|now| matches!(now, Session::Live { .. }));
    tokio::time::timeout(PATIENCE, live).await.unwrap().unwrap();
    let job = repository.jobs.get("hello").unwrap();
    let started = Instant::now();
    while !repository.builds.live_numbers(&job).await.unwrap().is_empty() || !repository.claims.held.is_empty() {
        assert!(started.elapsed() < PATIENCE, "it does not see the end of the build");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_once(repository, &job).await;
    assert_eq!(repository.builds.trigger(&job, b"", poster()).await.unwrap(), 2);
    build(repository, &job, 2).await.unwrap();
    assert_whole(repository, &job, 2).await;
}

/// Two lives, the first of which ends after so many writes of a row; whether it had as many.
fn two_lives<P: Place>(place: P, end: End, (config, row): (&'static str, &'static str), writes: u64) -> bool {
    let (dir, place) = (tempfile::tempdir().unwrap(), Arc::new(place));
    let cut = place.clone();
    let fate = Arc::new(Fate {
        config,
        row,
        end,
        cut: Box::new(move || cut.cut()),
        left: AtomicU64::new(0),
        over: AtomicBool::new(false),
        under_way: AtomicU64::new(0),
    });
    let first = runtime();
    let (repository, told) = first.block_on(async { live(place.first().await, &fate, dir.path(), writes).await });
    assert!(fate.is_over() || told.finished, "{told:?}");
    let first = match end {
        End::Killed => {
            drop((repository, first));
            None
        }
        End::Cut => Some((first, repository)),
    };
    let next = runtime();
    let after = next.block_on(async { go_on(place.next().await, dir.path(), &told).await });
    if let Some((first, repository)) = first {
        place.heal();
        first.block_on(come_back(&repository));
        next.block_on(assert_sound(&after));
    }
    fate.is_over()
}

/// Ends a process after the first, second, third … write of each row, each time at a new place.
pub(super) fn after_each_write<P: Place>(end: End, place: impl Fn() -> P + Sync) {
    after_each_write_of(CONFIG, end, place);
}

/// The same with this configuration, whose one task is that of the others.
pub(super) fn after_each_write_of<P: Place>(config: &'static str, end: End, place: impl Fn() -> P + Sync) {
    after_each_write_in(config, &ROWS, end, place);
}

/// The same of a build to which a task is added.
pub(super) fn after_each_write_that_adds<P: Place>(end: End, place: impl Fn() -> P + Sync) {
    after_each_write_in(CONFIG_THAT_ADDS, &ROWS_THAT_ADD, end, place);
}

fn after_each_write_in<P: Place>(
    config: &'static str,
    rows: &'static [&'static str],
    end: End,
    place: impl Fn() -> P + Sync,
) {
    let lives = |row| {
        let mut writes = 1;
        while two_lives(place(), end, (config, row), writes) {
            writes += 1;
            assert!(writes < WRITES_MAX, "{row}: a build has no end");
        }
        assert!(writes > 1, "{row}: no such write was met");
    };
    std::thread::scope(|scope| {
        for row in rows {
            let thread = std::thread::Builder::new().name((*row).to_owned());
            thread.spawn_scoped(scope, move || lives(row)).unwrap();
        }
    });
}

/// Stores of a process that is killed after some write of this row, once it is armed.
pub(super) fn doomed(inner: Stores, row: &'static str) -> Doomed {
    let fate = Arc::new(Fate {
        config: CONFIG,
        row,
        end: End::Killed,
        cut: Box::new(|| {}),
        left: AtomicU64::new(0),
        over: AtomicBool::new(false),
        under_way: AtomicU64::new(0),
    });
    Doomed::new(inner, fate)
}

/// A folder, which one process has at a time.
pub(super) struct Folder(pub(super) tempfile::TempDir);

impl Place for Folder {
    async fn first(&self) -> Stores {
        Stores::alone(&Embedded::open(&self.0.path().join("store")).unwrap())
    }

    /// Once the tasks of the life before have let go of it.
    async fn next(&self) -> Stores {
        let started = Instant::now();
        loop {
            match Embedded::open(&self.0.path().join("store")) {
                Ok(store) => return Stores::alone(&store),
                Err(error) => assert!(started.elapsed() < PATIENCE, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Who has it is not apart from it.
    fn cut(&self) {}

    fn heal(&self) {}
}

#[test]
fn a_process_that_ends_after_any_write_loses_nothing() {
    after_each_write(End::Killed, || Folder(tempfile::tempdir().unwrap()));
}

/// "It takes effect with the ticket's result, in the same commit": each added task once, whenever a process ends.
#[test]
fn a_process_that_ends_while_tasks_are_added_loses_and_doubles_none() {
    after_each_write_that_adds(End::Killed, || Folder(tempfile::tempdir().unwrap()));
}
