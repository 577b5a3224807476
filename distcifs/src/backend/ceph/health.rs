//! Whether the cluster answers at all: while it is known to be away, calls fail at once.
//!
//! Who waited in vain while nobody else had an answer either makes the cluster suspect. From then
//! on one object after the other is asked for, so that one OSD of many that is away is not taken
//! for all of them; when none has answered within a while, the cluster is away until one does.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use tokio::time::{sleep, timeout};

use super::bells::bell_names;
use super::connect::room;
use super::rados::{Outcome, Pool, Read};

/// A call that took so long waited in vain: it was given up.
const IN_VAIN: Duration = Duration::from_secs(9);

/// How long a suspect has to answer before it counts as away.
const DOUBT: Duration = Duration::from_secs(1);

/// Between two looks whether a suspect has answered.
const LOOK: Duration = Duration::from_millis(20);

/// Time between two questions.
const PAUSE: Duration = Duration::from_secs(1);

/// What is known.
#[derive(Debug)]
pub(super) struct Health {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// When somebody had an answer last.
    answered: Instant,
    /// Since when it is suspect.
    suspect: Option<Instant>,
}

impl Health {
    /// Of a cluster that has just answered.
    pub(super) fn new() -> Arc<Health> {
        let state = State {
            answered: Instant::now(),
            suspect: None,
        };
        Arc::new(Health { state: state.into() })
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

    /// A call that began then is over. If it waited in vain, and nobody else has had an answer, the
    /// cluster is asked until it answers.
    pub(super) fn waited(self: &Arc<Self>, begun: Instant, pool: &Pool) {
        if begun.elapsed() < IN_VAIN {
            return;
        }
        {
            let mut state = self.state();
            if state.answered >= begun || state.suspect.is_some() {
                return;
            }
            state.suspect = Some(Instant::now());
        }
        tracing::warn!("Ceph does not answer: see `ceph -s`");
        let (health, pool) = (Arc::clone(self), pool.clone());
        tokio::spawn(async move { health.ask(pool).await });
    }

    /// Asks for one object after the other until one is answered, be it there or not.
    async fn ask(&self, pool: Pool) {
        for object in bell_names().cycle() {
            let Ok(room) = room().await else { return };
            if let Ok(answer) = timeout(PAUSE, pool.read(&object, Read::default(), room)).await {
                self.ended(&answer);
                sleep(PAUSE).await;
            }
            if self.state().suspect.is_none() {
                return;
            }
        }
    }
}
