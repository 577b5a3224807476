//! Queues: made, owned and removed.

use super::access::Access;
use super::core::bounded;
use super::model::json::{from_json, to_json};
use super::model::keys::Key;
use super::model::ops::{create, delete, set};
use super::model::ticket::queue_path;
use super::names::Name;
use super::{Error, Repository, Result};
use crate::storage::Commit;

impl Repository {
    /// Owner and mode of a queue; `None` if there is no such queue.
    pub async fn queue_access(&self, queue: &str) -> Result<Option<Access>> {
        let entry = self.get(&Key::Queue(queue).path()).await?;
        entry
            .map(|entry| from_json(&format!("queue {queue}"), &entry.data))
            .transpose()
    }

    /// Makes a queue.
    pub async fn make_queue(&self, queue: &Name, access: Access) -> Result<()> {
        match self.commit(vec![create(queue_path(queue), to_json(&access))]).await? {
            Commit::Done => Ok(()),
            Commit::Mismatch { .. } => Err(Error::Exists(format!("queue {queue} exists"))),
        }
    }

    /// Changes owner or mode of a queue; `change` may refuse what it sees to be so.
    pub async fn change_queue(&self, queue: &Name, change: impl Fn(&mut Access) -> Result<()>) -> Result<Access> {
        let path = queue_path(queue);
        loop {
            let entry = self
                .get(&path)
                .await?
                .ok_or_else(|| Error::NotFound(format!("tickets/{queue}")))?;
            let mut access: Access = from_json(&path, &entry.data)?;
            change(&mut access)?;
            if self.commit(vec![set(&path, to_json(&access), entry.version)]).await? == Commit::Done {
                return Ok(access);
            }
        }
    }

    /// Removes a queue without tickets.
    pub async fn remove_queue(&self, queue: &Name, of: Option<u32>) -> Result<()> {
        let path = queue_path(queue);
        let mut version = None;
        if of.is_some() {
            let entry = bounded(&path, self.coordination.get(&path)).await?;
            let entry = entry.ok_or_else(|| Error::NotFound(format!("tickets/{queue}")))?;
            let access: Access = from_json(&path, &entry.data)?;
            access.must_be_of(of, || format!("tickets/{queue}"))?;
            version = Some(entry.version);
        }
        match self.commit(vec![delete(path, version)]).await? {
            Commit::Done => Ok(()),
            Commit::Mismatch { .. } => Err(Error::NotEmpty(format!(
                "tickets/{queue} has tickets, or was changed just now"
            ))),
        }
    }
}
