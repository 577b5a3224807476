//! Tests of the servers in memory: the suite of all stores, and what two mounts see of each other.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{sleep, timeout};

use super::{LAG, Memory, MemoryMount, SESSION_TIMEOUT};
use crate::storage::{
    Appended, Change, Commit, Contents, Coordination, Digest, Error, Event, Object, Op, Session, Watch, conformance,
};

/// Longer than anything may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// In a paused clock, as all here: notices come late, and a busy machine would have the suite wait for one
/// that is later still.
#[tokio::test(start_paused = true)]
async fn coordination_conforms() {
    conformance::all_coordination(&Memory::new().mount()).await;
}

#[tokio::test(start_paused = true)]
async fn contents_conform() {
    conformance::all_contents(&Memory::new().mount()).await;
}

/// Nor does the suite care whether somebody else is there.
#[tokio::test(start_paused = true)]
async fn two_mounts_conform_at_once() {
    let memory = Memory::new();
    let (first, second) = (memory.mount(), memory.mount());
    tokio::join!(
        conformance::all_coordination(&first),
        conformance::all_coordination(&second),
        conformance::all_contents(&first),
    );
}

fn create(path: &str, ephemeral: bool) -> Op {
    let (path, data) = (path.to_owned(), Bytes::new());
    Op::Create { path, data, ephemeral }
}

async fn made(mount: &MemoryMount, path: &str, ephemeral: bool) {
    assert_eq!(mount.commit(vec![create(path, ephemeral)]).await, Ok(Commit::Done));
}

async fn sees(mount: &MemoryMount, path: &str) -> bool {
    mount.get(path).await.unwrap().is_some()
}

async fn heard(watch: &mut Watch) -> Event {
    timeout(PATIENCE, watch.events.recv()).await.unwrap().unwrap()
}

fn changed(path: &str, change: Change) -> Event {
    let path = path.to_owned();
    Event::Changed { path, change }
}

/// "Reads see every commit that returned before them on this mount; after `sync`, on any mount."
#[tokio::test(start_paused = true)]
async fn what_another_committed_is_seen_after_a_sync_or_a_while() {
    let memory = Memory::new();
    let (first, second) = (memory.mount(), memory.mount());
    made(&first, "/a", false).await;
    assert!(sees(&first, "/a").await);
    assert!(!sees(&second, "/a").await, "it may be behind, so it is");
    Coordination::sync(&second).await.unwrap();
    assert!(sees(&second, "/a").await);
    made(&first, "/b", false).await;
    sleep(3 * LAG).await;
    assert!(sees(&second, "/b").await);
    made(&first, "/c", false).await;
    let late = second.commit(vec![create("/c", false)]).await;
    assert_eq!(late, Ok(Commit::Mismatch { index: 0 }));
    assert!(sees(&second, "/c").await, "it sees what it met");
}

/// What is told can be read, on every mount, and each commit is told once.
#[tokio::test(start_paused = true)]
async fn what_another_does_is_told() {
    let memory = Memory::new();
    let (first, second) = (memory.mount(), memory.mount());
    made(&first, "/a", false).await;
    Coordination::sync(&second).await.unwrap();
    let mut watch = second.watch("/a").await.unwrap();
    made(&first, "/a/b", false).await;
    made(&second, "/a/c", false).await;
    assert_eq!(heard(&mut watch).await, changed("/a/b", Change::Created));
    assert!(sees(&second, "/a/b").await);
    assert_eq!(heard(&mut watch).await, changed("/a/c", Change::Created));
    let record = Object::Record("jobs".to_owned());
    let mut notices = second.listen(&record).await.unwrap();
    let change = vec![("key".to_owned(), Some(Bytes::from_static(b"1")))];
    first.update(&record, None, change).await.unwrap();
    timeout(PATIENCE, notices.next()).await.unwrap().unwrap();
    assert_eq!(second.query(&record, "", "", 9).await.unwrap().revision, 1);
}

