//! The claimants' own folders on local disk: prepared at the claim, captured with the result.

use std::collections::VecDeque;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::{OnceCell, oneshot};

mod give;
mod remove;
mod room;
pub mod view;

use self::give::give_to;
use self::room::Room;
use super::apart::Apart;
use super::attempts::view::Changes;
use super::core::{bounded, lock};
use super::deadline::{CAPTURE_TIMEOUT, Deadline, unhurried};
use super::fresh::{Fresh, Storing};
use super::model::ticket::{Ticket, TicketKey};
use super::reserve::Reserve;
use super::snapshot::{self, Manifest, Snapshot};
use super::{Error, Result, flood};
use crate::storage::{Contents, Digest, Object};

/// Finished workspaces whose folder is kept for the next task to go on in. More than hundreds of
/// concurrent builds need; each is a folder that would be deleted otherwise.
const REUSABLE_MAX: usize = 256;

/// Mode of a claimant's folders: anybody on the node may look on.
const WORK_MODE: u32 = 0o755;

/// How long a workspace that could not be laid out is not tried again at most: whoever may look at it asks for it.
const FAILURE_TTL: Duration = Duration::from_secs(5);

/// Folders that are removed at once, how many of one owner, whether that stands or not, and from when it is said to
/// stand: a large one takes as long as it is large.
const REMOVALS_MAX: usize = 8;
const REMOVALS_OF_ONE: usize = 4;
const REMOVAL_STANDS: Duration = Duration::from_secs(60);

/// How long a folder waits for its place before the log says so and it waits anew; one that stands for longer is waited
/// for without an end.
const REMOVAL_MAX: Duration = Duration::from_secs(3600);

/// How long one waits until it is tried again, whatever was in its way; each time twice as long, up to that.
const REMOVAL_PAUSE: Duration = Duration::from_secs(60);

/// Where the claimants' folders live.
pub struct AttemptDirs {
    contents: Arc<dyn Contents>,
    /// What results under way have stored, where nobody else can refer to it.
    pub(crate) fresh: Option<Arc<Fresh>>,
    runtime: tokio::runtime::Handle,
    room: Room,
    reserve: Arc<Reserve>,
    next: AtomicU64,
    reusable: Mutex<VecDeque<ReusableWorkspace>>,
    removals: Arc<Apart>,
}

/// For whom the work in a folder is done. A mapping that reads tells nobody that it is there, so what it shows
/// never becomes somebody else's.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Whose {
    /// With whose rights.
    owner: u32,
    /// The job's uid; none for a ticket that stands alone.
    job: Option<String>,
}

/// A finished workspace that nobody has open or can write.
struct ReusableWorkspace {
    digest: Digest,
    whose: Whose,
    dir: PathBuf,
    manifest: Manifest,
    owner: (u32, u32),
}

/// The two folders of one claim, made when they are first needed.
pub(crate) struct Folders {
    start: Option<Digest>,
    whose: Whose,
    workspace: OnceCell<(PathBuf, Mutex<Option<Manifest>>)>,
    /// Why there is no workspace, and until when that is told.
    failure: Mutex<Option<(Instant, Error)>>,
    artifacts: OnceCell<PathBuf>,
}

/// What a result keeps of the folders.
#[derive(Default)]
pub(crate) struct Kept {
    /// Digest of the workspace.
    pub(crate) workspace: Option<Digest>,
    /// Digest of the artifacts; `None` if there are none.
    pub(crate) artifacts: Option<Digest>,
    /// What the workspace's folder looks like, for the next capture; absent if there is something
    /// in it that was not kept, or that somebody may go on writing.
    pub(crate) manifest: Option<Manifest>,
    /// What had been done in the folders when the capture began.
    pub(crate) changes: Changes,
}

impl Folders {
    /// The folders of a ticket's next claimant, this user.
    pub(crate) fn new(ticket: &Ticket, uid: u32) -> Self {
        let start = ticket.workspace.as_deref().and_then(Digest::parse);
        let whose = Whose {
            owner: ticket.owner.unwrap_or(uid),
            job: ticket.part.as_ref().map(|part| part.uid.clone()),
        };
        Folders {
            start,
            whose,
            workspace: OnceCell::new(),
            failure: Mutex::default(),
            artifacts: OnceCell::new(),
        }
    }

