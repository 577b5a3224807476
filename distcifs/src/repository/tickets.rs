//! Tickets: what stands with the coordinator, posting, reading, removing.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::board::isolation_label;
use super::claims::OfBuild;
use super::config::TicketRequest;
use super::core::{INLINE_BYTES_MAX, create, delete, from_json, random_id, to_json};
use super::names::{Name, TicketId};
use super::notices::{READS_MAX, in_parallel};
use super::people::Person;
use super::{Error, Repository, Result};
use crate::storage::{Commit, Digest, Entry, Op};

mod gone;
mod text;

pub use gone::Gone;
pub(crate) use text::is_zero;
use text::{build_ticket_id, ticket_json};

/// Above all queues, with the coordinator.
pub(crate) const TICKETS: &str = "/tickets";

/// The queue that build-control works.
pub const CONTROL_QUEUE: &str = "build-control";

/// Which ticket: its queue and its id.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TicketKey {
    /// The queue.
    pub queue: Name,
    /// The id.
    pub id: TicketId,
}

impl TicketKey {
    /// Its entry with the coordinator.
    pub(crate) fn path(&self) -> String {
        format!("/tickets/{}/{}", self.queue, self.id)
    }

    /// The entry of the claim on it.
    pub(crate) fn claim_path(&self) -> String {
        format!("/tickets/{}/{}/claim", self.queue, self.id)
    }
}

impl std::fmt::Display for TicketKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "tickets/{}/{}", self.queue, self.id)
    }
}

/// Where a ticket stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TicketState {
    /// Waiting for a claim.
    Open,
    /// Claimed.
    Claimed,
    /// It has its outcome.
    Finished,
}

/// The four ways in which work ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It did what it should.
    Success,
    /// It ran and failed.
    Failure,
    /// It could not be run.
    Error,
    /// Somebody stopped it.
    Aborted,
}

impl Verdict {
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Verdict::Success => "success",
            Verdict::Failure => "failure",
            Verdict::Error => "error",
            Verdict::Aborted => "aborted",
        }
    }

    /// From the word.
    pub fn parse(word: &str) -> Option<Self> {
        [Verdict::Success, Verdict::Failure, Verdict::Error, Verdict::Aborted]
            .into_iter()
            .find(|v| v.as_str() == word)
    }
}

/// How a ticket ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// How.
    pub verdict: Verdict,
    /// The exit status, if one was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<u8>,
    /// Words for people, at most [`MESSAGE_BYTES_MAX`].
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Digest of the workspace as it was left; absent: nothing ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace: Option<String>,
    /// Digest of what was published; absent: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifacts: Option<String>,
    /// Build parameters that the claimant recorded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub recorded: Vec<(String, String)>,
    /// When it ended, milliseconds since 1970.
    pub finished: u64,
}

/// Longest message of a result, bytes; the rest is cut.
pub const MESSAGE_BYTES_MAX: usize = 600;

/// The part of a build that a ticket is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// The job's name.
    pub job: String,
    /// The job's uid.
    pub uid: String,
    /// The build's number.
    pub build: u64,
    /// The task's index; absent: the ticket is the build's own, for build-control.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<usize>,
    /// 0, or the number of the retry.
    #[serde(default)]
    pub run: u32,
}

/// A ticket, as its entry has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ticket {
    /// Where it stands.
    pub state: TicketState,
    /// 1, plus the claims that died with their worker.
    pub attempt: u32,
    /// Claims that ended otherwise: given back, unread, lost with their mount.
    #[serde(default)]
    pub given: u32,
    /// The nonce of the claim that holds it or finished it.
    #[serde(default)]
    pub nonce: String,
    /// What it is of a build; absent: it stands alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<Part>,
    /// The name of its task; empty: one posted by an earlier version, which goes by its type.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// What its lines in the build's console begin with; empty where no task runs beside it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub lines: String,
    /// Labels a worker must have.
    #[serde(default)]
    pub labels: Vec<String>,
    /// The environment it is to be worked in; absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isolation: Option<String>,
    /// Seconds from the claim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<u64>,
    /// Bound of `attempt`.
    pub attempts: u32,
    /// Bytes of console that are kept of it; absent: the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub console_limit: Option<u64>,
    /// Bytes of the disk that its folders may take; absent: any number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<u64>,
    /// Digest of the workspace to start from; absent: empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace: Option<String>,
    /// The ticket's JSON, if it is short; else `body_digest` names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// Digest of the ticket's JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_digest: Option<String>,
    /// Slot of `concurrency` that a build-control ticket holds once claimed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<u32>,
    /// Who posted it.
    pub uid: u32,
    /// Who owned its job when its build was triggered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<u32>,
    /// That of its job when its build was triggered: the higher goes first.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub priority: i8,
    /// Names an entry below its own, which tells it from one that is posted later under its id; absent:
    /// its build does that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub post: Option<String>,
    /// When, milliseconds since 1970.
    pub posted: u64,
    /// When it was claimed last, milliseconds since 1970.
    #[serde(default)]
    pub claimed: u64,
    /// The node that claimed it last.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub node: String,
    /// Who claimed it last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<Person>,
    /// How it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
}

