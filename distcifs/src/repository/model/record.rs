//! What is kept of a finished build.

use std::collections::BTreeMap;

use bytes::Bytes;
use distcifs_settings::source::Source;
use distcifs_settings::state::TaskState;
use serde::{Deserialize, Serialize};

use crate::repository::Result;
use crate::repository::model::build::ConfigEntry;
use crate::repository::model::deed::{Deed, Person};
use crate::repository::model::hold::{Approval, Ended};
use crate::repository::model::json::{from_json, to_json};
use crate::repository::model::keys::LineKey;
use crate::repository::model::ops::Changes;
use crate::repository::model::plan::PlanEntry;
use crate::repository::model::ticket::{Verdict, cut};
use crate::repository::model::unknown::Unknown;
use crate::storage::contents::VALUE_BYTES_MAX;

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

/// Tasks of one page of a record: at most 8 KiB each, with its consoles, in a value of at most 8 MiB.
const PAGE_TASKS: usize = 500;

/// Most pages of a record after the first.
pub(crate) const PAGES_MAX: usize = 16;

/// Most bytes of a record that are written with one change of a store, which takes 16 MiB.
const RECORD_BYTES_MAX: usize = 15 << 20;

/// What is left of the words of a task in a larger one.
const CUT_BYTES: usize = 64;

/// What pages after the first have of a record.
#[derive(Debug, Default, Serialize, Deserialize)]
struct RecordPage {
    tasks: Vec<TaskRecord>,
    lengths: BTreeMap<String, u64>,
}

impl Record {
    /// Whether it is written in pages, which a mount of before would not read: one of its time has no record that needs
    /// them.
    pub(crate) fn has_pages(&self) -> bool {
        self.tasks.len() > PAGE_TASKS && (self.plan.is_some() || to_json(self).len() > VALUE_BYTES_MAX)
    }

    /// It as it is stored: one value for most, and a page for each further 500 tasks where tasks were added or one value
    /// can't take it. Pages that an earlier run may have left go.
    pub(crate) fn changes(&self) -> Changes {
        let mut first = self.clone();
        let own = if self.has_pages() {
            PAGE_TASKS
        } else {
            first.tasks.len()
        };
        let rest = first.tasks.split_off(own);
        let pages = rest.chunks(PAGE_TASKS).map(|tasks| {
            let names = tasks.iter().flat_map(|task| &task.consoles);
            let lengths = names.filter_map(|name| first.lengths.remove_entry(name)).collect();
            to_json(&RecordPage {
                tasks: tasks.to_vec(),
                lengths,
            })
        });
        let pages: Vec<_> = pages.map(Some).collect();
        let first = (LineKey::Record.key(), Some(to_json(&first)));
        let pages = (1..=PAGES_MAX).zip(pages.into_iter().chain(std::iter::repeat(None)));
        std::iter::once(first)
            .chain(pages.map(|(page, value)| (LineKey::RecordPage(page).key(), value)))
            .collect()
    }

    /// It with shorter words of its tasks, if it is too large to be written with one change of a store.
    pub(crate) fn fit(mut self) -> Self {
        let bytes = |record: &Record| to_json(record).len();
        if self.tasks.len() > PAGE_TASKS && bytes(&self) > RECORD_BYTES_MAX {
            for task in &mut self.tasks {
                task.message.truncate(cut(&task.message, CUT_BYTES).len());
            }
        }
        self
    }

    /// What takes it away.
    pub(crate) fn removal() -> Changes {
        let pages = (1..=PAGES_MAX).map(|page| LineKey::RecordPage(page).key());
        std::iter::once(LineKey::Record.key())
            .chain(pages)
            .map(|key| (key, None))
            .collect()
    }

