//! Kernel request -> tree call -> reply.
//!
//! No decision is made here: a handler makes the tree's future and hands it to [`answer()`], with
//! what turns its value into a reply. Every pub item stands in [`session`].

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::SystemTime;

use bytes::Bytes;
use fuser::{
    BsdFileFlags, CopyFileRangeFlags, FileHandle, Filesystem, INodeNo, KernelConfig, LockOwner, OpenFlags, PollEvents,
    PollFlags, PollNotifier, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus,
    ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr, Request,
    TimeOrNow, WriteFlags,
};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

mod answer;
mod attr;
mod budget;
mod errno;
mod folders;
mod forgetting;
mod passthrough;
mod replies;
pub mod session;
mod sleeper;

use crate::tree::requests::{Tree, Waker};
use crate::tree::{Caller, Ino, SetAttr};
use answer::{Asked, answer};
use attr::time_to_set;
use budget::{Budget, Budgets, Next};
use passthrough::Passthrough;
use replies::{COPY_BYTES_MAX, attributes, copied, done, entry, xattr};

/// Names in an answer to readdir: a page of the kernel's buffer holds about that many.
const NAMES_PER_READDIR: usize = 128;

/// Entries with attributes in an answer to readdirplus: fewer, as each costs a lookup.
const ENTRIES_PER_READDIRPLUS: usize = 64;

/// The filesystem that fuser's threads call.
struct Mount {
    tree: Arc<Tree>,
    runtime: Handle,
    passthrough: Arc<Passthrough<fuser::BackingId>>,
    budgets: Arc<Budgets>,
    /// Whether the mount's user wants passthrough.
    may_pass: bool,
    /// Inodes whose attributes the kernel may have wrong; they are told from another thread,
    /// for telling them from within a request can deadlock.
    stale_attributes: SyncSender<u64>,
    /// Dropped when the session has ended.
    ended: Option<oneshot::Sender<()>>,
}

/// Answers with what a method of the tree gives, turned into a reply by the last argument; `by` a
/// time, for what only looks; `through` a node, at which whoever asks may go on.
macro_rules! ask {
    ($mount:ident, $reply:ident, $asked:ident; $method:ident($($argument:expr),*) => $accept:expr) => {{
        let tree = Arc::clone(&$mount.tree);
        let future = async move { tree.$method($($argument),*).await };
        ask!($mount, $reply, $asked, future, $accept);
    }};
    ($mount:ident, $reply:ident, $asked:ident; by $budget:expr; $method:ident($($argument:expr),*) => $accept:expr) => {{
        let tree = Arc::clone(&$mount.tree);
        let future = $budget.end.bind(async move { tree.$method($($argument),*).await });
        ask!($mount, $reply, $asked, future, $accept);
    }};
    ($mount:ident, $reply:ident, $asked:ident; through $number:ident by $budget:expr;
     $method:ident($($argument:expr),*) => $accept:expr) => {{
        let (tree, budgets, budget) = (Arc::clone(&$mount.tree), Arc::clone(&$mount.budgets), $budget);
        let future = async move {
            let told = budget.end.bind(tree.$method($($argument),*)).await;
            if told.is_ok() {
                budgets.goes_on(budget, Next::At($number.0));
            }
            told
        };
        ask!($mount, $reply, $asked, future, $accept);
    }};
    ($mount:ident, $reply:ident, $asked:ident, $future:ident, $accept:expr) => {{
        let tree = Arc::clone(&$mount.tree);
        let path = move |number| tree.path_of(Ino(number));
        answer(&$mount.runtime, $reply, $asked, path, $future, $accept);
    }};
}

/// The errno of an error, for tests of the layers below.
#[cfg(test)]
pub(crate) fn errno_of(error: &crate::tree::Error) -> i32 {
    errno::errno(error).into()
}

/// Who asks.
fn caller(request: &Request) -> Caller {
    Caller {
        tid: request.pid(),
        uid: request.uid(),
        gid: request.gid(),
    }
}

/// The tree's number of an inode.
fn ino(number: INodeNo) -> Ino {
    Ino(number.0)
}

