//! What the embedded store acknowledged survives kill -9 at any moment, and nothing is there by
//! half: a child process writes and tells each acknowledgement, the parent kills it, opens the
//! store and compares, many times over the same directory.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests end the test, or the child, where it went wrong"
)]

use std::collections::BTreeMap;
use std::env;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use distcifs::backend::embedded::Embedded;
use distcifs::storage::{Appended, Commit, Contents, Coordination, Digest, Object, Op, Page, Updated};
use tokio::runtime::{Builder, Runtime};

/// Times that the child is killed.
const ROUNDS: u64 = 30;

/// Longest time from the child's first acknowledgement to its end.
const LIFE_MAX: Duration = Duration::from_millis(200);

/// Commits that are under way at once in the pipeline.
const PIPELINE: u64 = 32;

/// Longest time that a lock may outlast its holder in a process that was just started.
const LET_GO: Duration = Duration::from_secs(5);

/// Where the child finds the store's directory.
const DIR: &str = "STORE_CRASH_DIR";

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

fn create(path: &str) -> Op {
    Op::Create {
        path: path.to_owned(),
        data: Bytes::new(),
        ephemeral: false,
    }
}

fn set(path: &str, number: u64) -> Op {
    Op::Set {
        path: path.to_owned(),
        data: number.to_string().into(),
        version: None,
    }
}

fn record() -> Object {
    Object::Record("build.a.1".to_owned())
}

fn console() -> Object {
    Object::Console("console.a.1.1.1.0".to_owned())
}

/// The bytes of the blob of this number: large enough to be written in several steps.
fn blob(number: u64) -> Bytes {
    format!("{number:08}").repeat(20_000).into()
}

fn line(number: u64) -> String {
    format!("{number} {}\n", "x".repeat((number * 37 % 300) as usize))
}

/// Tells the parent that something is durable.
fn told(what: &str, number: u64) {
    println!("\nack {what} {number}");
}

/// The number that an entry holds; 0 if there is none.
async fn number(store: &Embedded, path: &str) -> u64 {
    let entry = store.get(path).await.unwrap();
    entry.map_or(0, |entry| String::from_utf8_lossy(&entry.data).parse().unwrap_or(0))
}

async fn page(store: &Embedded) -> Page {
    store.query(&record(), "", "", usize::MAX).await.unwrap()
}

/// Pairs of entries that are set together, and a new one with each.
async fn write_pairs(store: Embedded) {
    for i in number(&store, "/pair/a").await + 1.. {
        let ops = vec![set("/pair/a", i), create(&format!("/pair/{i}")), set("/pair/b", i)];
        assert_eq!(store.commit(ops).await, Ok(Commit::Done));
        told("pair", i);
    }
}

/// Many commits under way at once, in order; each makes the next number.
async fn write_pipeline(store: Embedded) {
    let mut running = std::collections::VecDeque::new();
    for i in store.children("/line").await.unwrap().len() as u64 + 1.. {
        let one = store.clone();
        running.push_back(tokio::spawn(async move {
            let commit = one.commit(vec![create(&format!("/line/{i}"))]).await;
            assert_eq!(commit, Ok(Commit::Done));
            told("line", i);
        }));
        if running.len() as u64 >= PIPELINE {
            running.pop_front().unwrap().await.unwrap();
        }
    }
}

/// A commit and right behind it, without waiting, an update: never the second without the first.
async fn write_record(store: Embedded) {
    for i in page(&store).await.revision + 1.. {
        let text = Bytes::from(i.to_string());
        let changes = vec![(format!("k{i:08}"), Some(text.clone())), ("last".into(), Some(text))];
        let object = record();
        let both = (
            store.commit(vec![set("/ahead", i)]),
            store.update(&object, None, changes),
        );
        let (commit, update) = tokio::join!(biased; both.0, both.1);
        assert_eq!((commit, update), (Ok(Commit::Done), Ok(Updated::Done { revision: i })));
        told("record", i);
    }
}

async fn write_console(store: Embedded) {
    let object = console();
    let whole = store.read(&object, 0, usize::MAX).await.unwrap().unwrap_or_default();
    let mut sequence = if whole.is_empty() { 0 } else { whole.len() as u64 + 1 };
    let first = whole.iter().filter(|b| **b == b'\n').count() as u64;
    for i in first.. {
        match store.append(&object, sequence, line(i).into()).await.unwrap() {
            Appended::Done { sequence: next, .. } => sequence = next,
            other => panic!("{other:?}"),
        }
        told("console", i + 1);
        if i % 50 == 0 {
            Contents::sync(&store, vec![object.clone()]).await.unwrap();
        }
        tokio::task::yield_now().await;
    }
}

async fn write_blobs(store: Embedded) {
    for i in number(&store, "/blobs").await + 1.. {
        let (bytes, next) = (blob(i), blob(i + 1_000_000));
        let objects = [&bytes, &next].map(|bytes| Object::Chunk(Digest::of(bytes)));
        store.put(&objects[0], bytes).await.unwrap();
        store.put(&objects[1], next).await.unwrap();
        Contents::sync(&store, objects.to_vec()).await.unwrap();
        assert_eq!(store.commit(vec![set("/blobs", i)]).await, Ok(Commit::Done));
        told("blobs", i);
    }
}

