//! Extended attributes: those of users, on files and folders.

use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::unix::ffi::OsStrExt;

use bytes::Bytes;
use nix::errno::Errno;

use super::super::{Ino, Kind};
use super::given_up;
use super::inodes::Inode;
use super::{Work, fd_name, io_error, sys, system};
use crate::repository::{Error, Result};

/// The only ones that mean something here: `security.*`, `system.*` (ACLs) and `trusted.*` would
/// change who may do what, or speak of the daemon's machine.
const USER: &[u8] = b"user.";

impl Work {
    /// Sets an attribute; `flags`: XATTR_CREATE, XATTR_REPLACE.
    pub fn setxattr(&self, ino: Ino, name: &OsStr, value: &[u8], flags: i32) -> Result<()> {
        let name = user_name(name)?;
        self.need_room_for(ino, value)?;
        let inode = self.inode(ino)?;
        let more = (name.as_bytes().len() + value.len()) as u64;
        self.with_xattrs(ino, true, |path| {
            let set = || unless_given_up(&inode, || sys::setxattr(path, &name, value, flags));
            Work::attributing(&inode, (path, &name), more, set)?
        })?
        .ok_or(Error::System {
            what: format!("inode {}", ino.0),
            errno: libc::EPERM,
        })
    }

    /// Refuses a value that would leave too little room for everybody else.
    fn need_room_for(&self, ino: Ino, value: &[u8]) -> Result<()> {
        let inode = self.inode(ino)?;
        let _gate = inode.attempt.enter_to_change()?;
        let (fd, bytes) = (self.path(&inode)?, value.len() as u64);
        self.room
            .check(&*fd, inode.attempt.writes(bytes), bytes)
            .map_err(|errno| system(inode.what(), errno))
    }

    /// An attribute's value.
    pub fn getxattr(&self, ino: Ino, name: &OsStr) -> Result<Bytes> {
        let name = user_name(name)?;
        let value = self.with_xattrs(ino, false, |path| sys::getxattr(path, &name))?;
        value.map(Bytes::from).ok_or(Error::NoData)
    }

    /// The names of the attributes, each ended by NUL.
    pub fn listxattr(&self, ino: Ino) -> Result<Bytes> {
        let names = self.with_xattrs(ino, false, sys::listxattr)?.unwrap_or_default();
        let of_user = names.split_inclusive(|byte| *byte == 0).filter(|n| n.starts_with(USER));
        Ok(of_user.flatten().copied().collect())
    }

    /// Removes an attribute.
    pub fn removexattr(&self, ino: Ino, name: &OsStr) -> Result<()> {
        let name = user_name(name)?;
        let inode = self.inode(ino)?;
        self.with_xattrs(ino, true, |path| {
            let remove = || unless_given_up(&inode, || sys::removexattr(path, &name));
            Work::attributing(&inode, (path, &name), 0, remove)?
        })?
        .ok_or(Error::NoData)
    }

    /// Calls with a path that leads to the inode and nowhere else; `None` for a node that has no
    /// attributes of users (links, pipes, sockets).
    fn with_xattrs<T>(&self, ino: Ino, changes: bool, call: impl FnOnce(&CStr) -> io::Result<T>) -> Result<Option<T>> {
        let inode = self.inode(ino)?;
        let _gate = if changes {
            inode.attempt.enter_to_change()?
        } else {
            inode.attempt.enter()?
        };
        if !matches!(inode.kind, Kind::File | Kind::Directory) {
            return Ok(None);
        }
        let fd = self.path(&inode)?;
        let path = CString::new(format!("/proc/self/fd/{}", fd_name(&*fd)))
            .map_err(|_| system(inode.what(), Errno::EINVAL))?;
        let _taken = changes.then(|| inode.take_to_change()).transpose()?;
        call(&path).map(Some).map_err(|error| io_error(inode.what(), &error))
    }
}

/// Changes a node's attributes, unless nobody waits for that any more.
fn unless_given_up(inode: &Inode, act: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    let _changes = given_up::changes(&[inode]).map_err(|_| io::Error::from_raw_os_error(libc::ETIMEDOUT))?;
    act()
}

/// The name of an attribute of users.
fn user_name(name: &OsStr) -> Result<CString> {
    let what = || format!("extended attribute {}", name.display());
    if !name.as_bytes().starts_with(USER) {
        return Err(Error::Unsupported(what()));
    }
    CString::new(name.as_bytes()).map_err(|_| Error::Invalid(what()))
}
