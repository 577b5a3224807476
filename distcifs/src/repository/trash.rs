//! What was removed and can be brought back for some days.
//!
//! A removed job keeps its uid, and so all that is kept under it. Its line in the list of jobs moves in one
//! write from its name to a key that is no name, `.trash/<uid>`; what that write can't guard is guarded as
//! in a rename (rename.rs), so of a removal and a trigger one wins. A removed build keeps its record, and its
//! line in the index moves from `b<n>` to `t<n>`, guarded by the revision. Where both lines stand the build
//! is there: somebody was late who recorded it. Jobs of which builds were removed are noted in a record of
//! their own, before the first of them moves, so that nobody has to look through all jobs.
//!
//! All these lines are references: gc, fsck and backups follow them. Each says until when it stays, and
//! every mount takes what is over at times. That begins with the one write by which nobody can restore it
//! any more, the counter's removal or the line's: whoever ends after it leaves what the next sweep or gc takes.

use std::collections::HashSet;
use std::fmt;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::Result;
use super::access::Access;
use super::builds::Builds;
use super::core::{bounded, lock, now};
use super::model::job::{Job, jobs_record};
use super::model::json::from_json;
use super::model::keys::{REMOVED_JOB_LINES, RecordKey};
use super::model::ticket::Verdict;
use super::model::trash::{BuildLine, JobLine, Removal};
use super::names::Name;
use super::work::{READS_MAX, join_all};
use crate::storage::Object;

mod builds;
mod jobs;
mod sweep;

pub use super::builds::DAYS_USUAL;

/// The most that can be asked for: ten years.
pub const DAYS_MAX: u64 = 3650;

const DAY: u64 = 24 * 3600 * 1000;

/// Lines read at once.
const PAGE: usize = 1000;

/// Races lost against others who change the same record before one gives up.
const RACES_MAX: u32 = 1000;

/// Jobs known to be noted; past it they are noted again.
const NOTED_MAX: usize = 100_000;

/// What something in the trash is called there: `<job>@<uid>`, with `@<n>` for a build.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TrashId {
    /// The job's name.
    pub job: Name,
    /// The job's uid.
    pub uid: String,
    /// The build; `None` for the job itself.
    pub build: Option<u64>,
}

impl TrashId {
    /// Reads one; `None` if it is none.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('@');
        let (job, uid) = (Name::new(parts.next()?)?, parts.next()?);
        let build = parts.next().map(str::parse).transpose().ok()?;
        let plain = !uid.is_empty() && uid.bytes().all(|b| b.is_ascii_alphanumeric()) && uid.len() <= 32;
        let id = TrashId {
            job,
            uid: uid.to_owned(),
            build,
        };
        // One name for each: no zeros in front.
        (plain && parts.next().is_none() && id.to_string() == text).then_some(id)
    }
}

impl fmt::Display for TrashId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.job, self.uid)?;
        self.build.map_or(Ok(()), |n| write!(f, "@{n}"))
    }
}

/// Something in the trash.
#[derive(Debug, Clone)]
pub struct TrashItem {
    /// What it is called there.
    pub id: TrashId,
    /// Whose it is.
    pub access: Access,
    /// When it was removed, and by whom.
    pub removal: Removal,
    /// Builds that come back with it: of a job.
    pub builds: Option<u64>,
    /// How it had ended: of a build.
    pub state: Option<Verdict>,
}

/// The record that notes the jobs of which builds were removed.
fn notes() -> Object {
    RecordKey::Trash.object()
}

impl Builds {
    /// Says how many days what is removed from now on stays; 0: it is gone at once.
    pub fn keep_trash_for(&self, days: u64) {
        self.trash.days.store(days.min(DAYS_MAX), Ordering::Relaxed);
    }

    /// A removal now; `None` if nothing stays.
    async fn removal(&self, uid: u32) -> Option<Removal> {
        let days = self.trash.days.load(Ordering::Relaxed);
        if days == 0 {
            return None;
        }
        let (removed, by) = (now(), self.people.person(uid).await);
        Some(Removal {
            removed,
            until: removed + days * DAY,
            by,
        })
    }

