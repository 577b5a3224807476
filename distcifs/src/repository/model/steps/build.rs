//! What becomes of a build, from its trigger to its record: data in, data and the operations that make it so out.

use std::collections::BTreeMap;

use crate::repository::model::build::{Build, Live, live_path};
use crate::repository::model::deed::{Did, Person, and, or_trigger};
use crate::repository::model::group::Member;
use crate::repository::model::hold::{Dismissal, LABEL};
use crate::repository::model::job::{Counted, Counter, Job};
use crate::repository::model::json::to_json;
use crate::repository::model::keys::LineKey;
use crate::repository::model::ops::{Changes, Step, create, delete, set};
use crate::repository::model::record::{Indexed, Record, TaskRecord};
use crate::repository::model::steps::{abort_for, leave};
use crate::repository::model::ticket::{
    BuildRef, CONTROL_QUEUE, Posted, Poster, Ticket, TicketKey, TicketState, Verdict, control_key,
};
use crate::repository::model::trash::{BuildLine, Removal};
use crate::repository::model::unknown::Unknown;
use crate::storage::Op;

pub(crate) mod held;

/// Retries of one build.
pub(crate) const RETRIES_MAX: u32 = 1000;

/// A build may take this long in all, seconds: ten days.
const CONTROL_TIMEOUT_SECS: u64 = 10 * 24 * 3600;

/// Deaths of build-control during one build before it is given up. Far more than of a task: each death
/// counts against all the builds that the process held, and a build may last for days.
const CONTROL_ATTEMPTS: u32 = 100;

/// Why a step can't be made on a build as it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Its job has another name by now, or is about to get one.
    Renamed,
    /// Its ticket can't be named: the names are too long.
    Unnamed,
    /// It began when this user owned the job.
    Owner(u32),
    /// It was begun again as often as it may be.
    TooOften,
    /// It is over.
    Over,
    /// Somebody has insisted already: nothing more can be asked for.
    Insisted,
    /// It has begun.
    Begun,
    /// It waits for no approval, and never did.
    NotHeld,
    /// Its trigger named no commit that could be approved.
    Uncommitted,
    /// It is of another commit.
    OtherCommit,
    /// It was approved already.
    Approved,
    /// It ended without approval.
    Unapproved,
    /// This newer build of its ref was triggered.
    Superseded(u64),
}

/// Who begins a build, when, and what tells its ticket from every other.
#[derive(Debug, Clone)]
pub(crate) struct Begun {
    /// The user.
    pub(crate) who: Poster,
    /// Random.
    pub(crate) nonce: String,
    /// Milliseconds since 1970.
    pub(crate) at: u64,
    /// The group in which it needs a place.
    pub(crate) group: Option<Member>,
}

/// The entry that remembers which build a token started.
#[derive(Debug, Clone)]
pub(crate) struct Token {
    /// Its path.
    pub(crate) path: String,
    /// Its version, if it is there and stands for a build that counts no more.
    pub(crate) version: Option<u32>,
}

/// Starts the next build of a job; its number. `token`: what remembers it, so that the same token starts no second
/// build.
pub(crate) fn trigger(
    job: &Job,
    read: &Counted,
    live: &Live,
    begun: Begun,
    token: Option<&Token>,
) -> Result<Step<u64>, Refused> {
    if !read.counter.is_of(job) {
        return Err(Refused::Renamed);
    }
    let n = read.counter.next;
    let counter = Counter {
        next: n + 1,
        ..read.counter.clone()
    };
    let at = begun.at;
    let mut ops = vec![set(job.path(), to_json(&counter), read.version)];
    ops.extend(held::entries(job, n, live, begun)?);
    ops.extend(token.map(|Token { path, version }| match version {
        None => create(path.clone(), to_json(&(n, at))),
        Some(version) => set(path.clone(), to_json(&(n, at)), *version),
    }));
    Ok(Step { after: n, ops })
}

/// What a retry has that its build had not.
#[derive(Debug, Clone)]
pub(crate) struct Again {
    /// Parameters, if they are short.
    pub(crate) params: Option<Vec<(String, String)>>,
    /// Digest of the parameters' JSON, if they are not.
    pub(crate) params_digest: Option<String>,
    /// Who asks for it.
    pub(crate) by: Person,
    /// Which of waiting tickets go first.
    pub(crate) priority: i8,
    /// Tells it from every other trigger and retry.
    pub(crate) nonce: String,
}

/// Whether a recorded build can be begun again while this user owns its job.
pub(crate) fn may_retry(record: &Record, owner: u32) -> Result<(), Refused> {
    if let Some(then) = record.owner.filter(|then| *then != owner) {
        return Err(Refused::Owner(then));
    }
    if record.held {
        return Err(Refused::Unapproved);
    }
    if record.run >= RETRIES_MAX {
        return Err(Refused::TooOften);
    }
    Ok(())
}

