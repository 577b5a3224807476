//! What a repository says of itself and of who is alive; owners of the top folders; merged views.

use super::builds::Build;
use super::core::{bounded, from_json, lock, to_json};
use super::jobs::Access;
use super::snapshot;
use super::{Repository, Result};
use crate::storage::{Digest, Object, Session};

/// Merged artifacts kept by what they were merged of.
pub(crate) const MERGED_MAX: usize = 1024;

/// The record that holds owner and mode of the top folders.
fn settings() -> Object {
    Object::Record("settings".into())
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
        let page = bounded("settings", self.contents.query(&settings(), folder, "", 1)).await?;
        let found = page.entries.iter().find(|(key, _)| key == folder);
        found.map(|(_, value)| from_json("settings", value)).transpose()
    }

    /// Sets owner and mode of a top folder.
    pub async fn set_top_access(&self, folder: &str, access: Access) -> Result<()> {
        let change = vec![(folder.to_owned(), Some(to_json(&access)))];
        self.update("settings", &settings(), change).await
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
            let mut known = lock(&self.records.merged);
            if known.len() >= MERGED_MAX {
                known.clear();
            }
            known.insert(parts, text.clone());
        }
        Ok(text)
    }
}
