//! A build: its entry while it runs, and all that is known of it at one moment.

use std::collections::BTreeMap;
use std::sync::Arc;

use distcifs_settings::source::Source;
use distcifs_settings::state::TaskState;
use serde::{Deserialize, Serialize};

use crate::repository::Result;
use crate::repository::config::{JobConfig, Task};
use crate::repository::model::console::{Extent, build_console, scope_of};
use crate::repository::model::deed::{Deed, or_trigger};
use crate::repository::model::hold::{Approval, Dismissal, Ended};
use crate::repository::model::job::Job;
use crate::repository::model::json::to_json;
use crate::repository::model::keys::{Key, RecordKey};
use crate::repository::model::plan::{Plan, PlanEntry};
use crate::repository::model::record::{Record, TaskRecord};
use crate::repository::model::ticket::{
    Outcome, Posted, TicketKey, TicketState, Verdict, control_key, is_zero, part_key,
};
use crate::repository::model::unknown::Unknown;
use crate::repository::model::when::LeftOut;
use crate::repository::names::Name;
use crate::storage::Object;

/// A build that is not finished, as its entry has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Live {
    /// The configuration's text.
    pub(crate) config: ConfigEntry,
    /// What its tasks added; absent: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) plan: Option<PlanEntry>,
    /// Parameters, if they are short; else `params_digest` names them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) params: Option<Vec<(String, String)>>,
    /// Digest of the parameters' JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) params_digest: Option<String>,
    /// 0, or the number of the retry.
    #[serde(default)]
    pub(crate) run: u32,
    /// Whether somebody wants it stopped.
    #[serde(default)]
    pub(crate) abort: bool,
    /// Whether somebody wants it stopped with what runs `always`.
    #[serde(default)]
    pub(crate) insist: bool,
    /// The newer build that made an end of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) superseded: Option<u64>,
    /// Whether pruning must leave it.
    #[serde(default)]
    pub(crate) keep: bool,
    /// When it was triggered, milliseconds since 1970.
    pub(crate) triggered: u64,
    /// Who triggered it.
    pub(crate) uid: u32,
    /// Who owned the job then: its tasks are done with that user's rights, whoever owns it later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) owner: Option<u32>,
    /// Who did what to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) by: Vec<Deed>,
    /// Why, if the trigger said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cause: Option<String>,
    /// Where it comes from, as its trigger said it.
    #[serde(default, skip_serializing_if = "Source::is_unsaid")]
    pub(crate) source: Source,
    /// Which parameters its trigger gave (given.rs).
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) given: String,
    /// Whether it waits for approval, or ended without it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) held: bool,
    /// Who let it run that was held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) approved: Option<Approval>,
    /// How it ended that was held: its record is made of this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ended: Option<Ended>,
    /// How the run before it ended, of a retry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) before: Option<Verdict>,
    /// Which of waiting tickets go first.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) priority: i8,
    /// Tells this trigger or retry from every other.
    #[serde(default)]
    pub(crate) nonce: String,
    /// What a later version knows of it.
    #[serde(flatten)]
    pub(crate) unknown: Unknown,
}

/// What is said of a task that was open when its build ended.
const LEFT: &str = "its build ended before it did";

/// Bytes that parameters and what else a trigger says take in an entry.
const SAID_BYTES_MAX: usize = 1536;

/// Bytes of an entry in which its parameters stand: what is done to the build later has room beside them.
const BEGUN_BYTES_MAX: usize = 2400;

impl Live {
    /// Whether parameters whose JSON has so many bytes may stand in this entry, which has none.
    pub(crate) fn has_room_for(&self, params: usize) -> bool {
        params + to_json(&self.source).len() <= SAID_BYTES_MAX && params + to_json(self).len() <= BEGUN_BYTES_MAX
    }

    /// Who did what to it.
    pub(crate) fn deeds(&self) -> Vec<Deed> {
        or_trigger(&self.by, self.uid)
    }
}

/// The configuration of a build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigEntry {
    /// Digest of its text.
    pub digest: String,
    /// Length of its text, bytes.
    pub size: u64,
}

/// A ticket of a build, as the build looks at it.
#[derive(Debug, Clone)]
pub(crate) struct BuildTicket {
    pub(crate) queue: Name,
    pub(crate) posted: Posted,
}

