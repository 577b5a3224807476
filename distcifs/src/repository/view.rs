//! What a build shows of itself: its tasks' states, why it waits, its JSON.

use bytes::Bytes;
use distcifs_settings::source::Source;
use distcifs_settings::state::TaskState;
use serde_json::{Map, Value, json};

use super::claims::Claims;
use super::config::{CHANGED, Downstream, Task, VALUE_BYTES_MAX};
use super::model::build::{Build, BuildTicket, Live};
use super::model::json::pretty;
use super::model::steps::build::superseded_by;
use super::model::ticket::{QUEUES, Ticket, TicketKey, TicketState, Verdict, control_key};
use super::{Error, Repository, Result};

/// Tasks that `why` names.
const NAMES_MAX: usize = 12;

impl Repository {
    /// One line: what a build waits for, or why it ended as it did.
    pub async fn why(&self, build: &Build) -> String {
        if build.verdict().is_some() {
            return why_ended(build);
        }
        if build.is_held() {
            return why_held(build.n, &build.source());
        }
        if build.aborting() {
            let why = self.why_aborting(build).await;
            return match build.superseded() {
                Some(newer) => format!("{}; {why}", superseded_by(newer)),
                None => why,
            };
        }
        let running = |build_ticket: &&BuildTicket| build_ticket.posted.ticket.state == TicketState::Claimed;
        let open = |build_ticket: &&BuildTicket| build_ticket.posted.ticket.state == TicketState::Open;
        let name = |index: usize| build.task_name(index).unwrap_or_default();
        if let Some((index, build_ticket)) = build.tickets.iter().find(|(_, build_ticket)| open(build_ticket)) {
            return format!("{} {}", name(*index), self.why_waits(build, *index, build_ticket).await);
        }
        if let Some((index, build_ticket)) = build.tickets.iter().find(|(_, build_ticket)| running(build_ticket)) {
            let ticket = &build_ticket.posted.ticket;
            return format!("{} runs on {} (attempt {})", name(*index), ticket.node, ticket.attempt);
        }
        match &build.control {
            Some(build_ticket) if open(&build_ticket) => {
                let key = control_key(build.job.name.as_str(), build.n, build.run());
                let group = waits_in_group(&self.claims, key.ok(), build_ticket).await;
                let why = || self.why_open(&build_ticket.posted.ticket, build_ticket.queue.as_str());
                match (build.config.concurrency, group) {
                    (_, Some(group)) => format!("the build {group}"),
                    (Some(bound), None) if self.nodes.waiters(build_ticket.queue.as_str(), "").all > 0 => {
                        format!("waits for one of {bound} builds of this job to end (concurrency)")
                    }
                    _ => format!("the build {}", why()),
                }
            }
            _ => "build-control is choosing the next task".into(),
        }
    }

    /// One line: what a task waits for, or how it ended.
    pub async fn why_of_task(&self, build: &Build, index: usize) -> String {
        let task = build.task(index);
        let line = task.message.lines().next().unwrap_or_default();
        match task.state {
            TaskState::Waiting => match waited_for(build, index).as_slice() {
                [] => "waits for build-control to post it".into(),
                names => format!("waits for {}", names.join(", ")),
            },
            TaskState::Posted => match build.tickets.get(&index) {
                Some(build_ticket) => self.why_waits(build, index, build_ticket).await,
                None => "waits for a worker".into(),
            },
            TaskState::Running => format!("runs on {} (attempt {})", task.node, task.attempt),
            TaskState::Skipped => match build.misfit(index) {
                Some((CHANGED, _)) => format!(
                    "its when leaves it out: none of the {} paths that changed fits",
                    build.changed().unwrap_or_default()
                ),
                Some((name, value)) if value.len() > VALUE_BYTES_MAX => {
                    format!("its when leaves it out: {name} is longer than {VALUE_BYTES_MAX} bytes")
                }
                Some((name, "")) => format!("its when leaves it out: {name} is empty"),
                Some((name, value)) => format!("its when leaves it out: {name} is {}", one_line(value)),
                None => "the build ended without it".into(),
            },
            _ if !line.is_empty() => line.to_owned(),
            TaskState::Success => "it ended well".into(),
            TaskState::Aborted => "it was aborted".into(),
            TaskState::Failure | TaskState::Error => match task.exit {
                Some(exit) => format!("exit {exit}"),
                None => "it gave no reason".into(),
            },
        }
    }

