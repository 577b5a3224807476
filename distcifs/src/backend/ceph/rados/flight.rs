//! Calls under way: from the start to the completion on a thread of librados.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::Arc;

use ceph::rados::{rados_aio_create_completion, rados_aio_get_return_value, rados_aio_release, rados_completion_t};
use libc::{c_int, c_void};
use nix::errno::Errno;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::{Inner, Outcome, outcome};

/// Where a call leaves its results. It lies at one place from the start to the completion.
pub(super) trait Cargo: Send + 'static {
    /// What the caller gets.
    type Goods: Send + 'static;

    /// Takes the results out of a call that ended so. Runs on a thread of librados: it must not wait.
    fn unload(self, value: Outcome<usize>) -> Outcome<Self::Goods>;
}

/// Nothing but how the call ended, which is told to this before the caller hears of it, and though
/// the caller has gone.
pub(super) struct Told<F>(pub(super) F);

impl<F: FnOnce(Outcome<()>) + Send + 'static> Cargo for Told<F> {
    type Goods = ();

    fn unload(self, value: Outcome<usize>) -> Outcome<()> {
        let ended = value.map(drop);
        self.0(ended);
        ended
    }
}

/// A call under way.
struct Flight<C: Cargo> {
    cargo: C,
    told: oneshot::Sender<Outcome<C::Goods>>,
    /// Kept so that the connection outlives the call.
    _pool: Arc<Inner>,
    /// What it takes of the room for calls under way.
    _room: Option<OwnedSemaphorePermit>,
}

/// Starts a call. `start` gets the place of the cargo and the completion, and gives what librados
/// returned. The call goes on when the future is dropped, and keeps its room until it completes.
pub(super) async fn fly<C: Cargo>(
    pool: &Arc<Inner>,
    room: Option<OwnedSemaphorePermit>,
    cargo: C,
    start: impl FnOnce(*mut C, rados_completion_t) -> c_int + Send,
) -> Outcome<C::Goods> {
    launch(pool, room, cargo, start).await.unwrap_or(Err(Errno::ECANCELED))
}

/// Starts a call at once. Nobody need wait for it.
pub(super) fn launch<C: Cargo>(
    pool: &Arc<Inner>,
    room: Option<OwnedSemaphorePermit>,
    cargo: C,
    start: impl FnOnce(*mut C, rados_completion_t) -> c_int,
) -> oneshot::Receiver<Outcome<C::Goods>> {
    let (told, arrives) = oneshot::channel();
    let flight = Box::into_raw(Box::new(Flight {
        cargo,
        told,
        _pool: Arc::clone(pool),
        _room: room,
    }));
    let mut completion: rados_completion_t = ptr::null_mut();
    // SAFETY: the completion's place is valid during the call; the flight lives until `landed`.
    let made = unsafe { rados_aio_create_completion(flight.cast(), Some(landed::<C>), None, &raw mut completion) };
    let started = if made < 0 {
        made
    } else {
        // SAFETY: the flight is not freed before the call that `start` makes has completed.
        start(unsafe { &raw mut (*flight).cargo }, completion)
    };
    if started < 0 {
        if made >= 0 {
            // SAFETY: a call that was not started calls nobody back.
            unsafe { rados_aio_release(completion) };
        }
        // SAFETY: the flight came from a box, and nobody else has it: see above.
        let flight = unsafe { Box::from_raw(flight) };
        land(*flight, outcome(started));
    }
    arrives
}

/// Called by librados when the call has completed, once.
extern "C" fn landed<C: Cargo>(completion: rados_completion_t, flight: *mut c_void) {
    // SAFETY: the completion is librados' own, and ours to release after this.
    let value = outcome(unsafe { rados_aio_get_return_value(completion) });
    // SAFETY: as above.
    unsafe { rados_aio_release(completion) };
    // SAFETY: `launch` made it of a box of this type, and librados calls back once.
    let flight = unsafe { Box::from_raw(flight.cast::<Flight<C>>()) };
    if catch_unwind(AssertUnwindSafe(|| land(*flight, value))).is_err() {
        tracing::error!("a completion of Ceph ended in a panic");
    }
}

fn land<C: Cargo>(flight: Flight<C>, value: Outcome<usize>) {
    let Flight { cargo, told, .. } = flight;
    // Nobody listens any more if the caller is gone.
    let _gone = told.send(cargo.unload(value));
}
