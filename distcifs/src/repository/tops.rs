//! The folders at the top, and queues: made, owned and removed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::access::Access;
use super::core::{bounded, lock};
use super::deadline::Deadline;
use super::model::json::{from_json, to_json};
use super::model::keys::{Key, RecordKey};
use super::model::ops::{create, delete, set};
use super::model::ticket::queue_path;
use super::names::Name;
use super::store::{Guarded, Store};
use super::work::RACES_MAX;
use super::{Error, Result};
use crate::storage::{Commit, Object};

/// How long the kernel waits for what is known anyhow: a path has several folders, and what follows has time of its own.
const SEEN_WAIT: Duration = Duration::from_secs(1);

/// Within this time of a call in vain no other one is made for it.
const ASKED_AGAIN: Duration = Duration::from_secs(1);

/// The record that holds owner and mode of the top folders.
fn settings() -> Object {
    RecordKey::Settings.object()
}

/// Owner and mode of the folders at the top, and of queues.
#[derive(Clone)]
pub(crate) struct Tops {
    store: Arc<Store>,
    /// What is known of the folders at the top: every path leads through them, also that of a workspace, which needs
    /// no store.
    known: Arc<Mutex<BTreeMap<String, Known>>>,
    /// When the store was last asked in vain for it.
    in_vain: Arc<Mutex<Option<Instant>>>,
}

/// What was last read of a folder at the top.
struct Known {
    access: Option<Access>,
    /// That of the record then: an answer that comes late changes nothing of what is newer.
    revision: u64,
    /// What reads it at this moment: who asks meanwhile asks the store for nothing more.
    look: Option<Look>,
}

/// Something that reads a folder at the top, which nobody has to wait for: a slow answer is known to the next.
#[derive(Clone)]
struct Look {
    /// Until when it is waited for.
    by: Deadline,
    done: watch::Receiver<Option<Result<()>>>,
}

impl Tops {
    /// Of a repository with this store.
    pub(crate) fn new(store: Arc<Store>) -> Self {
        let (known, in_vain) = Default::default();
        Tops { store, known, in_vain }
    }

    /// Owner and mode of a top folder, if they were ever set: what a decision goes by.
    pub(crate) async fn top_access(&self, folder: &str) -> Result<Option<Access>> {
        let (access, revision) = self.top_line(folder).await?;
        self.knows(folder, access, revision);
        Ok(access)
    }

    /// The same for the kernel, which asks on the way of every path: while the store is away or slow, as this mount
    /// last read it.
    pub(crate) async fn seen(&self, folder: &str) -> Result<Option<Access>> {
        let Some((access, look)) = self.known(folder) else {
            return self.top_access(folder).await;
        };
        let Some(mut look) = look else { return Ok(access) };
        let done = match look.by.wait(look.done.wait_for(Option::is_some)).await {
            Some(Ok(done)) => done.clone(),
            Some(Err(_)) | None => None,
        };
        match done {
            Some(Err(error)) if !error.is_away() => return Err(error),
            Some(Ok(())) => {}
            Some(Err(_)) | None => *lock(&self.in_vain) = Some(Instant::now()),
        }
        Ok(lock(&self.known).get(folder).map_or(access, |known| known.access))
    }

    /// What is known of a folder that was read before, and what reads it again if somebody should.
    fn known(&self, folder: &str) -> Option<(Option<Access>, Option<Look>)> {
        let mut all = lock(&self.known);
        let known = all.get_mut(folder)?;
        if lock(&self.in_vain).is_some_and(|since| since.elapsed() < ASKED_AGAIN) {
            return Some((known.access, None));
        }
        let look = known.look.get_or_insert_with(|| self.look(folder.to_owned()));
        let awaited = (!look.by.passed()).then(|| look.clone());
        Some((known.access, awaited))
    }

    /// Begins to read a folder.
    fn look(&self, folder: String) -> Look {
        let (told, done) = watch::channel(None);
        let ends = LookEnds(self.known.clone(), folder.clone());
        let tops = self.clone();
        tokio::spawn(async move {
            let read = tops.top_access(&folder).await;
            drop(ends);
            let _gone = told.send(Some(read.map(drop)));
        });
        let by = Deadline::after(SEEN_WAIT);
        Look { by, done }
    }