/// Everything known of a build at one moment.
#[derive(Clone)]
pub struct Build {
    /// Its job.
    pub job: Job,
    /// Its number.
    pub n: u64,
    /// The configuration it runs with.
    pub config: Arc<JobConfig>,
    /// What it does.
    pub plan: Arc<Plan>,
    /// Its entry, while it is not finished.
    pub(crate) live: Option<(Live, u32)>,
    /// The ticket for build-control, while there is one.
    pub(crate) control: Option<BuildTicket>,
    /// Tickets of its tasks, by index.
    pub(crate) tickets: Arc<BTreeMap<usize, BuildTicket>>,
    /// The record: of the whole build, or of earlier runs.
    pub(crate) record: Option<Arc<Record>>,
    /// Its parameters as they were triggered.
    pub(crate) params: Vec<(String, String)>,
    /// What `when` leaves out of it: that hangs on its plan, its source and `params` alone.
    pub(crate) left_out: LeftOut,
}

/// The entry of an unfinished build.
pub(crate) fn live_path(uid: &str, n: u64) -> String {
    Key::Build(uid, n).path()
}

/// The record of a build.
pub(crate) fn build_record(uid: &str, n: u64) -> Object {
    RecordKey::Build(uid, n).object()
}

impl Build {
    /// The configuration's digest and size.
    pub fn config_entry(&self) -> ConfigEntry {
        match (&self.live, &self.record) {
            (Some((live, _)), _) => live.config.clone(),
            (None, Some(record)) => record.config.clone(),
            (None, None) => ConfigEntry {
                digest: String::new(),
                size: 0,
            },
        }
    }

    /// Number of the retry, 0 for the first run.
    pub fn run(&self) -> u32 {
        self.live
            .as_ref()
            .map(|(live, _)| live.run)
            .or_else(|| self.record.as_ref().map(|r| r.run))
            .unwrap_or(0)
    }

    /// How it ended, if it did.
    pub fn verdict(&self) -> Option<Verdict> {
        match (&self.live, &self.control) {
            (Some((live, _)), _) if live.held => live.ended.as_ref().map(|_| Verdict::Aborted),
            (Some(_), Some(build_ticket)) => build_ticket.posted.ticket.outcome.as_ref().map(|o| o.verdict),
            _ => self.record.as_ref().map(|record| record.state),
        }
    }

    /// The word of the file `state`.
    pub fn state(&self) -> &'static str {
        if let Some(verdict) = self.verdict() {
            return verdict.as_str();
        }
        if self.is_held() {
            return "held";
        }
        let claimed = self
            .control
            .as_ref()
            .is_some_and(|build_ticket| build_ticket.posted.ticket.state == TicketState::Claimed);
        if claimed || !self.tickets.is_empty() {
            "running"
        } else {
            "pending"
        }
    }

    /// Whether it waits for approval.
    pub fn is_held(&self) -> bool {
        self.live
            .as_ref()
            .is_some_and(|(live, _)| live.held && live.ended.is_none())
    }

    /// Whether it waits for approval, or did once.
    pub fn was_held(&self) -> bool {
        let ever = |held: bool, approved: &Option<Approval>| held || approved.is_some();
        match (&self.live, &self.record) {
            (Some((live, _)), _) => ever(live.held, &live.approved),
            (None, Some(record)) => ever(record.held, &record.approved),
            (None, None) => false,
        }
    }

    /// Why it ended that nobody approved.
    pub(crate) fn dismissal(&self) -> Option<Dismissal> {
        let ended = match (&self.live, &self.record) {
            (Some((live, _)), _) => live.ended.as_ref(),
            (None, record) => record.as_ref()?.ended.as_ref(),
        };
        ended.map(|ended| ended.cause)
    }

    /// Who let it run that was held.
    pub fn approval(&self) -> Option<Approval> {
        match (&self.live, &self.record) {
            (Some((live, _)), _) => live.approved.clone(),
            (None, record) => record.as_ref()?.approved.clone(),
        }
    }

    /// When it was triggered, milliseconds since 1970.
    pub fn triggered(&self) -> u64 {
        match (&self.live, &self.record) {
            (Some((live, _)), _) => live.triggered,
            (None, Some(record)) => record.triggered,
            (None, None) => 0,
        }
    }

    /// Why it was triggered; empty if nobody said.
    pub fn cause(&self) -> &str {
        let cause = match (&self.live, &self.record) {
            (Some((live, _)), _) => live.cause.as_deref(),
            (None, record) => record.as_ref().and_then(|record| record.cause.as_deref()),
        };
        cause.unwrap_or_default()
    }

    /// Where it comes from, as its trigger said it.
    pub fn source(&self) -> Source {
        match (&self.live, &self.record) {
            (Some((live, _)), _) => live.source.clone(),
            (None, Some(record)) => record.source.clone(),
            (None, None) => Source::default(),
        }
    }

    /// Who did what to it, in order.
    pub fn deeds(&self) -> Vec<Deed> {
        match (&self.live, &self.record) {
            (Some((live, _)), _) => live.deeds(),
            (None, Some(record)) => or_trigger(&record.by, record.uid),
            (None, None) => Vec::new(),
        }
    }

    /// Its parameters: as triggered, then what tasks recorded.
    pub fn all_params(&self) -> Vec<(String, String)> {
        let mut all = self.params.clone();
        self.overlay_recorded(&mut all, |_| true);
        all
    }

    /// Puts what these of its tasks recorded over parameters.
    pub(crate) fn overlay_recorded(&self, all: &mut Vec<(String, String)>, of: impl Fn(&Task) -> bool) {
        let counts = |index: usize| self.plan.task(index).is_some_and(&of);
        let earlier = self.record.iter().flat_map(|r| r.tasks.iter().enumerate());
        let recorded = earlier
            .filter(|(index, _)| counts(*index))
            .flat_map(|(_, t)| t.recorded.iter());
        let fresh = self
            .tickets
            .iter()
            .filter(|(index, _)| counts(**index))
            .filter_map(|(_, p)| p.posted.ticket.outcome.as_ref())
            .flat_map(|o| o.recorded.iter());
        put_all(all, recorded.chain(fresh));
    }
}

