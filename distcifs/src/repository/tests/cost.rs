//! What a build costs in calls of the stores, as doc/storage.md tells it.

use std::collections::BTreeMap;

use super::*;
use crate::backend::embedded::Embedded;
use crate::storage::counted::{Call, Counted};

/// A store of which every call is noted.
type Store = Counted<Embedded>;

/// Opens a repository on one.
async fn counted(dir: &Path) -> (Store, Arc<Repository>) {
    let store = Counted::new(Embedded::open(&dir.join("store")).unwrap());
    let repository = open(&store, dir).await.unwrap();
    (store, repository)
}

/// How often each thing was done that asks or changes a store, by what it was done for.
fn table(calls: &[Call]) -> BTreeMap<&'static str, BTreeMap<&'static str, usize>> {
    let mut table: BTreeMap<_, BTreeMap<_, usize>> = BTreeMap::new();
    for call in calls {
        *table.entry(call.doing).or_default().entry(call.verb).or_default() += 1;
    }
    table
}

/// All that is written of a call, for a test that fails.
fn lines(calls: &[Call]) -> String {
    calls.iter().map(|call| format!("{call}\n")).collect()
}

/// Goes through a build of one task, each step under its name, and waits until it is tidied away.
async fn counted_build(store: &Store, repository: &Arc<Repository>, job: &Job) -> Vec<Call> {
    store.take();
    let n = store
        .on_behalf_of("trigger", repository.trigger(job, b"", poster()))
        .await
        .unwrap();
    let (control, task) = (control_key(job, n), task_key(job, n));
    let controller = store
        .on_behalf_of("claim", repository.claim(&control, claimant()))
        .await
        .unwrap();
    store.on_behalf_of("post", post(repository, job, n)).await.unwrap();
    let claim = store
        .on_behalf_of("claim", repository.claim(&task, claimant()))
        .await
        .unwrap();
    store.on_behalf_of("output", work(repository, &claim)).await.unwrap();
    store
        .on_behalf_of("result", repository.finish(&claim, success()))
        .await
        .unwrap();
    store
        .on_behalf_of("final", repository.finish(&controller, success()))
        .await
        .unwrap();
    // Asked of the store inside, so that it is not counted.
    let started = Instant::now();
    let live = crate::repository::model::build::live_path(job.uid(), n);
    while store.inner().get(&live).await.unwrap().is_some() {
        assert!(started.elapsed() < PATIENCE, "recording the build");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    store.take()
}

/// Most entries that are read beside a build by whoever hears of its changes: each ticket twice when it was
/// claimed, when it ended and when it is tidied away, and what the record is made of. Changes that are heard of
/// together are looked at once.
const HEARD_MAX: usize = 24;

/// "Trigger, claim, post, claim, result, final: six writes of the coordinator one after another, seven in all,
/// and two updates of records that nobody waits for"; and the table of what is read for it.
#[test]
fn a_build_of_one_task_costs_six_writes_one_after_another() {
    let (dir, runtime) = (tempfile::tempdir().unwrap(), runtime());
    runtime.block_on(async {
        let (store, repository) = counted(dir.path()).await;
        let job = job(&repository, "hello").await.unwrap();
        // The first one finds what later ones know.
        counted_build(&store, &repository, &job).await;
        let mut calls = counted_build(&store, &repository, &job).await;
        // What is heard late of the one before.
        calls.retain(|call| !call.what.contains("/hello.1."));
        let mut table = table(&calls);
        let mut beside = table.remove("beside").unwrap();
        let expected: [(&str, &[(&str, usize)]); 6] = [
            ("claim", &[("commit", 2), ("get", 3)]),
            ("final", &[("commit", 1)]),
            ("output", &[("append", 2), ("sync", 1)]),
            ("post", &[("commit", 1), ("get", 2)]),
            ("result", &[("commit", 1)]),
            ("trigger", &[("commit", 1), ("get", 1), ("query", 1)]),
        ];
        let expected = expected.map(|(doing, counts)| (doing, counts.iter().copied().collect()));
        assert_eq!(table, BTreeMap::from(expected), "{}", lines(&calls));
        let heard = beside.remove("get").unwrap_or_default();
        assert!(heard <= HEARD_MAX, "{heard}: {}", lines(&calls));
        // The folders of the result are stored by threads of their own, and made durable.
        let expected = [("commit", 1), ("put", 2), ("query", 2), ("sync", 3), ("update", 2)];
        assert_eq!(beside, BTreeMap::from(expected), "{}", lines(&calls));
    });
}
