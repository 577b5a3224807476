//! A build is removed on one mount while another one retries it: one of the two happens, whole.

use tokio::sync::{Notify, watch};

use super::*;
use crate::backend::memory::Memory;
use crate::repository::control::Word;
use crate::repository::format;
use crate::repository::model::build::live_path;
use crate::repository::records::Going;
use crate::storage::{Commit, Entry, Fut, Op, Session, Watch};

/// A coordinator that holds a commit up which makes an entry of this path.
struct Gated {
    inner: Arc<dyn Coordination>,
    path: std::sync::Mutex<Option<String>>,
    reached: Notify,
    open: Notify,
}

impl Gated {
    fn shut(&self, path: String) {
        *self.path.lock().unwrap() = Some(path);
    }

    fn is_shut(&self, ops: &[Op]) -> bool {
        let path = self.path.lock().unwrap();
        let makes = |op: &Op| matches!(op, Op::Create { path: made, .. } if Some(made) == path.as_ref());
        ops.iter().any(makes)
    }
}

impl Coordination for Gated {
    fn get(&self, path: &str) -> Fut<'_, Option<Entry>> {
        self.inner.get(path)
    }
    fn children(&self, path: &str) -> Fut<'_, Vec<String>> {
        self.inner.children(path)
    }
    fn commit(&self, ops: Vec<Op>) -> Fut<'_, Commit> {
        Box::pin(async move {
            if self.is_shut(&ops) {
                self.reached.notify_one();
                self.open.notified().await;
                self.path.lock().unwrap().take();
            }
            self.inner.commit(ops).await
        })
    }
    fn watch(&self, path: &str) -> Fut<'_, Watch> {
        self.inner.watch(path)
    }
    fn sync(&self) -> Fut<'_, ()> {
        self.inner.sync()
    }
    fn session(&self) -> watch::Receiver<Session> {
        self.inner.session()
    }
}

/// A build that failed, and two mounts: what the first one commits can be held up.
struct Pair {
    first: Arc<Repository>,
    gate: Arc<Gated>,
    second: Arc<Repository>,
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
        let gate = Arc::new(Gated {
            inner: mounts[0].coordination(),
            path: std::sync::Mutex::default(),
            reached: Notify::new(),
            open: Notify::new(),
        });
        let stores = |coordination, at: usize| Stores {
            coordination,
            contents: mounts[at].contents(),
            shared: true,
        };
        let first = stores(gate.clone(), 0).open("first", dir.path()).await.unwrap();
        let second = stores(mounts[1].coordination(), 1)
            .open("second", dir.path())
            .await
            .unwrap();
        let job = job(&second, "a").await.unwrap();
        let n = second.builds.trigger(&job, b"", poster()).await.unwrap();
        let controller = second.claims.claim(&control_key(&job, n), claimant()).await.unwrap();
        second
            .claims
            .finish(&controller, Verdicts::read(b"failure").unwrap())
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
            second,
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
        pair.second.builds.change_index(&pair.job, pair.n, None).await.unwrap();
        let removed = Going::new(&pair.second.builds, &pair.job, pair.n)
            .drop_unless_retried(line)
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
        let line = crate::repository::model::record::Indexed {
            state: Verdict::Failure,
            keep: true,
            finished: 1,
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
