//! A job's configuration: its lock, its text, its commit.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use nix::unistd::getuid;

use super::cache::Cache;
use super::config::{Fault, JobConfig, Priority};
use super::core::{bounded, lock, now, random_id};
use super::deadline::Deadline;
use super::events::Events;
use super::jobs::Jobs;
use super::model::build::ConfigEntry;
use super::model::event::Event;
use super::model::job::{ConfigHead, Job};
use super::model::json::{from_json, to_json};
use super::model::keys::{Key, LineKey};
use super::model::ops::{Changes, delete};
use super::names::Name;
use super::store::{Guarded, Store};
use super::tops::Tops;
use super::wakers::Wakers;
use super::work::RACES_MAX;
use super::{Error, Result};
use crate::storage::{Commit, Digest, Entry, Op};

pub(crate) mod heads;
mod plans;

use self::heads::Heads;

/// How long a second writer waits for the lock.
pub const LOCK_WAIT: Duration = Duration::from_secs(5);

/// How long one waits that would not: the kernel tells us of a close only after it returned, so
/// the lock of the command before may still be there.
const LOCK_GRACE: Duration = Duration::from_millis(200);

/// How often a waiting writer looks, should no notice reach it.
const LOCK_LOOK: Duration = Duration::from_millis(500);

/// Tries to give a lock back: five minutes of them; then it goes with the session only.
const UNLOCK_TRIES: u32 = 600;

/// Largest configuration, bytes.
pub const CONFIG_BYTES_MAX: usize = 1 << 20;

/// Bytes that parsed configurations take which are kept, by digest of their text.
const PARSED_BYTES_MAX: usize = 64 << 20;

/// What one counts at least, bytes: so 256 are kept.
const PARSED_BYTES_MIN: usize = PARSED_BYTES_MAX / 256;

/// The configurations of jobs, and what is known of them here.
pub struct Configurations {
    store: Arc<Store>,
    events: Arc<Events>,
    wakers: Arc<Wakers>,
    jobs: Arc<Jobs>,
    tops: Tops,
    node: Name,
    heads: Heads,
    plans: plans::Plans,
    /// Parsed ones, by job and digest. The truth is the stored text, which never changes under its digest: none
    /// is ever out of date.
    parsed: Mutex<Cache<String, Arc<JobConfig>, PARSED_BYTES_MAX>>,
}

/// A job's lock; dropping it gives it back.
pub struct ConfigLock {
    configs: Arc<Configurations>,
    path: String,
    /// What its entry holds: tells it from every other.
    mark: Bytes,
    /// The revision of the job's record that was read under the lock.
    revision: u64,
    /// Who owned the job then.
    owner: u32,
}

impl Drop for ConfigLock {
    fn drop(&mut self) {
        let (configs, path) = (self.configs.clone(), std::mem::take(&mut self.path));
        let mark = std::mem::take(&mut self.mark);
        let runtime = configs.store.runtime.clone();
        runtime.spawn(async move {
            for _ in 0..UNLOCK_TRIES {
                match configs.unlock(&path, &mark).await {
                    Ok(()) => break,
                    Err(error) => tracing::warn!(%path, %error, "giving a lock back failed, trying again"),
                }
                tokio::time::sleep(LOCK_LOOK).await;
            }
            configs.wakers.notify(&path);
        });
    }
}

impl Configurations {
    /// Those of these jobs, on the mount of this node.
    pub(crate) fn new(
        (store, events, wakers): (Arc<Store>, Arc<Events>, Arc<Wakers>),
        jobs: Arc<Jobs>,
        tops: Tops,
        node: Name,
    ) -> Arc<Self> {
        Arc::new(Configurations {
            store,
            events,
            wakers,
            jobs,
            tops,
            node,
            heads: Heads::default(),
            plans: plans::Plans::default(),
            parsed: Mutex::default(),
        })
    }

    /// The jobs that have them.
    pub(crate) fn jobs(&self) -> &Arc<Jobs> {
        &self.jobs
    }

    /// The configuration in force, parsed.
    pub async fn current(&self, job: &Job) -> Result<(ConfigHead, Arc<JobConfig>)> {
        let head = self.head(job).await?;
        let head = head.ok_or_else(|| {
            Error::Invalid(format!(
                "jobs/{}: it has no valid configuration: write config.json first",
                job.name
            ))
        })?;
        let config = self.parsed(&job.name, &head.digest).await?;
        Ok((head, config))
    }

    /// The head of a job's configuration and the record's revision; `None` if it has none yet.
    pub async fn read_head(&self, job: &Job) -> Result<(Option<ConfigHead>, u64)> {
        let (object, line) = (job.record(), LineKey::Config.key());
        let page = bounded("configuration", self.store.contents.query(&object, &line, "", 1)).await?;
        let head = match page.entries.first() {
            Some((key, value)) if *key == line => Some(from_json(&format!("configuration of {}", job.name), value)?),
            _ => None,
        };
        Ok((head, page.revision))
    }