    /// Whether there is nothing to put into the workspace.
    pub(crate) fn starts_empty(&self) -> bool {
        self.start.is_none_or(|digest| digest == Snapshot::empty())
    }

    /// Why the workspace could not be made a moment ago.
    fn failure(&self) -> Result<()> {
        match &*lock(&self.failure) {
            Some((until, error)) if Instant::now() < *until => Err(error.clone()),
            _ => Ok(()),
        }
    }

    /// What the workspace starts from.
    pub(crate) fn start(&self) -> Option<Digest> {
        self.start
    }

    /// The workspace's folder, once it was made, and what is known of what stands in it.
    pub(crate) fn workspace(&self) -> Option<&(PathBuf, Mutex<Option<Manifest>>)> {
        self.workspace.get()
    }

    /// The artifacts' folder, once it was made.
    pub(crate) fn artifacts(&self) -> Option<&PathBuf> {
        self.artifacts.get()
    }
}

/// How long a workspace that could not be laid out for this reason is not tried again. A store that was away may be
/// back at any moment; what else was in the way stays there for a while, and each try costs the disk.
fn told_for(error: &Error) -> Duration {
    match error {
        Error::TimedOut(_) | Error::Busy(_) => Duration::ZERO,
        // What is damaged says so, too.
        Error::Io(_) => FAILURE_TTL / 5,
        _ => FAILURE_TTL,
    }
}

impl AttemptDirs {
    /// Takes room for a mount's folders below `cache`, throwing away what dead mounts left there. They are filled
    /// from these contents.
    pub(crate) fn open(cache: &Path, contents: Arc<dyn Contents>, fresh: Option<Arc<Fresh>>) -> Result<Self> {
        let room = Room::take(cache).map_err(|error| Error::System {
            what: format!("make room for workspaces in {}", cache.display()),
            errno: error.raw_os_error().unwrap_or(libc::EIO),
        })?;
        Ok(AttemptDirs {
            contents,
            fresh,
            runtime: tokio::runtime::Handle::current(),
            room,
            reserve: Arc::default(),
            next: AtomicU64::new(0),
            reusable: Mutex::default(),
            removals: Arc::new(Apart::new(REMOVALS_MAX, REMOVALS_OF_ONE, REMOVAL_STANDS)),
        })
    }

    /// What is left of their disk.
    pub(crate) fn reserve(&self) -> &Arc<Reserve> {
        &self.reserve
    }

    /// What a new claim stores for its result.
    pub(crate) fn storing(&self) -> Storing {
        Storing::new(self.fresh.as_ref())
    }

    /// A new path for a folder.
    fn new_path(&self) -> PathBuf {
        self.room
            .path()
            .join(self.next.fetch_add(1, Ordering::Relaxed).to_string())
    }

    /// A kept folder with that content, of the same owner and job, taken out of the store of them.
    fn take_reusable(&self, digest: Digest, whose: &Whose) -> Option<ReusableWorkspace> {
        let mut reusable = lock(&self.reusable);
        let at = reusable.iter().rposition(|w| w.digest == digest && w.whose == *whose)?;
        reusable.remove(at)
    }

    /// Where the folders are, for statfs.
    pub fn root(&self) -> &Path {
        self.room.path()
    }

    /// A claimant's workspace, as the task before left it: made when it is first asked for.
    pub(crate) async fn make_workspace(&self, folders: &Folders, owner: (u32, u32)) -> Result<PathBuf> {
        let made = unhurried(folders.workspace.get_or_try_init(|| async {
            folders.failure()?;
            let new = self.new_folder(folders.whose.owner);
            let digest = folders.start.filter(|d| *d != Snapshot::empty());
            let made = match digest.and_then(|d| self.take_reusable(d, &folders.whose)) {
                Some(reusable) => adopt(reusable, new.clone(), owner).await.map(Some),
                None => self.fill(&new, digest, owner).await,
            };
            let manifest = made.inspect_err(|error| {
                *lock(&folders.failure) = Some((Instant::now() + told_for(error), error.clone()));
            })?;
            Ok::<_, Error>((new.keep(), Mutex::new(manifest)))
        }));
        Ok(made.await?.0.clone())
    }

