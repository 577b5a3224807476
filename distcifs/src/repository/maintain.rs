//! Looking after a repository: is everything whole that something refers to (`fsck`), and what does
//! nothing refer to any more (`gc`).
//!
//! Both first gather every reference there is. In memory they keep 32 bytes (48 with the table
//! around them) for each chunk and folder, and some hundred for each build and task: for a million
//! objects and a hundred thousand builds well below 200 MiB.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use super::Result;
use super::consoles::PART_BYTES;
use super::core::bounded;
use super::model::job::jobs_record;
use super::model::keys::{JOBS, Key, NODES, REMOVED_JOB_LINES, TICKETS};
use crate::storage::{Contents, Coordination, Digest, Listing, Object};

mod beside;
mod check;
mod gc_lock;
mod groups;
mod needed;
mod plans;
mod progress;
mod roots;
mod sweep;
mod unrecorded;

#[cfg(test)]
mod tests;

pub use check::Checked;
pub use needed::Needed;
pub use progress::{Far, Progress};
pub use sweep::Swept;

/// Keys of a record asked for at once.
const PAGE: usize = 1000;

/// A repository from outside.
pub struct Upkeep {
    coordination: Arc<dyn Coordination>,
    contents: Arc<dyn Contents>,
    /// How far the work has come.
    pub progress: Arc<Progress>,
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The object or entry, and what is wrong with it.
    pub what: String,
    /// What suffers by it.
    pub affected: String,
    /// What to do.
    pub remedy: String,
}

impl Fault {
    fn new(what: impl Into<String>, affected: impl Into<String>, remedy: impl Into<String>) -> Self {
        Fault {
            what: what.into(),
            affected: affected.into(),
            remedy: remedy.into(),
        }
    }

    /// The object or entry alone: what is wrong with it may show differently the next time.
    fn subject(&self) -> &str {
        self.what.split(": ").next().unwrap_or(&self.what)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; affected: {}; remedy: {}", self.what, self.affected, self.remedy)
    }
}

/// Chunks and folders, by digest.
#[derive(Debug, Default)]
struct Blobs {
    chunks: HashSet<Digest>,
    trees: HashSet<Digest>,
}

impl Blobs {
    /// Whether it was not there. Other objects are none of ours.
    fn insert(&mut self, object: &Object) -> bool {
        match object {
            Object::Chunk(digest) => self.chunks.insert(*digest),
            Object::Tree(digest) => self.trees.insert(*digest),
            Object::Record(_) | Object::Console(_) => false,
        }
    }

    fn contains(&self, object: &Object) -> bool {
        match object {
            Object::Chunk(digest) => self.chunks.contains(digest),
            Object::Tree(digest) => self.trees.contains(digest),
            Object::Record(_) | Object::Console(_) => false,
        }
    }
}

/// All objects of a kind, page by page.
struct Objects {
    kind: String,
    listing: Listing,
}

impl Objects {
    /// The next page; empty at the end.
    async fn page(&mut self) -> Result<Vec<Object>> {
        bounded(&self.kind, Box::pin(self.listing.next())).await
    }
}

impl Upkeep {
    /// On these stores.
    pub fn new(coordination: Arc<dyn Coordination>, contents: Arc<dyn Contents>) -> Self {
        Upkeep {
            coordination,
            contents,
            progress: Arc::default(),
        }
    }

    /// Names of the mounts that are alive.
    pub async fn alive(&self) -> Result<Vec<String>> {
        bounded(NODES, self.coordination.children(NODES)).await
    }

    /// What can be said of a repository without mounting it: keys and values.
    pub async fn figures(&self) -> Result<Vec<(String, String)>> {
        let alive = self.alive().await?;
        let jobs = bounded(JOBS, self.coordination.children(JOBS)).await?;
        let removed = self.record(&jobs_record(), REMOVED_JOB_LINES).await?.len();
        let mut figures = vec![
            ("version".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
            ("nodes".to_owned(), alive.len().to_string()),
            ("jobs".to_owned(), jobs.len().saturating_sub(removed).to_string()),
        ];
        let mut queues = bounded(TICKETS, self.coordination.children(TICKETS)).await?;
        queues.sort();
        for queue in queues {
            let path = Key::Queue(&queue).path();
            let tickets = bounded(&path, self.coordination.children(&path)).await?;
            figures.push((format!("tickets.{queue}"), tickets.len().to_string()));
        }
        Ok(figures)
    }

    /// All objects of a kind.
    async fn list(&self, kind: &str) -> Result<Objects> {
        let listing = bounded(kind, self.contents.list(kind)).await?;
        Ok(Objects {
            kind: kind.to_owned(),
            listing,
        })
    }

    /// Length of a console of one or more parts; `None` if there is no such console.
    async fn console_length(&self, name: &str) -> Result<Option<u64>> {
        let mut all = None;
        for part in 0.. {
            let object = Object::Console(format!("{name}.{part}"));
            let Some(length) = bounded(name, self.contents.size(&object)).await? else {
                break;
            };
            all = Some(all.unwrap_or(0) + length);
            if length < PART_BYTES {
                break;
            }
        }
        Ok(all)
    }
}
