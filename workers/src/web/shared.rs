//! Pages that many look at are made once for all of them. Whoever waits meanwhile gets what was made, unless it was
//! begun before something changed of which he heard.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex as Lock, PoisonError};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use super::sight::Result;

/// How long what was made is kept for others.
pub const KEPT_TIME: Duration = Duration::from_millis(200);

/// What was made, and when that was begun.
struct Made<T> {
    begun: Instant,
    what: Result<T>,
}

type Slot<T> = Arc<Mutex<Option<Made<T>>>>;

/// What is being made, and what just was.
pub struct Shared<T>(Lock<Slots<T>>);

struct Slots<T> {
    slots: HashMap<String, Slot<T>>,
    swept: Instant,
}

impl<T> Default for Shared<T> {
    fn default() -> Self {
        Shared(Lock::new(Slots {
            slots: HashMap::new(),
            swept: Instant::now(),
        }))
    }
}

impl<T: Clone> Shared<T> {
    /// What is made of this name, if it was begun at `since` or later; else it is made, by one for all who wait.
    ///
    /// # Errors
    /// As `make`.
    pub async fn get(&self, name: &str, since: Instant, make: impl Future<Output = Result<T>>) -> Result<T> {
        let slot = self.slot(name);
        let mut kept = slot.lock().await;
        if let Some(made) = kept.as_ref().filter(|made| made.begun >= since) {
            return made.what.clone();
        }
        let begun = Instant::now();
        let what = make.await;
        *kept = Some(Made {
            begun,
            what: what.clone(),
        });
        what
    }

    fn slot(&self, name: &str) -> Slot<T> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.swept.elapsed() >= KEPT_TIME {
            all.swept = Instant::now();
            // One that somebody works at or waits for has a second owner.
            let fresh = |slot: &Slot<T>| {
                let kept = slot.try_lock();
                kept.map_or(true, |kept| {
                    kept.as_ref().is_some_and(|made| made.begun.elapsed() < KEPT_TIME)
                })
            };
            all.slots.retain(|_, slot| Arc::strong_count(slot) > 1 || fresh(slot));
        }
        all.slots.entry(name.to_owned()).or_default().clone()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap()
    }

    /// Makes the number of the time that it is made.
    async fn made(times: &AtomicU64) -> Result<u64> {
        tokio::task::yield_now().await;
        Ok(times.fetch_add(1, Ordering::Relaxed) + 1)
    }

    #[test]
    fn a_page_is_made_once_for_all_who_look() {
        runtime().block_on(async {
            let (shared, times) = (Arc::new(Shared::<u64>::default()), Arc::new(AtomicU64::new(0)));
            let since = Instant::now();
            let viewers: Vec<_> = (0..100)
                .map(|_| {
                    let (shared, times) = (shared.clone(), times.clone());
                    tokio::spawn(async move { shared.get("page", since, made(&times)).await })
                })
                .collect();
            for viewer in viewers {
                assert_eq!(viewer.await.unwrap(), Ok(1));
            }
            assert_eq!(shared.get("other", since, made(&times)).await, Ok(2));
        });
    }

    #[test]
    fn what_was_begun_before_a_change_is_made_again() {
        runtime().block_on(async {
            let (shared, times) = (Shared::<u64>::default(), AtomicU64::new(0));
            let before = Instant::now();
            let held = shared.slot("page");
            assert_eq!(shared.get("page", before, made(&times)).await, Ok(1));
            assert_eq!(shared.get("page", before, made(&times)).await, Ok(1));
            assert_eq!(shared.get("page", Instant::now(), made(&times)).await, Ok(2));
            // What nobody looks at is forgotten.
            drop(held);
            tokio::time::sleep(KEPT_TIME).await;
            shared.slot("another");
            assert_eq!(shared.0.lock().unwrap().slots.len(), 1);
        });
    }
}
