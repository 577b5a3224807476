//! Files that the kernel reads and writes without asking.
//!
//! The kernel wants one backing for an inode while it is open anywhere, and no cached open beside
//! it: so the backing of an inode is kept from its first open to its last release.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::tree::Opened;
use crate::tree::work::Passed;

/// The open backings of a mount; `B` is fuser's BackingId, whose drop tells the kernel.
pub(super) struct Passthrough<B> {
    on: AtomicBool,
    open: Mutex<Open<B>>,
}

/// What is open: bounded by the open files of the mount's users.
struct Open<B> {
    /// By inode.
    inodes: HashMap<u64, Backed<B>>,
    /// By inode and handle.
    handles: HashMap<(u64, u64), Handle>,
    /// Handles, and how many of them each inode has, that the kernel asks for; no other of the inode may
    /// be passed through meanwhile.
    asking: HashSet<(u64, u64)>,
    asked: HashMap<u64, usize>,
}

/// An open file that the kernel has got.
struct Handle {
    writable: bool,
    passed: Option<Arc<Passed>>,
}

struct Backed<B> {
    id: Arc<B>,
    opens: usize,
}

impl<B> Passthrough<B> {
    /// None open yet, and switched off.
    pub(super) fn new() -> Self {
        Passthrough {
            on: AtomicBool::new(false),
            open: Mutex::new(Open {
                inodes: HashMap::new(),
                handles: HashMap::new(),
                asking: HashSet::new(),
                asked: HashMap::new(),
            }),
        }
    }

    /// The kernel has agreed to it.
    pub(super) fn switch_on(&self) {
        self.on.store(true, Ordering::Relaxed);
    }

    /// The backing for this open, if there is to be one. `make` registers a file with the kernel;
    /// when that fails passthrough is off for the rest of the mount.
    pub(super) fn opened(
        &self,
        ino: u64,
        opened: &Opened,
        writable: bool,
        make: impl FnOnce(&File) -> io::Result<B>,
    ) -> Option<Arc<B>> {
        let file = opened.backing.as_ref()?;
        if opened.direct_io || opened.nonseekable {
            return None;
        }
        let mut guard = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let open = &mut *guard;
        let id = match open.inodes.get_mut(&ino) {
            // Even if it was switched off since: a cached open beside this one would be refused.
            Some(backed) => {
                backed.opens += 1;
                Arc::clone(&backed.id)
            }
            None if !self.on.load(Ordering::Relaxed) || !opened.passes || open.asked.contains_key(&ino) => {
                open.asking.insert((ino, opened.handle));
                *open.asked.entry(ino).or_default() += 1;
                return None;
            }
            None => {
                let id = Arc::new(self.make(file, make)?);
                open.inodes.insert(
                    ino,
                    Backed {
                        id: Arc::clone(&id),
                        opens: 1,
                    },
                );
                id
            }
        };
        let passed = opened.passed.clone();
        open.handles.insert((ino, opened.handle), Handle { writable, passed });
        drop(guard);
        // Before the kernel hears of it: from then on its lock may be held for as long as a user likes.
        if let Some(passed) = &opened.passed {
            passed.lend();
            if writable {
                passed.mark(file);
            }
        }
        Some(id)
    }

    /// Registers a file, or gives passthrough up.
    fn make(&self, file: &File, make: impl FnOnce(&File) -> io::Result<B>) -> Option<B> {
        match make(file) {
            Ok(id) => Some(id),
            Err(error) => {
                self.on.store(false, Ordering::Relaxed);
                tracing::info!("passthrough is off for this mount: the kernel refused a file: {error}");
                None
            }
        }
    }

    /// Ends an open; says whether it was passed through for writing.
    pub(super) fn released(&self, ino: u64, handle: u64) -> bool {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.asking.remove(&(ino, handle))
            && let Some(count) = open.asked.get_mut(&ino)
        {
            *count -= 1;
            if *count == 0 {
                open.asked.remove(&ino);
            }
        }
        let Some(Handle { writable, passed }) = open.handles.remove(&(ino, handle)) else {
            return false;
        };
        if let Some(passed) = passed {
            passed.give_back();
        }
        if let Some(backed) = open.inodes.get_mut(&ino) {
            backed.opens -= 1;
            if backed.opens == 0 {
                open.inodes.remove(&ino);
            }
        }
        writable
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(handle: u64) -> Opened {
        let file = File::open("/proc/self/exe").unwrap();
        Opened {
            handle,
            direct_io: false,
            keep_cache: true,
            nonseekable: false,
            flushes: true,
            passes: true,
            passed: None,
            backing: Some(Arc::new(file)),
        }
    }

    fn on() -> Passthrough<u32> {
        let passthrough = Passthrough::new();
        passthrough.switch_on();
        passthrough
    }

    #[test]
    fn an_inode_has_one_backing_until_its_last_release() {
        let passthrough = on();
        let first = passthrough.opened(1, &opened(10), false, |_| Ok(100)).unwrap();
        let second = passthrough.opened(1, &opened(11), true, |_| Ok(200)).unwrap();
        assert_eq!((*first, *second), (100, 100));
        assert!(!passthrough.released(1, 10));
        assert!(passthrough.released(1, 11));
        assert_eq!(Arc::strong_count(&first), 2, "only the two answers hold it now");
        assert_eq!(*passthrough.opened(1, &opened(12), false, |_| Ok(300)).unwrap(), 300);
    }

    #[test]
    fn a_refusal_switches_it_off_but_not_for_what_is_open() {
        let passthrough = on();
        assert!(passthrough.opened(1, &opened(10), false, |_| Ok(100)).is_some());
        let refused = |_: &File| Err(io::Error::from_raw_os_error(libc::EPERM));
        assert!(passthrough.opened(2, &opened(11), false, refused).is_none());
        assert!(passthrough.opened(3, &opened(12), false, |_| Ok(300)).is_none());
        assert!(passthrough.opened(1, &opened(13), false, |_| Ok(400)).is_some());
    }

    /// When the disk is nearly full the kernel asks; then for all opens of an inode, until the last is closed.
    #[test]
    fn an_inode_that_is_asked_for_is_not_passed_through_beside() {
        let passthrough = on();
        let asked = Opened {
            passes: false,
            ..opened(10)
        };
        assert!(passthrough.opened(1, &asked, true, |_| Ok(1)).is_none());
        assert!(passthrough.opened(1, &opened(11), false, |_| Ok(1)).is_none());
        assert!(!passthrough.released(1, 10) && !passthrough.released(1, 11));
        assert!(passthrough.opened(1, &opened(12), false, |_| Ok(1)).is_some());
        let beside = Opened {
            passes: false,
            ..opened(13)
        };
        assert!(passthrough.opened(1, &beside, true, |_| Ok(2)).is_some());
    }

    #[test]
    fn without_the_kernel_or_a_file_there_is_none() {
        let off = Passthrough::new();
        assert!(off.opened(1, &opened(10), false, |_| Ok(1)).is_none());
        let generated = Opened {
            passes: true,
            backing: None,
            ..opened(10)
        };
        assert!(on().opened(1, &generated, false, |_| Ok(1)).is_none());
        let direct = Opened {
            direct_io: true,
            ..opened(10)
        };
        assert!(on().opened(1, &direct, false, |_| Ok(1)).is_none());
        assert!(!on().released(1, 10));
    }
}
