//! What generated files say.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;

use super::node::{BuildFile, JobFile, Node, TaskFile, TicketFile, TicketRef, Top};
use super::refused::written_file;
use super::{Deadline, Error, Result, Tree};
use crate::repository::Repository;
use crate::repository::config::{CHECKOUT, param_file};
use crate::repository::core::time_of;
use crate::repository::model::build::Build;
use crate::repository::model::console::{Extent, attempt_console};
use crate::repository::model::deed::Deed;
use crate::repository::model::job::{Job, Switch};
use crate::repository::model::json::pretty;
use crate::repository::model::keys::TICKETS;
use crate::repository::model::ticket::Posted;
use crate::repository::names::Name;

/// What a file holds.
pub(crate) enum Content {
    /// These bytes.
    Bytes(Bytes),
    /// These consoles, one after another; the last may grow.
    Consoles(Vec<Extent>),
}

impl Content {
    fn text(text: impl Into<String>) -> Self {
        Content::Bytes(Bytes::from(text.into()))
    }

    /// A word or line, with its end; nothing if there is none.
    fn line(text: impl std::fmt::Display) -> Self {
        let text = text.to_string();
        if text.is_empty() {
            Content::text(text)
        } else {
            Content::text(text + "\n")
        }
    }

    /// Its size, bytes.
    pub(crate) async fn size(&self, repository: &Repository) -> Result<u64> {
        match self {
            Content::Bytes(bytes) => Ok(bytes.len() as u64),
            Content::Consoles(names) => {
                let mut size = 0;
                for name in names {
                    size += repository.consoles.extent_length(name).await?;
                }
                Ok(size)
            }
        }
    }
}

/// How long figures wait until all queues have been looked at: a request is held for a second.
const FIGURES_WAIT: Duration = Duration::from_millis(500);

/// What the file README at the top says.
const README: &str = include_str!("readme.txt");

impl Tree {
    /// What a generated file holds now.
    pub(crate) async fn content(&self, node: &Node) -> Result<Content> {
        match node {
            Node::Top(Top::Readme) => Ok(Content::text(README)),
            Node::Top(Top::Status) => Ok(Content::text(self.status().await?)),
            Node::Top(Top::Metrics) => Ok(Content::text(self.metrics().await?)),
            Node::Top(Top::Drain) => Ok(Content::text(self.repository.nodes.drain_text())),
            Node::Alive(name) => self.alive(name).await,
            Node::Trashed(id) => Ok(Content::text(self.trash_text(id).await?)),
            Node::JobFile(job, JobFile::Config) => match self.repository.configs.head(&self.job(job)?).await? {
                Some(head) => Ok(Content::Bytes(self.repository.configs.text_of(&head.entry()).await?)),
                None => Ok(Content::text("")),
            },
            Node::JobFile(job, JobFile::Enabled) => match self.repository.configs.switch(&self.job(job)?).await? {
                Switch::On => Ok(Content::line("on")),
                Switch::Off | Switch::Given => Ok(Content::line("off")),
            },
            Node::Next(job) => Ok(Content::text(self.next_text(job).await?)),
            node if written_file(node).is_some() => {
                let text = self.refusal(node).map(Content::Bytes);
                text.ok_or_else(|| Error::NotFound(node.path()))
            }
            Node::TaskFile(job, n, ..) => {
                let build = self.build_for(job, *n, node).await?;
                self.content_of_build(&build, node).await
            }
            Node::BuildFile(job, n, _) | Node::BuildParam(job, n, _) => {
                let build = self.build(job, *n).await?;
                self.content_of_build(&build, node).await
            }
            Node::TicketFile(ticket, _) | Node::TicketParam(ticket, _) => {
                let posted = self.posted(ticket).await?;
                self.content_of_ticket(ticket, &posted, node).await
            }
            _ => Ok(Content::text("")),
        }
    }

