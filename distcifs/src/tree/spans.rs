//! Claimants' files as their bytes go: reading and writing, cutting, reserving, finding and copying, and what
//! a write takes from a file's mode.

use std::ffi::OsString;

use bytes::Bytes;

use super::node::Node;
use super::work::{LONG, Work};
use super::{Attributes, Caller, Error, Found, Ino, Invalidation, Opened, Result, SetAttr, Tree};

/// Most that one copy out of a published file copies, bytes: it is in memory meanwhile. The caller
/// asks again for the rest.
const COPY_BYTES_MAX: usize = 4 << 20;

/// Whether what this caller does to bytes of a file takes its set-id bits: root's does not.
fn does_shed(caller: Caller) -> bool {
    caller.uid != 0
}

/// What changes bytes of a file, by its handle if it is open, and takes its set-id bits if `sheds`. They go first, as the
/// system does it: what is written later than somebody waited for it has not got them either.
fn shedding<T>(
    sheds: bool,
    ino: Ino,
    handle: Option<u64>,
    change: impl Fn(&Work) -> Result<T>,
) -> impl Fn(&Work) -> Result<T> {
    move |work| {
        if sheds {
            work.shed_set_id(ino, handle)?;
        }
        change(work)
    }
}

impl Tree {
    /// setattr.
    pub(super) async fn set_work(
        &self,
        caller: Caller,
        ino: Ino,
        handle: Option<u64>,
        set: SetAttr,
    ) -> Result<Attributes> {
        if set.is_nothing() {
            self.work
                .on_disk(ino, move |work| work.heed_writer(ino), |_, ()| ())
                .await?;
        }
        let long = set.size.is_some_and(|size| self.work.is_long_to_cut(ino, handle, size));
        let sheds = set.size.is_some() && does_shed(caller);
        let set = shedding(sheds, ino, handle, move |work| work.setattr(ino, handle, set));
        if long {
            self.work.off(ino, LONG, set, self.was_late(ino)).await
        } else {
            self.work.on_disk(ino, set, self.was_late(ino)).await
        }
    }