/// Whether flags of open(2) allow writing.
fn writable(flags: i32) -> bool {
    flags & libc::O_ACCMODE != libc::O_RDONLY
}

impl Filesystem for Mount {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        if session::ask_kernel(config, self.may_pass) {
            self.passthrough.switch_on();
        }
        Ok(())
    }

    fn destroy(&mut self) {
        drop(self.ended.take());
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let who = caller(request);
        let asked = Asked::name("lookup", request, parent, name);
        let name = name.to_owned();
        let budget = self.budgets.budget(who.tid, parent.0, Some(&name));
        let (tree, budgets) = (Arc::clone(&self.tree), Arc::clone(&self.budgets));
        let future = async move {
            let found = budget.end.bind(tree.lookup(who, ino(parent), name.clone())).await;
            let next = match &found {
                Ok(found) => Next::At(found.attributes.attr.ino.0),
                Err(_) => Next::Again(parent.0, name),
            };
            budgets.goes_on(budget, next);
            found
        };
        ask!(self, reply, asked, future, entry);
    }

    fn forget(&self, _request: &Request, number: INodeNo, count: u64) {
        self.tree.forget(ino(number), count);
    }

    fn getattr(&self, request: &Request, number: INodeNo, handle: Option<FileHandle>, reply: ReplyAttr) {
        let (who, asked) = (caller(request), Asked::node("getattr", request, number));
        let handle = handle.map(u64::from);
        ask!(self, reply, asked; through number by self.budgets.budget(who.tid, number.0, None);
            getattr(who, ino(number), handle) => attributes);
    }

    fn setattr(
        &self,
        request: &Request,
        number: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let (who, asked) = (caller(request), Asked::node("setattr", request, number));
        let (handle, atime, mtime) = (handle.map(u64::from), time_to_set(atime), time_to_set(mtime));
        let set = SetAttr {
            mode,
            uid,
            gid,
            size,
            atime,
            mtime,
        };
        ask!(self, reply, asked; setattr(who, ino(number), handle, set) => attributes);
    }

    fn readlink(&self, request: &Request, number: INodeNo, reply: ReplyData) {
        let (who, asked) = (caller(request), Asked::node("readlink", request, number));
        ask!(self, reply, asked; by self.budgets.budget(who.tid, number.0, None);
            readlink(who, ino(number))
            => |reply, target| { reply.data(target.as_encoded_bytes()) });
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let (who, asked) = (caller(request), Asked::name("mknod", request, parent, name));
        let (name, mode) = (name.to_owned(), mode & !umask);
        ask!(self, reply, asked; mknod(who, ino(parent), name, mode, rdev) => entry);
    }

    fn mkdir(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        let (who, asked) = (caller(request), Asked::name("mkdir", request, parent, name));
        let (name, mode) = (name.to_owned(), mode & !umask);
        ask!(self, reply, asked; mkdir(who, ino(parent), name, mode) => entry);
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let who = caller(request);
        let asked = Asked::name("unlink", request, parent, name);
        let name = name.to_owned();
        ask!(self, reply, asked; unlink(who, ino(parent), name) => done);
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (who, asked) = (caller(request), Asked::name("rmdir", request, parent, name));
        let name = name.to_owned();
        ask!(self, reply, asked; rmdir(who, ino(parent), name) => done);
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let who = caller(request);
        let asked = Asked::name("symlink", request, parent, name);
        let (name, target) = (name.to_owned(), target.as_os_str().to_owned());
        ask!(self, reply, asked; symlink(who, ino(parent), name, target) => entry);
    }

    fn rename(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let who = caller(request);
        let asked = Asked::name("rename", request, parent, name);
        let (name, new_name, flags) = (name.to_owned(), new_name.to_owned(), flags.bits());
        ask!(self, reply, asked;
            rename(who, ino(parent), name, ino(new_parent), new_name, flags)
            => done);
    }

    fn link(&self, request: &Request, number: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (who, asked) = (caller(request), Asked::name("link", request, parent, name));
        let name = name.to_owned();
        ask!(self, reply, asked; link(who, ino(number), ino(parent), name) => entry);
    }

    fn open(&self, request: &Request, number: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let who = caller(request);
        let asked = Asked::node("open", request, number);
        let accept = replies::opened(Arc::clone(&self.passthrough), number.0, writable(flags.0));
        ask!(self, reply, asked; through number by self.budgets.budget(who.tid, number.0, None);
            open(who, ino(number), flags.0) => accept);
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let who = caller(request);
        let asked = Asked::name("create", request, parent, name);
        let accept = replies::created(Arc::clone(&self.passthrough), writable(flags));
        let (name, mode) = (name.to_owned(), mode & !umask);
        ask!(self, reply, asked; create(who, ino(parent), name, mode, flags) => accept);
    }

    fn read(
        &self,
        request: &Request,
        number: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let (who, asked) = (caller(request), Asked::node("read", request, number));
        ask!(self, reply, asked; by Budget::alone(who.tid);
            // The kernel names the owner of locks for whoever reads, and for no page that it keeps.
            read_by(who, ino(number), handle.0, offset, size, owner.is_none())
            => |reply, data: Bytes| reply.data(&data));
    }

    fn write(
        &self,
        request: &Request,
        number: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        how: WriteFlags,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let (who, asked) = (caller(request), Asked::node("write", request, number));
        let (data, sheds) = (
            Bytes::copy_from_slice(data),
            how.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID),
        );
        ask!(self, reply, asked;
            write(who, (ino(number), handle.0), offset, data, sheds)
            => |reply, written| reply.written(written));
    }

    fn flush(&self, request: &Request, number: INodeNo, handle: FileHandle, _owner: LockOwner, reply: ReplyEmpty) {
        let (who, asked) = (caller(request), Asked::node("flush", request, number));
        ask!(self, reply, asked; flush(who, ino(number), handle.0) => done);
    }

    fn release(
        &self,
        _request: &Request,
        number: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let written = self.passthrough.released(number.0, handle.0);
        self.tree.release(ino(number), handle.0);
        reply.ok();
        // Stores through mmap leave the kernel's mtime as it was. When the queue is full the
        // attributes' lifetime is what mends it.
        if written && self.stale_attributes.try_send(number.0).is_err() {
            tracing::debug!("inode {number}: the queue of stale attributes is full");
        }
    }

    fn fsync(&self, request: &Request, number: INodeNo, handle: FileHandle, datasync: bool, reply: ReplyEmpty) {
        let (who, asked) = (caller(request), Asked::node("fsync", request, number));
        ask!(self, reply, asked; fsync(who, ino(number), handle.0, datasync) => done);
    }

    fn opendir(&self, request: &Request, number: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let (who, asked) = (caller(request), Asked::node("opendir", request, number));
        ask!(self, reply, asked; through number by self.budgets.budget(who.tid, number.0, None);
            opendir(who, ino(number)) => replies::opened_folder);
    }

    fn readdir(&self, request: &Request, number: INodeNo, handle: FileHandle, offset: u64, reply: ReplyDirectory) {
        let (who, asked) = (caller(request), Asked::node("readdir", request, number));
        ask!(self, reply, asked; by self.budgets.budget(who.tid, number.0, None);
            readdir(who, ino(number), handle.0, offset, NAMES_PER_READDIR, false)
            => folders::names);
    }

    fn readdirplus(
        &self,
        request: &Request,
        number: INodeNo,
        handle: FileHandle,
        offset: u64,
        reply: ReplyDirectoryPlus,
    ) {
        let (who, asked) = (caller(request), Asked::node("readdirplus", request, number));
        let forgetter = Arc::clone(&self.tree);
        let limit = ENTRIES_PER_READDIRPLUS;
        ask!(self, reply, asked; by self.budgets.budget(who.tid, number.0, None);
            readdir(who, ino(number), handle.0, offset, limit, true)
            => move |reply, entries| { folders::entries(reply, entries, &forgetter) });
    }

    fn releasedir(
        &self,
        _request: &Request,
        number: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.tree.releasedir(ino(number), handle.0);
        reply.ok();
    }

    fn fsyncdir(&self, request: &Request, number: INodeNo, handle: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        let (who, asked) = (caller(request), Asked::node("fsyncdir", request, number));
        ask!(self, reply, asked; fsyncdir(who, ino(number), handle.0) => done);
    }

    fn statfs(&self, request: &Request, number: INodeNo, reply: ReplyStatfs) {
        let asked = Asked::node("statfs", request, number);
        ask!(self, reply, asked; statfs(ino(number)) => replies::space);
    }

    fn setxattr(
        &self,
        request: &Request,
        number: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let who = caller(request);
        let asked = Asked::name("setxattr", request, number, name);
        let (name, value) = (name.to_owned(), Bytes::copy_from_slice(value));
        ask!(self, reply, asked; setxattr(who, ino(number), name, value, flags) => done);
    }

    fn getxattr(&self, request: &Request, number: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let who = caller(request);
        let asked = Asked::name("getxattr", request, number, name);
        let name = name.to_owned();
        ask!(self, reply, asked; by self.budgets.budget(who.tid, number.0, None); getxattr(who, ino(number), name) => xattr(size));
    }

    fn listxattr(&self, request: &Request, number: INodeNo, size: u32, reply: ReplyXattr) {
        let (who, asked) = (caller(request), Asked::node("listxattr", request, number));
        ask!(self, reply, asked; by self.budgets.budget(who.tid, number.0, None); listxattr(who, ino(number)) => xattr(size));
    }

    fn removexattr(&self, request: &Request, number: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let who = caller(request);
        let asked = Asked::name("removexattr", request, number, name);
        let name = name.to_owned();
        ask!(self, reply, asked; removexattr(who, ino(number), name) => done);
    }

    fn ioctl(
        &self,
        _request: &Request,
        _number: INodeNo,
        _handle: FileHandle,
        _flags: fuser::IoctlFlags,
        _command: u32,
        _data: &[u8],
        _size: u32,
        reply: ReplyIoctl,
    ) {
        // What isatty(3) and friends expect of a file.
        reply.error(fuser::Errno::ENOTTY);
    }

    fn poll(
        &self,
        request: &Request,
        number: INodeNo,
        handle: FileHandle,
        notifier: PollNotifier,
        events: PollEvents,
        flags: PollFlags,
        reply: ReplyPoll,
    ) {
        let (who, asked) = (caller(request), Asked::node("poll", request, number));
        let wake = flags.contains(PollFlags::FUSE_POLL_SCHEDULE_NOTIFY).then(|| -> Waker {
            Box::new(move || {
                if let Err(error) = notifier.notify() {
                    tracing::debug!("a poll was not woken: {error}");
                }
            })
        });
        ask!(self, reply, asked;
            poll(who, ino(number), handle.0, events.bits(), wake)
            => |reply, ready| { reply.poll(PollEvents::from_bits_truncate(ready)) });
    }

    fn fallocate(
        &self,
        request: &Request,
        number: INodeNo,
        handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let (who, asked) = (caller(request), Asked::node("fallocate", request, number));
        ask!(self, reply, asked;
            fallocate(who, ino(number), handle.0, offset, length, mode)
            => done);
    }

    fn lseek(
        &self,
        request: &Request,
        number: INodeNo,
        handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let asked = Asked::node("lseek", request, number);
        ask!(self, reply, asked;
            lseek(ino(number), handle.0, offset, whence)
            => |reply, offset| reply.offset(offset));
    }

    fn copy_file_range(
        &self,
        request: &Request,
        from: INodeNo,
        from_handle: FileHandle,
        from_offset: u64,
        to: INodeNo,
        to_handle: FileHandle,
        to_offset: u64,
        length: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let (who, asked) = (caller(request), Asked::node("copy_file_range", request, to));
        // The reply holds 32 bits; a copy may always be shorter than was asked.
        let length = length.min(u64::from(COPY_BYTES_MAX));
        ask!(self, reply, asked;
            copy_file_range(who, ino(from), from_handle.0, from_offset, ino(to), to_handle.0, to_offset, length)
            => copied);
    }
}
