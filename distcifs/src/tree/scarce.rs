//! Watches the disk of the claimants' folders: who fills it by files that the kernel writes loses his claim.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use super::Tree;
use super::claim::Held;
use super::work::{Filler, Work};
use crate::repository::core::lock;
use crate::repository::model::claim::{Cause, ClaimState};
use crate::repository::model::ticket::TicketKey;
use crate::repository::reserve::Level;
use crate::repository::{Repository, flood};

/// How often the disk is looked at while there is plenty of room, and while there is not: a program fills
/// some 300 MB between two of those.
const PLENTY_EVERY: Duration = Duration::from_millis(500);
const NEAR_EVERY: Duration = Duration::from_millis(100);

/// Steps, and the length of one, in which a claim that ends has ended.
const END_STEPS: u32 = 100;
const END_STEP: Duration = Duration::from_millis(10);

/// The claims of a mount.
type AllHeld = Mutex<HashMap<TicketKey, Arc<Held>>>;

impl Tree {
    /// The kernel gets files of workspaces to write while so many bytes are free on their disk.
    pub fn pass_from(&self, bytes: u64) {
        self.work.pass_from(bytes);
    }
}

/// Ends claims that fill the disk, until the tree is gone.
pub(super) fn watch(work: &Arc<Work>, held: &Arc<AllHeld>, repository: &Arc<Repository>) {
    let (work, held, repository) = (Arc::downgrade(work), Arc::downgrade(held), Arc::downgrade(repository));
    tokio::spawn(guard(work, held, repository));
}

/// Says who has filled the disk.
pub(super) fn tell(ticket: &TicketKey, filler: &Filler) {
    if flood::has_line_of("a claim fills the disk", filler.attempt.owner()) {
        let mib = filler.grown >> 20;
        tracing::warn!(%ticket, mib, "the disk of the workspaces is nearly full: the claim that grew most has ended");
    }
}

/// Ends a claim that fills the disk, and cuts its files once it is lost by that. A result that is under way decides.
pub(super) async fn end(repository: &Arc<Repository>, found: &Arc<Held>, filler: Filler, work: &Arc<Work>) {
    let claim = found.claim.clone();
    let (ending, ended) = (repository.clone(), claim.clone());
    tokio::spawn(async move { ending.claims.end_claim(&ended, Cause::Died).await });
    for _ in 0..END_STEPS {
        if !filler.attempt.is_alive() {
            break;
        }
        tokio::time::sleep(END_STEP).await;
    }
    // What others still have open of it is cut at the next look.
    if claim.state() == ClaimState::Lost {
        tell(&claim.key, &filler);
        let work = work.clone();
        let _ = tokio::task::spawn_blocking(move || filler.cut(&work)).await;
    }
}

async fn guard(work: Weak<Work>, held: Weak<AllHeld>, repository: Weak<Repository>) {
    loop {
        let (Some(work), Some(held), Some(repository)) = (work.upgrade(), held.upgrade(), repository.upgrade()) else {
            return;
        };
        let place = repository.attempts.root().to_owned();
        let looking = work.clone();
        let looked = tokio::task::spawn_blocking(move || looking.look_at_room(&place)).await;
        let (level, filler) = looked.unwrap_or((Level::Plenty, None));
        if let Some(filler) = filler {
            let of_it = |held: &&Arc<Held>| {
                let attempt = held.attempt();
                attempt.is_some_and(|attempt| attempt.id() == filler.attempt.id())
            };
            let found = lock(&held).values().find(of_it).cloned();
            // Its files are cut when it is lost, and only then: a claim that has its result may keep its folder
            // for the next task.
            if let Some(found) = found.filter(|found| found.claim.state() == ClaimState::Live) {
                end(&repository, &found, filler, &work).await;
            }
        }
        drop((work, held, repository));
        let pause = if level == Level::Near { NEAR_EVERY } else { PLENTY_EVERY };
        tokio::time::sleep(pause).await;
    }
}
