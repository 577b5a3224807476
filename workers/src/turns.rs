//! Which build is looked at next: the owners of the jobs take turns, and so do the builds of each.

use std::collections::{HashMap, HashSet, VecDeque};

/// Job and number of a build.
pub(crate) type Key = (String, u64);

/// Builds that wait for their turn, each once.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    /// Owners who have some, by whose turn is next.
    owners: VecDeque<u32>,
    builds: HashMap<u32, VecDeque<Key>>,
    waiting: HashSet<Key>,
}

impl Turns {
    /// A build is to be looked at, behind all others of its owner.
    pub(crate) fn add(&mut self, owner: u32, key: Key) {
        if !self.waiting.insert(key.clone()) {
            return;
        }
        let builds = self.builds.entry(owner).or_default();
        if builds.is_empty() {
            self.owners.push_back(owner);
        }
        builds.push_back(key);
    }

    /// The build whose turn it is.
    pub(crate) fn next(&mut self) -> Option<Key> {
        let owner = self.owners.pop_front()?;
        let builds = self.builds.get_mut(&owner)?;
        let key = builds.pop_front();
        if builds.is_empty() {
            self.builds.remove(&owner);
        } else {
            self.owners.push_back(owner);
        }
        self.waiting.remove(key.as_ref()?);
        key
    }

    /// Whether none waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.owners.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(job: &str, n: u64) -> Key {
        (job.to_owned(), n)
    }

    /// "Owners of jobs take turns, and so do the builds of each owner": whoever has many is no more often at it.
    #[test]
    fn owners_take_turns() {
        let mut turns = Turns::default();
        for n in 1..=3 {
            turns.add(1004, key("a", n));
        }
        turns.add(1004, key("a", 2));
        turns.add(1005, key("z", 1));
        turns.add(0, key("y", 1));
        let mut order = Vec::new();
        while let Some(key) = turns.next() {
            // One of them has more to do.
            if key == ("z".to_owned(), 1) && order.len() < 4 {
                turns.add(1005, key.clone());
            }
            order.push(format!("{}{}", key.0, key.1));
        }
        assert_eq!(order, ["a1", "z1", "y1", "a2", "z1", "a3"]);
        assert!(turns.is_empty() && turns.builds.is_empty() && turns.waiting.is_empty());
    }
}
