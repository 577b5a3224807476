//! What is done to somebody's job and may stand for as long as somebody likes: on threads of its own, so that it
//! holds up nothing of anybody else.
//!
//! A write to a file stands while another one stands that began before, and that one may come from a memory that never
//! answers. No bound of ours ends such a thread: so each job has one at most, and each owner a few.

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Threads of one owner: most of their time is a commit, which they share.
const THREADS_MAX: usize = 16;

/// What waits of one job: the deliveries of some seconds.
const WAITING_MAX: usize = 64;

/// The tree answers within ten seconds, or fails: what takes longer stands.
const STANDS: Duration = Duration::from_secs(15);

type Work = Box<dyn FnOnce() + Send>;

/// The work for jobs of all owners.
#[derive(Clone, Default)]
pub(crate) struct Lanes(Arc<Mutex<HashMap<u32, Owner>>>);

/// What there is to do for one owner's jobs.
#[derive(Default)]
struct Owner {
    /// By job; nothing of one that has nothing to do.
    jobs: HashMap<String, Lane>,
    /// Jobs that nobody is at, by whose turn is next.
    ready: VecDeque<String>,
    threads: usize,
}

/// One thing after the other.
#[derive(Default)]
struct Lane {
    waiting: VecDeque<Work>,
    /// Since when somebody is at it.
    since: Option<Instant>,
}

impl Lane {
    fn stands(&self) -> bool {
        self.since.is_some_and(|since| since.elapsed() > STANDS)
    }
}

