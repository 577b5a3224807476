//! A job's folder: config.json with its lock and its check, and the scratch files beside it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio::time::Instant;

use super::content::Content;
use super::files::switch_word;
use super::handles::{OPEN_FILE, Open, OpenKind};
use super::node::{JobFile, JobRef, Node};
use super::rights::{READ, Reader, WRITE};
use super::scratch::Mover;
use super::texts::put_at;
use super::{Caller, Error, Result, Tree};
use crate::repository::access::Access;
use crate::repository::configure::{CONFIG_BYTES_MAX, ConfigLock};
use crate::repository::core::time_of;
use crate::repository::deadline::locked;
use crate::repository::flood;
use crate::repository::model::job::Job;
use crate::repository::model::ticket::Poster;

/// An open config.json that is written.
pub(crate) struct ConfigWrite {
    job: Arc<JobRef>,
    /// `None` once it has ended because nobody used it.
    held: Option<ConfigLock>,
    /// When it was used last.
    used: Instant,
    text: Vec<u8>,
    dirty: bool,
    /// A write was refused: what was written is not all of it.
    refused: bool,
    /// Who opened it.
    by: u32,
}

impl ConfigWrite {
    /// Its text as it stands, not committed yet.
    pub(crate) fn text(&mut self) -> Result<&[u8]> {
        self.in_use()?;
        Ok(&self.text)
    }

    /// Somebody uses it: so the lock goes on for a while.
    fn in_use(&mut self) -> Result<()> {
        self.used = Instant::now();
        self.lock().map(|_| ())
    }

    /// The lock, unless it has ended.
    fn lock(&mut self) -> Result<&mut ConfigLock> {
        let job = &self.job.name;
        let unused = LOCK_IDLE_MAX.as_secs();
        self.held.as_mut().ok_or_else(|| Error::System {
            what: format!("jobs/{job}/config.json: nobody used its lock for {unused} s, so it ended; open it again"),
            errno: libc::ESTALE,
        })
    }

    /// How long the lock goes on if nobody uses it from now on; it is given back if that is over.
    fn remaining(&mut self) -> Option<Duration> {
        let left = LOCK_IDLE_MAX
            .checked_sub(self.used.elapsed())
            .filter(|left| !left.is_zero());
        if left.is_none() {
            (self.held, self.text, self.dirty) = (None, Vec::new(), false);
        }
        left
    }

    /// How much it holds when this is written, bytes.
    pub(crate) fn size_after(&self, offset: u64, data: &[u8]) -> usize {
        let end = usize::try_from(offset).unwrap_or(usize::MAX).saturating_add(data.len());
        self.text.len().max(end.min(CONFIG_BYTES_MAX))
    }

    /// Writes at an offset.
    pub(crate) fn write(&mut self, offset: u64, data: &[u8]) -> Result<()> {
        self.in_use()?;
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let end = start.saturating_add(data.len());
        self.check_size(end)?;
        put_at(&mut self.text, start, data);
        self.dirty = true;
        Ok(())
    }

    /// Cuts or extends; that alone commits nothing.
    pub(crate) fn resize(&mut self, size: u64) -> Result<()> {
        self.in_use()?;
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        self.check_size(size)?;
        // Whoever begins anew is not held to what went before.
        self.refused &= size > 0;
        self.dirty &= size > 0;
        self.text.resize(size, 0);
        // What was cut off is counted no longer, so it must not be kept as spare room.
        self.text.shrink_to(size);
        Ok(())
    }

    fn check_size(&mut self, size: usize) -> Result<()> {
        if size > CONFIG_BYTES_MAX {
            self.refused = true;
            self.text = Vec::new();
        }
        if self.refused && size > 0 {
            return Err(self.too_big());
        }
        Ok(())
    }

    fn too_big(&self) -> Error {
        Error::TooBig(format!(
            "jobs/{}/config.json: over {CONFIG_BYTES_MAX} bytes",
            self.job.name
        ))
    }
}

/// How long the lock goes on after the last write or read through it: a descriptor that somebody forgot
/// keeps nobody from the configuration.
const LOCK_IDLE_MAX: Duration = Duration::from_secs(60);

