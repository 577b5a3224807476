//! The artifacts of a build as one folder.

use super::Result;
use super::builds::Builds;
use super::core::lock;
use super::model::build::Build;
use super::snapshot;
use crate::storage::Digest;

impl Builds {
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
                merged = Some(snapshot::merge(self.store.contents.clone(), base, over).await?);
            }
        }
        let text = merged.map(|digest| digest.to_string());
        if let Some(text) = &text {
            lock(&self.records.merged).keep(parts, text.clone());
        }
        Ok(text)
    }
}
