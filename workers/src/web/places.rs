//! Places for what waits for the tree, on threads of which there are a bounded number. What is done of one job may
//! have a part of them only: where it hangs, the pages of others go on.

use std::collections::HashMap;
use std::ffi::OsString;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// Names that are remembered until those are forgotten that nobody has a place for.
const NAMES_MAX: usize = 256;

/// Places at once, in all and for each thing that something is done of.
pub struct Places {
    all: Arc<Semaphore>,
    most: usize,
    of: Mutex<HashMap<String, Weak<Semaphore>>>,
}

/// A place; dropping it gives it back.
pub struct Place {
    _of: OwnedSemaphorePermit,
    _all: OwnedSemaphorePermit,
}

/// What something is done of, by the path that was asked for: a job, a queue, or a page of many. A badge and a feed are
/// of their job.
pub fn of(names: &[OsString]) -> String {
    let names: Vec<_> = names.iter().take(2).map(|name| name.to_string_lossy()).collect();
    if let [top, file] = &names[..] {
        let job = match &**top {
            "badge" => file.strip_suffix(".svg"),
            "feed" => file.strip_suffix(".atom"),
            _ => None,
        };
        if let Some(job) = job {
            return format!("jobs/{job}");
        }
    }
    names.join("/")
}

impl Places {
    /// So many in all, and at most so many of them for one thing.
    pub fn new(all: usize, most: usize) -> Self {
        Places {
            all: Arc::new(Semaphore::new(all)),
            most,
            of: Mutex::default(),
        }
    }

    /// Waits for a place, for a time at most. Who waits because of one thing takes no place of others.
    pub async fn take(&self, of: &str, time: Duration) -> Option<Place> {
        let (one, all) = (self.one(of), self.all.clone());
        let taken = async {
            let of = one.acquire_owned().await.ok()?;
            let all = all.acquire_owned().await.ok()?;
            Some(Place { _of: of, _all: all })
        };
        timeout(time, taken).await.ok()?
    }

    fn one(&self, of: &str) -> Arc<Semaphore> {
        let mut known = self.of.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(one) = known.get(of).and_then(Weak::upgrade) {
            return one;
        }
        if known.len() >= NAMES_MAX {
            known.retain(|_, one| one.strong_count() > 0);
        }
        let one = Arc::new(Semaphore::new(self.most));
        known.insert(of.to_owned(), Arc::downgrade(&one));
        one
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_millis(1);
    const LATE: Duration = Duration::from_secs(30);

    #[test]
    fn one_thing_leaves_places_to_others() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        runtime.block_on(async {
            let places = Places::new(4, 2);
            let mut held = Vec::new();
            for _ in 0..2 {
                held.push(places.take("jobs/hangs", LATE).await.unwrap());
            }
            for _ in 0..50 {
                assert!(places.take("jobs/hangs", SOON).await.is_none());
            }
            let other = places.take("jobs/a", LATE).await.unwrap();
            let last = places.take("jobs/b", LATE).await.unwrap();
            assert!(places.take("jobs/c", SOON).await.is_none());
            drop((other, last, held.pop()));
            assert!(places.take("jobs/hangs", LATE).await.is_some());
        });
    }

    #[test]
    fn names_are_forgotten() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        runtime.block_on(async {
            let places = Places::new(1, 1);
            for number in 0..3 * NAMES_MAX {
                assert!(places.take(&number.to_string(), LATE).await.is_some());
            }
            assert!(places.of.lock().unwrap().len() <= NAMES_MAX);
        });
    }

    #[test]
    fn what_is_done_of_a_job_is_of_that_job() {
        let of = |path: &[&str]| of(&path.iter().map(OsString::from).collect::<Vec<_>>());
        assert_eq!(of(&["jobs", "a", "builds", "1", "artifacts", "x"]), of(&["jobs", "a"]));
        assert_ne!(of(&["jobs", "a"]), of(&["jobs", "b"]));
        assert_eq!(of(&["badge", "a.svg"]), of(&["jobs", "a"]));
        assert_eq!(of(&["feed", "a.svg.atom"]), of(&["jobs", "a.svg"]));
        assert_eq!(of(&["badge", "a.atom"]), "badge/a.atom");
        assert_eq!(of(&[]), "");
    }
}
