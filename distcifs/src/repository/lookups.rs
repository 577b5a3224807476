//! Questions to the node's user database, which may ask a directory that is away: one at a time for each user.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::core::lock;
use super::deadline::Deadline;

/// How long an answer is believed: users are renamed and made anew seldom.
const BELIEVED: Duration = Duration::from_secs(60);

/// Answers remembered at once; past it those of long ago are forgotten.
const KNOWN_MAX: usize = 1024;

/// Questions under way at once: each holds a thread until it is answered, however long that takes.
const ASKED_MAX: usize = 16;

/// What was asked for lately, by user id.
pub(crate) struct Lookups<T>(Mutex<HashMap<u32, Asked<T>>>);

struct Asked<T> {
    since: Instant,
    told: watch::Receiver<Option<T>>,
}

impl<T> Asked<T> {
    fn is_under_way(&self) -> bool {
        // Whoever asks is gone with the answer.
        self.told.has_changed().is_ok() && self.told.borrow().is_none()
    }

    fn is_believed(&self) -> bool {
        self.since.elapsed() < BELIEVED && self.told.borrow().is_some()
    }
}

impl<T> Default for Lookups<T> {
    fn default() -> Self {
        Lookups(Mutex::default())
    }
}

impl<T: Clone + Send + Sync + 'static> Lookups<T> {
    /// The answer, if there is one within this time of the question; `None` at once where that has been
    /// waited for already. `look` may block. To be called inside the runtime.
    pub(crate) async fn ask(
        &self,
        uid: u32,
        wait: Duration,
        look: impl FnOnce(u32) -> T + Send + 'static,
    ) -> Option<T> {
        let (since, mut told) = self.question(uid, look)?;
        let left = Deadline::after(wait.saturating_sub(since.elapsed()));
        left.wait(told.wait_for(Option::is_some)).await?.ok()?.clone()
    }

    /// The question about a user: one that is under way, or was answered lately, or a new one.
    fn question(
        &self,
        uid: u32,
        look: impl FnOnce(u32) -> T + Send + 'static,
    ) -> Option<(Instant, watch::Receiver<Option<T>>)> {
        let mut known = lock(&self.0);
        if let Some(asked) = known
            .get(&uid)
            .filter(|asked| asked.is_under_way() || asked.is_believed())
        {
            return Some((asked.since, asked.told.clone()));
        }
        if known.len() >= KNOWN_MAX {
            known.retain(|_, asked| asked.is_under_way() || asked.is_believed());
            if known.len() >= KNOWN_MAX {
                known.retain(|_, asked| asked.is_under_way());
            }
        }
        if known.values().filter(|asked| asked.is_under_way()).count() >= ASKED_MAX {
            return None;
        }
        let (tell, told) = watch::channel(None);
        tokio::task::spawn_blocking(move || tell.send_replace(Some(look(uid))));
        let since = Instant::now();
        let asked = Asked {
            since,
            told: told.clone(),
        };
        known.insert(uid, asked);
        Some((since, told))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::channel;

    use super::*;

    /// However many ask while the directory is away, one thread waits for it for each user, and the answer
    /// is everybody's when it comes.
    #[tokio::test]
    async fn one_question_is_under_way_for_each_user() {
        let lookups = Lookups::<u32>::default();
        let asked = Arc::new(AtomicUsize::new(0));
        let (answer, answers) = channel::<()>();
        let answers = Arc::new(Mutex::new(answers));
        let look = || {
            let (asked, answers) = (asked.clone(), answers.clone());
            move |uid: u32| {
                asked.fetch_add(1, Ordering::SeqCst);
                let _ = lock(&answers).recv();
                uid + 1
            }
        };
        let short = Duration::from_millis(20);
        for _ in 0..50 {
            assert_eq!(lookups.ask(7, short, look()).await, None);
        }
        assert_eq!(asked.load(Ordering::SeqCst), 1);
        for uid in 100..200 {
            assert_eq!(lookups.ask(uid, Duration::ZERO, look()).await, None);
        }
        // Nobody who asks is left hanging.
        drop(answer);
        let long = Duration::from_secs(60);
        assert_eq!(lookups.ask(7, long, look()).await, Some(8));
        for uid in 100..100 + asked.load(Ordering::SeqCst) as u32 - 1 {
            assert_eq!(lookups.ask(uid, long, look()).await, Some(uid + 1));
        }
        assert_eq!(lookups.ask(8, long, |_| 3).await, Some(3));
        assert_eq!(lookups.ask(8, long, |_| 4).await, Some(3), "it is believed for a while");
        assert!(asked.load(Ordering::SeqCst) <= ASKED_MAX);
    }

    #[tokio::test]
    async fn what_is_known_is_bounded() {
        let lookups = Lookups::<u32>::default();
        for uid in 0..3000 {
            assert_eq!(lookups.ask(uid, Duration::from_secs(60), |uid| uid).await, Some(uid));
        }
        assert!(lock(&lookups.0).len() <= KNOWN_MAX);
    }
}