    /// What a file of a build holds.
    pub(crate) async fn content_of_build(&self, build: &Build, node: &Node) -> Result<Content> {
        match node {
            Node::BuildFile(_, _, file) => match file {
                BuildFile::State => Ok(Content::line(build.state())),
                BuildFile::Cause => Ok(said(build.cause())),
                BuildFile::Event | BuildFile::Ref | BuildFile::Commit | BuildFile::Base | BuildFile::Trust => {
                    let source = build.source();
                    let word = source.words().into_iter().find(|(name, _)| *name == file.name());
                    Ok(said(word.map_or("", |(_, word)| word)))
                }
                BuildFile::By => Ok(Content::text(deeds(build))),
                BuildFile::Why => {
                    let why = self.repository.why(build).await;
                    match self.repository.store.check_room().await {
                        Err(full) if build.verdict().is_none() => Ok(Content::line(format!("{why}; {full}"))),
                        _ => Ok(Content::line(why)),
                    }
                }
                BuildFile::BuildJson => Ok(Content::Bytes(self.repository.build_text(build).await)),
                BuildFile::Plan => Ok(Content::text(build.plan_text())),
                BuildFile::Config => Ok(Content::Bytes(self.repository.builds.build_config_text(build).await?)),
                BuildFile::Console => Ok(Content::Consoles(vec![build.extent_of_all()])),
                BuildFile::Params
                | BuildFile::Tasks
                | BuildFile::Ctl
                | BuildFile::Approve
                | BuildFile::CtlError
                | BuildFile::Wait => Ok(Content::text("")),
            },
            Node::BuildParam(_, _, at) => {
                let params = build.all_params();
                let (_, value) = params.get(*at).ok_or_else(|| Error::NotFound("parameter".into()))?;
                Ok(Content::Bytes(param_file(&Value::String(value.clone())).into()))
            }
            Node::TaskFile(_, _, index, file) => {
                let task = build.task(*index);
                Ok(match file {
                    TaskFile::State => Content::line(task.state.as_str()),
                    TaskFile::Exit => Content::line(task.exit.map(|exit| exit.to_string()).unwrap_or_default()),
                    TaskFile::Console => Content::Consoles(build.task_extents(*index)),
                    TaskFile::Started => Content::line(moment(task.started)),
                    TaskFile::Finished => Content::line(moment(task.finished)),
                    TaskFile::Node => Content::line(task.node),
                    TaskFile::Attempt => Content::line(task.attempt),
                    TaskFile::Name => Content::line(build.plan.task(*index).map_or("", |task| task.name.as_str())),
                    TaskFile::Json => Content::text(build.task_text(*index)?),
                    TaskFile::Why => Content::text(self.why_of_task(build, *index).await?),
                    TaskFile::By => Content::line(task.by.map(|who| who.to_string()).unwrap_or_default()),
                })
            }
            _ => Ok(Content::text("")),
        }
    }

    /// What a file of a ticket holds.
    pub(crate) async fn content_of_ticket(
        &self,
        ticket: &Arc<TicketRef>,
        posted: &Posted,
        node: &Node,
    ) -> Result<Content> {
        match node {
            Node::TicketFile(_, file) => match file {
                TicketFile::Json => Ok(Content::text(pretty(&self.whole_ticket(ticket, posted).await?))),
                TicketFile::Labels => Ok(Content::text(
                    posted
                        .ticket
                        .labels
                        .iter()
                        .map(|label| format!("{label}\n"))
                        .collect::<String>(),
                )),
                TicketFile::Attempt => Ok(Content::line(posted.ticket.attempt)),
                TicketFile::Owner => Ok(Content::line(self.owner_of(posted)?)),
                TicketFile::Timeout => Ok(Content::line(posted.ticket.time_limit().as_secs())),
                TicketFile::Claim => self.claim_text(ticket, posted).await,
                TicketFile::Console => {
                    let name = |ordinal| Extent {
                        name: attempt_console(&ticket.key, &posted.ticket, ordinal),
                        length: None,
                    };
                    Ok(Content::Consoles((1..=posted.ticket.ordinal()).map(name).collect()))
                }
                TicketFile::Result => Ok(Content::text(result_text(posted))),
                TicketFile::Tasks => Ok(Content::Bytes(
                    self.tasks_of(ticket).map(|tasks| tasks.text).unwrap_or_default(),
                )),
                TicketFile::TasksError => Ok(Content::text(
                    self.tasks_of(ticket).map(|tasks| tasks.error).unwrap_or_default(),
                )),
                TicketFile::Params | TicketFile::Build | TicketFile::Wait | TicketFile::Jobs | TicketFile::Needs => {
                    Ok(Content::text(""))
                }
            },
            Node::TicketParam(_, at) => {
                let params = self.ticket_params(ticket).await?;
                let (_, value) = params.get(*at).ok_or_else(|| Error::NotFound("parameter".into()))?;
                Ok(Content::Bytes(param_file(value).into()))
            }
            _ => Ok(Content::text("")),
        }
    }

    /// The ticket's JSON as its worker needs it: that of a checkout says whether it is to tell what changed, and where it
    /// may fetch from, if not from anywhere.
    async fn whole_ticket(&self, ticket: &TicketRef, posted: &Posted) -> Result<Value> {
        let mut json = self.ticket_json(posted).await?;
        let (Some(part), Some(object)) = (&posted.ticket.part, json.as_object_mut()) else {
            return Ok(json);
        };
        if ticket.key.queue.as_str() != CHECKOUT {
            return Ok(json);
        }
        let reads_tasks = object.get("params").is_some_and(|params| params.get("tasks").is_some());
        if self.repository.claims.tells_changed(part, reads_tasks).await? {
            object.insert("changed".into(), true.into());
        }
        let params = object
            .get("params")
            .and_then(Value::as_object)
            .cloned()
            .unwrap_or_default();
        if let Some(repositories) = self.repository.claims.fetches(part, &params).await? {
            object.insert("repositories".into(), repositories.into());
        }
        Ok(json)
    }

