//! What a ticket becomes when its claim is over without a result.

use super::{ABORTED, Cause, GIVEN_MAX};
use crate::repository::core::now;
use crate::repository::model::json::to_json;
use crate::repository::model::ticket::{Outcome, Ticket, TicketState, Verdict, cut};

/// Makes a claimed ticket open again, or finished where a bound is reached.
pub(super) fn reopen(ticket: &mut Ticket, cause: Cause) {
    // A build's own ticket is held as long as the build lasts, over any number of restarts.
    let bounded = !ticket.is_control();
    // Once means once: nobody can say what was done by then.
    let once = (bounded && ticket.attempts == 1).then(|| ended_once(ticket, cause));
    let seconds = ticket.patience().as_secs();
    let mut finish = |verdict, message: String| {
        ticket.outcome = Some(Outcome {
            verdict,
            exit: None,
            message,
            workspace: ticket.workspace.clone(),
            artifacts: None,
            recorded: Vec::new(),
            finished: now(),
        });
        ticket.state = TicketState::Finished;
    };
    match cause {
        Cause::TimedOut => {
            finish(
                Verdict::Failure,
                format!("timed out after {seconds} s; its worker did not end it"),
            );
        }
        Cause::Aborted => finish(Verdict::Aborted, ABORTED.to_owned()),
        Cause::Died | Cause::GivenBack | Cause::Session if once.is_some() => {
            finish(Verdict::Error, once.unwrap_or_default());
        }
        Cause::Died if ticket.attempt >= ticket.attempts => {
            let times = ticket.attempt;
            finish(
                Verdict::Error,
                format!("its worker died {times} times, the last one on {}", ticket.node),
            );
        }
        Cause::GivenBack | Cause::Unbegun | Cause::Session if ticket.given >= GIVEN_MAX && bounded => {
            finish(
                Verdict::Error,
                format!("given back or lost with its node {} times", GIVEN_MAX + 1),
            );
        }
        Cause::Died => ticket.attempt += 1,
        Cause::GivenBack | Cause::Unbegun | Cause::Taken | Cause::Session => ticket.given += 1,
    }
    if ticket.state != TicketState::Finished {
        ticket.state = TicketState::Open;
    }
    // Also of one that is finished by this: its claimant must not take the outcome for its own.
    ticket.nonce.clear();
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
pub(crate) fn shorten(ticket: &mut Ticket) {
    let over = to_json(ticket)
        .len()
        .saturating_sub(crate::storage::coordination::ENTRY_BYTES_MAX);
    if let (true, Some(outcome)) = (over > 0, ticket.outcome.as_mut()) {
        let keep = outcome.message.len().saturating_sub(over * 2 + 8);
        outcome.message = cut(&outcome.message, keep).to_owned();
    }
}
