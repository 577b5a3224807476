//! A ticket: its entry, its key, how it ends.

use std::time::Duration;

use distcifs_settings::source::Source;
use serde::{Deserialize, Serialize};

use crate::repository::model::deed::Person;
use crate::repository::model::group::Member;
use crate::repository::model::json::from_json;
use crate::repository::model::keys::Key;
use crate::repository::model::notification::{NOTIFY_QUEUE, NotifyRef};
use crate::repository::model::skills::isolation_label;
use crate::repository::model::unknown::Unknown;
use crate::repository::names::{Name, TicketId};
use crate::repository::{Error, Result};
use crate::storage::Entry;

/// The queue that build-control works.
pub const CONTROL_QUEUE: &str = "build-control";

/// The kinds of work that every repository knows.
pub(crate) const QUEUES: [&str; 6] = [
    "build-control",
    "git-checkout",
    "execute-shell",
    "publish-artifacts",
    "copy-artifacts",
    NOTIFY_QUEUE,
];

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
        Key::Ticket(self.queue.as_str(), self.id.as_str()).path()
    }

    /// The entry of the claim on it.
    pub(crate) fn claim_path(&self) -> String {
        Key::Claim(self.queue.as_str(), self.id.as_str()).path()
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
    /// Whether it added tasks to its build.
    #[serde(default, skip_serializing_if = "is_false")]
    pub adds: bool,
    /// When it ended, milliseconds since 1970.
    pub finished: u64,
}

/// Longest message of a result, bytes; the rest is cut.
pub const MESSAGE_BYTES_MAX: usize = 600;

/// Which build a ticket belongs to, and as which part of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildRef {
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
    pub part: Option<BuildRef>,
    /// What it tells somebody of; absent: it is no notification.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notify: Option<NotifyRef>,
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
    /// The group in which it needs a place; absent: it needs none, or one of its job's `concurrency`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<Member>,
    /// The place in its group, or in its job's `concurrency`, that it holds once claimed.
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
    /// Whether its build is a stranger's.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub untrusted: bool,
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
    /// What a later version knows of it.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// Timeout of a ticket that names none.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(24 * 3600);

impl Ticket {
    /// How long its work may take from the claim on.
    pub fn time_limit(&self) -> Duration {
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
        Some(Key::Post(key.queue.as_str(), key.id.as_str(), post).path())
    }

    /// Whether it is the one that build-control works, not one of a task.
    pub fn is_control(&self) -> bool {
        self.part.as_ref().is_some_and(|part| part.task.is_none())
    }

    /// Whether it is a notification: that goes with its end.
    pub fn is_notification(&self) -> bool {
        self.notify.is_some()
    }

    /// Whether it waits for a place of a group.
    pub(crate) fn waits_in(&self, member: &Member) -> bool {
        let shares = self.group.as_ref().is_some_and(|group| group.digest == member.digest);
        shares && self.state == TicketState::Open && self.slot.is_none()
    }

    /// Whether the claim with this nonce holds it.
    pub(crate) fn is_held_by(&self, nonce: &str) -> bool {
        self.state == TicketState::Claimed && self.nonce == nonce
    }

    /// Which claim this is, counting all: names the console of the attempt.
    pub fn ordinal(&self) -> u32 {
        self.attempt + self.given
    }
}

/// A ticket with the version that guards it.
#[derive(Debug, Clone, PartialEq, Eq)]
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

/// What the ticket of a task has of its build.
#[derive(Debug, Default)]
pub(crate) struct OfBuild {
    /// Who owned the job when the build was triggered.
    pub(crate) owner: Option<u32>,
    /// Which of waiting tickets go first.
    pub(crate) priority: i8,
    /// The task's name.
    pub(crate) name: String,
    /// What its lines in the build's console begin with.
    pub(crate) lines: String,
    /// Where the build comes from.
    pub(crate) source: Source,
    /// The group in which the task needs a place.
    pub(crate) group: Option<Member>,
    /// The whole name of that.
    pub(crate) group_text: Option<String>,
    /// Queues and environments of the user's own that a stranger's build may use.
    pub(crate) types: Vec<Name>,
}

/// A queue's entry with the coordinator.
pub(crate) fn queue_path(queue: &Name) -> String {
    Key::Queue(queue.as_str()).path()
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

/// What need not stand in an entry.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
pub(crate) fn is_zero(number: &i8) -> bool {
    *number == 0
}

/// The same of what is not so.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_false(is: &bool) -> bool {
    !*is
}

/// At most `max` bytes of a text, cut between characters.
pub(crate) fn cut(text: &str, max: usize) -> &str {
    let mut end = text.len().min(max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}
