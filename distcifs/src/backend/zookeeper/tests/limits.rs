//! Sizes and numbers: commits that no server takes, long lists, many calls and many watches.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::server::Ensemble;
use super::{PATIENCE, create, delete, set, store};
use crate::storage::faults::{Faulty, Rates};
use crate::storage::{Commit, Coordination, Error, Event, conformance, faults};

const TIMEOUT: Duration = Duration::from_secs(10);

/// A commit that is too large for ZooKeeper is refused here, as it can't be split; one just below
/// passes, on all three servers. The session notices nothing of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs ZooKeeper: scripts/test conformance"]
async fn commits_are_as_large_as_servers_take() {
    let ensemble = Ensemble::start(3);
    let mut options = super::options(&ensemble.hosts(), TIMEOUT);
    let file = ensemble.dir().join("credentials");
    std::fs::write(&file, "a-rather-long-name-of-a-user:and-a-password").unwrap();
    options.credentials = Some(file);
    super::Zookeeper::init(&options).await.unwrap();
    let store = super::Zookeeper::connect(&options).await.unwrap();
    let before = *store.session().borrow();
    let commit = async |name: &str, count: usize, bytes: usize| {
        let data = "x".repeat(bytes);
        let ops = (0..count).map(|i| create(&format!("/{name}-{i}"), &data)).collect();
        store.commit(ops).await
    };
    assert_eq!(commit("large", 236, 4096).await, Ok(Commit::Done));
    assert_eq!(commit("many", 4096, 150).await, Ok(Commit::Done));
    for (count, bytes) in [(256, 4096), (4096, 200)] {
        match commit("over", count, bytes).await {
            Err(Error::Refused { why, .. }) => assert!(why.contains("1000000 bytes at most"), "{why}"),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(store.children("/").await.unwrap().len(), 236 + 4096);
    assert_eq!(*store.session().borrow(), before);
}

/// Lists are read whole though they are longer than the largest request.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs ZooKeeper: scripts/test conformance"]
async fn long_lists_are_read_whole() {
    let ensemble = Ensemble::start(1);
    let store = store(&ensemble.hosts(), TIMEOUT).await;
    store.commit(vec![create("/list", "")]).await.unwrap();
    let (rounds, each) = (12, 2500);
    for round in 0..rounds {
        let path = |i| format!("/list/{round}-{i}-{}", "x".repeat(60));
        let end = store.commit((0..each).map(|i| create(&path(i), "")).collect()).await;
        assert_eq!(end, Ok(Commit::Done));
    }
    assert_eq!(store.children("/list").await.unwrap().len(), rounds * each);
}

/// A path has one of ZooKeeper's watches, however many listen, and none when the last has gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs ZooKeeper: scripts/test conformance"]
async fn watches_are_shared_and_go() {
    let ensemble = Ensemble::start(1);
    let store = store(&ensemble.hosts(), TIMEOUT).await;
    store.commit(vec![create("/a", "")]).await.unwrap();
    let until = async |wanted: usize| {
        let begun = Instant::now();
        while ensemble.watches(0) != wanted {
            assert!(
                begun.elapsed() < PATIENCE,
                "{} watches, not {wanted}",
                ensemble.watches(0)
            );
            sleep(Duration::from_millis(20)).await;
        }
    };
    for _ in 0..3 {
        let mut many = Vec::new();
        for _ in 0..50 {
            many.push(store.watch("/a").await.unwrap());
            many.push(store.watch("/b").await.unwrap());
        }
        assert_eq!(ensemble.watches(0), 2);
        let mut last = many.swap_remove(0);
        drop(many);
        until(1).await;
        store.commit(vec![set("/a", "1")]).await.unwrap();
        assert!(matches!(last.events.recv().await, Some(Event::Changed { .. })));
        drop(last);
        until(0).await;
        store.commit(vec![set("/a", "2"), create("/b", "")]).await.unwrap();
        store.commit(vec![delete("/b")]).await.unwrap();
    }
}

/// Thousands of calls at a time are all served, and quickly: none waits for another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs ZooKeeper: scripts/test conformance"]
async fn many_calls_are_in_flight() {
    let ensemble = Ensemble::start(1);
    let store = store(&ensemble.hosts(), TIMEOUT).await;
    let calls: Vec<_> = (0..4000)
        .map(|i| {
            let store = store.clone();
            tokio::spawn(async move {
                let path = format!("/{i}");
                let end = store.commit(vec![create(&path, &path)]).await;
                (end, store.get(&path).await.map(|entry| entry.map(|entry| entry.data)))
            })
        })
        .collect();
    for (i, call) in calls.into_iter().enumerate() {
        let (end, read) = call.await.unwrap();
        assert_eq!(end, Ok(Commit::Done));
        assert_eq!(read, Ok(Some(format!("/{i}").into())));
    }
}

/// With faults around it, it passes what every store passes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs ZooKeeper: scripts/test conformance"]
async fn conforms_late_and_counts_right_through_faults() {
    let ensemble = Ensemble::start(1);
    let store = store(&ensemble.hosts(), TIMEOUT).await;
    let late = Rates {
        before: 0,
        after: 0,
        delay: 300,
    };
    let store = Faulty::new(store, 5, late);
    conformance::all_coordination(&store).await;
    faults::tests::counts_right(&Faulty::new(store, 11, faults::tests::RATES)).await;
}
