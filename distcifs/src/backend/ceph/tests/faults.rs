//! What befalls a cluster: objects damaged and removed behind our back, OSDs that die and hang, no
//! room. Nothing that was acknowledged is lost, nothing waits for more than its bound.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use distcifs_tests::cluster::Cluster;
use nix::sys::signal::{Signal, kill};
use tempfile::TempDir;
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::{sleep, timeout};

use super::{Ceph, Options, cluster, options};
use crate::storage::{Appended, Contents, Digest, Error, Object, Result, Updated};

/// The contract's bound, and what a busy machine may add.
const BOUND: Duration = Duration::from_secs(12);

/// Time in which a cluster has noticed and mended what was done to it.
const MENDED: Duration = Duration::from_secs(90);

/// A cluster that may be broken, for one test at a time.
async fn breakable() -> Option<(&'static Cluster, MutexGuard<'static, ()>)> {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    static TURN: Mutex<()> = Mutex::const_new(());
    if !Cluster::available() {
        return None;
    }
    let turn = TURN.lock().await;
    Some((CLUSTER.get_or_init(Cluster::fresh), turn))
}

fn chunk(text: &str, length: usize) -> (Object, Bytes) {
    let mut bytes = text.as_bytes().to_vec();
    bytes.resize(length, b'.');
    (Object::Chunk(Digest::of(&bytes)), bytes.into())
}

fn rados(cluster: &Cluster, options: &Options, words: &[&str]) -> String {
    cluster.rados(&[&["-N", &options.namespace], words].concat()).unwrap()
}

/// A blob that others have overwritten is damaged, in whole reads; one that is put again is whole
/// again if its length shows it; one that they removed is not there.
#[tokio::test]
async fn damaged_and_missing_blobs_are_told() {
    let Some(cluster) = cluster() else { return };
    let (options, dir) = (options(cluster), TempDir::new().unwrap());
    let store = Ceph::connect(options.clone()).unwrap();
    let put = |object: &Object, bytes: &[u8]| {
        let file = dir.path().join("bytes");
        std::fs::write(&file, bytes).unwrap();
        rados(cluster, &options, &["put", &object.to_string(), file.to_str().unwrap()]);
    };
    for length in [100, 3 << 20, 8 << 20] {
        let (object, bytes) = chunk(&format!("blob of {length}"), length);
        assert!(store.put(&object, bytes.clone()).await.unwrap());
        let mut others = bytes.to_vec();
        others[length / 2] ^= 1;
        put(&object, &others);
        let read = store.read(&object, 0, 8 << 20).await;
        assert!(matches!(read, Err(Error::Damaged { .. })), "{length}");
        put(&object, &bytes[..length - 1]);
        assert!(matches!(
            store.read(&object, 0, 8 << 20).await,
            Err(Error::Damaged { .. })
        ));
        assert!(store.put(&object, bytes.clone()).await.unwrap(), "it is sent again");
        assert_eq!(store.read(&object, 0, 8 << 20).await.unwrap(), Some(bytes.clone()));
        let too_long = vec![0; (8 << 20) + 1];
        put(&object, &too_long);
        assert!(matches!(store.read(&object, 0, 10).await, Err(Error::Damaged { .. })));
        rados(cluster, &options, &["rm", &object.to_string()]);
        assert_eq!(store.read(&object, 0, 10).await.unwrap(), None);
    }
    let (record, console) = (Object::Record("job.x".into()), Object::Console("console.x.1".into()));
    for object in [&record, &console] {
        put(object, b"without an attribute");
    }
    assert!(matches!(
        store.query(&record, "", "", 1).await,
        Err(Error::Damaged { .. })
    ));
    let append = store.append(&console, 1, "x".into()).await;
    assert!(matches!(append, Err(Error::Damaged { .. })), "{append:?}");
}

/// Does it again while nobody knows whether it happened or the store is away; each call in time.
async fn insist<T, F: Future<Output = Result<T>>>(ended: &AtomicBool, mut call: impl FnMut() -> F) -> Option<T> {
    loop {
        let begun = Instant::now();
        let done = call().await;
        assert!(begun.elapsed() < BOUND, "a call took {:?}", begun.elapsed());
        match done {
            Ok(done) => return Some(done),
            Err(Error::Indeterminate { .. } | Error::Unavailable { .. }) => {}
            Err(error) => panic!("{error}"),
        }
        if ended.load(Ordering::SeqCst) {
            return None;
        }
        sleep(Duration::from_millis(100)).await;
    }
}