/// The entry of a recorded build that runs again: with the state in which it ran.
pub(crate) fn again(record: &Record, with: Again) -> Live {
    Live {
        config: record.config.clone(),
        plan: record.plan.clone(),
        params: with.params,
        params_digest: with.params_digest,
        run: record.run + 1,
        abort: false,
        insist: false,
        superseded: None,
        keep: record.keep,
        triggered: record.triggered,
        uid: record.uid,
        owner: record.owner,
        by: and(&or_trigger(&record.by, record.uid), Did::Retried, with.by),
        cause: record.cause.clone(),
        source: record.source.clone(),
        given: record.given.clone(),
        held: record.held,
        approved: record.approved.clone(),
        ended: None,
        before: Some(record.state),
        priority: with.priority,
        nonce: with.nonce,
        unknown: record.unknown.clone(),
    }
}

/// Starts a recorded build again, with the entry that [`again`] made of a record that was read after the counter:
/// no other retry of it began and ended in between, as each changes the counter's version.
pub(crate) fn retry(job: &Job, n: u64, read: &Counted, live: &Live, begun: Begun) -> Result<Step<()>, Refused> {
    if !read.counter.is_of(job) {
        return Err(Refused::Renamed);
    }
    if live.held {
        return Err(Refused::Unapproved);
    }
    let mut ops = begin(job, n, live, begun)?;
    ops.push(set(job.path(), to_json(&read.counter), read.version));
    Ok(Step { after: (), ops })
}

/// The entry of a build or a retry, and its ticket.
fn begin(job: &Job, n: u64, live: &Live, begun: Begun) -> Result<Vec<Op>, Refused> {
    let key = control_key(job.name.as_str(), n, live.run).map_err(|_| Refused::Unnamed)?;
    let ticket = control_ticket(&key, job, n, live, begun);
    Ok(vec![
        create(live_path(job.uid(), n), to_json(live)),
        create(key.path(), to_json(&ticket)),
    ])
}

/// A new ticket for build-control.
fn control_ticket(key: &TicketKey, job: &Job, n: u64, live: &Live, begun: Begun) -> Ticket {
    let run = live.run;
    let part = BuildRef {
        job: job.name.to_string(),
        uid: job.uid().to_owned(),
        build: n,
        task: None,
        run,
    };
    // Whoever knows nothing of builds of strangers gets none of them.
    let labels: Vec<String> = live.source.untrusted.then(|| LABEL.to_owned()).into_iter().collect();
    let body = serde_json::json!({
        "id": key.id.as_str(),
        "queue": CONTROL_QUEUE,
        "job": part.job, "build": n, "run": run, "labels": labels, "params": {}, "nonce": begun.nonce,
    });
    Ticket {
        state: TicketState::Open,
        attempt: 1,
        given: 0,
        nonce: String::new(),
        part: Some(part),
        notify: None,
        name: String::new(),
        lines: String::new(),
        labels,
        isolation: None,
        timeout: Some(CONTROL_TIMEOUT_SECS),
        attempts: CONTROL_ATTEMPTS,
        console_limit: None,
        disk: None,
        workspace: None,
        body: Some(body.to_string()),
        body_digest: None,
        group: begun.group,
        slot: None,
        uid: begun.who.uid,
        owner: Some(job.entry.access.uid),
        priority: live.priority,
        untrusted: live.source.untrusted,
        post: None,
        posted: begun.at,
        claimed: 0,
        node: String::new(),
        by: None,
        outcome: None,
        unknown: Unknown::default(),
    }
}

/// Asks for a build to be stopped: at first what does not run `always`, when that was asked for already all of it.
pub(crate) fn ask_abort(build: &Build, by: Person, at: u64) -> Result<Step<Live>, Refused> {
    let Some((live, version)) = build.live.as_ref().filter(|_| build.verdict().is_none()) else {
        return Err(Refused::Over);
    };
    if live.insist {
        return Err(Refused::Insisted);
    }
    if live.held {
        let ended = held::end(
            build.job.uid(),
            build.n,
            &(live.clone(), *version),
            Dismissal::Aborted,
            at,
            Some(by),
        );
        return ended.ok_or(Refused::Over);
    }
    let after = Live {
        abort: true,
        insist: live.abort,
        by: and(&build.deeds(), Did::Aborted, by),
        ..live.clone()
    };
    changed(build, after, *version)
}

/// A newer build that makes an end of another.
#[derive(Debug, Clone)]
pub(crate) struct Newer {
    /// Its number.
    pub(crate) n: u64,
    /// Who triggered it.
    pub(crate) by: Person,
}

/// Why a build is over that a newer one made an end of.
pub(crate) fn superseded_by(n: u64) -> String {
    format!("superseded by build {n}")
}

