//! `gc`: removes what nothing refers to.
//!
//! Nothing that is removed can be reached any more, so being killed half-way costs nothing: what is
//! left goes the next time.

use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::future::Future;
use std::sync::Arc;

use tokio::task::JoinSet;

use super::gc_lock::GcLock;
use super::roots::{Heads, Orphan, Roots, is_wanted};
use super::{Blobs, Fault, Upkeep};
use crate::repository::core::{bounded, settled};
use crate::repository::model::job::JobEntry;
use crate::repository::model::keys::RecordKey;
use crate::repository::model::ops::delete;
use crate::repository::snapshot;
use crate::repository::{Error, Result};
use crate::storage::contents::LISTING_PAGE_MAX;
use crate::storage::coordination::COMMIT_OPS_MAX;
use crate::storage::{Commit, Contents, Digest, Object, Op, Updated};

/// Objects removed at once.
const REMOVALS: usize = 32;

/// Races lost against others who change the list of jobs before one gives up.
const RACES_MAX: u32 = 1000;

/// What was freed.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Swept {
    /// Chunks and folders removed.
    pub objects: u64,
    /// Parts of consoles removed.
    pub consoles: u64,
    /// Their bytes, all together.
    pub bytes: u64,
    /// Records and entries of jobs and builds that are gone.
    pub remains: u64,
    /// Chunks and folders that are needed.
    pub kept: u64,
    /// What keeps it from removing anything: then nothing is removed.
    pub faults: Vec<Fault>,
    /// What is wrong and keeps it from nothing.
    pub told: Vec<Fault>,
}

impl fmt::Display for Swept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "freed {} bytes: {} chunks and folders, {} consoles, {} records and entries; {} chunks and folders are in use",
            self.bytes, self.objects, self.consoles, self.remains, self.kept
        )
    }
}

/// What is needed.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    pub(super) blobs: Blobs,
    /// Artifacts of builds whose union is among them.
    joined: HashSet<Vec<Digest>>,
}

impl From<Blobs> for Wanted {
    fn from(blobs: Blobs) -> Self {
        let joined = HashSet::new();
        Wanted { blobs, joined }
    }
}

/// What a sweep goes by.
pub(super) struct Plan<'a> {
    pub(super) orphans: &'a BTreeSet<Orphan>,
    pub(super) consoles: Vec<Object>,
    pub(super) wanted: &'a Wanted,
    /// Blobs with a mark of this epoch or a later one stay.
    pub(super) epoch: u64,
    /// What makes it ours to sweep, where others may be there.
    pub(super) gc_lock: Option<&'a GcLock>,
}

impl Upkeep {
    /// Removes what nothing refers to from stores that nobody else uses; nothing at all if
    /// something can't be read that may refer to it.
    pub async fn sweep(&self) -> Result<Swept> {
        let mut roots = self.roots(Heads::Read).await?;
        let (mut swept, mut wanted) = (Swept::default(), Wanted::default());
        swept.faults.append(&mut roots.faults);
        swept.told.append(&mut roots.unworkable);
        self.mark(&roots, &mut wanted, &mut swept.faults).await?;
        if swept.faults.is_empty() {
            let plan = Plan {
                orphans: &roots.orphans,
                consoles: self.unwanted_consoles(&roots).await?,
                wanted: &wanted,
                epoch: u64::MAX,
                gc_lock: None,
            };
            self.carry_out(plan, &mut swept).await?;
        }
        Ok(swept)
    }