    /// What a build that is aborted waits for.
    async fn why_aborting(&self, build: &Build) -> String {
        let name = |index: usize| build.task_name(index).unwrap_or_default();
        let always = |index: usize| build.plan.is_always(index);
        let insisted = build.live.as_ref().is_some_and(|(live, _)| live.insist);
        let in_state = |state| {
            build
                .tickets
                .iter()
                .filter(move |(_, build_ticket)| build_ticket.posted.ticket.state == state)
        };
        let claimed: Vec<_> = in_state(TicketState::Claimed).collect();
        let ending = claimed.iter().find(|(index, _)| insisted || !always(**index));
        if let Some((index, build_ticket)) = ending {
            let node = &build_ticket.posted.ticket.node;
            return format!(
                "aborting: waits for {} on {node} to end, for a minute at most",
                name(**index)
            );
        }
        if let Some((index, build_ticket)) = claimed.first() {
            let node = &build_ticket.posted.ticket.node;
            return format!(
                "aborting: {} runs always, on {node}; abort again to end that, too",
                name(**index)
            );
        }
        let open: Vec<_> = in_state(TicketState::Open).collect();
        if let Some((index, _)) = open.iter().find(|(index, _)| insisted || !always(**index)) {
            return format!("aborting: {} is open still, and ends within a minute", name(**index));
        }
        match open.first() {
            Some((index, build_ticket)) => format!(
                "aborting: {} runs always and {}; abort again to leave it out",
                name(**index),
                self.why_waits(build, **index, build_ticket).await
            ),
            None => "is being aborted".into(),
        }
    }

    /// Why the open ticket of a task is not claimed, and what comes before it.
    async fn why_waits(&self, build: &Build, index: usize, build_ticket: &BuildTicket) -> String {
        if let Some(group) = waits_in_group(&self.claims, build.key_of(index, build_ticket).ok(), build_ticket).await {
            return group;
        }
        let mut why = self.why_open(&build_ticket.posted.ticket, build_ticket.queue.as_str());
        let ahead = build
            .key_of(index, build_ticket)
            .ok()
            .and_then(|key| self.nodes.ahead(&key));
        if let Some(ahead) = ahead {
            why.push_str(&ahead.to_string());
        }
        why
    }

    /// Why an open ticket is not claimed.
    fn why_open(&self, ticket: &Ticket, queue: &str) -> String {
        let needs = ticket.needs();
        let waiters = self.nodes.waiters(queue, &needs);
        let labels = match needs.strip_suffix("\nisolation.none") {
            Some(others) => others.replace('\n', " "),
            None => needs.replace('\n', " "),
        };
        match (waiters.all, waiters.able) {
            (0, _) if self.nodes.is_drained() => {
                format!("waits for a worker of {queue}: mount {} is drained", self.about.node)
            }
            // One that was claimed before has had a worker, wherever that was.
            (0, _) if ticket.ordinal() == 1 && !QUEUES.contains(&queue) && !self.queue_index.is_worked(queue) => {
                format!(
                    "waits: the queue tickets/{queue} has had no worker since this mount began: start one, \
                     or is the type misspelt?"
                )
            }
            (0, _) => format!("waits for a worker of {queue}: none is free"),
            (all, 0) if !waiters.reserved_for.is_empty() => {
                let only = waiters.reserved_for.into_iter().collect::<Vec<_>>().join(" or ");
                format!(
                    "waits: of {all} workers that wait, those that have what it needs take only tickets that need {only}"
                )
            }
            (all, 0) => format!("needs labels {labels}; {all} workers wait, none has them"),
            _ => format!("waits for a worker of {queue}"),
        }
    }

    /// The text of a build's build.json: made anew only when something of the build has changed.
    pub async fn build_text(&self, build: &Build) -> Bytes {
        let why = self.why(build).await;
        self.shown.text(build, &why, || pretty(&self.build_json(build, &why)))
    }

    /// A build as build.json shows it.
    fn build_json(&self, build: &Build, why: &str) -> Value {
        let params: serde_json::Map<String, Value> = build
            .all_params()
            .into_iter()
            .map(|(name, value)| (name, value.into()))
            .collect();
        let tasks = build.plan.tasks().map(|task| task_json(build, task)).collect();
        let source = build.source();
        json!({
            "job": build.job.name.as_str(),
            "job_uid": build.job.uid(),
            "build": build.n,
            "state": build.state(),
            "why": why,
            "cause": build.cause(),
            "event": source.event.as_str(),
            "ref": source.name,
            "commit": source.commit,
            "base": source.base,
            "trust": source.trust(),
            "senders": source.senders,
            "approved": build.approval(),
            "by": build.deeds(),
            "run": build.run(),
            "abort": build.aborting(),
            "abort_always": build.live.as_ref().is_some_and(|(live, _)| live.insist),
            "keep": build.kept(),
            "triggered": build.triggered(),
            "finished": if build.finished() == 0 { Value::Null } else { build.finished().into() },
            "config": build.config_entry().digest,
            "params": params,
            "downstream": build.config.downstream_jobs.iter().map(downstream).collect::<Vec<_>>(),
            "tasks": Value::Array(tasks),
        })
    }
}

