//! Promise 5: "While the coordinator or store is away, nothing hangs for more than 10 s." Whoever waits for others
//! who wait for a store does not wait for each of them; and races are counted. Time is virtual here.

use tokio::time::Instant as Moment;

use super::*;
use crate::backend::memory::Memory;
use crate::repository::deadline::STORE_TIMEOUT;
use crate::repository::format;
use crate::repository::model::build::live_path;
use crate::repository::model::console::build_console;
use crate::repository::tops::Tops;
use crate::repository::work::join_all;
use crate::storage::Fut;
use crate::storage::around::{Around, Asked, Wrapped};

/// Calls of one kind that are never answered, once that is said.
#[derive(Default)]
struct Silent(std::sync::Mutex<Option<&'static str>>);

impl Silent {
    fn begin(&self, verb: &'static str) {
        *self.0.lock().unwrap() = Some(verb);
    }
}

impl Around for Arc<Silent> {
    type Noted = bool;

    fn asked(&self, asked: &Asked<'_>) -> bool {
        *self.0.lock().unwrap() == Some(asked.verb())
    }

    fn pass<'a, T: Send + 'a>(&'a self, silent: bool, call: Fut<'a, T>) -> Fut<'a, T> {
        if silent { Box::pin(std::future::pending()) } else { call }
    }
}

/// Queries that are answered late, once that is said, and how many were asked for.
#[derive(Default)]
struct Slow {
    by: std::sync::Mutex<Duration>,
    asked: std::sync::atomic::AtomicUsize,
}

impl Around for Arc<Slow> {
    type Noted = Duration;

    fn asked(&self, asked: &Asked<'_>) -> Duration {
        if asked.verb() != "query" {
            return Duration::ZERO;
        }
        self.asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        *self.by.lock().unwrap()
    }

    fn pass<'a, T: Send + 'a>(&'a self, by: Duration, call: Fut<'a, T>) -> Fut<'a, T> {
        Box::pin(async move {
            // What is read is as it was when it was asked for.
            let answer = call.await;
            tokio::time::sleep(by).await;
            answer
        })
    }
}

/// A mount of a cluster whose store of contents may fall silent.
async fn silent(dir: &Path) -> (Arc<Repository>, Arc<Silent>) {
    mounted(dir).await
}

/// A mount of a cluster of whose store of contents the test has a part.
async fn mounted<A: Default + Send + Sync + 'static>(dir: &Path) -> (Arc<Repository>, Arc<A>)
where
    Arc<A>: Around,
{
    let (mount, silent) = (Memory::new().mount(), Arc::<A>::default());
    format::make(&mount.coordination(), &mount.contents(), false)
        .await
        .unwrap();
    let stores = Stores {
        coordination: mount.coordination(),
        contents: Arc::new(Wrapped::around(mount.contents(), silent.clone())),
        shared: true,
    };
    (stores.open("here", dir).await.unwrap(), silent)
}

