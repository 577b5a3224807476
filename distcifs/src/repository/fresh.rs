//! What a result stores goes again at once if nothing comes of it: the disk that was too full for it is
//! not left fuller, and nobody waits for gc. On a store that this mount has for itself.
//!
//! A blob that was not there before, and that nobody else has put or asked for since, nothing but that
//! result can refer to. So every put of this mount is noted here while it is under way, and what a
//! result put first until the claim is over. What another puts too is nobody's to remove: gc's then.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::core::lock;
use super::model::ticket::TicketKey;
use super::{Error, flood};
use crate::storage::{Appended, Contents, Fut, Listing, Notices, Object, Page, Updated};

/// Blobs of results under way that are remembered, 100 bytes each: more are left to gc.
const NOTED_MAX: usize = 1 << 18;

/// Blobs removed at once.
const REMOVALS: usize = 32;

/// What is known of the puts of a mount.
pub(crate) struct Fresh {
    contents: Arc<dyn Contents>,
    runtime: tokio::runtime::Handle,
    state: Mutex<State>,
    /// Notified when blobs are gone.
    gone: Notify,
}

#[derive(Default)]
struct State {
    puts: HashMap<Object, Put>,
    /// What each result put first.
    results: HashMap<u64, Vec<Object>>,
    /// Being removed: who puts one waits until it is gone, and puts it anew.
    going: HashSet<Object>,
    next: u64,
}

/// One blob that is or was being put.
struct Put {
    under_way: usize,
    /// The one result that puts it; `None` once anybody else has.
    by: Option<u64>,
    /// It was not there before.
    new: bool,
}

impl State {
    /// Forgets that a result put a blob first; whether nobody else has, and nobody is at it.
    fn release(&mut self, object: &Object, by: u64) -> bool {
        let Some(put) = self.puts.get_mut(object).filter(|put| put.by == Some(by)) else {
            return false;
        };
        put.by = None;
        let idle = put.under_way == 0;
        if idle {
            self.puts.remove(object);
        }
        idle
    }
}

impl Fresh {
    pub(crate) fn new(contents: Arc<dyn Contents>) -> Arc<Fresh> {
        Arc::new(Fresh {
            contents,
            runtime: tokio::runtime::Handle::current(),
            state: Mutex::default(),
            gone: Notify::new(),
        })
    }

    /// The store for everybody but results.
    pub(crate) fn contents(self: &Arc<Self>) -> Arc<dyn Contents> {
        Arc::new(Noting {
            fresh: self.clone(),
            by: None,
        })
    }

    /// Notes that somebody puts a blob, or asks for it. One that is being removed is waited for.
    async fn note<'a>(&'a self, object: &'a Object, by: Option<u64>) -> Noted<'a> {
        loop {
            if let Some(noted) = self.note_now(object, by) {
                return noted;
            }
            let mut gone = Box::pin(self.gone.notified());
            gone.as_mut().enable();
            if let Some(noted) = self.note_now(object, by) {
                return noted;
            }
            gone.await;
        }
    }

    fn note_now<'a>(&'a self, object: &'a Object, by: Option<u64>) -> Option<Noted<'a>> {
        let mut state = lock(&self.state);
        if state.going.contains(object) {
            return None;
        }
        let by = by.filter(|_| state.puts.len() < NOTED_MAX);
        let first = || Put {
            under_way: 0,
            by,
            new: false,
        };
        let put = state.puts.entry(object.clone()).or_insert_with(first);
        put.under_way += 1;
        put.by = put.by.filter(|known| Some(*known) == by);
        Some(Noted {
            fresh: self,
            object,
            new: None,
        })
    }

    /// What a result put first, and nobody else: its own to remove from now on.
    pub(crate) fn take(&self, by: u64) -> Vec<Object> {
        let mut state = lock(&self.state);
        let mut all = state.results.remove(&by).unwrap_or_default();
        all.retain(|object| state.release(object, by));
        state.going.extend(all.iter().cloned());
        all
    }

    /// Forgets what a result put: something may refer to it.
    fn keep(&self, by: u64) {
        let mut state = lock(&self.state);
        for object in state.results.remove(&by).unwrap_or_default() {
            state.release(&object, by);
        }
    }

    /// How many blobs are remembered.
    #[cfg(test)]
    pub(crate) fn noted(&self) -> usize {
        let state = lock(&self.state);
        state.puts.len() + state.results.len() + state.going.len()
    }

    /// Removes what was taken; how many blobs went.
    pub(crate) async fn remove(self: Arc<Self>, objects: Vec<Object>) -> usize {
        let (mut left, mut running, mut removed) = (objects.into_iter(), JoinSet::new(), 0);
        loop {
            while running.len() < REMOVALS
                && let Some(object) = left.next()
            {
                let fresh = self.clone();
                running.spawn(async move {
                    let swept = fresh.contents.sweep(&object, u64::MAX).await;
                    lock(&fresh.state).going.remove(&object);
                    fresh.gone.notify_waiters();
                    swept.inspect_err(|error| tracing::warn!(%object, %error, "it is left to gc"))
                });
            }
            match running.join_next().await {
                Some(done) => removed += usize::from(matches!(done, Ok(Ok(Some(_))))),
                None => return removed,
            }
        }
    }
}

/// Held while a blob is put.
struct Noted<'a> {
    fresh: &'a Fresh,
    object: &'a Object,
    /// Whether it was not there before; `None`: nobody knows.
    new: Option<bool>,
}