/// Sets parameters among others: the later one of a name counts.
pub(crate) fn put_all<'a>(all: &mut Vec<(String, String)>, set: impl Iterator<Item = &'a (String, String)>) {
    for (name, value) in set {
        match all.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => old.clone_from(value),
            None => all.push((name.clone(), value.clone())),
        }
    }
}

impl Build {
    /// What became of a task, of this run or the last one in which it had a ticket.
    pub fn task(&self, index: usize) -> TaskRecord {
        if let Some(build_ticket) = self.tickets.get(&index) {
            return self.task_of(index, build_ticket);
        }
        let known = self.record.as_ref().and_then(|record| record.tasks.get(index)).cloned();
        let mut task = known.unwrap_or_default();
        if self.misfit(index).is_some() {
            task.state = TaskState::Skipped;
            return task;
        }
        let again = self.live.is_some() && self.verdict().is_none() && task.state != TaskState::Success;
        if again {
            task.state = TaskState::Waiting;
        } else if task.state == TaskState::Waiting {
            task.state = if self.verdict().is_some() {
                TaskState::Skipped
            } else {
                TaskState::Waiting
            };
        }
        task
    }

    /// A task as its ticket shows it.
    fn task_of(&self, index: usize, build_ticket: &BuildTicket) -> TaskRecord {
        let ticket = &build_ticket.posted.ticket;
        // Its ticket goes with the build's entry, and nobody ends it any more.
        let left = ticket.outcome.is_none() && self.verdict().is_some();
        let state = match (&ticket.outcome, ticket.state) {
            (Some(outcome), _) => outcome.verdict.into(),
            (None, _) if left => TaskState::Aborted,
            (None, TicketState::Claimed) => TaskState::Running,
            (None, _) => TaskState::Posted,
        };
        let earlier = self.record.as_ref().and_then(|record| record.tasks.get(index));
        let mut consoles: Vec<String> = earlier.map(|task| task.consoles.clone()).unwrap_or_default();
        if let Ok(key) = self.key_of(index, build_ticket) {
            consoles.extend(
                scope_of(&key, ticket)
                    .into_iter()
                    .filter(|name| !consoles.contains(name))
                    .collect::<Vec<_>>(),
            );
        }
        let outcome = ticket.outcome.as_ref();
        TaskRecord {
            state,
            run: self.run(),
            exit: outcome.and_then(|o| o.exit),
            message: match outcome {
                Some(outcome) => outcome.message.clone(),
                None if left => LEFT.to_owned(),
                None => String::new(),
            },
            attempt: ticket.attempt,
            node: ticket.node.clone(),
            started: ticket.claimed,
            finished: outcome.map_or(if left { self.finished() } else { 0 }, |o| o.finished),
            // One that is ended with its build leaves what it began with, as one does that is given up.
            workspace: match outcome {
                Some(outcome) => outcome.workspace.clone(),
                None => ticket.workspace.clone().filter(|_| left),
            },
            artifacts: outcome.and_then(|o| o.artifacts.clone()),
            recorded: outcome.map(|o| o.recorded.clone()).unwrap_or_default(),
            consoles,
            nonce: Some(&ticket.nonce).filter(|_| !left).cloned().unwrap_or_default(),
            by: ticket.by.clone(),
        }
    }

    /// The key of a task's ticket.
    pub(crate) fn key_of(&self, index: usize, build_ticket: &BuildTicket) -> Result<TicketKey> {
        part_key(
            build_ticket.queue.as_str(),
            self.job.name.as_str(),
            self.n,
            &index.to_string(),
            self.run(),
        )
    }

    /// A task's consoles, in order of its attempts.
    pub fn task_extents(&self, index: usize) -> Vec<Extent> {
        self.task(index)
            .consoles
            .into_iter()
            .map(|name| self.extent(name))
            .collect()
    }

