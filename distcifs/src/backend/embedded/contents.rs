//! The store as a store of contents.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::coordination::closed;
use super::disk::{Outcome, Work};
use super::files::failed;
use super::{Embedded, Shared};
use crate::backend::work::run;
use crate::storage::bounds::refused;
use crate::storage::contents::{LISTING_PAGE_MAX, SEALED};
use crate::storage::names::{CONSOLE, check_append, check_blob, check_changes, check_object, check_record};
use crate::storage::{Appended, Contents, Error, Fut, Listing, Notices, Object, Page, Result, Updated};

async fn outcome(waits: oneshot::Receiver<Result<Outcome>>) -> Result<Outcome> {
    waits.await.map_err(|_| closed("update"))?
}

impl Embedded {
    fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.core.shared)
    }
}

impl Contents for Embedded {
    fn put(&self, object: &Object, bytes: Bytes) -> Fut<'_, bool> {
        let (object, shared) = (object.clone(), self.shared());
        Box::pin(run(bytes.len(), move || {
            check_blob(&object, &bytes)?;
            let files = &shared.files;
            if files.blobs.has(&object, bytes.len()) {
                return Ok(false);
            }
            files.check_room(&object, bytes.len())?;
            files.blobs.put(&object, &bytes, &files.dirty)
        }))
    }

    fn read(&self, object: &Object, offset: u64, length: usize) -> Fut<'_, Option<Bytes>> {
        let (object, shared) = (object.clone(), self.shared());
        Box::pin(async move {
            check_object(&object)?;
            let work = move || match &object {
                Object::Console(name) => shared.files.consoles.read(name, offset, length),
                Object::Record(name) => Err(refused(name, "a record is queried, not read")),
                blob => shared.files.blobs.read(blob, offset, length),
            };
            run(length, work).await
        })
    }

    fn room(&self) -> Fut<'_, ()> {
        let shared = self.shared();
        Box::pin(async move { shared.files.check_room("the store", 0) })
    }

    fn size(&self, object: &Object) -> Fut<'_, Option<u64>> {
        let (object, shared) = (object.clone(), self.shared());
        Box::pin(async move {
            check_object(&object)?;
            match &object {
                Object::Console(name) => shared.files.consoles.size(name),
                Object::Record(name) => Err(refused(name, "a record has no length")),
                blob => shared.files.blobs.size(blob),
            }
        })
    }

    fn append(&self, object: &Object, sequence: u64, bytes: Bytes) -> Fut<'_, Appended> {
        let (object, shared) = (object.clone(), self.shared());
        Box::pin(async move {
            check_append(&object, &bytes)?;
            run(bytes.len(), move || append(&shared, &object, sequence, &bytes)).await
        })
    }

    /// The change goes on when its future is dropped after the first poll.
    fn update(
        &self,
        object: &Object,
        revision: Option<u64>,
        changes: Vec<(String, Option<Bytes>)>,
    ) -> Fut<'_, Updated> {
        let object = object.clone();
        Box::pin(async move {
            let name = check_record(object)?;
            let bytes = check_changes(&name, &changes)?;
            let what = format!("update {name}");
            let work = Work::Update {
                name,
                revision,
                changes,
            };
            match outcome(self.core.shared.committer.queue(what.clone(), work, bytes)?).await? {
                Outcome::Updated(updated) => Ok(updated),
                Outcome::Done => Err(closed(&what)),
            }
        })
    }

    fn query(&self, object: &Object, prefix: &str, after: &str, limit: usize) -> Fut<'_, Page> {
        let (object, shared) = (object.clone(), self.shared());
        let (prefix, after) = (prefix.to_owned(), after.to_owned());
        Box::pin(async move {
            let name = check_record(object)?;
            let page = shared.committer.disk.query(&name, &prefix, &after, limit);
            page.map_err(|e| unreadable(format!("query {name}"), &e))
        })
    }

    fn remove(&self, object: &Object) -> Fut<'_, ()> {
        let (object, shared) = (object.clone(), self.shared());
        Box::pin(async move {
            check_object(&object)?;
            match &object {
                Object::Record(name) => {
                    let work = Work::Remove { name: name.clone() };
                    let waits = shared.committer.queue(format!("remove {name}"), work, 0)?;
                    outcome(waits).await?;
                }
                Object::Console(name) => {
                    shared.files.consoles.remove(name)?;
                    shared.listeners.tell(name);
                }
                blob => shared.files.blobs.remove(blob)?,
            }
            shared.files.dirty.forget(&object);
            Ok(())
        })
    }

    fn enter(&self, epoch: u64) {
        self.core.shared.files.blobs.enter(epoch);
    }

    fn sweep(&self, object: &Object, epoch: u64) -> Fut<'_, Option<u64>> {
        let (object, shared) = (object.clone(), self.shared());
        Box::pin(async move {
            check_object(&object)?;
            let swept = shared.files.blobs.sweep(&object, epoch)?;
            if swept.is_some() {
                shared.files.dirty.forget(&object);
            }
            Ok(swept)
        })
    }

    fn list(&self, kind: &str) -> Fut<'_, Listing> {
        let (kind, shared) = (kind.to_owned(), self.shared());
        if let "chunk" | "tree" = kind.as_str() {
            let listing = list_blobs(shared, kind);
            return Box::pin(async { listing });
        }
        // Who looks at a store that another process has finds there what is removed meanwhile.
        let mut aside = kind == CONSOLE && shared.home.is_frozen();
        let mut after = String::new();
        let listing = Listing::by_thread(format!("list {kind}"), move || {
            let page = list(&shared, &kind, &after)?;
            if page.is_empty() && std::mem::take(&mut aside) {
                let kept = shared.files.consoles.aside();
                return kept.map_err(|error| failed(format!("list {kind}"), &error));
            }
            after = page.last().map_or_else(|| after.clone(), Object::to_string);
            Ok(page)
        });
        Box::pin(async { listing })
    }

    fn listen(&self, object: &Object) -> Fut<'_, Notices> {
        let notices = self.core.shared.listeners.listen(object);
        Box::pin(async { notices })
    }

    fn sync(&self, objects: Vec<Object>) -> Fut<'_, ()> {
        Box::pin(async move {
            if objects.is_empty() {
                return Ok(());
            }
            let waits = self.core.shared.syncer.request(objects)?;
            waits.await.map_err(|_| closed("sync"))?
        })
    }
}

