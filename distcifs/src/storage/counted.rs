//! A store that notes every call, and on whose behalf it was made: what a request costs is a number
//! that a test compares.

use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use super::Fut;
use super::around::{Around, Asked, Wrapped};

tokio::task_local! {
    /// What is being done on this task.
    static DOING: &'static str;
}

/// What calls are noted for that nobody named.
const BESIDE: &str = "beside";

/// One call of a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// What it was made for, as [`Counted::on_behalf_of`] named it; `beside` for what goes on in
    /// other tasks.
    pub doing: &'static str,
    /// The method of the trait.
    pub verb: &'static str,
    /// The path or object; of a commit those that it changes.
    pub what: String,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} {}", self.doing, self.verb, self.what)
    }
}

/// A store around another that notes the calls. Copies note them in one place.
pub type Counted<S> = Wrapped<S, Notes>;

/// The calls that were noted.
#[derive(Debug, Clone, Default)]
pub struct Notes(Arc<Mutex<Vec<Call>>>);

impl<S> Wrapped<S, Notes> {
    /// Wraps a store.
    pub fn new(inner: S) -> Self {
        Wrapped::around(Arc::new(inner), Notes::default())
    }

    /// Does something whose calls are noted under this name, but for those of tasks that it spawns.
    pub async fn on_behalf_of<T>(&self, doing: &'static str, future: impl Future<Output = T>) -> T {
        DOING.scope(doing, future).await
    }

    /// The calls since the last `take`, in the order in which they were made.
    pub fn take(&self) -> Vec<Call> {
        std::mem::take(&mut self.what().0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The calls so far.
    pub fn calls(&self) -> Vec<Call> {
        self.what().0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Around for Notes {
    type Noted = ();

    fn asked(&self, asked: &Asked<'_>) {
        let doing = DOING.try_with(|doing| *doing).unwrap_or(BESIDE);
        let (verb, what) = (asked.verb(), asked.to_string());
        let call = Call { doing, verb, what };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(call);
    }

    fn pass<'a, T: Send + 'a>(&'a self, (): (), call: Fut<'a, T>) -> Fut<'a, T> {
        call
    }
}