    /// Puts the pages together as they were read by their keys, the first one first; `None`: there is no first. What is
    /// left of the others then is of a record that a mount of before removed.
    ///
    /// # Errors
    /// `Io` if one of them is damaged.
    pub(crate) fn of_pages<'a>(
        what: &str,
        pages: impl IntoIterator<Item = &'a (String, Bytes)>,
    ) -> Result<Option<Record>> {
        let mut pages = pages.into_iter();
        let is_first = |(key, _): &&(String, Bytes)| *key == LineKey::Record.key();
        let Some((_, first)) = pages.next().filter(is_first) else {
            return Ok(None);
        };
        let mut record: Record = from_json(what, first)?;
        for (_, page) in pages {
            let RecordPage { tasks, lengths } = from_json(what, page)?;
            record.tasks.extend(tasks);
            record.lengths.extend(lengths);
        }
        Ok(Some(record))
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::names::check_changes;

    /// A record of so many tasks that each say as much as they may.
    fn record(count: usize, message: usize) -> Record {
        let task = |index: usize| TaskRecord {
            state: TaskState::Success,
            message: "m".repeat(message),
            workspace: Some("a".repeat(64)),
            artifacts: Some("b".repeat(64)),
            node: "n".repeat(64),
            recorded: (0..16).map(|at| (format!("name{at}"), "v".repeat(170))).collect(),
            consoles: vec![format!("console.{index}")],
            nonce: "c".repeat(32),
            ..TaskRecord::default()
        };
        let lengths = (0..count).map(|index| (format!("console.{index}"), 7)).collect();
        let text = serde_json::json!({
            "state": "success", "message": "", "run": 0, "triggered": 1, "finished": 2, "keep": false, "uid": 0,
            "config": {"digest": "", "size": 0, "revision": 0, "uid": 0}, "params": [], "tasks": [],
        });
        let mut record: Record = serde_json::from_value(text).unwrap();
        record.tasks = (0..count).map(task).collect();
        record.lengths = lengths;
        record.lengths.insert("own".to_owned(), 3);
        record
    }

    fn again(changes: &Changes) -> Record {
        Record::of_pages("record", &written(changes)).unwrap().unwrap()
    }

    /// What stands in the store after it.
    fn written(changes: &Changes) -> Vec<(String, Bytes)> {
        let written = changes
            .iter()
            .filter_map(|(key, value)| Some((key.clone(), value.clone()?)));
        written.collect()
    }

    /// The record of a build to which tasks were added.
    fn added(count: usize, message: usize) -> Record {
        let plan = serde_json::json!({ "digest": "d", "size": 1, "tasks": count });
        Record {
            plan: Some(serde_json::from_value(plan).unwrap()),
            ..record(count, message)
        }
    }

    /// "A build has at most 4,000 tasks": whatever they say, it can be recorded.
    #[test]
    fn a_record_of_many_tasks_fits() {
        for (count, message, pages) in [(0, 0, 0), (500, 512, 0), (501, 512, 1), (4000, 512, 7)] {
            let record = added(count, message);
            let changes = record.changes();
            assert_eq!(
                changes.iter().filter(|(_, value)| value.is_some()).count(),
                1 + pages,
                "{count}"
            );
            let longest = changes
                .iter()
                .filter_map(|(_, value)| value.as_ref())
                .map(Bytes::len)
                .max();
            assert!(longest.unwrap() <= VALUE_BYTES_MAX);
            check_changes("build", &changes).unwrap();
            assert!(changes.is_sorted_by_key(|(key, _)| key.clone()));
            assert_eq!(again(&changes), record, "{count}");
            let gone: Vec<_> = changes.iter().map(|(key, _)| (key.clone(), None)).collect();
            assert_eq!(Record::removal(), gone);
        }
        // One of a few tasks lies as it always did.
        let few = record(3, 10);
        assert_eq!(few.changes()[0], ("record".to_owned(), Some(to_json(&few))));
        let large = added(4000, 4000);
        let fit = large.clone().fit();
        check_changes("build", &fit.changes()).unwrap();
        assert!(fit.tasks.iter().all(|task| task.message.len() == CUT_BYTES));
        assert_eq!(record(1000, 512).fit(), record(1000, 512));
    }

    /// A mount of before reads one value: what it could write itself lies as it would have written it.
    #[test]
    fn a_record_without_added_tasks_is_one_value_while_that_takes_it() {
        let plain = record(1000, 512);
        assert!(!plain.has_pages());
        let values = written(&plain.changes());
        assert_eq!(values, [("record".to_owned(), to_json(&plain))]);
        let long = record(1000, 8192);
        assert!(long.has_pages() && added(501, 0).has_pages() && !added(500, 0).has_pages());
        let values = written(&long.changes());
        assert_eq!(values.len(), 2);
        assert_eq!(again(&long.changes()), long);
        // A mount of before removed the build, and knows nothing of its pages.
        assert_eq!(Record::of_pages("record", &values[1..]).unwrap(), None);
    }
}
