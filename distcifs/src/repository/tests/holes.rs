//! Holes of which doc/storage.md speaks, as far as they need no cut network and no stopped process:
//! tests/tests/faults_named.rs has those.

use super::*;
use crate::backend::embedded::Embedded;
use crate::repository::format;
use crate::repository::model::claim::{Cause, ClaimState};
use crate::repository::model::ops::delete;
use crate::storage;
use crate::storage::around::{Around, Asked, Wrapped};
use crate::storage::listeners::Listeners;
use crate::storage::watcher::Watcher;
use crate::storage::{Fut, Notices, Object, Watch};

/// A store with a repository in it.
async fn fresh(dir: &Path) -> Embedded {
    let store = Embedded::open(&dir.join("store")).unwrap();
    let made = format::make(&store.coordination(), &store.contents(), false).await;
    made.unwrap();
    store
}

/// Notices of a store are on their way for ever.
#[derive(Default)]
pub(super) struct Late {
    watchers: std::sync::Mutex<Vec<Watcher>>,
    listeners: Listeners,
}

impl Around for Late {
    type Noted = ();

    fn asked(&self, _: &Asked<'_>) {}

    fn pass<'a, T: Send + 'a>(&'a self, (): (), call: Fut<'a, T>) -> Fut<'a, T> {
        call
    }

    fn watched<'a>(&'a self, _: &str, _: Fut<'a, Watch>) -> Fut<'a, Watch> {
        let (watcher, watch) = Watcher::new();
        self.watchers.lock().unwrap().push(watcher);
        Box::pin(async { Ok(watch) })
    }

    fn heard<'a>(&'a self, object: &Object, _: Fut<'a, Notices>) -> Fut<'a, Notices> {
        let notices = self.listeners.listen(object);
        Box::pin(async { notices })
    }
}

/// "Whoever records a build asks the store how long its consoles are": the second of two mounts has them open,
/// and is told late of what the first appended.
pub(super) async fn lengths_are_asked([first, second]: [Stores; 2]) {
    let dir = tempfile::tempdir().unwrap();
    let second = Stores {
        contents: Arc::new(Wrapped::around(second.contents, Late::default())),
        ..second
    };
    let first = first.open("first", dir.path()).await.unwrap();
    let second = second.open("second", dir.path()).await.unwrap();
    let job = job(&second, "a").await.unwrap();
    let n = second.builds.trigger(&job, b"", poster()).await.unwrap();
    let controller = second.claims.claim(&control_key(&job, n), claimant()).await.unwrap();
    post(&second, &job, n).await.unwrap();
    first.store.coordination.sync().await.unwrap();
    let held = claim(&first, &task_key(&job, n)).await.unwrap().unwrap();
    work(&first, &held).await.unwrap();
    second.store.coordination.sync().await.unwrap();
    let seen = second.builds.build(&job, n).await.unwrap();
    let names = [seen.task(0).consoles.last().unwrap().clone(), seen.extent_of_all().name];
    let mut open = Vec::new();
    for name in &names {
        open.push(second.consoles.open(name).await.unwrap());
        assert!(second.consoles.length(name).await.unwrap() > 0, "{name}");
    }
    work(&first, &held).await.unwrap();
    first.claims.finish(&held, success()).await.unwrap();
    second.store.coordination.sync().await.unwrap();
    second.claims.finish(&controller, success()).await.unwrap();
    // Who finishes a build records it, before all others do.
    let started = Instant::now();
    while second.builds.is_unfinished(&job, n).await.unwrap() {
        assert!(started.elapsed() < PATIENCE, "it is not recorded");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let record = second.builds.stored_record(&job, n).await.unwrap().0.unwrap();
    for name in &names {
        let whole = first.consoles.read(name, 0, 1 << 20).await.unwrap();
        assert!(whole.ends_with(LINE.repeat(2).as_bytes()), "{whole:?}");
        assert_eq!(record.lengths.get(name), Some(&(whole.len() as u64)), "{name}");
    }
}

/// The first of two mounts loses its claim and hears nothing of it; the second makes it again. Both
/// claims' entries have version 0, and the first still believes in its session: all that keeps its
/// result out is the version of the ticket.
pub(super) async fn a_claim_made_again([first, second]: [Stores; 2]) {
    let dir = tempfile::tempdir().unwrap();
    let late = Wrapped::around(first.coordination, Late::default());
    let first = Stores {
        coordination: Arc::new(late),
        ..first
    };
    let first = first.open("first", dir.path()).await.unwrap();
    let second = second.open("second", dir.path()).await.unwrap();
    let request = TicketRequest::read(br#"{"id": "t"}"#).unwrap();
    let queue = name("execute-shell");
    let id = second.claims.post(&queue, request, poster()).await.unwrap();
    let key = TicketKey { queue, id };
    first.store.coordination.sync().await.unwrap();
    let lost = first.claims.claim(&key, claimant()).await.unwrap();
    work(&first, &lost).await.unwrap();
    // As the end of its session would.
    second.store.commit(vec![delete(key.claim_path(), None)]).await.unwrap();
    let held = claim(&second, &key).await.unwrap().unwrap();
    let refused = first.claims.finish(&lost, success()).await;
    assert!(matches!(refused, Err(Error::Stale(_))), "{refused:?}");
    let entry = second.store.coordination.get(&key.claim_path()).await.unwrap().unwrap();
    assert_eq!(entry.version, 0);
    assert!(
        std::str::from_utf8(&entry.data).unwrap().contains(&held.nonce),
        "the second's claim stands"
    );
    work(&second, &held).await.unwrap();
    second
        .claims
        .finish(&held, TaskResult::read(b"3").unwrap())
        .await
        .unwrap();
    let ticket = second.tickets.get(&key).await.unwrap().unwrap().ticket;
    assert_eq!((ticket.nonce, ticket.node.as_str()), (held.nonce.clone(), "second"));
    assert_eq!(ticket.outcome.unwrap().exit, Some(3));
}

#[test]
fn a_claim_that_was_made_again_by_another_is_fenced() {
    runtime().block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let store = fresh(dir.path()).await;
        let stores = || Stores {
            shared: true,
            ..Stores::alone(&store)
        };
        a_claim_made_again([stores(), stores()]).await;
    });
}

