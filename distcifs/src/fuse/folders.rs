//! Entries of folders in the kernel's form.

use fuser::{INodeNo, ReplyDirectory, ReplyDirectoryPlus};

use super::attr::{file_attr, file_type};
use super::replies::GENERATION;
use crate::tree::requests::Tree;
use crate::tree::{DirEntry, Found};

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
    let Some(Found { attributes, name_ttl }) = entry.found else {
        // fuser can't send a name without attributes: its inode number is also that of the
        // lookup. The tree gives `found` for every entry of a readdirplus, so this is not met.
        tracing::error!("a defect: readdirplus has no attributes for {:?}", entry.name);
        return false;
    };
    let attr = file_attr(&attributes.attr);
    reply.add(
        attr.ino,
        entry.offset,
        &entry.name,
        &attributes.ttl.min(name_ttl),
        &attr,
        GENERATION,
    )
}
