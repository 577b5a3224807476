//! What workers leave of the node's disk to everybody else, as the daemon's claimants do.

use std::io;
use std::os::fd::AsFd;

use nix::sys::statvfs::fstatvfs;

/// Bytes that are left, or a quarter of a small disk.
const BYTES: u64 = 64 << 20;
const BYTES_SHARE: u64 = 4;

/// Inodes that are left, or an eighth of a small disk's.
const INODES: u64 = 16 << 10;
const INODES_SHARE: u64 = 8;

/// Whether so many bytes may be written on the disk of a file or folder.
///
/// # Errors
/// `StorageFull` if what is left then is kept for others.
pub fn check(file: impl AsFd, bytes: u64) -> io::Result<()> {
    // A disk that does not tell how much is free finds out by itself.
    let Ok(figures) = fstatvfs(file) else { return Ok(()) };
    let count = |blocks: u64| blocks.saturating_mul(figures.fragment_size());
    let reserve = BYTES.min(count(figures.blocks()) / BYTES_SHARE);
    let inodes = INODES.min(figures.files() / INODES_SHARE);
    let full = count(figures.blocks_available()) < reserve.saturating_add(bytes);
    // A disk that does not count inodes makes as many as there is room for.
    if full || (figures.files() > 0 && figures.files_available() < inodes) {
        let why = "what is left of the node's disk is kept for others";
        return Err(io::Error::new(io::ErrorKind::StorageFull, why));
    }
    Ok(())
}
