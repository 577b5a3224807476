//! By how much claims have grown lately, of files that the kernel writes without asking.
//!
//! Two bases are kept, of how much was free and how much each claim had, some seconds apart. What was lost
//! since the older one, and who has grown since, says whose files fill the disk: of what grew long ago
//! nothing is lost now.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::attempt::Attempt;
use crate::repository::reserve::{Reserve, Room};

/// What an owner's claims must have grown by to be those that fill the disk: bytes, and a share of what is
/// to be left of it. A program that writes a little is no reason to end it.
const GROWN_BYTES: u64 = 1 << 20;
const GROWN_SHARE: u64 = 16;

/// One in so many bytes of what was lost must have gone into such files: else somebody else fills the disk.
const EXPLAINED_SHARE: u64 = 4;

/// How long a base is the newest while there is room.
const BASE_LIFE: Duration = Duration::from_secs(5);

/// How much was free, and when.
#[derive(Debug, Clone, Copy)]
struct Base {
    at: Instant,
    free: u64,
}

/// A claim with such files.
#[derive(Debug)]
struct Claim {
    attempt: Arc<Attempt>,
    /// Bytes that they have more than when the kernel got them.
    grown: i64,
    /// The same at the two bases.
    before: [i64; 2],
}

impl Claim {
    /// Bytes since the older base.
    fn lately(&self) -> u64 {
        u64::try_from(self.grown.saturating_sub(self.before[0])).unwrap_or(0)
    }
}

#[derive(Debug, Default)]
struct State {
    claims: HashMap<u64, Claim>,
    bases: Option<[Base; 2]>,
}

impl State {
    /// Bytes of the disk since the older base.
    fn lost(&self, room: Room) -> u64 {
        let before = self.bases.map_or(0, |[base, _]| base.free);
        before.saturating_sub(room.free)
    }

    /// Both bases are now.
    fn begin(&mut self, now: Base) {
        self.bases = Some([now; 2]);
        for claim in self.claims.values_mut() {
            claim.before = [claim.grown; 2];
        }
    }
}

/// What an owner's claims must have grown by, bytes.
fn least(room: Room) -> u64 {
    GROWN_BYTES.max(room.mark / GROWN_SHARE)
}

/// By how much each living claim has grown.
#[derive(Debug)]
pub(super) struct Growth {
    state: Mutex<State>,
    /// Told whether there are such claims.
    room: Arc<Reserve>,
}

impl Growth {
    /// None has.
    pub(super) fn new(room: Arc<Reserve>) -> Growth {
        Growth {
            state: Mutex::default(),
            room,
        }
    }

    /// The kernel has got a file of the claim to write.
    pub(super) fn begin(&self, attempt: &Arc<Attempt>) {
        let mut state = self.state();
        // Whoever ends it comes for the entry after that.
        if !attempt.is_over() {
            state.claims.entry(attempt.id()).or_insert_with(|| Claim {
                attempt: attempt.clone(),
                grown: 0,
                before: [0; 2],
            });
            self.room.set_passing(true);
        }
    }

    /// Such a file has so many bytes more, or fewer.
    pub(super) fn change(&self, attempt: &Attempt, bytes: i64) {
        if bytes != 0
            && let Some(claim) = self.state().claims.get_mut(&attempt.id())
        {
            claim.grown = claim.grown.saturating_add(bytes);
        }
    }

    /// The claim is over.
    pub(super) fn forget(&self, attempt: &Attempt) {
        let mut state = self.state();
        let gone = state.claims.remove(&attempt.id());
        self.room.set_passing(!state.claims.is_empty());
        drop(state);
        drop(gone);
    }

    /// Whether there are such claims.
    pub(super) fn is_any(&self) -> bool {
        !self.state().claims.is_empty()
    }

    /// There is room, so much: what comes is held against that.
    pub(super) fn keep(&self, room: Room, at: Instant) {
        let (mut state, now) = (self.state(), Base { at, free: room.free });
        match state.bases {
            None => state.begin(now),
            Some([_, newest]) if at.saturating_duration_since(newest.at) >= BASE_LIFE => {
                state.bases = Some([newest, now]);
                for claim in state.claims.values_mut() {
                    claim.before = [claim.before[1], claim.grown];
                }
            }
            Some(_) => {}
        }
    }

    /// Whether so much was lost of it lately that somebody may be the reason.
    pub(super) fn is_losing(&self, room: Room, at: Instant) -> bool {
        let mut state = self.state();
        if state.bases.is_none() {
            state.begin(Base { at, free: room.free });
        }
        state.lost(room) >= least(room)
    }