    /// Refuses a ticket that starts from a workspace which is not there: gc and backup would stop at it.
    pub(crate) async fn check_start(&self, key: &TicketKey, ticket: &Ticket) -> Result<()> {
        let start = ticket.workspace.as_deref().and_then(Digest::parse);
        let Some(digest) = start.filter(|digest| *digest != Snapshot::empty()) else {
            return Ok(());
        };
        let object = Object::Tree(digest);
        match bounded(&object.to_string(), self.contents.size(&object)).await? {
            Some(_) => Ok(()),
            None => Err(Error::NotFound(format!(
                "{key}: there is no workspace {digest} to start from"
            ))),
        }
    }

    /// A folder that is to be made.
    fn new_folder(&self, owner: u32) -> Arc<Unfinished> {
        Arc::new(Unfinished {
            dir: self.new_path(),
            owner,
            removals: self.removals.clone(),
            kept: AtomicBool::new(false),
            runtime: self.runtime.clone(),
        })
    }

    /// Makes a folder and fills it from the store.
    async fn fill(&self, new: &Arc<Unfinished>, digest: Option<Digest>, owner: (u32, u32)) -> Result<Option<Manifest>> {
        let dir = &new.dir;
        make_dir(dir, owner)?;
        let Some(digest) = digest else { return Ok(None) };
        // Root sees the recorded owners; anybody else owns what he works on.
        let owner = (owner.0 != 0).then_some(owner);
        let (reserve, held) = (self.reserve.clone(), new.clone());
        let restored = snapshot::lay_out(self.contents.clone(), digest, dir, owner, reserve, held);
        let slow = || Error::TimedOut(format!("{}: restoring it took too long", dir.display()).into());
        let restored = Deadline::after(CAPTURE_TIMEOUT).wait(restored).await;
        Ok(Some(restored.ok_or_else(slow)??))
    }

    /// A claimant's artifacts folder, empty at first.
    pub(crate) async fn make_artifacts(&self, folders: &Folders, owner: (u32, u32)) -> Result<PathBuf> {
        let made = folders.artifacts.get_or_try_init(|| async {
            let new = self.new_folder(folders.whose.owner);
            make_dir(&new.dir, owner)?;
            Ok::<_, Error>(new.keep())
        });
        Ok(made.await?.clone())
    }

    /// After a result: the workspace is kept for the job's next task if it is still what was stored, and
    /// nobody has a file of it open, as this tells, or can write one.
    pub(crate) fn retire_folders(
        &self,
        folders: &Folders,
        owner: (u32, u32),
        kept: Kept,
        is_quiet_since: impl FnOnce(&Changes) -> bool,
    ) {
        if let Some(dir) = folders.artifacts.get() {
            self.discard(dir.clone(), folders.whose.owner);
        }
        let Some((dir, _)) = folders.workspace.get() else {
            return;
        };
        match (kept.workspace, kept.manifest) {
            (Some(digest), Some(manifest)) if is_quiet_since(&kept.changes) => {
                let mut reusable = lock(&self.reusable);
                reusable.push_back(ReusableWorkspace {
                    digest,
                    whose: folders.whose.clone(),
                    dir: dir.clone(),
                    manifest,
                    owner,
                });
                if reusable.len() > REUSABLE_MAX
                    && let Some(oldest) = reusable.pop_front()
                {
                    self.discard(oldest.dir, oldest.whose.owner);
                }
            }
            _ => self.discard(dir.clone(), folders.whose.owner),
        }
    }

    /// After a loss: the folders go.
    pub(crate) fn discard_folders(&self, folders: &Folders) {
        let workspace = folders.workspace.get().map(|(dir, _)| dir);
        for dir in workspace.into_iter().chain(folders.artifacts.get()) {
            self.discard(dir.clone(), folders.whose.owner);
        }
    }

