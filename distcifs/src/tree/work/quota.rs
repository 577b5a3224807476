//! `limits.disk`: what a claim's folders take of the disk, counted with every change.
//!
//! A name counts [`NAME_BYTES`], a file, folder or link the blocks that it has on the disk, once
//! however many names it has, and extended attributes their bytes. What may grow is taken from the
//! limit before, and what it has become is looked up afterwards: so side by side or not, no two
//! requests get the same room. What is open without a name counts until it is closed.

use std::collections::HashSet;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{FileStat, fstat, stat};
use nix::unistd::{Whence, lseek};

use super::super::Kind;
use super::attempt::Attempt;
use super::given_up::{Changes, changes};
use super::inodes::Inode;
use super::through::through;
use super::{Work, fd_name, sys, system};
use crate::repository::Result;
use crate::repository::snapshot::XATTR_BYTES_MAX;

/// What a name counts: its record in the folder, and the inode, which no block count shows.
pub(super) const NAME_BYTES: u64 = 1024;

/// What a new folder or a long link may take besides, before that is known: the block of most disks.
const FIRST_BLOCK_BYTES: u64 = 4096;

/// Bytes of one of `st_blocks`.
pub(super) const BLOCK_BYTES: u64 = 512;

/// What a claim's folders may take, and take.
#[derive(Debug)]
pub(super) struct Quota {
    limit: u64,
    used: AtomicU64,
    refused: AtomicBool,
}

impl Quota {
    fn new(limit: u64, used: u64) -> Quota {
        Quota {
            limit,
            used: AtomicU64::new(used),
            refused: AtomicBool::new(false),
        }
    }

    /// Limit and bytes used.
    pub(super) fn figures(&self) -> (u64, u64) {
        (self.limit, self.used.load(Ordering::Relaxed))
    }

    /// Takes so much, if it is left.
    fn take(&self, bytes: u64) -> bool {
        let more = |used: u64| used.checked_add(bytes).filter(|sum| bytes == 0 || *sum <= self.limit);
        let taken = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        taken.is_ok()
    }

    /// `before` bytes, which counted, have become `after`.
    fn change(&self, before: u64, after: u64) {
        let changed = |used: u64| Some(used.saturating_add(after).saturating_sub(before));
        let _always = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, changed);
    }

    fn refuse(&self) -> Errno {
        self.refused.store(true, Ordering::Relaxed);
        Errno::ENOSPC
    }

    /// What is to be said of it with a result that is no success.
    pub(super) fn note(&self) -> Option<String> {
        let refused = self.refused.load(Ordering::Relaxed);
        refused.then(|| format!("its folder holds its limits.disk of {}", shown(self.limit)))
    }
}

/// A number of bytes for people.
fn shown(bytes: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    let whole = units.iter().find(|(shift, _)| bytes.trailing_zeros() >= *shift);
    match whole {
        Some((shift, unit)) if bytes > 0 => format!("{} {unit}", bytes >> shift),
        _ => format!("{bytes} bytes"),
    }
}

/// Bytes of the blocks that something has.
pub(super) fn blocks(stat: &FileStat) -> u64 {
    u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(BLOCK_BYTES)
}

/// Bytes of extended attributes of users, names and values.
fn attributes(path: &CStr) -> u64 {
    let names = sys::listxattr(path).unwrap_or_default();
    let names = names.split_inclusive(|byte| *byte == 0);
    let sizes = names.filter_map(|name| {
        let name = CStr::from_bytes_with_nul(name).ok()?;
        let own = name.to_bytes().starts_with(b"user.");
        own.then(|| attribute(path, name))
    });
    sizes.sum()
}

/// Bytes of one, with its name; 0 if there is none.
pub(super) fn attribute(path: &CStr, name: &CStr) -> u64 {
    sys::getxattr(path, name).map_or(0, |value| (name.to_bytes().len() + value.len()) as u64)
}

/// What is to be written of a file: from where, how much.
#[derive(Debug, Clone, Copy)]
pub(super) struct Range {
    pub(super) at: u64,
    pub(super) length: u64,
}

impl Range {
    /// The most that it can add: whole blocks of the disk.
    fn most(self, block: u64) -> u64 {
        let end = self
            .at
            .saturating_add(self.length)
            .div_ceil(block)
            .saturating_mul(block);
        end.saturating_sub(self.at / block * block)
    }

    /// What it adds at most to this file, where some of it may have its blocks.
    fn adds(self, file: &File, stat: &FileStat, over: bool) -> u64 {
        let block = u64::try_from(stat.st_blksize)
            .unwrap_or(FIRST_BLOCK_BYTES)
            .max(BLOCK_BYTES);
        let holes = self.holes(file).unwrap_or(self.length);
        let holes = if holes == 0 { 0 } else { holes.saturating_add(2 * block) };
        if over {
            return holes;
        }
        // Blocks that were reserved look like holes, but a file has no more blocks than it has bytes.
        let end = self.at.saturating_add(self.length);
        let whole = end.max(u64::try_from(stat.st_size).unwrap_or(0)).div_ceil(block);
        holes.min(whole.saturating_mul(block).saturating_sub(blocks(stat)))
    }

