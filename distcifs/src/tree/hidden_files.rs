//! Files of a job that are hidden from one process for a moment, so that it can make them with O_EXCL.
//!
//! `mv` from another filesystem unlinks what it replaces, `cp --backup` renames it away, and `cp -r` has made
//! the folder that it copies into: all of them take a file that is there for somebody else's. What is in force
//! stays so all the while, and is there for everybody else.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use super::node::{JobFile, JobRef};
use super::process::process_of;
use super::{Caller, Result, Tree};
use crate::repository::core::lock;

/// How long a file is hidden from the process that unlinked it or renamed it away.
const UNLINKED: Duration = Duration::from_secs(1);

/// How long a process that made a job sees no file in it that it has to write first. The first that is written
/// of the configuration ends that, whoever writes it; but not for `enabled` if that is made with O_EXCL, as `cp -r` does
/// with one file after another: then until a second after that the configuration is in force.
const MADE: Duration = Duration::from_secs(10);

/// From whom which file is hidden, by the job's uid.
#[derive(Debug, Default)]
pub(crate) struct HiddenFiles(Mutex<HashMap<(Arc<str>, JobFile), Seen>>);

#[derive(Debug, Clone, Copy)]
struct Seen {
    process: u32,
    until: Instant,
    /// The process made the job.
    first: bool,
}

impl HiddenFiles {
    fn hide(&self, caller: Caller, job: &JobRef, files: &[JobFile], first: bool) {
        let Some(process) = process_of(caller.tid) else { return };
        let now = Instant::now();
        let until = now + if first { MADE } else { UNLINKED };
        let seen = Seen { process, until, first };
        let mut hidden = lock(&self.0);
        hidden.retain(|_, seen| seen.until > now);
        hidden.extend(files.iter().map(|file| ((job.uid.clone(), *file), seen)));
    }

    /// Whether this file is hidden from the caller.
    pub(crate) fn is_for(&self, caller: Caller, job: &JobRef, file: JobFile) -> bool {
        let seen = lock(&self.0).get(&(job.uid.clone(), file)).copied();
        seen.is_some_and(|seen| seen.until > Instant::now() && process_of(caller.tid) == Some(seen.process))
    }

    /// A file is made; whether for the first time.
    fn end(&self, job: &JobRef, file: JobFile) -> bool {
        let seen = lock(&self.0).remove(&(job.uid.clone(), file));
        seen.is_some_and(|seen| seen.first)
    }

    /// A job's configuration is in force: who goes on with its switch, as `cp -r` does at once, has a moment for that.
    pub(crate) fn in_force(&self, job: &JobRef) {
        let soon = Instant::now() + UNLINKED;
        for ((uid, _), seen) in &mut *lock(&self.0) {
            if seen.first && *uid == job.uid {
                seen.until = seen.until.min(soon);
            }
        }
    }

    /// Somebody writes a job's configuration: all that is in the job is there for whoever made it.
    pub(crate) fn end_first(&self, job: &JobRef) {
        lock(&self.0).retain(|(uid, _), seen| !seen.first || *uid != job.uid);
    }
}

impl Tree {
    /// A file is unlinked or renamed away.
    pub(crate) fn unlink_file(&self, caller: Caller, job: &JobRef, file: JobFile) {
        self.hidden_files.hide(caller, job, &[file], false);
    }

    /// A job is made: its configuration and its switch are there for whoever else looks.
    pub(crate) fn begin_job(&self, caller: Caller, job: &JobRef) {
        self.hidden_files
            .hide(caller, job, &[JobFile::Config, JobFile::Enabled], true);
    }

    /// Whoever makes a job file by file has not come to its switch yet.
    pub(crate) fn go_on_making(&self, caller: Caller, job: &JobRef) {
        self.hidden_files.hide(caller, job, &[JobFile::Enabled], true);
    }

    /// A file of a job is made by its name. The first configuration is as private as whoever copies it has it.
    /// Whether it is that.
    pub(crate) async fn make_anew(&self, job: &Arc<JobRef>, file: JobFile, mode: u32) -> Result<bool> {
        if !self.hidden_files.end(job, file) || file != JobFile::Config {
            return Ok(false);
        }
        let now = self.job(job)?;
        let shown = now.entry.files.config.unwrap_or(now.entry.access.mode & 0o666);
        let wanted = shown & (mode | 0o600);
        if wanted == shown {
            return Ok(true);
        }
        let changed = self.repository.jobs.change(&now, |entry| {
            entry.files.config = Some(wanted);
            Ok(())
        });
        changed.await.map(|_| true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// "Until a second after that the configuration is in force": who makes a job file by file, and reads its switch then,
    /// finds it; who goes on to make it at once, as `cp -r` does, has that second.
    #[tokio::test(start_paused = true)]
    async fn what_a_process_makes_in_a_job_is_hidden_from_it_no_longer_than_it_needs() {
        let hidden = HiddenFiles::default();
        let me = Caller {
            tid: std::process::id(),
            uid: 0,
            gid: 0,
        };
        let job = |uid: &str| JobRef {
            name: crate::repository::names::Name::new("a").unwrap(),
            uid: uid.into(),
        };
        let (one, other) = (job("1"), job("2"));
        for job in [&one, &other] {
            hidden.hide(me, job, &[JobFile::Enabled], true);
        }
        tokio::time::advance(MADE / 2).await;
        hidden.in_force(&one);
        tokio::time::advance(UNLINKED / 2).await;
        assert!(hidden.is_for(me, &one, JobFile::Enabled));
        tokio::time::advance(UNLINKED / 2).await;
        assert!(!hidden.is_for(me, &one, JobFile::Enabled) && hidden.is_for(me, &other, JobFile::Enabled));
    }
}