impl Tree {
    /// When a job was renamed last, which changes its folder as on any file system.
    pub(crate) fn renamed(&self, node: &Node) -> Option<SystemTime> {
        let Node::Job(job) = node else { return None };
        self.job(job).ok()?.entry.named.map(time_of)
    }

    /// The job as it is now, if the caller may write its configuration as it is then: the kernel asked a
    /// moment earlier, or for the folder alone, and what is written counts as written under this owner.
    fn may_configure(&self, caller: Caller, job: &Arc<JobRef>) -> Result<Job> {
        let now = self.job(job)?;
        let mode = now.entry.files.config.unwrap_or(now.entry.access.mode & 0o666);
        let access = Access {
            mode,
            ..now.entry.access
        };
        if Reader::of(caller).may(access, WRITE) {
            return Ok(now);
        }
        Err(Error::Access(format!(
            "jobs/{}/config.json: its mode does not let you write it",
            now.name
        )))
    }

    /// Who moves a scratch file in a job's folder.
    pub(crate) fn mover(&self, caller: Caller, job: &str) -> Mover {
        let owner = self.repository.jobs.by_uid(job).map(|job| job.entry.access.uid);
        Mover {
            uid: caller.uid,
            // Of a job that is gone nobody but root is left.
            owner: owner.unwrap_or(0),
        }
    }

    /// Opens config.json for writing: takes the lock.
    pub(crate) async fn open_config(
        &self,
        caller: Caller,
        job: &Arc<JobRef>,
        truncate: bool,
        wait: bool,
    ) -> Result<ConfigWrite> {
        self.repository.store.check_room().await?;
        let now = self.may_configure(caller, job)?;
        let held = self.repository.configs.lock(&now, wait).await?;
        self.hidden_files.end_first(job);
        let text = match self.repository.configs.read_head(&now).await?.0 {
            Some(head) if !truncate => self.repository.configs.text_of(&head.entry()).await?.to_vec(),
            _ => Vec::new(),
        };
        Ok(ConfigWrite {
            job: job.clone(),
            held: Some(held),
            used: Instant::now(),
            text,
            dirty: false,
            refused: false,
            by: caller.uid,
        })
    }

    /// Opens `.post`, unless the store is full.
    pub(crate) async fn open_post(&self) -> Result<OpenKind> {
        self.repository.store.check_room().await?;
        Ok(OpenKind::Commit(Default::default()))
    }

    /// Ends the lock of an open config.json when nobody has used it for a while.
    pub(crate) fn follow_lock(&self, open: &Arc<Open>) {
        let open = Arc::downgrade(open);
        self.runtime.spawn(async move {
            let mut wait = LOCK_IDLE_MAX;
            loop {
                tokio::time::sleep(wait).await;
                let Some(open) = open.upgrade() else { return };
                let OpenKind::Config(write) = &open.kind else { return };
                // Whoever has it for long uses it.
                let Ok(mut write) = locked(OPEN_FILE, write).await else {
                    wait = LOCK_IDLE_MAX;
                    continue;
                };
                let Some(left) = write.remaining() else {
                    if flood::has_line_of("a lock ends", write.by) {
                        tracing::info!("jobs/{}/config.json: its lock ends, as nobody uses it", write.job.name);
                    }
                    return;
                };
                wait = left;
            }
        });
    }

    /// Commits what was written since the last flush that did.
    pub(crate) async fn commit_config(&self, write: &mut ConfigWrite) -> Result<()> {
        write.lock()?;
        if write.refused {
            let words = format!("config.json:1:1: it has over {CONFIG_BYTES_MAX} bytes\n");
            self.refusals.note(&config_of(&write.job), write.by, Bytes::from(words));
            return Err(write.too_big());
        }
        if !write.dirty {
            return Ok(());
        }
        let text = Bytes::copy_from_slice(&write.text);
        let job = write.job.clone();
        let by = write.by;
        self.set_config(&job, write.lock()?, text, by).await?;
        // What was refused is refused again at the close: emacs takes EINVAL from fsync for "this
        // file system has no fsync" and looks at what close says alone.
        write.dirty = false;
        Ok(())
    }