    /// The build's own console.
    pub fn extent_of_all(&self) -> Extent {
        self.extent(build_console(self.job.uid(), self.n))
    }

    /// A console, with its length once nothing can be appended any more.
    fn extent(&self, name: String) -> Extent {
        let record = self.record.as_ref().filter(|_| self.live.is_none());
        let length = record.and_then(|record| record.lengths.get(&name).copied());
        Extent { name, length }
    }

    /// The folder name of a task: its index and its name.
    pub fn task_name(&self, index: usize) -> Option<String> {
        self.plan.task(index).map(Task::folder)
    }

    /// Whether a task added others.
    pub(crate) fn adds(&self, index: usize) -> bool {
        self.plan.texts().iter().any(|text| text.by == index)
    }

    /// Whether a task of this run added tasks that its plan does not have: then its entry is from before that.
    pub(crate) fn lacks_tasks(&self) -> bool {
        let adds = |build_ticket: &BuildTicket| {
            build_ticket
                .posted
                .ticket
                .outcome
                .as_ref()
                .is_some_and(|outcome| outcome.adds)
        };
        let has = |by: usize| self.plan.texts().iter().any(|text| text.by == by);
        let mut tickets = self.tickets.iter();
        self.live.is_some() && tickets.any(|(index, build_ticket)| adds(build_ticket) && !has(*index))
    }

    /// The workspace as the task that finished last left it: one that was ended before it began left none, and what it
    /// was to begin with counts where no other has ended.
    pub fn workspace(&self) -> Option<String> {
        let has_begun = |task: &TaskRecord| task.state != TaskState::Aborted || !task.nonce.is_empty();
        let tasks = (0..self.plan.count()).map(|i| self.task(i)).filter(|t| t.finished > 0);
        let last = tasks.max_by_key(|task| (has_begun(task), task.finished, task.workspace.is_some()));
        last.and_then(|task| task.workspace)
    }

    /// The entry of the ticket whose end is the build's; `None` once it has ended.
    pub(crate) fn control_path(&self) -> Option<String> {
        self.live.as_ref()?;
        let key = control_key(self.job.name.as_str(), self.n, self.run()).ok()?;
        Some(key.path())
    }

    /// What each finished task published, in order of their indexes.
    pub fn artifacts(&self) -> Vec<String> {
        (0..self.plan.count()).filter_map(|i| self.task(i).artifacts).collect()
    }

    /// Whether somebody asked for it to stop.
    pub fn aborting(&self) -> bool {
        self.live.as_ref().is_some_and(|(live, _)| live.abort)
    }

    /// The newer build that makes an end of it.
    pub(crate) fn superseded(&self) -> Option<u64> {
        self.live.as_ref().and_then(|(live, _)| live.superseded)
    }

    /// Whether pruning must leave it.
    pub fn kept(&self) -> bool {
        self.live
            .as_ref()
            .map(|(live, _)| live.keep)
            .or_else(|| self.record.as_ref().map(|r| r.keep))
            .unwrap_or(false)
    }

    /// When it ended, milliseconds since 1970; 0 while it has not.
    pub fn finished(&self) -> u64 {
        match (&self.live, &self.record) {
            (None, Some(record)) => record.finished,
            (Some((Live { ended: Some(ended), .. }, _)), _) => ended.at,
            _ => self.control_outcome().map_or(0, |outcome| outcome.finished),
        }
    }

    /// The outcome of its build-control ticket.
    pub(crate) fn control_outcome(&self) -> Option<&Outcome> {
        self.control
            .as_ref()
            .and_then(|build_ticket| build_ticket.posted.ticket.outcome.as_ref())
    }
}

impl Build {
    /// Whether nothing of it has changed: what it is made of has versions.
    pub(crate) fn is_as(&self, other: &Build) -> bool {
        let version = |build_ticket: &BuildTicket| (build_ticket.posted.created, build_ticket.posted.version);
        let versions = |build: &Build| {
            let tickets = build.tickets.iter();
            tickets
                .map(|(index, build_ticket)| (*index, version(build_ticket)))
                .collect::<Vec<_>>()
        };
        let head = |build: &Build| {
            (
                build.n,
                build.live.as_ref().map(|(_, version)| *version),
                build.control.as_ref().map(version),
            )
        };
        let records = match (&self.record, &other.record) {
            (Some(one), Some(another)) => Arc::ptr_eq(one, another),
            (None, None) => true,
            _ => false,
        };
        records
            && head(self) == head(other)
            && self.job.uid() == other.job.uid()
            && self.job.name == other.job.name
            && (Arc::ptr_eq(&self.tickets, &other.tickets) || versions(self) == versions(other))
    }
}

#[cfg(test)]
mod tests;