/// Timeout of a ticket that names none.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(24 * 3600);

impl Ticket {
    /// How long its work may take from the claim on.
    pub fn patience(&self) -> Duration {
        self.timeout.map_or(TIMEOUT_DEFAULT, Duration::from_secs)
    }

    /// All that a worker must have, one a line: the labels in order, and the isolation.
    pub fn needs(&self) -> String {
        let mut needs = self.labels.clone();
        needs.sort();
        needs.push(isolation_label(self.isolation.as_deref().unwrap_or("none")));
        needs.join("\n")
    }

    /// The entry that tells it from one that is posted later under its id.
    pub(crate) fn post_path(&self, key: &TicketKey) -> Option<String> {
        let post = self.post.as_ref()?;
        Some(format!("{}/post-{post}", key.path()))
    }

    /// Whether it is the one that build-control works, not one of a task.
    pub fn is_control(&self) -> bool {
        self.part.as_ref().is_some_and(|part| part.task.is_none())
    }

    /// Which claim this is, counting all: names the console of the attempt.
    pub fn ordinal(&self) -> u32 {
        self.attempt + self.given
    }
}

/// A ticket with the version that guards it.
#[derive(Debug, Clone)]
pub struct Posted {
    /// The ticket.
    pub ticket: Ticket,
    /// Version of its entry.
    pub version: u32,
    /// Its place in the order of all tickets.
    pub created: u64,
}

/// Reads a ticket out of its entry.
pub(crate) fn ticket_of(what: &str, entry: &Entry) -> Result<Posted> {
    let ticket = from_json(what, &entry.data)?;
    Ok(Posted {
        ticket,
        version: entry.version,
        created: entry.created,
    })
}

/// Who asks for something that belongs to a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Poster {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

impl Repository {
    /// A ticket by its key.
    pub async fn ticket(&self, key: &TicketKey) -> Result<Option<Posted>> {
        if let Some(claim) = self.held(key) {
            return Ok(Some(claim.posted()));
        }
        let entry = self.get(&key.path()).await?;
        entry.map(|entry| ticket_of(&key.to_string(), &entry)).transpose()
    }

    /// The ticket's JSON.
    pub async fn ticket_body(&self, ticket: &Ticket) -> Result<Bytes> {
        match (&ticket.body, ticket.body_digest.as_deref().map(Digest::parse)) {
            (Some(body), _) => Ok(Bytes::from(body.clone())),
            (None, Some(Some(digest))) => self.body(digest).await,
            _ => Err(Error::Io("ticket: its body is missing".into())),
        }
    }

    /// Ids in a queue, those of finished parts of builds left out, oldest first.
    pub async fn ticket_ids(self: &Arc<Self>, queue: &Name) -> Result<Vec<TicketId>> {
        let path = queue_path(queue);
        self.regard_all(&path).await;
        let names = self.children(&path).await?;
        let ids = names.iter().filter_map(|name| TicketId::new(name));
        let keys: Vec<TicketKey> = ids
            .map(|id| TicketKey {
                queue: queue.clone(),
                id,
            })
            .collect();
        let mut ids = Vec::with_capacity(keys.len());
        for keys in keys.chunks(READS_MAX) {
            self.read_ahead(keys.iter().map(TicketKey::path)).await?;
            let repository = self.clone();
            let looks = in_parallel(keys.to_vec(), move |key| {
                let repository = repository.clone();
                async move {
                    let posted = repository.ticket(&key).await?;
                    let shown = posted.filter(|p| p.ticket.state != TicketState::Finished || p.ticket.part.is_none());
                    Ok::<_, Error>(shown.map(|posted| (posted.created, key.id)))
                }
            });
            for look in looks.await {
                ids.extend(look?);
            }
        }
        ids.sort();
        Ok(ids.into_iter().map(|(_, id)| id).collect())
    }

