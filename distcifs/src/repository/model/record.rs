//! What is kept of a finished build.

use std::collections::BTreeMap;

use distcifs_settings::source::Source;
use distcifs_settings::state::TaskState;
use serde::{Deserialize, Serialize};

use crate::repository::model::build::ConfigEntry;
use crate::repository::model::deed::{Deed, Person};
use crate::repository::model::hold::{Approval, Ended};
use crate::repository::model::plan::PlanEntry;
use crate::repository::model::ticket::Verdict;
use crate::repository::model::unknown::Unknown;

impl From<Verdict> for TaskState {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Success => TaskState::Success,
            Verdict::Failure => TaskState::Failure,
            Verdict::Error => TaskState::Error,
            Verdict::Aborted => TaskState::Aborted,
        }
    }
}

/// What is kept of a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskRecord {
    /// How it stands.
    pub state: TaskState,
    /// The run in which it had its last ticket.
    pub run: u32,
    /// Its exit status, if its worker gave one.
    pub exit: Option<u8>,
    /// Its worker's words.
    pub message: String,
    /// Its last attempt, counted from 1; 0 if it never had a ticket.
    pub attempt: u32,
    /// The node of its last claim.
    pub node: String,
    /// When it was claimed last, milliseconds since 1970; 0 if never.
    pub started: u64,
    /// When it ended; 0 if it has not.
    pub finished: u64,
    /// Digest of its workspace.
    pub workspace: Option<String>,
    /// Digest of what it published.
    pub artifacts: Option<String>,
    /// Parameters that it recorded.
    pub recorded: Vec<(String, String)>,
    /// Names of its consoles.
    pub consoles: Vec<String>,
    /// The nonce of the claim that finished it.
    #[serde(default)]
    pub nonce: String,
    /// Who claimed it last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<Person>,
}

impl Default for TaskRecord {
    fn default() -> Self {
        TaskRecord {
            state: TaskState::Waiting,
            run: 0,
            exit: None,
            message: String::new(),
            attempt: 0,
            node: String::new(),
            started: 0,
            finished: 0,
            workspace: None,
            artifacts: None,
            recorded: Vec::new(),
            consoles: Vec::new(),
            nonce: String::new(),
            by: None,
        }
    }
}

/// What is kept of a finished build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// How it ended.
    pub state: Verdict,
    /// Why, for people.
    pub message: String,
    /// Number of the last retry.
    pub run: u32,
    /// When it was triggered, milliseconds since 1970.
    pub triggered: u64,
    /// When it ended.
    pub finished: u64,
    /// Whether pruning must leave it.
    pub keep: bool,
    /// Who triggered it.
    pub uid: u32,
    /// Who owned the job when it was triggered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<u32>,
    /// Who did what to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub by: Vec<Deed>,
    /// Why, if the trigger said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// Where it comes from, as its trigger said it.
    #[serde(default, skip_serializing_if = "Source::is_unsaid")]
    pub source: Source,
    /// Which parameters its trigger gave (given.rs).
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub given: String,
    /// Whether it waits for approval, or ended without it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub held: bool,
    /// Who let it run that was held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approved: Option<Approval>,
    /// How it ended that nobody approved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Ended>,
    /// Its configuration.
    pub config: ConfigEntry,
    /// What its tasks added; absent: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<PlanEntry>,
    /// Its parameters as triggered.
    pub params: Vec<(String, String)>,
    /// The nonce of its last trigger or retry.
    #[serde(default)]
    pub nonce: String,
    /// The nonce of the claim that finished it.
    #[serde(default)]
    pub finisher: String,
    /// Its tasks.
    pub tasks: Vec<TaskRecord>,
    /// Lengths of its consoles, bytes, by name.
    #[serde(default)]
    pub lengths: BTreeMap<String, u64>,
    /// What a later version knows of it.
    #[serde(flatten)]
    pub unknown: Unknown,
}

/// What the index of a job has of a finished build.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Indexed {
    /// How it ended.
    pub state: Verdict,
    /// When, milliseconds since 1970.
    pub finished: u64,
    /// Whether pruning must leave it.
    pub keep: bool,
    /// Whether it is a stranger's.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub untrusted: bool,
}

impl Indexed {
    pub(crate) fn of(record: &Record) -> Self {
        Indexed {
            state: record.state,
            finished: record.finished,
            keep: record.keep,
            untrusted: record.source.untrusted,
        }
    }
}
