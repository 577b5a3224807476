//! Steps as tables: what each makes of a ticket in each state, and the operations in their order.

use bytes::Bytes;

use super::*;
use crate::repository::model::claim::{ClaimState, Life};
use crate::repository::model::unknown::Unknown;
use crate::repository::names::{Name, TicketId};

mod machine;
pub(super) mod world;

pub(in crate::repository::model::steps) const NOW: u64 = 7000;

/// A ticket of a build's task, or of the build itself.
pub(in crate::repository::model::steps) fn ticket_of_build(uid: &str, task: Option<usize>) -> Ticket {
    let part = BuildRef {
        job: "j".into(),
        uid: uid.into(),
        build: 1,
        task,
        run: 0,
    };
    Ticket {
        part: Some(part),
        attempts: if task.is_some() { 3 } else { 100 },
        ..ticket_alone("")
    }
}

/// A ticket that stands alone, posted with this mark.
pub(in crate::repository::model::steps) fn ticket_alone(post: &str) -> Ticket {
    Ticket {
        state: TicketState::Open,
        attempt: 1,
        given: 0,
        nonce: String::new(),
        part: None,
        notify: None,
        name: String::new(),
        lines: String::new(),
        labels: Vec::new(),
        isolation: None,
        timeout: None,
        attempts: 3,
        console_limit: None,
        disk: None,
        workspace: Some("w".into()),
        body: None,
        body_digest: None,
        group: None,
        slot: None,
        uid: 0,
        owner: None,
        priority: 0,
        untrusted: false,
        post: (!post.is_empty()).then(|| post.to_owned()),
        posted: 1,
        claimed: 0,
        node: String::new(),
        by: None,
        outcome: None,
        unknown: Unknown::default(),
    }
}

pub(in crate::repository::model::steps) fn key(queue: &str, id: &str) -> TicketKey {
    TicketKey {
        queue: Name::new(queue).unwrap(),
        id: TicketId::new(id).unwrap(),
    }
}

pub(in crate::repository::model::steps) fn taken(nonce: &str, slot: Option<u32>) -> Taken {
    let who = Claimant { uid: 5, gid: 6, pid: 7 };
    Taken {
        nonce: nonce.into(),
        node: "n".into(),
        who,
        by: Person {
            uid: 5,
            name: "eve".into(),
        },
        at: NOW,
        place: slot.map(|at| Place { at, version: None }),
    }
}

pub(in crate::repository::model::steps) fn success() -> Outcome {
    Outcome {
        verdict: Verdict::Success,
        exit: Some(0),
        message: String::new(),
        workspace: None,
        artifacts: None,
        recorded: Vec::new(),
        adds: false,
        finished: NOW,
    }
}

fn read(ticket: Ticket) -> Posted {
    Posted {
        ticket,
        version: 4,
        created: 9,
    }
}

/// Operations, a word and a path each, with the version that guards them.
pub(in crate::repository::model::steps) fn shape(ops: &[Op]) -> Vec<String> {
    let at = |version: &Option<u32>| version.map_or(String::new(), |version| format!(" @{version}"));
    let one = |op: &Op| match op {
        Op::Create { path, ephemeral, .. } => format!("{} {path}", if *ephemeral { "hold" } else { "create" }),
        Op::Set { path, version, .. } => format!("set {path}{}", at(version)),
        Op::Delete { path, version } => format!("delete {path}{}", at(version)),
        Op::Check { path, version } => format!("check {path}{}", at(version)),
    };
    ops.iter().map(one).collect()
}

fn claimed(ticket: Ticket) -> Posted {
    let open = read(ticket);
    claim(&key("q", "t"), &open, taken("one", None)).unwrap().after
}

