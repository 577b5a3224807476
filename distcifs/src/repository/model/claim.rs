//! A claim: who holds it, its entry, and where it stands.

use serde::{Deserialize, Serialize};

use crate::repository::model::ticket::Ticket;

/// Who claims.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claimant {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Process id.
    pub pid: u32,
}

/// Why a claim ended without a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Its claimant died.
    Died,
    /// It was given back, or let go of, by one who may have begun.
    GivenBack,
    /// Nothing of it was begun: its id was never read, or its claimant gave it back untouched.
    Unbegun,
    /// It was older than its ticket allows.
    TimedOut,
    /// Its build was aborted.
    Aborted,
    /// The ticket was taken by somebody else.
    Taken,
    /// The session with the coordinator that it belonged to is over.
    Session,
}

/// Where a claim stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClaimState {
    /// Held.
    Live,
    /// Its result is being written.
    Finishing,
    /// Over, with its result.
    Finished,
    /// Over, without.
    Lost,
}

/// What is known of a claim here: where it stands, and why it is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Life {
    state: ClaimState,
    /// Of an end that came while the result was being written, too.
    ended: Option<Cause>,
}

impl Default for Life {
    fn default() -> Self {
        Life {
            state: ClaimState::Live,
            ended: None,
        }
    }
}

impl Life {
    /// Whether its claimant gave it back.
    pub fn is_given_back(self) -> bool {
        matches!(self.ended, Some(Cause::GivenBack | Cause::Unbegun))
    }

    /// Where it stands.
    pub fn state(self) -> ClaimState {
        self.state
    }

    /// Whether it is over, with its result or without.
    pub fn is_over(self) -> bool {
        matches!(self.state, ClaimState::Finished | ClaimState::Lost)
    }

    /// Something ends it without a result; whether it is over by this. While its result is being written,
    /// that decides.
    pub(crate) fn end(&mut self, cause: Cause) -> bool {
        self.ended = Some(cause);
        let live = self.state == ClaimState::Live;
        if live {
            self.state = ClaimState::Lost;
        }
        live
    }

    /// Its result begins to be written; else, where it stands instead.
    pub(crate) fn begin_result(&mut self) -> Result<(), ClaimState> {
        if self.state != ClaimState::Live {
            return Err(self.state);
        }
        self.state = ClaimState::Finishing;
        Ok(())
    }

    /// Its result could not be written: it is held again. Why it is to end, if something said so meanwhile.
    pub(crate) fn result_refused(&mut self) -> Option<Cause> {
        self.state = ClaimState::Live;
        self.ended
    }

    /// It is over: with its result, or lost to somebody else.
    pub(crate) fn over(&mut self, with_result: bool) {
        self.state = if with_result {
            ClaimState::Finished
        } else {
            ClaimState::Lost
        };
    }
}

/// The claim's entry with the coordinator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimEntry {
    /// Tells this claim from every other.
    pub nonce: String,
    /// The node.
    pub node: String,
    /// The claimant's process, on that node.
    pub pid: u32,
    /// When, milliseconds since 1970.
    pub since: u64,
    /// The claimant's user.
    pub uid: u32,
    /// The claimant's group.
    #[serde(default)]
    pub gid: u32,
}

impl ClaimEntry {
    /// The entry of the claim that a ticket stands at, for this claimant.
    pub(crate) fn of(ticket: &Ticket, who: Claimant) -> Self {
        ClaimEntry {
            nonce: ticket.nonce.clone(),
            node: ticket.node.clone(),
            pid: who.pid,
            since: ticket.claimed,
            uid: who.uid,
            gid: who.gid,
        }
    }
}