    /// The head alone, as it is now: where nobody else writes it, known without asking.
    pub async fn head(&self, job: &Job) -> Result<Option<ConfigHead>> {
        if self.store.shared {
            return Ok(self.read_head(job).await?.0);
        }
        let heads = &self.heads;
        let read = match heads.ask(job.uid()) {
            Ok(head) => return Ok(head),
            Err(read) => read,
        };
        let head = self.read_head(job).await?.0;
        heads.answer(job.uid(), &read, &head);
        Ok(head)
    }

    /// The text of a configuration.
    pub async fn text_of(&self, config: &ConfigEntry) -> Result<Bytes> {
        let digest = Digest::parse(&config.digest).ok_or_else(|| Error::Io("configuration: damaged digest".into()))?;
        if config.size == 0 {
            return Ok(Bytes::new());
        }
        self.store.body(digest).await
    }

    /// A stored configuration, parsed.
    pub(crate) async fn parsed(&self, job: &Name, digest: &str) -> Result<Arc<JobConfig>> {
        let key = format!("{job}/{digest}");
        if let Some(config) = lock(&self.parsed).get(&key) {
            return Ok(config.clone());
        }
        let damaged = || Error::Io(format!("configuration {digest} of {job}: damaged; run distcifs fsck").into());
        let text = self.store.body(Digest::parse(digest).ok_or_else(damaged)?).await?;
        // What was held against the job's name when it was written may be of a name that it had then.
        let config = Arc::new(JobConfig::read_stored(&text).map_err(|_| damaged())?);
        let weight = (config.size.memory + text.len()).max(PARSED_BYTES_MIN);
        lock(&self.parsed).keep_weighed(key, config.clone(), weight);
        Ok(config)
    }

    /// Takes a job's lock. It makes writers take turns; what makes the write right is the
    /// revision that the commit compares.
    pub async fn lock(self: &Arc<Self>, job: &Job, wait: bool) -> Result<ConfigLock> {
        let path = Key::JobLock(job.uid()).path();
        let mut subscription = None;
        let deadline = Deadline::after(if wait { LOCK_WAIT } else { LOCK_GRACE });
        loop {
            let freed = self.wakers.waiter(&path);
            let freed = freed.notified();
            let mark = Bytes::from(format!("{} {}", self.node, random_id()));
            let take = Op::Create {
                path: path.clone(),
                data: mark.clone(),
                ephemeral: true,
            };
            let ours = |entry: Option<&Entry>| entry.is_some_and(|entry| entry.data == mark);
            let made = self.store.commit_settled(vec![take], &path, ours).await;
            if matches!(made, Ok(Commit::Done) | Err(Error::TimedOut(_))) {
                // Nobody knows in the second case: given back all the same.
                let mut taken = ConfigLock {
                    configs: self.clone(),
                    path,
                    mark,
                    revision: 0,
                    owner: job.entry.access.uid,
                };
                made?;
                taken.revision = self.read_head(job).await?.1;
                return Ok(taken);
            }
            made?;
            let held = format!("config.json of {}: somebody else is writing it", job.name);
            if deadline.passed() && !wait {
                return Err(Error::WouldBlock(held));
            }
            if deadline.passed() {
                return Err(Error::Busy(format!(
                    "{held} and has been for {} s: try again",
                    LOCK_WAIT.as_secs()
                )));
            }
            if subscription.is_none() {
                subscription = Some(self.store.subscribe(&path).await?);
                continue;
            }
            // Timing out is no error: look again.
            let _ = deadline.min(Deadline::after(LOCK_LOOK)).wait(freed).await;
        }
    }

    /// Removes a lock's entry unless it is another's, who may have taken it since a session was lost.
    async fn unlock(&self, path: &str, mark: &Bytes) -> Result<()> {
        let others = |entry: Option<&Entry>| entry.is_none_or(|entry| entry.data != *mark);
        // Not what this server may not have heard of yet.
        let found = self.store.get_settled(path, self.store.shared).await?;
        if !others(found.as_ref()) {
            self.store
                .commit_settled(vec![delete(path, None)], path, others)
                .await?;
        }
        Ok(())
    }

