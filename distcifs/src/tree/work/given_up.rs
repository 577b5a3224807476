//! Calls apart that were given up: whoever asked was told that they have failed (ETIMEDOUT), or has gone.
//!
//! What is done after that word may take away what somebody wrote because of it. So a call that was given up before it
//! began to change something changes nothing any more. One that stands in the system then can't be stopped: until it
//! has come back, nothing else is changed where it may change something ([`Error::Busy`]).

use std::cell::RefCell;
use std::sync::{Arc, Mutex};

use super::inodes::Inode;
use super::scarce::Passed;
use crate::repository::core::lock;
use crate::repository::{Error, Result};

thread_local! {
    /// The call that this thread makes.
    static CALL: RefCell<Option<Arc<Call>>> = const { RefCell::new(None) };
}

/// A call on a thread apart.
#[derive(Debug, Default)]
pub(super) struct Call {
    state: Mutex<State>,
    /// Passed by what changes something, once it has begun.
    #[cfg(test)]
    gate: Option<Arc<super::tests::waits::Gate>>,
}

/// How far it is.
#[derive(Debug, Default)]
struct State {
    is_given_up: bool,
    /// What it changes at this moment.
    changes: Vec<Arc<Passed>>,
}

/// Who waits for a call: without him it is given up.
#[derive(Debug)]
pub(super) struct Waits(Arc<Call>);

/// Held while a thread changes something.
#[derive(Debug)]
pub(super) struct Changes(Option<Arc<Call>>);

impl Call {
    /// One that passes this gate.
    #[cfg(test)]
    pub(super) fn through(gate: &Arc<super::tests::waits::Gate>) -> Arc<Call> {
        Arc::new(Call {
            gate: Some(gate.clone()),
            ..Call::default()
        })
    }

    /// Somebody waits for it.
    pub(super) fn waits(self: &Arc<Self>) -> Waits {
        Waits(self.clone())
    }

    /// Makes it, on this thread.
    pub(super) fn make<T>(self: &Arc<Self>, act: impl FnOnce() -> T) -> T {
        struct Ends;
        impl Drop for Ends {
            fn drop(&mut self) {
                CALL.set(None);
            }
        }
        CALL.set(Some(self.clone()));
        let _ends = Ends;
        act()
    }

    fn begin(&self, nodes: &[&Inode]) -> Result<()> {
        {
            let mut state = lock(&self.state);
            if state.is_given_up {
                let what = nodes.first().map(|inode| inode.what()).unwrap_or_default();
                let why = format!("{what}: not begun, as whoever asked for it was told that it failed");
                return Err(Error::TimedOut(why.into()));
            }
            state.changes = nodes.iter().map(|inode| inode.passed.clone()).collect();
        }
        #[cfg(test)]
        if let Some(gate) = &self.gate {
            gate.pass();
        }
        Ok(())
    }

    fn end(&self) {
        let mut state = lock(&self.state);
        let changes = std::mem::take(&mut state.changes);
        if state.is_given_up {
            changes.iter().for_each(|passed| passed.lock.is_back());
        }
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        let mut state = lock(&self.0.state);
        state.is_given_up = true;
        state.changes.iter().for_each(|passed| passed.lock.be_late());
    }
}

impl Drop for Changes {
    fn drop(&mut self) {
        if let Some(call) = &self.0 {
            call.end();
        }
    }
}

/// To be called right before the system changes these nodes, within the locks and waits that come before, and held
/// until it has: never twice at once by one thread.
///
/// # Errors
/// `TimedOut` if this thread's call was given up.
pub(super) fn changes(nodes: &[&Inode]) -> Result<Changes> {
    let call = CALL.with_borrow(Clone::clone);
    if let Some(call) = &call {
        call.begin(nodes)?;
    }
    Ok(Changes(call))
}

impl Inode {
    /// Refuses to change what a call that was given up may still change.
    pub(super) fn may_change(&self) -> Result<()> {
        if self.passed.lock.is_late() {
            return Err(Error::Busy(format!(
                "{}: a call on it stands that was given up, and may still be done: end the processes that hold the file, \
                 or try again",
                self.what()
            )));
        }
        Ok(())
    }
}
