//! Groups as the coordinator has them: who holds their places, and those that nobody uses any more.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Result;
use super::core::bounded;
use super::jobs::Jobs;
use super::model::group::{Holder, Seen};
use super::model::json::from_json;
use super::model::keys::{GROUPS, Key};
use super::model::steps;
use super::store::Store;

/// How often a mount looks for groups that nobody uses.
const SWEEP_EVERY: Duration = Duration::from_secs(600);

/// How long nobody has had a place in a group that goes: longer than any claim may take to be made.
const UNUSED: Duration = Duration::from_secs(3600);

/// The groups of a repository.
pub(crate) struct Groups {
    store: Arc<Store>,
    jobs: Arc<Jobs>,
}

/// Groups in which nobody had a place: which entry of what version, and since when that is so.
pub(crate) type Unused = HashMap<String, ((u64, u32), Instant)>;

impl Groups {
    /// Those of this store.
    pub(crate) fn new(store: Arc<Store>, jobs: Arc<Jobs>) -> Arc<Self> {
        Arc::new(Groups { store, jobs })
    }

    /// A group as it is now. What is remembered does not count: its places are read after the entry that each claim
    /// changes.
    pub(crate) async fn seen(&self, digest: &str) -> Result<Seen> {
        let path = Key::Group(digest).path();
        let entry = bounded(&path, self.store.coordination.get(&path)).await?;
        let below = bounded(&path, self.store.coordination.children(&path)).await?;
        let version = entry.map(|entry| entry.version);
        Ok(Seen::of(version, below.iter().map(String::as_str)))
    }

    /// Who holds places of a group, by these: so many of them at most. `None`: nobody knows, as the place is damaged.
    pub(crate) async fn holders(&self, digest: &str, most: usize) -> Result<Vec<(u32, Option<Holder>)>> {
        let folder = Key::Group(digest).path();
        let mut places: Vec<u32> = self
            .store
            .children(&folder)
            .await?
            .iter()
            .filter_map(|name| name.parse().ok())
            .collect();
        places.sort_unstable();
        let mut holders = Vec::new();
        for place in places.into_iter().take(most) {
            let path = Key::Place(digest, place).path();
            if let Some(entry) = self.store.get(&path).await? {
                holders.push((place, from_json(&path, &entry.data).ok()));
            }
        }
        Ok(holders)
    }

    /// A holder, for people.
    pub(crate) fn name_of(&self, holder: &Holder) -> String {
        let job = self.jobs.by_uid(&holder.uid);
        // A job of which this mount has not heard yet.
        let job = job.map_or_else(|| format!("job {}", holder.uid), |job| format!("jobs/{}", job.name));
        match holder.task {
            Some(task) => format!("task {task} of {job}/builds/{}", holder.build),
            None => format!("{job}/builds/{}", holder.build),
        }
    }

    /// Removes groups that nobody uses, as long as the store is open.
    pub(crate) async fn keep_swept(self: Arc<Self>) {
        let mut unused = Unused::new();
        let mut tick = tokio::time::interval(SWEEP_EVERY);
        loop {
            tick.tick().await;
            if let Err(error) = self.sweep(&mut unused, UNUSED).await {
                tracing::warn!(%error, "removing groups that nobody uses");
            }
        }
    }

    /// Removes groups in which nobody has had a place for so long, by the clock of this mount; how many.
    pub(crate) async fn sweep(&self, unused: &mut Unused, time: Duration) -> Result<usize> {
        let groups = bounded(GROUPS, self.store.coordination.children(GROUPS)).await?;
        let (mut known, mut gone) = (std::mem::take(unused), 0);
        for digest in groups {
            let path = Key::Group(&digest).path();
            let Some(entry) = bounded(&path, self.store.coordination.get(&path)).await? else {
                continue;
            };
            if !bounded(&path, self.store.coordination.children(&path))
                .await?
                .is_empty()
            {
                continue;
            }
            let mark = (entry.created, entry.version);
            let since = match known.remove(&digest) {
                Some((seen, since)) if seen == mark => since,
                _ => Instant::now(),
            };
            if since.elapsed() < time {
                unused.insert(digest, (mark, since));
                continue;
            }
            // Whoever has a place by now has changed it.
            self.store
                .commit(vec![steps::group::remove(&digest, entry.version)])
                .await?;
            gone += 1;
        }
        Ok(gone)
    }
}