/// Appends numbered lines until the end, alone; how many were acknowledged.
async fn write_console(store: Ceph, object: Object, ended: Arc<AtomicBool>) -> u64 {
    let (mut sequence, mut lines) = (0, 0);
    while !ended.load(Ordering::SeqCst) {
        let line = Bytes::from(format!("line {lines}\n"));
        let after = sequence.max(1) + line.len() as u64;
        let append = || store.append(&object, sequence, line.clone());
        match insist(&ended, append).await {
            Some(Appended::Done { sequence: next, .. }) => sequence = next,
            // An append of which nobody knew has happened.
            Some(Appended::Mismatch { sequence: next, .. }) if next == after => sequence = next,
            Some(other) => panic!("{object} at {sequence}: {other:?}"),
            None => return lines,
        }
        lines += 1;
    }
    lines
}

/// Puts chunks until the end; those that were acknowledged.
async fn write_chunks(store: Ceph, name: String, ended: Arc<AtomicBool>) -> Vec<(Object, Bytes)> {
    let mut put = Vec::new();
    while !ended.load(Ordering::SeqCst) {
        let (object, bytes) = chunk(&format!("{name} {}", put.len()), 40_000);
        if insist(&ended, || store.put(&object, bytes.clone())).await.is_none() {
            break;
        }
        put.push((object, bytes));
        sleep(Duration::from_millis(20)).await;
    }
    put
}

/// Counts a record's key up until the end, against others who do; how often that was acknowledged.
async fn count_up(store: Ceph, object: Object, ended: Arc<AtomicBool>) -> u64 {
    let mut acknowledged = 0;
    while !ended.load(Ordering::SeqCst) {
        let Some(page) = insist(&ended, || store.query(&object, "count", "", 1)).await else {
            break;
        };
        let count = |value: &Bytes| std::str::from_utf8(value).unwrap().parse::<u64>().unwrap();
        let next = page.entries.first().map_or(0, |(_, value)| count(value)) + 1;
        let change = vec![("count".to_owned(), Some(next.to_string().into()))];
        // Not again if nobody knows: then it counts for nobody.
        if let Ok(Updated::Done { revision }) = store.update(&object, Some(page.revision), change).await {
            assert_eq!(revision, next, "one revision for each count");
            acknowledged += 1;
        }
    }
    acknowledged
}

/// Whatever is done to the cluster meanwhile, all that was acknowledged is there, once.
async fn survives(cluster: &'static Cluster, faults: impl FnOnce() + Send + 'static) {
    let options = options(cluster);
    let stores: Vec<Ceph> = (0..2).map(|_| Ceph::connect(options.clone()).unwrap()).collect();
    let ended = Arc::new(AtomicBool::new(false));
    let counter = Object::Record("job.counter".into());
    let (mut consoles, mut chunks, mut counts) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..8 {
        let store = stores[number % 2].clone();
        let object = Object::Console(format!("console.x.1.{number}"));
        let writer = tokio::spawn(write_console(store.clone(), object.clone(), ended.clone()));
        consoles.push((object, writer));
        chunks.push(tokio::spawn(write_chunks(
            store.clone(),
            format!("{number}"),
            ended.clone(),
        )));
        counts.push(tokio::spawn(count_up(store, counter.clone(), ended.clone())));
    }
    let heard = Arc::new(AtomicU64::new(0));
    let mut notices = stores[0].listen(&consoles[1].0).await.unwrap();
    let count = Arc::clone(&heard);
    let listener = tokio::spawn(async move {
        while notices.next().await.is_ok() {
            count.fetch_add(1, Ordering::SeqCst);
        }
    });
    tokio::task::spawn_blocking(faults).await.unwrap();
    // The other mount's last line is told, too.
    let before = heard.load(Ordering::SeqCst);
    sleep(Duration::from_secs(3)).await;
    assert!(heard.load(Ordering::SeqCst) > before, "nothing is told any more");
    ended.store(true, Ordering::SeqCst);

    let reader = &stores[0];
    for (object, writer) in consoles {
        let lines = writer.await.unwrap();
        let bytes = timeout(MENDED, reader.read(&object, 0, 1 << 25))
            .await
            .unwrap()
            .unwrap();
        let text = String::from_utf8(bytes.unwrap().to_vec()).unwrap();
        let wanted: String = (0..lines).map(|number| format!("line {number}\n")).collect();
        // One more may be there of which nobody knows.
        let more = text.strip_prefix(&wanted).expect("a line is missing or there twice");
        assert!(more.is_empty() || more == format!("line {lines}\n"), "{more:?}");
        assert!(lines > 20, "{object}: {lines} lines");
    }
    for writer in chunks {
        for (object, bytes) in writer.await.unwrap() {
            assert_eq!(reader.read(&object, 0, 1 << 20).await.unwrap(), Some(bytes));
        }
    }
    let mut acknowledged = 0;
    for counter in counts {
        acknowledged += counter.await.unwrap();
    }
    let page = reader.query(&counter, "count", "", 1).await.unwrap();
    let count: u64 = std::str::from_utf8(&page.entries[0].1).unwrap().parse().unwrap();
    assert!(
        count == page.revision && count >= acknowledged,
        "{count} of {acknowledged}"
    );
    drop(stores);
    listener.abort();
}

