//! Who held a ticket before: so that whoever lost a claim never takes another's result for its own.
//!
//! Two things tell. The processes of claims that are over are remembered while they live, a bounded
//! number of them. And a ticket's folder has another inode after each claim that was lost: who has stood
//! in it since before is shown no result but that of a claim which is its own, however long ago all else
//! was forgotten.

use std::collections::{HashMap, VecDeque};
use std::ffi::OsStr;
use std::sync::{Arc, Mutex};

use super::claim::Held;
use super::look::NOT_AT_ALL;
use super::met::Met;
use super::node::{Node, TicketRef};
use super::process::{self, Process};
use super::shares::Party;
use super::{Caller, Error, Found, Ino, Result, Tree};
use crate::repository::claims::Claim;
use crate::repository::core::lock;
use crate::repository::descriptors;
use crate::repository::model::claim::ClaimState;
use crate::repository::model::ticket::{Posted, TicketKey, TicketState};

/// Most claims that are remembered of those that were lost, and as many that were not; and of the descriptors for caches
/// one in so many: each holds on to a process by one.
const PAST_MAX: usize = 1024;
const PAST_SHARE: usize = 16;

/// A claim that is over, while its process lives.
struct Over {
    key: TicketKey,
    created: u64,
    nonce: String,
    process: Arc<Process>,
    /// With whose rights the work was done: the claims of a node's workers are all root's.
    whose: Party,
    won: bool,
    /// Whether it was given back by its claimant, who knows that.
    given_back: bool,
}

/// After so many more claims at least the dead are looked for again.
const LOOK_AFTER: usize = 64;

/// The claims of this mount that are over.
#[derive(Default)]
pub(crate) struct Past {
    ended: Mutex<EndedClaims>,
    /// Who came to what is over.
    met: Met,
}

#[derive(Default)]
struct EndedClaims {
    /// Those that were lost, the oldest first: nobody's success has them forgotten.
    lost: VecDeque<Over>,
    /// Those that have their result.
    won: VecDeque<Over>,
    /// How many came since the dead were looked for.
    unlooked: usize,
}

impl EndedClaims {
    /// All of a ticket, the newest of each kind first.
    fn of_ticket(&self, ticket: &TicketRef) -> impl Iterator<Item = &Over> {
        let all = self.lost.iter().rev().chain(self.won.iter().rev());
        all.filter(|over| over.key == ticket.key && over.created == ticket.created)
    }

    fn has(&self, one: impl Fn(&Process) -> bool) -> bool {
        self.lost.iter().chain(&self.won).any(|over| one(&over.process))
    }

    fn retain(&mut self, stays: impl Fn(&Over) -> bool) {
        self.lost.retain(&stays);
        self.won.retain(&stays);
    }
}

/// Keeps one more, of so many at most: the oldest goes of whoever has most, with all subordinate ids of his.
fn keep(all: &mut VecDeque<Over>, over: Over, most: usize) {
    all.push_back(over);
    while all.len() > most {
        let mut counts = HashMap::<Party, usize>::new();
        for over in &*all {
            *counts.entry(over.whose).or_default() += 1;
        }
        let most = counts.values().copied().max();
        let oldest = all.iter().position(|over| counts.get(&over.whose).copied() == most);
        all.remove(oldest.unwrap_or(0));
    }
}

impl Past {
    /// Whether somebody lives who held this ticket and lost it.
    fn has_loser(&self, ticket: &TicketRef) -> bool {
        let past = lock(&self.ended);
        past.of_ticket(ticket).any(|over| !over.won && over.process.lives())
    }

    /// What a name in this folder leads to, for whoever comes: where somebody lost the ticket, each is asked who he is.
    pub(super) fn for_each(&self, parent: &Node, found: Found) -> Found {
        match parent {
            Node::Ticket(ticket) if self.has_loser(ticket) => Found {
                name_ttl: NOT_AT_ALL,
                ..found
            },
            _ => found,
        }
    }

    /// Remembers a claim that is over. A process has one such for each ticket: what came of the last.
    pub(crate) fn remember(&self, claim: &Claim, whose: Party, process: Arc<Process>, state: ClaimState) {
        let most = (descriptors::for_caches() / PAST_SHARE).clamp(1, PAST_MAX);
        let created = claim.posted().created;
        let mut past = lock(&self.ended);
        past.retain(|over| {
            let again = over.process.pid == process.pid && over.key == claim.key && over.created == created;
            !again
        });
        // Not with every claim that ends: each costs a call to the kernel.
        past.unlooked += 1;
        if past.unlooked > LOOK_AFTER.max((past.lost.len() + past.won.len()) / 2) {
            past.retain(|over| over.process.lives());
            past.unlooked = 0;
        }
        let won = state == ClaimState::Finished;
        let list = if won { &mut past.won } else { &mut past.lost };
        let over = Over {
            key: claim.key.clone(),
            created,
            nonce: claim.nonce.clone(),
            process,
            whose,
            won,
            given_back: state == ClaimState::Lost && claim.is_given_back(),
        };
        keep(list, over, most);
    }
}

