//! A claim's own folders: made for its claimant, and stored with its result.

use std::path::{Path, PathBuf};

use super::{Claim, Claims};
use crate::repository::attempts::Kept;
use crate::repository::core::lock;
use crate::repository::deadline::{CAPTURE_TIMEOUT, Deadline};
use crate::repository::snapshot::{self, Manifest, Snapshot};
use crate::repository::{Error, Result};

impl Claims {
    /// The claimant's workspace, as the task before left it.
    pub async fn workspace_dir(&self, claim: &Claim) -> Result<PathBuf> {
        claim.check()?;
        self.attempts
            .make_workspace(&claim.folders, (claim.uid, claim.gid))
            .await
    }

    /// The claimant's artifacts folder, empty at first.
    pub async fn artifacts_dir(&self, claim: &Claim) -> Result<PathBuf> {
        claim.check()?;
        self.attempts
            .make_artifacts(&claim.folders, (claim.uid, claim.gid))
            .await
    }

    /// Stores what stands in the folders.
    pub(super) async fn capture_folders(&self, claim: &Claim) -> Result<Kept> {
        claim.write_back().await;
        let mut kept = Kept {
            workspace: claim.folders.start(),
            changes: claim.changes(),
            ..Kept::default()
        };
        if let Some((dir, manifest)) = claim.folders.workspace() {
            let known = lock(manifest).take();
            let known = known.zip(kept.changes.written.as_ref());
            let known = known.map(|(known, written)| known.without(written));
            let captured = self.capture(claim, dir, known.as_ref()).await?;
            kept.workspace = Some(captured.digest).filter(|d| *d != Snapshot::empty());
            let all = captured.skipped_count == 0 && !captured.has_writers;
            kept.manifest = all.then_some(captured.manifest);
        }
        if let Some(dir) = claim.folders.artifacts() {
            let captured = self.capture(claim, dir, None).await?;
            kept.artifacts = Some(captured.digest).filter(|_| !captured.is_bare);
        }
        Ok(kept)
    }

    /// Stores one folder, and says in the console what can't be kept.
    async fn capture(&self, claim: &Claim, dir: &Path, known: Option<&Manifest>) -> Result<snapshot::Captured> {
        let capture = snapshot::capture(claim.storing.contents(&self.store.contents), dir, known);
        let slow = || Error::TimedOut(format!("{}: storing its folders took too long", claim.key).into());
        let captured = Deadline::after(CAPTURE_TIMEOUT).wait(capture).await;
        let captured = captured.ok_or_else(slow)??;
        if !captured.skipped.is_empty() {
            let text = format!("[not kept, being no files: {}]\n", captured.skipped.join(", "));
            let mut console = claim.console().await?;
            console.append(&self.consoles, claim, text.as_bytes()).await?;
        }
        Ok(captured)
    }
}
