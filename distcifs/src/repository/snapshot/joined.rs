//! The listings that joining snapshots makes, without storing any.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use super::error::Result;
use super::merge;
use crate::storage::{Appended, Contents, Digest, Fut, Listing, Notices, Object, Page, Updated};

/// The digests of all listings that [`merge()`] stores when these are joined one after another.
pub async fn joined(contents: Arc<dyn Contents>, parts: &[Digest]) -> Result<Vec<Digest>> {
    let aside = Arc::new(Aside {
        contents,
        put: Mutex::default(),
    });
    let mut parts = parts.iter().copied();
    if let Some(mut all) = parts.next() {
        for part in parts {
            all = merge(aside.clone(), all, part).await?;
        }
    }
    let put = aside.put.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(put.keys().copied().collect())
}

/// A store of which nothing is changed: what is put is kept in memory.
struct Aside {
    contents: Arc<dyn Contents>,
    put: Mutex<HashMap<Digest, Bytes>>,
}

impl Contents for Aside {
    fn put(&self, object: &Object, bytes: Bytes) -> Fut<'_, bool> {
        if let Object::Tree(digest) = object {
            let mut put = self.put.lock().unwrap_or_else(PoisonError::into_inner);
            put.insert(*digest, bytes);
        }
        Box::pin(async { Ok(true) })
    }

    fn read(&self, object: &Object, offset: u64, length: usize) -> Fut<'_, Option<Bytes>> {
        if let (Object::Tree(digest), 0) = (object, offset) {
            let put = self.put.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(bytes) = put.get(digest).cloned() {
                return Box::pin(async move { Ok(Some(bytes)) });
            }
        }
        self.contents.read(object, offset, length)
    }

    fn size(&self, object: &Object) -> Fut<'_, Option<u64>> {
        self.contents.size(object)
    }

    fn append(&self, object: &Object, _sequence: u64, _bytes: Bytes) -> Fut<'_, Appended> {
        refused(object)
    }

    fn update(
        &self,
        object: &Object,
        _revision: Option<u64>,
        _changes: Vec<(String, Option<Bytes>)>,
    ) -> Fut<'_, Updated> {
        refused(object)
    }

    fn query(&self, object: &Object, prefix: &str, after: &str, limit: usize) -> Fut<'_, Page> {
        self.contents.query(object, prefix, after, limit)
    }

    fn remove(&self, object: &Object) -> Fut<'_, ()> {
        refused(object)
    }

    fn list(&self, kind: &str) -> Fut<'_, Listing> {
        self.contents.list(kind)
    }

    fn listen(&self, object: &Object) -> Fut<'_, Notices> {
        self.contents.listen(object)
    }

    fn sync(&self, _objects: Vec<Object>) -> Fut<'_, ()> {
        Box::pin(async { Ok(()) })
    }
}

/// What nobody who joins snapshots does.
fn refused<T: Send + 'static>(object: &Object) -> Fut<'static, T> {
    let error = crate::storage::bounds::refused(object.to_string(), "nothing is changed here");
    Box::pin(async move { Err(error) })
}