    /// Checks a text and makes it the job's configuration.
    ///
    /// # Errors
    /// The faults, if it is not valid: the old one stays in force.
    pub async fn write(
        &self,
        job: &Job,
        held: &mut ConfigLock,
        text: Bytes,
        by: u32,
    ) -> Result<std::result::Result<ConfigHead, Vec<Fault>>> {
        let config = match JobConfig::read(&text, Some(&job.name)) {
            Ok(config) => config,
            Err(faults) => return Ok(Err(faults)),
        };
        if let Some(fault) = self.circle(job, &config).await? {
            return Ok(Err(vec![fault]));
        }
        if let Some(fault) = self.raised(job, &config, by).await? {
            return Ok(Err(vec![fault]));
        }
        let _pin = self.store.pin_epoch().await?;
        let size = text.len() as u64;
        let digest = self.store.keep_body(text).await?;
        let head = ConfigHead {
            digest: digest.to_string(),
            size,
            written: now(),
            by: Some(by),
            owner: Some(held.owner),
        };
        let change = vec![(LineKey::Config.key(), Some(to_json(&head)))];
        let mut guard = held.revision;
        for _ in 0..RACES_MAX {
            self.check_owner(job, held).await?;
            match self.replace(job, guard, &head, change.clone()).await? {
                (true, revision) => {
                    held.revision = revision;
                    self.tell(job).await;
                    return Ok(Ok(head));
                }
                (false, revision) => {
                    // The record also holds the index of builds: only another *configuration*
                    // since the lock was taken is a conflict.
                    guard = self.unchanged(job, held, revision).await?;
                }
            }
        }
        Err(Error::Busy(format!(
            "config.json of {}: its builds change too fast: try again",
            job.name
        )))
    }

    /// Refuses to write under an owner of before: the new one looks what is in force, and switches the job on.
    /// What was opened before must not come in between.
    async fn check_owner(&self, job: &Job, held: &ConfigLock) -> Result<()> {
        let line = self.jobs.line(&job.name).await?.0;
        let line = line.filter(|line| line.uid == job.uid());
        let line = line.ok_or_else(|| Error::NotFound(format!("jobs/{}", job.name)))?;
        if line.access.uid == held.owner {
            return Ok(());
        }
        Err(Error::Stale(format!(
            "config.json of {}: the job was given to user {} since it was opened: open it again",
            job.name, line.access.uid
        )))
    }

    /// What is wrong with a priority above 0: only the owner of `jobs`, or root, raises one. Whoever else
    /// writes the configuration may leave it, or lower it.
    async fn raised(&self, job: &Job, config: &JobConfig, by: u32) -> Result<Option<Fault>> {
        let Priority { at, value } = config.priority;
        if value <= 0 || by == 0 {
            return Ok(None);
        }
        let owner = self
            .tops
            .top_access("jobs")
            .await?
            .map_or(getuid().as_raw(), |access| access.uid);
        if by == owner {
            return Ok(None);
        }
        let now = match self.head(job).await? {
            Some(head) => self.parsed(&job.name, &head.digest).await?.priority.value.max(0),
            None => 0,
        };
        let words = format!("priority: only the owner of jobs (user {owner}) or root raises it above {now}");
        Ok((value > now).then(|| Fault::new(at, words)))
    }

    /// Says that a job was configured; to other mounts by an entry that they follow. Who misses that
    /// has missed a line of `.events`, and opens the right configuration all the same.
    async fn tell(&self, job: &Job) {
        if !self.store.shared {
            return self.events.announce(Event::JobConfigured(job.name.clone()));
        }
        let (path, version) = (Key::JobKeys(job.uid()).path(), None);
        let data = Bytes::new();
        if let Err(error) = self.store.commit(vec![Op::Set { path, data, version }]).await {
            tracing::debug!(job = %job.name, %error, "telling that it was configured");
        }
    }

    /// The guarded write; when nobody knows whether it happened, looks. Whether it did, and the record's revision.
    async fn replace(&self, job: &Job, guard: u64, head: &ConfigHead, change: Changes) -> Result<(bool, u64)> {
        let (heads, object) = (&self.heads, job.record());
        heads.begin(job.uid());
        let update = self.store.update_guarded("configuration", &object, guard, change);
        let updated = match update.await {
            Ok(Guarded::Done { revision }) => Ok((true, revision)),
            Ok(Guarded::Refused { revision }) => Ok((false, revision)),
            Ok(Guarded::Unknown) => {
                let (found, revision) = self.read_head(job).await?;
                let ours = |found: ConfigHead| (&found.digest, found.written) == (&head.digest, head.written);
                if !found.is_some_and(ours) {
                    // It may still come.
                    return Ok((false, revision));
                }
                Ok((true, revision))
            }
            Err(error) => Err(error),
        };
        heads.over(job.uid());
        updated
    }

    /// The record's revision if only its index of builds moved on since the lock was taken.
    async fn unchanged(&self, job: &Job, held: &ConfigLock, revision: u64) -> Result<u64> {
        // Not what is cached: a session that was lost unnoticed took the lock along.
        bounded("lock", self.store.coordination.sync()).await?;
        let mine = bounded(&held.path, self.store.coordination.get(&held.path)).await?;
        if mine.is_none_or(|entry| entry.data != held.mark) {
            return Err(Error::Stale(format!(
                "config.json of {}: the lock that its open took is lost: open it again",
                job.name
            )));
        }
        Ok(revision)
    }
}
