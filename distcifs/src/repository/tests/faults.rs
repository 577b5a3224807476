//! A store of which calls fail at random, done or not: no build twice, no result lost, one
//! claimant at most that finishes.

use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;

use tokio::task::LocalSet;

use super::*;
use crate::backend::embedded::Embedded;
use crate::repository::model::claim::Cause;
use crate::storage::faults::{Faulty, Rates};

/// One call in sixteen fails, every second of them having taken effect.
const RATES: Rates = Rates {
    before: 30,
    after: 30,
    delay: 50,
};

/// One in eight of the contents: they are called a few hundred times only, and enough of that must fail.
const CONTENTS_RATES: Rates = Rates {
    before: 60,
    after: 60,
    delay: 50,
};

/// Builds in each round.
const BUILDS: usize = 24;

/// Workers, half of them for each queue.
const WORKERS: usize = 6;

/// What happened to each ticket, as its workers were told.
#[derive(Default)]
struct Log {
    finished: Mutex<HashMap<TicketKey, usize>>,
    deaths: Mutex<HashMap<TicketKey, u32>>,
}

/// Calls until it is done; what may be done twice only.
async fn insist<T>(mut call: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    let started = Instant::now();
    loop {
        match call().await {
            Err(Error::Io(_) | Error::TimedOut(_)) if started.elapsed() < PATIENCE => {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            other => return other,
        }
    }
}

/// Works a ticket, if it is to be had; every third worker dies at it once.
async fn try_ticket(repository: &Arc<Repository>, log: &Log, job: &Job, n: u64, key: &TicketKey, turn: usize) {
    let Ok(claim) = insist(async || repository.claims.claim(key, claimant()).await).await else {
        return;
    };
    if turn.is_multiple_of(3) && log.deaths.lock().unwrap().insert(key.clone(), 1).is_none() {
        repository.claims.end_claim(&claim, Cause::Died).await;
        return;
    }
    if key.queue.as_str() == crate::repository::model::ticket::CONTROL_QUEUE {
        insist(async || post(repository, job, n).await).await.unwrap();
        let task = task_key(job, n);
        let started = Instant::now();
        let open = async || {
            let ticket = insist(async || repository.tickets.get(&task).await).await.unwrap();
            ticket.is_some_and(|t| t.ticket.state != TicketState::Finished)
        };
        while open().await {
            assert!(started.elapsed() < PATIENCE, "{task} is never finished");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    } else {
        insist(async || work_once(repository, &claim).await).await.unwrap();
    }
    match insist(async || repository.claims.finish(&claim, success()).await).await {
        Ok(()) => *log.finished.lock().unwrap().entry(key.clone()).or_default() += 1,
        Err(error) => panic!("{key}: {error}"),
    }
}

/// The work, whose console line must not be written again when only the settling failed.
async fn work_once(repository: &Arc<Repository>, claim: &Arc<Claim>) -> Result<()> {
    for dir in [
        repository.claims.workspace_dir(claim).await?,
        repository.claims.artifacts_dir(claim).await?,
    ] {
        std::fs::write(dir.join("made"), LINE).unwrap();
    }
    let mut console = claim.console.lock().await;
    if !claim.touched.swap(true, std::sync::atomic::Ordering::SeqCst) {
        // A write that failed may be there all the same: written again, it is there once.
        let appended = console.append(&repository.consoles, claim, LINE.as_bytes()).await;
        if appended.is_err() {
            claim.touched.store(false, std::sync::atomic::Ordering::SeqCst);
        }
        appended?;
    }
    console.settle(&repository.consoles, claim).await
}

/// Works all tickets of a queue until all builds are over.
async fn worker(repository: Arc<Repository>, log: Arc<Log>, jobs: Vec<Job>, queue: &'static str, mut turn: usize) {
    let started = Instant::now();
    loop {
        let mut live = 0;
        for job in &jobs {
            for n in insist(async || repository.builds.live_numbers(job).await)
                .await
                .unwrap()
            {
                live += 1;
                turn += 1;
                let key = match queue {
                    "execute-shell" => task_key(job, n),
                    _ => control_key(job, n),
                };
                try_ticket(&repository, &log, job, n, &key, turn).await;
            }
        }
        if live == 0 {
            return;
        }
        assert!(started.elapsed() < PATIENCE * 3, "{live} builds are never over");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Triggers with and without a key; the builds that were told, by job.
async fn trigger_all(repository: &Arc<Repository>, jobs: &[Job]) -> Vec<(String, u64)> {
    let mut told = Vec::new();
    for i in 0..BUILDS {
        let job = &jobs[i % jobs.len()];
        let token = format!("@key=token-{i}");
        let keyed = i % 2 == 0;
        let text = if keyed { token.as_bytes() } else { b"".as_slice() };
        // An error means that it did not happen: so this, too, makes one build.
        let n = insist(async || repository.builds.trigger(job, text, poster()).await)
            .await
            .unwrap();
        if keyed {
            let again = insist(async || repository.builds.trigger(job, text, poster()).await)
                .await
                .unwrap();
            assert_eq!(again, n, "the same token again is the same build");
        }
        told.push((job.name.to_string(), n));
    }
    told
}

/// Builds while calls of both stores fail.
pub(super) async fn round(coordination: impl Coordination, contents: impl Contents, shared: bool, seed: u64) {
    let dir = tempfile::tempdir().unwrap();
    let coordination = Arc::new(Faulty::new(coordination, seed, RATES));
    let contents = Arc::new(Faulty::new(contents, !seed, CONTENTS_RATES));
    let set_on = |on| {
        coordination.set_on(on);
        contents.set_on(on);
    };
    set_on(false);
    let stores = Stores {
        coordination: coordination.clone(),
        contents: contents.clone(),
        shared,
    };
    let repository = stores.open("here", dir.path()).await.unwrap();
    let mut jobs = Vec::new();
    for text in ["a", "b.1", "c"] {
        jobs.push(job(&repository, text).await.unwrap());
    }
    set_on(true);
    let told = trigger_all(&repository, &jobs).await;
    let log = Arc::<Log>::default();
    let workers = LocalSet::new();
    let mut ends = Vec::new();
    for (i, queue) in ["build-control", "execute-shell"]
        .into_iter()
        .cycle()
        .take(WORKERS)
        .enumerate()
    {
        ends.push(workers.spawn_local(worker(repository.clone(), log.clone(), jobs.clone(), queue, i)));
    }
    workers.await;
    for end in ends {
        end.await.unwrap();
    }
    for faults in [coordination.faults(), contents.faults()] {
        assert!(faults > 25, "only {faults} calls failed");
    }
    set_on(false);
    judge(&repository, &jobs, &told, &log).await;
}

/// Compares what was told with what is there.
async fn judge(repository: &Arc<Repository>, jobs: &[Job], told: &[(String, u64)], log: &Log) {
    let mut builds: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for (job, n) in told {
        builds.entry(job).or_default().push(*n);
    }
    for job in jobs {
        let told = &builds[job.name.as_str()];
        assert_eq!(
            repository.builds.build_numbers(job).await.unwrap(),
            *told,
            "of job {}",
            job.name
        );
        for n in told {
            assert_whole(repository, job, *n).await;
            let deaths = log.deaths.lock().unwrap().get(&task_key(job, *n)).copied().unwrap_or(0);
            assert_eq!(
                repository.builds.build(job, *n).await.unwrap().task(0).attempt,
                1 + deaths
            );
            for key in [control_key(job, *n), task_key(job, *n)] {
                assert_eq!(log.finished.lock().unwrap().get(&key), Some(&1), "results of {key}");
            }
        }
    }
    assert_sound(repository).await;
}

#[test]
fn nothing_is_lost_or_done_twice_when_calls_fail() {
    for seed in [1, 2, 3] {
        runtime().block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let store = Embedded::open(&dir.path().join("store")).unwrap();
            round(store.clone(), store, false, seed).await;
        });
    }
}

/// A store that takes nothing uses up no ticket: what was claimed before can't be fenced then, and so
/// is not claimed again, however often that is tried.
pub(super) async fn outlasts(coordination: impl Coordination, contents: impl Contents, shared: bool) {
    let dir = tempfile::tempdir().unwrap();
    let all_fail = Rates {
        before: 1000,
        after: 0,
        delay: 0,
    };
    let contents = Arc::new(Faulty::new(contents, 1, all_fail));
    contents.set_on(false);
    let stores = Stores {
        coordination: Arc::new(coordination),
        contents: contents.clone(),
        shared,
    };
    let repository = stores.open("here", dir.path()).await.unwrap();
    let job = job(&repository, "a").await.unwrap();
    let n = repository.builds.trigger(&job, b"", poster()).await.unwrap();
    let controller = repository
        .claims
        .claim(&control_key(&job, n), claimant())
        .await
        .unwrap();
    post(&repository, &job, n).await.unwrap();
    let key = task_key(&job, n);
    let first = repository.claims.claim(&key, claimant()).await.unwrap();
    repository.claims.end_claim(&first, Cause::GivenBack).await;
    contents.set_on(true);
    for _ in 0..20 {
        assert!(repository.claims.claim(&key, claimant()).await.is_err());
    }
    contents.set_on(false);
    let ticket = repository.tickets.get(&key).await.unwrap().unwrap().ticket;
    assert_eq!((ticket.state, ticket.given), (TicketState::Open, 1));
    let claim = repository.claims.claim(&key, claimant()).await.unwrap();
    work(&repository, &claim).await.unwrap();
    repository.claims.finish(&claim, success()).await.unwrap();
    repository.claims.finish(&controller, success()).await.unwrap();
}

#[test]
fn a_ticket_outlasts_a_store_that_is_away() {
    runtime().block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let store = Embedded::open(&dir.path().join("store")).unwrap();
        outlasts(store.clone(), store, false).await;
    });
}

