//! The kernel's requests about extended attributes.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use bytes::Bytes;

use super::requests::Tree;
use super::rights::{ACL_NAME, ACL_PREFIX};
use super::work::Work;
use super::{Caller, Error, Ino, Result};

impl Tree {
    /// setxattr; `flags`: XATTR_CREATE, XATTR_REPLACE.
    pub async fn setxattr(&self, _caller: Caller, ino: Ino, name: OsString, value: Bytes, flags: i32) -> Result<()> {
        if self.work.owns(ino) {
            let set = move |work: &Work| work.setxattr(ino, &name, &value, flags);
            return self.work.on_disk(ino, set, |_, ()| ()).await;
        }
        Err(Error::Unsupported("extended attributes".into()))
    }

    /// getxattr.
    pub async fn getxattr(&self, caller: Caller, ino: Ino, name: OsString) -> Result<Bytes> {
        if name.as_bytes().starts_with(ACL_PREFIX) {
            if name.as_bytes() != ACL_NAME || self.work.owns(ino) {
                return Err(Error::NoData);
            }
            return self.acl(&self.node(ino)?).await?.ok_or(Error::NoData);
        }
        if self.work.owns(ino) {
            let get = move |work: &Work| work.getxattr(ino, &name);
            return self.looked(caller, ino, self.work.on_disk(ino, get, |_, _| ()).await);
        }
        self.published_xattr(ino, name.as_bytes())
    }

    /// listxattr: names, each ended by NUL.
    pub async fn listxattr(&self, caller: Caller, ino: Ino) -> Result<Bytes> {
        if self.work.owns(ino) {
            let list = self.work.on_disk(ino, move |work| work.listxattr(ino), |_, _| ()).await;
            return self.looked(caller, ino, list);
        }
        self.published_xattrs(ino)
    }

    /// removexattr.
    pub async fn removexattr(&self, _caller: Caller, ino: Ino, name: OsString) -> Result<()> {
        if self.work.owns(ino) {
            let remove = move |work: &Work| work.removexattr(ino, &name);
            return self.work.on_disk(ino, remove, |_, ()| ()).await;
        }
        Err(Error::Unsupported("extended attributes".into()))
    }
}