    /// Deletes a folder of this owner's work in the background.
    fn discard(&self, dir: PathBuf, owner: u32) {
        self.runtime.spawn(remove_apart(self.removals.clone(), dir, owner));
    }

    /// Throws away the kept workspaces of a build that is over: no task will go on in them.
    pub(crate) fn forget_reusable(&self, digests: &[Digest]) {
        let mut gone = Vec::new();
        lock(&self.reusable).retain(|reusable| {
            let drop = digests.contains(&reusable.digest);
            if drop {
                gone.push((reusable.dir.clone(), reusable.whose.owner));
            }
            !drop
        });
        for (dir, owner) in gone {
            self.discard(dir, owner);
        }
    }
}

/// A folder on its way: unless it is kept it is deleted, once nobody works in it any more.
struct Unfinished {
    dir: PathBuf,
    owner: u32,
    kept: AtomicBool,
    removals: Arc<Apart>,
    runtime: tokio::runtime::Handle,
}

impl Unfinished {
    /// It is as it should be.
    fn keep(&self) -> PathBuf {
        self.kept.store(true, Ordering::Relaxed);
        self.dir.clone()
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        let dir = std::mem::take(&mut self.dir);
        if !self.kept.load(Ordering::Relaxed) && dir.exists() {
            self.runtime.spawn(remove_apart(self.removals.clone(), dir, self.owner));
        }
    }
}

/// Deletes a folder on a thread of its owner's: who holds a file of it stands in the way of that. One that gets no
/// place, as others of its owner's stand, or can't be deleted so far, is tried again for as long as the mount lives.
async fn remove_apart(removals: Arc<Apart>, dir: PathBuf, owner: u32) {
    remove_apart_by(remove::remove_tree, removals, dir, owner).await;
}

/// The same by what deletes a folder.
async fn remove_apart_by(
    remove: impl Fn(&Path) -> std::io::Result<()> + Clone + Send + 'static,
    removals: Arc<Apart>,
    dir: PathBuf,
    owner: u32,
) {
    let what = || format!("{}, a folder of user {owner}'s work", dir.display());
    let mut pause = REMOVAL_PAUSE;
    loop {
        let (remove, removed, (told, late)) = (remove.clone(), dir.clone(), oneshot::channel());
        let act = move || remove(&removed);
        let late_one = move |done| drop(told.send(done));
        let mut done = removals.run(owner, REMOVAL_MAX, what, act, late_one).await;
        if let Err(error @ Error::TimedOut(_)) = &done {
            tell_undeleted(&dir, owner, error);
            let defect = |_| Error::Io(format!("{}: a defect of distcifs", what()).into());
            done = late.await.map_err(defect);
        }
        let why: &(dyn std::fmt::Display + Send + Sync) = match &done {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error,
            Err(error) => error,
        };
        tell_undeleted(&dir, owner, why);
        tokio::time::sleep(pause).await;
        pause = (2 * pause).min(REMOVAL_MAX);
    }
}

/// Says that a folder of this owner's work is still there.
fn tell_undeleted(dir: &Path, owner: u32, why: &dyn std::fmt::Display) {
    if flood::has_line_of("a folder is not deleted so far", owner) {
        tracing::warn!(dir = %dir.display(), owner, error = %why, "not deleted so far; it is tried again, and by the next mount");
    }
}

/// Moves a kept workspace to its next claimant.
async fn adopt(reusable: ReusableWorkspace, new: Arc<Unfinished>, owner: (u32, u32)) -> Result<Manifest> {
    let moved = tokio::task::spawn_blocking(move || {
        if let Err(error) = std::fs::rename(&reusable.dir, &new.dir) {
            remove_tree(&reusable.dir);
            return Err(error);
        }
        if reusable.owner != owner && owner.0 != 0 {
            give_to(&new.dir, owner)?;
        }
        Ok::<_, std::io::Error>(reusable.manifest)
    });
    let moved = moved.await.map_err(|e| Error::Io(format!("workspace: {e}").into()))?;
    moved.map_err(|e| Error::System {
        what: "workspace".into(),
        errno: e.raw_os_error().unwrap_or(libc::EIO),
    })
}