/// Two mounts, a job, and a claim of its first build's task that the first mount believes in: the second
/// has removed the job with the build, made it again, and posted a ticket of the same name.
async fn a_job_made_again(dir: &Path) -> ([Arc<Repository>; 2], TicketKey, Arc<Claim>) {
    let store = fresh(dir).await;
    let shared = Stores {
        shared: true,
        ..Stores::alone(&store)
    };
    let late = Wrapped::around(store.coordination(), Late::default());
    let first = Stores {
        coordination: Arc::new(late),
        ..shared.clone()
    };
    let first = first.open("first", dir).await.unwrap();
    let second = shared.open("second", dir).await.unwrap();
    let old = job(&second, "a").await.unwrap();
    let n = second.builds.trigger(&old, b"", poster()).await.unwrap();
    let control = claim(&second, &control_key(&old, n)).await.unwrap().unwrap();
    post(&second, &old, n).await.unwrap();
    let key = task_key(&old, n);
    let lost = claim(&first, &key).await.unwrap().unwrap();
    work(&first, &lost).await.unwrap();
    second.claims.finish(&control, success()).await.unwrap();
    second.builds.remove_job(&old, None).await.unwrap();
    let new = job(&second, "a").await.unwrap();
    assert_eq!(second.builds.trigger(&new, b"", poster()).await.unwrap(), n);
    let control = claim(&second, &control_key(&new, n)).await.unwrap();
    assert!(control.is_some(), "the new build is controlled");
    post(&second, &new, n).await.unwrap();
    let posted = second.tickets.get(&key).await.unwrap().unwrap();
    assert_eq!((posted.ticket.state, posted.version), (TicketState::Open, 0));
    assert_eq!(lost.state(), ClaimState::Live);
    ([first, second], key, lost)
}

/// "A ticket whose job was removed and made again under its name must not stay claimed with nobody
/// working": the mount that held the former's claim ends it once it looks, and may claim the new one.
#[test]
fn a_claim_ends_when_its_ticket_is_another() {
    runtime().block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let ([first, _second], key, lost) = a_job_made_again(dir.path()).await;
        first.reconciler.apply(&key).await.unwrap();
        assert_eq!(lost.state(), ClaimState::Lost);
        let held = first.claims.claim(&key, claimant()).await.unwrap();
        first.reconciler.apply(&key).await.unwrap();
        assert_eq!(held.state(), ClaimState::Live, "what is its own claim does not end it");
        first.claims.finish(&held, success()).await.unwrap();
    });
}

/// The same, where the former claimant writes its result first: the new ticket has the same version.
#[test]
fn a_result_goes_to_no_other_ticket_of_its_name() {
    runtime().block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let ([first, second], key, lost) = a_job_made_again(dir.path()).await;
        let held = claim(&second, &key).await.unwrap().unwrap();
        assert_eq!(lost.version(), held.version());
        let refused = first.claims.finish(&lost, success()).await;
        assert!(matches!(refused, Err(Error::Stale(_))), "{refused:?}");
        second
            .claims
            .finish(&held, TaskResult::read(b"3").unwrap())
            .await
            .unwrap();
        let ticket = second.tickets.get(&key).await.unwrap().unwrap().ticket;
        assert_eq!(ticket.outcome.unwrap().exit, Some(3));
    });
}

