//! A future that becomes a task when it is woken for the first time.
//!
//! The thread that reads a request has polled its future once; what it waits for is under way. A task of it
//! would be polled at once, in vain, by a thread that had to be woken for that.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Wake, Waker};

use tokio::runtime::Handle;

/// What is left to do.
type Rest = Pin<Box<dyn Future<Output = ()> + Send>>;

enum State {
    /// It is being polled for the first time.
    Polled,
    /// It was woken meanwhile.
    Woken,
    /// It waits to be woken.
    Asleep(Rest),
    /// It is a task.
    Spawned,
}

/// See the module. It lives as long as something may wake it; if nothing ever will, the future goes with it.
pub(super) struct Sleeper {
    runtime: Handle,
    state: Mutex<State>,
}

impl Sleeper {
    /// One that is about to be polled, with the waker for that.
    pub(super) fn new(runtime: &Handle) -> (Arc<Sleeper>, Waker) {
        let sleeper = Arc::new(Sleeper {
            runtime: runtime.clone(),
            state: Mutex::new(State::Polled),
        });
        (sleeper.clone(), Waker::from(sleeper))
    }

    /// Lays down what is left after the first poll.
    pub(super) fn lay_down(&self, rest: Rest) {
        let mut state = self.lock();
        if matches!(*state, State::Polled) {
            *state = State::Asleep(rest);
            return;
        }
        *state = State::Spawned;
        drop(state);
        self.runtime.spawn(rest);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wake for Sleeper {
    fn wake(self: Arc<Self>) {
        let mut state = self.lock();
        let before = std::mem::replace(&mut *state, State::Spawned);
        if matches!(before, State::Polled | State::Woken) {
            *state = State::Woken;
        }
        // A future that is spawned too late is dropped at once, and what it drops may wake somebody.
        drop(state);
        if let State::Asleep(rest) = before {
            self.runtime.spawn(rest);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use super::*;

    /// Lays down a future that tells, wakes it before and after, and counts how often it told.
    fn told(before: usize, after: usize) -> usize {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .build()
            .unwrap();
        let (sleeper, waker) = Sleeper::new(runtime.handle());
        let (tell, heard) = channel();
        (0..before).for_each(|_| waker.wake_by_ref());
        sleeper.lay_down(Box::pin(async move { tell.send(()).unwrap() }));
        (0..after).for_each(|_| waker.wake_by_ref());
        drop((sleeper, waker));
        // Ends when the future is gone, one way or the other.
        let mut count = 0;
        while heard.recv_timeout(Duration::from_secs(10)).is_ok() {
            count += 1;
        }
        count
    }

    #[test]
    fn it_runs_once_however_often_and_whenever_it_is_woken() {
        for (before, after) in [(1, 0), (0, 1), (2, 2), (0, 3)] {
            assert_eq!(told(before, after), 1, "woken {before} times before and {after} after");
        }
    }

    #[test]
    fn what_nobody_can_wake_goes() {
        assert_eq!(told(0, 0), 0);
    }
}
