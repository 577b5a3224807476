//! gc beside mounts that build (doc/decisions/032-gc-beside-builds.md).

use std::collections::HashSet;
use std::time::Duration;

use super::gc_lock::{GcLock, Own, Shared};
use super::roots::{Heads, Roots, is_wanted};
use super::sweep::{Plan, Wanted};
use super::{Fault, Swept, Upkeep};
use crate::repository::core::bounded;
use crate::repository::{Error, Repository, Result};

/// Times that everything is read anew while something seems to be damaged.
const LOOKS_MAX: u32 = 3;

/// Pause before that: what was half written is whole or gone by then.
const LOOK_PAUSE: Duration = Duration::from_secs(2);

impl Upkeep {
    /// Removes what nothing refers to from stores that mounts may use meanwhile; nothing at all if
    /// something can't be read that may refer to it, or if what is under way on a mount does not end
    /// within `patience`. `who` is told to another gc that comes meanwhile.
    ///
    /// # Errors
    /// `Busy` if another gc runs or a mount is waited for in vain.
    pub async fn sweep_beside(&self, who: &str, patience: Duration) -> Result<Swept> {
        let gc_lock = GcLock::Shared(Shared::take(self.coordination.clone(), who).await?);
        let swept = self.sweep_in(&gc_lock, patience).await;
        gc_lock.end().await;
        swept
    }

    /// The same within the process of the one mount of a folder, by what that mount has under way.
    /// One at a time: the caller sees to that.
    ///
    /// # Errors
    /// `Busy` if the mount is waited for in vain.
    pub async fn sweep_own(&self, mount: &Repository, patience: Duration) -> Result<Swept> {
        let session = mount.store.epochs.current().filter(|_| !mount.store.shared);
        let session = session.ok_or_else(|| Error::Io("a mount of a cluster sweeps with the others".into()))?;
        let gc_lock = GcLock::Own(Own::take(session, self.contents.clone()));
        let swept = self.sweep_in(&gc_lock, patience).await;
        gc_lock.end().await;
        swept
    }

    /// All references are read twice. What is under way all the time between the readings is waited
    /// for: so whatever moves a reference while it is read does so once at most, and one reading sees
    /// it. What is put after the first epoch began is marked, and stays.
    async fn sweep_in(&self, gc_lock: &GcLock, patience: Duration) -> Result<Swept> {
        let (mut swept, mut wanted) = (Swept::default(), Wanted::default());
        let first = gc_lock.begin().await?;
        gc_lock.wait(first, patience, &self.progress).await?;
        let before = self.settled_roots(Heads::Read).await?;
        swept.faults.clone_from(&before.faults);
        self.mark(&before, &mut wanted, &mut swept.faults).await?;
        if !swept.faults.is_empty() {
            return Ok(swept);
        }
        let mut consoles = self.unwanted_consoles(&before).await?;
        let second = gc_lock.begin().await?;
        gc_lock.wait(second, patience, &self.progress).await?;
        let after = self.settled_roots(gc_lock.heads()).await?;
        swept.faults.clone_from(&after.faults);
        swept.told.clone_from(&after.unworkable);
        self.mark(&after, &mut wanted, &mut swept.faults).await?;
        if !swept.faults.is_empty() {
            return Ok(swept);
        }
        consoles.retain(|console| !is_wanted(&after, &console.to_string()));
        // Nobody has come who does not tell of an epoch.
        gc_lock.wait(second, Duration::ZERO, &self.progress).await?;
        let orphans = before.orphans.intersection(&after.orphans).cloned().collect();
        let plan = Plan {
            orphans: &orphans,
            consoles,
            wanted: &wanted,
            epoch: first,
            gc_lock: Some(gc_lock),
        };
        self.carry_out(plan, &mut swept).await?;
        Ok(swept)
    }

    /// Everything that is referred to, as all commits until now have it. What seems to be damaged is
    /// looked at again: it may have changed while it was read.
    async fn settled_roots(&self, heads: Heads) -> Result<Roots> {
        let mut suspected = HashSet::new();
        for _ in 1..LOOKS_MAX {
            bounded("sync", self.coordination.sync()).await?;
            let roots = self.roots(heads).await?;
            let subjects: HashSet<String> = roots.faults.iter().map(Fault::subject).map(str::to_owned).collect();
            if subjects.is_empty() || !subjects.is_disjoint(&suspected) {
                return Ok(roots);
            }
            suspected = subjects;
            tokio::time::sleep(LOOK_PAUSE).await;
        }
        bounded("sync", self.coordination.sync()).await?;
        self.roots(heads).await
    }
}
