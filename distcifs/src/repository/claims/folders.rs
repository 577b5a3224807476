//! A claim's own folders: made for its claimant, and stored with its result.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Duration;

use super::{Claim, Claims};
use crate::repository::apart::Apart;
use crate::repository::attempts::Kept;
use crate::repository::core::lock;
use crate::repository::deadline::{CAPTURE_TIMEOUT, Deadline};
use crate::repository::snapshot::{self, Manifest, Snapshot};
use crate::repository::{Error, Result};

/// Folders of one owner that are stored at once; one whose file somebody holds may keep its place for ever.
const OF_ONE_MAX: usize = 4;

/// The places of that: how many there are in all, the walks say.
static PLACES: LazyLock<Apart> = LazyLock::new(|| Apart::new(OF_ONE_MAX, OF_ONE_MAX, Duration::MAX));

impl Claim {
    /// Whether a call in its folders may stand, as somebody holds a file there.
    fn is_held_up(&self) -> bool {
        self.view.get().is_some_and(|view| view.is_held_up())
    }
}

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
        let end = Deadline::after(CAPTURE_TIMEOUT);
        // One that was left empty waits for no place.
        if !claim.is_held_up() && snapshot::is_untouched(dir) {
            return Ok(snapshot::Captured::nothing());
        }
        let owner = claim.ticket.owner.unwrap_or(claim.uid);
        let what = || format!("{}: storing its folders", claim.key);
        let place = PLACES.place(owner, end, what).await?;
        let capture = snapshot::take_in(
            claim.storing.contents(&self.store.contents),
            dir,
            known,
            (claim.is_held_up(), place),
        );
        let slow = || Error::TimedOut(format!("{}: storing its folders took too long", claim.key).into());
        let captured = end.wait(capture).await;
        let captured = captured.ok_or_else(slow)??;
        if !captured.skipped.is_empty() {
            let text = format!("[not kept, being no files: {}]\n", captured.skipped.join(", "));
            let mut console = claim.console().await?;
            console.append(&self.consoles, claim, text.as_bytes()).await?;
        }
        Ok(captured)
    }
}
