//! A store in this process with the marks of a shared one, and an epoch for each mount.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use tokio::sync::Mutex;

use crate::backend::embedded::Embedded;
use crate::storage::{
    Appended, Commit, Contents, Coordination, Entry, Fut, Listing, Notices, Object, Op, Page, Session, Updated, Watch,
};

/// What is done once, in the middle of a call.
pub(super) type Hook = Box<dyn FnOnce() -> Fut<'static, ()> + Send>;

/// What one mount has of the store.
#[derive(Clone)]
pub(super) struct Marked {
    store: Embedded,
    marks: Arc<Mutex<HashMap<Object, u64>>>,
    epoch: Arc<AtomicU64>,
    hook: Arc<std::sync::Mutex<Option<Hook>>>,
    credulous: Arc<AtomicBool>,
}

impl Marked {
    pub(super) fn new(store: &Embedded) -> Marked {
        Marked {
            store: store.clone(),
            marks: Arc::default(),
            epoch: Arc::default(),
            hook: Arc::default(),
            credulous: Arc::default(),
        }
    }

    /// From now on whatever is read is taken for what was put, as a shared store takes what has a
    /// forged sum.
    pub(super) fn believe(&self) {
        self.credulous.store(true, Ordering::SeqCst);
    }

    /// Has this done before the next head of a configuration is read through what this mount has.
    pub(super) fn before_head(&self, hook: Hook) {
        *self.hook.lock().unwrap() = Some(hook);
    }

    /// What another mount has of it.
    pub(super) fn other(&self) -> Marked {
        Marked {
            epoch: Arc::default(),
            hook: Arc::default(),
            ..self.clone()
        }
    }
}

impl Coordination for Marked {
    fn get(&self, path: &str) -> Fut<'_, Option<Entry>> {
        self.store.get(path)
    }
    fn children(&self, path: &str) -> Fut<'_, Vec<String>> {
        self.store.children(path)
    }
    fn commit(&self, ops: Vec<Op>) -> Fut<'_, Commit> {
        self.store.commit(ops)
    }
    fn watch(&self, path: &str) -> Fut<'_, Watch> {
        self.store.watch(path)
    }
    fn sync(&self) -> Fut<'_, ()> {
        Coordination::sync(&self.store)
    }
    fn session(&self) -> tokio::sync::watch::Receiver<Session> {
        self.store.session()
    }
}

impl Contents for Marked {
    fn put(&self, object: &Object, bytes: Bytes) -> Fut<'_, bool> {
        let object = object.clone();
        Box::pin(async move {
            let mut marks = self.marks.lock().await;
            let epoch = self.epoch.load(Ordering::SeqCst);
            let mark = marks.entry(object.clone()).or_insert(epoch);
            *mark = epoch.max(*mark);
            self.store.put(&object, bytes).await
        })
    }
    fn enter(&self, epoch: u64) {
        self.epoch.fetch_max(epoch, Ordering::SeqCst);
    }
    fn sweep(&self, object: &Object, epoch: u64) -> Fut<'_, Option<u64>> {
        let object = object.clone();
        Box::pin(async move {
            let marks = self.marks.lock().await;
            if marks.get(&object).is_some_and(|mark| *mark >= epoch) {
                return Ok(None);
            }
            self.store.sweep(&object, u64::MAX).await
        })
    }
    fn read(&self, object: &Object, offset: u64, length: usize) -> Fut<'_, Option<Bytes>> {
        if !self.credulous.load(Ordering::SeqCst) {
            return self.store.read(object, offset, length);
        }
        let object = object.clone();
        Box::pin(async move {
            // What is not read as a whole is not verified.
            let parts = [(offset, 1), (offset + 1, length.saturating_sub(1))];
            let mut all = Vec::new();
            for (offset, length) in parts {
                match self.store.read(&object, offset, length).await? {
                    Some(part) => all.extend_from_slice(&part),
                    None => return Ok(None),
                }
            }
            Ok(Some(all.into()))
        })
    }
    fn size(&self, object: &Object) -> Fut<'_, Option<u64>> {
        self.store.size(object)
    }
    fn append(&self, object: &Object, sequence: u64, bytes: Bytes) -> Fut<'_, Appended> {
        self.store.append(object, sequence, bytes)
    }
    fn update(
        &self,
        object: &Object,
        revision: Option<u64>,
        changes: Vec<(String, Option<Bytes>)>,
    ) -> Fut<'_, Updated> {
        self.store.update(object, revision, changes)
    }
    fn query(&self, object: &Object, prefix: &str, after: &str, limit: usize) -> Fut<'_, Page> {
        let hook = self.hook.lock().unwrap().take_if(|_| prefix == "config");
        let (object, prefix, after) = (object.clone(), prefix.to_owned(), after.to_owned());
        Box::pin(async move {
            if let Some(hook) = hook {
                hook().await?;
            }
            self.store.query(&object, &prefix, &after, limit).await
        })
    }
    fn remove(&self, object: &Object) -> Fut<'_, ()> {
        self.store.remove(object)
    }
    fn list(&self, kind: &str) -> Fut<'_, Listing> {
        self.store.list(kind)
    }
    fn listen(&self, object: &Object) -> Fut<'_, Notices> {
        self.store.listen(object)
    }
    fn sync(&self, objects: Vec<Object>) -> Fut<'_, ()> {
        Contents::sync(&self.store, objects)
    }
}