/// What a caller has to do with a ticket.
pub(super) struct Relation {
    /// Generations from the caller up to the claimant; 0 is the claimant itself.
    distance: u32,
    what: Stood,
}

enum Stood {
    /// It holds the claim.
    Holds(Arc<Held>),
    /// It held the claim of this nonce, which has its result if `won`.
    Held { nonce: String, won: bool, given_back: bool },
}

/// The distance of one who is of the claimant's session, and no more.
const BY_SESSION: u32 = u32::MAX;

impl Relation {
    /// Whether the result that the ticket has, if any, is of the caller's claim.
    fn owns_result(&self, posted: &Posted) -> bool {
        match &self.what {
            Stood::Holds(_) => true,
            // A result that was in doubt when the claim was lost may stand.
            Stood::Held { nonce, .. } => *nonce == posted.ticket.nonce && posted.ticket.state == TicketState::Finished,
        }
    }

    /// Whether the caller held a claim that was lost.
    fn lost(&self) -> bool {
        matches!(self.what, Stood::Held { won: false, .. })
    }
}

impl Tree {
    /// The claim, held or over, that the caller is nearest to: a process that claimed a ticket itself is no
    /// part of the claim that its parent has made since.
    fn relation(&self, caller: Caller, ticket: &TicketRef) -> Option<Relation> {
        let held = lock(&self.held).get(&ticket.key).cloned();
        let held = held.filter(|held| held.claim.check().is_ok() && held.claim.posted().created == ticket.created);
        let mut nearest = held.and_then(|held| {
            let distance = held.holder.process().distance(caller.tid)?;
            Some(Relation {
                distance,
                what: Stood::Holds(held),
            })
        });
        let past = lock(&self.past.ended);
        for over in past.of_ticket(ticket) {
            let nearer = |distance: &u32| nearest.as_ref().is_none_or(|nearest| *distance < nearest.distance);
            if let Some(distance) = over.process.distance(caller.tid).filter(nearer)
                && over.process.lives()
            {
                let (nonce, won, given_back) = (over.nonce.clone(), over.won, over.given_back);
                nearest = Some(Relation {
                    distance,
                    what: Stood::Held { nonce, won, given_back },
                });
            }
        }
        nearest
    }

    /// Whether the caller, or a process above it, held a claim of this ticket, lost it, and has none of its own since.
    pub(crate) fn has_lost(&self, caller: Caller, ticket: &TicketRef) -> bool {
        // Most tickets were lost by nobody: that asks nothing of the kernel.
        self.past.has_loser(ticket)
            && self
                .relation(caller, ticket)
                .is_some_and(|relation| relation.distance != BY_SESSION && relation.lost())
    }

    /// What a look at a ticket, or into a claimant's folder, comes to. Of a claim that is over, whoever held one is told so
    /// (ESTALE), and who is below such a process; for all others what was there has vanished (ENOENT). Upon the
    /// first ESTALE the kernel looks again, by the whole path: that may lead to what stands there now. Only if
    /// it comes back here nothing else does.
    pub(crate) fn looked<T>(&self, caller: Caller, ino: Ino, done: Result<T>) -> Result<T> {
        let stale = matches!(done, Err(Error::Stale(_)));
        let attempt = || self.work.attempt_of(ino).map_or(0, |attempt| attempt.id());
        if stale && !self.past.met.again(caller.tid, ino, attempt()) {
            return done;
        }
        self.listed(caller, done)
    }

    /// The same of attributes. Who has it open asks by the descriptor, as opendir(3) does: the kernel does not look again.
    pub(crate) fn shown<T>(&self, caller: Caller, ino: Ino, done: Result<T>) -> Result<T> {
        let stale = matches!(done, Err(Error::Stale(_)));
        let by_descriptor = || {
            self.numbers
                .node(ino)
                .is_some_and(|node| self.handles.has(caller.tid, &node))
        };
        if stale && by_descriptor() {
            return self.listed(caller, done);
        }
        self.looked(caller, ino, done)
    }

    /// The same of a name that is looked up in a folder: a step on a way.
    pub(crate) fn walked(&self, caller: Caller, folder: Ino, name: &OsStr, found: Result<Found>) -> Result<Found> {
        let to = found.as_ref().ok().map(|found| found.attributes.attr.ino);
        self.past.met.walks(caller.tid, folder, name, to);
        self.looked(caller, folder, found)
    }

