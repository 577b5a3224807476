//! The clock by which a session ends: it goes on while the machine sleeps.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Time since the machine was started, sleep included.
pub(super) fn now() -> Duration {
    // A clock that can't be read must end sessions, not keep them.
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::MAX, Duration::from)
}
