//! Notices between two mounts, and what must not hold them up.

use std::io::BufRead;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use distcifs_tests::cluster::Cluster;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::timeout;

use super::{Ceph, Options, cluster, options};
use crate::backend::ceph::channels::channel_object;
use crate::storage::{Appended, Contents, Notices, Object};

/// Longest time for a notice while all is well: these machines are busy.
const SOON: Duration = Duration::from_secs(3);

/// Time in which a cluster has noticed and mended the loss of one server.
const MENDED: Duration = Duration::from_secs(60);

async fn append(store: &Ceph, object: &Object, sequence: u64, text: &str) -> u64 {
    match store
        .append(object, sequence, Bytes::copy_from_slice(text.as_bytes()))
        .await
    {
        Ok(Appended::Done { sequence, .. }) => sequence,
        other => panic!("append to {object} at {sequence}: {other:?}"),
    }
}

/// The time until a notice has come.
async fn told(notices: &mut Notices, patience: Duration) -> Duration {
    let begun = Instant::now();
    let notice = timeout(patience, notices.next()).await;
    assert_eq!(notice, Ok(Ok(())), "nothing was told");
    begun.elapsed()
}

async fn drain(notices: &mut Notices) {
    while timeout(Duration::from_millis(100), notices.next()).await.is_ok() {}
}

/// Another mount's changes are told, each before another mount could know of it by itself, and the
/// last of many is never swallowed.
#[tokio::test(flavor = "multi_thread")]
async fn one_mount_hears_of_another() {
    let Some(cluster) = cluster() else { return };
    let options = options(cluster);
    let (writer, reader) = (Ceph::connect(options.clone()).unwrap(), Ceph::connect(options).unwrap());
    let console = Object::Console("console.uid.1.0-1.1.0".to_owned());
    let record = Object::Record("job.uid".to_owned());
    let mut console_notices = reader.listen(&console).await.unwrap();
    let mut record_notices = reader.listen(&record).await.unwrap();
    let mut sequence = append(&writer, &console, 0, "line\n").await;
    told(&mut console_notices, SOON).await;
    for _ in 0..300 {
        sequence = append(&writer, &console, sequence, "line\n").await;
    }
    drain(&mut console_notices).await;
    let read = reader.read(&console, 0, 4096).await.unwrap().unwrap();
    assert_eq!(read.len(), 301 * 5);
    writer.update(&record, None, Vec::new()).await.unwrap();
    told(&mut record_notices, SOON).await;
    writer.remove(&record).await.unwrap();
    told(&mut record_notices, SOON).await;
    // Hundreds of others in one go: more than a notice can name.
    for i in 0..300 {
        let other = Object::Record(format!("build.uid.{i}"));
        writer.update(&other, None, Vec::new()).await.unwrap();
    }
    writer.update(&record, None, Vec::new()).await.unwrap();
    told(&mut record_notices, SOON).await;
}