/// Opens a store that its last holder lets go of in a moment: a process that another test starts at
/// that time holds every descriptor of ours, and so the lock, until it is the program it is to be.
fn open_soon(dir: &Path) -> Embedded {
    let begun = Instant::now();
    loop {
        match Embedded::open(dir) {
            Err(distcifs::backend::embedded::OpenError::InUse { .. }) if begun.elapsed() < LET_GO => {
                thread::sleep(Duration::from_millis(5));
            }
            opened => return opened.unwrap(),
        }
    }
}

/// The child: writes until it is killed. As a test by itself it has nothing to do.
#[test]
fn child() {
    let Ok(dir) = env::var(DIR) else { return };
    runtime().block_on(async {
        let store = open_soon(Path::new(&dir));
        for path in ["/pair", "/pair/a", "/pair/b", "/line", "/ahead", "/blobs"] {
            store.commit(vec![create(path)]).await.unwrap();
        }
        let mine = Op::Create {
            path: "/mine".into(),
            data: Bytes::new(),
            ephemeral: true,
        };
        assert_eq!(store.commit(vec![mine]).await, Ok(Commit::Done));
        let writers = [
            tokio::spawn(write_pairs(store.clone())),
            tokio::spawn(write_pipeline(store.clone())),
            tokio::spawn(write_record(store.clone())),
            tokio::spawn(write_console(store.clone())),
            tokio::spawn(write_blobs(store.clone())),
        ];
        for writer in writers {
            writer.await.unwrap();
        }
    });
}

/// Starts the child on a store.
fn start(dir: &Path, test: &str) -> Child {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args([test, "--exact", "--nocapture"]).env(DIR, dir);
    command.stdout(Stdio::piped()).spawn().unwrap()
}

/// Lets the child write for a while, kills it, and returns its last acknowledgement of each kind.
fn run_and_kill(dir: &Path, life: Duration) -> BTreeMap<String, u64> {
    let mut child = start(dir, "child");
    let output = BufReader::new(child.stdout.take().unwrap());
    let (first, started) = mpsc::channel();
    let reader = thread::spawn(move || {
        let mut last = BTreeMap::new();
        for text in output.split(b'\n') {
            let text = String::from_utf8_lossy(&text.unwrap()).into_owned();
            let Some((what, number)) = text.strip_prefix("ack ").and_then(|t| t.split_once(' ')) else {
                continue;
            };
            let known = last.entry(what.to_owned()).or_insert(0_u64);
            *known = (*known).max(number.parse().unwrap());
            let _late = first.send(());
        }
        last
    });
    started
        .recv_timeout(Duration::from_secs(30))
        .expect("the child acknowledges something");
    thread::sleep(life);
    child.kill().unwrap();
    child.wait().unwrap();
    reader.join().unwrap()
}

/// Everything acknowledged is there, and nothing by half. A last line cut short by the kill may
/// say a smaller number than was acknowledged, never a larger one.
async fn verify(store: &Embedded, told: &BTreeMap<String, u64>) {
    let told = |what: &str| told.get(what).copied().unwrap_or(0);
    let pair = number(store, "/pair/a").await;
    assert!(pair >= told("pair"), "pair {pair}, acknowledged {}", told("pair"));
    assert_eq!(number(store, "/pair/b").await, pair, "one half of a pair");
    let pairs = store.children("/pair").await.unwrap().len() as u64;
    assert_eq!(pairs, pair + 2);

    let lines = store.children("/line").await.unwrap();
    assert!(
        lines.len() as u64 >= told("line"),
        "{} of {}",
        lines.len(),
        told("line")
    );
    let last = lines.iter().map(|name| name.parse::<u64>().unwrap()).max().unwrap_or(0);
    assert_eq!(last, lines.len() as u64, "what is durable is a prefix");
    assert_eq!(store.get("/mine").await.unwrap(), None, "its owner is dead");

    let page = page(store).await;
    assert!(page.revision >= told("record"));
    assert_eq!(
        page.entries.len() as u64,
        if page.revision == 0 { 0 } else { page.revision + 1 }
    );
    let wanted = page.revision.to_string();
    assert!(
        page.entries
            .last()
            .is_none_or(|(key, value)| key == "last" && value == &wanted)
    );
    assert!(
        number(store, "/ahead").await >= page.revision,
        "an update without its commit"
    );

    let text = store.read(&console(), 0, usize::MAX).await.unwrap().unwrap_or_default();
    let text = String::from_utf8(text.to_vec()).unwrap();
    let count = text.lines().count() as u64;
    assert!(count >= told("console"));
    let wanted: String = (0..count).map(line).collect();
    assert!(wanted.starts_with(&text), "a line of the console differs");

    let blobs = number(store, "/blobs").await;
    assert!(blobs >= told("blobs"));
    for i in 1..=blobs {
        for bytes in [blob(i), blob(i + 1_000_000)] {
            let object = Object::Chunk(Digest::of(&bytes));
            let read = store.read(&object, 0, bytes.len()).await.unwrap();
            assert!(read.as_ref() == Some(&bytes), "blob {i}");
        }
    }
    verify_files(store).await;
}

