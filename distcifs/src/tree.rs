//! What each path means. Knows neither fuser nor a store.

use std::ffi::OsString;
use std::fs::File;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

pub(crate) mod builds;
pub mod claim;
pub mod content;
mod extended;
pub mod files;
mod following;
pub(crate) mod forget;
pub mod handles;
pub(crate) mod handover;
mod hidden_files;
pub mod job;
pub mod list;
pub mod look;
mod met;
pub mod modify;
pub mod node;
pub(crate) mod past;
pub mod process;
pub mod published;
mod reason;
pub(crate) mod refused;
pub mod requests;
pub(crate) mod rights;
mod scarce;
pub mod scratch;
pub(crate) mod shares;
mod spans;
pub mod stream;
pub(crate) mod tasks;
#[cfg(test)]
mod tests;
pub(crate) mod texts;
pub(crate) mod ticket;
mod told;
mod tops;
mod trash;
pub(crate) mod trust;
pub mod view;
pub mod work;

pub use requests::Tree;

pub(crate) use crate::repository::deadline::{Deadline, STORE_TIMEOUT};
pub(crate) use crate::repository::flood;
pub use crate::repository::{Error, Result};

/// An inode number. 1 is the root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ino(pub u64);

/// Who asks. `tid` is the thread's id in the daemon's pid namespace, 0 for the kernel itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// Thread id.
    pub tid: u32,
    /// User id (fsuid).
    pub uid: u32,
    /// Group id (fsgid).
    pub gid: u32,
}

impl Caller {
    /// The same, with the group that what he makes in this folder has.
    pub(crate) fn made_in(self, folder: crate::repository::access::Access) -> Caller {
        let theirs = folder.mode & libc::S_ISGID != 0;
        Caller {
            gid: if theirs { folder.gid } else { self.gid },
            ..self
        }
    }
}

/// The type of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Regular file.
    File,
    /// Folder.
    Directory,
    /// Symbolic link.
    Symlink,
    /// Named pipe.
    Fifo,
    /// Socket.
    Socket,
    /// Character device.
    CharDevice,
    /// Block device.
    BlockDevice,
}

/// Attributes, as stat(2) has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attr {
    /// Inode number.
    pub ino: Ino,
    /// Type.
    pub kind: Kind,
    /// Permission bits, 0o7777 at most.
    pub mode: u32,
    /// Number of names.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number, of devices.
    pub rdev: u32,
    /// Bytes.
    pub size: u64,
    /// Blocks of 512 bytes in use.
    pub blocks: u64,
    /// Last access.
    pub atime: SystemTime,
    /// Last change of the contents.
    pub mtime: SystemTime,
    /// Last change of the node.
    pub ctime: SystemTime,
}

/// Attributes with the time that the kernel may believe them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes {
    /// The attributes.
    pub attr: Attr,
    /// How long.
    pub ttl: Duration,
}

/// Answer to a lookup: attributes, and how long the name may be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// What the name leads to.
    pub attributes: Attributes,
    /// How long it does.
    pub name_ttl: Duration,
    /// Tells it from what had its inode number before.
    pub generation: u64,
}

/// A change of attributes; `None` leaves alone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SetAttr {
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Truncate or extend to.
    pub size: Option<u64>,
    /// Access time; `Some(None)` is now.
    pub atime: Option<Option<SystemTime>>,
    /// Modification time; `Some(None)` is now.
    pub mtime: Option<Option<SystemTime>>,
}

impl SetAttr {
    /// Whether it leaves all alone.
    pub fn is_nothing(&self) -> bool {
        *self == SetAttr::default()
    }
}

/// An open file or folder, with what the kernel may do with it.
#[derive(Debug, Clone)]
pub struct Opened {
    /// The handle; it comes back with each request on this open file.
    pub handle: u64,
    /// Generated or shared: the kernel keeps no pages of it.
    pub direct_io: bool,
    /// Pages kept from an earlier open are still right.
    pub keep_cache: bool,
    /// A stream: no offsets.
    pub nonseekable: bool,
    /// Whether we are to hear of each close(2): else there is nothing to do then.
    pub flushes: bool,
    /// Whether the kernel may do without asking what it can with `backing`.
    pub passes: bool,
    /// What is to be told once the kernel has got `backing` to write.
    pub passed: Option<Arc<work::Passed>>,
    /// A local file that the kernel may read and write without asking, if it can.
    pub backing: Option<Arc<File>>,
}

/// An entry of a folder.
#[derive(Debug, Clone)]
pub struct DirEntry {
    /// Its name.
    pub name: OsString,
    /// Its inode number.
    pub ino: Ino,
    /// Its type.
    pub kind: Kind,
    /// Where the next readdir goes on after this entry; never 0.
    pub offset: u64,
    /// For readdirplus: the answer that a lookup would give. It counts as a lookup.
    pub found: Option<Found>,
}

/// What the kernel must forget because it changed without its knowing.
#[derive(Debug, Clone)]
pub enum Invalidation {
    /// A name in a folder.
    Name {
        /// The folder.
        parent: Ino,
        /// The name.
        name: OsString,
    },
    /// Attributes and pages of a node.
    Node(Ino),
    /// Pages of a node, after those that a mapping has changed were written; the sender is dropped
    /// when they are.
    Pages(Ino, tokio::sync::mpsc::Sender<()>),
}

/// Figures of statfs(2).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Space {
    /// Bytes of a block.
    pub block_size: u32,
    /// Blocks in all.
    pub blocks: u64,
    /// Free ones.
    pub free: u64,
    /// Free ones for ordinary users.
    pub available: u64,
    /// Inodes in all.
    pub files: u64,
    /// Free ones.
    pub files_free: u64,
}