    fn knows(&self, folder: &str, access: Option<Access>, revision: u64) {
        let mut all = lock(&self.known);
        let known = all.entry(folder.to_owned()).or_insert(Known {
            access,
            revision,
            look: None,
        });
        if revision >= known.revision {
            (known.access, known.revision) = (access, revision);
        }
    }

    /// Owner and mode of a top folder as the store has them, and the revision of the record.
    async fn top_line(&self, folder: &str) -> Result<(Option<Access>, u64)> {
        let page = bounded("settings", self.store.contents.query(&settings(), folder, "", 1)).await?;
        let found = page.entries.iter().find(|(key, _)| key == folder);
        let access = found.map(|(_, value)| from_json("settings", value)).transpose()?;
        Ok((access, page.revision))
    }

    /// Changes owner and mode of a top folder, which has these if none were ever set; `change` may refuse what it
    /// sees to be so, and is called again after a lost race.
    pub(crate) async fn change_top(
        &self,
        folder: &str,
        unset: Access,
        change: impl Fn(&mut Access) -> Result<()>,
    ) -> Result<()> {
        for _ in 0..RACES_MAX {
            let (access, revision) = self.top_line(folder).await?;
            let mut access = access.unwrap_or(unset);
            change(&mut access)?;
            let line = vec![(folder.to_owned(), Some(to_json(&access)))];
            let object = settings();
            let update = self.store.update_guarded("settings", &object, revision, line);
            if let Guarded::Done { revision } = update.await? {
                self.knows(folder, Some(access), revision);
                return Ok(());
            }
        }
        Err(Error::Busy(format!("{folder}: too many others change it: try again")))
    }

    /// Owner and mode of a queue; `None` if there is no such queue.
    pub(crate) async fn queue_access(&self, queue: &str) -> Result<Option<Access>> {
        let entry = self.store.get(&Key::Queue(queue).path()).await?;
        entry
            .map(|entry| from_json(&format!("queue {queue}"), &entry.data))
            .transpose()
    }

    /// Makes a queue.
    pub(crate) async fn make_queue(&self, queue: &Name, access: Access) -> Result<()> {
        match self
            .store
            .commit(vec![create(queue_path(queue), to_json(&access))])
            .await?
        {
            Commit::Done => Ok(()),
            Commit::Mismatch { .. } => Err(Error::Exists(format!("queue {queue} exists"))),
        }
    }

    /// Changes owner or mode of a queue; `change` may refuse what it sees to be so.
    pub(crate) async fn change_queue(
        &self,
        queue: &Name,
        change: impl Fn(&mut Access) -> Result<()>,
    ) -> Result<Access> {
        let path = queue_path(queue);
        for _ in 0..RACES_MAX {
            let entry = self
                .store
                .get(&path)
                .await?
                .ok_or_else(|| Error::NotFound(format!("tickets/{queue}")))?;
            let mut access: Access = from_json(&path, &entry.data)?;
            change(&mut access)?;
            if self
                .store
                .commit(vec![set(&path, to_json(&access), entry.version)])
                .await?
                == Commit::Done
            {
                return Ok(access);
            }
        }
        Err(Error::Busy(format!(
            "tickets/{queue}: too many others change it: try again"
        )))
    }

    /// Removes a queue without tickets.
    pub(crate) async fn remove_queue(&self, queue: &Name, of: Option<u32>) -> Result<()> {
        let path = queue_path(queue);
        let mut version = None;
        if of.is_some() {
            let entry = bounded(&path, self.store.coordination.get(&path)).await?;
            let entry = entry.ok_or_else(|| Error::NotFound(format!("tickets/{queue}")))?;
            let access: Access = from_json(&path, &entry.data)?;
            access.must_be_of(of, || format!("tickets/{queue}"))?;
            version = Some(entry.version);
        }
        match self.store.commit(vec![delete(path, version)]).await? {
            Commit::Done => Ok(()),
            Commit::Mismatch { .. } => Err(Error::NotEmpty(format!(
                "tickets/{queue} has tickets, or was changed just now"
            ))),
        }
    }
}

/// Ends a look, also one that panics.
struct LookEnds(Arc<Mutex<BTreeMap<String, Known>>>, String);

impl Drop for LookEnds {
    fn drop(&mut self) {
        if let Some(known) = lock(&self.0).get_mut(&self.1) {
            known.look = None;
        }
    }
}