    /// The ticket's JSON with what has become of it since it was posted.
    async fn ticket_json(&self, posted: &Posted) -> Result<Value> {
        let body = self.repository.tickets.body(&posted.ticket).await?;
        let mut json: Value =
            serde_json::from_slice(&body).map_err(|e| Error::Io(format!("ticket: damaged: {e}").into()))?;
        if let Some(object) = json.as_object_mut() {
            object.insert("attempt".into(), posted.ticket.attempt.into());
            object.insert("owner".into(), self.owner_of(posted)?.into());
            if posted.ticket.part.is_some() {
                let trust = if posted.ticket.untrusted {
                    "untrusted"
                } else {
                    "trusted"
                };
                object.insert("trust".into(), trust.into());
            }
            object.remove("nonce");
        }
        Ok(json)
    }

    /// The user with whose rights a ticket's work is done: the owner of its job, or whoever posted one
    /// that stands alone.
    pub(crate) fn owner_of(&self, posted: &Posted) -> Result<u32> {
        let job = self.job_of(&posted.ticket)?;
        let owner = |job: Job| posted.ticket.owner.unwrap_or(job.entry.access.uid);
        Ok(job.map_or(posted.ticket.uid, owner))
    }

    /// A ticket's parameters in the order of its JSON, then what its claimant recorded.
    pub(crate) async fn ticket_params(&self, ticket: &TicketRef) -> Result<Vec<(String, Value)>> {
        let posted = self.posted(ticket).await?;
        let json = self.ticket_json(&posted).await?;
        let own = json.get("params").and_then(Value::as_object);
        let mut params: Vec<(String, Value)> = own
            .into_iter()
            .flatten()
            .filter(|(k, _)| Name::new(k).is_some())
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect();
        if let Some(claim) = self.repository.claims.held.get(&ticket.key) {
            params.extend(
                claim
                    .recorded()
                    .into_iter()
                    .map(|(name, value)| (name, Value::String(value))),
            );
        }
        Ok(params)
    }

    /// Node, process, time and what the claimant wrote.
    async fn claim_text(&self, ticket: &TicketRef, posted: &Posted) -> Result<Content> {
        let entry = self.repository.claims.held.entry_of(&ticket.key, posted).await?;
        let entry = entry.ok_or_else(|| Error::NotFound(format!("{}/claim", ticket.key)))?;
        let held = self
            .repository
            .claims
            .held
            .get(&ticket.key)
            .filter(|claim| claim.nonce == entry.nonce);
        let text = held
            .map(|claim| crate::repository::core::lock(&claim.text).clone())
            .unwrap_or_default();
        let since = moment(entry.since);
        Ok(Content::text(format!(
            "node {}\npid {}\nsince {since}\n{text}",
            entry.node, entry.pid
        )))
    }

    async fn alive(&self, name: &Name) -> Result<Content> {
        let facts = self
            .repository
            .nodes
            .node_facts(name)
            .await?
            .ok_or_else(|| Error::NotFound(format!("nodes/{name}")))?;
        let mut text = format!(
            "node {name}\npid {}\nsince {}\nversion {}\n",
            facts.pid,
            moment(facts.since),
            facts.version
        );
        let mut waiting = facts.waiting;
        if *name == self.repository.about.node {
            waiting = self.repository.nodes.waiting_here();
        }
        for (queue, sets) in waiting {
            for (labels, count) in sets {
                let line = format!("waiting {queue} {count} {labels}");
                text.push_str(line.trim_end());
                text.push('\n');
            }
        }
        Ok(Content::text(text))
    }

    /// `status`: key and value lines.
    async fn status(&self) -> Result<String> {
        let repository = &self.repository;
        let figures = self.figures().await?;
        let total = |at: usize| figures.iter().map(|(_, counts, _)| counts[at]).sum::<usize>();
        let lines = [
            ("store", repository.about.store.clone()),
            ("coordinator", repository.about.coordinator.clone()),
            ("session", repository.store.session_word()),
            ("node", repository.about.node.to_string()),
            ("version", env!("CARGO_PKG_VERSION").into()),
            ("pid", std::process::id().to_string()),
            ("since", moment(repository.about.since)),
            ("nodes", repository.nodes.nodes().await?.len().to_string()),
            ("jobs", repository.jobs.count().to_string()),
            ("queues", figures.len().to_string()),
            ("tickets_open", total(0).to_string()),
            ("tickets_claimed", total(1).to_string()),
            (
                "workers_waiting",
                figures.iter().map(|(_, _, waiting)| waiting).sum::<usize>().to_string(),
            ),
            ("claims_held", repository.claims.held.len().to_string()),
            (
                "room",
                match repository.store.check_room().await {
                    Ok(()) => "yes".into(),
                    Err(full) => format!("no: {full}"),
                },
            ),
            (
                "drained",
                if repository.nodes.is_drained() { "yes" } else { "no" }.into(),
            ),
        ];
        Ok(lines.iter().map(|(key, value)| format!("{key} {value}\n")).collect())
    }