/// A path to what is on this node leads through the folders at the top: what was read of them is known while the store
/// is away, and decides nothing then.
#[test]
fn the_folders_at_the_top_are_known_while_the_store_is_away() {
    runtime().block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let store = Embedded::open(&dir.path().join("store")).unwrap();
        let all_fail = Rates {
            before: 1000,
            after: 0,
            delay: 0,
        };
        let contents = Arc::new(Faulty::new(store.clone(), 1, all_fail));
        contents.set_on(false);
        let stores = Stores {
            coordination: Arc::new(store),
            contents: contents.clone(),
            shared: false,
        };
        let repository = stores.open("here", dir.path()).await.unwrap();
        let tops = &repository.tops;
        let unset = Access {
            uid: 7,
            gid: 7,
            mode: 0o755,
        };
        let closed = |access: &mut Access| {
            access.mode = 0o700;
            Ok(())
        };
        assert_eq!(tops.top_access("jobs").await, Ok(None));
        tops.change_top("jobs", unset, closed).await.unwrap();
        contents.set_on(true);
        // What this mount changed itself it knows.
        let mode = |access: Option<Access>| access.map(|access| access.mode);
        assert_eq!(mode(tops.seen("jobs").await.unwrap()), Some(0o700));
        let unread = tops.seen("tickets").await;
        assert!(unread.is_err_and(|error| error.is_away()), "nobody read it");
        assert!(tops.top_access("jobs").await.is_err_and(|error| error.is_away()));
        assert!(tops.change_top("jobs", unset, closed).await.is_err());
        contents.set_on(false);
        assert_eq!(mode(tops.top_access("jobs").await.unwrap()), Some(0o700));
        assert_eq!(tops.top_access("tickets").await, Ok(None));
    });
}
