//! What becomes of a ticket, step by step: data in, data and the operations that make it so out. Of builds and jobs
//! the same in build.rs and job.rs.
//!
//! Whoever makes a step reads, asks the model, and commits the operations as one. Their order is a promise:
//! what a mount hears first of a commit is what its first operation did, and tests tell commits by it.

use crate::repository::model::build::{Live, live_path};
use crate::repository::model::claim::{Cause, ClaimEntry, Claimant};
use crate::repository::model::deed::Person;
use crate::repository::model::group::Place;
use crate::repository::model::json::to_json;
use crate::repository::model::keys::Key;
use crate::repository::model::ops::{Step, create, create_ephemeral, delete, set};
use crate::repository::model::ticket::{BuildRef, Outcome, Posted, Ticket, TicketKey, TicketState, Verdict, cut};
use crate::storage::Op;

pub(crate) mod build;
pub(crate) mod group;
pub(crate) mod job;

/// Bound of claims that end without the worker's death: given back, unread, lost with a mount.
const GIVEN_MAX: u32 = 10;

/// The message of a task that was aborted.
pub(crate) const ABORTED: &str = "somebody aborted it";

/// Why a step can't be made on a ticket as it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Nobody holds it, or another does.
    NotHeld,
    /// Somebody holds it.
    Claimed,
    /// It has its outcome.
    Finished,
}

/// The checks that a claim still holds its ticket, and that the ticket is the one that was claimed.
pub(crate) fn guard(key: &TicketKey, claimed: &Posted) -> Vec<Op> {
    let held = Op::Check {
        path: key.path(),
        version: Some(claimed.version),
    };
    [held].into_iter().chain(same_ticket(key, &claimed.ticket)).collect()
}

/// Posts a ticket, as long as the guard holds that is given; an empty one always does.
pub(crate) fn post(key: &TicketKey, ticket: Ticket, guard: Vec<Op>) -> Step<Ticket> {
    let mut ops = guard;
    ops.push(create(key.path(), to_json(&ticket)));
    ops.extend(ticket.post_path(key).map(|path| create(path, bytes::Bytes::new())));
    Step { after: ticket, ops }
}

/// A claim that is to be made.
#[derive(Debug, Clone)]
pub(crate) struct Taken {
    /// Tells it from every other.
    pub(crate) nonce: String,
    /// The node that makes it.
    pub(crate) node: String,
    /// The claimant.
    pub(crate) who: Claimant,
    /// The same by name.
    pub(crate) by: Person,
    /// When, milliseconds since 1970.
    pub(crate) at: u64,
    /// The place in its group, or in its job's `concurrency`, that it takes with it; `None`: it has one, or needs
    /// none.
    pub(crate) place: Option<Place>,
}

/// Whether a ticket can be claimed.
pub(crate) fn may_claim(ticket: &Ticket) -> Result<(), Refused> {
    match ticket.state {
        TicketState::Open => Ok(()),
        TicketState::Claimed => Err(Refused::Claimed),
        TicketState::Finished => Err(Refused::Finished),
    }
}

/// Claims an open ticket.
pub(crate) fn claim(key: &TicketKey, open: &Posted, taken: Taken) -> Result<Step<Posted>, Refused> {
    may_claim(&open.ticket)?;
    let mut ticket = open.ticket.clone();
    ticket.state = TicketState::Claimed;
    ticket.nonce = taken.nonce;
    ticket.claimed = taken.at;
    ticket.node = taken.node;
    ticket.by = Some(taken.by);
    let mut ops = Vec::new();
    if let (Some(place), Some(part)) = (taken.place, &ticket.part) {
        match &ticket.group {
            Some(member) => ops.extend(group::take(key, &ticket, part, member, place)),
            None => ops.push(create(slot_path(&part.uid, place.at), to_json(&part.build))),
        }
        ticket.slot = Some(place.at);
    }
    // Told first, as it says that the ticket need not be read.
    let entry = ClaimEntry::of(&ticket, taken.who);
    ops.push(create_ephemeral(key.claim_path(), to_json(&entry)));
    ops.push(set(key.path(), to_json(&ticket), open.version));
    ops.extend(same_ticket(key, &ticket));
    Ok(stepped(open, ticket, ops))
}

