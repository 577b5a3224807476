//! Measures the pool beside `rados bench`, on the cluster that DISTCIFS_CLUSTER names:
//! `cargo test --release -p distcifs --features ceph --lib ceph::tests::speed -- --ignored --nocapture`

use std::time::{Duration, Instant};

use bytes::Bytes;
use distcifs_tests::cluster::Cluster;

use super::{Ceph, cluster, options};
use crate::storage::{Appended, Contents, Digest, Object};

/// How long each figure is taken for.
const SPAN: Duration = Duration::from_secs(4);

/// A blob that nobody else has.
fn blob(length: usize, number: u64) -> (Object, Bytes) {
    let mut bytes = vec![7; length];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    (Object::Chunk(Digest::of(&bytes)), bytes.into())
}

/// Times that calls took.
#[derive(Default)]
struct Times(Vec<Duration>);

impl Times {
    fn show(&mut self, what: &str) {
        self.0.sort();
        let at = |part: usize| self.0[(self.0.len() * part / 100).min(self.0.len() - 1)];
        let rate = self.0.len() as f64 / SPAN.as_secs_f64();
        println!("{what}: p50 {:?}, p99 {:?}, {rate:.0}/s", at(50), at(99));
    }
}

/// Runs calls one after another in so many tasks at once.
async fn measure<F: Future<Output = ()> + Send>(
    what: &str,
    tasks: u64,
    call: impl Fn(u64, u64) -> F + Clone + Send + 'static,
) {
    let begun = Instant::now();
    let running: Vec<_> = (0..tasks)
        .map(|task| {
            let call = call.clone();
            tokio::spawn(async move {
                let mut times = Vec::new();
                while begun.elapsed() < SPAN {
                    let at = Instant::now();
                    call(task, times.len() as u64).await;
                    times.push(at.elapsed());
                }
                times
            })
        })
        .collect();
    let mut times = Times::default();
    for task in running {
        times.0.extend(task.await.unwrap());
    }
    times.show(&format!("{what}, {tasks} at once"));
}

async fn blobs(store: &Ceph, round: u64, length: usize, tasks: u64) {
    let number = move |task: u64, count: u64| (round << 48) | (tasks << 40) | (task << 32) | count;
    let put = |store: Ceph, new: bool| {
        move |task, count| {
            let (store, (object, bytes)) = (store.clone(), blob(length, number(task, if new { count } else { 0 })));
            async move {
                store.put(&object, bytes).await.unwrap();
            }
        }
    };
    measure(
        &format!("put {} KiB, new", length >> 10),
        tasks,
        put(store.clone(), true),
    )
    .await;
    measure(
        &format!("put {} KiB, known", length >> 10),
        tasks,
        put(store.clone(), false),
    )
    .await;
    let store = store.clone();
    let read = move |task, count| {
        let (store, (object, _)) = (store.clone(), blob(length, number(task, count % 8)));
        async move {
            store.read(&object, 0, length + 1).await.unwrap();
        }
    };
    measure(&format!("read {} KiB", length >> 10), tasks, read).await;
}

async fn appends(store: &Ceph, consoles: u64) {
    let begun = Instant::now();
    let tasks: Vec<_> = (0..consoles)
        .map(|number| {
            let (store, object) = (store.clone(), Object::Console(format!("console.{consoles}.{number}")));
            tokio::spawn(async move {
                let (mut sequence, mut times) = (0, Vec::new());
                while begun.elapsed() < SPAN {
                    let at = Instant::now();
                    match store.append(&object, sequence, Bytes::from_static(&[b'x'; 80])).await {
                        Ok(Appended::Done { sequence: next, .. }) => sequence = next,
                        other => panic!("{other:?}"),
                    }
                    times.push(at.elapsed());
                }
                times
            })
        })
        .collect();
    let mut times = Times::default();
    for task in tasks {
        times.0.extend(task.await.unwrap());
    }
    times.show(&format!("append 80 bytes, {consoles} consoles at once"));
}

async fn records(store: &Ceph) {
    let own = store.clone();
    let update = move |task, count: u64| {
        let (store, object) = (own.clone(), Object::Record(format!("job.{task}")));
        async move {
            let change = vec![(format!("key.{}", count % 100), Some(Bytes::from_static(&[b'x'; 200])))];
            store.update(&object, Some(count), change).await.unwrap();
        }
    };
    measure("update, revision known", 1, update).await;
    let own = store.clone();
    let any = move |task, count: u64| {
        let (store, object) = (own.clone(), Object::Record(format!("job.{task}")));
        async move {
            let change = vec![(format!("key.{}", count % 100), None)];
            store.update(&object, None, change).await.unwrap();
        }
    };
    measure("update, any revision", 1, any).await;
    let own = store.clone();
    let query = move |task, _| {
        let (store, object) = (own.clone(), Object::Record(format!("job.{task}")));
        async move {
            store.query(&object, "", "", 1000).await.unwrap();
        }
    };
    measure("query 100 keys", 1, query).await;
}

/// From before an append on one mount to when another has read it.
async fn notices(writer: &Ceph, reader: &Ceph, pause: Duration) {
    let object = Object::Console(format!("console.notices.{}", pause.as_millis()));
    let mut notices = reader.listen(&object).await.unwrap();
    let (begun, mut sequence, mut times) = (Instant::now(), 0, Times::default());
    while begun.elapsed() < SPAN {
        let (at, length) = (Instant::now(), sequence.max(1) - 1);
        match writer.append(&object, sequence, Bytes::from_static(b"line\n")).await {
            Ok(Appended::Done { sequence: next, .. }) => sequence = next,
            other => panic!("{other:?}"),
        }
        loop {
            notices.next().await.unwrap();
            let read = reader.read(&object, length, 4096).await.unwrap();
            if read.is_some_and(|read| read.len() == 5) {
                break;
            }
        }
        times.0.push(at.elapsed());
        tokio::time::sleep(pause).await;
    }
    times.show(&format!("append on one mount to read on another, {pause:?} apart"));
}

fn bench(cluster: &Cluster, words: &str) {
    let words: Vec<&str> = words.split(' ').collect();
    let said = cluster.rados(&words).unwrap();
    let wanted = ["Bandwidth (MB/sec)", "Average IOPS", "Average Latency"];
    let lines = said
        .lines()
        .filter(|line| wanted.iter().any(|start| line.starts_with(start)));
    let lines: Vec<String> = lines
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    println!("rados {}: {}", words.join(" "), lines.join("; "));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures"]
async fn speed() {
    let Some(cluster) = cluster() else { return };
    let options = options(cluster);
    let (store, other) = (Ceph::connect(options.clone()).unwrap(), Ceph::connect(options).unwrap());
    for consoles in [1, 16, 64] {
        appends(&store, consoles).await;
    }
    records(&store).await;
    for pause in [Duration::ZERO, Duration::from_millis(50)] {
        notices(&store, &other, pause).await;
    }
    // Side by side, as the machine has other work.
    for round in 0..3 {
        bench(cluster, "bench 4 write -b 4096 -t 1");
        blobs(&store, round, 4 << 10, 1).await;
        bench(cluster, "bench 4 write -b 4096 -t 16");
        blobs(&store, round, 4 << 10, 16).await;
        bench(cluster, "bench 4 write -b 4194304 -t 8 --no-cleanup");
        bench(cluster, "bench 4 seq -t 8");
        bench(cluster, "cleanup");
        blobs(&store, round, 4 << 20, 8).await;
    }
}
