//! Values of the tree as replies.

use std::sync::Arc;

use bytes::Bytes;
use fuser::{
    BackingId, FileHandle, FopenFlags, Generation, ReplyAttr, ReplyCreate, ReplyEmpty, ReplyEntry, ReplyOpen,
    ReplyStatfs, ReplyWrite, ReplyXattr,
};

use super::attr::file_attr;
use super::passthrough::Passthrough;
use crate::tree::{Attributes, Found, Opened, Space};

/// The generation of a file that is made: inode numbers are used twice for restored folders alone.
const GENERATION: Generation = Generation(0);

/// Longest name that statfs(2) tells: NAME_MAX.
const NAME_BYTES_MAX: u32 = 255;

/// Bytes that one copy_file_range answers for at most: what fits in the reply, in whole pages.
pub(super) const COPY_BYTES_MAX: u32 = !0xfff;

/// What a name leads to.
pub(super) fn entry(reply: ReplyEntry, found: Found) {
    let Attributes { attr, ttl } = found.attributes;
    reply.entry_with_ttls(&ttl, &found.name_ttl, &file_attr(&attr), Generation(found.generation));
}

/// Attributes.
pub(super) fn attributes(reply: ReplyAttr, Attributes { attr, ttl }: Attributes) {
    reply.attr(&ttl, &file_attr(&attr));
}

/// Nothing but that it is done.
pub(super) fn done(reply: ReplyEmpty, (): ()) {
    reply.ok();
}

/// A value of an extended attribute, or only its size when the caller gave no buffer.
pub(super) fn xattr(size: u32) -> impl FnOnce(ReplyXattr, Bytes) + Send {
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
    flags.set(FopenFlags::FOPEN_KEEP_CACHE, opened.keep_cache && !opened.direct_io);
    flags.set(FopenFlags::FOPEN_NONSEEKABLE, opened.nonseekable);
    flags.set(FopenFlags::FOPEN_NOFLUSH, !opened.flushes);
    flags
}

/// With a passed-through file the kernel takes no other flag but this one: a flush would reach us
/// with nothing to flush.
const PASSED_FLAGS: FopenFlags = FopenFlags::FOPEN_NOFLUSH;

/// The figures of statfs(2).
pub(super) fn space(reply: ReplyStatfs, space: Space) {
    let (block, name) = (space.block_size, NAME_BYTES_MAX);
    let Space {
        blocks,
        free,
        available,
        files,
        files_free,
        ..
    } = space;
    reply.statfs(blocks, free, available, files, files_free, block, name, block);
}

/// How much a copy_file_range copied, bytes.
pub(super) fn copied(reply: ReplyWrite, copied: u64) {
    reply.written(u32::try_from(copied).unwrap_or(COPY_BYTES_MAX));
}

/// An open file, passed through if it can be.
pub(super) fn opened(
    passthrough: Arc<Passthrough<BackingId>>,
    ino: u64,
    writable: bool,
) -> impl FnOnce(ReplyOpen, Opened) + Send {
    move |reply, opened| {
        let handle = FileHandle(opened.handle);
        match passthrough.opened(ino, &opened, writable, |file| reply.open_backing(file)) {
            Some(id) => reply.opened_passthrough(handle, PASSED_FLAGS, &id),
            None => reply.opened(handle, open_flags(&opened)),
        }
    }
}

/// A new file that is open, passed through if it can be.
pub(super) fn created(
    passthrough: Arc<Passthrough<BackingId>>,
    writable: bool,
) -> impl FnOnce(ReplyCreate, (Found, Opened)) + Send {
    move |reply, (found, opened)| {
        let Attributes { attr, ttl } = found.attributes;
        // fuser has one lifetime for both here: the shorter one is right for both.
        let (ttl, handle) = (ttl.min(found.name_ttl), FileHandle(opened.handle));
        let (ino, attr) = (attr.ino.0, file_attr(&attr));
        match passthrough.opened(ino, &opened, writable, |file| reply.open_backing(file)) {
            Some(id) => reply.created_passthrough(&ttl, &attr, GENERATION, handle, PASSED_FLAGS, &id),
            None => reply.created(&ttl, &attr, GENERATION, handle, open_flags(&opened)),
        }
    }
}

/// An open folder; the kernel keeps its entries if they can't change.
pub(super) fn opened_folder(reply: ReplyOpen, opened: Opened) {
    let cached = FopenFlags::FOPEN_CACHE_DIR | FopenFlags::FOPEN_KEEP_CACHE;
    let flags = if opened.keep_cache { cached } else { FopenFlags::empty() };
    reply.opened(FileHandle(opened.handle), flags);
}