impl Build {
    /// The text of a build's plan.json: what it does, whatever has become of that.
    pub fn plan_text(&self) -> String {
        let tasks = self.plan.tasks().map(|task| planned(self, task));
        pretty(&json!({ "tasks": tasks.collect::<Value>() }))
    }

    /// The text of a task's task.json: it as build.json has it.
    ///
    /// # Errors
    /// `NotFound` if the build has no such task.
    pub fn task_text(&self, index: usize) -> Result<String> {
        let missing = || Error::NotFound(format!("jobs/{}/builds/{}: task {index}", self.job.name, self.n));
        Ok(pretty(&task_json(self, self.plan.task(index).ok_or_else(missing)?)))
    }
}

/// The tasks that one still waits for: a dozen of them at most, and how many more.
fn waited_for(build: &Build, index: usize) -> Vec<String> {
    let needs = build.plan.waits_for(index);
    let unfinished = |index: &usize| !build.task(*index).state.is_ended();
    let mut names: Vec<String> = needs
        .into_iter()
        .filter(unfinished)
        .filter_map(|i| build.task_name(i))
        .collect();
    if names.len() > NAMES_MAX {
        let more = names.split_off(NAMES_MAX).len();
        names.push(format!("{more} more"));
    }
    names
}

/// A task as it is planned, and which one added it.
fn planned(build: &Build, task: &Task) -> Value {
    let mut json = task.resolved();
    if let (Some(json), Some(by)) = (json.as_object_mut(), build.plan.added_by(task.index)) {
        json.insert("added_by".to_owned(), by.into());
    }
    json
}

/// A task as build.json shows it: what is planned, and what has become of that.
fn task_json(build: &Build, task: &Task) -> Value {
    let mut json = planned(build, task);
    let done = serde_json::to_value(build.task(task.index)).unwrap_or_default();
    if let (Some(json), Value::Object(done)) = (json.as_object_mut(), done) {
        json.extend(done);
        if build.adds(task.index) {
            json.insert("adds".to_owned(), true.into());
        }
    }
    json
}

/// Which others a ticket waits for that share its group.
async fn waits_in_group(claims: &Claims, key: Option<TicketKey>, build_ticket: &BuildTicket) -> Option<String> {
    let waits = claims.waits_in_group(&key?, &build_ticket.posted).await;
    waits.unwrap_or_else(|error| Some(format!("waits for a place in its group: {error}")))
}

/// The beginning of a value that may be anything, as a part of a line.
fn one_line(value: &str) -> String {
    const SHOWN_CHARS: usize = 100;
    let plain = |c: char| if c.is_control() { '?' } else { c };
    value.chars().take(SHOWN_CHARS).map(plain).collect()
}

/// A job that a build triggers, as its configuration has it.
fn downstream(entry: &Downstream) -> Value {
    if entry.parameters.is_empty() {
        return entry.job.as_str().into();
    }
    let parameters = entry.parameters.iter();
    let parameters: Map<String, Value> = parameters
        .map(|(name, text)| (name.as_str().to_owned(), text.as_str().into()))
        .collect();
    json!({"job": entry.job.as_str(), "parameters": parameters})
}

/// What a held build waits for.
pub(super) fn why_held(n: u64, source: &Source) -> String {
    let of = match source.senders.as_slice() {
        [] => String::new(),
        [only] => format!(" of {only}"),
        [of @ .., sender] => format!(" of {}, sent by {sender}", of.join(" and ")),
    };
    if source.commit.is_empty() {
        return format!("is held: its trigger named no commit{of} that could be approved; trigger it with @commit");
    }
    format!(
        "waits for approval of {}{of} by whoever may write builds/{n}/approve",
        source.commit
    )
}

/// Why a build ended as it did.
pub(super) fn why_ended(build: &Build) -> String {
    let superseded = build.superseded().filter(|_| build.verdict() == Some(Verdict::Aborted));
    if let Some(newer) = superseded {
        return superseded_by(newer);
    }
    let message = match (&build.live, build.control_outcome(), &build.record) {
        (Some((Live { ended: Some(ended), .. }, _)), ..) => ended.cause.words(),
        (Some(_), Some(outcome), _) => outcome.message.clone(),
        (_, _, Some(record)) => record.message.clone(),
        _ => String::new(),
    };
    match message.lines().next() {
        Some(line) if !line.is_empty() => line.to_owned(),
        _ => match build.verdict() {
            Some(Verdict::Success) => build
                .fits_nothing()
                .map(|line| one_line(&line))
                .unwrap_or_else(|| "all tasks ended well".into()),
            Some(Verdict::Aborted) => "somebody aborted it".into(),
            _ => "a task failed".into(),
        },
    }
}