#[test]
fn a_ticket_is_posted_with_its_mark_under_its_guard() {
    let control = guard(&key("build-control", "j.1.control"), &read(ticket_of_build("u", None)));
    let of_build = post(&key("q", "j.1.0"), ticket_of_build("u", Some(0)), control);
    assert_eq!(
        shape(&of_build.ops),
        [
            "check /tickets/build-control/j.1.control @4",
            "check /keys/u",
            "create /tickets/q/j.1.0",
        ]
    );
    let alone = post(&key("q", "t"), ticket_alone("m"), Vec::new());
    assert_eq!(shape(&alone.ops), ["create /tickets/q/t", "create /tickets/q/t/post-m"]);
}

#[test]
fn a_claim_tells_of_itself_first_and_checks_last() {
    let build = key("build-control", "j.1.control");
    let step = claim(&build, &read(ticket_of_build("u", None)), taken("one", Some(2))).unwrap();
    assert_eq!(
        shape(&step.ops),
        [
            "create /jobs/u/slot-2",
            "hold /tickets/build-control/j.1.control/claim",
            "set /tickets/build-control/j.1.control @4",
            "check /keys/u",
        ]
    );
    let Posted {
        ticket,
        version,
        created,
    } = &step.after;
    assert_eq!((*version, *created, ticket.slot), (5, 9, Some(2)));
    assert!(ticket.is_held_by("one") && !ticket.is_held_by("two"));
    let Op::Create { data, .. } = &step.ops[1] else {
        panic!("{:?}", step.ops)
    };
    let text = r#"{"nonce":"one","node":"n","pid":7,"since":7000,"uid":5,"gid":6}"#;
    assert_eq!(data, &Bytes::from_static(text.as_bytes()));
    let alone = claim(&key("q", "t"), &read(ticket_alone("m")), taken("one", None)).unwrap();
    assert_eq!(
        shape(&alone.ops),
        [
            "hold /tickets/q/t/claim",
            "set /tickets/q/t @4",
            "check /tickets/q/t/post-m"
        ]
    );
}

/// Each step in each state: what comes of it, or why it is refused.
#[test]
fn each_state_takes_its_steps_only() {
    let key = key("q", "t");
    let open = read(ticket_alone("m"));
    let held = claimed(ticket_alone("m"));
    let over = finish(&key, &held, success()).after;
    let made = |posted: &Posted| {
        let claimed = claim(&key, posted, taken("two", None)).map(|step| step.after.ticket.state);
        let lost = |nonce| {
            let step = lose(&key, posted, Some(nonce), Cause::Unbegun, NOW, true);
            step.map(|step| step.after.ticket.state)
        };
        let aborted = abort(&key, posted, NOW, true).map(|step| step.after.ticket.state);
        (claimed, lost("one"), lost("two"), aborted)
    };
    use TicketState::{Claimed, Finished, Open};
    let not_held = Err(Refused::NotHeld);
    assert_eq!(made(&open), (Ok(Claimed), not_held, not_held, Ok(Finished)));
    assert_eq!(made(&held), (Err(Refused::Claimed), Ok(Open), not_held, Ok(Finished)));
    let finished = Err(Refused::Finished);
    assert_eq!(made(&over), (finished, not_held, not_held, finished));
}

