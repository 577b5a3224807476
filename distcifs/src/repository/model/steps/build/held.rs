//! A build that is held: it waits for approval without a ticket, so that nobody works it, and ends or begins by its
//! entry alone. The entry beside it goes with the approval: it tells one from the later runs of its build, whose
//! entries may have the same versions.

use super::{Begun, Refused, begin, control_ticket};
use crate::repository::model::build::{Build, Live, live_path};
use crate::repository::model::deed::{Did, Person, and, or_trigger};
use crate::repository::model::hold::{Approval, Dismissal, Ended, Mark};
use crate::repository::model::job::{Counted, Job};
use crate::repository::model::json::to_json;
use crate::repository::model::keys::Key;
use crate::repository::model::ops::{Step, create, delete, set};
use crate::repository::model::ticket::control_key;
use crate::storage::Op;

/// The entry that stands beside a held build.
pub(crate) fn mark_path(uid: &str, n: u64) -> String {
    Key::Held(uid, n).path()
}

/// The check that a build is held still.
pub(super) fn still_held(uid: &str, n: u64) -> Op {
    Op::Check {
        path: mark_path(uid, n),
        version: None,
    }
}

/// The entries of a build that is held from its trigger on.
pub(super) fn hold(job: &Job, n: u64, live: &Live) -> Vec<Op> {
    let mark = Mark::new(&live.source.name, &live.source.senders, live.triggered);
    vec![
        create(live_path(job.uid(), n), to_json(live)),
        create(mark_path(job.uid(), n), to_json(&mark)),
    ]
}

/// Ends a build that is held; `by`: whoever wants that. `None`: it is not held, or has ended.
pub(crate) fn end(
    uid: &str,
    n: u64,
    (live, version): &(Live, u32),
    cause: Dismissal,
    at: u64,
    by: Option<Person>,
) -> Option<Step<Live>> {
    if !live.held || live.ended.is_some() {
        return None;
    }
    let deeds = or_trigger(&live.by, live.uid);
    let after = Live {
        abort: true,
        ended: Some(Ended { cause, at }),
        by: match by {
            Some(by) => and(&deeds, Did::Aborted, by),
            None => deeds,
        },
        ..live.clone()
    };
    let ops = vec![set(live_path(uid, n), to_json(&after), *version), still_held(uid, n)];
    Some(Step { after, ops })
}

/// Whether a build can be approved for this commit while this user owns its job.
pub(crate) fn may_approve(build: &Build, commit: &str, owner: u32) -> Result<(), Refused> {
    if !build.was_held() {
        return Err(Refused::NotHeld);
    }
    let source = build.source();
    if source.commit.is_empty() {
        return Err(Refused::Uncommitted);
    }
    if source.commit != commit {
        return Err(Refused::OtherCommit);
    }
    if build.approval().is_some() {
        return Err(Refused::Approved);
    }
    if let Some(Dismissal::Superseded(n)) = build.dismissal() {
        return Err(Refused::Superseded(n));
    }
    if build.verdict().is_some() {
        return Err(Refused::Over);
    }
    match build.live.as_ref().and_then(|(live, _)| live.owner) {
        Some(then) if then != owner => Err(Refused::Owner(then)),
        _ => Ok(()),
    }
}

/// Lets a held build run: its ticket is made with the approval. The counter, read before, says that the job has
/// still the name after which the ticket is called.
pub(crate) fn approve(
    job: &Job,
    build: &Build,
    read: &Counted,
    approval: Approval,
    begun: Begun,
) -> Result<Step<Live>, Refused> {
    may_approve(build, &approval.commit, job.entry.access.uid)?;
    let (live, version) = build.live.as_ref().ok_or(Refused::Over)?;
    if !read.counter.is_of(job) {
        return Err(Refused::Renamed);
    }
    let (uid, n) = (job.uid(), build.n);
    let key = control_key(job.name.as_str(), n, live.run).map_err(|_| Refused::Unnamed)?;
    let after = Live {
        held: false,
        by: and(&build.deeds(), Did::Approved, approval.who.clone()),
        approved: Some(approval),
        ..live.clone()
    };
    let ticket = control_ticket(&key, job, n, &after, begun);
    let ops = vec![
        set(live_path(uid, n), to_json(&after), *version),
        delete(mark_path(uid, n), None),
        create(key.path(), to_json(&ticket)),
        Op::Check {
            path: job.path(),
            version: Some(read.version),
        },
    ];
    Ok(Step { after, ops })
}

/// The entries of a build or a retry: with its ticket, unless it is held.
pub(super) fn entries(job: &Job, n: u64, live: &Live, begun: Begun) -> Result<Vec<Op>, Refused> {
    if live.held {
        return Ok(hold(job, n, live));
    }
    begin(job, n, live, begun)
}

#[cfg(test)]
mod tests;
