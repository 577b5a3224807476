//! A build is removed on one mount while another one retries it: one of the two happens, whole.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use tokio::sync::Notify;

use super::*;
use crate::backend::memory::Memory;
use crate::repository::control::Word;
use crate::repository::format;
use crate::repository::model::build::live_path;
use crate::repository::model::record::Indexed;
use crate::repository::records::{Going, Heed};
use crate::storage::around::{Around, Asked, Wrapped};
use crate::storage::{self, Fut, Op};

/// Contents of which the next change of a record happens without saying so, once that is asked for.
#[derive(Default)]
struct Silent(AtomicBool);

impl Around for Silent {
    type Noted = bool;

    fn asked(&self, asked: &Asked<'_>) -> bool {
        matches!(asked, Asked::Update(_)) && self.0.swap(false, Ordering::SeqCst)
    }

    fn pass<'a, T: Send + 'a>(&'a self, silent: bool, call: Fut<'a, T>) -> Fut<'a, T> {
        Box::pin(async move {
            let done = call.await;
            if silent {
                let (what, why) = ("update".to_owned(), "a fault of the test".to_owned());
                return Err(storage::Error::Indeterminate { what, why });
            }
            done
        })
    }
}

/// Holds a commit up which makes an entry of this path.
#[derive(Default)]
struct Gate {
    path: std::sync::Mutex<Option<String>>,
    reached: Notify,
    open: Notify,
}

impl Gate {
    fn shut(&self, path: String) {
        *self.path.lock().unwrap() = Some(path);
    }

    fn is_shut(&self, ops: &[Op]) -> bool {
        let path = self.path.lock().unwrap();
        let makes = |op: &Op| matches!(op, Op::Create { path: made, .. } if Some(made) == path.as_ref());
        ops.iter().any(makes)
    }
}

impl Around for Arc<Gate> {
    type Noted = bool;

    fn asked(&self, asked: &Asked<'_>) -> bool {
        matches!(asked, Asked::Commit(ops) if self.is_shut(ops))
    }

    fn pass<'a, T: Send + 'a>(&'a self, shut: bool, call: Fut<'a, T>) -> Fut<'a, T> {
        Box::pin(async move {
            if shut {
                self.reached.notify_one();
                self.open.notified().await;
                self.path.lock().unwrap().take();
            }
            call.await
        })
    }
}

/// A mount that dies after so many calls of a store: all that it asks from then on comes to nothing.
#[derive(Default)]
struct Mortal {
    counted: AtomicBool,
    left: AtomicU32,
}

impl Mortal {
    fn dies_after(&self, calls: u32) {
        self.left.store(calls, Ordering::SeqCst);
        self.counted.store(true, Ordering::SeqCst);
    }

    fn is_dead(&self) -> bool {
        self.counted.load(Ordering::SeqCst) && self.left.load(Ordering::SeqCst) == 0
    }
}

impl Around for Arc<Mortal> {
    type Noted = bool;

    fn asked(&self, _asked: &Asked<'_>) -> bool {
        let dead = self.is_dead();
        if self.counted.load(Ordering::SeqCst) && !dead {
            self.left.fetch_sub(1, Ordering::SeqCst);
        }
        dead
    }

    fn pass<'a, T: Send + 'a>(&'a self, dead: bool, call: Fut<'a, T>) -> Fut<'a, T> {
        if !dead {
            return call;
        }
        let (what, why) = ("any call".to_owned(), "the mount of the test is dead".to_owned());
        Box::pin(async { Err(storage::Error::Unavailable { what, why }) })
    }
}

/// A build that failed, and two mounts: what the first one commits can be held up, and the second one can die.
struct Pair {
    first: Arc<Repository>,
    gate: Arc<Gate>,
    silent: Arc<Wrapped<dyn Contents, Silent>>,
    second: Arc<Repository>,
    mortal: Arc<Mortal>,
    job: Job,
    n: u64,
    _dir: tempfile::TempDir,
}