    /// What is in the trash of the owners that `whose` takes.
    pub async fn trash(&self, whose: &(dyn Fn(u32) -> bool + Sync)) -> Result<Vec<TrashItem>> {
        let lines = self.trashed_jobs().await?;
        let mut items = Vec::with_capacity(lines.len());
        for line in lines.iter().filter(|line| whose(line.entry.access.uid)) {
            match item_of_job(line) {
                Ok(item) => items.push(item),
                Err(error) => tracing::error!(%error, "left out of the trash"),
            }
        }
        // Those of a removed job come back with it, or after it; another mount may have removed it just now.
        let removed: HashSet<&str> = lines.iter().map(|line| line.entry.uid.as_str()).collect();
        let noted = self.noted_jobs().await?;
        let there = noted.iter().filter(|uid| !removed.contains(uid.as_str()));
        let jobs = there.filter_map(|uid| self.jobs.by_uid(uid));
        let jobs: Vec<Job> = jobs.filter(|job| whose(job.entry.access.uid)).collect();
        for some in jobs.chunks(READS_MAX) {
            let found = join_all(some.iter().map(|job| self.trashed_builds(job))).await;
            for (job, lines) in some.iter().zip(found) {
                items.extend(lines?.into_iter().map(|(n, line)| item_of_build(line, job, n)));
            }
        }
        Ok(items)
    }

    /// One thing in the trash, if it is there.
    pub async fn trash_item(&self, id: &TrashId) -> Result<Option<TrashItem>> {
        let Some(n) = id.build else {
            let line = self.trashed_job(&id.uid).await?;
            let item = line.as_ref().map(item_of_job).transpose()?;
            return Ok(item.filter(|item| item.id == *id));
        };
        let Some(job) = self.jobs.by_uid(&id.uid).filter(|job| job.name == id.job) else {
            return Ok(None);
        };
        let line = self.trashed_build(&job, n).await?.0;
        Ok(line.map(|line| item_of_build(line, &job, n)))
    }

    /// The jobs of which builds were removed, by uid.
    async fn noted_jobs(&self) -> Result<Vec<String>> {
        let all = self.lines("trash", &notes(), "").await?;
        Ok(all.into_iter().map(|(uid, _)| uid).collect())
    }

    /// Lines of removed jobs; those that are damaged are left out.
    async fn trashed_jobs(&self) -> Result<Vec<JobLine>> {
        let lines = self.lines("jobs", &jobs_record(), REMOVED_JOB_LINES).await?;
        Ok(readable(lines).into_iter().map(|(_, line)| line).collect())
    }

    /// All lines of a record that begin with a prefix.
    async fn lines(&self, what: &str, object: &Object, prefix: &str) -> Result<Vec<(String, Bytes)>> {
        let (mut all, mut after) = (Vec::new(), String::new());
        loop {
            let page = bounded(what, self.store.contents.query(object, prefix, &after, PAGE)).await?;
            let full = page.entries.len() == PAGE;
            all.extend(page.entries);
            match all.last() {
                Some((key, _)) if full => after.clone_from(key),
                _ => return Ok(all),
            }
        }
    }

    /// Notes that a job has removed builds, unless that is known.
    async fn note(&self, uid: &str) -> Result<()> {
        if lock(&self.trash.noted).contains(uid) {
            return Ok(());
        }
        let change = vec![(uid.to_owned(), Some(Bytes::from_static(b"1")))];
        self.store.update("trash", &notes(), change).await?;
        let mut noted = lock(&self.trash.noted);
        if noted.len() >= NOTED_MAX {
            noted.clear();
        }
        noted.insert(uid.to_owned());
        Ok(())
    }
}

/// Lines that can be read.
fn readable<T: serde::de::DeserializeOwned>(lines: Vec<(String, Bytes)>) -> Vec<(String, T)> {
    let mut all = Vec::with_capacity(lines.len());
    for (key, line) in lines {
        match from_json(&key, &line) {
            Ok(line) => all.push((key, line)),
            Err(error) => tracing::error!(%error, "left out of the trash"),
        }
    }
    all
}

fn item_of_job(line: &JobLine) -> Result<TrashItem> {
    let id = TrashId {
        job: line.job()?.name,
        uid: line.entry.uid.clone(),
        build: None,
    };
    Ok(TrashItem {
        id,
        access: line.entry.access,
        removal: line.trash.clone(),
        builds: Some(line.builds),
        state: None,
    })
}

fn item_of_build(line: BuildLine, job: &Job, n: u64) -> TrashItem {
    let id = TrashId {
        job: job.name.clone(),
        uid: job.uid().to_owned(),
        build: Some(n),
    };
    TrashItem {
        id,
        access: job.entry.access,
        removal: line.trash,
        builds: None,
        state: Some(line.indexed.state),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thing_in_the_trash_has_one_name() {
        for text in ["a@0f", "a.b-c@00ff@7", "x@1@18446744073709551615"] {
            assert_eq!(TrashId::parse(text).unwrap().to_string(), text);
        }
        for text in [
            "", "a", "a@", "@f", "a@f@", "a@f@x", "a@f@07", "a@f@7@", "a@f/x", ".a@f", "a@f@-1", "a@é",
        ] {
            assert_eq!(TrashId::parse(text), None, "{text}");
        }
    }
}
