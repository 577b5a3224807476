//! The pool as a store of contents.

use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::Ceph;
use super::errors::Kind;
use super::rados::{Read, Write};
use crate::storage::bounds::refused;
use crate::storage::names::{check_append, check_changes, check_object, check_record};
use crate::storage::{Appended, Contents, Fut, Listing, Notices, Object, Page, Updated};

impl Contents for Ceph {
    fn put(&self, object: &Object, bytes: Bytes) -> Fut<'_, bool> {
        let object = object.clone();
        Box::pin(async move {
            let what = format!("put {object}");
            self.core
                .limited(&what, Kind::Writes, self.core.put(&what, object, bytes))
                .await
        })
    }

    fn read(&self, object: &Object, offset: u64, length: usize) -> Fut<'_, Option<Bytes>> {
        let object = object.clone();
        Box::pin(async move {
            check_object(&object)?;
            let what = format!("read {object}");
            self.core
                .limited(&what, Kind::Reads, self.core.read_range(&what, object, offset, length))
                .await
        })
    }

    fn size(&self, object: &Object) -> Fut<'_, Option<u64>> {
        let object = object.clone();
        Box::pin(async move {
            check_object(&object)?;
            if let Object::Record(name) = &object {
                return Err(refused(name, "a record has no length"));
            }
            let (name, what) = (object.to_string(), format!("size of {object}"));
            let size = async {
                let found = self.core.read(&name, Read::default()).await;
                let found = found.map_err(|errno| self.core.fault(&what, Kind::Reads, errno))?;
                Ok(found.map(|answer| answer.size))
            };
            self.core.limited(&what, Kind::Reads, size).await
        })
    }

    fn append(&self, object: &Object, sequence: u64, bytes: Bytes) -> Fut<'_, Appended> {
        let object = object.clone();
        Box::pin(async move {
            check_append(&object, &bytes)?;
            let (name, what) = (object.to_string(), format!("append {object}"));
            self.core
                .limited(&what, Kind::Writes, self.core.append(&what, &name, sequence, &bytes))
                .await
        })
    }

    fn update(
        &self,
        object: &Object,
        revision: Option<u64>,
        changes: Vec<(String, Option<Bytes>)>,
    ) -> Fut<'_, Updated> {
        let object = object.clone();
        Box::pin(async move {
            let name = check_record(object)?;
            check_changes(&name, &changes)?;
            let what = format!("update {name}");
            self.core
                .limited(&what, Kind::Writes, self.core.update(&what, &name, revision, &changes))
                .await
        })
    }

    fn query(&self, object: &Object, prefix: &str, after: &str, limit: usize) -> Fut<'_, Page> {
        let object = object.clone();
        let (prefix, after) = (prefix.to_owned(), after.to_owned());
        Box::pin(async move {
            let name = check_record(object)?;
            let what = format!("query {name}");
            self.core
                .limited(&what, Kind::Reads, self.core.query(&what, &name, prefix, after, limit))
                .await
        })
    }

    fn remove(&self, object: &Object) -> Fut<'_, ()> {
        let object = object.clone();
        Box::pin(async move {
            check_object(&object)?;
            let (name, what) = (object.to_string(), format!("remove {object}"));
            let remove = async {
                let removal = Write::new().remove();
                let removed = match &object {
                    Object::Chunk(_) | Object::Tree(_) => self.core.write(&name, removal).await,
                    Object::Record(_) | Object::Console(_) => self.core.change(&name, removal, 0).await,
                };
                match removed {
                    Ok(()) | Err(nix::errno::Errno::ENOENT) => Ok(()),
                    Err(errno) => Err(self.core.fault(&what, Kind::Writes, errno)),
                }
            };
            self.core.limited(&what, Kind::Writes, remove).await
        })
    }

    fn enter(&self, epoch: u64) {
        self.core.epoch.fetch_max(epoch, Ordering::SeqCst);
    }

    fn sweep(&self, object: &Object, epoch: u64) -> Fut<'_, Option<u64>> {
        let object = object.clone();
        Box::pin(async move {
            let (Object::Chunk(_) | Object::Tree(_)) = &object else {
                return Err(refused(object.to_string(), "only a blob is swept"));
            };
            let (name, what) = (object.to_string(), format!("sweep {object}"));
            let sweep = self.core.sweep(&what, &name, epoch);
            self.core.limited(&what, Kind::Writes, sweep).await
        })
    }

    fn list(&self, kind: &str) -> Fut<'_, Listing> {
        let listing = self.core.list(kind);
        Box::pin(async { listing })
    }

    fn listen(&self, object: &Object) -> Fut<'_, Notices> {
        let object = object.clone();
        Box::pin(async move {
            let what = format!("listen to {object}");
            let failed = |errno| self.core.fault(&what, Kind::Reads, errno);
            let channels = self.core.channels().map_err(failed)?;
            self.core.limited(&what, Kind::Reads, channels.listen(&object)).await
        })
    }

    /// Whatever was written was durable when its call returned.
    fn sync(&self, _: Vec<Object>) -> Fut<'_, ()> {
        Box::pin(async { Ok(()) })
    }
}
