//! Whether the cluster answers at all: while it is known to be away, calls fail at once.
//!
//! Who waited in vain while nobody else has had an answer of late makes the cluster suspect. From then
//! on one object after the other is asked for, so that one OSD of many that is away is not taken
//! for all of them; when none has answered within a while, the cluster is away until one does.

use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

use super::channels::channel_names;
use super::connect::room;
use super::rados::{Outcome, Pool, Read, Standstill};

/// A call that took so long waited in vain: it was given up.
const IN_VAIN: Duration = Duration::from_secs(9);

/// Who had an answer so lately shows that the cluster is there, though somebody else waits in vain. Shorter than
/// a call in vain: what was answered right after its begin says nothing of now.
const LATELY: Duration = Duration::from_secs(5);

/// How long a suspect has to answer before it counts as away.
const DOUBT: Duration = Duration::from_secs(1);

/// Between two looks whether a suspect has answered.
const LOOK: Duration = Duration::from_millis(20);

/// A call that takes so long may wait for a connection that stands still.
const SLOW: Duration = Duration::from_secs(1);

/// Time between two questions.
const PAUSE: Duration = Duration::from_secs(1);

/// What is known.
#[derive(Debug)]
pub(super) struct Health {
    state: Mutex<State>,
    standstill: Standstill,
}

#[derive(Debug)]
struct State {
    /// When somebody had an answer last.
    answered: Instant,
    /// Since when it is suspect.
    suspect: Option<Instant>,
}

impl State {
    /// Whether this makes it suspect: a call is over at `now` that began at `begun`.
    fn suspects(&mut self, begun: Instant, now: Instant) -> bool {
        let in_vain = now.saturating_duration_since(begun) >= IN_VAIN;
        let silent = now.saturating_duration_since(self.answered) >= LATELY;
        let suspects = in_vain && silent && self.suspect.is_none();
        if suspects {
            self.suspect = Some(now);
        }
        suspects
    }
}

impl Health {
    /// Of a cluster that has just answered.
    pub(super) fn new(standstill: Standstill) -> Arc<Health> {
        let state = State {
            answered: Instant::now(),
            suspect: None,
        };
        Arc::new(Health {
            state: state.into(),
            standstill,
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `EHOSTDOWN` while the cluster is known to be away. While it is suspect this waits until it
    /// answers or is away: the kernel asks for a name twice, and would wait in vain for both.
    pub(super) async fn check(&self) -> Outcome<()> {
        loop {
            let doubt = match self.state().suspect {
                None => return Ok(()),
                Some(since) => DOUBT.saturating_sub(since.elapsed()),
            };
            if doubt.is_zero() {
                return Err(Errno::EHOSTDOWN);
            }
            sleep(doubt.min(LOOK)).await;
        }
    }

    /// A call has ended so.
    pub(super) fn ended<T>(&self, outcome: &Outcome<T>) {
        // Those that are not the cluster's.
        if !matches!(outcome, Err(Errno::ETIMEDOUT | Errno::ESHUTDOWN)) {
            let mut state = self.state();
            state.answered = Instant::now();
            if state.suspect.take().is_some() {
                tracing::info!("Ceph answers again");
            }
        }
    }

    /// Waits for a call; while it is slow, connections that stand still are ended.
    pub(super) async fn hurried<T>(&self, call: impl Future<Output = T>) -> T {
        let mut call = pin!(call);
        loop {
            match timeout(SLOW, &mut call).await {
                Ok(done) => return done,
                Err(_) => self.end_standing(),
            }
        }
    }

    /// Has librados make connections anew on which nothing moves.
    fn end_standing(&self) {
        if self.standstill.is_due() {
            let standstill = self.standstill.clone();
            drop(spawn_blocking(move || standstill.end()));
        }
    }

    /// A call that began then is over. If it waited in vain, and nobody else has had an answer of late, the
    /// cluster is asked until it answers.
    pub(super) fn waited(self: &Arc<Self>, begun: Instant, pool: &Pool) {
        if !self.state().suspects(begun, Instant::now()) {
            return;
        }
        tracing::warn!("Ceph does not answer: see `ceph -s`");
        let (health, pool) = (Arc::clone(self), pool.clone());
        tokio::spawn(async move { health.ask(pool).await });
    }

    /// Asks for one object after the other until one is answered, be it there or not.
    async fn ask(&self, pool: Pool) {
        for object in channel_names().cycle() {
            let Ok(room) = room().await else { return };
            match timeout(PAUSE, pool.read(&object, Read::default(), room)).await {
                Ok(answer) => {
                    self.ended(&answer);
                    sleep(PAUSE).await;
                }
                Err(_) => self.end_standing(),
            }
            if self.state().suspect.is_none() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::State;

    /// storage.md: "A call that waited in vain makes the pool suspect, if no other was answered for 5 s." Who was
    /// answered right after its begin, a moment before the pool went away, must not make the next one wait as long.
    #[test]
    fn a_call_in_vain_makes_suspect_unless_another_was_answered_lately() {
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        for (answered, ended, suspects) in [
            (0, 10, true),
            (1, 10, true),
            (5, 10, true),
            (6, 10, false),
            (0, 8, false),
        ] {
            let mut state = State {
                answered: at(answered),
                suspect: None,
            };
            let row = (answered, ended);
            assert_eq!(state.suspects(begun, at(ended)), suspects, "{row:?}");
            assert_eq!(state.suspect.is_some(), suspects, "{row:?}");
            assert!(!state.suspects(begun, at(ended)), "told twice: {row:?}");
        }
    }
}
