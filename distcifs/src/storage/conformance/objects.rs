//! Blobs: named by their bytes, whole or not there.

use bytes::Bytes;

use super::unique;
use crate::storage::contents::VALUE_BYTES_MAX;
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
        assert!(store.put(&chunk, bytes.clone()).await.unwrap(), "new");
        assert!(!store.put(&chunk, bytes.clone()).await.unwrap(), "known");
        assert_eq!(store.read(&tree, 0, length).await.unwrap(), None, "trees are no chunks");
        assert!(store.put(&tree, bytes.clone()).await.unwrap());
        store.sync(vec![chunk.clone(), tree.clone()]).await.unwrap();
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

/// Every blob is listed once, in order, in pages of any size.
pub async fn lists_blobs(store: &dyn Contents) {
    let mut wanted = Vec::new();
    for _ in 0..50 {
        let (object, bytes) = blob(1);
        store.put(&object, bytes).await.unwrap();
        wanted.push(object);
    }
    for limit in [1, 7, 10_000] {
        let listed = list_all(store, "chunk", limit).await;
        assert!(
            wanted.iter().all(|object| listed.contains(object)),
            "in pages of {limit}"
        );
    }
    assert!(store.list("chunk", "chunk.g", 10).await.unwrap().is_empty());
    assert!(store.list("chunk", "", 0).await.unwrap().is_empty());
}

/// Lists all objects of a kind, and checks their order.
pub(super) async fn list_all(store: &dyn Contents, kind: &str, limit: usize) -> Vec<Object> {
    let (mut listed, mut after) = (Vec::new(), String::new());
    loop {
        let page = store.list(kind, &after, limit).await.unwrap();
        assert!(page.len() <= limit);
        for object in page.iter() {
            let name = object.to_string();
            assert!(name > after, "{name} after {after}");
            after = name;
        }
        if page.is_empty() {
            return listed;
        }
        listed.extend(page);
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