impl Drop for Noted<'_> {
    fn drop(&mut self) {
        let mut state = lock(&self.fresh.state);
        let Some(put) = state.puts.get_mut(self.object) else {
            return;
        };
        put.under_way -= 1;
        match self.new {
            Some(new) => put.new |= new,
            None => put.by = None,
        }
        let (idle, new, by) = (put.under_way == 0, put.new, put.by.filter(|_| put.new));
        if let Some(by) = by.filter(|_| self.new == Some(true)) {
            state.results.entry(by).or_default().push(self.object.clone());
        }
        if idle && (by.is_none() || !new) {
            state.puts.remove(self.object);
        }
    }
}

/// The store, with every put noted.
struct Noting {
    fresh: Arc<Fresh>,
    by: Option<u64>,
}

impl Noting {
    fn inner(&self) -> &dyn Contents {
        &*self.fresh.contents
    }
}

impl Contents for Noting {
    fn put(&self, object: &Object, bytes: Bytes) -> Fut<'_, bool> {
        let object = object.clone();
        Box::pin(async move {
            let mut noted = self.fresh.note(&object, self.by).await;
            let new = self.inner().put(&object, bytes).await?;
            noted.new = Some(new);
            Ok(new)
        })
    }

    fn read(&self, object: &Object, offset: u64, length: usize) -> Fut<'_, Option<Bytes>> {
        self.inner().read(object, offset, length)
    }

    fn room(&self) -> Fut<'_, ()> {
        self.inner().room()
    }

    fn size(&self, object: &Object) -> Fut<'_, Option<u64>> {
        if object.digest().is_none() {
            return self.inner().size(object);
        }
        let object = object.clone();
        Box::pin(async move {
            // Whoever asks may refer to it from now on.
            let _noted = self.fresh.note(&object, None).await;
            self.inner().size(&object).await
        })
    }

    fn append(&self, object: &Object, sequence: u64, bytes: Bytes) -> Fut<'_, Appended> {
        self.inner().append(object, sequence, bytes)
    }

    fn update(
        &self,
        object: &Object,
        revision: Option<u64>,
        changes: Vec<(String, Option<Bytes>)>,
    ) -> Fut<'_, Updated> {
        self.inner().update(object, revision, changes)
    }

    fn query(&self, object: &Object, prefix: &str, after: &str, limit: usize) -> Fut<'_, Page> {
        self.inner().query(object, prefix, after, limit)
    }

    fn remove(&self, object: &Object) -> Fut<'_, ()> {
        self.inner().remove(object)
    }

    fn enter(&self, epoch: u64) {
        self.inner().enter(epoch);
    }

    fn sweep(&self, object: &Object, epoch: u64) -> Fut<'_, Option<u64>> {
        self.inner().sweep(object, epoch)
    }

    fn list(&self, kind: &str) -> Fut<'_, Listing> {
        self.inner().list(kind)
    }

    fn listen(&self, object: &Object) -> Fut<'_, Notices> {
        self.inner().listen(object)
    }

    fn sync(&self, objects: Vec<Object>) -> Fut<'_, ()> {
        self.inner().sync(objects)
    }
}

/// What one claim stores for its result. Forgotten with it.
pub(crate) struct Storing {
    fresh: Option<Arc<Fresh>>,
    by: u64,
}

impl Storing {
    /// For a new claim.
    pub(crate) fn new(fresh: Option<&Arc<Fresh>>) -> Self {
        let next = |fresh: &Arc<Fresh>| {
            let mut state = lock(&fresh.state);
            state.next += 1;
            state.next
        };
        Storing {
            by: fresh.map_or(0, next),
            fresh: fresh.cloned(),
        }
    }

    /// Removes what a claim of this user has stored: nothing refers to it, and nothing will.
    pub(crate) async fn take_back(&self, ticket: &TicketKey, uid: u32) {
        let Some(fresh) = self.fresh.clone() else {
            return;
        };
        let taken = fresh.take(self.by);
        if taken.is_empty() {
            return;
        }
        // Whoever waits may go: what was taken is removed all the same.
        let runtime = fresh.runtime.clone();
        let removed = runtime.spawn(fresh.remove(taken)).await.unwrap_or(0);
        if flood::has_line_of("what a result had stored is removed", uid) {
            tracing::info!(%ticket, removed, "what a result had stored that was not committed");
        }
    }

    /// The store for the result.
    pub(crate) fn contents(&self, plain: &Arc<dyn Contents>) -> Arc<dyn Contents> {
        match &self.fresh {
            None => plain.clone(),
            Some(fresh) => Arc::new(Noting {
                fresh: fresh.clone(),
                by: Some(self.by),
            }),
        }
    }

    /// Its number.
    #[cfg(test)]
    pub(crate) fn by(&self) -> u64 {
        self.by
    }

    /// Something refers to what was stored so far, or may.
    pub(crate) fn keep(&self) {
        if let Some(fresh) = &self.fresh {
            fresh.keep(self.by);
        }
    }
}

impl Drop for Storing {
    fn drop(&mut self) {
        self.keep();
    }
}

/// Whether a result that was refused so is over: after others the same is tried again, with what is stored.
pub(crate) fn is_refused(error: &Error) -> bool {
    !matches!(error, Error::TimedOut(_) | Error::Io(_) | Error::Busy(_))
}
