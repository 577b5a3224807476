//! Tickets that were tidied away lately, for whoever still looks at them.

use std::collections::VecDeque;
use std::sync::Mutex;

use crate::repository::core::{lock, now};
use crate::repository::model::ticket::{Outcome, Posted, TicketKey, TicketState, Verdict};

/// Tickets of builds that are kept after they were tidied away.
const TOMBSTONES_MAX: usize = 1024;

/// Tickets of builds that ended lately, as they were last: they are removed with the end of their
/// build, and whoever has their folder open still reads how they ended. The truth is the record of the build.
#[derive(Default)]
pub struct Tombstones(Mutex<VecDeque<(TicketKey, Posted)>>);

impl Tombstones {
    /// What a ticket was last; `created` tells it from another of its name.
    pub fn get(&self, key: &TicketKey, created: u64) -> Option<Posted> {
        lock(&self.0)
            .iter()
            .rev()
            .find(|(known, posted)| posted.created == created && known == key)
            .map(|(_, posted)| posted.clone())
    }

    /// Keeps a ticket, within bounds. One that never ended was aborted with its build.
    pub fn remember(&self, key: &TicketKey, mut posted: Posted) {
        if posted.ticket.part.is_none() && !posted.ticket.is_notification() {
            return;
        }
        posted.ticket.state = TicketState::Finished;
        posted.ticket.outcome.get_or_insert_with(|| Outcome {
            verdict: Verdict::Aborted,
            exit: None,
            message: "its build is over".into(),
            workspace: None,
            artifacts: None,
            recorded: Vec::new(),
            adds: false,
            finished: now(),
        });
        let mut tombstones = lock(&self.0);
        tombstones.retain(|(known, old)| old.created != posted.created || known != key);
        if tombstones.len() >= TOMBSTONES_MAX {
            tombstones.pop_front();
        }
        tombstones.push_back((key.clone(), posted));
    }
}