impl Pair {
    async fn new() -> Pair {
        let (dir, memory) = (tempfile::tempdir().unwrap(), Memory::new());
        let mounts = [memory.mount(), memory.mount()];
        let made = format::make(&mounts[0].coordination(), &mounts[0].contents(), false).await;
        made.unwrap();
        let gate = Arc::<Gate>::default();
        let gated = Wrapped::around(mounts[0].coordination(), gate.clone());
        let silent = Arc::new(Wrapped::around(mounts[0].contents(), Silent::default()));
        let stores = |coordination: Arc<dyn Coordination>, contents: Arc<dyn Contents>| Stores {
            coordination,
            contents,
            shared: true,
        };
        let first = stores(Arc::new(gated), silent.clone());
        let first = first.open("first", dir.path()).await.unwrap();
        let mortal = Arc::<Mortal>::default();
        let second = stores(
            Arc::new(Wrapped::around(mounts[1].coordination(), mortal.clone())),
            Arc::new(Wrapped::around(mounts[1].contents(), mortal.clone())),
        );
        let second = second.open("second", dir.path()).await.unwrap();
        let job = job(&second, "a").await.unwrap();
        let n = second.builds.trigger(&job, b"", poster()).await.unwrap();
        let controller = second.claims.claim(&control_key(&job, n), claimant()).await.unwrap();
        second
            .claims
            .finish(&controller, TaskResult::read(b"failure").unwrap())
            .await
            .unwrap();
        let started = Instant::now();
        while second.builds.is_unfinished(&job, n).await.unwrap() {
            assert!(started.elapsed() < PATIENCE, "it is not recorded");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        first.store.coordination.sync().await.unwrap();
        Pair {
            first,
            gate,
            silent,
            second,
            mortal,
            job,
            n,
            _dir: dir,
        }
    }

    /// Begins to retry on the first mount, does this when all is read that it begins from, and lets it go on.
    async fn retry_around(&self, act: impl AsyncFnOnce()) -> Result<()> {
        self.gate.shut(live_path(self.job.uid(), self.n));
        let (first, job, n) = (self.first.clone(), self.job.clone(), self.n);
        let retry = tokio::spawn(async move { first.control(&job, n, Word::Retry, poster()).await });
        self.gate.reached.notified().await;
        act().await;
        self.gate.open.notify_one();
        retry.await.unwrap()
    }

    /// The revision of the build's record.
    async fn revision(&self) -> u64 {
        self.second.builds.stored_record(&self.job, self.n).await.unwrap().1
    }

    /// The build's line, which is there as the record is.
    async fn line(&self) -> Indexed {
        let record = self.second.builds.stored_record(&self.job, self.n).await.unwrap().0;
        let line = Indexed::of(&record.unwrap());
        assert!(
            Going::new(&self.second.builds, &self.job, self.n)
                .has_line()
                .await
                .unwrap()
        );
        line
    }

    /// Nothing of the build is left, and nothing of it runs.
    async fn assert_gone(&self) {
        assert!(!self.second.builds.is_unfinished(&self.job, self.n).await.unwrap());
        assert!(
            !Going::new(&self.second.builds, &self.job, self.n)
                .has_line()
                .await
                .unwrap()
        );
        let record = self.second.builds.stored_record(&self.job, self.n).await.unwrap().0;
        assert!(record.is_none());
    }
}

/// "A build that is removed while somebody retries it either runs again with all that it had, or is gone": what had
/// succeeded never runs again for it.
#[test]
fn who_removes_a_build_first_leaves_nothing_to_retry() {
    runtime().block_on(async {
        let pair = Pair::new().await;
        let retried = pair
            .retry_around(async || pair.second.builds.remove_build(&pair.job, pair.n).await.unwrap())
            .await;
        assert!(
            matches!(retried, Err(Error::NotFound(_) | Error::Busy(_))),
            "{retried:?}"
        );
        pair.assert_gone().await;
    });
}

/// The same of one that is in the trash, whose time is over.
#[test]
fn who_empties_the_trash_first_leaves_nothing_to_retry() {
    runtime().block_on(async {
        let pair = Pair::new().await;
        let retried = pair
            .retry_around(async || {
                pair.second.builds.trash_build(&pair.job, pair.n, 7).await.unwrap();
                assert!(
                    pair.second
                        .builds
                        .discard_build(&pair.job, pair.n, u64::MAX)
                        .await
                        .unwrap()
                );
            })
            .await;
        assert!(
            matches!(retried, Err(Error::NotFound(_) | Error::Busy(_))),
            "{retried:?}"
        );
        pair.assert_gone().await;
    });
}

/// Of a retry elsewhere the mount that removes need not have heard.
#[test]
fn who_retries_a_build_first_keeps_it() {
    runtime().block_on(async {
        let pair = Pair::new().await;
        let line = pair.second.builds.index_line(&pair.job, pair.n).await.unwrap().unwrap();
        // As a removal does that began before.
        pair.second.builds.change_index(&pair.job, pair.n, None).await.unwrap();
        let retried = pair.first.control(&pair.job, pair.n, Word::Retry, poster()).await;
        assert!(matches!(retried, Err(Error::NotFound(_))), "{retried:?}");
        pair.second
            .builds
            .change_index(&pair.job, pair.n, Some(line))
            .await
            .unwrap();
        pair.first
            .control(&pair.job, pair.n, Word::Retry, poster())
            .await
            .unwrap();
        let removed = pair.second.builds.remove_build(&pair.job, pair.n).await;
        assert!(matches!(removed, Err(Error::Busy(_))), "{removed:?}");
        let going = Going::new(&pair.second.builds, &pair.job, pair.n);
        let removed = going
            .drop_unless_retried(line, pair.revision().await, Heed::Nothing)
            .await;
        assert!(matches!(removed, Err(Error::Busy(_))), "{removed:?}");
        assert!(
            Going::new(&pair.second.builds, &pair.job, pair.n)
                .has_line()
                .await
                .unwrap()
        );
        assert!(
            pair.second
                .builds
                .stored_record(&pair.job, pair.n)
                .await
                .unwrap()
                .0
                .is_some()
        );
    });
}

/// "`keep` of a build that is removed meanwhile is ENOENT": nothing shows a build of which there is no record.
#[test]
fn a_build_that_is_removed_while_it_is_kept_has_no_line() {
    runtime().block_on(async {
        let pair = Pair::new().await;
        pair.second.builds.remove_build(&pair.job, pair.n).await.unwrap();
        let line = Indexed {
            state: Verdict::Failure,
            keep: true,
            finished: 1,
            untrusted: false,
        };
        // What a mount writes last that was late with the record.
        pair.first
            .builds
            .change_index(&pair.job, pair.n, Some(line))
            .await
            .unwrap();
        let kept = Going::new(&pair.first.builds, &pair.job, pair.n).heed().await;
        assert!(matches!(kept, Err(Error::NotFound(_))), "{kept:?}");
        pair.assert_gone().await;
    });
}

/// storage.md: a removed build stays removed. Whoever recorded it so late that gc has taken what was left of it writes
/// its record as the first one, and knows no more of it than that when he is told nothing.
#[test]
fn a_late_record_that_nobody_answered_brings_no_build_back() {
    runtime().block_on(async {
        let pair = Pair::new().await;
        let (record, _) = pair.second.builds.stored_record(&pair.job, pair.n).await.unwrap();
        let record = record.unwrap();
        pair.second.builds.remove_build(&pair.job, pair.n).await.unwrap();
        let object = crate::repository::model::build::build_record(pair.job.uid(), pair.n);
        pair.second.store.contents.remove(&object).await.unwrap();
        pair.silent.what().0.store(true, Ordering::SeqCst);
        let builds = &pair.first.builds;
        let save = async || builds.save_record(&pair.job, pair.n, 0, record.clone()).await.unwrap();
        assert!(!save().await);
        assert!(
            !pair.silent.what().0.load(Ordering::SeqCst),
            "it was written without an answer"
        );
        // Another try meets its own record.
        assert!(builds.stored_record(&pair.job, pair.n).await.unwrap().0.is_some());
        assert!(!save().await);
        assert!(!Going::new(builds, &pair.job, pair.n).has_line().await.unwrap());
    });
}

/// "What stays in any case: builds into whose `ctl` somebody wrote `keep`", also where pruning had looked before, or its
/// mount has not heard of it.
#[test]
fn a_build_that_is_kept_meanwhile_is_not_pruned() {
    runtime().block_on(async {
        let pair = Pair::new().await;
        let (revision, line) = (pair.revision().await, pair.line().await);
        assert!(!line.keep);
        pair.first
            .control(&pair.job, pair.n, Word::Keep, poster())
            .await
            .unwrap();
        // By a list of what was surplus before.
        pair.second.builds.prune_these(&pair.job, &[pair.n]).await.unwrap();
        assert!(pair.line().await.keep);
        // One that had looked at the record, too.
        let going = Going::new(&pair.second.builds, &pair.job, pair.n);
        let pruned = going.drop_unless_retried(line, revision, Heed::Keep).await;
        assert!(matches!(pruned, Err(Error::Busy(_))), "{pruned:?}");
        assert!(pair.line().await.keep);
        // Whoever asks for it removes it.
        going.drop_unless_retried(line, revision, Heed::Nothing).await.unwrap();
        pair.assert_gone().await;
    });
}

/// The same of one mount, where nothing is heard of late.
#[test]
fn a_build_that_is_kept_while_others_are_pruned_stays() {
    runtime().block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let repository = open(&Memory::new().mount(), dir.path()).await.unwrap();
        let job = job(&repository, "a").await.unwrap();
        let mut ended = Vec::new();
        for _ in 0..2 {
            let n = repository.builds.trigger(&job, b"", poster()).await.unwrap();
            let controller = repository
                .claims
                .claim(&control_key(&job, n), claimant())
                .await
                .unwrap();
            let result = TaskResult::read(b"success").unwrap();
            repository.claims.finish(&controller, result).await.unwrap();
            ended.push(n);
        }
        // Which of them are surplus was found out before.
        repository.control(&job, ended[1], Word::Keep, poster()).await.unwrap();
        repository.builds.prune_these(&job, &ended).await.unwrap();
        let stands = |n| {
            let (repository, job) = (repository.clone(), job.clone());
            async move { repository.builds.stored_record(&job, n).await.unwrap().0.is_some() }
        };
        assert!(!stands(ended[0]).await && stands(ended[1]).await);
        assert_eq!(repository.builds.finished_numbers(&job).await.unwrap(), [ended[1]]);
    });
}

