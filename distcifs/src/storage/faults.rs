//! A store that fails now and then, as a network does: before the call took effect, or after it
//! did without saying so. The same seed brings the same faults for the same calls.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::around::{Around, Asked, Wrapped};
use super::mix::mix;
use super::{Error, Fut};

/// Longest delay of a call: long enough for another call to overtake it.
const DELAY_MAX: Duration = Duration::from_millis(2);

/// Probabilities are counted in parts of this many.
const WHOLE: u64 = 1000;

/// How often calls fail, each in thousandths of all calls; together at most 1000.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rates {
    /// The call fails with `Unavailable` and does nothing.
    pub before: u16,
    /// The call is done and fails with `Indeterminate`; a call that only reads, with
    /// `Unavailable`, as there is nothing to be in doubt about.
    pub after: u16,
    /// The call is late by up to 2 ms.
    pub delay: u16,
}

/// A store with faults around another.
pub type Faulty<S> = Wrapped<S, Faults>;

/// Which calls fail.
#[derive(Debug)]
pub struct Faults {
    rates: Rates,
    seed: u64,
    calls: AtomicU64,
    faults: AtomicU64,
    on: AtomicBool,
}

/// What befalls a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    Before,
    After,
    Delay(Duration),
}

/// What is known of a call when it is made.
#[derive(Debug)]
pub struct Drawn {
    what: &'static str,
    writes: bool,
    fault: Fault,
}

impl<S> Wrapped<S, Faults> {
    /// Wraps a store; faults are on.
    pub fn new(inner: S, seed: u64, rates: Rates) -> Self {
        let (calls, faults) = (AtomicU64::new(0), AtomicU64::new(0));
        let on = AtomicBool::new(true);
        let faults = Faults {
            rates,
            seed,
            calls,
            faults,
            on,
        };
        Wrapped::around(Arc::new(inner), faults)
    }

    /// Switches the faults on or off.
    pub fn set_on(&self, on: bool) {
        self.what().on.store(on, Ordering::SeqCst);
    }

    /// Number of calls that failed by this wrapper's doing.
    pub fn faults(&self) -> u64 {
        self.what().faults.load(Ordering::SeqCst)
    }
}

impl Faults {
    fn draw(&self) -> Fault {
        let call = self.calls.fetch_add(1, Ordering::SeqCst);
        if !self.on.load(Ordering::SeqCst) {
            return Fault::None;
        }
        let random = mix(self.seed ^ mix(call));
        let (before, after) = (u64::from(self.rates.before), u64::from(self.rates.after));
        match random % WHOLE {
            part if part < before => Fault::Before,
            part if part < before + after => Fault::After,
            part if part < before + after + u64::from(self.rates.delay) => {
                let share = u32::try_from(mix(random) % WHOLE).unwrap_or(0);
                Fault::Delay(DELAY_MAX * share / 1000)
            }
            _ => Fault::None,
        }
    }

    /// The error of a call that may have taken effect, or has not.
    fn fail(&self, what: &str, in_doubt: bool) -> Error {
        self.faults.fetch_add(1, Ordering::SeqCst);
        let (what, why) = (what.to_owned(), "a fault of the test".to_owned());
        if in_doubt {
            Error::Indeterminate { what, why }
        } else {
            Error::Unavailable { what, why }
        }
    }
}

impl Around for Faults {
    type Noted = Drawn;

    /// The fault is drawn when the call is made, not when it is polled, so that the order of calls alone
    /// decides.
    fn asked(&self, asked: &Asked<'_>) -> Drawn {
        Drawn {
            what: asked.verb(),
            writes: asked.writes(),
            fault: self.draw(),
        }
    }

    fn pass<'a, T: Send + 'a>(&'a self, drawn: Drawn, call: Fut<'a, T>) -> Fut<'a, T> {
        Box::pin(async move {
            match drawn.fault {
                Fault::None => call.await,
                Fault::Delay(delay) => {
                    tokio::time::sleep(delay).await;
                    call.await
                }
                Fault::Before => Err(self.fail(drawn.what, false)),
                Fault::After => {
                    call.await?;
                    Err(self.fail(drawn.what, drawn.writes))
                }
            }
        })
    }
}

#[cfg(test)]
pub(crate) mod tests;
