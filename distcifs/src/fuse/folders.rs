//! Entries of folders in the kernel's form.

use std::time::{Duration, SystemTime};

use fuser::{Generation, INodeNo, ReplyDirectory, ReplyDirectoryPlus};

use super::attr::{file_attr, file_type};
use crate::tree::requests::Tree;
use crate::tree::{Attr, Attributes, DirEntry, Found};

/// Names only: as many as fit.
pub(super) fn names(mut reply: ReplyDirectory, entries: Vec<DirEntry>) {
    for entry in entries {
        if reply.add(INodeNo(entry.ino.0), entry.offset, file_type(entry.kind), &entry.name) {
            break;
        }
    }
    reply.ok();
}

/// Entries with attributes: as many as fit. The kernel counts each that it gets as a lookup, so
/// the tree is told to forget those that it doesn't get.
pub(super) fn entries(mut reply: ReplyDirectoryPlus, entries: Vec<DirEntry>, tree: &Tree) {
    let mut full = false;
    for entry in entries {
        full = full || add(&mut reply, &entry);
        // The kernel never counts `.` and `..`.
        let counted = !full && entry.name != "." && entry.name != "..";
        if entry.found.is_some() && !counted {
            tree.forget(entry.ino, 1);
        }
    }
    reply.ok();
}

/// Adds an entry; true if it did not fit.
fn add(reply: &mut ReplyDirectoryPlus, entry: &DirEntry) -> bool {
    let Found {
        attributes,
        name_ttl,
        generation,
    } = match entry.found {
        Some(found) => found,
        // fuser can't send a name without attributes. The kernel looks only at the number and
        // type of `.` and `..`; the tree gives `found` for every other entry.
        None => Found {
            attributes: bare(entry),
            name_ttl: Duration::ZERO,
            generation: 0,
        },
    };
    let attr = file_attr(&attributes.attr);
    reply.add(
        attr.ino,
        entry.offset,
        &entry.name,
        &attributes.ttl.min(name_ttl),
        &attr,
        Generation(generation),
    )
}

/// Attributes that say no more than the number and the type.
fn bare(entry: &DirEntry) -> Attributes {
    let now = SystemTime::now();
    let attr = Attr {
        ino: entry.ino,
        kind: entry.kind,
        mode: 0o555,
        nlink: 2,
        uid: 0,
        gid: 0,
        rdev: 0,
        size: 0,
        blocks: 0,
        atime: now,
        mtime: now,
        ctime: now,
    };
    Attributes {
        attr,
        ttl: Duration::ZERO,
    }
}
