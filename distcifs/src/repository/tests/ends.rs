//! Claims end whatever the coordinator refuses meanwhile, and what was told of is acted upon though it
//! could not be read at first.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use distcifs_settings::state::TaskState;

use super::*;
use crate::backend::embedded::Embedded;
use crate::repository::control::Word;
use crate::repository::deadline::Deadline;
use crate::repository::model::build::live_path;
use crate::repository::model::claim::Cause;
use crate::repository::model::json::to_json;
use crate::repository::model::ops::set;
use crate::storage::around::{Around, Asked, Wrapped};
use crate::storage::{self, Commit, Fut, Op};

/// Tries that were made once, after which nobody gave the ticket back any more.
const TRIES_ONCE: usize = 600;

/// A coordinator that refuses some changes, as on a full disk, or that can't be read for a while.
type Ailing = Wrapped<Embedded, Arc<Ails>>;

/// What it refuses.
#[derive(Default)]
struct Ails {
    refused: Mutex<Option<String>>,
    refusals: AtomicUsize,
    unread: Mutex<(String, usize)>,
}

impl Ailing {
    fn open(dir: &Path) -> Ailing {
        let store = Embedded::open(&dir.join("store")).unwrap();
        Wrapped::around(Arc::new(store), Arc::default())
    }

    /// Changes of this entry are refused from now on.
    fn refuse(&self, path: Option<String>) {
        *self.what().refused.lock().unwrap() = path;
    }

    /// So many of the next reads of what is below a path fail.
    fn fail_reads(&self, below: &str, reads: usize) {
        *self.what().unread.lock().unwrap() = (below.to_owned(), reads);
    }

    async fn repository(&self, dir: &Path) -> Arc<Repository> {
        let stores = Stores {
            coordination: Arc::new(self.clone()),
            contents: Arc::new(self.inner().clone()),
            shared: false,
        };
        stores.open("here", dir).await.unwrap()
    }
}

impl Around for Arc<Ails> {
    /// What it fails with.
    type Noted = Option<storage::Error>;

    fn asked(&self, asked: &Asked<'_>) -> Option<storage::Error> {
        let (what, why) = (asked.verb().to_owned(), "a fault of the test".to_owned());
        match asked {
            Asked::Get(path) | Asked::Children(path) => {
                let (below, left) = &mut *self.unread.lock().unwrap();
                if *left == 0 || !path.starts_with(below.as_str()) {
                    return None;
                }
                *left -= 1;
                Some(storage::Error::Unavailable { what, why })
            }
            Asked::Commit(ops) => {
                let refused = self.refused.lock().unwrap().clone();
                let changes = |op: &Op| matches!(op, Op::Set { path, .. } if Some(path) == refused.as_ref());
                if !ops.iter().any(changes) {
                    return None;
                }
                self.refusals.fetch_add(1, Ordering::SeqCst);
                Some(storage::Error::Full { what, why })
            }
            _ => None,
        }
    }

    fn pass<'a, T: Send + 'a>(&'a self, error: Option<storage::Error>, call: Fut<'a, T>) -> Fut<'a, T> {
        match error {
            None => call,
            Some(error) => Box::pin(async { Err(error) }),
        }
    }
}

/// A build whose task is claimed.
async fn claimed(repository: &Arc<Repository>) -> (Job, u64, Arc<Claim>) {
    let job = job(repository, "a").await.unwrap();
    let n = repository.builds.trigger(&job, b"", poster()).await.unwrap();
    repository
        .claims
        .claim(&control_key(&job, n), claimant())
        .await
        .unwrap();
    post(repository, &job, n).await.unwrap();
    let claim = repository.claims.claim(&task_key(&job, n), claimant()).await.unwrap();
    (job, n, claim)
}

