//! Newer builds that make an end of older ones, beside others who are slow, and of retries.

use std::sync::Mutex;

use tokio::sync::watch;

use super::*;
use crate::backend::memory::Memory;
use crate::repository::control::Word;
use crate::repository::model::event::Event;
use crate::repository::model::ticket::control_key as key_of_run;
use crate::storage::Fut;
use crate::storage::around::{Around, Asked, Wrapped};

/// Builds of two tasks, of which newer ones make an end.
const RUNNING: &str = r#"{"concurrency": {"group": "deploy", "limit": 9, "supersede": "running"}, "tasks": [
    {"type": "execute-shell", "params": {"script": "true\n"}},
    {"type": "execute-shell", "needs": [], "params": {"script": "true\n"}}]}"#;

/// Waits until something is so.
async fn until(what: &str, is: impl AsyncFn() -> bool) {
    let began = Instant::now();
    while !is().await {
        assert!(began.elapsed() < PATIENCE, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn trigger(repository: &Arc<Repository>, job: &Job) -> u64 {
    repository.builds.trigger(job, b"", poster()).await.unwrap()
}

/// A store that holds commits of some entries back.
struct HeldBack {
    /// What the paths of these contain; empty: nothing is held back.
    what: Mutex<String>,
    let_go: watch::Sender<bool>,
}

impl Around for Arc<HeldBack> {
    /// Whether it is held back.
    type Noted = bool;

    fn asked(&self, asked: &Asked<'_>) -> bool {
        let what = self.what.lock().unwrap();
        matches!(asked, Asked::Commit(_)) && !what.is_empty() && asked.to_string().contains(what.as_str())
    }

    fn pass<'a, T: Send + 'a>(&'a self, held: bool, call: Fut<'a, T>) -> Fut<'a, T> {
        Box::pin(async move {
            if held {
                self.let_go.subscribe().wait_for(|go| *go).await.unwrap();
            }
            call.await
        })
    }
}

/// Triggers what a push to `main` tells, or to another ref; commits are called by a letter.
async fn push(repository: &Arc<Repository>, job: &Job, (name, before, commit): (&str, &str, &str)) -> u64 {
    let before = before.repeat(40);
    let text = format!("@ref=refs/{name}\n@before={before}\n@commit={}", commit.repeat(40));
    repository.builds.trigger(job, text.as_bytes(), poster()).await.unwrap()
}

/// Whether the push of a build was told late.
async fn is_late(repository: &Arc<Repository>, job: &Job, n: u64) -> bool {
    let posted = repository.tickets.get(&control_key(job, n)).await.unwrap().unwrap();
    posted.ticket.group.unwrap().late
}

/// "A push that is told after the one that followed it on its ref ends no build." What is no push, or is one of another
/// ref, or takes back what followed, is not late: a rollback is not kept waiting by what it is to replace.
#[test]
fn only_a_push_that_another_followed_is_late() {
    let (main, release, tag) = ("heads/main", "heads/release", "tags/v1");
    let runs = (main, "a", "b");
    for (told, next, late) in [
        (&[(main, "b", "c")][..], runs, true),
        (&[(main, "0", "a"), (main, "b", "c")], runs, true),
        (&[(main, "b", "c"), runs], (main, "0", "a"), true),
        (&[(main, "c", "d"), (main, "b", "c")], runs, true),
        // By hand, without @before.
        (&[runs], (main, "", "a"), false),
        // Of other refs.
        (&[runs], (tag, "0", "a"), false),
        (&[runs], (release, "0", "a"), false),
        // Taken back, over one push or two; and the next one.
        (&[runs], (main, "b", "a"), false),
        (&[runs, (main, "b", "c")], (main, "c", "a"), false),
        (&[runs], (main, "b", "c"), false),
        // Nobody knows what followed what.
        (&[], runs, false),
    ] {
        let dir = tempfile::tempdir().unwrap();
        runtime().block_on(async {
            let stores = Stores::alone(&Memory::new().mount());
            let here = stores.open("here", dir.path()).await.unwrap();
            let job = configured(&here, "a", RUNNING).await.unwrap();
            let mut claims = Vec::new();
            for push_told in told {
                let n = push(&here, &job, *push_told).await;
                claims.extend(here.claims.claim(&control_key(&job, n), claimant()).await);
            }
            let n = push(&here, &job, next).await;
            assert_eq!(is_late(&here, &job, n).await, late, "{told:?} {next:?}");
        });
    }
}

/// "It stays late when the build of that one has ended": the newest commit is built, and not ended by the late one.
#[test]
fn a_push_stays_late_when_the_one_that_followed_has_ended() {
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let stores = Stores::alone(&Memory::new().mount());
        let here = stores.open("here", dir.path()).await.unwrap();
        let pending = RUNNING.replace("running", "pending").replace("9", "1");
        let job = configured(&here, "a", &pending).await.unwrap();
        let (main, key) = ("heads/main", |n| control_key(&job, n));
        let first = push(&here, &job, (main, "b", "c")).await;
        let runs = here.claims.claim(&key(first), claimant()).await.unwrap();
        let newest = push(&here, &job, (main, "c", "d")).await;
        let late = push(&here, &job, (main, "a", "b")).await;
        here.claims.finish(&runs, success()).await.unwrap();
        until("the first is recorded", async || {
            here.builds.live_numbers(&job).await.unwrap() == [newest, late]
        })
        .await;
        here.queue_index.note_all_sides();
        assert!(!here.queue_index.is_superseded(&key(newest)));
        let next = here.claims.claim(&key(newest), claimant()).await.unwrap();
        here.claims.finish(&next, success()).await.unwrap();
        // It is built still, and is ended by the push after it.
        assert!(here.queue_index.is_open(&key(late)) && !here.queue_index.is_superseded(&key(late)));
        let last = push(&here, &job, (main, "d", "e")).await;
        assert!(!is_late(&here, &job, last).await);
        until("the late one is ended", async || {
            here.builds.build(&job, late).await.unwrap().verdict() == Some(Verdict::Aborted)
        })
        .await;
    });
}

