//! This mount takes no work, or again; and how far it is.

use super::Nodes;
use crate::repository::drain::Claiming;
use crate::repository::model::ticket::CONTROL_QUEUE;
use crate::repository::{Error, Result};

impl Nodes {
    /// From now on no work is taken on this mount, or again.
    pub(crate) fn drain(&self, on: bool) {
        if self.queue_index.drain.set(on) {
            let word = if on {
                "is drained: no work is taken"
            } else {
                "takes work again"
            };
            tracing::info!("this mount {word}");
        }
        if !on {
            self.queue_index.poke_all();
        }
    }

    /// Lets somebody claim on this mount.
    ///
    /// # Errors
    /// `Busy` while it is drained.
    pub(crate) fn begin_claim(&self) -> Result<Claiming<'_>> {
        self.queue_index.drain.enter().ok_or_else(|| {
            Error::Busy(format!(
                "mount {} is drained and takes no work: distcifs drain --end MOUNT ends that, or an upgrade where its log \
                 says so",
                self.about.node
            ))
        })
    }

    /// Whether this mount takes no work.
    pub(crate) fn is_drained(&self) -> bool {
        self.queue_index.drain.is_on()
    }

    /// What is still worked here, a line each. The builds that build-control steers are not among it:
    /// another takes them over where they stand.
    pub(crate) fn still_worked(&self) -> Vec<String> {
        let claiming = self.queue_index.drain.claiming();
        let held = self.held.all().into_iter();
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
