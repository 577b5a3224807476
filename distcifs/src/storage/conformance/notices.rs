//! Notices of objects: whoever listens learns of every change.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;

use super::{PATIENCE, unique};
use crate::storage::contents::SEALED;
use crate::storage::{Appended, Contents, Digest, Error, Notices, Object, Updated};

/// A time in which a notice that is on its way arrives; waiting for nothing takes this long.
const QUIET: Duration = Duration::from_millis(200);

fn record() -> Object {
    Object::Record(format!("build.{}.1", unique()))
}

fn console() -> Object {
    Object::Console(format!("console.{}.1.2.3.0", unique()))
}

async fn append(store: &dyn Contents, object: &Object, sequence: u64, text: &'static str) -> u64 {
    match store.append(object, sequence, text.into()).await.unwrap() {
        Appended::Done { sequence, .. } => sequence,
        other => panic!("append to {object} at {sequence}: {other:?}"),
    }
}

async fn update(store: &dyn Contents, object: &Object, value: &'static str) {
    let change = vec![("key".to_owned(), Some(Bytes::from(value)))];
    let updated = store.update(object, None, change).await.unwrap();
    assert!(matches!(updated, Updated::Done { .. }), "{updated:?}");
}

/// Waits for a notice, and until there is none any more: one change may be told twice.
async fn told(notices: &mut Notices, what: &str) {
    let notice = timeout(PATIENCE, notices.next()).await;
    assert_eq!(notice, Ok(Ok(())), "{what} is not told");
    while timeout(QUIET, notices.next()).await.is_ok() {}
}

/// Nothing comes.
async fn quiet(notices: &mut Notices, what: &str) {
    assert!(timeout(QUIET, notices.next()).await.is_err(), "{what} is told");
}

/// What is made, changed, sealed and removed is told; so it is of what was not there. What was
/// refused changes nothing and is not told.
pub async fn tells_of_every_kind_of_change(store: &dyn Contents) {
    let (console, record) = (console(), record());
    let mut notices = store.listen(&console).await.unwrap();
    quiet(&mut notices, "nothing").await;
    let next = append(store, &console, 0, "one\n").await;
    told(&mut notices, "the first append").await;
    assert!(store.read(&console, 0, 9).await.unwrap().is_some());
    append(store, &console, next, "two\n").await;
    told(&mut notices, "an append").await;
    let late = store.append(&console, next, "x".into()).await.unwrap();
    assert!(matches!(late, Appended::Mismatch { .. }));
    quiet(&mut notices, "an append that lost").await;
    store.append(&console, SEALED, Bytes::new()).await.unwrap();
    told(&mut notices, "the seal").await;
    store.remove(&console).await.unwrap();
    told(&mut notices, "the removal").await;

    let mut notices = store.listen(&record).await.unwrap();
    update(store, &record, "1").await;
    told(&mut notices, "the first update").await;
    update(store, &record, "2").await;
    told(&mut notices, "an update").await;
    let late = store.update(&record, Some(1), Vec::new()).await.unwrap();
    assert!(matches!(late, Updated::Mismatch { .. }));
    quiet(&mut notices, "an update that lost").await;
    store.remove(&record).await.unwrap();
    told(&mut notices, "the removal").await;
}

/// Who does not look for a while is told once of all that happened meanwhile, of the last too.
pub async fn tells_many_changes_as_one(store: &dyn Contents) {
    let object = console();
    let mut notices = store.listen(&object).await.unwrap();
    let mut sequence = 0;
    for _ in 0..200 {
        sequence = append(store, &object, sequence, "line\n").await;
    }
    tokio::time::sleep(QUIET).await;
    let mut told = 0;
    while timeout(QUIET, notices.next()).await.is_ok() {
        told += 1;
    }
    assert_eq!(told, 1);
    append(store, &object, sequence, "line\n").await;
    assert_eq!(timeout(PATIENCE, notices.next()).await, Ok(Ok(())));
}

/// Each of several is told; one that was dropped hinders nobody; neighbours hear nothing.
pub async fn tells_every_listener_and_no_other(store: &dyn Contents) {
    let object = record();
    let neighbour = Object::Record(format!("{object}0"));
    let mut first = store.listen(&object).await.unwrap();
    drop(store.listen(&object).await.unwrap());
    let mut second = store.listen(&object).await.unwrap();
    let mut other = store.listen(&neighbour).await.unwrap();
    update(store, &object, "1").await;
    told(&mut first, "an update").await;
    told(&mut second, "an update").await;
    drop(first);
    update(store, &object, "2").await;
    told(&mut second, "an update").await;
    quiet(&mut other, "a neighbour's update").await;
    update(store, &neighbour, "1").await;
    told(&mut other, "an update").await;
}

/// Blobs and odd names are refused.
pub async fn refuses_to_listen_to_what_never_changes(store: &dyn Contents) {
    let digest = Digest::of(b"blob");
    let odd = Object::Record("a/b".to_owned());
    for object in [Object::Chunk(digest), Object::Tree(digest), odd] {
        let refused = store.listen(&object).await;
        assert!(matches!(refused, Err(Error::Refused { .. })), "{object}: {refused:?}");
    }
}