    /// Bytes of it that are holes, or beyond the end of the file.
    fn holes(self, file: &File) -> Option<u64> {
        let (mut at, end) = (i64::try_from(self.at).ok()?, self.at.checked_add(self.length)?);
        let end = i64::try_from(end).ok()?;
        let mut holes = 0u64;
        while at < end {
            let data = match lseek(file, at, Whence::SeekData) {
                Ok(data) => data.min(end),
                Err(Errno::ENXIO) => end,
                Err(_) => return None,
            };
            holes += u64::try_from(data - at).ok()?;
            if data >= end {
                break;
            }
            at = lseek(file, data, Whence::SeekHole).ok()?;
        }
        Some(holes)
    }
}

/// What counts of a node.
#[derive(Debug, Default)]
pub(super) struct Counted {
    /// Bytes of its blocks, once that is known.
    blocks: Option<u64>,
    /// Bytes of its attributes, known from when its last name goes.
    attributes: Option<u64>,
    /// It had no name and nobody had it open: nothing counts any more.
    gone: bool,
}

impl Counted {
    /// What counts of its blocks so far, or what they are now.
    fn blocks(&self, file: impl AsFd) -> nix::Result<u64> {
        match self.blocks {
            Some(known) => Ok(known),
            None => Ok(blocks(&fstat(file)?)),
        }
    }

    /// Its blocks are so many bytes from now on.
    fn set(&mut self, blocks: u64) {
        (self.blocks, self.gone) = (Some(blocks), false);
    }

    /// Whether what becomes of the node counts for nothing. Who found a file while it was there may have opened
    /// it since.
    fn is_over(&self, inode: &Inode) -> bool {
        self.gone && !inode.is_open()
    }
}

impl Work {
    /// Bounds what an attempt's folders may take, counting what is there. To be called before
    /// anybody works in them, from where waiting for a disk is no harm.
    pub fn limit(&self, attempt: &Attempt, limit: u64) -> Result<()> {
        attempt.bound(Quota::new(limit, self.count(attempt)?));
        Ok(())
    }

    /// What an attempt's folders take, by looking through them.
    pub(super) fn count(&self, attempt: &Attempt) -> Result<u64> {
        let mut used = 0;
        for root in attempt.roots() {
            let inode = self.inode(root)?;
            let root = self
                .reopen(&*self.path(&inode)?, OFlag::O_RDONLY | OFlag::O_DIRECTORY)
                .map_err(|errno| system(inode.what(), errno))?;
            used += taken(root).map_err(|errno| system(inode.what(), errno))?;
        }
        Ok(used)
    }

    /// Does what may give a file more blocks, or fewer, and what else changes one that is open.
    pub(super) fn counting<T>(
        &self,
        inode: &Inode,
        file: &File,
        range: Option<Range>,
        act: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let act = || {
            let _changes = changes(&[inode])?;
            act()
        };
        let Some(quota) = inode.attempt.quota() else {
            return act();
        };
        let mut counted = inode.counted.lock().unwrap_or_else(PoisonError::into_inner);
        if counted.is_over(inode) {
            return act();
        }
        let stat = fstat(file).map_err(|errno| system(inode.what(), errno))?;
        let before = counted.blocks.unwrap_or_else(|| blocks(&stat));
        let block = u64::try_from(stat.st_blksize)
            .unwrap_or(FIRST_BLOCK_BYTES)
            .max(BLOCK_BYTES);
        let mut taken = range.map_or(0, |range| range.most(block));
        if let Some(range) = range.filter(|_| !quota.take(taken)) {
            let (limit, used) = quota.figures();
            taken = range.adds(file, &stat, used > limit);
            if !quota.take(taken) {
                return Err(system(inode.what(), quota.refuse()));
            }
        }
        let done = act();
        let after = fstat(file).map_or(before, |stat| blocks(&stat));
        quota.change(before.saturating_add(taken), after);
        counted.set(after);
        done
    }

    /// Does what gives a folder one more name, of something that is of this kind.
    pub(super) fn naming<T>(
        &self,
        parent: &Inode,
        dir: &File,
        first: u64,
        act: impl FnOnce() -> Result<T>,
    ) -> Result<(T, Changes)> {
        let act = || {
            let changes = changes(&[parent])?;
            act().map(|done| (done, changes))
        };
        let Some(quota) = parent.attempt.quota() else {
            return act();
        };
        let taken = NAME_BYTES + first;
        let mut counted = parent.counted.lock().unwrap_or_else(PoisonError::into_inner);
        if counted.is_over(parent) {
            return act();
        }
        let before = counted.blocks(dir).map_err(|errno| system(parent.what(), errno))?;
        if !quota.take(taken) {
            return Err(system(parent.what(), quota.refuse()));
        }
        let done = act();
        let after = fstat(dir).map_or(before, |stat| blocks(&stat));
        let kept = if done.is_ok() { NAME_BYTES } else { 0 };
        quota.change(before.saturating_add(taken), after.saturating_add(kept));
        counted.set(after);
        done
    }

