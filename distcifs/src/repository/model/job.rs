//! A job: its line in the list of jobs, its counter, its configuration's head, its switch.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::repository::access::Access;
use crate::repository::model::build::ConfigEntry;
use crate::repository::model::keys::{Key, RecordKey};
use crate::repository::names::Name;
use crate::repository::{Error, Result};
use crate::storage::Object;

/// The permission bits of a job's files, where they were set apart from the folder's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileModes {
    /// Of config.json.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<u32>,
    /// Of trigger.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trigger: Option<u32>,
    /// Of ctl, in each build.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ctl: Option<u32>,
    /// Of the folder artifacts, in each build.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifacts: Option<u32>,
}

/// A job, as the list of jobs has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobEntry {
    /// Random, made with the job: a job removed and made again has another. The owner's user id
    /// stands in the same record as `uid`.
    #[serde(rename = "id")]
    pub uid: String,
    /// Owner and mode of its folder.
    #[serde(flatten)]
    pub access: Access,
    /// Modes of its files.
    #[serde(default)]
    pub files: FileModes,
    /// When it was made, milliseconds since 1970.
    pub created: u64,
    /// When it was renamed, or brought back from the trash, last, milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub named: Option<u64>,
    /// Whether somebody switched it off.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub off: bool,
    /// The owner before this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub former: Option<u32>,
    /// The configuration with which its owner, or root, switched it on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vouched: Option<(String, u64)>,
}

impl JobEntry {
    /// Who may read what the configuration says, wherever it stands: as many as may read config.json,
    /// and none that may not read the job.
    pub fn settings_mode(&self) -> u32 {
        self.files.config.unwrap_or(self.access.mode) & self.access.mode & 0o444
    }
}

/// A job that exists, or did when this was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// Its name.
    pub name: Name,
    /// The rest.
    pub entry: Arc<JobEntry>,
}

impl Job {
    /// Its uid.
    pub fn uid(&self) -> &str {
        &self.entry.uid
    }

    /// Refuses to begin a build while it is off.
    pub(crate) fn check_switch(&self, head: &ConfigHead) -> Result<()> {
        let (name, owner) = (&self.name, self.entry.access.uid);
        let why = match self.entry.switch(Some(head)) {
            Switch::On => return Ok(()),
            Switch::Off => "it is switched off".to_owned(),
            Switch::Given => format!(
                "it was given to user {owner}, who has not switched it on; others wrote its config.json: \
                 read that first"
            ),
        };
        Err(Error::Access(format!(
            "jobs/{name}: {why}; echo on > jobs/{name}/enabled"
        )))
    }

    /// The record that holds its configuration and the index of its builds.
    pub(crate) fn record(&self) -> Object {
        RecordKey::Job(&self.entry.uid).object()
    }

    /// Its entry with the coordinator.
    pub(crate) fn path(&self) -> String {
        Key::Job(&self.entry.uid).path()
    }
}

/// The data of a job's entry: the number of its next build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counter {
    /// Number of the next build.
    pub(crate) next: u64,
    /// The name under which builds may begin (rename.rs); absent: it never had another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
}

impl Counter {
    /// Whether builds of this job may begin under the name that it is known by.
    pub(crate) fn is_of(&self, job: &Job) -> bool {
        self.name.as_deref().is_none_or(|name| name == job.name.as_str())
    }
}

/// A counter as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Counted {
    /// What its entry says.
    pub(crate) counter: Counter,
    /// The version of its entry, which guards every build that begins.
    pub(crate) version: u32,
}

/// The record that lists the jobs.
pub(crate) fn jobs_record() -> Object {
    RecordKey::Jobs.object()
}

/// Which text is a job's configuration.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ConfigHead {
    /// Digest of the text, 64 hexadecimal digits.
    pub digest: String,
    /// Its length, bytes.
    pub size: u64,
    /// When it was written, milliseconds since 1970.
    pub written: u64,
    /// Who wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<u32>,
    /// Who owned the job when it was opened to write.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<u32>,
}

impl ConfigHead {
    /// Its text.
    pub(crate) fn entry(&self) -> ConfigEntry {
        ConfigEntry {
            digest: self.digest.clone(),
            size: self.size,
        }
    }

    /// Tells it from every other of the job.
    pub(crate) fn mark(&self) -> (String, u64) {
        (self.digest.clone(), self.written)
    }
}