    /// Removes what was found to be needed by nobody.
    pub(super) async fn carry_out(&self, plan: Plan<'_>, swept: &mut Swept) -> Result<()> {
        self.progress
            .begin_of("removing what is left of jobs and builds", plan.orphans.len());
        for orphan in plan.orphans {
            stands(plan.gc_lock)?;
            self.remove_orphan(orphan, plan.gc_lock).await?;
            swept.remains += 1;
            self.progress.step();
        }
        self.progress.begin_of("removing consoles", plan.consoles.len());
        for page in plan.consoles.chunks(LISTING_PAGE_MAX) {
            stands(plan.gc_lock)?;
            swept.consoles += page.len() as u64;
            let contents = self.contents.clone();
            let removed = self.side_by_side(page.to_vec(), move |object| remove(contents.clone(), object));
            swept.bytes += removed.await?.into_iter().flatten().sum::<u64>();
        }
        self.progress.begin("looking for chunks and folders of nothing");
        // Folders first: what is left of one that is cut short here could not be read.
        for kind in ["tree", "chunk"] {
            let mut objects = self.list(kind).await?;
            loop {
                let page = objects.page().await?;
                if page.is_empty() {
                    break;
                }
                stands(plan.gc_lock)?;
                self.sweep_page(page, &plan, swept).await?;
            }
        }
        Ok(())
    }

    /// Removes those of some blobs that nobody needs.
    async fn sweep_page(&self, page: Vec<Object>, plan: &Plan<'_>, swept: &mut Swept) -> Result<()> {
        let (kept, unwanted): (Vec<Object>, Vec<Object>) =
            page.into_iter().partition(|object| plan.wanted.blobs.contains(object));
        self.progress.steps(kept.len());
        let (contents, epoch, all) = (self.contents.clone(), plan.epoch, unwanted.len());
        let removed = self.side_by_side(unwanted, move |object| sweep(contents.clone(), object, epoch));
        let lengths: Vec<u64> = removed.await?.into_iter().flatten().collect();
        swept.kept += (kept.len() + all - lengths.len()) as u64;
        swept.objects += lengths.len() as u64;
        swept.bytes += lengths.iter().sum::<u64>();
        Ok(())
    }

    /// Marks what is needed, in addition to what is marked.
    pub(super) async fn mark(&self, roots: &Roots, wanted: &mut Wanted, faults: &mut Vec<Fault>) -> Result<()> {
        self.progress.begin_of("following references", roots.snapshots.len());
        for (digest, _) in &roots.bodies {
            wanted.blobs.insert(&Object::Chunk(*digest));
        }
        for (digest, need) in &roots.snapshots {
            let mut told = |object: Object, error: snapshot::SnapshotError| {
                let remedy = "restore it from a backup, or remove what is affected; distcifs fsck names all";
                faults.push(Fault::new(format!("{object}: {error}"), need.to_string(), remedy));
            };
            let mut visit = |object: Object| wanted.blobs.insert(&object);
            snapshot::reachable(self.contents.clone(), *digest, &mut visit, &mut told).await?;
            self.progress.step();
        }
        if faults.is_empty() {
            self.mark_joined(roots, wanted).await?;
        }
        Ok(())
    }

    /// Marks the folders that mounts make where several tasks of a build publish into one: no
    /// record has them, and whoever reads the build's artifacts has their digests.
    pub(super) async fn mark_joined(&self, roots: &Roots, wanted: &mut Wanted) -> Result<()> {
        self.progress
            .begin_of("following joined folders", roots.artifacts.len());
        for tasks in roots.artifacts.values() {
            self.progress.step();
            let parts: Vec<Digest> = tasks.values().copied().flatten().collect();
            if parts.len() > 1 && wanted.joined.insert(parts.clone()) {
                for digest in snapshot::joined(self.contents.clone(), &parts).await? {
                    wanted.blobs.insert(&Object::Tree(digest));
                }
            }
        }
        Ok(())
    }

    /// Consoles that are there and belong to nothing.
    pub(super) async fn unwanted_consoles(&self, roots: &Roots) -> Result<Vec<Object>> {
        self.progress.begin("looking for consoles of nothing");
        let (mut objects, mut unwanted) = (self.list("console").await?, Vec::new());
        loop {
            let page = objects.page().await?;
            if page.is_empty() {
                return Ok(unwanted);
            }
            self.progress.steps(page.len());
            unwanted.extend(page.into_iter().filter(|object| !is_wanted(roots, &object.to_string())));
        }
    }