/// "Either runs again with all that it had, or is gone": a line that comes late, of a mount that keeps the build or was
/// late with its record, does not let a retry begin from what is being removed.
#[test]
fn a_line_that_comes_late_opens_nothing_that_a_removal_shut() {
    runtime().block_on(async {
        let pair = Pair::new().await;
        let (revision, line) = (pair.revision().await, pair.line().await);
        let builds = &pair.second.builds;
        let going = Going::new(builds, &pair.job, pair.n);
        // A removal that has come as far as to look whether the build runs.
        builds.change_index(&pair.job, pair.n, None).await.unwrap();
        going.outdate().await.unwrap();
        builds.check_finished(&pair.job, pair.n).await.unwrap();
        builds.change_index(&pair.job, pair.n, Some(line)).await.unwrap();
        let retried = pair
            .retry_around(async || {
                assert!(
                    builds
                        .drop_build_of(&pair.job, pair.n, revision)
                        .await
                        .unwrap()
                        .is_none()
                );
            })
            .await;
        retried.unwrap();
        let removed = going.drop_unless_retried(line, revision, Heed::Nothing).await;
        assert!(matches!(removed, Err(Error::Busy(_))), "{removed:?}");
        pair.line().await;
    });
}

/// More calls than a removal makes.
const CALLS_MAX: u32 = 100;

