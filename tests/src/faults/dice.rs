//! Numbers that look random and are the same in every run of a seed.

use std::time::Duration;

/// A source of them (xorshift).
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// One of a seed; `lane` makes several of it that have nothing to do with each other.
    pub fn new(seed: u64, lane: u64) -> Dice {
        let mixed = (seed ^ lane.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mut dice = Dice(mixed | 1);
        (0..4).for_each(|_| _ = dice.below(2));
        dice
    }

    /// Less than the bound.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound
    }

    /// One of several.
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> Option<&'a T> {
        let index = self.below(u64::try_from(of.len()).ok()?.max(1));
        of.get(usize::try_from(index).ok()?)
    }

    /// A time between two, to the millisecond.
    pub fn between(&mut self, least: Duration, most: Duration) -> Duration {
        let spread = u64::try_from((most - least).as_millis()).unwrap_or(0);
        least + Duration::from_millis(self.below(spread + 1))
    }

    /// The same things in another order.
    pub fn shuffled<T: Copy>(&mut self, of: &[T]) -> Vec<T> {
        let mut rest = of.to_vec();
        let mut order = Vec::new();
        while !rest.is_empty() {
            let index = self.below(rest.len() as u64);
            order.push(rest.swap_remove(usize::try_from(index).unwrap_or(0)));
        }
        order
    }
}
