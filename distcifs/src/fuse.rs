//! Kernel request -> tree call -> reply.
//!
//! No decision is made here: a handler makes the tree's future and hands it to [`answer`], with
//! what turns its value into a reply. Every pub item stands in [`session`].

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::SystemTime;

use bytes::Bytes;
use fuser::{
    BsdFileFlags, CopyFileRangeFlags, FileHandle, Filesystem, FopenFlags, Generation, INodeNo,
    KernelConfig, LockOwner, OpenFlags, PollEvents, PollFlags, PollNotifier, RenameFlags,
    ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry,
    ReplyIoctl, ReplyLseek, ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr, Request,
    TimeOrNow, WriteFlags,
};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

mod answer;
mod attr;
mod errno;
mod folders;
mod passthrough;
pub mod session;

use crate::repository::Result;
use crate::tree::requests::{Tree, Waker};
use crate::tree::{Attributes, Caller, Found, Ino, Opened, SetAttr};
use answer::{Asked, answer};
use attr::{file_attr, time_to_set};
use passthrough::Passthrough;

/// Inode numbers are never used twice in a mount, so there is only one generation.
const GENERATION: Generation = Generation(0);

/// Longest name that statfs(2) tells: NAME_MAX.
const NAME_BYTES_MAX: u32 = 255;

/// Names in an answer to readdir: a page of the kernel's buffer holds about that many.
const NAMES_PER_READDIR: usize = 128;

/// Entries with attributes in an answer to readdirplus: fewer, as each costs a lookup.
const ENTRIES_PER_READDIRPLUS: usize = 64;

/// The filesystem that fuser's threads call.
struct Mount {
    tree: Arc<Tree>,
    runtime: Handle,
    passthrough: Arc<Passthrough<fuser::BackingId>>,
    /// Whether the mount's user wants passthrough.
    may_pass: bool,
    /// Inodes whose attributes the kernel may have wrong; they are told from another thread,
    /// for telling them from within a request can deadlock.
    stale_attributes: SyncSender<u64>,
    /// Dropped when the session has ended.
    ended: Option<oneshot::Sender<()>>,
}

impl Mount {
    /// Answers with what the tree makes of a request.
    fn answer<R, T, F>(
        &self,
        reply: R,
        asked: Asked,
        ask: impl FnOnce(Arc<Tree>) -> F,
        accept: impl FnOnce(R, T) + Send + 'static,
    ) where
        R: answer::Refuse,
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        answer(
            &self.runtime,
            reply,
            asked,
            ask(Arc::clone(&self.tree)),
            accept,
        );
    }
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

fn entry(reply: ReplyEntry, found: Found) {
    let Attributes { attr, ttl } = found.attributes;
    reply.entry_with_ttls(&ttl, &found.name_ttl, &file_attr(&attr), GENERATION);
}

fn attributes(reply: ReplyAttr, Attributes { attr, ttl }: Attributes) {
    reply.attr(&ttl, &file_attr(&attr));
}

fn done(reply: ReplyEmpty, (): ()) {
    reply.ok();
}

/// A value of an extended attribute, or only its size when the caller gave no buffer.
fn xattr(size: u32) -> impl FnOnce(ReplyXattr, Bytes) + Send {
    move |reply, value| match u32::try_from(value.len()) {
        Ok(length) if size == 0 => reply.size(length),
        Ok(length) if length <= size => reply.data(&value),
        Ok(_) | Err(_) => reply.error(fuser::Errno::ERANGE),
    }
}

/// What the kernel may do with an open file that it asks us about.
fn open_flags(opened: &Opened) -> FopenFlags {
    let mut flags = FopenFlags::empty();
    flags.set(FopenFlags::FOPEN_DIRECT_IO, opened.direct_io);
    flags.set(
        FopenFlags::FOPEN_KEEP_CACHE,
        opened.keep_cache && !opened.direct_io,
    );
    flags.set(FopenFlags::FOPEN_NONSEEKABLE, opened.nonseekable);
    flags
}

