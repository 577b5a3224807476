//! A mount that takes no work: what is worked there is finished, and nothing is begun.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::model::ticket::CONTROL_QUEUE;
use super::{Error, Repository, Result};

/// Whether a mount takes work, and who is about to.
#[derive(Debug, Default)]
pub(crate) struct Drain {
    drained: AtomicBool,
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
        self.drained.load(Ordering::SeqCst)
    }

    /// Lets one claim, if work is taken. Counted first and looked at then: whoever drains sees it, or
    /// it sees the drain.
    fn enter(&self) -> Option<Claiming<'_>> {
        self.claiming.fetch_add(1, Ordering::SeqCst);
        let claiming = Claiming(self);
        (!self.is_on()).then_some(claiming)
    }
}

impl Repository {
    /// From now on no work is taken on this mount, or again.
    pub(crate) fn drain(&self, on: bool) {
        if self.board.drain.drained.swap(on, Ordering::SeqCst) != on {
            let word = if on {
                "is drained: no work is taken"
            } else {
                "takes work again"
            };
            tracing::info!("this mount {word}");
        }
        if !on {
            self.board.poke_all();
        }
    }

    /// Lets somebody claim on this mount.
    ///
    /// # Errors
    /// `Busy` while it is drained.
    pub(crate) fn begin_claim(&self) -> Result<Claiming<'_>> {
        self.board.drain.enter().ok_or_else(|| {
            Error::Busy(format!(
                "mount {} is drained and takes no work: distcifs drain --end MOUNT ends that",
                self.node
            ))
        })
    }

    /// Whether this mount takes no work.
    pub(crate) fn is_drained(&self) -> bool {
        self.board.drain.is_on()
    }

    /// What is still worked here, a line each. The builds that build-control steers are not among it:
    /// another takes them over where they stand.
    pub(crate) fn still_worked(&self) -> Vec<String> {
        let claiming = self.board.drain.claiming.load(Ordering::SeqCst);
        let held = self.claims.all().into_iter();
        let held = held.filter(|claim| claim.key.queue.as_str() != CONTROL_QUEUE);
        let mut lines: Vec<String> = held
            .map(|claim| format!("{} by process {}", claim.key, claim.pid))
            .collect();
        lines.sort();
        if claiming > 0 {
            lines.push(format!("{claiming} claims are just being made"));
        }
        lines
    }

    /// How far it is, as `.drain` shows it.
    pub(crate) fn drain_text(&self) -> String {
        let word = if self.is_drained() { "drained" } else { "open" };
        let lines = self.still_worked().into_iter();
        std::iter::once(word.to_owned())
            .chain(lines)
            .map(|line| line + "\n")
            .collect()
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