/// Every file that has the name of a blob has its bytes, and no unfinished one is left.
async fn verify_files(store: &Embedded) {
    assert_eq!(std::fs::read_dir(store.dir().join("tmp")).unwrap().count(), 0);
    let mut listing = store.list("chunk").await.unwrap();
    loop {
        let page = listing.next().await.unwrap();
        for object in &page {
            store.read(object, 0, usize::MAX).await.unwrap().unwrap();
        }
        if page.is_empty() {
            return;
        }
    }
}

/// Completes the console's last line, if the kill has cut it, as the next writer expects.
async fn complete(store: &Embedded) {
    let text = store.read(&console(), 0, usize::MAX).await.unwrap().unwrap_or_default();
    if text.last().is_none_or(|last| *last == b'\n') {
        return;
    }
    let lines = text.iter().filter(|b| **b == b'\n').count() as u64;
    let start = text.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
    let rest = line(lines)[text.len() - start..].to_owned();
    store
        .append(&console(), text.len() as u64 + 1, rest.into())
        .await
        .unwrap();
}

/// Kill -9 at any moment loses nothing that was acknowledged.
#[test]
fn what_was_acknowledged_survives_kill() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let mut all = BTreeMap::new();
    for round in 0..ROUNDS {
        let share = (round * 7919 % 100) as u32;
        let told = run_and_kill(&store, LIFE_MAX * share / 100);
        all.extend(told);
        let begun = Instant::now();
        let opened = open_soon(&store);
        assert!(
            begun.elapsed() < Duration::from_secs(1),
            "opening took {:?}",
            begun.elapsed()
        );
        runtime().block_on(async {
            verify(&opened, &all).await;
            complete(&opened).await;
        });
    }
    assert_eq!(all.len(), 5, "every kind of write was acknowledged: {all:?}");
    println!("acknowledged in {ROUNDS} rounds: {all:?}");
}

/// While another process has the store open it is refused, with that process's number; as soon as
/// that one is dead it is free.
#[test]
fn a_second_process_is_told_of_the_first() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = start(dir.path(), "child");
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut text = String::new();
    while !text.starts_with("ack ") {
        text.clear();
        assert!(output.read_line(&mut text).unwrap() > 0, "the child has ended");
    }
    let error = Embedded::open(dir.path()).err().unwrap().to_string();
    let wanted = format!("is mounted already by process {}; unmount it first", child.id());
    assert!(error.ends_with(&wanted), "{error}");
    child.kill().unwrap();
    child.wait().unwrap();
    Embedded::open(dir.path()).unwrap();
}

/// Memory of this process, bytes.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

/// The child that measures: a process with nothing else in it.
#[test]
fn measuring_child() {
    let Ok(dir) = env::var(DIR) else { return };
    let store = Embedded::open(Path::new(&dir)).unwrap();
    let entries = runtime().block_on(store.children("/tickets")).unwrap();
    println!("\nack {} {}", entries.len(), resident());
    std::io::stdout().flush().unwrap();
}

/// 10,000 entries take less than 5 MB, beside redb's bounded cache: a process that opens a store with many is compared with
/// one that opens a store with none.
#[test]
fn entries_are_small() {
    const ENTRIES: usize = 40_000;
    /// What redb may keep of the file, which is full after everything was read from it.
    const CACHE_BYTES: usize = 16 << 20;
    let dir = tempfile::tempdir().unwrap();
    let measure = || {
        let child = start(dir.path(), "measuring_child").wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&child.stdout).into_owned();
        let line = text.lines().find_map(|line| line.strip_prefix("ack ")).unwrap();
        let (count, bytes) = line.split_once(' ').unwrap();
        (count.parse::<usize>().unwrap(), bytes.parse::<usize>().unwrap())
    };
    let fill = |from: usize| {
        let store = Embedded::open(dir.path()).unwrap();
        runtime().block_on(async {
            store.commit(vec![create("/tickets")]).await.unwrap();
            for first in (from..ENTRIES).step_by(1000) {
                let path = |i| format!("/tickets/a-job-of-usual-name.{i:06}.control");
                let data = Bytes::from(vec![b'x'; 200]);
                let one = |i| Op::Create {
                    path: path(i),
                    data: data.clone(),
                    ephemeral: false,
                };
                let commit = store.commit((first..first + 1000).map(one).collect()).await;
                assert_eq!(commit, Ok(Commit::Done));
            }
        });
    };
    fill(ENTRIES);
    let (none, before) = measure();
    fill(0);
    let (all, after) = measure();
    assert_eq!((none, all), (0, ENTRIES));
    let used = (after - before).saturating_sub(CACHE_BYTES) / (ENTRIES / 10_000);
    println!("10,000 entries take {used} bytes beside redb's cache");
    assert!(used < 5_000_000, "10,000 entries take {used} bytes");
}