impl Lanes {
    /// Begins something for a job, or when what was begun before has ended. `false`: it is not done, as that
    /// stands, or everything that may be done for this owner at once.
    pub(crate) fn begin(&self, owner: u32, job: &str, work: impl FnOnce() + Send + 'static) -> bool {
        let mut owners = self.lock();
        let of = owners.entry(owner).or_default();
        if of.jobs.values().filter(|lane| lane.stands()).count() >= THREADS_MAX {
            return false;
        }
        let lane = of.jobs.entry(job.to_owned()).or_default();
        if lane.stands() || lane.waiting.len() >= WAITING_MAX {
            return false;
        }
        lane.waiting.push_back(Box::new(work));
        if lane.since.is_none() && lane.waiting.len() == 1 {
            of.ready.push_back(job.to_owned());
        }
        if of.threads < THREADS_MAX && !of.ready.is_empty() {
            let seat = Seat {
                lanes: self.clone(),
                owner,
                counted: true,
            };
            of.threads += 1;
            // If there is no thread to be had, the next one that is begun looks for what waits.
            drop(owners);
            drop(thread::Builder::new().name("lane".into()).spawn(move || seat.serve()));
        }
        true
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u32, Owner>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A thread of an owner.
struct Seat {
    lanes: Lanes,
    owner: u32,
    /// It is counted as one of its owner's.
    counted: bool,
}

impl Seat {
    fn serve(mut self) {
        while self.has_more() {
            let Some((guard, work)) = self.next() else { continue };
            // What panics says so itself, and is no reason to leave the rest.
            drop(catch_unwind(AssertUnwindSafe(work)));
            drop(guard);
        }
    }

    /// Whether there is something to do. A thread that finds nothing is counted no more from the same moment on: what
    /// is begun then has a new one.
    fn has_more(&mut self) -> bool {
        let lanes = self.lanes.clone();
        let mut owners = lanes.lock();
        let more = owners.get(&self.owner).is_some_and(|of| !of.ready.is_empty());
        if !more {
            self.leave(&mut owners);
        }
        more
    }

    fn leave(&mut self, owners: &mut HashMap<u32, Owner>) {
        if !std::mem::take(&mut self.counted) {
            return;
        }
        if let Some(of) = owners.get_mut(&self.owner) {
            of.threads -= 1;
            if of.jobs.is_empty() && of.threads == 0 {
                owners.remove(&self.owner);
            }
        }
    }

    fn next(&self) -> Option<(JobGuard<'_>, Work)> {
        let mut owners = self.lanes.lock();
        let of = owners.get_mut(&self.owner)?;
        let job = of.ready.pop_front()?;
        let lane = of.jobs.get_mut(&job)?;
        lane.since = Some(Instant::now());
        let work = lane.waiting.pop_front()?;
        Some((JobGuard(self, job), work))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let lanes = self.lanes.clone();
        self.leave(&mut lanes.lock());
    }
}

/// Keeps others from a job while somebody is at it.
struct JobGuard<'a>(&'a Seat, String);

impl Drop for JobGuard<'_> {
    fn drop(&mut self) {
        let JobGuard(seat, job) = self;
        let mut owners = seat.lanes.lock();
        let Some(of) = owners.get_mut(&seat.owner) else { return };
        match of.jobs.get_mut(job) {
            Some(lane) if !lane.waiting.is_empty() => {
                lane.since = None;
                of.ready.push_back(std::mem::take(job));
            }
            _ => drop(of.jobs.remove(job)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    /// Something that stands until it is told to go on.
    fn standing(lanes: &Lanes, owner: u32, job: &str) -> Sender<()> {
        let (go, wait) = channel();
        let (tell, begun) = channel();
        assert!(lanes.begin(owner, job, move || {
            tell.send(()).unwrap();
            let _ = wait.recv();
        }));
        begun.recv_timeout(SOON).unwrap();
        go
    }

    fn quick(lanes: &Lanes, owner: u32, job: &str) -> Receiver<()> {
        let (tell, done) = channel();
        assert!(lanes.begin(owner, job, move || tell.send(()).unwrap()));
        done
    }

    /// "What stands of one job holds up no other": not even another one of its owner.
    #[test]
    fn what_stands_holds_up_its_own_job_alone() {
        let lanes = Lanes::default();
        let go = standing(&lanes, 1, "a");
        let behind = quick(&lanes, 1, "a");
        for (owner, job) in [(1, "b"), (2, "a"), (1, "b")] {
            quick(&lanes, owner, job).recv_timeout(SOON).unwrap();
        }
        assert!(behind.try_recv().is_err());
        go.send(()).unwrap();
        behind.recv_timeout(SOON).unwrap();
    }

    /// Whoever holds up all that may be done for him at once waits, and nobody else does.
    #[test]
    fn whoever_holds_all_of_his_up_waits_himself() {
        let lanes = Lanes::default();
        let held: Vec<_> = (0..THREADS_MAX).map(|n| standing(&lanes, 1, &n.to_string())).collect();
        let behind = quick(&lanes, 1, "more");
        quick(&lanes, 2, "a").recv_timeout(SOON).unwrap();
        assert!(behind.try_recv().is_err());
        for lane in lanes.lock().get_mut(&1).unwrap().jobs.values_mut() {
            lane.since = lane.since.and_then(|since| since.checked_sub(STANDS * 2));
        }
        assert!(!lanes.begin(1, "0", || {}), "it stands");
        assert!(!lanes.begin(1, "another", || {}), "all of his stands");
        drop(held);
        behind.recv_timeout(SOON).unwrap();
    }

    #[test]
    fn what_waits_is_bounded_and_nothing_stays_of_what_is_done() {
        let lanes = Lanes::default();
        let go = standing(&lanes, 1, "a");
        let all: Vec<_> = (0..WAITING_MAX).map(|_| quick(&lanes, 1, "a")).collect();
        assert!(!lanes.begin(1, "a", || {}));
        drop(go);
        all.iter().for_each(|one| one.recv_timeout(SOON).unwrap());
        // What panics keeps no place.
        assert!(lanes.begin(1, "a", || panic!("as a test does")));
        quick(&lanes, 1, "a").recv_timeout(SOON).unwrap();
        let begun = Instant::now();
        while !lanes.lock().is_empty() {
            assert!(begun.elapsed() < SOON, "something stays");
            thread::sleep(Duration::from_millis(5));
        }
    }
}