/// Makes a folder that belongs to the claimant.
fn make_dir(dir: &Path, (uid, gid): (u32, u32)) -> Result<()> {
    let failed = |error: std::io::Error| Error::System {
        what: format!("make the folder {}", dir.display()),
        errno: error.raw_os_error().unwrap_or(libc::EIO),
    };
    // The daemon's umask is 0: what it makes has the mode that it says.
    std::fs::DirBuilder::new().mode(WORK_MODE).create(dir).map_err(failed)?;
    if nix::unistd::geteuid().is_root() {
        std::os::unix::fs::chown(dir, Some(uid), Some(gid)).map_err(failed)?;
    }
    Ok(())
}

/// Deletes a folder with all below it, whatever the modes in it.
pub(crate) fn remove_tree(dir: &Path) {
    if let Err(error) = remove::remove_tree(dir) {
        tracing::warn!(dir = %dir.display(), %error, "not deleted; the next mount tries again");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// "A folder whose owner has no place for an hour is removed later": when one of those that stand has ended.
    #[tokio::test(start_paused = true)]
    async fn a_removal_that_finds_no_place_is_tried_again() {
        let removals = Arc::new(Apart::new(1, 1, REMOVAL_STANDS));
        let dir = tempfile::tempdir().unwrap();
        let left = dir.path().join("left");
        std::fs::create_dir(&left).unwrap();
        let never = Deadline::after(2 * REMOVAL_MAX);
        let stands = removals.owners.place(7, never, || "a".to_owned()).await.unwrap();
        let removing = tokio::spawn(remove_apart(removals.clone(), left.clone(), 7));
        tokio::time::sleep(REMOVAL_MAX * 3).await;
        assert!(left.exists() && !removing.is_finished(), "it is left behind");
        drop(stands);
        removing.await.unwrap();
        assert!(!left.exists());
    }

    /// "A removal that fails is tried again": a mount lives for months.
    #[tokio::test(start_paused = true)]
    async fn a_removal_that_fails_is_tried_again() {
        let removals = Arc::new(Apart::new(1, 1, REMOVAL_STANDS));
        let dir = tempfile::tempdir().unwrap();
        let left = dir.path().join("left");
        // No folder: it can't be emptied.
        std::fs::write(&left, "").unwrap();
        let removing = tokio::spawn(remove_apart(removals.clone(), left.clone(), 7));
        tokio::time::sleep(REMOVAL_MAX).await;
        assert!(left.exists() && !removing.is_finished(), "it is left behind");
        std::fs::remove_file(&left).unwrap();
        std::fs::create_dir(&left).unwrap();
        removing.await.unwrap();
        assert!(!left.exists());
    }

    /// The same of one that stood for longer than it is waited for, and then met a defect.
    #[tokio::test(start_paused = true)]
    async fn a_removal_that_panics_late_is_tried_again() {
        let removals = Arc::new(Apart::new(1, 1, REMOVAL_STANDS));
        let dir = tempfile::tempdir().unwrap();
        let left = dir.path().join("left");
        std::fs::create_dir(&left).unwrap();
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let (begun, begins) = std::sync::mpsc::channel();
        let wait = Arc::new(Mutex::new(Some(wait)));
        let remove = move |dir: &Path| {
            if let Some(wait) = lock(&wait).take() {
                begun.send(()).unwrap();
                assert!(wait.recv().is_ok(), "a defect of the test");
            }
            remove::remove_tree(dir)
        };
        let removing = tokio::spawn(remove_apart_by(remove, removals, left.clone(), 7));
        while begins.try_recv().is_err() {
            tokio::task::yield_now().await;
        }
        tokio::time::advance(REMOVAL_MAX + Duration::from_secs(1)).await;
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        drop(go);
        removing.await.unwrap();
        assert!(!left.exists());
    }
}