/// Blobs of a kind, folder by folder: each is read once.
fn list_blobs(shared: Arc<Shared>, kind: String) -> Result<Listing> {
    let (mut folders, mut found) = (0..=u8::MAX, Vec::new());
    Listing::by_thread(format!("list {kind}"), move || {
        while found.is_empty()
            && let Some(first) = folders.next()
        {
            let listed = shared.files.blobs.list(&kind, first);
            found = listed.map_err(|error| failed(format!("list {kind}"), &error))?;
        }
        let from = found.len().saturating_sub(LISTING_PAGE_MAX);
        Ok(found.split_off(from))
    })
}

/// The objects of a kind after `after`, in order of their names; empty at the end.
fn list(shared: &Shared, kind: &str, after: &str) -> Result<Vec<Object>> {
    let what = || format!("list {kind}");
    let listed = match kind {
        CONSOLE => shared.files.consoles.list(after, LISTING_PAGE_MAX),
        _ => {
            let listed = shared.committer.disk.list(kind, after, LISTING_PAGE_MAX);
            return listed.map_err(|e| unreadable(what(), &e));
        }
    };
    listed.map_err(|e| failed(what(), &e))
}

fn append(shared: &Shared, object: &Object, sequence: u64, bytes: &[u8]) -> Result<Appended> {
    let Object::Console(name) = object else {
        return Err(refused(object.to_string(), "only a console is appended to"));
    };
    if sequence != SEALED {
        shared.files.check_room(object, bytes.len())?;
    }
    let wrote = |named| shared.files.dirty.mark(object, named);
    let appended = shared.files.consoles.append(name, sequence, bytes, wrote);
    if !matches!(appended, Ok(Appended::Mismatch { .. })) {
        shared.listeners.tell(name);
    }
    appended.map_err(|e| failed(format!("append {name}"), &e))
}

/// The error of an index that cannot be read.
fn unreadable(what: String, error: &redb::Error) -> Error {
    let why = error.to_string();
    match error {
        redb::Error::Corrupted(_) => Error::Damaged { what, why },
        _ => Error::Unavailable { what, why },
    }
}
