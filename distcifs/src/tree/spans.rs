//! Claimants' files as their bytes go: reading and writing, cutting, reserving, finding and copying, and what
//! a write takes from a file's mode.

use bytes::Bytes;

use super::node::Node;
use super::work::Work;
use super::{Attributes, Caller, Error, Found, Ino, Opened, Result, SetAttr, Tree};

/// Most that one copy out of a published file copies, bytes: it is in memory meanwhile. The caller
/// asks again for the rest.
const COPY_BYTES_MAX: usize = 4 << 20;

/// Bits of a mode that a write takes away.
const SET_ID: u32 = libc::S_ISUID | libc::S_ISGID;

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
            self.work.heed_writer(ino)?;
        }
        let long = set.size.is_some_and(|size| self.work.is_long_to_cut(ino, handle, size));
        let attributes = if long {
            let owner = self.work.owner_of(ino);
            self.work.off(owner, move |work| work.setattr(ino, handle, set)).await?
        } else {
            self.work.setattr(ino, handle, set)?
        };
        let cut = set.size.is_some() && attributes.attr.mode & SET_ID != 0;
        if !cut || caller.uid == 0 {
            return Ok(attributes);
        }
        self.written_by(caller, ino)?;
        self.work.getattr(ino, handle)
    }

    /// Empties a file that was just opened with O_TRUNC; if it can't be, nobody has opened it.
    pub(super) async fn emptied(&self, ino: Ino, opened: Opened) -> Result<Opened> {
        let handle = opened.handle;
        let emptied = if self.work.is_long_to_cut(ino, Some(handle), 0) {
            let owner = self.work.owner_of(ino);
            self.work.off(owner, move |work| work.empty(handle)).await
        } else {
            self.work.empty(handle)
        };
        emptied.inspect_err(|_| self.release(ino, handle))?;
        Ok(opened)
    }

    /// The same for one that was looked up for it.
    pub(super) async fn emptied_found(&self, found: Found, opened: Opened) -> Result<(Found, Opened)> {
        let ino = found.attributes.attr.ino;
        let emptied = self.emptied(ino, opened).await;
        let opened = emptied.inspect_err(|_| self.forget(ino, 1))?;
        let attributes = self.work.getattr(ino, Some(opened.handle))?;
        Ok((Found { attributes, ..found }, opened))
    }

    /// read.
    pub(super) async fn read_work(&self, handle: u64, offset: u64, size: u32) -> Result<Bytes> {
        if self.work.is_busy(handle) {
            let owner = self.work.owner_of_open(handle);
            return self.work.off(owner, move |work| work.read(handle, offset, size)).await;
        }
        self.work.read(handle, offset, size)
    }

    /// write.
    pub(super) async fn write_work(&self, handle: u64, offset: u64, data: Bytes) -> Result<u32> {
        if self.work.is_busy(handle) {
            let owner = self.work.owner_of_open(handle);
            return self
                .work
                .off(owner, move |work| work.write(handle, offset, &data))
                .await;
        }
        self.work.write(handle, offset, &data)
    }

    /// A claimant's file was written or cut by this user: set-id bits go, unless it is root.
    pub(super) fn written_by(&self, caller: Caller, ino: Ino) -> Result<()> {
        if caller.uid == 0 {
            return Ok(());
        }
        self.work.shed_set_id(ino)
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
            let owner = self.work.owner_of(ino);
            self.work
                .off(owner, move |work| work.fallocate(handle, offset, length, mode))
                .await?;
            return self.written_by(caller, ino);
        }
        Err(Error::Unsupported("fallocate".into()))
    }

    /// lseek: SEEK_DATA and SEEK_HOLE.
    pub async fn lseek(&self, ino: Ino, handle: u64, offset: i64, whence: i32) -> Result<i64> {
        if self.work.owns(ino) {
            return self.work.lseek(handle, offset, whence);
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
        if self.work.owns(from) && self.work.owns(to) {
            let (from, target) = ((from_handle, from_offset), (to_handle, to_offset));
            let copy = move |work: &Work| work.copy_file_range(from, target, length);
            let copied = self.work.off(self.work.owner_of(to), copy).await?;
            self.written_by(caller, to)?;
            return Ok(copied);
        }
        if self.work.owns(to) && matches!(self.node(from)?, Node::Published(_)) {
            let size = usize::try_from(length).unwrap_or(COPY_BYTES_MAX).min(COPY_BYTES_MAX);
            let data = self.read_open(caller, from_handle, from_offset, size).await?;
            let write = move |work: &Work| work.write(to_handle, to_offset, &data);
            let copied = self.work.off(self.work.owner_of(to), write).await?;
            self.written_by(caller, to)?;
            return Ok(copied.into());
        }
        Err(Error::Unsupported("copy_file_range".into()))
    }
}
