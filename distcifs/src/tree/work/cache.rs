//! Descriptors that name inodes: a bounded number of them, those that were used last.
//!
//! An inode without one is found again by the names that it has (`way.rs`). So how many files a
//! workspace has and how many descriptors the daemon may have are independent of each other.

use std::collections::VecDeque;
use std::fs::File;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::inodes::Inode;
use crate::repository::descriptors::{self, Shed};

/// Fewest descriptors that are kept, however short they are: some folders deep, for some threads.
const LEAST: usize = 16;

/// Of those, one in so many may be of files that have lost their last name.
const NAMELESS_SHARE: usize = 4;

/// Inodes that get a second chance at one insertion: what that takes is bounded so.
const CHANCES_MAX: usize = 64;

/// The inodes that have a descriptor, oldest first; some of them may have lost it since.
#[derive(Debug)]
pub(super) struct Cache {
    max: AtomicUsize,
    held: Mutex<VecDeque<Weak<Inode>>>,
    /// Those without a name: nothing but the descriptor leads to them.
    nameless: Mutex<VecDeque<Weak<Inode>>>,
}

impl Cache {
    /// As large as the limit of the process allows now.
    pub(super) fn new() -> Cache {
        Cache {
            max: AtomicUsize::new(descriptors::for_caches().max(LEAST)),
            held: Mutex::default(),
            nameless: Mutex::default(),
        }
    }

    /// Keeps so many at most.
    #[cfg(test)]
    pub(super) fn resize(&self, max: usize) {
        self.max.store(max, Ordering::Relaxed);
        self.shrink();
    }

    /// Looks at the limit of the process again.
    pub(super) fn adapt(&self) {
        self.max.store(descriptors::for_caches().max(LEAST), Ordering::Relaxed);
        self.shrink();
    }

    /// An inode has got a descriptor.
    pub(super) fn keep(&self, inode: &Arc<Inode>) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.push_back(Arc::downgrade(inode));
        let dropped = evict(&mut held, self.max.load(Ordering::Relaxed), Inode::let_go);
        drop(held);
        drop(dropped);
    }

    /// An inode has lost its last name, and keeps its descriptor.
    pub(super) fn keep_nameless(&self, inode: &Arc<Inode>) {
        let max = (self.max.load(Ordering::Relaxed) / NAMELESS_SHARE).max(1);
        let mut nameless = self.nameless.lock().unwrap_or_else(PoisonError::into_inner);
        nameless.push_back(Arc::downgrade(inode));
        let dropped = evict(&mut nameless, max, Inode::lose);
        drop(nameless);
        drop(dropped);
    }

    fn shrink(&self) {
        let max = self.max.load(Ordering::Relaxed);
        let mut dropped = Vec::new();
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        while held.len() > max {
            dropped.extend(evict(&mut held, max, Inode::let_go));
        }
        drop(held);
    }
}

/// Takes the oldest out until there are no more than `max`, but for those used since they were met
/// last; their descriptors, to be dropped without the lock.
fn evict(held: &mut VecDeque<Weak<Inode>>, max: usize, take: impl Fn(&Inode) -> Option<Arc<File>>) -> Vec<Arc<File>> {
    let (mut dropped, mut chances) = (Vec::new(), CHANCES_MAX);
    while held.len() > max
        && let Some(oldest) = held.pop_front()
    {
        let Some(inode) = oldest.upgrade() else { continue };
        if chances > 0 && inode.was_used() {
            chances -= 1;
            held.push_back(oldest);
            continue;
        }
        dropped.extend(take(&inode));
    }
    dropped
}

impl Shed for Cache {
    fn shed(&self) {
        let now = self.max.load(Ordering::Relaxed);
        let fewer = descriptors::for_caches().min(now / 2).max(LEAST);
        self.max.store(fewer, Ordering::Relaxed);
        self.shrink();
    }
}
