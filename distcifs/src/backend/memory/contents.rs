//! A mount as a store of contents.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use tokio::task::yield_now;

use super::MemoryMount;
use super::objects::{Changes, Objects};
use crate::storage::bounds::refused;
use crate::storage::names::{check_append, check_blob, check_changes, check_object, check_record};
use crate::storage::{Appended, Contents, Fut, Listing, Notices, Object, Page, Updated};

impl MemoryMount {
    /// Asks for something of the objects, and says so if one of them has changed by it.
    async fn ask<T>(&self, ask: impl FnOnce(&mut Objects) -> (T, Option<String>)) -> T {
        yield_now().await;
        let (answer, changed) = {
            let mut state = self.0.servers.state();
            let (answer, changed) = ask(&mut state.objects);
            if let Some(name) = &changed {
                state.change(name);
            }
            (answer, changed)
        };
        if changed.is_some() {
            self.0.servers.tell_mounts();
        }
        yield_now().await;
        answer
    }
}

impl Contents for MemoryMount {
    fn put(&self, object: &Object, bytes: Bytes) -> Fut<'_, bool> {
        let object = object.clone();
        Box::pin(async move {
            check_blob(&object, &bytes)?;
            // As when it is sent: an epoch that begins meanwhile does not mark it.
            let epoch = self.0.epoch.load(Ordering::SeqCst);
            Ok(self.ask(|objects| (objects.put(&object, bytes, epoch), None)).await)
        })
    }

    fn read(&self, object: &Object, offset: u64, length: usize) -> Fut<'_, Option<Bytes>> {
        let object = object.clone();
        Box::pin(async move {
            check_object(&object)?;
            if let Object::Record(name) = &object {
                return Err(refused(name, "a record is queried, not read"));
            }
            let part = |bytes: &[u8]| {
                let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
                let end = start.saturating_add(length).min(bytes.len());
                Bytes::copy_from_slice(&bytes[start..end])
            };
            Ok(self.ask(|objects| (objects.bytes(&object).map(part), None)).await)
        })
    }

    fn size(&self, object: &Object) -> Fut<'_, Option<u64>> {
        let object = object.clone();
        Box::pin(async move {
            check_object(&object)?;
            if let Object::Record(name) = &object {
                return Err(refused(name, "a record has no length"));
            }
            let size = |bytes: &[u8]| bytes.len() as u64;
            Ok(self.ask(|objects| (objects.bytes(&object).map(size), None)).await)
        })
    }

    fn append(&self, object: &Object, sequence: u64, bytes: Bytes) -> Fut<'_, Appended> {
        let object = object.clone();
        Box::pin(async move {
            check_append(&object, &bytes)?;
            let name = object.to_string();
            let append = |objects: &mut Objects| {
                let appended = objects.append(&name, sequence, &bytes);
                let done = matches!(appended, Appended::Done { .. });
                (appended, done.then(|| name.clone()))
            };
            Ok(self.ask(append).await)
        })
    }

    fn update(&self, object: &Object, revision: Option<u64>, changes: Changes) -> Fut<'_, Updated> {
        let object = object.clone();
        Box::pin(async move {
            let name = check_record(object)?;
            check_changes(&name, &changes)?;
            let update = |objects: &mut Objects| {
                let updated = objects.update(&name, revision, changes);
                let done = matches!(updated, Updated::Done { .. });
                (updated, done.then(|| name.clone()))
            };
            Ok(self.ask(update).await)
        })
    }

    fn query(&self, object: &Object, prefix: &str, after: &str, limit: usize) -> Fut<'_, Page> {
        let (object, prefix, after) = (object.clone(), prefix.to_owned(), after.to_owned());
        Box::pin(async move {
            let name = check_record(object)?;
            let query = |objects: &mut Objects| (objects.query(&name, &prefix, &after, limit), None);
            Ok(self.ask(query).await)
        })
    }

    fn remove(&self, object: &Object) -> Fut<'_, ()> {
        let object = object.clone();
        Box::pin(async move {
            check_object(&object)?;
            let changes = object.digest().is_none().then(|| object.to_string());
            self.ask(|objects| (objects.remove(&object), changes)).await;
            Ok(())
        })
    }

    fn enter(&self, epoch: u64) {
        if epoch > 0 {
            self.0.epoch.fetch_max(epoch, Ordering::SeqCst);
            return;
        }
        // Nobody sweeps any more, and no other mount is there.
        self.0.epoch.store(0, Ordering::SeqCst);
        self.0.servers.state().objects.unmark();
    }

    fn sweep(&self, object: &Object, epoch: u64) -> Fut<'_, Option<u64>> {
        let object = object.clone();
        Box::pin(async move {
            if object.digest().is_none() {
                return Err(refused(object.to_string(), "only a blob is swept"));
            }
            Ok(self.ask(|objects| (objects.sweep(&object, epoch), None)).await)
        })
    }

    fn list(&self, kind: &str) -> Fut<'_, Listing> {
        let kind = kind.to_owned();
        Box::pin(async move {
            let objects = self.ask(|objects| (objects.list(&kind), None)).await;
            Ok(Listing::of(format!("list {kind}"), &objects))
        })
    }

    fn listen(&self, object: &Object) -> Fut<'_, Notices> {
        let object = object.clone();
        Box::pin(async move {
            yield_now().await;
            self.0.listeners.listen(&object)
        })
    }

    fn sync(&self, objects: Vec<Object>) -> Fut<'_, ()> {
        Box::pin(async move {
            let sync = |all: &mut Objects| (objects.iter().for_each(|object| all.sync(object)), None);
            self.ask(sync).await;
            Ok(())
        })
    }
}