/// Ends a build of which nothing was begun, as a newer one is there: as one.
pub(crate) fn supersede_waiting(build: &Build, newer: &Newer, at: u64) -> Result<Step<Live>, Refused> {
    let (Some((live, version)), Some(control), None) = (&build.live, &build.control, build.verdict()) else {
        return Err(Refused::Over);
    };
    let posted = &control.posted;
    let waits = posted.ticket.state == TicketState::Open && posted.ticket.slot.is_none() && build.tickets.is_empty();
    if !waits {
        return Err(Refused::Begun);
    }
    let key = control_key(build.job.name.as_str(), build.n, build.run()).map_err(|_| Refused::Unnamed)?;
    let ended = abort_for(&key, posted, superseded_by(newer.n), at, false).map_err(|_| Refused::Over)?;
    let after = stopped(build, live, newer);
    let mut ops = vec![set(live_path(build.job.uid(), build.n), to_json(&after), *version)];
    ops.extend(ended.ops);
    Ok(Step { after, ops })
}

/// Asks for a build to be stopped that runs, as a newer one is there: what runs `always` goes on, unless `insist`
/// says otherwise. Nobody is asked twice: somebody may have done so to let that end.
pub(crate) fn supersede_running(build: &Build, newer: &Newer, insist: bool) -> Result<Step<Live>, Refused> {
    let Some((live, version)) = build.live.as_ref().filter(|_| build.verdict().is_none()) else {
        return Err(Refused::Over);
    };
    if live.abort {
        return Err(Refused::Insisted);
    }
    let after = Live {
        insist,
        ..stopped(build, live, newer)
    };
    changed(build, after, *version)
}

/// The entry of a build that a newer one makes an end of.
fn stopped(build: &Build, live: &Live, newer: &Newer) -> Live {
    Live {
        abort: true,
        superseded: Some(newer.n),
        by: and(&build.deeds(), Did::Superseded, newer.by.clone()),
        ..live.clone()
    }
}

/// Says whether pruning must leave a build that is not recorded.
pub(crate) fn keep(build: &Build, did: Did, by: Person) -> Result<Step<Live>, Refused> {
    let Some((live, version)) = &build.live else {
        return Err(Refused::Over);
    };
    let after = Live {
        keep: did == Did::Kept,
        by: and(&build.deeds(), did, by),
        ..live.clone()
    };
    changed(build, after, *version)
}

/// The same of a recorded one.
pub(crate) fn keep_record(record: &Record, did: Did, by: Person) -> Record {
    Record {
        keep: did == Did::Kept,
        by: and(&or_trigger(&record.by, record.uid), did, by),
        ..record.clone()
    }
}

/// The entry of a build after it was changed. The entry of a later run may have the same version: the run's own
/// ticket tells them apart.
fn changed(build: &Build, after: Live, version: u32) -> Result<Step<Live>, Refused> {
    let key = control_key(build.job.name.as_str(), build.n, build.run()).map_err(|_| Refused::Unnamed)?;
    let mut ops = vec![set(live_path(build.job.uid(), build.n), to_json(&after), version)];
    ops.extend(build.control.is_some().then(|| Op::Check {
        path: key.path(),
        version: None,
    }));
    ops.extend(after.held.then(|| held::still_held(build.job.uid(), build.n)));
    Ok(Step { after, ops })
}

/// Tickets as they were read.
pub(crate) type Tickets = Vec<(TicketKey, Posted)>;

/// What ends with a build that somebody stops.
#[derive(Debug, Default)]
pub(crate) struct Stop {
    /// Open tickets: they end at once.
    pub(crate) open: Tickets,
    /// Claimed ones: their claimants end them, if there are any.
    pub(crate) claimed: Vec<TicketKey>,
    /// The build's own ticket, if it ends too, once the open ones have.
    pub(crate) own: Option<(TicketKey, Posted)>,
}

impl Stop {
    /// Whether there is anything to be done.
    pub(crate) fn is_something(&self) -> bool {
        !self.open.is_empty() || self.own.is_some()
    }
}

/// What is to end of a build that was asked to stop; `insist`: with what runs `always`. `None`: it is over. Its
/// own ticket ends if nothing of it was begun, or somebody insists and nothing of it is claimed.
pub(crate) fn stop(build: &Build, insist: bool) -> crate::repository::Result<Option<Stop>> {
    let (Some(_), None, Some(control)) = (&build.live, build.verdict(), &build.control) else {
        return Ok(None);
    };
    let mut stop = Stop::default();
    for (index, build_ticket) in build.tickets.iter() {
        let always = build.plan.is_always(*index);
        match build_ticket.posted.ticket.state {
            TicketState::Open if insist || !always => {
                stop.open
                    .push((build.key_of(*index, build_ticket)?, build_ticket.posted.clone()));
            }
            TicketState::Claimed => stop.claimed.push(build.key_of(*index, build_ticket)?),
            TicketState::Open | TicketState::Finished => {}
        }
    }
    let claimed = control.posted.ticket.state == TicketState::Claimed;
    if (insist && stop.claimed.is_empty()) || (!claimed && build.tickets.is_empty()) {
        let key = control_key(build.job.name.as_str(), build.n, build.run())?;
        stop.own = Some((key, control.posted.clone()));
    }
    Ok(Some(stop))
}