/// Ends a claim with a result. The version of what was claimed guards it: that of this very claim.
pub(crate) fn finish(key: &TicketKey, claimed: &Posted, outcome: Outcome) -> Step<Posted> {
    let mut ticket = claimed.ticket.clone();
    ticket.state = TicketState::Finished;
    ticket.outcome = Some(outcome);
    shorten(&mut ticket);
    let ops = end_of(key, &ticket, claimed.version, true);
    stepped(claimed, ticket, ops)
}

/// Ends a claim with the result of a task that adds others: the entry of its build, which has this version, names
/// them in the same commit. Only the last operation hangs on that version.
pub(crate) fn finish_adding(
    key: &TicketKey,
    claimed: &Posted,
    outcome: Outcome,
    (live, version): (&Live, u32),
    build: (&str, u64),
) -> Step<Posted> {
    let mut step = finish(key, claimed, outcome);
    step.ops.push(set(live_path(build.0, build.1), to_json(live), version));
    step
}

/// Ends a claim without a result: the ticket is open again, or finished where a bound is reached. `of`: the
/// nonce of the claim, `None` whoever's it is. `entry`: whether the claim's entry stands.
pub(crate) fn lose(
    key: &TicketKey,
    claimed: &Posted,
    of: Option<&str>,
    cause: Cause,
    now: u64,
    entry: bool,
) -> Result<Step<Posted>, Refused> {
    let mut ticket = claimed.ticket.clone();
    if !ticket.is_held_by(of.unwrap_or(&claimed.ticket.nonce)) {
        return Err(Refused::NotHeld);
    }
    reopen(&mut ticket, cause, now);
    let ops = end_of(key, &ticket, claimed.version, entry);
    Ok(stepped(claimed, ticket, ops))
}

/// Ends a ticket as aborted, whoever holds it. `entry`: whether a claim's entry stands.
pub(crate) fn abort(key: &TicketKey, posted: &Posted, now: u64, entry: bool) -> Result<Step<Posted>, Refused> {
    abort_for(key, posted, ABORTED.to_owned(), now, entry)
}

/// The same for this reason.
pub(crate) fn abort_for(
    key: &TicketKey,
    posted: &Posted,
    why: String,
    now: u64,
    entry: bool,
) -> Result<Step<Posted>, Refused> {
    if posted.ticket.state == TicketState::Finished {
        return Err(Refused::Finished);
    }
    let mut ticket = posted.ticket.clone();
    end(&mut ticket, Verdict::Aborted, why, now);
    ticket.nonce.clear();
    let ops = end_of(key, &ticket, posted.version, entry);
    Ok(stepped(posted, ticket, ops))
}

/// A ticket's entry after it was set once more.
fn stepped(before: &Posted, ticket: Ticket, ops: Vec<Op>) -> Step<Posted> {
    let after = Posted {
        ticket,
        version: before.version + 1,
        created: before.created,
    };
    Step { after, ops }
}

/// Ends a ticket that its worker gave no result: what it started from is what is left.
fn end(ticket: &mut Ticket, verdict: Verdict, message: String, now: u64) {
    ticket.outcome = Some(Outcome {
        verdict,
        exit: None,
        message,
        workspace: ticket.workspace.clone(),
        artifacts: None,
        recorded: Vec::new(),
        adds: false,
        finished: now,
    });
    ticket.state = TicketState::Finished;
}

/// Makes a claimed ticket open again, or finished where a bound is reached.
fn reopen(ticket: &mut Ticket, cause: Cause, now: u64) {
    match bound_met(ticket, cause) {
        Some((verdict, message)) => end(ticket, verdict, message, now),
        None => {
            match cause {
                Cause::Died => ticket.attempt += 1,
                _ => ticket.given += 1,
            }
            ticket.state = TicketState::Open;
        }
    }
    // Also of one that is finished by this: its claimant must not take the outcome for its own.
    ticket.nonce.clear();
}

