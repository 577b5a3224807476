//! The claimant's own folders on local disk: a loopback view of directories.
//!
//! An inode is named by an `O_PATH` descriptor while that is in use, and by its names otherwise.
//! Names are single components that are resolved from such a descriptor with `O_NOFOLLOW`, so no
//! symbolic link is ever followed here and nothing outside an attached directory can be named.
//! Whether the caller may do what is asked is decided by the kernel from the attributes reported
//! (`default_permissions`).
//!
//! All calls are short local system calls but for those that [`Work::off`] is there for; any number of
//! threads may make them at once. One that somebody may hold up is refused with `WouldBlock` on a thread that must
//! not stand (`locks.rs`).

use std::fmt::Display;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::{Mode, fstat};
use nix::unistd::geteuid;

use super::{Attr, Attributes, Found, Ino, Kind};
use crate::repository::reserve::Reserve;
use crate::repository::{Error, Result, descriptors};

mod attempt;
mod attributes;
mod cache;
mod files;
mod folders;
mod given_up;
mod growth;
mod hidden;
mod inodes;
mod locks;
mod names;
mod off;
mod quota;
mod scarce;
mod sys;
#[cfg(test)]
mod tests;
mod through;
mod way;
mod xattrs;

pub use attempt::{Attempt, Shift};
use cache::Cache;
use files::Files;
use folders::Folders;
use growth::Growth;
use hidden::Hidden;
use inodes::{Inode, Table};
use locks::Lock;
pub use off::LONG;
use off::Off;
use scarce::Cuts;
pub use scarce::{Filler, Passed};
use way::spared;

/// How long the kernel may believe names and attributes. It sees every change of a living attempt
/// itself, so only the end of an attempt can make them wrong; then `kill` names the inodes to
/// invalidate, and this bounds what an invalidation that got lost leaves behind.
const TTL: Duration = Duration::from_secs(10);

/// How long it may believe that a name is not there. Nothing names these to an invalidation, so
/// this is how long a folder of an attempt that is over may go on saying ENOENT for ESTALE.
const ABSENT_TTL: Duration = Duration::from_secs(1);

/// How often, and after which time, a file is opened again that another thread is just looking at.
const LEASE_TRIES: u32 = 100;
const LEASE_STEP: Duration = Duration::from_micros(100);

/// The folders of all attempts of this mount.
///
/// Errors: `System` with the system's errno; `Stale` for an attempt that is over or an inode that
/// is not known any more; `Unsupported` for what this filesystem does not do.
#[derive(Debug)]
pub struct Work {
    /// Inodes are numbered upwards from here.
    first_ino: u64,
    /// `/proc/self/fd`: reopens what an `O_PATH` descriptor names, without a path.
    proc_fds: OwnedFd,
    /// Whether new files can be given to the caller.
    root: bool,
    /// Handles of the whole tree are numbered from this.
    next_handle: Arc<AtomicU64>,
    /// Attempts are numbered from this.
    next_attempt: AtomicU64,
    inodes: RwLock<Table>,
    cache: Arc<Cache>,
    room: Arc<Reserve>,
    growth: Arc<Growth>,
    hidden: Hidden,
    off: Off,
    /// That of names which move from folder to folder: the system moves one at a time on a disk.
    moving: Lock,
    cuts: Cuts,
    files: RwLock<Files>,
    folders: RwLock<Folders>,
}

