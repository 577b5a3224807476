//! What a repository needs of its store: for backups.

use super::roots::{Heads, is_wanted};
use super::{Blobs, Fault, Upkeep};
use crate::repository::{Result, format, snapshot};
use crate::storage::Object;

/// Everything that the entries and records of a repository refer to.
#[derive(Debug, Default)]
pub struct Needed {
    /// The repository's id; empty in an old one.
    pub repository: String,
    /// Chunks and folders.
    blobs: Blobs,
    /// Consoles that are there and belong to a build or ticket.
    pub consoles: Vec<Object>,
    /// What can't be read of it: then this is not all.
    pub faults: Vec<Fault>,
    /// What is wrong and takes nothing from it.
    pub told: Vec<Fault>,
}

impl Needed {
    /// All objects; consoles last.
    pub fn objects(&self) -> impl Iterator<Item = Object> + '_ {
        let trees = self.blobs.trees.iter().copied().map(Object::Tree);
        let chunks = self.blobs.chunks.iter().copied().map(Object::Chunk);
        trees.chain(chunks).chain(self.consoles.iter().cloned())
    }

    /// How many they are.
    pub fn len(&self) -> usize {
        self.blobs.trees.len() + self.blobs.chunks.len() + self.consoles.len()
    }

    /// Whether nothing is needed.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether a chunk or folder is among them.
    pub fn has(&self, blob: &Object) -> bool {
        self.blobs.contains(blob)
    }
}

impl Upkeep {
    /// Finds out what is needed in stores that nobody changes meanwhile.
    ///
    /// # Errors
    /// Those of the stores.
    pub async fn needed(&self) -> Result<Needed> {
        let repository = format::id(&*self.coordination).await?;
        let mut roots = self.roots(Heads::Read).await?;
        let mut needed = Needed {
            repository,
            faults: std::mem::take(&mut roots.faults),
            told: std::mem::take(&mut roots.unworkable),
            ..Needed::default()
        };
        self.progress.begin_of("following references", roots.snapshots.len());
        for (digest, _) in &roots.bodies {
            needed.blobs.insert(&Object::Chunk(*digest));
        }
        // Joined listings are not among them: mounts make them anew.
        for (digest, need) in &roots.snapshots {
            let faults = &mut needed.faults;
            let mut told = |object: Object, error: snapshot::SnapshotError| {
                let remedy = "restore it from a backup, or remove what is affected; distcifs fsck names all";
                faults.push(Fault::new(format!("{object}: {error}"), need.to_string(), remedy));
            };
            let mut visit = |object: Object| needed.blobs.insert(&object);
            snapshot::reachable(self.contents.clone(), *digest, &mut visit, &mut told).await?;
            self.progress.step();
        }
        self.progress.begin("looking for consoles");
        let mut objects = self.list("console").await?;
        loop {
            let page = objects.page().await?;
            if page.is_empty() {
                return Ok(needed);
            }
            self.progress.steps(page.len());
            let wanted = page.into_iter().filter(|object| is_wanted(&roots, &object.to_string()));
            needed.consoles.extend(wanted);
        }
    }
}
