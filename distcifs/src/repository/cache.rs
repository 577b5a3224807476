//! What is kept in memory to be spared a read or some work, within a bound: what was used least lately goes
//! first. Nothing in it is the truth. Each cache says beside its field what is, and what makes it forget.

use std::borrow::Borrow;
use std::hash::Hash;

use lru::LruCache;

/// Values by key, together of no more than a bound, in whatever they are weighed in.
pub(crate) struct Cache<K: Hash + Eq, V, const MOST: usize> {
    held: LruCache<K, Weighed<V>>,
    weight: usize,
}

/// A value and what it counts.
struct Weighed<V> {
    value: V,
    weight: usize,
}

impl<K: Hash + Eq, V, const MOST: usize> Default for Cache<K, V, MOST> {
    fn default() -> Self {
        Cache {
            held: LruCache::unbounded(),
            weight: 0,
        }
    }
}

impl<K: Hash + Eq + Clone, V, const MOST: usize> Cache<K, V, MOST> {
    /// A value, which is used with that.
    pub(crate) fn get<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.held.get(key).map(|held| &held.value)
    }

    /// The same, to be changed without a change of what it weighs.
    pub(crate) fn get_mut<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        self.held.get_mut(key).map(|held| &mut held.value)
    }

    /// Keeps a value that weighs one.
    pub(crate) fn keep(&mut self, key: K, value: V) {
        self.keep_weighed(key, value, 1);
    }

    /// Keeps a value in the place of that which the key had. One that is over the bound by itself is not kept.
    pub(crate) fn keep_weighed(&mut self, key: K, value: V, weight: usize) {
        self.forget(&key);
        if weight <= MOST {
            self.weight += weight;
            self.held.put(key, Weighed { value, weight });
            self.make_room();
        }
    }

    /// Changes a value in its place, and what it weighs to what this says.
    pub(crate) fn change<Q: Hash + Eq + ?Sized>(&mut self, key: &Q, change: impl FnOnce(&mut V) -> usize)
    where
        K: Borrow<Q>,
    {
        if let Some(held) = self.held.get_mut(key) {
            let weight = change(&mut held.value);
            self.weight = self.weight - held.weight + weight;
            held.weight = weight;
            self.make_room();
        }
    }

    fn make_room(&mut self) {
        while self.weight > MOST {
            let oldest = self.held.pop_lru();
            self.weight -= oldest.map_or(self.weight, |(_, held)| held.weight);
        }
    }

    /// Forgets a value.
    pub(crate) fn forget<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let held = self.held.pop(key)?;
        self.weight -= held.weight;
        Some(held.value)
    }

    /// Forgets all that this is not true of.
    pub(crate) fn retain(&mut self, mut keeps: impl FnMut(&K, &V) -> bool) {
        let gone = self.held.iter().filter(|(key, held)| !keeps(key, &held.value));
        let gone: Vec<K> = gone.map(|(key, _)| key.clone()).collect();
        for key in gone {
            self.forget(&key);
        }
    }

    /// Forgets all.
    pub(crate) fn clear(&mut self) {
        self.held.clear();
        self.weight = 0;
    }

    /// How many there are.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.held.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_was_used_least_lately_goes_first() {
        let mut cache = Cache::<_, _, 2>::default();
        cache.keep("a", 1);
        cache.keep("b", 2);
        assert_eq!(cache.get("a").copied(), Some(1));
        cache.keep("c", 3);
        assert_eq!((cache.get("a").copied(), cache.len()), (Some(1), 2));
        assert_eq!(cache.get("b").copied(), None);
        cache.keep("a", 4);
        assert_eq!((cache.get("a").copied(), cache.len()), (Some(4), 2));
    }

    #[test]
    fn what_is_heavy_makes_more_room_and_what_is_too_heavy_is_not_kept() {
        let mut cache = Cache::<_, _, 10>::default();
        for key in ["a", "b", "c"] {
            cache.keep_weighed(key, (), 3);
        }
        cache.keep_weighed("d", (), 7);
        assert_eq!(
            (cache.len(), cache.get("c").copied(), cache.get("d").copied()),
            (2, Some(()), Some(()))
        );
        cache.keep_weighed("c", (), 11);
        assert_eq!((cache.len(), cache.get("c").copied()), (1, None));
        cache.keep_weighed("e", (), 3);
        cache.change("e", |()| 4);
        assert_eq!((cache.len(), cache.get("d").copied()), (1, None));
    }

    proptest! {
        /// Whatever is done with it, it stays within its bound and weighs what is in it.
        #[test]
        fn it_weighs_what_is_in_it(calls in prop::collection::vec((0..6_u8, 0..8_u8, 0..6_usize), 0..200)) {
            let mut cache = Cache::<_, _, 8>::default();
            for (call, key, weight) in calls {
                match call {
                    0 | 1 => cache.keep_weighed(key, weight, weight),
                    2 => drop(cache.forget(&key)),
                    3 => cache.change(&key, |value| {
                        *value = weight;
                        weight
                    }),
                    4 => cache.retain(|known, _| *known != key),
                    _ => drop(cache.get(&key).copied()),
                }
                let held: usize = cache.held.iter().map(|(_, held)| held.value).sum();
                prop_assert_eq!(held, cache.weight);
                prop_assert!(held <= 8);
            }
        }
    }
}