impl Work {
    /// No attempts yet. Inodes count up from `first_ino` and are never reused; handles are taken
    /// from `next_handle`, which the whole tree shares, and what is left of the disk is that of `room`. To be
    /// called in the process that serves the requests (after any fork): it holds on to that process's
    /// descriptor table.
    pub(crate) fn new(first_ino: u64, next_handle: Arc<AtomicU64>, room: Arc<Reserve>) -> Result<Work> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let proc_fds = open("/proc/self/fd", flags, Mode::empty())
            .map_err(|errno| system("/proc/self/fd (is /proc mounted?)", errno))?;
        let cache = Arc::new(Cache::new());
        let known: Weak<Cache> = Arc::downgrade(&cache);
        descriptors::register(known);
        let growth = Arc::new(Growth::new(room.clone()));
        Ok(Work {
            first_ino,
            proc_fds,
            root: geteuid().is_root(),
            next_handle,
            next_attempt: AtomicU64::new(1),
            inodes: RwLock::new(Table::new(first_ino, growth.clone())),
            cache,
            room,
            growth,
            hidden: Hidden::default(),
            off: Off::default(),
            moving: Lock::default(),
            cuts: Cuts::default(),
            files: RwLock::default(),
            folders: RwLock::default(),
        })
    }

    /// Begins an attempt, without folders so far.
    pub fn begin(&self) -> Arc<Attempt> {
        Arc::new(Attempt::new(self.next_attempt.fetch_add(1, Ordering::Relaxed)))
    }

    /// Shows a local directory as a root of the attempt. The inode stays known until `kill`.
    pub fn attach(&self, attempt: &Arc<Attempt>, dir: &Path) -> Result<Ino> {
        let _gate = attempt.enter()?;
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let place = dir.display();
        let fd = spared(|| open(dir, flags, Mode::empty())).map_err(|errno| system(&place, errno))?;
        let stat = fstat(&fd).map_err(|errno| system(&place, errno))?;
        let inode = self.table_mut().pin(attempt, dir.to_owned(), &stat);
        if inode.hold(&Arc::new(fd.into())) {
            self.cache.keep(&inode);
        }
        attempt.add_root(inode.ino);
        Ok(inode.ino)
    }

    /// The answer to a lookup that led to this inode, a root for instance; it counts as one.
    pub fn found(&self, ino: Ino) -> Result<Found> {
        let inode = self.inode(ino)?;
        let _gate = inode.attempt.enter()?;
        let attributes = self.attributes(&inode)?;
        self.table_mut().count(&inode);
        Ok(Found {
            attributes,
            name_ttl: TTL,
            generation: 0,
        })
    }

    /// The answer to a lookup that led nowhere: a compiler looks for each header in a dozen folders,
    /// and the kernel, which sees every new name, need not ask each time.
    pub fn absent() -> Found {
        let never = std::time::SystemTime::UNIX_EPOCH;
        let attr = Attr {
            ino: Ino(0),
            kind: Kind::File,
            mode: 0,
            nlink: 0,
            uid: 0,
            gid: 0,
            rdev: 0,
            size: 0,
            blocks: 0,
            atime: never,
            mtime: never,
            ctime: never,
        };
        Found {
            attributes: Attributes { attr, ttl: ABSENT_TTL },
            name_ttl: ABSENT_TTL,
            generation: 0,
        }
    }

    /// Ends an attempt. When this returns no path operation of it is under way, none will be, and
    /// its directories are held by nothing but the files that are still open. Returns the inodes
    /// of which the kernel should forget the attributes.
    pub fn kill(&self, attempt: &Attempt) -> Vec<Ino> {
        attempt.end();
        self.growth.forget(attempt);
        let known = self.table_mut().detach(attempt);
        self.close_folders(attempt);
        known.into_iter().map(|(ino, _path)| ino).collect()
    }

    /// The inodes of an attempt that the kernel may know, its roots among them.
    pub fn inodes_of(&self, attempt: &Attempt) -> Vec<Ino> {
        self.table().of(attempt)
    }

    /// The attempt that an inode belongs to, if the inode is known.
    pub fn attempt_of(&self, ino: Ino) -> Option<Arc<Attempt>> {
        self.table().get(ino).map(|inode| inode.attempt.clone())
    }

    /// Files are passed through while so many bytes are free.
    pub fn pass_from(&self, bytes: u64) {
        self.room.pass_from(bytes);
    }

    /// Takes notice of a changed limit of the process's descriptors. To be called now and then.
    pub fn adapt(&self) {
        self.cache.adapt();
    }

    /// Whether requests for this inode are to be answered here.
    pub fn owns(&self, ino: Ino) -> bool {
        ino.0 >= self.first_ino
    }

    /// The kernel drops `count` lookups of an inode.
    pub fn forget(&self, ino: Ino, count: u64) {
        let forgotten = self.table_mut().forget(ino, count);
        if let Some(inode) = forgotten {
            self.forgotten(&inode);
        }
    }

    /// Forgets what the kernel forgot while something was done with it. To be called after whatever lasts.
    fn forget_left(&self) {
        if self.table().has_left() {
            let forgotten = self.table_mut().forget_left();
            forgotten.iter().for_each(|inode| self.forgotten(inode));
        }
    }

    /// An inode that the kernel named.
    fn inode(&self, ino: Ino) -> Result<Arc<Inode>> {
        self.table()
            .get(ino)
            .ok_or_else(|| Error::Stale(format!("inode {}: gone with its claim", ino.0)))
    }

    /// The table, to read.
    fn table(&self) -> RwLockReadGuard<'_, Table> {
        self.inodes.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The table, to change.
    fn table_mut(&self) -> RwLockWriteGuard<'_, Table> {
        self.inodes.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new handle's number.
    fn handle(&self) -> u64 {
        self.next_handle.fetch_add(1, Ordering::Relaxed)
    }

    /// Opens what an `O_PATH` descriptor names.
    fn reopen(&self, fd: &File, flags: OFlag) -> nix::Result<File> {
        let flags = flags | OFlag::O_CLOEXEC | OFlag::O_NOCTTY | OFlag::O_NONBLOCK;
        let name = fd_name(fd);
        let open = || spared(|| openat(&self.proc_fds, name.as_str(), flags, Mode::empty())).map(File::from);
        // Whether a file is being written is asked, when it is stored, by a lease of a moment (snapshot/lease.rs).
        for _ in 0..LEASE_TRIES {
            match open() {
                Err(Errno::EAGAIN) => std::thread::sleep(LEASE_STEP),
                done => return done,
            }
        }
        open()
    }
}

/// The name of a descriptor in `/proc/self/fd`.
fn fd_name(fd: &impl AsRawFd) -> String {
    fd.as_raw_fd().to_string()
}

/// The error for an errno of the system.
fn system(what: impl Display, errno: Errno) -> Error {
    match errno {
        Errno::ENODATA => Error::NoData,
        Errno::ERANGE => Error::Range,
        Errno::EOPNOTSUPP => Error::Unsupported(what.to_string()),
        _ => Error::System {
            what: what.to_string(),
            errno: errno as i32,
        },
    }
}

/// The error for what the standard library reports of the system.
fn io_error(what: impl Display, error: &io::Error) -> Error {
    system(what, Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))
}