    /// The claim that fills the disk, of which so little is left, and by how much; none if those that have such
    /// files are not the reason. Owners are ranked first: who has many claims fills it with all of them.
    pub(super) fn filler(&self, room: Room, at: Instant) -> Option<(Arc<Attempt>, u64)> {
        let mut state = self.state();
        let (lost, least) = (state.lost(room), least(room));
        if lost < least {
            return None;
        }
        let mut owners: HashMap<u32, u64> = HashMap::new();
        for claim in state.claims.values() {
            *owners.entry(claim.attempt.owner()).or_default() += claim.lately();
        }
        let grown: u64 = owners.values().sum();
        if grown.saturating_mul(EXPLAINED_SHARE) < lost {
            // Somebody else: what comes next is judged by itself.
            state.begin(Base { at, free: room.free });
            return None;
        }
        let (owner, _) = owners
            .into_iter()
            .max_by_key(|(_, grown)| *grown)
            .filter(|(_, grown)| *grown >= least)?;
        let of_owner = state.claims.values().filter(|claim| claim.attempt.owner() == owner);
        let most = of_owner.max_by_key(|claim| claim.lately())?;
        Some((most.attempt.clone(), most.lately()))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// A disk of which 512 MiB are to be left, and claims by number and owner.
    struct Bench {
        growth: Growth,
        claims: Vec<Arc<Attempt>>,
        at: Instant,
        free: u64,
    }

    impl Bench {
        /// With so much free, and a claim of each of these owners.
        fn new(free: u64, owners: &[u32]) -> Bench {
            let growth = Growth::new(Arc::default());
            let claim = |(id, owner): (usize, &u32)| {
                let attempt = Arc::new(Attempt::new(id as u64));
                attempt.set_owner(*owner);
                growth.begin(&attempt);
                attempt
            };
            let claims = owners.iter().enumerate().map(claim).collect();
            let bench = Bench {
                growth,
                claims,
                at: Instant::now(),
                free: free * MIB,
            };
            bench.growth.keep(bench.room(), bench.at);
            bench
        }

        fn room(&self) -> Room {
            Room {
                free: self.free,
                mark: 512 * MIB,
            }
        }

        /// A claim writes so many MiB.
        fn grow(&mut self, claim: usize, mib: i64) {
            self.growth.change(&self.claims[claim], mib << 20);
            self.free = self.free.saturating_add_signed(-(mib << 20));
        }

        fn pass(&mut self, time: Duration) {
            self.at += time;
            self.growth.keep(self.room(), self.at);
        }

        /// The number of the claim that is to end.
        fn filler(&self) -> Option<u64> {
            self.growth
                .filler(self.room(), self.at)
                .map(|(attempt, _)| attempt.id())
        }
    }

    /// "Below 512 MiB the claim ends that has grown most lately, of the owner whose claims have": not the largest one
    /// of somebody who has one.
    #[test]
    fn owners_are_ranked_before_claims() {
        let mut bench = Bench::new(1000, &[1005, 1004, 1004, 1004]);
        bench.grow(0, 200);
        for claim in 1..4 {
            bench.grow(claim, 100 + claim as i64);
        }
        assert_eq!(bench.filler(), Some(3));
        bench.growth.forget(&bench.claims[3]);
        bench.growth.forget(&bench.claims[2]);
        assert_eq!(bench.filler(), Some(0));
    }

    /// "Nobody ends where such files do not explain what was lost": others write to the disk, too.
    #[test]
    fn nobody_ends_for_what_others_write() {
        let mut bench = Bench::new(1000, &[1005]);
        bench.grow(0, 40);
        bench.free = 500 * MIB;
        assert_eq!(bench.filler(), None);
        // Nor for a little, however full it is: but from then on for what comes.
        bench.grow(0, 31);
        assert_eq!(bench.filler(), None);
        bench.grow(0, 1);
        assert_eq!(bench.filler(), Some(0));
    }

    /// What grew long ago is not what is lost now, and what was given back has not grown.
    #[test]
    fn only_what_grew_lately_counts() {
        let mut bench = Bench::new(2000, &[1005, 1004]);
        bench.grow(0, 900);
        bench.pass(BASE_LIFE);
        bench.pass(BASE_LIFE);
        bench.grow(1, 500);
        bench.grow(1, -490);
        bench.grow(0, 140);
        bench.free = 510 * MIB;
        assert_eq!(bench.filler(), Some(0));
        bench.grow(1, 300);
        assert_eq!(bench.filler(), Some(1));
    }

    /// A claim that is over is none that can be ended, and raises no mark.
    #[test]
    fn what_is_over_counts_no_more() {
        let mut bench = Bench::new(1000, &[1004]);
        assert!(bench.growth.is_any() && bench.growth.room.is_passing());
        bench.claims[0].end();
        bench.growth.forget(&bench.claims[0]);
        bench.growth.begin(&bench.claims[0]);
        assert!(!bench.growth.is_any() && !bench.growth.room.is_passing());
        bench.grow(0, 900);
        assert_eq!(bench.filler(), None);
    }
}
