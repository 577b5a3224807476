//! Measures the embedded store where TMPDIR points to:
//! `cargo test --release -p distcifs --lib speed -- --ignored --nocapture`

use std::fs;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::Embedded;
use crate::storage::{Appended, Commit, Contents, Coordination, Digest, Object, Op};

/// How long each figure is taken for.
const SPAN: Duration = Duration::from_secs(2);

fn set(path: String, data: Vec<u8>) -> Op {
    Op::Set {
        path,
        data: data.into(),
        version: None,
    }
}

async fn commits(store: &Embedded, committers: usize) -> f64 {
    let begun = Instant::now();
    let tasks = (0..committers).map(|i| {
        let store = store.clone();
        tokio::spawn(async move {
            let path = format!("/bench-{committers}-{i}");
            let data = Bytes::new();
            let create = Op::Create {
                path: path.clone(),
                data,
                ephemeral: false,
            };
            assert_eq!(store.commit(vec![create]).await, Ok(Commit::Done));
            let mut count = 0;
            while begun.elapsed() < SPAN {
                store.commit(vec![set(path.clone(), vec![b'x'; 200])]).await.unwrap();
                count += 1;
            }
            count
        })
    });
    let mut sum = 0;
    for task in tasks.collect::<Vec<_>>() {
        sum += task.await.unwrap();
    }
    f64::from(sum) / begun.elapsed().as_secs_f64()
}

async fn appends(store: &Embedded) -> f64 {
    let object = Object::Console("console.a.1.1.1.0".to_owned());
    let (begun, mut sequence, mut count) = (Instant::now(), 0, 0);
    while begun.elapsed() < SPAN {
        match store
            .append(&object, sequence, Bytes::from_static(&[b'x'; 80]))
            .await
            .unwrap()
        {
            Appended::Done { sequence: next, .. } => sequence = next,
            other => panic!("{other:?}"),
        }
        count += 1;
    }
    f64::from(count) / begun.elapsed().as_secs_f64()
}

async fn puts(store: &Embedded, sync: bool) -> f64 {
    let (begun, mut count) = (Instant::now(), 0_u32);
    while begun.elapsed() < SPAN {
        let mut bytes = vec![7; 1 << 20];
        bytes[..4].copy_from_slice(&(count + u32::from(sync) * 1_000_000).to_le_bytes());
        let object = Object::Chunk(Digest::of(&bytes));
        assert!(store.put(&object, bytes.into()).await.unwrap());
        if sync {
            Contents::sync(store, vec![object]).await.unwrap();
        }
        count += 1;
    }
    f64::from(count) / begun.elapsed().as_secs_f64()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures for some seconds; asserts nothing about speed"]
async fn speed() {
    let dir = tempfile::tempdir().unwrap();
    let store = Embedded::open(dir.path()).unwrap();
    for committers in [1, 8, 64] {
        println!(
            "{committers} committers: {:.0} commits/s",
            commits(&store, committers).await
        );
    }
    println!("1 appender: {:.0} appends/s", appends(&store).await);
    println!("put of 1 MiB: {:.0}/s", puts(&store, false).await);
    println!("put of 1 MiB and sync: {:.0}/s", puts(&store, true).await);
}

/// Ten thousand jobs of ten builds: how long an opening takes, also after a kill, of which the
/// copy of an open store is the likeness.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "fills a large store; asserts only that it opens in less than a second"]
async fn large() {
    let dir = tempfile::tempdir().unwrap();
    let (path, copy) = (dir.path().join("store"), dir.path().join("copy"));
    let store = Embedded::open(&path).unwrap();
    let mut updates = Vec::new();
    for build in 0..100_000 {
        let object = Object::Record(format!("build.{:016x}.{}", build / 10, build % 10));
        let changes = (0..4).map(|i| (format!("key{i}"), Some(vec![b'x'; 250].into())));
        let (store, changes) = (store.clone(), changes.collect());
        updates.push(tokio::spawn(async move { store.update(&object, None, changes).await }));
        if updates.len() == 1000 {
            for update in updates.drain(..) {
                update.await.unwrap().unwrap();
            }
        }
    }
    drop(Embedded::open(&copy).unwrap());
    fs::copy(path.join("index.redb"), copy.join("index.redb")).unwrap();
    drop(store);
    println!(
        "index of {} bytes",
        fs::metadata(path.join("index.redb")).unwrap().len()
    );
    for (what, path) in [("after a clean end", &path), ("after a kill", &copy)] {
        let begun = Instant::now();
        drop(Embedded::open(path).unwrap());
        println!("opening and closing {what}: {:?}", begun.elapsed());
        assert!(begun.elapsed() < Duration::from_secs(1));
    }
}