/// Each OSD is killed and started again while everybody writes.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_while_osds_die() {
    let Some((cluster, _turn)) = breakable().await else {
        return;
    };
    let osds = || {
        for osd in ["osd0", "osd1", "osd2"] {
            cluster.kill(osd);
            std::thread::sleep(Duration::from_secs(2));
            cluster.start(osd);
        }
    };
    survives(cluster, osds).await;
}

/// Two of three OSDs stop for longer than any call lasts: calls fail in time, and all goes on after.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_while_osds_hang() {
    let Some((cluster, _turn)) = breakable().await else {
        return;
    };
    let osds = || {
        for signal in [Signal::SIGSTOP, Signal::SIGCONT] {
            for osd in ["osd0", "osd2"] {
                kill(cluster.pid(osd), signal).unwrap();
            }
            std::thread::sleep(Duration::from_secs(15));
        }
    };
    survives(cluster, osds).await;
}

/// While no OSD answers, who comes first waits for its bound, who comes later not at all; when they
/// are back all goes on by itself.
#[tokio::test(flavor = "multi_thread")]
async fn calls_fail_at_once_while_the_cluster_is_away() {
    let Some((cluster, _turn)) = breakable().await else {
        return;
    };
    let store = Ceph::connect(options(cluster)).unwrap();
    let object = Object::Record("job.x".into());
    let change = || vec![("key".to_owned(), Some(Bytes::from_static(b"value")))];
    store.update(&object, None, change()).await.unwrap();
    let signal = |signal| {
        for osd in ["osd0", "osd1", "osd2"] {
            kill(cluster.pid(osd), signal).unwrap();
        }
    };
    signal(Signal::SIGSTOP);
    let begun = Instant::now();
    let first = store.update(&object, Some(1), change()).await;
    let took = begun.elapsed();
    // Whoever comes right after it, while nobody is sure, must not wait for a bound of its own.
    let begun = Instant::now();
    let second = store.update(&object, Some(1), change()).await;
    let soon = begun.elapsed();
    let begun = Instant::now();
    let read = store.query(&object, "", "", 1).await;
    let later = begun.elapsed();
    signal(Signal::SIGCONT);
    assert!(matches!(first, Err(Error::Indeterminate { .. })), "{first:?}");
    assert!(took < BOUND, "{took:?}");
    assert!(matches!(second, Err(Error::Unavailable { .. })), "{second:?}");
    assert!(matches!(read, Err(Error::Unavailable { .. })), "{read:?}");
    assert!(soon < Duration::from_secs(3), "{soon:?}");
    assert!(later < Duration::from_millis(500), "{later:?}");
    let begun = Instant::now();
    while store.query(&object, "", "", 1).await.is_err() {
        assert!(begun.elapsed() < MENDED, "it does not recover");
        sleep(Duration::from_millis(100)).await;
    }
    store.update(&object, None, change()).await.unwrap();
}

/// Waits until puts end so.
async fn until(store: &Ceph, what: &str, done: impl Fn(&Result<bool>) -> bool) {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let begun = Instant::now();
    loop {
        let (object, bytes) = chunk(&format!("{}", NUMBER.fetch_add(1, Ordering::SeqCst)), 100_000);
        let called = Instant::now();
        let put = store.put(&object, bytes).await;
        assert!(called.elapsed() < BOUND, "a put took {:?}", called.elapsed());
        if done(&put) {
            return;
        }
        assert!(begun.elapsed() < MENDED, "{what}: {put:?}");
        sleep(Duration::from_millis(200)).await;
    }
}

