//! What a repository says of itself and of who is alive; owners of the top folders; merged views.

use super::access::Access;
use super::core::{bounded, lock};
use super::model::build::Build;
use super::model::json::{from_json, to_json};
use super::model::keys::RecordKey;
use super::snapshot;
use super::work::RACES_MAX;
use super::{Error, Repository, Result};
use crate::storage::{Digest, Object, Session, Updated};

/// The record that holds owner and mode of the top folders.
fn settings() -> Object {
    RecordKey::Settings.object()
}

impl Repository {
    /// The state of the session, in a word.
    pub fn session_word(&self) -> String {
        match *self.coordination.session().borrow() {
            Session::Live { id } => format!("{id:#x} live"),
            Session::Doubtful { id } => format!("{id:#x} doubtful"),
            Session::Lost { id } => format!("{id:#x} lost"),
        }
    }

    /// `Full` if the store has no room: what would begin more work is refused then before it is written.
    pub async fn check_room(&self) -> Result<()> {
        bounded("the store's room", self.contents.room()).await
    }

    /// Owner and mode of a top folder, if they were ever set.
    pub async fn top_access(&self, folder: &str) -> Result<Option<Access>> {
        Ok(self.top_line(folder).await?.0)
    }

    /// The same with the revision of the record.
    async fn top_line(&self, folder: &str) -> Result<(Option<Access>, u64)> {
        let page = bounded("settings", self.contents.query(&settings(), folder, "", 1)).await?;
        let found = page.entries.iter().find(|(key, _)| key == folder);
        let access = found.map(|(_, value)| from_json("settings", value)).transpose()?;
        Ok((access, page.revision))
    }

    /// Changes owner and mode of a top folder, which has these if none were ever set; `change` may refuse what it
    /// sees to be so, and is called again after a lost race.
    pub async fn change_top(
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
            let update = self.contents.update(&settings(), Some(revision), line);
            match bounded("settings", update).await {
                Ok(Updated::Done { .. }) => return Ok(()),
                Ok(Updated::Mismatch { .. }) | Err(Error::TimedOut(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::Busy(format!("{folder}: too many others change it: try again")))
    }

    /// The digest of a build's artifacts: those of its tasks, the later over the earlier.
    pub async fn merged_artifacts(&self, build: &Build) -> Result<Option<String>> {
        let parts = build.artifacts();
        let Some((first, rest)) = parts.split_first() else {
            return Ok(None);
        };
        if rest.is_empty() {
            return Ok(Some(first.clone()));
        }
        if let Some(known) = lock(&self.records.merged).get(&parts) {
            return Ok(Some(known.clone()));
        }
        let mut merged = Digest::parse(first);
        for part in rest {
            if let (Some(base), Some(over)) = (merged, Digest::parse(part)) {
                merged = Some(snapshot::merge(self.contents.clone(), base, over).await?);
            }
        }
        let text = merged.map(|digest| digest.to_string());
        if let Some(text) = &text {
            lock(&self.records.merged).keep(parts, text.clone());
        }
        Ok(text)
    }
}