/// "What stays in any case: builds into whose `ctl` somebody wrote `keep`", also where the mount that prunes, and has
/// looked before, dies at any call, or loses its stores.
#[test]
fn a_mount_that_dies_while_it_prunes_takes_no_kept_build_along() {
    runtime().block_on(async {
        for calls in 0..CALLS_MAX {
            let pair = Pair::new().await;
            let (revision, line) = (pair.revision().await, pair.line().await);
            let keep = pair.first.control(&pair.job, pair.n, Word::Keep, poster());
            keep.await.unwrap();
            pair.mortal.dies_after(calls);
            let going = Going::new(&pair.second.builds, &pair.job, pair.n);
            let pruned = going.drop_unless_retried(line, revision, Heed::Keep).await;
            assert!(pruned.is_err(), "after {calls}");
            let going = Going::new(&pair.first.builds, &pair.job, pair.n);
            assert!(going.has_line().await.unwrap(), "after {calls}");
            let record = pair.first.builds.stored_record(&pair.job, pair.n).await.unwrap().0;
            assert!(record.unwrap().keep, "after {calls}");
            if !pair.mortal.is_dead() {
                assert!(matches!(pruned, Err(Error::Busy(_))), "{pruned:?}");
                return;
            }
        }
        panic!("it never came to its end");
    });
}

