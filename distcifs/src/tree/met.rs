//! Who was told that he came to what is over (ESTALE), and whether he comes there again in the same call.
//!
//! Upon ESTALE the kernel walks the path once more, from its beginning, and asks for each name anew. That may lead to
//! what stands there now; what it is told then it tells the program. So the first answer is ESTALE, and the second
//! must not be. Nothing says which walk a request belongs to. But a thread makes one call at a time, and the walk after
//! ESTALE begins with its very next request and goes on where each one led. Where a name leads elsewhere by now, the
//! kernel asks for it twice. Another claim that it meets on that way, which has ended meanwhile, is no first meeting.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::Ino;
use crate::repository::core::lock;

/// How soon the kernel looks again upon ESTALE, and asks for the next name: at once, but the machine may be busy.
const AGAIN: Duration = Duration::from_secs(2);

/// The same for a ticket that is over, to which any claim may have led: another call may meet another one.
const SOON: Duration = Duration::from_millis(100);

/// Most threads that are remembered.
const MET_MAX: usize = 256;

/// Where a walk goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Walk {
    /// Wherever the next name is looked up.
    Begins,
    /// Here.
    At(Ino),
    /// In another call.
    Over,
}

#[derive(Debug)]
struct Meeting {
    /// Where it was met.
    ino: Ino,
    /// Whose folders these were; 0 is a ticket.
    attempt: u64,
    when: Instant,
    /// The walk after that.
    walk: Walk,
    /// The name that was looked up last, and in which folder.
    last: Option<(Ino, OsString)>,
}

/// The threads.
#[derive(Debug, Default)]
pub(super) struct Met {
    threads: Mutex<HashMap<u32, Meeting>>,
    /// How many there are: none, as a rule.
    count: AtomicUsize,
}

impl Met {
    /// A thread has looked a name up in this folder, which led there, or nowhere.
    pub(super) fn walks(&self, tid: u32, folder: Ino, name: &OsStr, to: Option<Ino>) {
        self.change(tid, |meeting| {
            let twice = || {
                meeting
                    .last
                    .as_ref()
                    .is_some_and(|(of, last)| *of == folder && last == name)
            };
            let goes_on = match meeting.walk {
                Walk::Begins => true,
                Walk::At(at) => at == folder || twice(),
                Walk::Over => false,
            };
            if goes_on {
                meeting.when = Instant::now();
                meeting.walk = Walk::At(to.unwrap_or(folder));
                meeting.last = Some((folder, name.to_owned()));
            } else {
                meeting.walk = Walk::Over;
            }
        });
    }

    /// Whether a thread comes to what is over for the second time in a call.
    pub(super) fn again(&self, tid: u32, ino: Ino, attempt: u64) -> bool {
        let mut threads = lock(&self.threads);
        threads.retain(|_, meeting| meeting.when.elapsed() < AGAIN);
        let known = threads.get(&tid);
        let again = known.is_some_and(|meeting| {
            let same = meeting.ino == ino || (attempt != 0 && meeting.attempt == attempt);
            same || meeting.walk == Walk::At(ino) || (attempt == 0 && meeting.when.elapsed() < SOON)
        });
        if known.is_none()
            && threads.len() >= MET_MAX
            && let Some(oldest) = threads
                .iter()
                .min_by_key(|(_, meeting)| meeting.when)
                .map(|(tid, _)| *tid)
        {
            threads.remove(&oldest);
        }
        // Remembered on, too: open(2) of a name that the kernel knows comes three times, and the third is no first.
        let meeting = Meeting {
            ino,
            attempt,
            when: Instant::now(),
            walk: if again { Walk::At(ino) } else { Walk::Begins },
            last: None,
        };
        threads.insert(tid, meeting);
        self.count.store(threads.len(), Ordering::Relaxed);
        again
    }

    fn change(&self, tid: u32, change: impl FnOnce(&mut Meeting)) {
        if self.count.load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut threads = lock(&self.threads);
        threads.retain(|_, meeting| meeting.when.elapsed() < AGAIN);
        if let Some(meeting) = threads.get_mut(&tid) {
            change(meeting);
        }
        self.count.store(threads.len(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: Ino = Ino(1);

    /// A walk by a thread through these folders, each of which leads to the next.
    fn walk(met: &Met, tid: u32, folders: &[u64]) {
        for pair in folders.windows(2) {
            met.walks(tid, Ino(pair[0]), OsStr::new(&pair[1].to_string()), Some(Ino(pair[1])));
        }
    }

    /// "What has vanished since its folder was listed is ENOENT, and there is no other error": the walk after the first
    /// meeting comes to what another claim had, which has ended as well.
    #[tokio::test(start_paused = true)]
    async fn the_second_walk_of_a_call_is_told_whatever_it_meets() {
        let met = Met::default();
        assert!(!met.again(7, Ino(50), 3), "the kernel walks once more");
        walk(&met, 7, &[1, 20, 30, 60]);
        assert!(met.again(7, Ino(60), 4), "another claim's folder");
        assert!(met.again(7, Ino(60), 4), "open(2) of a name that the kernel knows");
        // What it is told next is of another call.
        met.walks(7, Ino(20), OsStr::new("31"), Some(Ino(31)));
        assert!(!met.again(7, Ino(70), 5));
        // The same on a machine that is busy.
        for folders in [[1, 20], [20, 30], [30, 80]] {
            tokio::time::advance(AGAIN - SOON).await;
            walk(&met, 7, &folders);
        }
        assert!(met.again(7, Ino(80), 6));
        // A name that leads elsewhere by now is looked up twice.
        assert!(!met.again(8, Ino(50), 3));
        walk(&met, 8, &[1, 20, 30]);
        met.walks(8, Ino(20), OsStr::new("30"), Some(Ino(30)));
        walk(&met, 8, &[30, 90]);
        tokio::time::advance(SOON).await;
        assert!(met.again(8, Ino(90), 0));
    }

    /// Of each call the first meeting is told to the kernel: something else may stand there by now.
    #[tokio::test(start_paused = true)]
    async fn the_first_meeting_of_a_call_is_none_of_the_call_before() {
        let met = Met::default();
        assert!(!met.again(7, Ino(50), 3));
        assert!(!met.again(8, Ino(50), 3), "another thread");
        walk(&met, 7, &[1, 20, 30, 60]);
        walk(&met, 7, &[30, 61]);
        assert!(!met.again(7, Ino(61), 4), "it did not go on where it was");
        assert!(met.again(7, Ino(62), 4), "by a descriptor of the same claim's folders");
        tokio::time::advance(AGAIN).await;
        assert!(!met.again(7, Ino(62), 4));
        // A ticket that is over may be any claim's, at once and no later.
        assert!(met.again(7, Ino(90), 0));
        tokio::time::advance(SOON).await;
        assert!(!met.again(7, Ino(91), 0));
        walk(&met, 9, &[1, 20]);
        assert!(!met.again(9, ROOT, 3), "who was told nothing walks as he likes");
    }

    #[tokio::test(start_paused = true)]
    async fn threads_are_bounded_and_forgotten() {
        let met = Met::default();
        for tid in 1..=2 * u32::try_from(MET_MAX).unwrap() {
            assert!(!met.again(tid, Ino(50), 3));
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        assert_eq!(met.count.load(Ordering::Relaxed), MET_MAX);
        assert!(
            met.again(2 * u32::try_from(MET_MAX).unwrap(), Ino(50), 3),
            "the newest are known"
        );
        tokio::time::advance(AGAIN).await;
        met.walks(1, ROOT, OsStr::new("x"), None);
        assert_eq!(met.count.load(Ordering::Relaxed), 0);
    }
}