/// A process that is gone leaves its session, which ends by itself with all that is ephemeral in it.
#[tokio::test(start_paused = true)]
async fn a_session_outlives_its_mount_for_a_while() {
    let memory = Memory::new();
    let (first, second) = (memory.mount(), memory.mount());
    made(&first, "/claim", true).await;
    made(&second, "/own", true).await;
    let mut watch = second.watch("/").await.unwrap();
    drop(first);
    sleep(SESSION_TIMEOUT * 9 / 10).await;
    assert!(sees(&second, "/claim").await);
    while heard(&mut watch).await != changed("/claim", Change::Deleted) {}
    assert!(!sees(&second, "/claim").await);
    assert!(sees(&second, "/own").await, "that is another's");
}

/// Whether a call that is under way while its mount is cut off was done is not told.
#[tokio::test(start_paused = true)]
async fn nobody_knows_of_a_commit_that_was_cut_off() {
    let memory = Memory::new();
    let (first, second) = (memory.mount(), memory.mount());
    let polled = async |path: &str, times: usize| {
        let mut commit = first.commit(vec![create(path, false)]);
        for _ in 0..times {
            let polled = poll_fn(|cx| Poll::Ready(commit.as_mut().poll(cx))).await;
            assert!(polled.is_pending());
        }
        first.link().cut();
        let ended = commit.await;
        first.link().heal();
        ended
    };
    let unsent = polled("/unsent", 1).await;
    assert!(matches!(unsent, Err(Error::Unavailable { .. })), "{unsent:?}");
    let sent = polled("/sent", 2).await;
    assert!(matches!(sent, Err(Error::Indeterminate { .. })), "{sent:?}");
    Coordination::sync(&second).await.unwrap();
    assert!(sees(&second, "/sent").await && !sees(&second, "/unsent").await);
}

/// A mount that is cut off gives its session up before the coordinator does; let through again, it has
/// another, and looks at everything anew. Contents know nothing of that.
#[tokio::test(start_paused = true)]
async fn a_mount_that_is_cut_off_doubts_loses_and_begins_anew() {
    let memory = Memory::new();
    let (first, second) = (memory.mount(), memory.mount());
    made(&first, "/claim", true).await;
    let mut watch = first.watch("/").await.unwrap();
    let now = || *first.session().borrow();
    let Session::Live { id } = now() else {
        panic!("{:?}", now())
    };
    first.link().cut();
    assert!(matches!(first.get("/").await, Err(Error::Unavailable { .. })));
    assert_eq!(now(), Session::Live { id });
    sleep(SESSION_TIMEOUT * 3 / 4).await;
    assert_eq!(now(), Session::Doubtful { id });
    sleep(SESSION_TIMEOUT * 3 / 10).await;
    assert_eq!(now(), Session::Lost { id });
    assert!(sees(&second, "/claim").await, "the coordinator is later");
    let console = Object::Console("console.a.1".to_owned());
    let appended = first.append(&console, 0, "line\n".into()).await.unwrap();
    assert!(matches!(appended, Appended::Done { .. }));
    sleep(SESSION_TIMEOUT).await;
    assert!(!sees(&second, "/claim").await);
    made(&second, "/meanwhile", false).await;
    first.link().heal();
    let mut session = first.session();
    let live = session.wait_for(|now| matches!(now, Session::Live { .. }));
    let live = *timeout(PATIENCE, live).await.unwrap().unwrap();
    assert!(matches!(live, Session::Live { id: next } if next > id), "{live:?}");
    while heard(&mut watch).await != Event::Resync {}
    assert!(sees(&first, "/meanwhile").await);
    made(&first, "/claim", true).await;
}

/// One that is let through in time keeps its session and its entries, but has missed notices.
#[tokio::test(start_paused = true)]
async fn a_mount_that_is_let_through_in_time_keeps_its_session() {
    let memory = Memory::new();
    let (first, second) = (memory.mount(), memory.mount());
    made(&first, "/claim", true).await;
    let mut watch = first.watch("/").await.unwrap();
    let before = *first.session().borrow();
    first.link().cut();
    made(&second, "/meanwhile", false).await;
    sleep(SESSION_TIMEOUT * 3 / 4).await;
    first.link().heal();
    while heard(&mut watch).await != Event::Resync {}
    assert!(sees(&first, "/meanwhile").await);
    sleep(3 * SESSION_TIMEOUT).await;
    assert_eq!(*first.session().borrow(), before);
    assert!(sees(&second, "/claim").await);
}