/// "Or is gone": whoever keeps or retries a build that a mount was removing when it died is told that it is gone, and
/// then nothing shows it; or has it with all that it had.
#[test]
fn what_a_mount_was_removing_when_it_died_is_there_or_gone() {
    runtime().block_on(async {
        for calls in 0..CALLS_MAX {
            for word in [Word::Keep, Word::Retry] {
                let pair = Pair::new().await;
                pair.mortal.dies_after(calls);
                let removed = pair.second.builds.remove_build(&pair.job, pair.n).await;
                let ended = !pair.mortal.is_dead();
                let done = pair.first.control(&pair.job, pair.n, word, poster()).await;
                let builds = &pair.first.builds;
                let line = Going::new(builds, &pair.job, pair.n).has_line().await.unwrap();
                let record = builds.stored_record(&pair.job, pair.n).await.unwrap().0.is_some();
                match done {
                    Ok(()) => assert!(
                        line && record && !ended,
                        "after {calls}: {word:?} {line} {record} {removed:?}"
                    ),
                    Err(Error::NotFound(_)) => assert!(!line && !record, "after {calls}"),
                    other => panic!("after {calls}: {other:?}"),
                }
                if ended {
                    removed.unwrap();
                    if word == Word::Retry {
                        return;
                    }
                }
            }
        }
        panic!("it never came to its end");
    });
}

/// "`latest` … lead to builds that are there", and pruning spares one that is: also where a mount died between a build's
/// record and its line, and nobody comes to that build any more.
#[test]
fn what_a_mount_left_of_a_build_that_is_gone_stands_for_none() {
    runtime().block_on(async {
        for calls in 0..CALLS_MAX {
            let pair = Pair::new().await;
            pair.mortal.dies_after(calls);
            let removed = pair.second.builds.remove_build(&pair.job, pair.n).await;
            let builds = &pair.first.builds;
            let record = builds.stored_record(&pair.job, pair.n).await.unwrap().0.is_some();
            let told = [
                builds.latest(&pair.job).await.unwrap(),
                builds.latest_trusted(&pair.job).await.unwrap(),
                builds.newest(&pair.job, false).await.unwrap(),
            ];
            assert_eq!(told, [record.then_some(pair.n); 3], "after {calls}: {removed:?}");
            let line = Going::new(builds, &pair.job, pair.n).has_line().await.unwrap();
            assert_eq!(line, record, "after {calls}");
            if !pair.mortal.is_dead() {
                return removed.unwrap();
            }
        }
        panic!("it never came to its end");
    });
}