/// Does the same eight times at once; each must be refused, and within so many calls of a store.
async fn each_ends<T>(calls: u32, act: impl AsyncFn() -> Result<T>) {
    let act = &act;
    let all = join_all((0..8).map(|_| async move {
        let begun = Moment::now();
        (act().await.map(drop), begun.elapsed())
    }));
    for (done, took) in all.await {
        assert!(matches!(done, Err(Error::TimedOut(_))), "{done:?}");
        assert!(took <= calls * STORE_TIMEOUT, "{took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_console_is_opened_within_ten_seconds() {
    let dir = tempfile::tempdir().unwrap();
    let (repository, silent) = silent(dir.path()).await;
    silent.begin("listen");
    each_ends(1, async || repository.consoles.open(&build_console("u", 1)).await).await;
}

/// An append of which nobody knows is looked for: two calls, and the look before the next.
#[tokio::test(start_paused = true)]
async fn writers_of_a_console_do_not_wait_one_after_another() {
    let dir = tempfile::tempdir().unwrap();
    let (repository, silent) = silent(dir.path()).await;
    let job = job(&repository, "a").await.unwrap();
    let n = repository.builds.trigger(&job, b"", poster()).await.unwrap();
    let control = claim(&repository, &control_key(&job, n)).await.unwrap().unwrap();
    post(&repository, &job, n).await.unwrap();
    let held = claim(&repository, &task_key(&job, n)).await.unwrap().unwrap();
    silent.begin("append");
    each_ends(3, async || repository.claims.append_output(&held, b"line\n").await).await;
    drop(control);
}

#[tokio::test(start_paused = true)]
async fn who_removes_a_build_does_not_wait_for_all_who_do() {
    let dir = tempfile::tempdir().unwrap();
    let (repository, silent) = silent(dir.path()).await;
    let job = job(&repository, "a").await.unwrap();
    let n = repository.builds.trigger(&job, b"", poster()).await.unwrap();
    let control = claim(&repository, &control_key(&job, n)).await.unwrap().unwrap();
    repository
        .claims
        .finish(&control, TaskResult::read(b"failure").unwrap())
        .await
        .unwrap();
    let begun = Moment::now();
    while repository.store.get(&live_path(job.uid(), n)).await.unwrap().is_some() {
        assert!(begun.elapsed() < PATIENCE, "it is not recorded");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    silent.begin("query");
    each_ends(2, async || repository.builds.remove_build(&job, n).await).await;
}

/// The record of a job changes with each build that ends: who writes its configuration meanwhile is told so, and
/// does not try for ever.
#[tokio::test(start_paused = true)]
async fn a_configuration_that_others_overtake_again_and_again_is_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let (repository, _) = silent(dir.path()).await;
    let job = job(&repository, "a").await.unwrap();
    let mut held = repository.configs.lock(&job, true).await.unwrap();
    let (store, object) = (repository.store.clone(), job.record());
    let others = tokio::spawn(async move {
        loop {
            let change = vec![("x".to_owned(), Some(Bytes::from_static(b"1")))];
            store.update("index", &object, change).await.unwrap();
        }
    });
    let text = Bytes::from_static(CONFIG.as_bytes());
    let told = repository.configs.write(&job, &mut held, text, 0).await;
    assert!(matches!(told, Err(Error::Busy(_))), "{told:?}");
    others.abort();
}

/// "The tickets that it had are open again within ..." for all: whoever waits for his turn to take one back holds up no
/// ticket that was told of with it, or after it.
#[tokio::test(start_paused = true)]
async fn a_ticket_that_others_are_to_take_back_holds_up_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let (repository, _) = silent(dir.path()).await;
    let mounts = (0..15).map(|at| {
        let facts = Bytes::from_static(br#"{"pid":1,"since":2}"#);
        crate::repository::model::ops::create(format!("/nodes/mount-{at}"), facts)
    });
    repository.store.commit(mounts.collect()).await.unwrap();
    repository.nodes.refresh_nodes().await;
    let job = job(&repository, "a").await.unwrap();
    let mut n = 1;
    let key = loop {
        assert_eq!(repository.builds.trigger(&job, b"", poster()).await.unwrap(), n);
        let key = control_key(&job, n);
        if !repository.claims.repair_delay(&key).is_zero() {
            break key;
        }
        n += 1;
    };
    let posted = repository.tickets.get(&key).await.unwrap().unwrap();
    let mut ticket = posted.ticket;
    (ticket.state, ticket.nonce) = (TicketState::Claimed, "of a dead mount".to_owned());
    let ticket = crate::repository::model::json::to_json(&ticket);
    let orphaned = crate::repository::model::ops::set(key.path(), ticket, posted.version);
    repository.store.commit(vec![orphaned]).await.unwrap();
    let begun = Moment::now();
    repository.reconciler.rescan("/tickets").await;
    let took = begun.elapsed();
    assert!(took < repository.claims.repair_delay(&key), "{took:?}");
    // It is taken back all the same, when it is this mount's turn.
    let is_open = async || {
        let posted = repository.tickets.get(&key).await.unwrap();
        posted.is_some_and(|posted| posted.ticket.state == TicketState::Open)
    };
    while !is_open().await {
        assert!(begun.elapsed() < PATIENCE, "nobody takes it back");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A build whose record can't be written for long, as while an older mount lives, is recorded when it can be, and not
/// only by the next mount.
#[tokio::test(start_paused = true)]
async fn a_build_is_recorded_however_long_that_could_not_be() {
    let dir = tempfile::tempdir().unwrap();
    let (repository, silent) = silent(dir.path()).await;
    let job = job(&repository, "a").await.unwrap();
    let n = repository.builds.trigger(&job, b"", poster()).await.unwrap();
    let control = claim(&repository, &control_key(&job, n)).await.unwrap().unwrap();
    silent.begin("update");
    let failure = TaskResult::read(b"failure").unwrap();
    repository.claims.finish(&control, failure).await.unwrap();
    tokio::time::sleep(Duration::from_secs(2 * 3600)).await;
    assert!(repository.builds.is_unfinished(&job, n).await.unwrap());
    *silent.0.lock().unwrap() = None;
    let begun = Moment::now();
    while repository.builds.is_unfinished(&job, n).await.unwrap() {
        assert!(begun.elapsed() < Duration::from_secs(2 * 3600), "nobody tries any more");
        tokio::time::sleep(Duration::from_secs(60)).await;
    }
}

/// "Owner and mode of the root, jobs and tickets are then what this mount last read": a store that takes three seconds
/// is read even so, by one query for all who ask, who wait for a second at most; and its late answer does not undo what
/// came after it.
#[tokio::test(start_paused = true)]
async fn the_folders_at_the_top_are_read_of_a_slow_store() {
    const ANSWER: Duration = Duration::from_secs(3);
    let dir = tempfile::tempdir().unwrap();
    let (repository, slow) = mounted::<Slow>(dir.path()).await;
    let mode = |mode| {
        move |access: &mut Access| {
            access.mode = mode;
            Ok(())
        }
    };
    let (tops, others) = (&repository.tops, Tops::new(repository.store.clone()));
    let unset = Access::of_mounter();
    let seen = async || tops.seen("jobs").await.unwrap().map(|access| access.mode);
    tops.change_top("jobs", unset, mode(0o700)).await.unwrap();
    others.change_top("jobs", unset, mode(0o711)).await.unwrap();
    *slow.by.lock().unwrap() = ANSWER;
    let asked = || slow.asked.load(std::sync::atomic::Ordering::Relaxed);
    let (before, begun) = (asked(), Moment::now());
    for mode in join_all((0..8).map(|_| seen())).await {
        assert_eq!(mode, Some(0o700), "what was read last");
    }
    assert!(begun.elapsed() <= Duration::from_secs(1), "{:?}", begun.elapsed());
    assert_eq!(asked() - before, 1);
    tokio::time::sleep(ANSWER).await;
    assert_eq!(seen().await, Some(0o711), "its answer came");

    // One look is under way from here on; what it was told is older than what follows.
    tokio::time::sleep(ANSWER).await;
    assert_eq!(seen().await, Some(0o711));
    *slow.by.lock().unwrap() = Duration::ZERO;
    tops.change_top("jobs", unset, mode(0o750)).await.unwrap();
    tokio::time::sleep(ANSWER / 2).await;
    *slow.by.lock().unwrap() = ANSWER;
    for _ in 0..3 {
        assert_eq!(seen().await, Some(0o750), "an older answer came late");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}
