//! Pauses between tries: they grow, and are not the same for everybody.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

/// The pause before a try: twice as long each time, up to a bound.
pub(crate) fn growing((first, most): (Duration, Duration), tries: u32) -> Duration {
    let factor = 1_u32.checked_shl(tries.saturating_sub(1)).unwrap_or(u32::MAX).max(1);
    first.saturating_mul(factor).min(most)
}

/// Some time up to this, so that many who wait don't come back together.
pub(crate) fn spread(most: Duration) -> Duration {
    let random = RandomState::new().build_hasher().finish() >> 11;
    most.mul_f64(random as f64 / (1_u64 << 53) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_grows_up_to_its_bound() {
        let bounds = (Duration::from_secs(2), Duration::from_secs(10));
        let seconds = [1, 2, 3, 4, 40, u32::MAX].map(|tries| growing(bounds, tries).as_secs());
        assert_eq!(seconds, [2, 4, 8, 10, 10, 10]);
    }

    #[test]
    fn pauses_are_spread_over_all_of_their_time() {
        let most = Duration::from_secs(1);
        let all: Vec<Duration> = (0..100).map(|_| spread(most)).collect();
        assert!(all.iter().all(|pause| *pause <= most));
        assert!(all.iter().any(|pause| *pause < most / 4) && all.iter().any(|pause| *pause > most * 3 / 4));
    }
}