async fn becomes(repository: &Arc<Repository>, key: &TicketKey, is: impl Fn(TicketState, Option<Verdict>) -> bool) {
    let begun = Instant::now();
    loop {
        let ticket = repository.tickets.get(key).await.unwrap().unwrap().ticket;
        if is(ticket.state, ticket.outcome.as_ref().map(|outcome| outcome.verdict)) {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "{key} stays {:?}", ticket.state);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Ends a claim whose ticket can't be given back at present.
async fn die(store: &Ailing, repository: &Arc<Repository>, claim: &Arc<Claim>) {
    store.refuse(Some(claim.key.path()));
    Deadline::after(Duration::ZERO)
        .bind(repository.claims.end_claim(claim, Cause::Died))
        .await;
}

/// "A claim ends with its claimant" (doc/security.md), also of one who died while the disk was full for long.
#[test]
fn a_claim_ends_however_long_its_end_could_not_be_written() {
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let store = Ailing::open(dir.path());
        let repository = store.repository(dir.path()).await;
        let (_, _, claim) = claimed(&repository).await;
        die(&store, &repository, &claim).await;
        let begun = Instant::now();
        while store.what().refusals.load(Ordering::SeqCst) < TRIES_ONCE * 2 {
            assert!(begun.elapsed() < PATIENCE, "nobody tries any more");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        store.refuse(None);
        becomes(&repository, &claim.key, |state, _| state == TicketState::Open).await;
        let ticket = repository.tickets.get(&claim.key).await.unwrap().unwrap().ticket;
        assert_eq!(ticket.attempt, 2);
        assert!(repository.store.get(&claim.key.claim_path()).await.unwrap().is_none());
        repository.claims.claim(&claim.key, claimant()).await.unwrap();
    });
}

/// An abort between the end of a claim and the moment when its ticket could be given back is heeded, though
/// the build can't be read at first.
#[test]
fn an_abort_is_heeded_of_a_ticket_that_could_not_be_given_back() {
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let store = Ailing::open(dir.path());
        let repository = store.repository(dir.path()).await;
        let (job, n, claim) = claimed(&repository).await;
        die(&store, &repository, &claim).await;
        repository.control(&job, n, Word::Abort, poster()).await.unwrap();
        store.fail_reads(&live_path(job.uid(), n), 2);
        store.refuse(None);
        becomes(&repository, &claim.key, |state, verdict| {
            (state, verdict) == (TicketState::Finished, Some(Verdict::Aborted))
        })
        .await;
    });
}

/// A ticket whose mount is dead, as it is found when all is looked at.
async fn orphaned(repository: &Arc<Repository>) -> TicketKey {
    let job = job(repository, "a").await.unwrap();
    let n = repository.builds.trigger(&job, b"", poster()).await.unwrap();
    let key = control_key(&job, n);
    let posted = repository.tickets.get(&key).await.unwrap().unwrap();
    let mut ticket = posted.ticket;
    ticket.state = TicketState::Claimed;
    ticket.nonce = "of a dead mount".to_owned();
    let commit = repository
        .store
        .commit(vec![set(key.path(), to_json(&ticket), posted.version)]);
    assert_eq!(commit.await.unwrap(), Commit::Done);
    key
}

/// "It never outlives the process, the mount or the node that made it" (doc/tree.md): neither a ticket nor
/// a queue nor the list of queues that can't be read at first is left out for good.
#[test]
fn what_could_not_be_read_is_looked_at_again() {
    for reads in 1..=8 {
        let dir = tempfile::tempdir().unwrap();
        runtime().block_on(async {
            let store = Ailing::open(dir.path());
            let repository = store.repository(dir.path()).await;
            let key = orphaned(&repository).await;
            store.fail_reads("/tickets", reads);
            repository.reconciler.rescan("/tickets").await;
            store.fail_reads("", 0);
            becomes(&repository, &key, |state, _| state == TicketState::Open).await;
        });
    }
}

