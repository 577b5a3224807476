//! Turns of those here who change the same build: each would do in vain what another does meanwhile.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use tokio::sync::{Mutex, MutexGuard, OwnedSemaphorePermit, Semaphore};

use super::Result;
use super::core::lock;
use super::deadline::{begin_anew, locked, permitted};

/// Builds that may be changed at once; those that fall on the same number take turns.
const TURNS: usize = 64;

/// The turns of all builds.
pub(crate) struct OneByOne([Mutex<()>; TURNS]);

impl Default for OneByOne {
    fn default() -> Self {
        OneByOne(std::array::from_fn(|_| Mutex::default()))
    }
}

impl OneByOne {
    /// The turn of build `n` of the job with this uid, in the order of those who ask. Not of the number alone: the
    /// first builds of thousands of jobs would wait for each other.
    ///
    /// # Errors
    /// `TimedOut` if others have it for too long: nothing was done.
    pub(crate) async fn turn(&self, what: &str, uid: &str, n: u64) -> Result<MutexGuard<'_, ()>> {
        let mut hasher = DefaultHasher::new();
        (uid, n).hash(&mut hasher);
        let at = usize::try_from(hasher.finish() % TURNS as u64).unwrap_or_default();
        locked(what, &self.0[at]).await
    }
}

/// Builds of one owner that are grown at once.
const OWNER_TURNS: usize = 8;

/// The turns of those who add tasks to builds. What is read and checked for that is much, and of anybody's size: so
/// nobody waits for the builds of others, however many these have.
#[derive(Default)]
pub(crate) struct Adders {
    builds: Keyed<(String, u64)>,
    owners: Keyed<u32>,
}

/// A turn, until it is dropped. The build's is had first, and nobody who has his owner's waits for another.
pub(crate) struct AddersTurn<'a> {
    _of_owner: Turn<'a, u32>,
    _of_build: Turn<'a, (String, u64)>,
}

impl Adders {
    /// The turn to add to build `n` of the job with this uid, whose builds are this owner's. With it the time of what is
    /// being answered begins anew.
    ///
    /// # Errors
    /// `TimedOut` if others have it for too long: nothing was done.
    pub(crate) async fn turn(&self, what: &str, owner: u32, uid: &str, n: u64) -> Result<AddersTurn<'_>> {
        let of_build = self.builds.turn(what, (uid.to_owned(), n), 1).await?;
        let of_owner = self.owners.turn(what, owner, OWNER_TURNS).await?;
        begin_anew();
        Ok(AddersTurn {
            _of_owner: of_owner,
            _of_build: of_build,
        })
    }
}

/// Turns of many things, of which those are kept that somebody has or waits for.
struct Keyed<K>(std::sync::Mutex<HashMap<K, Arc<Semaphore>>>);

impl<K> Default for Keyed<K> {
    fn default() -> Self {
        Keyed(std::sync::Mutex::default())
    }
}

/// A turn that somebody has or waits for.
struct Turn<'a, K: Hash + Eq> {
    of: &'a Keyed<K>,
    key: K,
    turns: Arc<Semaphore>,
    had: Option<OwnedSemaphorePermit>,
}

impl<K: Hash + Eq + Clone> Keyed<K> {
    /// One of so many turns of a thing, in the order of those who ask.
    async fn turn(&self, what: &str, key: K, most: usize) -> Result<Turn<'_, K>> {
        let new = || Arc::new(Semaphore::new(most));
        let turns = lock(&self.0).entry(key.clone()).or_insert_with(new).clone();
        let (of, had) = (self, None);
        let mut turn = Turn { of, key, turns, had };
        turn.had = Some(permitted(what, &turn.turns).await?);
        Ok(turn)
    }
}

impl<K: Hash + Eq> Drop for Turn<'_, K> {
    fn drop(&mut self) {
        drop(self.had.take());
        let mut all = lock(&self.of.0);
        // Nobody else has it: the table, and this one.
        if Arc::strong_count(&self.turns) == 2 {
            all.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::repository::Error;
    use crate::repository::deadline::{Deadline, STORE_TIMEOUT};

    /// However many builds one owner has, and however long they take, those of another have their turns.
    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_the_builds_of_others() {
        let adders = Adders::default();
        let turn = |owner: u32, n: u64| adders.turn("tasks.json", owner, "uid", n);
        let mut held = Vec::new();
        for n in 0..OWNER_TURNS as u64 {
            held.push(turn(1, n).await.unwrap());
        }
        let full = turn(1, 1000).await;
        assert!(matches!(full, Err(Error::TimedOut(_))), "{:?}", full.err());
        let other = turn(2, 1001).await.unwrap();
        let same = turn(2, 1001).await;
        assert!(matches!(same, Err(Error::TimedOut(_))), "{:?}", same.err());
        drop((held, other, full, same));
        assert!(lock(&adders.builds.0).is_empty() && lock(&adders.owners.0).is_empty());
    }

    /// Who has waited for his turn has all of the time for what he does in it.
    #[tokio::test(start_paused = true)]
    async fn with_a_turn_the_time_begins_anew() {
        let adders = Adders::default();
        let first = adders.turn("tasks.json", 1, "uid", 1).await.unwrap();
        let second = Deadline::after(STORE_TIMEOUT).bind(async {
            let _turn = adders.turn("tasks.json", 1, "uid", 1).await.unwrap();
            Deadline::of_call().left()
        });
        let first = async {
            tokio::time::sleep(STORE_TIMEOUT - Duration::from_secs(1)).await;
            drop(first);
        };
        assert_eq!(tokio::join!(second, first).0, STORE_TIMEOUT);
    }
}
