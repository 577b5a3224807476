//! Guards in the order of writes, each against what it keeps out: whoever takes one out sees a test of these fail,
//! in a second and without a cluster.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

use super::holes::Late;
use super::*;
use crate::backend::memory::{Memory, MemoryMount};
use crate::repository::control::Word;
use crate::repository::format;
use crate::repository::model::claim::Cause;
use crate::repository::model::ops::delete;
use crate::storage::around::{Around, Asked, Wrapped};
use crate::storage::{self, Fut, Op};

/// A ticket that stands alone, in a queue that is there from the start.
async fn ticket(repository: &Arc<Repository>) -> TicketKey {
    let request = TicketRequest::read(br#"{"id": "t"}"#).unwrap();
    let queue = name("execute-shell");
    let id = repository.claims.post(&queue, request, poster()).await.unwrap();
    TicketKey { queue, id }
}

/// The stores of one of several mounts.
fn shared(mount: &MemoryMount) -> Stores {
    Stores {
        shared: true,
        ..Stores::alone(mount)
    }
}

/// "The consoles of the claims before are sealed before a ticket is claimed again": of two mounts the first has lost
/// its claim and hears nothing of it. What its claimant writes from then on is refused, and nobody reads it.
#[test]
fn who_lost_a_claim_without_hearing_of_it_writes_no_console() {
    runtime().block_on(async {
        let (dir, memory) = (tempfile::tempdir().unwrap(), Memory::new());
        let mounts = [memory.mount(), memory.mount()];
        let made = format::make(&mounts[0].coordination(), &mounts[0].contents(), false).await;
        made.unwrap();
        let first = Stores {
            coordination: Arc::new(Wrapped::around(mounts[0].coordination(), Late::default())),
            ..shared(&mounts[0])
        };
        let first = first.open("first", dir.path()).await.unwrap();
        let second = shared(&mounts[1]).open("second", dir.path()).await.unwrap();
        let key = ticket(&second).await;
        first.store.coordination.sync().await.unwrap();
        let lost = first.claims.claim(&key, claimant()).await.unwrap();
        first.claims.append_output(&lost, b"mine\n").await.unwrap();
        // As the end of its session would.
        second.store.commit(vec![delete(key.claim_path(), None)]).await.unwrap();
        let held = claim(&second, &key).await.unwrap().unwrap();
        let late = first.claims.append_output(&lost, b"late\n").await;
        assert!(matches!(late, Err(Error::Stale(_))), "{late:?}");
        second.claims.append_output(&held, b"second\n").await.unwrap();
        let posted = second.tickets.get(&key).await.unwrap().unwrap();
        let console = |ordinal| crate::repository::model::console::attempt_console(&key, &posted.ticket, ordinal);
        let read = async |ordinal| second.consoles.read(&console(ordinal), 0, 100).await.unwrap();
        assert_eq!(read(1).await, "mine\n");
        assert_eq!(read(2).await, "second\n");
    });
}

/// No append is taken, while that is said.
#[derive(Default)]
struct Closed(AtomicBool);

impl Around for Arc<Closed> {
    type Noted = bool;

    fn asked(&self, asked: &Asked<'_>) -> bool {
        matches!(asked, Asked::Append(_)) && self.0.load(Ordering::SeqCst)
    }

    fn pass<'a, T: Send + 'a>(&'a self, closed: bool, call: Fut<'a, T>) -> Fut<'a, T> {
        if !closed {
            return call;
        }
        Box::pin(async {
            Err(storage::Error::Unavailable {
                what: "append".into(),
                why: "a fault of the test".into(),
            })
        })
    }
}

/// "It is done before the claim, which so is not made, and not counted, while the store can't do it."
#[test]
fn a_ticket_whose_consoles_can_not_be_sealed_is_not_claimed() {
    runtime().block_on(async {
        let (dir, mount) = (tempfile::tempdir().unwrap(), Memory::new().mount());
        let closed = Arc::<Closed>::default();
        let stores = Stores {
            contents: Arc::new(Wrapped::around(mount.contents(), closed.clone())),
            ..Stores::alone(&mount)
        };
        let repository = stores.open("here", dir.path()).await.unwrap();
        let key = ticket(&repository).await;
        let lost = claim(&repository, &key).await.unwrap().unwrap();
        repository.claims.append_output(&lost, b"mine\n").await.unwrap();
        repository.claims.end_claim(&lost, Cause::Died).await;
        let before = repository.tickets.get(&key).await.unwrap().unwrap();
        assert_eq!(before.ticket.state, TicketState::Open);
        closed.0.store(true, Ordering::SeqCst);
        let refused = repository.claims.claim(&key, claimant()).await;
        assert!(matches!(refused, Err(Error::Io(_))), "{:?}", refused.err());
        let after = repository.tickets.get(&key).await.unwrap().unwrap();
        assert_eq!((after.version, after.ticket.state), (before.version, TicketState::Open));
        closed.0.store(false, Ordering::SeqCst);
        let held = claim(&repository, &key).await.unwrap().unwrap();
        assert_eq!(held.ticket.attempt, before.ticket.attempt);
    });
}

/// Keeps the answer back of a commit that makes an entry of this path: it has happened, and nobody here knows.
#[derive(Default)]
struct Answer {
    path: std::sync::Mutex<Option<String>>,
    happened: Notify,
    told: Notify,
}

impl Around for Arc<Answer> {
    type Noted = bool;

    fn asked(&self, asked: &Asked<'_>) -> bool {
        let path = self.path.lock().unwrap();
        let makes = |op: &Op| matches!(op, Op::Create { path: made, .. } if Some(made) == path.as_ref());
        matches!(asked, Asked::Commit(ops) if ops.iter().any(makes))
    }

    fn pass<'a, T: Send + 'a>(&'a self, kept: bool, call: Fut<'a, T>) -> Fut<'a, T> {
        Box::pin(async move {
            let done = call.await;
            if kept {
                self.happened.notify_one();
                self.told.notified().await;
            }
            done
        })
    }
}

/// "What is claimed of an aborted build ends when its claimant has ended it": of a claim that was on its way when
/// the abort was heard, too. An abort looks at the claims that are there, and this one is not yet.
#[test]
fn a_claim_that_is_made_while_its_build_is_aborted_is_told() {
    runtime().block_on(async {
        let (dir, mount) = (tempfile::tempdir().unwrap(), Memory::new().mount());
        let answer = Arc::<Answer>::default();
        let stores = Stores {
            coordination: Arc::new(Wrapped::around(mount.coordination(), answer.clone())),
            ..Stores::alone(&mount)
        };
        let repository = stores.open("here", dir.path()).await.unwrap();
        let job = job(&repository, "a").await.unwrap();
        let n = repository.builds.trigger(&job, b"", poster()).await.unwrap();
        let control = claim(&repository, &control_key(&job, n)).await.unwrap().unwrap();
        post(&repository, &job, n).await.unwrap();
        let key = task_key(&job, n);
        *answer.path.lock().unwrap() = Some(key.claim_path());
        let (claiming, wanted) = (repository.clone(), key.clone());
        let claiming = tokio::spawn(async move { claiming.claims.claim(&wanted, claimant()).await });
        answer.happened.notified().await;
        repository.control(&job, n, Word::Abort, poster()).await.unwrap();
        // The notice of it is acted upon as well, and finds as little.
        repository.store.coordination.sync().await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        answer.told.notify_one();
        let held = claiming.await.unwrap().unwrap();
        let begun = Instant::now();
        while !held.is_aborting() {
            assert!(begun.elapsed() < PATIENCE, "it is never told");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        drop(control);
    });
}
