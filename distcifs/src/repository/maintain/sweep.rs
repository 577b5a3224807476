//! `gc`: removes what nothing refers to.
//!
//! Nothing that is removed can be reached any more, so being killed half-way costs nothing: what is
//! left goes the next time.

use std::fmt;
use std::sync::Arc;

use tokio::task::JoinSet;

use super::roots::{Orphan, Roots, is_wanted};
use super::{Blobs, Fault, Upkeep};
use crate::repository::core::{bounded, delete, settled};
use crate::repository::snapshot;
use crate::repository::{Error, Result};
use crate::storage::coordination::COMMIT_OPS_MAX;
use crate::storage::{Commit, Contents, Object, Op};

/// Objects removed at once.
const REMOVALS: usize = 32;

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

impl Upkeep {
    /// Removes what nothing refers to; nothing at all if something can't be read that may refer
    /// to it.
    pub async fn sweep(&self) -> Result<Swept> {
        let mut roots = self.roots().await?;
        let mut swept = Swept::default();
        swept.faults.append(&mut roots.faults);
        let wanted = self.mark(&roots, &mut swept).await?;
        if !swept.faults.is_empty() {
            return Ok(swept);
        }
        self.progress.begin("removing what is left of jobs and builds");
        for orphan in &roots.orphans {
            self.remove_orphan(orphan).await?;
            swept.remains += 1;
            self.progress.step();
        }
        self.sweep_consoles(&roots, &mut swept).await?;
        self.sweep_blobs(&wanted, &mut swept).await?;
        Ok(swept)
    }

    /// Marks what is needed.
    async fn mark(&self, roots: &Roots, swept: &mut Swept) -> Result<Blobs> {
        self.progress.begin("following references");
        let mut wanted = Blobs::default();
        for (digest, _) in &roots.bodies {
            wanted.insert(&Object::Chunk(*digest));
        }
        for (digest, need) in &roots.snapshots {
            let mut told = |object: Object, error: snapshot::SnapshotError| {
                let remedy = "restore it from a backup, or remove what is affected; distcifs fsck names all";
                swept
                    .faults
                    .push(Fault::new(format!("{object}: {error}"), need.to_string(), remedy));
            };
            let mut visit = |object: Object| wanted.insert(&object);
            snapshot::reachable(self.contents.clone(), *digest, &mut visit, &mut told).await?;
            self.progress.step();
        }
        Ok(wanted)
    }

    async fn remove_orphan(&self, orphan: &Orphan) -> Result<()> {
        match orphan {
            Orphan::Entry(path) => self.remove_entries(path).await,
            Orphan::Record(name) => {
                let object = Object::Record(name.clone());
                settled(name, || self.contents.remove(&object)).await
            }
            Orphan::Job(name) => self.remove_key(Object::Record("jobs".into()), name).await,
            Orphan::Build(uid, key) => self.remove_key(Object::Record(format!("job.{uid}")), key).await,
        }
    }

    async fn remove_key(&self, object: Object, key: &str) -> Result<()> {
        let change = vec![(key.to_owned(), None)];
        settled(key, || self.contents.update(&object, None, change.clone()))
            .await
            .map(|_| ())
    }

    /// Removes an entry with all below it.
    async fn remove_entries(&self, path: &str) -> Result<()> {
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
        for some in all.chunks(COMMIT_OPS_MAX) {
            let ops: Vec<Op> = some.iter().map(|path| delete(path, None)).collect();
            if bounded(path, self.coordination.commit(ops)).await? != Commit::Done {
                return Err(Error::Busy(format!("{path}: it changes: is the source in use?")));
            }
        }
        Ok(())
    }

    async fn sweep_consoles(&self, roots: &Roots, swept: &mut Swept) -> Result<()> {
        self.progress.begin("removing consoles");
        let mut objects = self.list("console").await?;
        loop {
            let page = objects.page().await?;
            if page.is_empty() {
                return Ok(());
            }
            let of_nothing = |object: &Object| !is_wanted(roots, &object.to_string());
            let unwanted: Vec<Object> = page.into_iter().filter(of_nothing).collect();
            swept.consoles += unwanted.len() as u64;
            swept.bytes += self.discard(unwanted).await?;
        }
    }

    async fn sweep_blobs(&self, wanted: &Blobs, swept: &mut Swept) -> Result<()> {
        self.progress.begin("removing chunks and folders");
        // Folders first: what is left of one that is cut short here could not be read.
        for kind in ["tree", "chunk"] {
            let mut objects = self.list(kind).await?;
            loop {
                let page = objects.page().await?;
                if page.is_empty() {
                    break;
                }
                let (kept, unwanted): (Vec<Object>, Vec<Object>) =
                    page.into_iter().partition(|object| wanted.contains(object));
                swept.kept += kept.len() as u64;
                swept.objects += unwanted.len() as u64;
                swept.bytes += self.discard(unwanted).await?;
            }
        }
        Ok(())
    }

    /// Removes objects, some side by side; how long they were.
    async fn discard(&self, objects: Vec<Object>) -> Result<u64> {
        let (mut objects, mut running, mut bytes) = (objects.into_iter(), JoinSet::new(), 0);
        loop {
            while running.len() < REMOVALS
                && let Some(object) = objects.next()
            {
                running.spawn(discard(self.contents.clone(), object));
            }
            match running.join_next().await {
                Some(done) => bytes += done.map_err(|error| Error::Io(format!("removing objects: {error}")))??,
                None => return Ok(bytes),
            }
            self.progress.step();
        }
    }
}

/// Removes an object; how long it was.
async fn discard(contents: Arc<dyn Contents>, object: Object) -> Result<u64> {
    let name = object.to_string();
    // It goes though nobody can say how long it is.
    let length = bounded(&name, contents.size(&object)).await.ok().flatten().unwrap_or(0);
    settled(&name, || contents.remove(&object)).await?;
    Ok(length)
}
