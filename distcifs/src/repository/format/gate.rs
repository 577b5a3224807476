//! What only mounts know that know the second version: when it may be written.
//!
//! A mount of before would drop it from the entries that it changes, and its workers would not keep the rules that
//! go with it. So the first that writes such a thing says in both stores that no older program may write them, and
//! it is refused while an older mount lives. One that is mounted just then has read the format of before: that is
//! why the mounts are looked at again afterwards, and at each later use from memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use serde::Deserialize;

use super::{ENTRY, Format, KEY, VERSION, lay, record};
use crate::repository::core::bounded;
use crate::repository::model::json::{from_json, to_json};
use crate::repository::model::keys::{HELD, Key, NODES};
use crate::repository::model::ops::set;
use crate::repository::store::{Guarded, Store};
use crate::repository::{Error, Result};
use crate::storage::{Commit, Entry};

/// The entries that stand above all since the second version.
const LAID: [&str; 1] = [HELD];

/// What is to be where the gate is passed for a build of strangers, for people.
pub(crate) const STRANGERS: &str = "builds of strangers";

/// Races lost against other mounts before one gives up.
const RACES_MAX: u32 = 100;

/// Lets what came with the second version be written once all mounts know it.
pub(crate) struct Gate {
    store: Arc<Store>,
    /// Whether both stores say so, as far as is known here: they never go back.
    raised: AtomicBool,
}

/// What a mount tells of itself, as far as it matters here.
#[derive(Deserialize)]
struct Told {
    /// The newest version of the format that it understands; 0: it is of a version that does not tell.
    #[serde(default)]
    knows: u32,
}

impl Gate {
    /// Of this store.
    pub(crate) fn new(store: Arc<Store>) -> Arc<Self> {
        Arc::new(Gate {
            store,
            raised: AtomicBool::new(false),
        })
    }

    /// Whether it was passed on this mount.
    pub(crate) fn is_raised(&self) -> bool {
        self.raised.load(Ordering::Acquire)
    }

    /// Returns once what came with the second version may be committed. `what`: what is to be, for people.
    ///
    /// # Errors
    /// `Busy` while an older mount lives.
    pub(crate) async fn pass(&self, what: &str) -> Result<()> {
        if self.is_raised() {
            return self.check_mounts(what).await;
        }
        self.check_mounts_anew(what).await?;
        self.raise().await?;
        for path in LAID {
            lay(&*self.store.coordination, path, Bytes::new()).await?;
        }
        self.check_mounts_anew(what).await?;
        self.raised.store(true, Ordering::Release);
        Ok(())
    }

    /// Refuses while an older mount lives, as far as is known here.
    async fn check_mounts(&self, what: &str) -> Result<()> {
        if !self.store.shared {
            return Ok(());
        }
        for node in self.store.children(NODES).await? {
            check(what, &node, self.store.get(&Key::Node(&node).path()).await?)?;
        }
        Ok(())
    }

    /// The same as the coordinator knows it.
    async fn check_mounts_anew(&self, what: &str) -> Result<()> {
        if !self.store.shared {
            return Ok(());
        }
        let coordination = &self.store.coordination;
        bounded("sync", coordination.sync()).await?;
        for node in bounded(NODES, coordination.children(NODES)).await? {
            let path = Key::Node(&node).path();
            check(what, &node, bounded(&path, coordination.get(&path)).await?)?;
        }
        Ok(())
    }

    /// Says in both stores that no older program may write them, unless they say so.
    async fn raise(&self) -> Result<()> {
        for _ in 0..RACES_MAX {
            if self.raise_contents().await? && self.raise_entry().await? {
                return Ok(());
            }
        }
        Err(Error::Busy("the format: it changes too fast: try again".into()))
    }

    /// Whether the contents say so by now; else another was first.
    async fn raise_contents(&self) -> Result<bool> {
        let page = bounded("format", self.store.contents.query(&record(), KEY, "", 1)).await?;
        // Made before there was one.
        let Some((_, value)) = page.entries.first() else {
            return Ok(true);
        };
        let mut format: Format = from_json("format", value)?;
        if !format.raise() {
            return Ok(true);
        }
        let change = vec![(KEY.to_owned(), Some(to_json(&format)))];
        let object = record();
        let update = self.store.update_guarded("format", &object, page.revision, change);
        Ok(matches!(update.await?, Guarded::Done { .. }))
    }

    /// The same of the coordinator.
    async fn raise_entry(&self) -> Result<bool> {
        let coordination = &self.store.coordination;
        let Some(entry) = bounded(ENTRY, coordination.get(ENTRY)).await? else {
            return Err(Error::Io(format!("{ENTRY}: missing; run distcifs fsck").into()));
        };
        let mut format: Format = from_json(ENTRY, &entry.data)?;
        if !format.raise() {
            return Ok(true);
        }
        let data = to_json(&format);
        let ours = |entry: Option<&Entry>| entry.is_some_and(|entry| entry.data == data);
        let ops = vec![set(ENTRY, data.clone(), entry.version)];
        Ok(self.store.commit_settled(ops, ENTRY, ours).await? == Commit::Done)
    }
}

impl Format {
    /// Makes it one that only programs write which know all that this one does; whether it was another.
    fn raise(&mut self) -> bool {
        if self.least_writer >= VERSION {
            return false;
        }
        self.version = self.version.max(VERSION);
        self.least_writer = VERSION;
        true
    }
}

/// Refuses while this mount lives, if it is older.
fn check(what: &str, node: &str, entry: Option<Entry>) -> Result<()> {
    let Some(entry) = entry else { return Ok(()) };
    let told: Told = from_json(&format!("nodes/{node}"), &entry.data)?;
    if told.knows >= VERSION {
        return Ok(());
    }
    Err(Error::Busy(format!(
        "{what}: mount {node} is older and does not know it: upgrade distcifs there and mount anew"
    )))
}