    /// What a new node of this kind may take at first.
    pub(super) fn first_bytes(folder_or_link: bool) -> u64 {
        if folder_or_link { FIRST_BLOCK_BYTES } else { 0 }
    }

    /// A node was made: its blocks count.
    pub(super) fn count_new(&self, inode: &Inode, stat: &FileStat) {
        let Some(quota) = inode.attempt.quota() else { return };
        let mut counted = inode.counted.lock().unwrap_or_else(PoisonError::into_inner);
        if counted.blocks.is_none() {
            quota.change(0, blocks(stat));
            counted.set(blocks(stat));
        }
    }

    /// What has become of a node's own blocks, if it is not gone.
    pub(super) fn recount(&self, inode: &Inode, fd: &File) {
        let Some(quota) = inode.attempt.quota() else { return };
        let mut counted = inode.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let (Some(before), Ok(stat), false) = (counted.blocks, fstat(fd), counted.gone) else {
            return;
        };
        quota.change(before, blocks(&stat));
        counted.set(blocks(&stat));
    }

    /// One name is gone.
    pub(super) fn uncount_name(&self, inode: &Inode) {
        if let Some(quota) = inode.attempt.quota() {
            quota.change(NAME_BYTES, 0);
        }
    }

    /// Notes what counts of a node whose last name is gone: who has it open changes that on, and what it is then
    /// goes with the node.
    pub(super) fn weigh(&self, inode: &Inode, fd: Option<&File>) {
        let Some(fd) = fd.filter(|_| inode.attempt.quota().is_some()) else {
            return;
        };
        let mut counted = inode.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let path = CString::new(format!("/proc/self/fd/{}", fd_name(fd)));
        counted.blocks = counted.blocks(fd).ok();
        counted.attributes = path.ok().map(|path| attributes(&path));
    }

    /// A node without a name is gone.
    pub(super) fn uncount(&self, inode: &Inode) {
        let Some(quota) = inode.attempt.quota() else { return };
        let mut counted = inode.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let all = counted.blocks.unwrap_or(0) + counted.attributes.unwrap_or(0);
        quota.change(all, 0);
        *counted = Counted {
            blocks: Some(0),
            attributes: Some(0),
            gone: true,
        };
    }

    /// Does what gives a node more attributes, or fewer; `more` bytes at most, of the one with this name.
    /// What a result would not carry is refused: one at a time, so that no two get the same room.
    pub(super) fn attributing<T>(
        inode: &Inode,
        (path, name): (&CStr, &CStr),
        more: u64,
        act: impl FnOnce() -> T,
    ) -> nix::Result<T> {
        let mut counted = inode.counted.lock().unwrap_or_else(PoisonError::into_inner);
        if more > 0 && attributes(path).saturating_sub(attribute(path, name)) + more > XATTR_BYTES_MAX as u64 {
            return Err(Errno::ENOSPC);
        }
        let Some(quota) = inode.attempt.quota() else {
            return Ok(act());
        };
        if counted.is_over(inode) {
            // A file goes with its last close. A removed folder stays for who works in it, and would keep what
            // is not counted any more.
            return if inode.kind == Kind::File || more == 0 {
                Ok(act())
            } else {
                Err(Errno::ENOENT)
            };
        }
        // The disk may give them a block of their own.
        let blocks = || stat(path).map(|stat| blocks(&stat));
        let (own, before) = (counted.blocks.map_or_else(blocks, Ok)?, attribute(path, name));
        let taken = more.saturating_sub(before);
        if !quota.take(taken) {
            return Err(quota.refuse());
        }
        let done = act();
        let (after, with) = (blocks().unwrap_or(own), attribute(path, name));
        quota.change(own + before + taken, after + with);
        counted.set(after);
        counted.attributes = counted.attributes.map(|all| (all + with).saturating_sub(before));
        Ok(done)
    }
}

/// What all that is in a folder takes.
fn taken(root: File) -> nix::Result<u64> {
    let (mut used, mut linked) = (0, HashSet::new());
    through(root, |folder, name, stat| {
        used += NAME_BYTES;
        let kind = stat.st_mode & libc::S_IFMT;
        let first = kind == libc::S_IFDIR || stat.st_nlink < 2 || linked.insert((stat.st_dev, stat.st_ino));
        if !first {
            return;
        }
        used += blocks(stat);
        if kind == libc::S_IFREG || kind == libc::S_IFDIR {
            let mut path = format!("/proc/self/fd/{}/", fd_name(folder)).into_bytes();
            path.extend_from_slice(name.as_bytes());
            used += CString::new(path).map_or(0, |path| attributes(&path));
        }
    })?;
    Ok(used)
}