/// What is kept of a build that has ended; `None` while it has not, or when it is recorded. `tasks` and `lengths`
/// are its tasks, and the lengths of its consoles.
pub(crate) fn record(build: &Build, tasks: Vec<TaskRecord>, lengths: BTreeMap<String, u64>) -> Option<Record> {
    let (live, _) = build.live.as_ref()?;
    let ticket = build.control.as_ref().map(|control| &control.posted.ticket);
    let (state, message, finished) = match (&live.ended, ticket) {
        (Some(ended), _) => (Verdict::Aborted, ended.cause.words(), ended.at),
        (None, ticket) => {
            let outcome = ticket?.outcome.as_ref()?;
            let superseded = live.superseded.filter(|_| outcome.verdict == Verdict::Aborted);
            let message = superseded.map_or_else(|| outcome.message.clone(), superseded_by);
            (outcome.verdict, message, outcome.finished)
        }
    };
    let record = Record {
        state,
        message,
        run: live.run,
        triggered: live.triggered,
        finished,
        keep: live.keep,
        uid: live.uid,
        owner: live.owner,
        by: build.deeds(),
        cause: live.cause.clone(),
        source: live.source.clone(),
        given: live.given.clone(),
        held: live.held,
        approved: live.approved.clone(),
        ended: live.ended.clone(),
        config: live.config.clone(),
        plan: live.plan.clone(),
        params: build.params.clone(),
        nonce: live.nonce.clone(),
        finisher: ticket.map(|ticket| ticket.nonce.clone()).unwrap_or_default(),
        tasks,
        lengths,
        unknown: live.unknown.clone(),
    };
    Some(record.fit())
}

/// Removes the entry and the tickets of a build whose record stands, each as it was recorded; the tickets. The
/// build's own goes after those of its tasks, its entry last. With it come the tickets that tell of its end: so
/// that is told once, whoever records it, and however often. `None`: it has no entry.
pub(crate) fn tidy(build: &Build, told: &[(TicketKey, Ticket)]) -> crate::repository::Result<Option<Step<Tickets>>> {
    let Some((live, version)) = &build.live else {
        return Ok(None);
    };
    let mut after = Vec::new();
    for (index, build_ticket) in build.tickets.iter() {
        after.push((build.key_of(*index, build_ticket)?, build_ticket.posted.clone()));
    }
    if let Some(build_ticket) = &build.control {
        let key = control_key(build.job.name.as_str(), build.n, build.run())?;
        after.push((key, build_ticket.posted.clone()));
    }
    let mut ops = Vec::new();
    for (key, posted) in &after {
        if posted.ticket.state == TicketState::Claimed {
            ops.push(delete(key.claim_path(), None));
        }
        // One that has ended has left it.
        if posted.ticket.state != TicketState::Finished {
            ops.extend(leave(&posted.ticket));
        }
        ops.push(delete(key.path(), Some(posted.version)));
    }
    ops.extend(
        live.held
            .then(|| delete(held::mark_path(build.job.uid(), build.n), None)),
    );
    ops.push(delete(live_path(build.job.uid(), build.n), Some(*version)));
    ops.extend(telling(told));
    Ok(Some(Step { after, ops }))
}

/// The entries of tickets that tell of a build.
pub(crate) fn telling(told: &[(TicketKey, Ticket)]) -> impl Iterator<Item = Op> {
    told.iter().map(|(key, ticket)| create(key.path(), to_json(ticket)))
}

/// The lines of a job's index with which a finished build goes into the trash.
pub(crate) fn into_trash(n: u64, indexed: Indexed, trash: &Removal) -> Changes {
    let line = BuildLine {
        indexed,
        trash: trash.clone(),
    };
    vec![
        (LineKey::Build(n).key(), None),
        (LineKey::RemovedBuild(n).key(), Some(to_json(&line))),
    ]
}

/// The lines with which it comes back.
pub(crate) fn out_of_trash(n: u64, indexed: Indexed) -> Changes {
    vec![
        (LineKey::RemovedBuild(n).key(), None),
        (LineKey::Build(n).key(), Some(to_json(&indexed))),
    ]
}

#[cfg(test)]
mod tests;
