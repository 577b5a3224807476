//! Builds that are to stop, whose end somebody began and did not bring about.

use distcifs_settings::state::TaskState;

use super::crash::{ANY, Place, doomed};
use super::shared::Servers;
use super::*;
use crate::repository::control::Word;

/// A build of two tasks, and one that cleans up, whose newer ones make an end of it.
const TASKS: &str = r#"{"concurrency": {"group": "deploy", "supersede": "running"}, "tasks": [
    {"type": "execute-shell", "params": {"script": "true\n"}},
    {"type": "execute-shell", "needs": [], "params": {"script": "true\n"}},
    {"type": "execute-shell", "needs": [], "always": true, "params": {"script": "true\n"}}]}"#;

/// Most writes that the end of such a build may take.
const WRITES_MAX: u64 = 20;

/// Waits until something is so.
async fn until(what: &str, is: impl AsyncFn() -> bool) {
    let began = Instant::now();
    while !is().await {
        assert!(began.elapsed() < PATIENCE, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The states of the tasks of a build.
async fn tasks(repository: &Arc<Repository>, job: &Job, n: u64) -> Result<[TaskState; 3]> {
    let build = repository.builds.build(job, n).await?;
    Ok([0, 1, 2].map(|index| build.task(index).state))
}

/// What there is when the two tasks have ended, and the one that cleans up has not.
const CLEANING: [TaskState; 3] = [TaskState::Aborted, TaskState::Aborted, TaskState::Posted];

/// A build of which all tasks are posted, on a mount that dies after so many writes of what is done to it then.
async fn begun(servers: &Servers, dir: &Path) -> (super::crash::Doomed, Arc<Repository>, Job, u64) {
    let store = doomed(servers.first().await, ANY);
    let here = store.stores().open("here", dir).await.unwrap();
    let job = configured(&here, "a", TASKS).await.unwrap();
    let n = here.builds.trigger(&job, b"", poster()).await.unwrap();
    here.claims.claim(&control_key(&job, n), claimant()).await.unwrap();
    for index in 0..3 {
        post_task(&here, &job, n, index).await.unwrap();
    }
    (store, here, job, n)
}

/// Whoever comes next finds it as if nobody had been cut short: nothing of it is begun any more.
async fn found(servers: &Servers, dir: &Path, n: u64) -> (Arc<Repository>, Job) {
    let there = servers.next().await.open("there", dir).await.unwrap();
    let job = there.jobs.get("a").unwrap();
    for index in [0, 1] {
        let claimed = there.claims.claim(&key_of(&job, n, index), claimant()).await;
        assert!(
            matches!(claimed, Err(Error::NotFound(_))),
            "{index}: {:?}",
            claimed.err()
        );
    }
    until("its open tasks have ended", async || {
        tasks(&there, &job, n).await.unwrap() == CLEANING
    })
    .await;
    (there, job)
}

/// "Its open tickets end as `aborted`", also where the mount that saw to it died in between: a superseded build is
/// never begun, and the newer one has its place.
#[test]
fn a_newer_build_ends_an_older_one_though_its_mount_dies() {
    for writes in 2..WRITES_MAX {
        let (dir, servers) = (tempfile::tempdir().unwrap(), Servers::new());
        let (first, next) = (runtime(), runtime());
        let (store, here, n) = first.block_on(async {
            let (store, here, job, n) = begun(&servers, dir.path()).await;
            store.arm(writes);
            here.builds.trigger(&job, b"", poster()).await.unwrap();
            until("it is over", async || {
                store.is_over() || tasks(&here, &job, n).await.is_ok_and(|states| states == CLEANING)
            })
            .await;
            (store, here, n)
        });
        let was_cut = store.is_over();
        // Its session ends with it.
        drop((here, store, first));
        next.block_on(async {
            let (there, job) = found(&servers, dir.path(), n).await;
            let build = there.builds.build(&job, n).await.unwrap();
            assert_eq!(build.superseded(), Some(2), "after {writes} writes");
            let control = claim(&there, &control_key(&job, n)).await.unwrap().unwrap();
            let aborted = TaskResult::read(b"aborted").unwrap();
            there.claims.finish(&control, aborted).await.unwrap();
            until("the newer one has the place", async || {
                there.claims.claim(&control_key(&job, 2), claimant()).await.is_ok()
            })
            .await;
        });
        if !was_cut {
            // What the last of its four writes brought about may be seen before that write has come back.
            assert!(writes > 3, "it was cut short in between");
            return;
        }
    }
    panic!("it has no end");
}

/// The same of what somebody aborts: whoever aborts again, as he was told to, asks for no more than the first did.
#[test]
fn an_abort_is_finished_though_its_mount_dies() {
    for writes in 1..WRITES_MAX {
        let (dir, servers) = (tempfile::tempdir().unwrap(), Servers::new());
        let (first, next) = (runtime(), runtime());
        let (aborted, here, n) = first.block_on(async {
            let (store, here, job, n) = begun(&servers, dir.path()).await;
            store.arm(writes);
            let aborted = here.control(&job, n, Word::Abort, poster()).await;
            assert!(store.is_over() || aborted.is_ok(), "{aborted:?}");
            (!store.is_over(), here, n)
        });
        drop((here, first));
        next.block_on(async {
            let (there, job) = found(&servers, dir.path(), n).await;
            let insists = async || {
                let build = there.builds.build(&job, n).await.unwrap();
                build.live.is_some_and(|(live, _)| live.insist)
            };
            assert!(!insists().await);
            let build = there.builds.build(&job, n).await.unwrap();
            let why = there.why(&build).await;
            assert!(why.starts_with("aborting: 2-execute-shell runs always"), "{why}");
            there.control(&job, n, Word::Abort, poster()).await.unwrap();
            assert!(insists().await, "nothing was left to finish");
        });
        if aborted {
            assert!(writes > 3, "it was cut short in between");
            return;
        }
    }
    panic!("it has no end");
}

/// Nobody follows the queue, so only what is asked says so: a second abort finishes the first, and a third insists.
#[test]
fn a_second_abort_finishes_one_that_was_cut_short() {
    let (dir, servers) = (tempfile::tempdir().unwrap(), Servers::new());
    let (first, next) = (runtime(), runtime());
    let (here, n) = first.block_on(async {
        let (store, here, job, n) = begun(&servers, dir.path()).await;
        // Its entry alone.
        store.arm(1);
        let aborted = here.control(&job, n, Word::Abort, poster()).await;
        assert!(aborted.is_err() && store.is_over());
        (here, n)
    });
    drop((here, first));
    next.block_on(async {
        let stores = servers.next().await;
        let deaf = Repository::open(Setup {
            coordination: stores.coordination,
            contents: stores.contents,
            node: name("deaf"),
            attempts: dir.path().join("deaf"),
            store: "test".into(),
            coordinator: "test".into(),
            shared: true,
        });
        let deaf = deaf.await.unwrap();
        let job = deaf.jobs.get("a").unwrap();
        let build = deaf.builds.build(&job, n).await.unwrap();
        let why = deaf.why(&build).await;
        assert_eq!(why, "aborting: 0-execute-shell is open still, and ends within a minute");
        deaf.control(&job, n, Word::Abort, poster()).await.unwrap();
        assert_eq!(tasks(&deaf, &job, n).await.unwrap(), CLEANING);
        assert!(!deaf.builds.build(&job, n).await.unwrap().live.unwrap().0.insist);
        deaf.control(&job, n, Word::Abort, poster()).await.unwrap();
        assert!(deaf.builds.build(&job, n).await.unwrap().live.unwrap().0.insist);
    });
}
