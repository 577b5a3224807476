//! Descriptors: how many this process may have, and what is done when they run out.
//!
//! Being out of descriptors says nothing of a store, a claimant or a disk. Whoever opens something
//! on behalf of everybody goes through [`spare`]: caches of descriptors are emptied, and it is tried
//! again for a while.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit};

/// What the limit is taken for if the system does not tell: the usual one.
const LIMIT_UNKNOWN: usize = 1024;

/// Share of the limit for what users hold open, one in so many.
const USERS_SHARE: usize = 2;

/// Share of the limit for descriptors that are kept to save time. The rest is the daemon's own.
const CACHE_SHARE: usize = 4;

/// Most descriptors that are kept to save time: as many files as a large workspace has.
const CACHE_MAX: usize = 65_536;

/// Tries of one opening, and the wait after each that failed: a second together.
const TRIES_MAX: u32 = 20;
const TRY_WAIT: Duration = Duration::from_millis(50);

/// Something that keeps descriptors only to save time.
pub(crate) trait Shed: Send + Sync {
    /// Lets go of some, and keeps fewer from now on.
    fn shed(&self);
}

static SHEDS: Mutex<Vec<Weak<dyn Shed>>> = Mutex::new(Vec::new());

fn sheds() -> MutexGuard<'static, Vec<Weak<dyn Shed>>> {
    SHEDS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Has this asked to let go when descriptors run out.
pub(crate) fn register(shed: Weak<dyn Shed>) {
    let mut sheds = sheds();
    sheds.retain(|known| known.strong_count() > 0);
    sheds.push(shed);
}

/// How many descriptors this process may have now: the limit can be changed from outside.
fn limit() -> usize {
    getrlimit(Resource::RLIMIT_NOFILE).map_or(LIMIT_UNKNOWN, |(soft, _)| usize::try_from(soft).unwrap_or(usize::MAX))
}

/// How many may be kept to save time.
pub(crate) fn for_caches() -> usize {
    (limit() / CACHE_SHARE).min(CACHE_MAX)
}

/// How many all users together may hold open.
pub(crate) fn for_users() -> usize {
    limit() / USERS_SHARE
}

/// Whether an error says that there are no descriptors left.
pub(crate) fn are_short(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

/// Asks all who keep descriptors to let go of some.
pub(crate) fn shed() {
    let known: Vec<_> = sheds().iter().filter_map(Weak::upgrade).collect();
    known.iter().for_each(|shed| shed.shed());
}

/// Opens something, again and again for a second while there are no descriptors. It may block: not
/// for threads that serve requests.
pub(crate) fn spare<T>(mut open: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    for _ in 0..TRIES_MAX {
        match open() {
            Err(error) if are_short(&error) => shed(),
            done => return done,
        }
        thread::sleep(TRY_WAIT);
    }
    open()
}

/// The same at once, for threads that serve requests: a second try after caches were emptied.
pub(crate) fn spare_now<T>(mut open: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    match open() {
        Err(error) if are_short(&error) => {
            shed();
            open()
        }
        done => done,
    }
}

/// [`spare`] for calls of nix.
pub(crate) fn spare_nix<T>(mut open: impl FnMut() -> nix::Result<T>) -> nix::Result<T> {
    let opened = spare(|| open().map_err(io::Error::from));
    opened.map_err(|error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    struct Counted(AtomicUsize);

    impl Shed for Counted {
        fn shed(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn what_fails_for_want_of_descriptors_is_tried_again_after_caches_let_go() {
        let counted = Arc::new(Counted(AtomicUsize::new(0)));
        let weak: Weak<Counted> = Arc::downgrade(&counted);
        register(weak);
        let mut left = 2;
        let opened = spare(|| {
            left -= 1;
            match left {
                0 => Ok(7),
                1 => Err(io::Error::from_raw_os_error(libc::EMFILE)),
                _ => Err(io::Error::from_raw_os_error(libc::EIO)),
            }
        });
        assert_eq!(opened.unwrap(), 7);
        assert!(counted.0.load(Ordering::Relaxed) >= 1);
        let mut tries = 0;
        let refused = spare_now(|| -> io::Result<()> {
            tries += 1;
            Err(io::Error::from_raw_os_error(libc::ENFILE))
        });
        assert!(are_short(&refused.unwrap_err()) && tries == 2);
        let other = spare(|| -> io::Result<()> { Err(io::Error::from_raw_os_error(libc::EIO)) });
        assert_eq!(other.unwrap_err().raw_os_error(), Some(libc::EIO));
    }

    #[test]
    fn shares_leave_something_for_the_daemon_itself() {
        assert!(for_users() + for_caches() <= limit() / 4 * 3);
    }
}