/// The end of a session by the coordinator refuses what was sent in it; the next has another id.
#[tokio::test(start_paused = true)]
async fn a_session_that_expires_is_followed_by_another() {
    let memory = Memory::new();
    let (first, second) = (memory.mount(), memory.mount());
    made(&first, "/claim", true).await;
    let mut session = first.session();
    let before = *session.borrow_and_update();
    first.expire();
    let late = first.commit(vec![create("/late", false)]).await;
    assert!(matches!(late, Err(Error::Expired { .. })), "{late:?}");
    timeout(PATIENCE, session.changed()).await.unwrap().unwrap();
    assert!(matches!(*session.borrow_and_update(), Session::Lost { .. }));
    timeout(PATIENCE, session.changed()).await.unwrap().unwrap();
    let after = *session.borrow_and_update();
    assert!(matches!(after, Session::Live { .. }) && after != before, "{after:?}");
    made(&first, "/claim", true).await;
    Coordination::sync(&second).await.unwrap();
    assert!(!sees(&second, "/late").await);
}

/// "Not durable before `sync`": so it is gone. Commits and records that returned are there.
#[tokio::test(start_paused = true)]
async fn a_power_cut_takes_what_was_not_synced() {
    let memory = Memory::new();
    let mount = memory.mount();
    made(&mount, "/kept", false).await;
    made(&mount, "/kept/claim", true).await;
    let record = Object::Record("jobs".to_owned());
    mount.update(&record, Some(0), Vec::new()).await.unwrap();
    let blob = |text: &str| Object::Chunk(Digest::of(text.as_bytes()));
    for text in ["kept", "lost"] {
        mount
            .put(&blob(text), Bytes::copy_from_slice(text.as_bytes()))
            .await
            .unwrap();
    }
    let console = |name: &str| Object::Console(format!("console.{name}"));
    for name in ["kept", "lost"] {
        mount.append(&console(name), 0, "one\n".into()).await.unwrap();
    }
    let synced = vec![blob("kept"), console("kept")];
    Contents::sync(&mount, synced).await.unwrap();
    let next = mount.append(&console("kept"), 1, "two\n".into()).await.unwrap();
    assert!(matches!(next, Appended::Done { length: 8, .. }), "{next:?}");

    let after = memory.crash().mount();
    assert!(sees(&after, "/kept").await && !sees(&after, "/kept/claim").await);
    assert_eq!(after.query(&record, "", "", 9).await.unwrap().revision, 1);
    assert!(after.read(&blob("kept"), 0, 9).await.unwrap().is_some());
    assert!(after.read(&blob("lost"), 0, 9).await.unwrap().is_none());
    assert_eq!(after.read(&console("kept"), 0, 9).await.unwrap().unwrap(), "one\n");
    assert!(after.read(&console("lost"), 0, 9).await.unwrap().is_none());
    let next = after.append(&console("kept"), 1, "2\n".into()).await.unwrap();
    assert!(matches!(next, Appended::Done { length: 6, .. }), "{next:?}");
    made(&after, "/later", false).await;
    let created = async |path| after.get(path).await.unwrap().unwrap().created;
    assert!(created("/later").await > created("/kept").await);
}

/// A blob's mark is that of the latest epoch in which anybody put it, and only an older one is swept.
#[tokio::test(start_paused = true)]
async fn a_blob_is_swept_by_its_mark() {
    let memory = Memory::new();
    let (first, second) = (memory.mount(), memory.mount());
    let (blob, bytes) = (Object::Chunk(Digest::of(b"blob")), Bytes::from_static(b"blob"));
    first.enter(3);
    second.enter(2);
    assert!(first.put(&blob, bytes.clone()).await.unwrap());
    assert!(!second.put(&blob, bytes).await.unwrap());
    assert_eq!(second.sweep(&blob, 3).await, Ok(None));
    assert_eq!(second.sweep(&blob, 4).await, Ok(Some(4)));
    assert_eq!(second.sweep(&blob, 4).await, Ok(None));
    let record = Object::Record("jobs".to_owned());
    assert!(matches!(first.sweep(&record, 9).await, Err(Error::Refused { .. })));
}