    /// Checks a text and puts it in force, or leaves word of what is wrong in config.error.
    async fn set_config(&self, job: &Arc<JobRef>, held: &mut ConfigLock, text: Bytes, by: u32) -> Result<()> {
        let now = self.job(job)?;
        let faults = match self.repository.configs.write(&now, held, text, by).await? {
            Ok(_) => {
                self.refusals.forget(&config_of(job));
                self.hidden_files.in_force(job);
                return Ok(());
            }
            Err(faults) => faults,
        };
        let lines: String = faults.iter().map(|fault| format!("config.json:{fault}\n")).collect();
        let first = faults.first().map(ToString::to_string).unwrap_or_default();
        self.refusals.note(&config_of(job), by, Bytes::from(lines));
        Err(Error::Invalid(format!(
            "jobs/{}/config.json:{first} (see config.error)",
            job.name
        )))
    }

    /// Renames in a job's folder: onto config.json and `enabled` is a write of it, away from it a copy.
    pub(crate) async fn rename_in_job(
        &self,
        caller: Caller,
        job: &Arc<JobRef>,
        from: Node,
        name: &str,
        no_replace: bool,
    ) -> Result<()> {
        let there = self.find(caller, &Node::Job(job.clone()), name).await;
        if no_replace && there.is_ok() {
            return Err(Error::Exists(format!("{name} exists")));
        }
        let by = self.mover(caller, &job.uid);
        match (from, JobFile::parse(name)) {
            (Node::Scratch(id), Some(JobFile::Config)) => {
                let now = self.may_configure(caller, job)?;
                let text = self.scratch.given(id, by)?;
                if text.len() > CONFIG_BYTES_MAX {
                    return Err(Error::TooBig(format!(
                        "jobs/{}/config.json: over {CONFIG_BYTES_MAX} bytes",
                        job.name
                    )));
                }
                let mut held = self
                    .repository
                    .configs
                    .lock(&now, false)
                    .await
                    .map_err(|error| match error {
                        Error::WouldBlock(what) => Error::Busy(what),
                        other => other,
                    })?;
                self.set_config(job, &mut held, text, caller.uid).await?;
                self.hidden_files.end_first(job);
                self.scratch.remove(id);
                Ok(())
            }
            (Node::Scratch(id), Some(JobFile::Enabled)) => {
                // Whoever may write config.json writes `enabled`.
                let now = self.may_configure(caller, job)?;
                let poster = Poster {
                    uid: caller.uid,
                    gid: caller.gid,
                };
                let on = switch_word(&self.scratch.given(id, by)?)?;
                self.repository.configs.set_switch(&now, on, poster).await?;
                self.scratch.remove(id);
                Ok(())
            }
            (Node::JobFile(_, file @ (JobFile::Config | JobFile::Enabled)), None) => {
                self.rename_away(caller, job, file, name).await
            }
            (Node::Scratch(id), None) => self.scratch.rename(id, name, by),
            _ => Err(Error::ReadOnly(format!("jobs/{}/{name}", job.name))),
        }
    }

    /// Renames config.json or `enabled` away: it stays in force, and what it says stands in a scratch file.
    async fn rename_away(&self, caller: Caller, job: &Arc<JobRef>, file: JobFile, name: &str) -> Result<()> {
        let node = Node::JobFile(job.clone(), file);
        self.need(caller, &node, READ).await?;
        let now = self.job(job)?;
        if file == JobFile::Config && self.repository.configs.head(&now).await?.is_none() {
            return Err(Error::NotFound("config.json".into()));
        }
        let Content::Bytes(text) = self.content(&node).await? else {
            return Err(Error::ReadOnly(node.path()));
        };
        let by = self.mover(caller, &job.uid);
        if let Some(old) = self.scratch.find(&job.uid, name) {
            self.scratch.remove_by(old, by)?;
        }
        let mode = now.entry.files.config.unwrap_or(now.entry.access.mode & 0o666);
        let maker = caller.made_in(now.entry.access);
        let copy = self.scratch.make(maker, by.owner, &job.uid, name, mode, None)?;
        self.scratch.write(copy, 0, &text)?;
        self.unlink_file(caller, job, file);
        Ok(())
    }
}

/// The file that a configuration is written to.
fn config_of(job: &Arc<JobRef>) -> Node {
    Node::JobFile(job.clone(), JobFile::Config)
}
