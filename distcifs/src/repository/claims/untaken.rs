//! What a claimant wrote into tasks.json, and nobody took: the store was away when it was closed, or it was too long.

use std::sync::Arc;

use super::{Claim, TASKS_FILE};
use crate::repository::core::lock;

/// What stands against a claim's success because of it.
#[derive(Debug, Default)]
pub(super) struct Untaken {
    /// Open files that have something that was not taken yet.
    writing: usize,
    /// Whether one of them was closed so.
    lost: bool,
}

/// Somebody who writes tasks.json. From the first byte on its claim knows that something is on its way.
pub struct Writing {
    claim: Arc<Claim>,
    noted: bool,
}

impl Writing {
    /// Nothing is written yet.
    pub fn new(claim: Arc<Claim>) -> Self {
        Writing { claim, noted: false }
    }

    /// Whose text it is.
    pub fn claim(&self) -> &Arc<Claim> {
        &self.claim
    }

    /// Whether something was written that was not taken.
    pub fn is_noted(&self) -> bool {
        self.noted
    }

    /// Somebody writes.
    pub fn begin(&mut self) {
        if !std::mem::replace(&mut self.noted, true) {
            lock(&self.claim.untaken).writing += 1;
        }
    }

    /// What was written so far is cut off.
    pub fn begin_anew(&mut self) {
        self.end(false);
    }

    /// It was taken, or what is wrong with it was said.
    pub fn taken(&mut self) {
        self.end(false);
        self.claim.forget_untaken();
    }

    fn end(&mut self, lost: bool) {
        if std::mem::take(&mut self.noted) {
            let mut untaken = lock(&self.claim.untaken);
            untaken.writing = untaken.writing.saturating_sub(1);
            untaken.lost |= lost;
        }
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        self.end(true);
    }
}

impl Claim {
    /// What was lost counts no more: it was written again, or withdrawn.
    pub(super) fn forget_untaken(&self) {
        lock(&self.untaken).lost = false;
    }

    /// What is to be said of what was not taken.
    pub(crate) fn untaken(&self) -> Option<String> {
        let untaken = lock(&self.untaken);
        let what = match (untaken.lost, untaken.writing) {
            (true, _) => "what was written was not taken when it was closed: write it again, or remove it",
            (false, 0) => return None,
            (false, _) => "it is open, with something written that was not taken: close it before the result",
        };
        Some(format!("{TASKS_FILE}: {what}"))
    }
}