/// "No other waits for it": the end of one user's large build, however long that takes, is no part of another's.
#[test]
fn a_build_that_is_long_in_ending_holds_up_no_other() {
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let held_back = Arc::new(HeldBack {
            what: Mutex::default(),
            let_go: watch::Sender::new(false),
        });
        let stores = Stores::alone(&Memory::new().mount());
        let stores = Stores {
            coordination: Arc::new(Wrapped::around(stores.coordination, held_back.clone())),
            ..stores
        };
        let here = stores.open("here", dir.path()).await.unwrap();
        let mut jobs = Vec::new();
        for name in ["big", "small"] {
            let job = configured(&here, name, RUNNING).await.unwrap();
            let n = trigger(&here, &job).await;
            let control = here.claims.claim(&control_key(&job, n), claimant()).await.unwrap();
            for index in [0, 1] {
                post_task(&here, &job, n, index).await.unwrap();
            }
            jobs.push((job, control));
        }
        let ended = async |job: &Job| {
            let build = here.builds.build(job, 1).await.unwrap();
            build.aborting()
                && build
                    .tickets
                    .values()
                    .all(|build_ticket| build_ticket.posted.ticket.outcome.is_some())
        };
        *held_back.what.lock().unwrap() = "/tickets/execute-shell/big.".to_owned();
        let [(big, _), (small, _)] = jobs.as_slice() else {
            unreachable!()
        };
        trigger(&here, big).await;
        until("it is asked to stop", async || {
            here.builds.build(big, 1).await.unwrap().aborting()
        })
        .await;
        trigger(&here, small).await;
        until("the small one is over", async || ended(small).await).await;
        assert!(!ended(big).await, "it was held back");
        held_back.let_go.send_replace(true);
        until("the big one is over", async || ended(big).await).await;
    });
}

/// "`control <job>/<n> abort`": an older build that cleans up is met by each newer one, and asked to stop once.
#[test]
fn the_end_of_an_older_build_is_told_once() {
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let stores = Stores::alone(&Memory::new().mount());
        let here = stores.open("here", dir.path()).await.unwrap();
        let mut events = here.events.listen();
        let job = configured(&here, "a", RUNNING).await.unwrap();
        let n = trigger(&here, &job).await;
        let _control = here.claims.claim(&control_key(&job, n), claimant()).await.unwrap();
        post_task(&here, &job, n, 0).await.unwrap();
        let _works = here.claims.claim(&key_of(&job, n, 0), claimant()).await.unwrap();
        let is_told = |event: &Event| matches!(event, Event::Control { n: 1, .. });
        let mut newest = trigger(&here, &job).await;
        let told = async { while !is_told(&events.recv().await.unwrap()) {} };
        tokio::time::timeout(PATIENCE, told).await.unwrap();
        for _ in 0..5 {
            newest = trigger(&here, &job).await;
            until("the one before it is over", async || {
                let build = here.builds.build(&job, newest - 1).await;
                build.is_ok_and(|build| build.verdict() == Some(Verdict::Aborted))
            })
            .await;
        }
        assert!(newest > 5);
        while let Ok(event) = events.try_recv() {
            assert!(!is_told(&event), "{event}");
        }
    });
}

/// "A retry neither ends another build": one that rolls back goes on when somebody retries a newer one.
#[test]
fn a_retry_of_a_newer_build_ends_no_older_one() {
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let stores = Stores::alone(&Memory::new().mount());
        let here = stores.open("here", dir.path()).await.unwrap();
        let a = configured(&here, "a", RUNNING).await.unwrap();
        for _ in 0..2 {
            let n = trigger(&here, &a).await;
            let claim = here.claims.claim(&control_key(&a, n), claimant()).await.unwrap();
            here.claims
                .finish(&claim, TaskResult::read(b"1").unwrap())
                .await
                .unwrap();
            until("it is recorded", async || {
                here.builds.live_numbers(&a).await.unwrap().is_empty()
            })
            .await;
        }
        let [one, two] = [1, 2].map(|n| key_of_run("a", n, 1).unwrap());
        here.control(&a, 1, Word::Retry, poster()).await.unwrap();
        let _runs = here.claims.claim(&one, claimant()).await.unwrap();
        here.control(&a, 2, Word::Retry, poster()).await.unwrap();
        until("it is heard of", async || here.queue_index.is_open(&two)).await;
        assert!(!here.queue_index.is_superseded(&one));
        // A build that is triggered after both ends both.
        trigger(&here, &a).await;
        until("both are asked to stop", async || {
            here.queue_index.is_superseded(&one) && here.builds.build(&a, 1).await.unwrap().aborting()
        })
        .await;
        until("the waiting one is ended", async || {
            here.builds.build(&a, 2).await.unwrap().verdict() == Some(Verdict::Aborted)
        })
        .await;
    });
}