    /// The same of what no path leads to: the kernel does not look again.
    pub(crate) fn listed<T>(&self, caller: Caller, done: Result<T>) -> Result<T> {
        match done {
            Err(Error::Stale(what)) if !self.has_claimed(caller) => Err(Error::NotFound(what)),
            done => done,
        }
    }

    /// Whether the caller, or a process above it, holds a claim or held one.
    pub(crate) fn has_claimed(&self, caller: Caller) -> bool {
        let above = process::lineage(caller.tid);
        let one = |process: &Process| above.contains(&process.pid) && process.lives();
        lock(&self.held).values().any(|held| one(&held.holder.process())) || lock(&self.past.ended).has(one)
    }

    /// The claim on a ticket, if the caller is its claimant, below it or of its session.
    ///
    /// # Errors
    /// `Stale` for one who lost it, `Exists` if the caller's own result stands, `NotClaimant` for all
    /// others.
    pub(crate) async fn claim_of(&self, caller: Caller, ticket: &TicketRef) -> Result<Arc<Claim>> {
        let relation = self.relation(caller, ticket);
        if let Some(Relation {
            what: Stood::Holds(held),
            ..
        }) = &relation
        {
            return Ok(held.claim.clone());
        }
        let posted = self.posted(ticket).await?;
        let stale = || Error::claim_lost(&ticket.key);
        match relation {
            Some(relation) if relation.owns_result(&posted) => {
                Err(Error::Exists(format!("{}: it has its result", ticket.key)))
            }
            Some(_) => Err(stale()),
            None if posted.ticket.ordinal() != ticket.turn => Err(stale()),
            None => Err(Error::NotClaimant(format!(
                "{}: only its claimant may do this; claim it first",
                ticket.key
            ))),
        }
    }

    /// The ticket that a claimant's folder is looked for in. Who gave it back may look for as long as it is open: what
    /// is there is what every claimant begins from, and nobody made anything since.
    ///
    /// # Errors
    /// As [`Tree::result_for`].
    pub(crate) async fn area_for(&self, caller: Caller, ticket: &TicketRef) -> Result<Posted> {
        let posted = self.posted(ticket).await?;
        let given_back = |relation: Relation| matches!(relation.what, Stood::Held { given_back: true, .. });
        if posted.ticket.state == TicketState::Open
            && posted.ticket.ordinal() == ticket.turn
            && self.relation(caller, ticket).is_some_and(given_back)
        {
            return Ok(posted);
        }
        self.result_for(caller, ticket).await
    }

    /// The ticket with its result, for a caller who may read that.
    ///
    /// # Errors
    /// `Stale` for one who lost a claim, and for one who stands in the folder since before a claim was lost
    /// and has none of its own that won.
    pub(crate) async fn result_for(&self, caller: Caller, ticket: &TicketRef) -> Result<Posted> {
        let posted = self.posted(ticket).await?;
        let relation = self
            .relation(caller, ticket)
            .filter(|relation| relation.distance != BY_SESSION);
        let since_before = posted.ticket.ordinal() != ticket.turn;
        let may = match &relation {
            Some(relation) if relation.owns_result(&posted) => true,
            Some(relation) => !relation.lost() && !since_before,
            None => !since_before,
        };
        if may {
            Ok(posted)
        } else {
            Err(Error::claim_lost(&ticket.key))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::names::{Name, TicketId};

    fn over(process: &Arc<Process>, whose: u32, id: usize, won: bool) -> Over {
        let key = TicketKey {
            queue: Name::new("q").unwrap(),
            id: TicketId::new(&format!("t{id}")).unwrap(),
        };
        Over {
            key,
            created: 1,
            nonce: String::new(),
            process: process.clone(),
            whose: Party::User(whose),
            won,
            given_back: false,
        }
    }

    /// "They forget a loser only for other losers, and first of whoever has most": no success, and nobody else's losses,
    /// lead a loser into the folder of who has the ticket by then.
    #[tokio::test]
    async fn who_lost_is_remembered_whatever_others_do() {
        let process = Arc::new(Process::hold(std::process::id()).unwrap());
        let mut past = EndedClaims::default();
        keep(&mut past.lost, over(&process, 1, 0, false), 8);
        for id in 1..100 {
            keep(&mut past.won, over(&process, 2, id, true), 8);
            keep(&mut past.lost, over(&process, 2, id, false), 8);
        }
        assert_eq!((past.lost.len(), past.won.len()), (8, 8));
        let of = |id| TicketRef {
            key: over(&process, 1, id, false).key,
            created: 1,
            turn: 1,
        };
        assert!(past.of_ticket(&of(0)).any(|over| !over.won));
        assert_eq!(past.of_ticket(&of(1)).count(), 0, "the oldest of who has most");
        assert_eq!(past.of_ticket(&of(99)).count(), 2);
    }
}