    /// Posts a ticket; its id. The same one twice is made once.
    pub async fn post(&self, queue: &Name, request: TicketRequest, poster: Poster) -> Result<TicketId> {
        if queue.as_str() == CONTROL_QUEUE {
            return Err(Error::NotClaimant(format!(
                "tickets/{queue}: builds are started by jobs/<job>/trigger only"
            )));
        }
        let id = self.ticket_id(&request, poster)?;
        let key = TicketKey {
            queue: queue.clone(),
            id,
        };
        let part = self.part_of(&key, &request).await?;
        let guard = match &part {
            Some(part) => Some(self.control_guard(part, poster).await?),
            None => None,
        };
        let OfBuild {
            owner,
            priority,
            name,
            lines,
        } = match &part {
            Some(part) => self.of_build(part).await?,
            None => OfBuild::default(),
        };
        let post = part.is_none().then(random_id);
        let body = to_json(&ticket_json(&key, &request, part.as_ref()));
        let ticket = Ticket {
            state: TicketState::Open,
            attempt: 1,
            given: 0,
            nonce: String::new(),
            part,
            name,
            lines,
            labels: request.labels.iter().map(Name::to_string).collect(),
            isolation: (!request.isolation.is_none()).then(|| request.isolation.as_str().to_owned()),
            timeout: request.timeout,
            attempts: request.attempts,
            console_limit: request.console_limit,
            disk: request.limits.disk,
            workspace: request.workspace.map(|digest| digest.to_string()),
            body: None,
            body_digest: None,
            slot: None,
            uid: poster.uid,
            owner,
            priority,
            post,
            posted: super::core::now(),
            claimed: 0,
            node: String::new(),
            by: None,
            outcome: None,
        };
        self.post_ticket(&key, ticket.clone(), guard, &body).await?;
        self.heed_abort(&key, ticket.part.as_ref()).await?;
        Ok(key.id)
    }

    /// Makes the entry, or finds that it was made by the same request before.
    async fn post_ticket(&self, key: &TicketKey, mut ticket: Ticket, guard: Option<Op>, body: &Bytes) -> Result<()> {
        let hold = self.hold_epoch().await?;
        self.check_start(key, &ticket).await?;
        if body.len() <= INLINE_BYTES_MAX {
            ticket.body = Some(String::from_utf8_lossy(body).into_owned());
        } else {
            ticket.body_digest = Some(self.keep_body(body.clone()).await?.to_string());
        }
        let data = to_json(&ticket);
        if data.len() > crate::storage::coordination::ENTRY_BYTES_MAX {
            return Err(Error::TooBig(format!("{key}: too many labels")));
        }
        let guarded = guard.is_some();
        let mut ops: Vec<Op> = guard.into_iter().chain([create(key.path(), data)]).collect();
        ops.extend(ticket.post_path(key).map(|path| create(path, Bytes::new())));
        let same = |known: &Ticket| (&known.body, &known.body_digest) == (&ticket.body, &ticket.body_digest);
        let ours = |entry: Option<&Entry>| {
            entry.is_some_and(|e| serde_json::from_slice(&e.data).is_ok_and(|known: Ticket| same(&known)))
        };
        if self.commit_held(&hold, ops, &key.path(), ours).await? == Commit::Done {
            return Ok(());
        }
        match self.ticket(key).await? {
            Some(posted) if self.ticket_body(&posted.ticket).await? == *body => Ok(()),
            Some(_) => Err(Error::Exists(format!("{key}: another ticket has this id"))),
            None if guarded => Err(Error::NotClaimant(format!(
                "{key}: its build's build-control ticket was lost"
            ))),
            None => Err(Error::NotFound(format!("tickets/{}", key.queue))),
        }
    }