/// "What is open when a build ends, is aborted with it": build-control may give up while a task runs. Whoever works on
/// that has lost it, and his result stands nowhere.
#[test]
fn what_is_open_when_a_build_ends_is_aborted() {
    let (dir, runtime) = (tempfile::tempdir().unwrap(), runtime());
    let config = r#"{"tasks": [
        {"type": "execute-shell", "name": "runs", "params": {"script": "true"}},
        {"type": "execute-shell", "name": "waits", "needs": [], "params": {"script": "true"}}]}"#;
    runtime.block_on(async {
        let repository = open(&Embedded::open(&dir.path().join("store")).unwrap(), dir.path())
            .await
            .unwrap();
        let job = configured(&repository, "a", config).await.unwrap();
        let n = repository.builds.trigger(&job, b"", poster()).await.unwrap();
        let controller = claim(&repository, &control_key(&job, n)).await.unwrap().unwrap();
        for index in 0..2 {
            post_task(&repository, &job, n, index).await.unwrap();
        }
        let held = claim(&repository, &key_of(&job, n, 0)).await.unwrap().unwrap();
        let error = TaskResult::read(b"error").unwrap();
        repository.claims.finish(&controller, error).await.unwrap();
        let started = Instant::now();
        while repository.builds.is_unfinished(&job, n).await.unwrap() {
            assert!(started.elapsed() < PATIENCE, "it is not recorded");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let build = repository.builds.build(&job, n).await.unwrap();
        for index in 0..2 {
            let task = build.task(index);
            assert_eq!(task.state, TaskState::Aborted, "{index}");
            assert!(task.finished > 0 && task.message.contains("ended"), "{task:?}");
        }
        let late = repository.claims.finish(&held, success()).await;
        assert!(matches!(late, Err(Error::Stale(_))), "{late:?}");
        let build = repository.builds.build(&job, n).await.unwrap();
        assert_eq!(build.task(0).state, TaskState::Aborted);
    });
}

/// "As the last finished task left it": those that are ended with their build left none, whatever they were to begin
/// with.
#[test]
fn a_build_that_ends_with_a_task_open_has_its_workspace() {
    let (dir, runtime) = (tempfile::tempdir().unwrap(), runtime());
    let task = r#"{"type": "execute-shell", "params": {"script": "true"}}"#;
    runtime.block_on(async {
        let repository = open(&Embedded::open(&dir.path().join("store")).unwrap(), dir.path())
            .await
            .unwrap();
        let apart = r#"{"type": "execute-shell", "needs": [], "params": {"script": "true"}}"#;
        let config = format!(r#"{{"tasks": [{task}, {task}, {apart}]}}"#);
        let job = configured(&repository, "a", &config).await.unwrap();
        let n = repository.builds.trigger(&job, b"", poster()).await.unwrap();
        let controller = claim(&repository, &control_key(&job, n)).await.unwrap().unwrap();
        post(&repository, &job, n).await.unwrap();
        let held = claim(&repository, &key_of(&job, n, 0)).await.unwrap().unwrap();
        work(&repository, &held).await.unwrap();
        repository.claims.finish(&held, success()).await.unwrap();
        let left = repository.builds.build(&job, n).await.unwrap().workspace().unwrap();
        let next = format!(
            r#"{{"job": "a", "build": {n}, "task": 1, "params": {{"script": "true"}}, "workspace": "{left}"}}"#
        );
        let next = TicketRequest::read(next.as_bytes()).unwrap();
        let queue = name("execute-shell");
        repository.claims.post(&queue, next, poster()).await.unwrap();
        post_task(&repository, &job, n, 2).await.unwrap();
        let error = TaskResult::read(b"error").unwrap();
        repository.claims.finish(&controller, error).await.unwrap();
        let build = repository.builds.build(&job, n).await.unwrap();
        assert_eq!([1, 2].map(|at| build.task(at).state), [TaskState::Aborted; 2]);
        assert_eq!(build.workspace(), Some(left));
    });
}
