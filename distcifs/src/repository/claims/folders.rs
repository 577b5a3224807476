//! A claim's own folders: made for its claimant, and stored with its result.

use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::{Claim, Claims};
use crate::repository::apart::Owners;
use crate::repository::attempts::Kept;
use crate::repository::core::lock;
use crate::repository::deadline::{CAPTURE_TIMEOUT, Deadline};
use crate::repository::snapshot::{self, Manifest, Snapshot};
use crate::repository::{Error, Result};

/// Folders of one owner that are stored at once; how many the walks do in all, they say.
const OF_ONE_MAX: usize = 4;

/// From when on one is said to stand: somebody may hold a file of it for ever. Then it leaves its place to the owner's
/// next one, as the walks do with their turns. One that takes as long because it is large has one more beside it.
const STANDS: Duration = Duration::from_secs(300);

/// Folders of one owner that may stand beside those. With as many the rest waits for its places.
const STANDING_OF_ONE_MAX: usize = 32;

/// The places of that.
struct Places {
    storing: Owners,
    standing: Owners,
}

static PLACES: LazyLock<Arc<Places>> = LazyLock::new(Arc::default);

impl Default for Places {
    fn default() -> Self {
        Places {
            storing: Owners::new(OF_ONE_MAX),
            standing: Owners::new(STANDING_OF_ONE_MAX),
        }
    }
}

impl Places {
    /// A place of this owner's for storing what is named.
    ///
    /// # Errors
    /// `Busy` if there is none by then.
    async fn place(self: &Arc<Self>, owner: u32, by: Deadline, what: String) -> Result<Place> {
        let held = self.storing.place(owner, by, || what.clone()).await?;
        Ok(Place {
            held,
            owner,
            what,
            places: self.clone(),
            runtime: Handle::current(),
        })
    }

    /// Gives a place back once what has it stands, for one of those that stand.
    async fn watch(
        self: Arc<Self>,
        owner: u32,
        what: String,
        held: Weak<Mutex<OwnedSemaphorePermit>>,
        mut over: oneshot::Receiver<()>,
    ) {
        if Deadline::after(STANDS).wait(&mut over).await.is_some() {
            return;
        }
        let standing = self
            .standing
            .place(owner, Deadline::after(Duration::MAX), || what.clone());
        let standing = tokio::select! {
            _ = over => return,
            standing = standing => standing,
        };
        if let (Ok(standing), Some(held)) = (standing, held.upgrade()) {
            *lock(&held) = standing;
        }
    }
}

/// A place of an owner's for what has not begun: who only waits for a turn of the walks does not stand.
struct Place {
    held: OwnedSemaphorePermit,
    owner: u32,
    what: String,
    places: Arc<Places>,
    runtime: Handle,
}

impl Place {
    /// It begins. What this gives is to be held as long as it lasts.
    fn begin(self) -> Taken {
        let held = Arc::new(Mutex::new(self.held));
        let (lasts, over) = oneshot::channel();
        let watch = self.places.watch(self.owner, self.what, Arc::downgrade(&held), over);
        self.runtime.spawn(watch);
        Taken {
            _held: held,
            _lasts: lasts,
        }
    }
}

/// The place of what has begun.
struct Taken {
    _held: Arc<Mutex<OwnedSemaphorePermit>>,
    /// Tells of the end.
    _lasts: oneshot::Sender<()>,
}

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
        let what = format!("{}: storing its folders", claim.key);
        let place = PLACES.place(owner, end, what).await?;
        let capture = snapshot::take_in(
            claim.storing.contents(&self.store.contents),
            dir,
            known,
            (claim.is_held_up(), move || place.begin()),
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

#[cfg(test)]
mod tests {
    use super::*;

    /// "Results that stand hold up their owner's others for minutes, not for ever", as many as may stand; and whoever
    /// has more than that waits for them.
    #[tokio::test(start_paused = true)]
    async fn folders_that_stand_leave_their_places_to_the_next() {
        let places = Arc::new(Places::default());
        let place = |by| places.place(7, Deadline::after(by), "a result".to_owned());
        let mut stand = Vec::new();
        for _ in 0..OF_ONE_MAX {
            stand.push(place(Duration::ZERO).await.unwrap().begin());
        }
        assert!(matches!(place(STANDS / 2).await, Err(Error::Busy(_))));
        for _ in 0..STANDING_OF_ONE_MAX {
            stand.push(place(STANDS * 2).await.unwrap().begin());
        }
        assert!(matches!(place(CAPTURE_TIMEOUT).await, Err(Error::Busy(_))));
        let other = places.place(8, Deadline::after(Duration::ZERO), "another's".to_owned());
        other.await.unwrap();
        // Those that end make room, wherever they stood.
        stand.truncate(OF_ONE_MAX + STANDING_OF_ONE_MAX - 1);
        stand.push(place(STANDS * 2).await.unwrap().begin());
        drop(stand);
        let mut free = Vec::new();
        for _ in 0..OF_ONE_MAX {
            free.push(place(STANDS * 2).await.unwrap());
        }
    }

    /// "One that takes longer than five minutes": who only waits for a turn, as others store much, is none of those.
    #[tokio::test(start_paused = true)]
    async fn folders_that_have_not_begun_do_not_stand() {
        let places = Arc::new(Places::default());
        let place = |by| places.place(7, Deadline::after(by), "a result".to_owned());
        let mut wait = Vec::new();
        for _ in 0..OF_ONE_MAX {
            wait.push(place(Duration::ZERO).await.unwrap());
        }
        assert!(matches!(place(STANDS * 3).await, Err(Error::Busy(_))), "they stand");
        let _stands = wait.pop().unwrap().begin();
        assert!(matches!(place(STANDS / 2).await, Err(Error::Busy(_))));
        place(STANDS).await.unwrap();
    }
}
