//! Every object that a snapshot needs.

use std::sync::Arc;

use super::error::{Result, SnapshotError};
use super::format::{Entry, Kind, Listing, Segment};
use super::store::load_listing;
use super::{DEPTH_MAX, Snapshot};
use crate::storage::{Contents, Digest, Object};

/// Names every object that the snapshot `root` needs, listings and chunks.
///
/// `visit` is told each object, maybe more than once, and returns whether it is new to it: what is
/// below a listing that is not new is skipped. A listing that is missing or damaged goes to `broken`
/// and the walk goes on without it; whether chunks are there is for the caller to see. An `Err` is
/// a store that can't be asked. Besides the caller's set it holds the digests of folders that wait.
pub async fn reachable(
    contents: Arc<dyn Contents>,
    root: Digest,
    visit: &mut (dyn FnMut(Object) -> bool + Send),
    broken: &mut (dyn FnMut(Object, SnapshotError) + Send),
) -> Result<()> {
    let mut waiting = Vec::new();
    if root != Snapshot::empty() {
        waiting.push((root, 0));
    }
    while let Some((digest, depth)) = waiting.pop() {
        if !visit(Object::Tree(digest)) {
            continue;
        }
        let entries = match load_listing(&*contents, digest, "").await {
            Ok(Listing::Whole(folder)) => folder.entries,
            Ok(Listing::Part(entries)) => entries,
            Ok(Listing::Head(_, parts)) => {
                waiting.extend(parts.into_iter().map(|part| (part, depth)));
                continue;
            }
            Err(error) if error.is_broken_object() => {
                broken(Object::Tree(digest), error);
                continue;
            }
            Err(error) => return Err(error),
        };
        if depth > DEPTH_MAX {
            let why = format!("folders nest deeper than {DEPTH_MAX}");
            broken(
                Object::Tree(digest),
                SnapshotError::TooLarge {
                    place: String::new(),
                    why,
                },
            );
            continue;
        }
        for entry in entries {
            below(entry, depth, visit, &mut waiting);
        }
    }
    Ok(())
}

/// What one entry needs.
fn below(
    entry: Entry,
    depth: usize,
    visit: &mut (dyn FnMut(Object) -> bool + Send),
    waiting: &mut Vec<(Digest, usize)>,
) {
    match entry.kind {
        // The empty snapshot is never stored, wherever it is named.
        Kind::Folder(digest) if digest == Snapshot::empty() => {}
        Kind::Folder(digest) => waiting.push((digest, depth + 1)),
        Kind::Symlink(_) => {}
        Kind::File { segments, .. } => {
            for segment in segments.iter() {
                if let Segment::Data { digest, .. } = segment {
                    visit(Object::Chunk(*digest));
                }
            }
        }
    }
}
