//! The requests of the kernel, one method each: the node decides what they mean.

use std::ffi::OsString;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::{
    Attributes, Caller, DirEntry, Found, Ino, Invalidation, Opened, Result, SetAttr, Space,
};
use crate::repository::Error;

/// Wakes whoever polls a file, once.
pub type Waker = Box<dyn FnOnce() + Send + 'static>;

/// The mounted tree.
pub struct Tree {}

fn stub<T>() -> Result<T> {
    Err(Error::Unsupported("stub".into()))
}

#[expect(unused_variables, missing_docs, reason = "being written")]
impl Tree {
    /// What the kernel must forget; can be taken once.
    pub fn invalidations(&self) -> Option<mpsc::UnboundedReceiver<Invalidation>> {
        None
    }

    pub async fn lookup(&self, caller: Caller, parent: Ino, name: OsString) -> Result<Found> {
        stub()
    }
    pub fn forget(&self, ino: Ino, count: u64) {}
    pub async fn getattr(
        &self,
        caller: Caller,
        ino: Ino,
        handle: Option<u64>,
    ) -> Result<Attributes> {
        stub()
    }
    pub async fn setattr(
        &self,
        caller: Caller,
        ino: Ino,
        handle: Option<u64>,
        set: SetAttr,
    ) -> Result<Attributes> {
        stub()
    }
    pub async fn readlink(&self, caller: Caller, ino: Ino) -> Result<OsString> {
        stub()
    }
    /// `mode` carries the type bits (S_IFMT); the umask is applied already.
    pub async fn mknod(
        &self,
        caller: Caller,
        parent: Ino,
        name: OsString,
        mode: u32,
        rdev: u32,
    ) -> Result<Found> {
        stub()
    }
    pub async fn mkdir(
        &self,
        caller: Caller,
        parent: Ino,
        name: OsString,
        mode: u32,
    ) -> Result<Found> {
        stub()
    }
    pub async fn unlink(&self, caller: Caller, parent: Ino, name: OsString) -> Result<()> {
        stub()
    }
    pub async fn rmdir(&self, caller: Caller, parent: Ino, name: OsString) -> Result<()> {
        stub()
    }
    pub async fn symlink(
        &self,
        caller: Caller,
        parent: Ino,
        name: OsString,
        target: OsString,
    ) -> Result<Found> {
        stub()
    }
    /// `flags`: those of renameat2(2).
    pub async fn rename(
        &self,
        caller: Caller,
        parent: Ino,
        name: OsString,
        new_parent: Ino,
        new_name: OsString,
        flags: u32,
    ) -> Result<()> {
        stub()
    }
    pub async fn link(
        &self,
        caller: Caller,
        ino: Ino,
        new_parent: Ino,
        new_name: OsString,
    ) -> Result<Found> {
        stub()
    }
    /// `flags`: those of open(2).
    pub async fn open(&self, caller: Caller, ino: Ino, flags: i32) -> Result<Opened> {
        stub()
    }
    pub async fn create(
        &self,
        caller: Caller,
        parent: Ino,
        name: OsString,
        mode: u32,
        flags: i32,
    ) -> Result<(Found, Opened)> {
        stub()
    }
    pub async fn read(
        &self,
        caller: Caller,
        ino: Ino,
        handle: u64,
        offset: u64,
        size: u32,
    ) -> Result<Bytes> {
        stub()
    }
    pub async fn write(
        &self,
        caller: Caller,
        ino: Ino,
        handle: u64,
        offset: u64,
        data: Bytes,
    ) -> Result<u32> {
        stub()
    }
    pub async fn flush(&self, caller: Caller, ino: Ino, handle: u64) -> Result<()> {
        stub()
    }
    pub fn release(&self, ino: Ino, handle: u64) {}
    pub async fn fsync(&self, caller: Caller, ino: Ino, handle: u64, datasync: bool) -> Result<()> {
        stub()
    }
    pub async fn opendir(&self, caller: Caller, ino: Ino) -> Result<Opened> {
        stub()
    }
    /// At most `limit` entries after `offset` (0: the first); with `plus` each carries `found`,
    /// which counts as a lookup.
    pub async fn readdir(
        &self,
        caller: Caller,
        ino: Ino,
        handle: u64,
        offset: u64,
        limit: usize,
        plus: bool,
    ) -> Result<Vec<DirEntry>> {
        stub()
    }
    pub fn releasedir(&self, ino: Ino, handle: u64) {}
    /// Also for a folder's handle.
    pub async fn fsyncdir(&self, caller: Caller, ino: Ino, handle: u64) -> Result<()> {
        stub()
    }
    pub async fn statfs(&self, ino: Ino) -> Result<Space> {
        stub()
    }
    /// `flags`: XATTR_CREATE, XATTR_REPLACE.
    pub async fn setxattr(
        &self,
        caller: Caller,
        ino: Ino,
        name: OsString,
        value: Bytes,
        flags: i32,
    ) -> Result<()> {
        stub()
    }
    pub async fn getxattr(&self, caller: Caller, ino: Ino, name: OsString) -> Result<Bytes> {
        stub()
    }
    /// Names, each ended by NUL.
    pub async fn listxattr(&self, caller: Caller, ino: Ino) -> Result<Bytes> {
        stub()
    }
    pub async fn removexattr(&self, caller: Caller, ino: Ino, name: OsString) -> Result<()> {
        stub()
    }
    /// The poll(2) events that hold now; if none of `events` does, `wake` is kept and called once
    /// when one might.
    pub async fn poll(
        &self,
        caller: Caller,
        ino: Ino,
        handle: u64,
        events: u32,
        wake: Option<Waker>,
    ) -> Result<u32> {
        stub()
    }
    pub async fn fallocate(
        &self,
        caller: Caller,
        ino: Ino,
        handle: u64,
        offset: u64,
        length: u64,
        mode: i32,
    ) -> Result<()> {
        stub()
    }
    pub async fn lseek(&self, ino: Ino, handle: u64, offset: i64, whence: i32) -> Result<i64> {
        stub()
    }
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
        stub()
    }
}