/// The same of a ticket that stands alone: it is removed and posted again under its id, and claimed, while
/// the first mount believes in its claim on the one before.
#[test]
fn a_result_goes_to_no_later_post_of_its_id() {
    runtime().block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let store = fresh(dir.path()).await;
        let shared = Stores {
            shared: true,
            ..Stores::alone(&store)
        };
        let late = Wrapped::around(store.coordination(), Late::default());
        let first = Stores {
            coordination: Arc::new(late),
            ..shared.clone()
        };
        let first = first.open("first", dir.path()).await.unwrap();
        let second = shared.open("second", dir.path()).await.unwrap();
        let request = || TicketRequest::read(br#"{"id": "t"}"#).unwrap();
        let queue = name("execute-shell");
        let id = second.claims.post(&queue, request(), poster()).await.unwrap();
        let key = TicketKey {
            queue: queue.clone(),
            id,
        };
        let lost = first.claims.claim(&key, claimant()).await.unwrap();
        work(&first, &lost).await.unwrap();
        // As the end of its session would; then the next one does the work, and removes the ticket.
        second.store.commit(vec![delete(key.claim_path(), None)]).await.unwrap();
        let held = claim(&second, &key).await.unwrap().unwrap();
        second.claims.finish(&held, success()).await.unwrap();
        second.tickets.remove(&key).await.unwrap();
        second.claims.post(&queue, request(), poster()).await.unwrap();
        let held = claim(&second, &key).await.unwrap().unwrap();
        assert_eq!(lost.version(), held.version());
        let refused = first.claims.finish(&lost, success()).await;
        assert!(matches!(refused, Err(Error::Stale(_))), "{refused:?}");
        second
            .claims
            .finish(&held, TaskResult::read(b"3").unwrap())
            .await
            .unwrap();
        let ticket = second.tickets.get(&key).await.unwrap().unwrap().ticket;
        assert_eq!(ticket.outcome.unwrap().exit, Some(3));
        second.tickets.remove(&key).await.unwrap();
        assert!(second.store.children(&key.path()).await.unwrap().is_empty());
        assert_sound(&second).await;
    });
}

/// A coordinator of which, once it is set off, no answer comes back: what is sent still takes effect.
struct Mute(std::sync::atomic::AtomicBool);

impl Around for Arc<Mute> {
    /// Whether somebody waits for the answer.
    type Noted = bool;

    fn asked(&self, asked: &Asked<'_>) -> bool {
        !matches!(asked, Asked::Watch(_))
    }

    fn pass<'a, T: Send + 'a>(&'a self, waits: bool, call: Fut<'a, T>) -> Fut<'a, T> {
        Box::pin(async move {
            let answer = call.await?;
            if !waits || !self.0.load(std::sync::atomic::Ordering::SeqCst) {
                return Ok(answer);
            }
            Err(storage::Error::Indeterminate {
                what: "a call".into(),
                why: "no answer".into(),
            })
        })
    }
}

/// The commit of a result takes effect and nobody hears so; its claim goes with the session, another
/// mount records the build and tidies its tickets away. The claimant can still read that it is done.
#[test]
fn a_result_in_doubt_can_be_read_when_its_claim_and_its_ticket_are_gone() {
    runtime().block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let store = fresh(dir.path()).await;
        let mute = Arc::new(Mute(false.into()));
        let shared = Stores {
            shared: true,
            ..Stores::alone(&store)
        };
        let first = Stores {
            coordination: Arc::new(Wrapped::around(store.coordination(), mute.clone())),
            ..shared.clone()
        };
        let first = first.open("first", dir.path()).await.unwrap();
        let second = shared.open("second", dir.path()).await.unwrap();
        let job = job(&second, "a").await.unwrap();
        let n = second.builds.trigger(&job, b"", poster()).await.unwrap();
        let control = claim(&second, &control_key(&job, n)).await.unwrap().unwrap();
        post(&second, &job, n).await.unwrap();
        let key = task_key(&job, n);
        let held = claim(&first, &key).await.unwrap().unwrap();
        let created = first.tickets.get(&key).await.unwrap().unwrap().created;
        mute.0.store(true, std::sync::atomic::Ordering::SeqCst);
        let unknown = first.claims.finish(&held, TaskResult::read(b"7").unwrap()).await;
        assert!(matches!(unknown, Err(Error::TimedOut(_))), "{unknown:?}");
        first.claims.end_claim(&held, Cause::Session).await;
        second.claims.finish(&control, success()).await.unwrap();
        let started = Instant::now();
        while second.tickets.get(&key).await.unwrap().is_some() {
            assert!(started.elapsed() < PATIENCE, "{key} is never tidied away");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        mute.0.store(false, std::sync::atomic::Ordering::SeqCst);
        let gone = first
            .claims
            .gone_ticket(&key, created)
            .await
            .unwrap()
            .expect("how it ended");
        assert_eq!(gone.ticket.nonce, held.nonce);
        assert_eq!(gone.ticket.outcome.unwrap().exit, Some(7));
        assert!(
            first.claims.gone_ticket(&key, created + 1).await.unwrap().is_none(),
            "another of its name"
        );
    });
}
