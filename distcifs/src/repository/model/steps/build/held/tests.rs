//! What each step makes of a held build, and the operations in their order.

use super::*;
use crate::repository::model::job::Counter;
use crate::repository::model::steps::build::tests::{begun, build as any, eve, live};
use crate::repository::model::steps::build::{ask_abort, keep, may_retry, record, tidy, trigger};
use crate::repository::model::steps::tests::{NOW, shape};
use crate::repository::model::ticket::{TicketState, Verdict};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

fn counted() -> Counted {
    Counted {
        counter: Counter { next: 1, name: None },
        version: 4,
    }
}

/// A stranger's build that is held.
fn build(change: impl FnOnce(&mut Live)) -> Build {
    let mut live = live("one");
    live.held = true;
    live.source.untrusted = true;
    live.source.commit = COMMIT.into();
    live.source.name = "refs/pull/1/head".into();
    change(&mut live);
    Build {
        live: Some((live, 7)),
        control: None,
        ..any(TicketState::Open, &[])
    }
}

fn approval() -> Approval {
    Approval {
        who: eve(),
        commit: COMMIT.into(),
        at: NOW,
    }
}

/// "A held build has the state `held` and no ticket."
#[test]
fn one_that_is_held_has_no_ticket() {
    let held = build(|_| {});
    assert_eq!((held.state(), held.verdict()), ("held", None));
    let (live, _) = held.live.as_ref().unwrap();
    let token = super::super::Token {
        path: "/keys/u/t".into(),
        version: None,
    };
    let step = trigger(&held.job, &counted(), live, begun("two"), Some(&token)).unwrap();
    let ops = [
        "set /jobs/u @4",
        "create /jobs/u/1",
        "create /held/u/1",
        "create /keys/u/t",
    ];
    assert_eq!(shape(&step.ops), ops);
}

/// "Writing exactly the build's commit there starts the build", in one commit.
#[test]
fn an_approval_makes_the_ticket() {
    let held = build(|_| {});
    let step = approve(&held.job, &held, &counted(), approval(), begun("two")).unwrap();
    let ops = [
        "set /jobs/u/1 @7",
        "delete /held/u/1",
        "create /tickets/build-control/j.1.control",
        "check /jobs/u @4",
    ];
    assert_eq!(shape(&step.ops), ops);
    assert_eq!((step.after.held, step.after.approved), (false, Some(approval())));
    assert!(step.after.source.untrusted, "the build stays untrusted");
    let last = step.after.by.last().unwrap();
    assert_eq!((last.did, &last.who), (Did::Approved, &eve()));
}

/// "Another value is ESTALE. A build without a commit can't be approved: EPERM. It is ESTALE too if a newer build of
/// the same ref was triggered. A second approval is EEXIST, one of a build that has ended EBUSY."
#[test]
fn what_can_not_be_approved() {
    let ended = |cause| Some(Ended { cause, at: NOW });
    for (found, refused) in [
        (build(|live| live.held = false), Refused::NotHeld),
        (build(|live| live.source.commit.clear()), Refused::Uncommitted),
        (
            build(|live| live.source.commit.make_ascii_uppercase()),
            Refused::OtherCommit,
        ),
        (
            build(|live| (live.held, live.approved) = (false, Some(approval()))),
            Refused::Approved,
        ),
        (
            build(|live| live.ended = ended(Dismissal::Superseded(9))),
            Refused::Superseded(9),
        ),
        (build(|live| live.ended = ended(Dismissal::Aborted)), Refused::Over),
        (build(|live| live.ended = ended(Dismissal::Expired)), Refused::Over),
        (build(|live| live.owner = Some(99)), Refused::Owner(99)),
    ] {
        let step = approve(&found.job, &found, &counted(), approval(), begun("two"));
        assert_eq!(step.err(), Some(refused));
    }
    let held = build(|_| {});
    let mut renamed = counted();
    renamed.counter.name = Some("other".into());
    let step = approve(&held.job, &held, &renamed, approval(), begun("two"));
    assert_eq!(step.err(), Some(Refused::Renamed));
}

/// "A held build ends as aborted by `abort`, by a newer build of its ref, and after 14 days": it is recorded from its
/// entry, and can't be retried.
#[test]
fn one_that_nobody_approved_ends_by_its_entry() {
    let held = build(|_| {});
    let step = ask_abort(&held, eve(), NOW).unwrap();
    assert_eq!(shape(&step.ops), ["set /jobs/u/1 @7", "check /held/u/1"]);
    for cause in [
        Dismissal::Aborted,
        Dismissal::Expired,
        Dismissal::Crowded,
        Dismissal::Superseded(2),
    ] {
        let step = end("u", 1, held.live.as_ref().unwrap(), cause, NOW, None).unwrap();
        let ended = build(|live| *live = step.after.clone());
        assert_eq!((ended.state(), ended.finished()), ("aborted", NOW));
        assert_eq!(end("u", 1, ended.live.as_ref().unwrap(), cause, NOW, None), None);
        assert_eq!(ask_abort(&ended, eve(), NOW).err(), Some(Refused::Over));
        let record = record(&ended, Vec::new(), Default::default()).unwrap();
        assert_eq!(
            (record.state, record.message.clone(), record.finished),
            (Verdict::Aborted, cause.words(), NOW)
        );
        assert!(record.held && record.source.untrusted);
        assert_eq!(record.ended.as_ref().map(|ended| ended.cause), Some(cause));
        assert_eq!(may_retry(&record, 1), Err(Refused::Unapproved));
        let tidied = tidy(&ended, &[]).unwrap().unwrap();
        assert_eq!(shape(&tidied.ops), ["delete /held/u/1", "delete /jobs/u/1 @7"]);
    }
    let kept = keep(&held, Did::Kept, eve()).unwrap();
    assert_eq!(shape(&kept.ops), ["set /jobs/u/1 @7", "check /held/u/1"]);
}
