//! Snapshots: a folder as one digest, over any [`Contents`](crate::storage::Contents).
//!
//! [`capture()`] reads a folder of the local disk into chunks and listings and gives the digest of
//! the root's listing; `lay_out` lays a digest out as files again, [`Browser`] reads it in
//! place, [`merge()`] joins two and [`reachable`] names every object that one needs.
//!
//! What the caller owes: as long as a [`Manifest`] is in use, the snapshots it came from are roots
//! for gc, because a capture with it does not send again what it knows to be stored. So is what it
//! captured before and has not committed: it pins the epoch meanwhile.

mod browse;
mod capture;
mod cut;
mod error;
mod format;
mod joined;
mod lease;
mod local;
mod manifest;
mod merge;
mod reach;
mod restore;
mod store;
mod unlock;
mod wire;
mod xattr;

#[cfg(test)]
mod tests;

pub use browse::Browser;
pub use capture::{Captured, capture};
pub(crate) use capture::{is_untouched, take_in};
pub use error::{Result, SnapshotError};
pub use format::{
    Entry, Folder, INLINE_BYTES_MAX, Kind, Link, Meta, Segment, Time, XATTR_BYTES_MAX, Xattrs, is_entry_name,
};
pub use joined::joined;
pub(crate) use lease::is_written;
pub use manifest::Manifest;
pub use merge::merge;
pub use reach::reachable;
pub(crate) use restore::lay_out;
#[cfg(test)]
pub use restore::restore;

use crate::storage::Digest;

/// Whether bytes are no listing of a folder, or have the one form of what they list: for the fuzz targets.
#[doc(hidden)]
pub fn is_refused_or_whole(bytes: &[u8]) -> bool {
    match format::decode(bytes) {
        Ok(format::Listing::Whole(folder)) => {
            let encoded = folder.encode();
            // What is longer is listed in parts when it is written.
            encoded.is_ok_and(|objects| objects.len() > 1 || objects.iter().all(|(_, object)| object == bytes))
        }
        Ok(format::Listing::Head(..) | format::Listing::Part(_)) | Err(_) => true,
    }
}

/// Deepest folder of a snapshot, counted from its root: paths of the system end at 4,096 bytes, so
/// that none has more names. Deeper ones can be made step by step only, and are refused then.
pub const DEPTH_MAX: usize = 2048;

/// The snapshot that workspaces start from.
#[derive(Debug, Clone, Copy)]
pub struct Snapshot;

impl Snapshot {
    /// The digest of the empty snapshot: mode 0755, time 0, no entries. It is never stored.
    pub fn empty() -> Digest {
        static EMPTY: std::sync::LazyLock<Digest> = std::sync::LazyLock::new(|| {
            let objects = Folder::empty().encode().unwrap_or_default();
            objects.last().map_or(Digest::of(&[]), |(digest, _)| *digest)
        });
        *EMPTY
    }
}