/// With a passed-through file the kernel takes no other flag but this one: a flush would reach us
/// with nothing to flush.
const PASSED_FLAGS: FopenFlags = FopenFlags::FOPEN_NOFLUSH;

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
        let (who, asked) = (
            caller(request),
            Asked::name("lookup", request, parent, name),
        );
        let name = name.to_owned();
        self.answer(
            reply,
            asked,
            |tree| async move { tree.lookup(who, ino(parent), name).await },
            entry,
        );
    }

    fn forget(&self, _request: &Request, number: INodeNo, count: u64) {
        self.tree.forget(ino(number), count);
    }

    fn getattr(
        &self,
        request: &Request,
        number: INodeNo,
        handle: Option<FileHandle>,
        reply: ReplyAttr,
    ) {
        let (who, asked) = (caller(request), Asked::node("getattr", request, number));
        let handle = handle.map(u64::from);
        self.answer(
            reply,
            asked,
            |tree| async move { tree.getattr(who, ino(number), handle).await },
            attributes,
        );
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
        let (handle, atime, mtime) = (
            handle.map(u64::from),
            time_to_set(atime),
            time_to_set(mtime),
        );
        let set = SetAttr {
            mode,
            uid,
            gid,
            size,
            atime,
            mtime,
        };
        self.answer(
            reply,
            asked,
            |tree| async move { tree.setattr(who, ino(number), handle, set).await },
            attributes,
        );
    }

    fn readlink(&self, request: &Request, number: INodeNo, reply: ReplyData) {
        let (who, asked) = (caller(request), Asked::node("readlink", request, number));
        let ask = |tree: Arc<Tree>| async move { tree.readlink(who, ino(number)).await };
        self.answer(reply, asked, ask, |reply, target| {
            reply.data(target.as_encoded_bytes())
        });
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
        self.answer(
            reply,
            asked,
            |tree| async move { tree.mknod(who, ino(parent), name, mode, rdev).await },
            entry,
        );
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let (who, asked) = (caller(request), Asked::name("mkdir", request, parent, name));
        let (name, mode) = (name.to_owned(), mode & !umask);
        self.answer(
            reply,
            asked,
            |tree| async move { tree.mkdir(who, ino(parent), name, mode).await },
            entry,
        );
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (who, asked) = (
            caller(request),
            Asked::name("unlink", request, parent, name),
        );
        let name = name.to_owned();
        self.answer(
            reply,
            asked,
            |tree| async move { tree.unlink(who, ino(parent), name).await },
            done,
        );
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (who, asked) = (caller(request), Asked::name("rmdir", request, parent, name));
        let name = name.to_owned();
        self.answer(
            reply,
            asked,
            |tree| async move { tree.rmdir(who, ino(parent), name).await },
            done,
        );
    }

    fn symlink(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let (who, asked) = (
            caller(request),
            Asked::name("symlink", request, parent, name),
        );
        let (name, target) = (name.to_owned(), target.as_os_str().to_owned());
        self.answer(
            reply,
            asked,
            |tree| async move { tree.symlink(who, ino(parent), name, target).await },
            entry,
        );
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
        let (who, asked) = (
            caller(request),
            Asked::name("rename", request, parent, name),
        );
        let (name, new_name, flags) = (name.to_owned(), new_name.to_owned(), flags.bits());
        let ask = |tree: Arc<Tree>| async move {
            tree.rename(who, ino(parent), name, ino(new_parent), new_name, flags)
                .await
        };
        self.answer(reply, asked, ask, done);
    }

    fn link(
        &self,
        request: &Request,
        number: INodeNo,
        parent: INodeNo,
        name: &OsStr,
        reply: ReplyEntry,
    ) {
        let (who, asked) = (caller(request), Asked::name("link", request, parent, name));
        let name = name.to_owned();
        self.answer(
            reply,
            asked,
            |tree| async move { tree.link(who, ino(number), ino(parent), name).await },
            entry,
        );
    }

    fn open(&self, request: &Request, number: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let (who, asked, passthrough) = (
            caller(request),
            Asked::node("open", request, number),
            Arc::clone(&self.passthrough),
        );
        let flags = flags.0;
        let ask = |tree: Arc<Tree>| async move { tree.open(who, ino(number), flags).await };
        self.answer(reply, asked, ask, move |reply, opened: Opened| {
            let handle = FileHandle(opened.handle);
            match passthrough.opened(number.0, &opened, writable(flags), |file| {
                reply.open_backing(file)
            }) {
                Some(id) => reply.opened_passthrough(handle, PASSED_FLAGS, &id),
                None => reply.opened(handle, open_flags(&opened)),
            }
        });
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
        let (who, asked, passthrough) = (
            caller(request),
            Asked::name("create", request, parent, name),
            Arc::clone(&self.passthrough),
        );
        let (name, mode) = (name.to_owned(), mode & !umask);
        let ask =
            |tree: Arc<Tree>| async move { tree.create(who, ino(parent), name, mode, flags).await };
        self.answer(
            reply,
            asked,
            ask,
            move |reply, (found, opened): (Found, Opened)| {
                let Attributes { attr, ttl } = found.attributes;
                // fuser has one lifetime for both here: the shorter one is right for both.
                let (ttl, handle) = (ttl.min(found.name_ttl), FileHandle(opened.handle));
                let attr = file_attr(&attr);
                match passthrough.opened(attr.ino.0, &opened, writable(flags), |file| {
                    reply.open_backing(file)
                }) {
                    Some(id) => reply.created_passthrough(
                        &ttl,
                        &attr,
                        GENERATION,
                        handle,
                        PASSED_FLAGS,
                        &id,
                    ),
                    None => reply.created(&ttl, &attr, GENERATION, handle, open_flags(&opened)),
                }
            },
        );
    }

    fn read(
        &self,
        request: &Request,
        number: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let (who, asked) = (caller(request), Asked::node("read", request, number));
        let ask = |tree: Arc<Tree>| async move {
            tree.read(who, ino(number), handle.0, offset, size).await
        };
        self.answer(reply, asked, ask, |reply, data: Bytes| reply.data(&data));
    }

    fn write(
        &self,
        request: &Request,
        number: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let (who, asked) = (caller(request), Asked::node("write", request, number));
        let data = Bytes::copy_from_slice(data);
        let ask = |tree: Arc<Tree>| async move {
            tree.write(who, ino(number), handle.0, offset, data).await
        };
        self.answer(reply, asked, ask, |reply, written| reply.written(written));
    }

    fn flush(
        &self,
        request: &Request,
        number: INodeNo,
        handle: FileHandle,
        _owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        let (who, asked) = (caller(request), Asked::node("flush", request, number));
        self.answer(
            reply,
            asked,
            |tree| async move { tree.flush(who, ino(number), handle.0).await },
            done,
        );
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

    fn fsync(
        &self,
        request: &Request,
        number: INodeNo,
        handle: FileHandle,
        datasync: bool,
        reply: ReplyEmpty,
    ) {
        let (who, asked) = (caller(request), Asked::node("fsync", request, number));
        self.answer(
            reply,
            asked,
            |tree| async move { tree.fsync(who, ino(number), handle.0, datasync).await },
            done,
        );
    }

    fn opendir(&self, request: &Request, number: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let (who, asked) = (caller(request), Asked::node("opendir", request, number));
        let ask = |tree: Arc<Tree>| async move { tree.opendir(who, ino(number)).await };
        self.answer(reply, asked, ask, |reply, opened: Opened| {
            let mut flags = FopenFlags::empty();
            let cached = FopenFlags::FOPEN_CACHE_DIR | FopenFlags::FOPEN_KEEP_CACHE;
            flags.set(cached, opened.keep_cache);
            reply.opened(FileHandle(opened.handle), flags);
        });
    }

    fn readdir(
        &self,
        request: &Request,
        number: INodeNo,
        handle: FileHandle,
        offset: u64,
        reply: ReplyDirectory,
    ) {
        let (who, asked) = (caller(request), Asked::node("readdir", request, number));
        let ask = |tree: Arc<Tree>| async move {
            tree.readdir(who, ino(number), handle.0, offset, NAMES_PER_READDIR, false)
                .await
        };
        self.answer(reply, asked, ask, folders::names);
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
        let ask = |tree: Arc<Tree>| async move {
            tree.readdir(
                who,
                ino(number),
                handle.0,
                offset,
                ENTRIES_PER_READDIRPLUS,
                true,
            )
            .await
        };
        let tree = Arc::clone(&self.tree);
        self.answer(reply, asked, ask, move |reply, entries| {
            folders::entries(reply, entries, &tree)
        });
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

    fn fsyncdir(
        &self,
        request: &Request,
        number: INodeNo,
        handle: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        let (who, asked) = (caller(request), Asked::node("fsyncdir", request, number));
        self.answer(
            reply,
            asked,
            |tree| async move { tree.fsyncdir(who, ino(number), handle.0).await },
            done,
        );
    }

    fn statfs(&self, request: &Request, number: INodeNo, reply: ReplyStatfs) {
        let asked = Asked::node("statfs", request, number);
        let ask = |tree: Arc<Tree>| async move { tree.statfs(ino(number)).await };
        self.answer(reply, asked, ask, |reply, space| {
            let (block, name) = (space.block_size, NAME_BYTES_MAX);
            reply.statfs(
                space.blocks,
                space.free,
                space.available,
                space.files,
                space.files_free,
                block,
                name,
                block,
            );
        });
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
        let (who, asked) = (
            caller(request),
            Asked::name("setxattr", request, number, name),
        );
        let (name, value) = (name.to_owned(), Bytes::copy_from_slice(value));
        self.answer(
            reply,
            asked,
            |tree| async move { tree.setxattr(who, ino(number), name, value, flags).await },
            done,
        );
    }

    fn getxattr(
        &self,
        request: &Request,
        number: INodeNo,
        name: &OsStr,
        size: u32,
        reply: ReplyXattr,
    ) {
        let (who, asked) = (
            caller(request),
            Asked::name("getxattr", request, number, name),
        );
        let name = name.to_owned();
        self.answer(
            reply,
            asked,
            |tree| async move { tree.getxattr(who, ino(number), name).await },
            xattr(size),
        );
    }

    fn listxattr(&self, request: &Request, number: INodeNo, size: u32, reply: ReplyXattr) {
        let (who, asked) = (caller(request), Asked::node("listxattr", request, number));
        self.answer(
            reply,
            asked,
            |tree| async move { tree.listxattr(who, ino(number)).await },
            xattr(size),
        );
    }

    fn removexattr(&self, request: &Request, number: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (who, asked) = (
            caller(request),
            Asked::name("removexattr", request, number, name),
        );
        let name = name.to_owned();
        self.answer(
            reply,
            asked,
            |tree| async move { tree.removexattr(who, ino(number), name).await },
            done,
        );
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
        let wake = flags
            .contains(PollFlags::FUSE_POLL_SCHEDULE_NOTIFY)
            .then(|| -> Waker {
                Box::new(move || {
                    if let Err(error) = notifier.notify() {
                        tracing::debug!("a poll was not woken: {error}");
                    }
                })
            });
        let ask = |tree: Arc<Tree>| async move {
            tree.poll(who, ino(number), handle.0, events.bits(), wake)
                .await
        };
        self.answer(reply, asked, ask, |reply, ready| {
            reply.poll(PollEvents::from_bits_truncate(ready))
        });
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
        let ask = |tree: Arc<Tree>| async move {
            tree.fallocate(who, ino(number), handle.0, offset, length, mode)
                .await
        };
        self.answer(reply, asked, ask, done);
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
        let ask = |tree: Arc<Tree>| async move {
            tree.lseek(ino(number), handle.0, offset, whence).await
        };
        self.answer(reply, asked, ask, |reply, offset| reply.offset(offset));
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
        let ask = |tree: Arc<Tree>| async move {
            let (from, to) = (ino(from), ino(to));
            tree.copy_file_range(
                who,
                from,
                from_handle.0,
                from_offset,
                to,
                to_handle.0,
                to_offset,
                length,
            )
            .await
        };
        self.answer(reply, asked, ask, |reply, copied| {
            reply.written(u32::try_from(copied).unwrap_or(COPY_BYTES_MAX));
        });
    }
}

/// Bytes that one copy_file_range answers for at most: what fits in the reply, in whole pages.
const COPY_BYTES_MAX: u32 = !0xfff;
