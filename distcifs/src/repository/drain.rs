//! A mount that takes no work: what is worked there is finished, and nothing is begun.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Whether a mount takes work, and who is about to.
#[derive(Debug, Default)]
pub(crate) struct Drain {
    drained: AtomicBool,
    /// Whether it was not let in when it came back: that ends by itself, and is no drain that somebody ends.
    shut_out: AtomicBool,
    /// Claims that are being made.
    claiming: AtomicUsize,
}

/// One who is about to claim: it is counted until it has the claim or not.
#[derive(Debug)]
pub(crate) struct Claiming<'a>(&'a Drain);

impl Drop for Claiming<'_> {
    fn drop(&mut self) {
        self.0.claiming.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Drain {
    /// Whether no work is taken.
    pub(crate) fn is_on(&self) -> bool {
        self.drained.load(Ordering::SeqCst) || self.shut_out.load(Ordering::SeqCst)
    }

    /// Lets one claim, if work is taken. Counted first and looked at then: whoever drains sees it, or
    /// it sees the drain.
    pub(super) fn enter(&self) -> Option<Claiming<'_>> {
        self.claiming.fetch_add(1, Ordering::SeqCst);
        let claiming = Claiming(self);
        (!self.is_on()).then_some(claiming)
    }
}

impl Drain {
    /// Takes work or not; whether that is new.
    pub(super) fn set(&self, on: bool) -> bool {
        self.drained.swap(on, Ordering::SeqCst) != on
    }

    /// Takes no work as this mount is not let in, or may again; whether that is new.
    pub(super) fn shut_out(&self, on: bool) -> bool {
        self.shut_out.swap(on, Ordering::SeqCst) != on
    }

    /// Claims that are being made.
    pub(super) fn claiming(&self) -> usize {
        self.claiming.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_about_to_claim_is_counted_or_refused() {
        let drain = Drain::default();
        let first = drain.enter().unwrap();
        drain.drained.store(true, Ordering::SeqCst);
        assert!(drain.enter().is_none());
        assert_eq!(drain.claiming.load(Ordering::SeqCst), 1, "the one that came before");
        drop(first);
        assert_eq!(drain.claiming.load(Ordering::SeqCst), 0);
        drain.drained.store(false, Ordering::SeqCst);
        assert!(drain.enter().is_some());
    }
}