    /// What is done with a change of a file that came when nobody waited for it any more: the kernel, which was told
    /// that it failed, forgets what it knows of the file.
    fn was_late<T>(&self, ino: Ino) -> impl FnOnce(&Work, T) + Send + 'static + use<T> {
        let invalidate = self.invalidate.clone();
        move |_, _| {
            let _unmounted = invalidate.send(Invalidation::Node(ino));
        }
    }

    /// The same with names that were moved or removed: the kernel, which believes in them for a while, would let others
    /// write to what has gone.
    pub(super) fn names_were_late(
        &self,
        names: Vec<(Ino, OsString)>,
    ) -> impl FnOnce(&Work, ()) + Send + 'static + use<> {
        let invalidate = self.invalidate.clone();
        move |_, ()| {
            for (parent, name) in names {
                let _unmounted = invalidate.send(Invalidation::Name { parent, name });
                let _unmounted = invalidate.send(Invalidation::Node(parent));
            }
        }
    }

    /// lookup in a claimant's folder.
    pub(super) async fn look_up_work(&self, caller: Caller, parent: Ino, name: OsString) -> Result<Found> {
        let wanted = name.clone();
        let look = move |work: &Work| work.lookup(parent, &wanted);
        match self.work.on_disk(parent, look, Work::unfound).await {
            Err(Error::System {
                errno: libc::ENOENT, ..
            }) => Ok(Work::absent()),
            done => self.walked(caller, parent, &name, done),
        }
    }

    /// Attributes of a claimant's node.
    pub(super) async fn look_at(&self, ino: Ino, handle: Option<u64>) -> Result<Attributes> {
        let look = move |work: &Work| work.getattr(ino, handle);
        self.work.on_disk(ino, look, |_, _| ()).await
    }

    /// Empties a file that was just opened with O_TRUNC; if it can't be, nobody has opened it.
    pub(super) async fn emptied(&self, caller: Caller, ino: Ino, opened: Opened) -> Result<Opened> {
        let handle = opened.handle;
        let empty = shedding(does_shed(caller), ino, Some(handle), move |work| work.empty(handle));
        let emptied = if self.work.is_long_to_cut(ino, Some(handle), 0) {
            self.work.off(ino, LONG, empty, self.was_late(ino)).await
        } else {
            self.work.on_disk(ino, empty, self.was_late(ino)).await
        };
        emptied.inspect_err(|_| self.release(ino, handle))?;
        Ok(opened)
    }

    /// The same for one that was looked up for it.
    pub(super) async fn emptied_found(&self, caller: Caller, found: Found, opened: Opened) -> Result<(Found, Opened)> {
        let ino = found.attributes.attr.ino;
        let emptied = self.emptied(caller, ino, opened).await;
        let opened = emptied.inspect_err(|_| self.forget(ino, 1))?;
        let attributes = self.look_at(ino, Some(opened.handle)).await?;
        Ok((Found { attributes, ..found }, opened))
    }

    /// read.
    pub(super) async fn read_work(&self, ino: Ino, handle: u64, offset: u64, size: u32) -> Result<Bytes> {
        let read = move |work: &Work| work.read(handle, offset, size);
        match read(&self.work) {
            Err(Error::WouldBlock(_)) => self.work.off(ino, LONG, read, |_, _| ()).await,
            done => done,
        }
    }

    /// write; whether that takes set-id bits.
    pub(super) async fn write_work(&self, at: (Ino, u64), offset: u64, data: Bytes, sheds: bool) -> Result<u32> {
        let (ino, handle) = at;
        let write = shedding(sheds, ino, Some(handle), move |work| work.write(handle, offset, &data));
        match write(&self.work) {
            Err(Error::WouldBlock(_)) => self.work.off(ino, LONG, write, self.was_late(ino)).await,
            done => done,
        }
    }

    /// fallocate.
    pub async fn fallocate(
        &self,
        caller: Caller,
        ino: Ino,
        handle: u64,
        offset: u64,
        length: u64,
        mode: i32,
    ) -> Result<()> {
        if self.work.owns(ino) {
            let reserve = move |work: &Work| work.fallocate(handle, offset, length, mode);
            let reserve = shedding(does_shed(caller), ino, Some(handle), reserve);
            return self.work.off(ino, LONG, reserve, self.was_late(ino)).await;
        }
        Err(Error::Unsupported("fallocate".into()))
    }

    /// lseek: SEEK_DATA and SEEK_HOLE.
    pub async fn lseek(&self, ino: Ino, handle: u64, offset: i64, whence: i32) -> Result<i64> {
        if self.work.owns(ino) {
            let seek = move |work: &Work| work.lseek(handle, offset, whence);
            return self.work.on_disk(ino, seek, |_, _| ()).await;
        }
        self.seek_published(handle, offset, whence)
    }

    /// copy_file_range.
    #[expect(clippy::too_many_arguments, reason = "copy_file_range(2) has as many")]
    pub async fn copy_file_range(
        &self,
        caller: Caller,
        from: Ino,
        from_handle: u64,
        from_offset: u64,
        to: Ino,
        to_handle: u64,
        to_offset: u64,
        length: u64,
    ) -> Result<u64> {
        let sheds = does_shed(caller);
        if self.work.owns(from) && self.work.owns(to) {
            let (from, target) = ((from_handle, from_offset), (to_handle, to_offset));
            let copy = move |work: &Work| work.copy_file_range(from, target, length);
            let copy = shedding(sheds, to, Some(to_handle), copy);
            return self.work.off(to, LONG, copy, self.was_late(to)).await;
        }
        if self.work.owns(to) && matches!(self.node(from)?, Node::Published(_)) {
            let size = usize::try_from(length).unwrap_or(COPY_BYTES_MAX).min(COPY_BYTES_MAX);
            let data = self.read_open(caller, from_handle, from_offset, size).await?;
            let write = move |work: &Work| work.write(to_handle, to_offset, &data);
            let write = shedding(sheds, to, Some(to_handle), write);
            return self.work.off(to, LONG, write, self.was_late(to)).await.map(u64::from);
        }
        Err(Error::Unsupported("copy_file_range".into()))
    }
}