    /// `metrics`: Prometheus text.
    async fn metrics(&self) -> Result<String> {
        let mut text = String::new();
        let counts = &self.repository.builds.counts;
        let counters = [
            (
                "builds_triggered_total",
                "Builds triggered on this mount",
                &counts.triggered,
            ),
            (
                "builds_recorded_total",
                "Finished builds recorded by this mount",
                &counts.recorded,
            ),
            ("claims_total", "Claims made on this mount", &counts.claims),
            (
                "claims_lost_total",
                "Claims that ended without a result",
                &counts.claims_lost,
            ),
            ("results_total", "Results committed on this mount", &counts.results),
            (
                "console_bytes_total",
                "Bytes appended to consoles",
                self.repository.consoles.appended(),
            ),
        ];
        // Writing to a string cannot fail.
        for (name, help, count) in counters {
            let value = count.load(Ordering::Relaxed);
            let _ = write!(
                text,
                "# HELP distcifs_{name} {help}.\n# TYPE distcifs_{name} counter\ndistcifs_{name} {value}\n"
            );
        }
        let _ = write!(
            text,
            "# HELP distcifs_jobs Jobs.\n# TYPE distcifs_jobs gauge\ndistcifs_jobs {}\n",
            self.repository.jobs.count()
        );
        let _ = text.write_str("# HELP distcifs_tickets Tickets by queue and state.\n# TYPE distcifs_tickets gauge\n");
        let figures = self.figures().await?;
        for (queue, counts, _) in &figures {
            for (state, count) in ["open", "claimed", "finished"].iter().zip(counts) {
                let _ = writeln!(text, "distcifs_tickets{{queue=\"{queue}\",state=\"{state}\"}} {count}");
            }
        }
        let _ = text.write_str("# HELP distcifs_waiting Workers waiting by queue.\n# TYPE distcifs_waiting gauge\n");
        for (queue, _, waiting) in &figures {
            let _ = writeln!(text, "distcifs_waiting{{queue=\"{queue}\"}} {waiting}");
        }
        Ok(text)
    }

    /// Figures of all queues: from now on all are followed, and for a while after.
    async fn figures(&self) -> Result<Vec<(Name, [usize; 3], usize)>> {
        let tickets = self.repository.store.subscribe(TICKETS).await?;
        tickets.scanned(Deadline::after(FIGURES_WAIT)).await;
        Ok(self.repository.queue_index.figures())
    }
}

/// The text of a result: the outcome as it was written, then its message.
pub(crate) fn result_text(posted: &Posted) -> String {
    let Some(outcome) = &posted.ticket.outcome else {
        return String::new();
    };
    let word = outcome
        .exit
        .map_or_else(|| outcome.verdict.as_str().to_owned(), |exit| exit.to_string());
    if outcome.message.is_empty() {
        format!("{word}\n")
    } else {
        format!("{word}\n{}\n", outcome.message)
    }
}

/// A line of what somebody may have said; nothing if nobody did.
fn said(text: &str) -> Content {
    if text.is_empty() {
        Content::text("")
    } else {
        Content::line(text)
    }
}

/// Who did what to a build, one a line.
fn deeds(build: &Build) -> String {
    let line = |deed: &Deed| format!("{} {}\n", deed.did.as_str(), deed.who);
    build.deeds().iter().map(line).collect()
}

/// A time as `2026-01-31T12:00:00.123Z`; nothing for 0.
pub(crate) fn moment(millis: u64) -> String {
    if millis == 0 {
        return String::new();
    }
    let since = time_of(millis)
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    let (days, rest) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!(
        "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z",
        since.subsec_millis()
    )
}

/// Year, month and day of a day counted from 1970-01-01.
fn civil(mut days: u64) -> (u64, u64, u64) {
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let mut year = 1970;
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let february = 28 + u64::from(leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    (year, month, days + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_read_as_dates() {
        assert_eq!(moment(0), "");
        assert_eq!(moment(951_782_400_123), "2000-02-29T00:00:00.123Z");
        assert_eq!(moment(1_798_761_599_000), "2026-12-31T23:59:59.000Z");
    }
}