/// "A claim that ends without a result": by cause, what the ticket is then, at the first time and at the last.
#[test]
fn a_claim_that_is_lost_opens_its_ticket_until_a_bound_is_met() {
    let key = key("q", "t");
    let after = |ticket: Ticket, cause| {
        let posted = claimed(ticket);
        lose(&key, &posted, None, cause, NOW, true).unwrap().after.ticket
    };
    let worn = Ticket {
        attempt: 3,
        given: 10,
        ..ticket_alone("m")
    };
    let once = Ticket {
        attempts: 1,
        ..ticket_alone("m")
    };
    let control = Ticket {
        given: 1000,
        ..ticket_of_build("u", None)
    };
    for (cause, first, last, of_one, of_build) in [
        (Cause::Died, "attempt 2", "error", "error", "attempt 2"),
        (Cause::GivenBack, "given 1", "error", "error", "given 1001"),
        (Cause::Unbegun, "given 1", "error", "given 1", "given 1001"),
        (Cause::Session, "given 1", "error", "error", "given 1001"),
        (Cause::Taken, "given 1", "given 11", "given 1", "given 1001"),
        (Cause::TimedOut, "failure", "failure", "failure", "failure"),
        (Cause::Aborted, "aborted", "aborted", "aborted", "aborted"),
    ] {
        for (before, wanted) in [
            (ticket_alone("m"), first),
            (worn.clone(), last),
            (once.clone(), of_one),
            (control.clone(), of_build),
        ] {
            let now = after(before.clone(), cause);
            let became = match &now.outcome {
                Some(outcome) => outcome.verdict.as_str().to_owned(),
                None if now.attempt > before.attempt => format!("attempt {}", now.attempt),
                None => format!("given {}", now.given),
            };
            assert_eq!(became, wanted, "{cause:?} of {before:?}");
            assert_eq!(now.state == TicketState::Finished, now.outcome.is_some());
            assert!(now.nonce.is_empty(), "no claimant may take what follows for its own");
        }
    }
}

#[test]
fn an_end_is_guarded_and_gives_back_what_the_claim_took() {
    let build = key("build-control", "j.1.control");
    let held = claim(&build, &read(ticket_of_build("u", None)), taken("one", Some(2)));
    let held = held.unwrap().after;
    let whole = [
        "set /tickets/build-control/j.1.control @5",
        "delete /tickets/build-control/j.1.control/claim",
        "delete /jobs/u/slot-2",
        "check /keys/u",
    ];
    let done = finish(&build, &held, success());
    assert_eq!(shape(&done.ops), whole);
    assert_eq!((done.after.version, done.after.ticket.nonce.as_str()), (6, "one"));
    assert_eq!(shape(&abort(&build, &held, NOW, true).unwrap().ops), whole);
    // Open again, the build keeps its place; and of a mount that is gone no entry is left.
    let orphan = lose(&build, &held, None, Cause::Session, NOW, false).unwrap();
    assert_eq!(shape(&orphan.ops), [whole[0], whole[3]]);
    assert_eq!(orphan.after.ticket.slot, Some(2));
}

#[test]
fn a_long_message_is_cut_so_that_the_entry_fits() {
    let held = claimed(Ticket {
        body: Some("b".repeat(1500)),
        labels: vec!["l".repeat(60); 20],
        ..ticket_alone("m")
    });
    let outcome = Outcome {
        message: "ä".repeat(900),
        ..success()
    };
    let step = finish(&key("q", "t"), &held, outcome);
    let Op::Set { data, .. } = &step.ops[0] else {
        panic!("{:?}", step.ops)
    };
    assert!(
        data.len() <= crate::storage::coordination::ENTRY_BYTES_MAX,
        "{}",
        data.len()
    );
    assert!(step.after.ticket.outcome.unwrap().message.starts_with("ää"));
}

/// An end that comes while a result is written is noted, and counts only if the result fails.
#[test]
fn a_result_that_is_being_written_decides() {
    let mut life = Life::default();
    assert_eq!((life.state(), life.is_over()), (ClaimState::Live, false));
    assert_eq!(life.begin_result(), Ok(()));
    assert!(!life.end(Cause::TimedOut), "it is not over by this");
    assert_eq!(life.begin_result(), Err(ClaimState::Finishing));
    let mut other = life;
    other.over(true);
    assert_eq!((other.state(), other.end(Cause::Died)), (ClaimState::Finished, false));
    assert_eq!(life.result_refused(), Some(Cause::TimedOut));
    assert!(life.end(Cause::TimedOut) && life.is_over());
    assert_eq!(
        (life.state(), life.begin_result()),
        (ClaimState::Lost, Err(ClaimState::Lost))
    );
    assert!(!life.end(Cause::Died), "an end comes once");
}