    async fn remove_orphan(&self, orphan: &Orphan, gc_lock: Option<&GcLock>) -> Result<()> {
        match orphan {
            Orphan::Entry(path, created) => self.remove_entries(path, *created, gc_lock).await,
            Orphan::Record(name) => {
                let object = Object::Record(name.clone());
                settled(name, || self.contents.remove(&object)).await
            }
            Orphan::Job(name, uid) => self.remove_line(name, uid).await,
            Orphan::Build(uid, key) => {
                let (record, change) = (RecordKey::Job(uid).object(), vec![(key.clone(), None)]);
                let removed = settled(key, || self.contents.update(&record, None, change.clone()));
                removed.await.map(|_| ())
            }
        }
    }

    /// Removes a line from the list of jobs, unless another job has the name by now.
    async fn remove_line(&self, name: &str, uid: &str) -> Result<()> {
        let list = RecordKey::Jobs.object();
        for _ in 0..RACES_MAX {
            let page = bounded("jobs", self.contents.query(&list, name, "", 1)).await?;
            let line = page.entries.first().filter(|(key, _)| key == name);
            let found = line.and_then(|(_, line)| serde_json::from_slice::<JobEntry>(line).ok());
            if found.is_none_or(|found| found.uid != uid) {
                return Ok(());
            }
            let change = vec![(name.to_owned(), None)];
            let removed = settled(name, || {
                self.contents.update(&list, Some(page.revision), change.clone())
            });
            if let Updated::Done { .. } = removed.await? {
                return Ok(());
            }
        }
        Err(Error::Busy(
            "jobs: too many others make and change jobs: try again".into(),
        ))
    }

    /// Removes an entry that was made then, with everything below it.
    async fn remove_entries(&self, path: &str, created: u64, gc_lock: Option<&GcLock>) -> Result<()> {
        let entry = bounded(path, self.coordination.get(path)).await?;
        if entry.is_none_or(|entry| entry.created != created) {
            return Ok(());
        }
        let mut all = vec![path.to_owned()];
        let mut at = 0;
        while at < all.len() {
            let folder = all[at].clone();
            let children = bounded(&folder, self.coordination.children(&folder)).await?;
            all.extend(children.into_iter().map(|child| format!("{folder}/{child}")));
            at += 1;
        }
        // Children before their parents.
        all.reverse();
        for some in all.chunks(COMMIT_OPS_MAX - 1) {
            let ops = some.iter().map(|path| delete(path, None));
            let ops: Vec<Op> = gc_lock.and_then(GcLock::check).into_iter().chain(ops).collect();
            if bounded(path, self.coordination.commit(ops)).await? != Commit::Done {
                stands(gc_lock)?;
                // Beside mounts it is left for the next time.
                let busy = || Error::Busy(format!("{path}: it changes: is the source in use?"));
                return gc_lock.map(|_| ()).ok_or_else(busy);
            }
        }
        Ok(())
    }

    /// Does something to objects, some side by side; what came of each, in no order.
    async fn side_by_side<T, F>(&self, objects: Vec<Object>, act: impl Fn(Object) -> F) -> Result<Vec<T>>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let (mut objects, mut running, mut all) = (objects.into_iter(), JoinSet::new(), Vec::new());
        loop {
            while running.len() < REMOVALS
                && let Some(object) = objects.next()
            {
                running.spawn(act(object));
            }
            match running.join_next().await {
                Some(done) => all.push(done.map_err(|error| Error::Io(format!("removing objects: {error}").into()))??),
                None => return Ok(all),
            }
            self.progress.step();
        }
    }
}

/// Whether it is still ours to sweep.
fn stands(gc_lock: Option<&GcLock>) -> Result<()> {
    gc_lock.map_or(Ok(()), GcLock::stands)
}

/// Removes a console's part; how long it was.
async fn remove(contents: Arc<dyn Contents>, object: Object) -> Result<Option<u64>> {
    let name = object.to_string();
    // It goes though nobody can say how long it is.
    let length = bounded(&name, contents.size(&object)).await.ok().flatten();
    settled(&name, || contents.remove(&object)).await?;
    Ok(length)
}

/// Removes a blob if its mark is older than an epoch; how long it was then.
async fn sweep(contents: Arc<dyn Contents>, object: Object, epoch: u64) -> Result<Option<u64>> {
    settled(&object.to_string(), || contents.sweep(&object, epoch)).await
}
