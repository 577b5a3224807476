//! Parts of files: reserving, finding and copying them, and what a write takes from a file's mode.

use super::node::Node;
use super::{Caller, Error, Ino, Result, Tree};

/// Most that one copy out of a published file copies, bytes: it is in memory meanwhile. The caller
/// asks again for the rest.
const COPY_BYTES_MAX: usize = 4 << 20;

impl Tree {
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
            self.work.fallocate(handle, offset, length, mode)?;
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
            let copied = self.work.copy_file_range(from, target, length)?;
            self.written_by(caller, to)?;
            return Ok(copied);
        }
        if self.work.owns(to) && matches!(self.node(from)?, Node::Published(_)) {
            let size = usize::try_from(length).unwrap_or(COPY_BYTES_MAX).min(COPY_BYTES_MAX);
            let data = self.read_open(caller, from_handle, from_offset, size).await?;
            return self.work.write(to_handle, to_offset, &data).map(u64::from);
        }
        Err(Error::Unsupported("copy_file_range".into()))
    }
}