    /// The id asked for, if it may be used, or one made up from the request's content.
    fn ticket_id(&self, request: &TicketRequest, _poster: Poster) -> Result<TicketId> {
        match &request.id {
            Some(id) if id.is_build_shaped() && request.build.is_none() => Err(Error::Invalid(format!(
                "id {id}: names of the form job.build.task are kept for the tickets of builds"
            ))),
            Some(id) => Ok(id.clone()),
            None if request.build.is_some() => build_ticket_id(request),
            None => TicketId::new(&format!("t{}", random_id())).ok_or_else(|| Error::Invalid("id".into())),
        }
    }

    /// What the ticket is of a build, checked against the claim that entitles to post it.
    async fn part_of(&self, key: &TicketKey, request: &TicketRequest) -> Result<Option<Part>> {
        let (Some(job), Some(build), Some(task)) = (&request.job, request.build, request.task) else {
            if request.build.is_some() || request.task.is_some() {
                return Err(Error::Invalid(format!(
                    "{key}: job, build and task are given together or not at all"
                )));
            }
            return Ok(None);
        };
        if build_ticket_id(request)? != key.id {
            return Err(Error::Invalid(format!(
                "{key}: a build's ticket is called job.build.task"
            )));
        }
        let job = self
            .find_job(job.as_str())
            .await?
            .ok_or_else(|| Error::NotFound(format!("jobs/{job}")))?;
        Ok(Some(Part {
            job: job.name.to_string(),
            uid: job.uid().to_owned(),
            build,
            task: Some(task),
            run: request.run,
        }))
    }

    /// The check that the build's build-control ticket is still held here, by the same user.
    async fn control_guard(&self, part: &Part, poster: Poster) -> Result<Op> {
        let key = control_key(&part.job, part.build, part.run)?;
        let refused = || {
            Error::NotClaimant(format!(
                "jobs/{}/builds/{}: only whoever holds {key} posts its tickets",
                part.job, part.build
            ))
        };
        let claim = self
            .claims
            .get(&key)
            .filter(|claim| claim.uid == poster.uid)
            .ok_or_else(refused)?;
        let version = claim.version().ok_or_else(refused)?;
        Ok(Op::Check {
            path: key.path(),
            version: Some(version),
        })
    }

    /// Removes a finished ticket that stands alone.
    pub async fn remove_ticket(&self, key: &TicketKey) -> Result<()> {
        let posted = self
            .ticket(key)
            .await?
            .ok_or_else(|| Error::NotFound(key.to_string()))?;
        if posted.ticket.part.is_some() {
            return Err(Error::Busy(format!(
                "{key}: it belongs to a build; abort that with its ctl"
            )));
        }
        if posted.ticket.state == TicketState::Claimed {
            return Err(Error::Busy(format!("{key}: somebody is working on it")));
        }
        let mut ops: Vec<Op> = Vec::new();
        ops.extend(posted.ticket.post_path(key).map(|path| delete(path, None)));
        ops.push(delete(key.path(), Some(posted.version)));
        let removed = self.commit_settled(ops, &key.path(), |entry| entry.is_none()).await?;
        if removed != Commit::Done {
            return Err(Error::Busy(format!("{key}: it was claimed just now")));
        }
        self.drop_consoles(&super::consoles::scope_of(key, &posted.ticket))
            .await
    }

    /// The queues, in order of their names.
    pub async fn queues(&self) -> Result<Vec<Name>> {
        let mut names: Vec<Name> = self
            .children("/tickets")
            .await?
            .iter()
            .filter_map(|n| Name::new(n))
            .collect();
        names.sort();
        Ok(names)
    }
}

/// A queue's entry with the coordinator.
pub(crate) fn queue_path(queue: &Name) -> String {
    format!("{TICKETS}/{queue}")
}

/// The key of a build's build-control ticket.
pub(crate) fn control_key(job: &str, build: u64, run: u32) -> Result<TicketKey> {
    part_key(CONTROL_QUEUE, job, build, "control", run)
}

/// The key of a ticket of a build: `<job>.<build>.<task>`, `.r<run>` after it for a retry.
pub(crate) fn part_key(queue: &str, job: &str, build: u64, task: &str, run: u32) -> Result<TicketKey> {
    let again = if run == 0 { String::new() } else { format!(".r{run}") };
    let id = format!("{job}.{build}.{task}{again}");
    match (Name::new(queue), TicketId::new(&id)) {
        (Some(queue), Some(id)) => Ok(TicketKey { queue, id }),
        _ => Err(Error::Invalid(format!("tickets/{queue}/{id}: no valid name"))),
    }
}