/// How a job's switch stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Switch {
    /// It may be triggered.
    On,
    /// Somebody switched it off.
    Off,
    /// It was given to another owner, who has not switched it on.
    Given,
}

impl JobEntry {
    /// How the switch stands with the configuration in force.
    pub fn switch(&self, head: Option<&ConfigHead>) -> Switch {
        if self.off {
            return Switch::Off;
        }
        let Some(head) = head else { return Switch::On };
        let (owner, by) = match (head.owner, head.by) {
            (Some(owner), Some(by)) => (owner, by),
            // Written before configurations said so.
            _ => return Switch::On,
        };
        let own = owner == self.access.uid || by == self.access.uid;
        // What root writes into a job of its own and gives away is a gift, not a trap.
        let gift = owner == 0 && by == 0 && self.former == Some(0);
        let vouched = self.vouched.as_ref() == Some(&head.mark());
        if own || gift || vouched {
            Switch::On
        } else {
            Switch::Given
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::model::json::{from_json, to_json};
    use crate::repository::model::steps::job::changed;

    const ROOT: u32 = 0;
    const ALICE: u32 = 1000;
    const MALLORY: u32 = 1001;

    fn entry(uid: u32) -> JobEntry {
        let access = Access {
            uid,
            gid: uid,
            mode: 0o755,
        };
        JobEntry {
            uid: "j".into(),
            access,
            files: FileModes::default(),
            created: 1,
            named: None,
            off: false,
            former: None,
            vouched: None,
        }
    }

    fn written(by: u32, owner: u32) -> ConfigHead {
        ConfigHead {
            digest: format!("{by}"),
            size: 1,
            written: 1,
            by: Some(by),
            owner: Some(owner),
        }
    }

    fn give(entry: &JobEntry, uid: u32) -> JobEntry {
        let give = |entry: &mut JobEntry| {
            entry.access.uid = uid;
            Ok::<(), ()>(())
        };
        changed(entry.clone(), give).unwrap()
    }

    #[test]
    fn a_job_that_is_given_away_is_off_until_its_new_owner_switches_it_on() {
        let head = written(MALLORY, MALLORY);
        let given = give(&entry(MALLORY), ALICE);
        assert_eq!(given.switch(Some(&head)), Switch::Given);
        // Given back, it is what it was.
        assert_eq!(give(&given, MALLORY).switch(Some(&head)), Switch::On);
        let mut on = given.clone();
        on.vouched = Some(head.mark());
        assert_eq!(on.switch(Some(&head)), Switch::On);
        // What is written later through a descriptor of before is not what was looked at.
        assert_eq!(on.switch(Some(&ConfigHead { written: 2, ..head })), Switch::Given);
        assert_eq!(give(&on, ROOT).switch(Some(&written(MALLORY, MALLORY))), Switch::Given);
    }

    #[test]
    fn what_root_makes_and_gives_away_once_is_on() {
        let head = written(ROOT, ROOT);
        let given = give(&entry(ROOT), ALICE);
        assert_eq!(given.switch(Some(&head)), Switch::On);
        assert_eq!(give(&given, MALLORY).switch(Some(&head)), Switch::Given);
        // What others wrote into root's job is no gift of root.
        assert_eq!(given.switch(Some(&written(MALLORY, ROOT))), Switch::Given);
    }

    #[test]
    fn what_its_owner_wrote_or_was_written_under_him_is_on() {
        let given = give(&entry(MALLORY), ALICE);
        assert_eq!(given.switch(Some(&written(ALICE, MALLORY))), Switch::On);
        assert_eq!(given.switch(Some(&written(MALLORY, ALICE))), Switch::On);
        assert_eq!(given.switch(None), Switch::On);
        let off = JobEntry { off: true, ..given };
        assert_eq!(off.switch(Some(&written(ALICE, ALICE))), Switch::Off);
    }

    #[test]
    fn an_entry_is_read_back_as_it_was_written() {
        let access = Access {
            uid: 1000,
            gid: 1001,
            mode: 0o2750,
        };
        let files = FileModes {
            ctl: Some(0o660),
            ..FileModes::default()
        };
        let entry = JobEntry {
            uid: "j1".into(),
            access,
            files,
            created: 7,
            named: None,
            off: true,
            former: Some(0),
            vouched: Some(("d".into(), 1)),
        };
        assert_eq!(from_json::<JobEntry>("job", &to_json(&entry)).unwrap(), entry);
    }
}