/// A full pool and a full cluster say so at once; what is there can be read and removed, and when
/// there is room all goes on.
#[tokio::test(flavor = "multi_thread")]
async fn no_room_is_told_at_once() {
    let Some((cluster, _turn)) = breakable().await else {
        return;
    };
    let store = Ceph::connect(options(cluster)).unwrap();
    let (object, bytes) = chunk("kept", 1 << 20);
    store.put(&object, bytes.clone()).await.unwrap();
    let console = Object::Console("console.x.1".into());
    store.append(&console, 0, "line\n".into()).await.unwrap();
    let record = Object::Record("job.x".into());
    let key = || vec![("key".to_owned(), Some(Bytes::from_static(b"value")))];
    store.update(&record, None, key()).await.unwrap();
    let garbage = [chunk("garbage 0", 1000), chunk("garbage 1", 1000)];
    for (object, bytes) in &garbage {
        store.put(object, bytes.clone()).await.unwrap();
    }
    let ceph = |lines: &str| {
        for line in lines.split("; ") {
            let words: Vec<&str> = line.split(' ').collect();
            cluster.ceph(&words).unwrap();
        }
    };
    let limits = [
        (
            "osd pool set-quota distci max_bytes 1000000",
            "osd pool set-quota distci max_bytes 0",
        ),
        (
            "osd set-nearfull-ratio 0.0001; osd set-backfillfull-ratio 0.0001; osd set-full-ratio 0.0001",
            "osd set-full-ratio 0.95; osd set-backfillfull-ratio 0.9; osd set-nearfull-ratio 0.85",
        ),
    ];
    for (number, (full, room)) in limits.into_iter().enumerate() {
        ceph(full);
        until(&store, full, |put| matches!(put, Err(Error::Full { .. }))).await;
        let begun = Instant::now();
        let append = store.append(&console, 6, "more\n".into()).await;
        assert!(matches!(append, Err(Error::Full { .. })), "{append:?}");
        assert!(
            begun.elapsed() < Duration::from_secs(3),
            "a full store is told after {:?}",
            begun.elapsed()
        );
        assert_eq!(store.read(&object, 0, 2 << 20).await.unwrap(), Some(bytes.clone()));
        assert!(
            !store.put(&object, bytes.clone()).await.unwrap(),
            "what is there needs no room"
        );
        // Nor does anything that gc does on its way to room.
        let fenced = store.update(&record, None, Vec::new()).await;
        assert!(matches!(fenced, Ok(Updated::Done { .. })), "{fenced:?}");
        assert_eq!(store.sweep(&garbage[number].0, 1).await, Ok(Some(1000)));
        if number == 0 {
            let other = chunk("0", 100_000).0;
            store.remove(&other).await.unwrap();
        }
        ceph(room);
        until(&store, room, Result::is_ok).await;
    }
    let appended = store.append(&console, 6, "more\n".into()).await.unwrap();
    assert_eq!(
        appended,
        Appended::Done {
            length: 10,
            sequence: 11
        }
    );
}

/// Two mounts append to one console, each where it believes it to stand: each line is there once,
/// in the order of its writer.
#[tokio::test(flavor = "multi_thread")]
async fn two_mounts_race_for_a_console() {
    let Some(cluster) = cluster() else { return };
    let options = options(cluster);
    let object = Object::Console("console.x.1".into());
    let mut writers = Vec::new();
    for name in ["a", "b"] {
        let (store, object) = (Ceph::connect(options.clone()).unwrap(), object.clone());
        writers.push(tokio::spawn(async move {
            let mut sequence = 0;
            for number in 0..200 {
                let line = Bytes::from(format!("{name} {number}\n"));
                loop {
                    match store.append(&object, sequence, line.clone()).await.unwrap() {
                        Appended::Done { sequence: next, .. } => {
                            sequence = next;
                            break;
                        }
                        Appended::Mismatch { sequence: next, .. } => sequence = next,
                    }
                }
            }
        }));
    }
    for writer in writers {
        writer.await.unwrap();
    }
    let store = Ceph::connect(options).unwrap();
    let text = store.read(&object, 0, 1 << 20).await.unwrap().unwrap();
    let text = std::str::from_utf8(&text).unwrap();
    for name in ["a", "b"] {
        let lines: Vec<&str> = text.lines().filter(|line| line.starts_with(name)).collect();
        let wanted: Vec<String> = (0..200).map(|number| format!("{name} {number}")).collect();
        assert_eq!(lines, wanted);
    }
    assert_eq!(text.lines().count(), 400);
}
