//! Tests of the wrapper, and a client that counts right through its faults on any store.

use bytes::Bytes;

use super::*;
use crate::backend::embedded::Embedded;
use crate::storage::{Appended, Commit, Contents, Coordination, Digest, Object, Op, Result, conformance};

pub(crate) const RATES: Rates = Rates {
    before: 200,
    after: 200,
    delay: 100,
};

fn faulty(seed: u64, rates: Rates) -> (tempfile::TempDir, Faulty<Embedded>) {
    let dir = tempfile::tempdir().unwrap();
    let store = Embedded::open(dir.path()).unwrap();
    (dir, Faulty::new(store, seed, rates))
}

/// Calls until the answer is no error: right only for what may be done twice.
async fn insist<T>(mut call: impl AsyncFnMut() -> Result<T>) -> T {
    loop {
        match call().await {
            Ok(value) => return value,
            Err(Error::Unavailable { .. } | Error::Indeterminate { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

/// Adds one to the counter, and reads back whenever it is unknown whether that happened: each
/// write carries a mark of its own.
async fn increment(store: &dyn Coordination, mark: u32) {
    loop {
        let entry = insist(|| store.get("/counter")).await.unwrap();
        let text = String::from_utf8(entry.data.to_vec()).unwrap();
        let (count, last) = text.split_once(' ').unwrap();
        if last == mark.to_string() {
            return;
        }
        let data = format!("{} {mark}", count.parse::<u32>().unwrap() + 1).into();
        let path = "/counter".to_owned();
        let set = Op::Set {
            path,
            data,
            version: Some(entry.version),
        };
        match store.commit(vec![set]).await {
            Ok(Commit::Done) => return,
            Ok(Commit::Mismatch { .. }) | Err(_) => {}
        }
    }
}

/// Counts through a thousand faults, reading back what is unknown, and compares.
pub(crate) async fn counts_right<S: Coordination>(store: &Faulty<S>) {
    let path = "/counter".to_owned();
    let create = Op::Create {
        path,
        data: "0 none".into(),
        ephemeral: false,
    };
    store.inner().commit(vec![create]).await.unwrap();
    let mut marks = 0;
    while store.faults() < 1000 {
        marks += 1;
        increment(store, marks).await;
    }
    store.set_on(false);
    let entry = store.get("/counter").await.unwrap().unwrap();
    assert_eq!(&entry.data[..], format!("{marks} {marks}").as_bytes());
    assert_eq!(entry.version, marks, "each was done exactly once");
}

#[tokio::test]
async fn a_client_that_reads_back_counts_right_through_a_thousand_faults() {
    let (_dir, store) = faulty(11, RATES);
    counts_right(&store).await;
}

#[tokio::test]
async fn an_appender_that_heeds_the_guard_writes_each_line_once() {
    let (_dir, store) = faulty(12, RATES);
    let object = Object::Console("console.a.1.1.1.0".to_owned());
    let (mut sequence, mut wanted) = (0, String::new());
    for line in 0..500 {
        let line = format!("line {line}\n");
        let before = wanted.len() as u64;
        let appended = insist(|| store.append(&object, sequence, line.clone().into())).await;
        let (length, next) = match appended {
            Appended::Done { length, sequence } | Appended::Mismatch { length, sequence } => (length, sequence),
        };
        assert_eq!(length, before + line.len() as u64, "it was written once");
        sequence = next;
        wanted.push_str(&line);
    }
    assert!(store.faults() > 100);
    store.set_on(false);
    let read = store.read(&object, 0, usize::MAX).await.unwrap().unwrap();
    assert!(read == wanted.as_bytes());
}

#[tokio::test]
async fn the_same_seed_brings_the_same_faults() {
    let mut runs = Vec::new();
    for seed in [1, 1, 2] {
        let (_dir, store) = faulty(seed, RATES);
        let mut ends = Vec::new();
        for i in 0..200_u32 {
            let bytes = Bytes::copy_from_slice(&i.to_le_bytes());
            let object = Object::Chunk(Digest::of(&bytes));
            ends.push(store.put(&object, bytes).await);
        }
        runs.push(ends);
    }
    assert_eq!(runs[0], runs[1]);
    assert_ne!(runs[0], runs[2]);
    let indeterminate = |end: &Result<bool>| end.as_ref().is_err_and(Error::is_indeterminate);
    assert!(runs[0].iter().any(indeterminate));
    assert!(runs[0].iter().any(|end| matches!(end, Err(Error::Unavailable { .. }))));
}

#[tokio::test]
async fn what_failed_before_did_not_happen_and_what_failed_after_did() {
    for (before, after, there) in [(1000, 0, false), (0, 1000, true)] {
        let (_dir, store) = faulty(
            3,
            Rates {
                before,
                after,
                delay: 0,
            },
        );
        let create = Op::Create {
            path: "/a".to_owned(),
            data: Bytes::new(),
            ephemeral: false,
        };
        let end = store.commit(vec![create]).await;
        assert_eq!(end.is_err_and(|error| error.is_indeterminate()), there);
        assert_eq!(store.inner().get("/a").await.unwrap().is_some(), there);
    }
}

#[tokio::test]
async fn conforms_when_switched_off_or_only_late() {
    let (_dir, store) = faulty(4, RATES);
    store.set_on(false);
    conformance::all_coordination(&store).await;
    conformance::all_contents(&store).await;
    let (_dir, store) = faulty(
        5,
        Rates {
            before: 0,
            after: 0,
            delay: 300,
        },
    );
    conformance::all_coordination(&store).await;
}
