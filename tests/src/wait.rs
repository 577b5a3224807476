//! Waiting for a condition, always with a bound.

use std::time::{Duration, Instant};

/// Between two looks at a condition: short against what is measured, long against a look's cost.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Most builds and tickets are through within a fraction of this; it only bounds a failure.
pub const USUAL: Duration = Duration::from_secs(20);

/// Waits until the condition holds; panics with the words after the bound.
#[track_caller]
pub fn wait_for(what: &str, bound: Duration, mut condition: impl FnMut() -> bool) {
    wait_some(what, bound, || condition().then_some(()));
}

/// Waits until there is a value; panics with the words after the bound.
#[track_caller]
pub fn wait_some<T>(what: &str, bound: Duration, look: impl FnMut() -> Option<T>) -> T {
    let Some(value) = look_for(bound, look) else {
        panic!("waited {bound:?} in vain for: {what}");
    };
    value
}

/// Waits until there is a value; `None` after the bound.
pub fn look_for<T>(bound: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let begun = Instant::now();
    loop {
        let found = look();
        if found.is_some() || begun.elapsed() >= bound {
            return found;
        }
        std::thread::sleep(LOOK_EVERY);
    }
}
