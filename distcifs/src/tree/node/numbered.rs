//! Numbers of things, for as long as the kernel knows them.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

/// Things numbered before those are looked for that the kernel does not know.
pub(super) const SWEEP_MIN: usize = 4096;

/// Things numbered in the order in which they are met.
pub(super) struct Numbered<T> {
    by_number: HashMap<u64, (Arc<T>, u64)>,
    by_value: HashMap<Arc<T>, u64>,
    next: u64,
    max: u64,
    /// How many have been numbered when the kernel's ignorance is looked for next.
    sweep_at: usize,
}

impl<T: Hash + Eq> Default for Numbered<T> {
    fn default() -> Self {
        Self::up_to(u64::MAX)
    }
}

impl<T: Hash + Eq> Numbered<T> {
    /// With numbers of at most `max`.
    pub(super) fn up_to(max: u64) -> Self {
        Numbered {
            by_number: HashMap::new(),
            by_value: HashMap::new(),
            next: 1,
            max,
            sweep_at: SWEEP_MIN,
        }
    }

    /// Its number; 0, which is nothing's, if all are taken.
    pub(super) fn number(&mut self, value: &Arc<T>) -> u64 {
        if let Some(number) = self.by_value.get(value) {
            return *number;
        }
        self.sweep();
        if self.by_number.len() as u64 >= self.max {
            return 0;
        }
        // What was forgotten is free again.
        while self.next > self.max || self.by_number.contains_key(&self.next) {
            self.next = if self.next >= self.max { 1 } else { self.next + 1 };
        }
        let number = self.next;
        self.next += 1;
        self.by_value.insert(value.clone(), number);
        self.by_number.insert(number, (value.clone(), 0));
        number
    }

    /// Has a number stand for what is equal and later.
    pub(super) fn renew(&mut self, value: &Arc<T>) {
        let number = self.number(value);
        if number == 0 {
            return;
        }
        self.by_value.remove(value);
        self.by_value.insert(value.clone(), number);
        if let Some((known, _)) = self.by_number.get_mut(&number) {
            known.clone_from(value);
        }
    }

    /// How many there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.by_number.len()
    }

    /// Forgets what was listed and never looked up, when there is much.
    fn sweep(&mut self) {
        if self.by_number.len() < self.sweep_at {
            return;
        }
        self.by_number.retain(|_, (_, lookups)| *lookups > 0);
        let by_number = &self.by_number;
        self.by_value.retain(|_, number| by_number.contains_key(number));
        self.sweep_at = SWEEP_MIN.max(2 * self.by_number.len());
    }

    /// All that are given.
    pub(super) fn numbers(&self) -> Vec<u64> {
        self.by_number.keys().copied().collect()
    }

    pub(super) fn value(&self, number: u64) -> Option<Arc<T>> {
        self.by_number.get(&number).map(|(value, _)| value.clone())
    }

    /// Counts a lookup, which keeps the number until it is forgotten.
    pub(super) fn count(&mut self, value: &Arc<T>) {
        let number = self.number(value);
        if let Some((_, lookups)) = self.by_number.get_mut(&number) {
            *lookups += 1;
        }
    }

    pub(super) fn forget(&mut self, number: u64, less: u64) {
        let Some((value, lookups)) = self.by_number.get_mut(&number) else {
            return;
        };
        *lookups = lookups.saturating_sub(less);
        if *lookups == 0 {
            let value = value.clone();
            self.by_value.remove(&value);
            self.by_number.remove(&number);
        }
    }
}
