//! Blobs: named by their bytes, whole or not there.

use std::collections::HashSet;

use bytes::Bytes;

use super::{join_all, unique};
use crate::storage::contents::{LISTING_PAGE_MAX, VALUE_BYTES_MAX};
use crate::storage::{Contents, Digest, Error, Object};

/// A blob that nobody else has.
fn blob(length: usize) -> (Object, Bytes) {
    let mut bytes = unique().into_bytes();
    bytes.resize(length.max(bytes.len()), b'.');
    (Object::Chunk(Digest::of(&bytes)), bytes.into())
}

/// A blob is what was put, `true` the first time; its length may be nothing at all.
pub async fn puts_and_reads_blobs(store: &dyn Contents) {
    for length in [1, 4096, 1 << 20, VALUE_BYTES_MAX] {
        let (chunk, bytes) = blob(length);
        let tree = Object::Tree(Digest::of(&bytes));
        assert_eq!(store.read(&chunk, 0, length).await.unwrap(), None);
        assert_eq!(store.size(&chunk).await, Ok(None));
        assert!(store.put(&chunk, bytes.clone()).await.unwrap(), "new");
        assert!(!store.put(&chunk, bytes.clone()).await.unwrap(), "known");
        assert_eq!(store.read(&tree, 0, length).await.unwrap(), None, "trees are no chunks");
        assert!(store.put(&tree, bytes.clone()).await.unwrap());
        store.sync(vec![chunk.clone(), tree.clone()]).await.unwrap();
        assert_eq!(store.size(&chunk).await, Ok(Some(length.max(bytes.len()) as u64)));
        for object in [&chunk, &tree] {
            let read = store.read(object, 0, VALUE_BYTES_MAX).await.unwrap();
            assert!(read.as_ref() == Some(&bytes), "{object} differs");
        }
    }
    let empty = Object::Chunk(Digest::of(b""));
    store.put(&empty, Bytes::new()).await.unwrap();
    assert_eq!(store.read(&empty, 0, 1).await.unwrap(), Some(Bytes::new()));
}

/// A range is what is there of it.
pub async fn reads_ranges(store: &dyn Contents) {
    let (object, bytes) = blob(10_000);
    store.put(&object, bytes.clone()).await.unwrap();
    for (offset, length) in [(0, 10), (1, 9_999), (9_990, 100), (5_000, 0), (0, 20_000)] {
        let wanted = &bytes[offset..bytes.len().min(offset + length)];
        let read = store.read(&object, offset as u64, length).await.unwrap().unwrap();
        assert!(read == wanted, "{length} bytes from {offset}");
    }
    for offset in [10_000, 10_001, u64::MAX] {
        assert_eq!(store.read(&object, offset, 10).await.unwrap(), Some(Bytes::new()));
    }
}

/// Bytes under a name that is not theirs, too many of them, and other objects are refused.
pub async fn refuses_wrong_blobs(store: &dyn Contents) {
    let (object, _) = blob(100);
    let large = vec![7; VALUE_BYTES_MAX + 1];
    let cases = [
        (object.clone(), Bytes::from_static(b"others")),
        (Object::Tree(Digest::of(&large)), large.into()),
        (Object::Record(unique()), Bytes::new()),
        (Object::Console(format!("console.{}.1", unique())), Bytes::new()),
    ];
    for (object, bytes) in cases {
        let put = store.put(&object, bytes).await;
        assert!(matches!(put, Err(Error::Refused { .. })), "{object}: {put:?}");
    }
    assert_eq!(store.read(&object, 0, 100).await.unwrap(), None);
}

/// What is removed is gone, may be removed again, and may come again.
pub async fn removes_blobs(store: &dyn Contents) {
    let (object, bytes) = blob(100);
    store.remove(&object).await.unwrap();
    assert!(store.put(&object, bytes.clone()).await.unwrap());
    store.remove(&object).await.unwrap();
    store.remove(&object).await.unwrap();
    assert_eq!(store.read(&object, 0, 100).await.unwrap(), None);
    assert!(store.put(&object, bytes.clone()).await.unwrap());
    assert_eq!(store.read(&object, 0, 100).await.unwrap(), Some(bytes));
}

/// Every blob is listed once, though others go meanwhile; a listing may be dropped half-way.
pub async fn lists_blobs(store: &dyn Contents) {
    let blobs: Vec<_> = (0..2 * LISTING_PAGE_MAX + 10).map(|_| blob(1)).collect();
    let puts = blobs.iter().map(|(object, bytes)| store.put(object, bytes.clone()));
    assert!(join_all(puts.collect()).await.iter().all(|put| *put == Ok(true)));
    let wanted: Vec<Object> = blobs.into_iter().map(|(object, _)| object).collect();
    let listed = list_all(store, "chunk").await;
    assert!(wanted.iter().all(|object| listed.contains(object)));
    let mut early = store.list("chunk").await.unwrap();
    assert!(!early.next().await.unwrap().is_empty());
    drop(early);
    let mut listing = store.list("chunk").await.unwrap();
    let mut left: HashSet<Object> = wanted.iter().skip(1).step_by(2).cloned().collect();
    for object in wanted.iter().step_by(2) {
        store.remove(object).await.unwrap();
    }
    loop {
        let page = listing.next().await.unwrap();
        if page.is_empty() {
            break;
        }
        for object in page.iter().filter(|object| left.remove(*object)).collect::<Vec<_>>() {
            store.remove(object).await.unwrap();
        }
    }
    assert!(left.is_empty(), "{} were passed over", left.len());
    let listed = list_all(store, "chunk").await;
    assert!(!wanted.iter().any(|object| listed.contains(object)));
}

/// Lists all objects of a kind, and checks that each is there once.
pub(super) async fn list_all(store: &dyn Contents, kind: &str) -> HashSet<Object> {
    let (mut listed, mut listing) = (HashSet::new(), store.list(kind).await.unwrap());
    loop {
        let page = listing.next().await.unwrap();
        assert!(page.len() <= LISTING_PAGE_MAX);
        if page.is_empty() {
            assert!(listing.next().await.unwrap().is_empty(), "the end is the end");
            return listed;
        }
        for object in page {
            assert!(listed.insert(object.clone()), "{object} is listed twice");
        }
    }
}

/// A sync of anything returns, be it there, removed, or nothing.
pub async fn syncs_what_is_there_and_what_is_not(store: &dyn Contents) {
    store.sync(Vec::new()).await.unwrap();
    let (absent, _) = blob(10);
    store.sync(vec![absent, Object::Record(unique())]).await.unwrap();
    let mut objects = Vec::new();
    for _ in 0..100 {
        let (object, bytes) = blob(10);
        store.put(&object, bytes).await.unwrap();
        objects.push(object);
    }
    store.remove(&objects[0]).await.unwrap();
    store.sync(objects[..10].to_vec()).await.unwrap();
    store.sync(objects.clone()).await.unwrap();
    store.sync(objects).await.unwrap();
}