/// `rados watch` on a channel, by the same user.
fn watcher(cluster: &Cluster, options: &Options, object: &str) -> Child {
    let mut command = Command::new("rados");
    command.args(["-n", "client.distci", "-p", &options.pool, "-N", &options.namespace]);
    command
        .args(["watch", object])
        .env("CEPH_CONF", cluster.dir().join("ceph.conf"));
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Whether `rados listwatchers` names so many.
fn watchers(cluster: &Cluster, options: &Options, object: &str) -> usize {
    let said = cluster.rados(&["-N", &options.namespace, "listwatchers", object]);
    said.map_or(0, |said| said.lines().count())
}

async fn until(patience: Duration, what: &str, done: impl Fn() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < patience, "not after {patience:?}: {what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// A watcher that is stopped, and one that was killed, hold up neither the writer nor the others.
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_watcher_holds_up_nobody() {
    let Some(cluster) = cluster() else { return };
    let options = options(cluster);
    let (writer, reader) = (
        Ceph::connect(options.clone()).unwrap(),
        Ceph::connect(options.clone()).unwrap(),
    );
    let console = Object::Console("console.uid.1.0-1.1.0".to_owned());
    let mut notices = reader.listen(&console).await.unwrap();
    let channel = channel_object(&console.to_string());
    let mut dead = watcher(cluster, &options, &channel);
    until(SOON * 5, "rados watch watches", || {
        watchers(cluster, &options, &channel) == 2
    })
    .await;
    kill(Pid::from_raw(dead.id() as i32), Signal::SIGSTOP).unwrap();
    let (mut sequence, mut slowest) = (0, Duration::ZERO);
    for _ in 0..60 {
        let begun = Instant::now();
        sequence = append(&writer, &console, sequence, "line\n").await;
        assert!(begun.elapsed() < SOON, "an append waited for a watcher");
        slowest = slowest.max(told(&mut notices, SOON).await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(
        slowest < Duration::from_secs(1),
        "a notice waited {slowest:?} for a watcher"
    );
    dead.kill().unwrap();
    dead.wait().unwrap();
    append(&writer, &console, sequence, "line\n").await;
    told(&mut notices, SOON).await;
}

/// The watch of a mount that has gone is gone too; so is one that nobody needs any more.
#[tokio::test(flavor = "multi_thread")]
async fn a_mount_takes_its_watches_along() {
    let Some(cluster) = cluster() else { return };
    let options = options(cluster);
    let store = Ceph::connect(options.clone()).unwrap();
    let object = Object::Record("jobs".to_owned());
    let channel = channel_object(&object.to_string());
    let first = store.listen(&object).await.unwrap();
    let second = store.listen(&object).await.unwrap();
    assert_eq!(watchers(cluster, &options, &channel), 1);
    drop((first, second));
    until(MENDED, "the watch ends", || watchers(cluster, &options, &channel) == 0).await;
    let _listening = store.listen(&object).await.unwrap();
    assert_eq!(watchers(cluster, &options, &channel), 1);
    let begun = Instant::now();
    tokio::task::spawn_blocking(move || drop(store)).await.unwrap();
    assert!(begun.elapsed() < SOON, "the end took {:?}", begun.elapsed());
    assert_eq!(watchers(cluster, &options, &channel), 0);
}

/// Names the namespace and the console for `listens_apart`.
const LISTEN: &str = "DISTCIFS_TEST_LISTEN";

/// No test by itself: the process that the next test stops.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a part of a_mount_that_was_stopped_is_told_what_it_missed"]
async fn listens_apart() {
    let Ok(place) = std::env::var(LISTEN) else { return };
    let (namespace, console) = place.split_once(' ').unwrap();
    let store = Ceph::connect(Options {
        namespace: namespace.to_owned(),
        ..options(Cluster::shared())
    });
    let store = store.unwrap();
    let console = Object::Console(console.to_owned());
    let mut notices = store.listen(&console).await.unwrap();
    println!("\nlistens");
    while notices.next().await.is_ok() {
        println!("told");
    }
}

/// A mount that is stopped until the cluster has forgotten its watch is told when it goes on, and
/// hears as before after that.
#[tokio::test(flavor = "multi_thread")]
async fn a_mount_that_was_stopped_is_told_what_it_missed() {
    let Some(cluster) = cluster() else { return };
    let options = options(cluster);
    let store = Ceph::connect(options.clone()).unwrap();
    let console = Object::Console("console.uid.1.0-1.1.0".to_owned());
    let channel = channel_object(&console.to_string());
    let test = "backend::ceph::tests::notices::listens_apart";
    let mut listener = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--ignored", "--nocapture"])
        .env("DISTCIFS_CLUSTER", cluster.dir())
        .env(LISTEN, format!("{} {console}", options.namespace))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (sender, mut lines) = tokio::sync::mpsc::unbounded_channel();
    let output = std::io::BufReader::new(listener.stdout.take().unwrap());
    std::thread::spawn(move || {
        output
            .lines()
            .map_while(Result::ok)
            .all(|line| sender.send(line).is_ok())
    });
    let mut next = async |wanted: &str| {
        let wait = async { while lines.recv().await.expect("the listener lives") != wanted {} };
        timeout(MENDED, wait).await.expect("the listener says so");
    };
    next("listens").await;
    let mut sequence = append(&store, &console, 0, "line\n").await;
    next("told").await;
    let process = Pid::from_raw(listener.id() as i32);
    kill(process, Signal::SIGSTOP).unwrap();
    sequence = append(&store, &console, sequence, "line\n").await;
    until(MENDED, "the watch is forgotten", || {
        watchers(cluster, &options, &channel) == 0
    })
    .await;
    kill(process, Signal::SIGCONT).unwrap();
    next("told").await;
    until(MENDED, "there is a watch again", || {
        watchers(cluster, &options, &channel) == 1
    })
    .await;
    append(&store, &console, sequence, "line\n").await;
    next("told").await;
    listener.kill().unwrap();
    listener.wait().unwrap();
}
