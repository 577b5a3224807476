//! Whose lock of a file or folder below may be held for as long as a user likes.
//!
//! The kernel writes a passed-through file with the lock of the file below, and waits for the memory that is
//! written: of a userfaultfd or of a user's own FUSE for ever. Whoever else wants that lock then stands, and so does
//! who wants the lock of a folder in which that one works. So a call is made on the thread that reads requests only
//! where nobody can hold a lock that it takes; else it is refused with [`Error::WouldBlock`] and made again apart
//! ([`Work::on_disk`](super::Work::on_disk)), where it says first what it works on.

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::inodes::Inode;
use crate::repository::{Error, Result};

/// A step of the wait for calls under way that wait for nobody.
const STEP: Duration = Duration::from_micros(20);

thread_local! {
    /// Whether this thread may stand.
    static APART: Cell<bool> = const { Cell::new(false) };
}

/// Does something on a thread that may stand.
pub(super) fn standing<T>(act: impl FnOnce() -> T) -> T {
    struct Ends;
    impl Drop for Ends {
        fn drop(&mut self) {
            APART.set(false);
        }
    }
    APART.set(true);
    let _ends = Ends;
    act()
}

/// Whether this thread may stand.
pub(super) fn may_stand() -> bool {
    APART.get()
}

/// Who may hold one lock.
#[derive(Debug, Default)]
pub(super) struct Lock {
    /// Opens of the file by which the kernel takes it while it waits for a user's memory.
    lent: AtomicUsize,
    /// Calls apart that may stand with it.
    apart: AtomicUsize,
    /// Calls of threads that must not stand.
    here: AtomicUsize,
    /// Calls apart that were given up, and may still change what it is the lock of.
    late: AtomicUsize,
}

/// Held during a call that takes the lock.
#[derive(Debug)]
pub(super) struct Taken<'a>(&'a AtomicUsize);

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Lock {
    /// To be held during a call that takes the lock; none if this thread must not wait for who may have it.
    pub(super) fn take(&self) -> Option<Taken<'_>> {
        if may_stand() {
            return Some(self.take_apart());
        }
        self.here.fetch_add(1, Ordering::SeqCst);
        let here = Taken(&self.here);
        (!self.is_held()).then_some(here)
    }

    /// The same of a thread that may stand: from now on no other takes it, and those before have ended.
    fn take_apart(&self) -> Taken<'_> {
        let apart = self.mark();
        self.wait_for_others();
        apart
    }

    /// Sends others apart while this is held.
    pub(super) fn mark(&self) -> Taken<'_> {
        self.apart.fetch_add(1, Ordering::SeqCst);
        Taken(&self.apart)
    }

    /// Whether somebody may stand with it.
    pub(super) fn is_held(&self) -> bool {
        self.is_marked() || self.lent.load(Ordering::SeqCst) > 0
    }

    /// Whether calls apart are under way.
    pub(super) fn is_marked(&self) -> bool {
        self.apart.load(Ordering::SeqCst) > 0
    }

    /// The kernel may take it from now on, for a user.
    pub(super) fn lend(&self) {
        self.lent.fetch_add(1, Ordering::SeqCst);
        self.wait_for_others();
    }

    /// One such open has ended.
    pub(super) fn give_back(&self) {
        self.lent.fetch_sub(1, Ordering::SeqCst);
    }

    /// A call was given up that stands with it.
    pub(super) fn be_late(&self) {
        self.late.fetch_add(1, Ordering::SeqCst);
    }

    /// That one has come back.
    pub(super) fn is_back(&self) {
        self.late.fetch_sub(1, Ordering::SeqCst);
    }

    /// Whether such calls stand.
    pub(super) fn is_late(&self) -> bool {
        self.late.load(Ordering::SeqCst) > 0
    }

    /// They wait for nobody but the disk.
    pub(super) fn wait_for_others(&self) {
        while self.here.load(Ordering::SeqCst) > 0 {
            std::thread::sleep(STEP);
        }
    }
}

impl Inode {
    /// To be held during a call that takes the lock of what is below.
    pub(super) fn take(&self) -> Result<Taken<'_>> {
        let taken = self.passed.lock.take();
        taken.ok_or_else(|| Error::WouldBlock(format!("{}: it is in use", self.what())))
    }

    /// The same for one that changes it.
    pub(super) fn take_to_change(&self) -> Result<Taken<'_>> {
        self.may_change()?;
        self.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_must_not_stand_takes_what_nobody_may_hold() {
        let lock = Lock::default();
        let (first, second) = (lock.take(), lock.take());
        assert!(
            first.is_some() && second.is_some(),
            "such calls wait for each other a moment"
        );
        drop((first, second));
        lock.lend();
        assert!(lock.take().is_none());
        lock.give_back();
        let apart = lock.mark();
        assert!(lock.take().is_none() && lock.is_marked());
        drop(apart);
        assert!(lock.take().is_some() && !lock.is_held());
    }

    /// Who may stand begins after those who must not: else they would wait for him.
    #[test]
    fn who_may_stand_waits_for_those_who_must_not() {
        let lock = std::sync::Arc::new(Lock::default());
        let here = lock.take().unwrap();
        let (told, heard) = std::sync::mpsc::channel();
        let other = lock.clone();
        let thread = std::thread::spawn(move || {
            standing(|| {
                let _apart = other.take().unwrap();
                told.send(()).unwrap();
            });
        });
        while !lock.is_marked() {
            std::thread::yield_now();
        }
        assert!(heard.try_recv().is_err() && lock.take().is_none());
        drop(here);
        heard.recv().unwrap();
        thread.join().unwrap();
    }
}