/// How a ticket ends whose claim is over for this cause; `None`: it is to be claimed again.
fn bound_met(ticket: &Ticket, cause: Cause) -> Option<(Verdict, String)> {
    // A build's own ticket is held as long as the build lasts, over any number of restarts.
    // A notification waits with its worker for somebody else's server.
    let bounded = !ticket.is_control() && !ticket.is_notification();
    match cause {
        Cause::TimedOut => {
            let seconds = ticket.time_limit().as_secs();
            let message = format!("timed out after {seconds} s; its worker did not end it");
            Some((Verdict::Failure, message))
        }
        Cause::Aborted => Some((Verdict::Aborted, ABORTED.to_owned())),
        // Once means once: nobody can say what was done by then.
        Cause::Died | Cause::GivenBack | Cause::Session if bounded && ticket.attempts == 1 => {
            Some((Verdict::Error, ended_once(ticket, cause)))
        }
        Cause::Died if ticket.attempt >= ticket.attempts => {
            let (times, node) = (ticket.attempt, &ticket.node);
            let message = format!("its worker died {times} times, the last one on {node}");
            Some((Verdict::Error, message))
        }
        Cause::GivenBack | Cause::Unbegun | Cause::Session if ticket.given >= GIVEN_MAX && bounded => {
            let message = format!("given back or lost with its node {} times", GIVEN_MAX + 1);
            Some((Verdict::Error, message))
        }
        Cause::Died | Cause::GivenBack | Cause::Unbegun | Cause::Taken | Cause::Session => None,
    }
}

/// Why a ticket of one attempt is over, and what to do about it, on one line.
fn ended_once(ticket: &Ticket, cause: Cause) -> String {
    let node = &ticket.node;
    let what = match cause {
        Cause::Died => format!("its worker on {node} died"),
        Cause::Session => format!("its mount on {node} went away while it was claimed"),
        _ => format!("its worker on {node} let it go without a result"),
    };
    let again = match &ticket.part {
        Some(part) => format!("write retry into jobs/{}/builds/{}/ctl", part.job, part.build),
        None => "post it again".to_owned(),
    };
    format!("{what}, and with attempts 1 it is not begun again by itself: {again} once it is sure that it may")
}

/// Cuts the message so that the entry fits its bound.
fn shorten(ticket: &mut Ticket) {
    let over = to_json(ticket)
        .len()
        .saturating_sub(crate::storage::coordination::ENTRY_BYTES_MAX);
    if let (true, Some(outcome)) = (over > 0, ticket.outcome.as_mut()) {
        let keep = outcome.message.len().saturating_sub(over * 2 + 8);
        outcome.message = cut(&outcome.message, keep).to_owned();
    }
}

/// What becomes of a ticket whose claim is over: with the claim's entry, if that stands, and the place
/// of its build, if that is over.
fn end_of(key: &TicketKey, ended: &Ticket, version: u32, claimed: bool) -> Vec<Op> {
    if ended.is_notification() && ended.state == TicketState::Finished {
        // Nobody asks how it ended: it goes with its end, so that nobody has to tidy it away.
        let claim = claimed.then(|| delete(key.claim_path(), None));
        return claim.into_iter().chain([delete(key.path(), Some(version))]).collect();
    }
    let mut ops = vec![set(key.path(), to_json(ended), version)];
    ops.extend(claimed.then(|| delete(key.claim_path(), None)));
    ops.extend((ended.state == TicketState::Finished).then(|| leave(ended)).flatten());
    ops.extend(same_ticket(key, ended));
    ops
}

/// The removal of the place that a ticket holds.
pub(crate) fn leave(ticket: &Ticket) -> Option<Op> {
    let (Some(BuildRef { uid, .. }), Some(place)) = (&ticket.part, ticket.slot) else {
        return None;
    };
    Some(match &ticket.group {
        Some(member) => group::leave(member, place),
        None => delete(slot_path(uid, place), None),
    })
}

/// The check that a ticket is the one that was read. A job that was removed and made again under its name has
/// tickets of the same names, and one that stands alone can be posted again under its id: their entries may
/// have the same versions.
pub(crate) fn same_ticket(key: &TicketKey, ticket: &Ticket) -> Option<Op> {
    let path = match &ticket.part {
        Some(part) => Key::JobKeys(&part.uid).path(),
        None => ticket.post_path(key)?,
    };
    let version = None;
    Some(Op::Check { path, version })
}

/// A place of a job's `concurrency`.
pub(crate) fn slot_path(uid: &str, slot: u32) -> String {
    Key::Slot(uid, slot).path()
}

#[cfg(test)]
mod tests;
