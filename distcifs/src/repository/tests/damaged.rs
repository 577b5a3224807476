//! One damaged entry keeps nobody else waiting.

use super::*;
use crate::backend::memory::Memory;
use crate::repository::model::build::live_path;
use crate::repository::model::keys::Key;
use crate::repository::model::ops::create;
use crate::repository::model::ticket::CONTROL_QUEUE;
use crate::repository::queue_index::Asker;
use crate::repository::supersede::Superseding;
use crate::storage::Op;

/// A configuration whose builds share a group, and one whose builds share a bound of their job.
const GROUPED: &str = r#"{"concurrency": {"group": "deploy"},
    "tasks": [{"type": "execute-shell", "params": {"script": "true\n"}}]}"#;
const NUMBERED: &str = r#"{"concurrency": 1, "tasks": [{"type": "execute-shell", "params": {"script": "true\n"}}]}"#;

async fn opened(dir: &Path) -> Arc<Repository> {
    Stores::alone(&Memory::new().mount()).open("here", dir).await.unwrap()
}

async fn trigger(repository: &Arc<Repository>, job: &Job) -> u64 {
    repository.builds.trigger(job, b"", poster()).await.unwrap()
}

/// Damages the entry of a build.
async fn damage(repository: &Arc<Repository>, job: &Job, n: u64) {
    let damage = Op::Set {
        path: live_path(job.uid(), n),
        data: Bytes::from_static(b"{"),
        version: None,
    };
    repository.store.commit(vec![damage]).await.unwrap();
}

async fn next(repository: &Arc<Repository>) -> Option<Arc<Claim>> {
    let asker = Asker {
        alive: Box::new(|()| true),
        may: Box::new(|_| true),
    };
    let queue = name(CONTROL_QUEUE);
    let next = repository.dispatcher.next(&queue, &[], claimant(), asker, PATIENCE);
    next.await.unwrap()
}

/// A ticket of which nobody knows what it is waits for nothing, and stands before nobody.
#[test]
fn a_damaged_ticket_stands_before_no_build_of_a_group() {
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let here = opened(dir.path()).await;
        let garbage = create(
            Key::Ticket(CONTROL_QUEUE, "x").path(),
            Bytes::from_static(b"{\"state\":"),
        );
        here.store.commit(vec![garbage]).await.unwrap();
        let a = configured(&here, "a", GROUPED).await.unwrap();
        let numbers = [trigger(&here, &a).await, trigger(&here, &a).await];
        for n in numbers {
            let claim = tokio::time::timeout(PATIENCE, next(&here)).await.unwrap().unwrap();
            assert_eq!(claim.ticket.part.as_ref().unwrap().build, n);
            here.claims.finish(&claim, success()).await.unwrap();
        }
    });
}

/// Whose name a build that can't be read would give its older ones does not stop their group.
#[test]
fn a_damaged_build_makes_an_end_of_older_ones_in_nobodys_name() {
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let here = opened(dir.path()).await;
        let a = configured(&here, "a", GROUPED).await.unwrap();
        let n = trigger(&here, &a).await;
        let superseding = Superseding::new(&here);
        let named = superseding.who_triggered(&a, n).await.unwrap();
        assert_eq!(named.uid, poster().uid);
        damage(&here, &a, n).await;
        let nobody = superseding.who_triggered(&a, n).await.unwrap();
        assert_eq!((nobody.uid, nobody.name.as_str()), (a.entry.access.uid, ""));
    });
}

/// A build whose entry can't be read can't begin, and nobody can make an end of it: it stands before no younger one, of
/// a group, of one whose newer builds end older ones, or of a number.
#[test]
fn a_damaged_build_stands_before_no_younger_one() {
    let pending = GROUPED.replace(r#""deploy""#, r#""deploy", "supersede": "pending""#);
    for config in [GROUPED, &pending, NUMBERED] {
        let dir = tempfile::tempdir().unwrap();
        runtime().block_on(async {
            let here = opened(dir.path()).await;
            let a = configured(&here, "a", config).await.unwrap();
            let first = trigger(&here, &a).await;
            let runs = here.claims.claim(&control_key(&a, first), claimant()).await.unwrap();
            let older = trigger(&here, &a).await;
            damage(&here, &a, older).await;
            let younger = trigger(&here, &a).await;
            let waits = here.clone();
            let waits = tokio::spawn(async move { next(&waits).await });
            here.claims.finish(&runs, success()).await.unwrap();
            let next = waits.await.unwrap().expect("the younger one begins");
            assert_eq!(next.ticket.part.as_ref().unwrap().build, younger, "{config}");
        });
    }
}

/// "Others go first meanwhile": whoever waits is not kept by the oldest ticket, if that can't be claimed.
#[test]
fn a_ticket_that_cannot_be_claimed_keeps_no_worker() {
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let here = opened(dir.path()).await;
        let bad = configured(&here, "bad", NUMBERED).await.unwrap();
        let good = job(&here, "good").await.unwrap();
        let n = trigger(&here, &bad).await;
        damage(&here, &bad, n).await;
        for _ in 0..3 {
            let n = trigger(&here, &good).await;
            let claim = tokio::time::timeout(PATIENCE, next(&here)).await.unwrap().unwrap();
            let part = claim.ticket.part.clone().unwrap();
            assert_eq!((part.uid.as_str(), part.build), (good.uid(), n));
            here.claims.finish(&claim, success()).await.unwrap();
        }
        let claimed = here.claims.claim(&control_key(&bad, n), claimant()).await;
        assert!(matches!(claimed, Err(Error::Io(_))), "{:?}", claimed.err());
    });
}

/// `why` names the others who hold places.
#[test]
fn a_damaged_place_is_named_beside_the_others() {
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let here = opened(dir.path()).await;
        let a = configured(&here, "a", GROUPED).await.unwrap();
        let [one, two] = [trigger(&here, &a).await, trigger(&here, &a).await];
        let held = here.claims.claim(&control_key(&a, one), claimant()).await.unwrap();
        let digest = held.ticket.group.as_ref().unwrap().digest.clone();
        let garbage = create(Key::Place(&digest, 7).path(), Bytes::from_static(b"{"));
        here.store.commit(vec![garbage]).await.unwrap();
        let build = here.builds.build(&a, two).await.unwrap();
        let why = here.why(&build).await;
        let words = "held by jobs/a/builds/1, place 7, which is damaged (run distcifs fsck)";
        assert!(why.contains(words), "{why}");
    });
}

/// "`latest`" and "`last-success`" pass over a build of which nobody knows what it is.
#[test]
fn a_damaged_build_is_not_the_newest_of_its_job() {
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let here = opened(dir.path()).await;
        let a = configured(&here, "a", CONFIG).await.unwrap();
        let (sound, newest) = (trigger(&here, &a).await, trigger(&here, &a).await);
        damage(&here, &a, newest).await;
        assert_eq!(here.builds.latest_trusted(&a).await.unwrap(), Some(sound));
        assert_eq!(here.builds.newest(&a, true).await.unwrap(), None);
    });
}
