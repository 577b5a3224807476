//! Whether a job may be triggered: its file `enabled`, and what a change of its owner does to that.
//!
//! A job's tasks have its owner's rights, so whoever is given a job must not run what somebody else has
//! written into it. Nothing is switched by the change itself: each configuration says who wrote it and
//! under which owner, and that is looked at when it is used. So no write that is under way slips through.

use std::sync::Arc;

use super::configure::ConfigHead;
use super::jobs::{Job, JobEntry};
use super::records::Record;
use super::tickets::Poster;
use super::{Error, Repository, Result};

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

    /// Notes a change of the owner.
    pub(crate) fn owner_changed(&mut self, before: u32) {
        if self.access.uid != before {
            self.former = Some(before);
            self.vouched = None;
        }
    }
}

impl Repository {
    /// How a job's switch stands now.
    pub async fn switch(&self, job: &Job) -> Result<Switch> {
        let head = self.config_head(job).await?.0;
        Ok(job.entry.switch(head.as_ref()))
    }

    /// Switches a job on or off.
    ///
    /// # Errors
    /// `NotClaimant` for whoever switches on what was given to another.
    pub async fn set_switch(&self, job: &Job, on: bool, who: Poster) -> Result<()> {
        let head = self.config_head(job).await?.0;
        let owner = job.entry.access.uid;
        let else_on = JobEntry {
            off: false,
            ..(*job.entry).clone()
        };
        let given = else_on.switch(head.as_ref()) == Switch::Given;
        if on && given && who.uid != 0 && who.uid != owner {
            return Err(Error::NotClaimant(format!(
                "jobs/{}/enabled: the job was given to user {owner}: only he, or root, switches it on",
                job.name
            )));
        }
        let mark = head.as_ref().map(ConfigHead::mark);
        let changed = self.change_job(job, |entry| {
            entry.off = !on;
            if on && entry.access.uid == owner {
                entry.vouched.clone_from(&mark);
            }
            Ok(())
        });
        changed.await.map(|_| ())
    }

    /// Refuses to trigger a job that has no configuration or is off, and any in a full store.
    pub async fn may_trigger(&self, job: &Job) -> Result<()> {
        let (head, _) = self.current_config(job).await?;
        self.check_switch(job, &head)?;
        self.check_room().await
    }

    /// Refuses to begin a build of a job that is off.
    pub(crate) fn check_switch(&self, job: &Job, head: &ConfigHead) -> Result<()> {
        let (name, owner) = (&job.name, job.entry.access.uid);
        let why = match job.entry.switch(Some(head)) {
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

    /// Refuses to begin a recorded build again that is in the trash, that began under another owner, or whose
    /// job is off.
    pub(crate) async fn check_retry(&self, job: &Job, n: u64, record: &Arc<Record>) -> Result<()> {
        if self.is_trashed(job, n).await? {
            return Err(Error::NotFound(format!("jobs/{}/builds/{n}", job.name)));
        }
        let now = job.entry.access.uid;
        if let Some(owner) = record.owner.filter(|owner| *owner != now) {
            return Err(Error::Access(format!(
                "jobs/{}/builds/{n} was triggered when user {owner} owned the job: trigger a new one",
                job.name
            )));
        }
        match self.config_head(job).await?.0 {
            Some(head) => self.check_switch(job, &head),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::jobs::{Access, FileModes};

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
        let mut given = entry.clone();
        given.access.uid = uid;
        given.owner_changed(entry.access.uid);
        given
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
}
