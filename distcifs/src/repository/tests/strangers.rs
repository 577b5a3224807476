//! Held builds where several want something of one at a time, and where whoever did it is gone.

use std::time::Duration;

use super::crash::{ANY, doomed};
use super::*;
use crate::backend::memory::Memory;
use crate::repository::control::Word;
use crate::repository::maintain::Upkeep;
use crate::repository::model::hold::HELD_TIME;
use crate::repository::model::ticket::CONTROL_QUEUE;
use crate::repository::queue_index::Asker;

/// A commit.
const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A trigger of a stranger's build, which is made once.
fn said() -> String {
    format!("@trust=untrusted\n@ref=refs/pull/1/head\n@commit={COMMIT}\n@key=once")
}

/// Waits until a build is recorded.
async fn recorded(repository: &Arc<Repository>, job: &Job, n: u64) {
    let started = Instant::now();
    while repository.builds.build(job, n).await.unwrap().live.is_some() {
        assert!(started.elapsed() < PATIENCE, "build {n} is not recorded");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Nothing is wrong, and gc leaves nothing that belongs to nothing.
async fn assert_tidy(repository: &Arc<Repository>) {
    assert_sound(repository).await;
    let upkeep = Upkeep::new(repository.store.coordination.clone(), repository.store.contents.clone());
    let swept = upkeep.sweep().await.unwrap();
    assert_eq!(swept.faults, []);
    assert_eq!(assert_sound(repository).await, 0, "gc leaves nothing: {swept}");
}

/// What somebody does after the trigger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    Approve,
    Abort,
}

async fn act(repository: &Arc<Repository>, job: &Job, then: Then) -> Result<()> {
    match then {
        Then::Approve => repository.approve(job, 1, COMMIT, poster()).await,
        Then::Abort => repository.control(job, 1, Word::Abort, poster()).await,
    }
}

/// Triggers and acts, and is killed after so many writes; whether it was.
async fn first_life(memory: &Memory, dir: &Path, then: Then, writes: u64) -> bool {
    let store = doomed(Stores::alone(&memory.mount()), ANY);
    let repository = store.stores().open("first", dir).await.unwrap();
    let job = job(&repository, "a").await.unwrap();
    store.arm(writes);
    if repository
        .builds
        .trigger(&job, said().as_bytes(), poster())
        .await
        .is_ok()
        && act(&repository, &job, then).await.is_ok()
        && then == Then::Abort
    {
        // The record is made in the background.
        let started = Instant::now();
        while !store.is_over()
            && started.elapsed() < PATIENCE
            && repository
                .builds
                .build(&job, 1)
                .await
                .is_ok_and(|build| build.live.is_some())
        {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    store.is_over()
}

/// What was triggered is there, held, approved or ended as one; it goes on from there, and nothing is left over.
async fn second_life(memory: &Memory, dir: &Path, then: Then) {
    let repository = Stores::alone(&memory.mount()).open("next", dir).await.unwrap();
    let job = repository.jobs.get("a").unwrap();
    let n = repository
        .builds
        .trigger(&job, said().as_bytes(), poster())
        .await
        .unwrap();
    assert_eq!(n, 1, "the same token again is the same build");
    let found = repository.builds.build(&job, 1).await.unwrap();
    assert!(found.source().untrusted);
    match found.state() {
        "held" => act(&repository, &job, then).await.unwrap(),
        "aborted" => assert_eq!(then, Then::Abort),
        "pending" => assert_eq!((then, found.approval().is_some()), (Then::Approve, true)),
        other => panic!("{other}"),
    }
    assert_sound(&repository).await;
    if then == Then::Approve {
        let key = control_key(&job, 1);
        let controller = claim(&repository, &key).await.unwrap().expect("it is open");
        repository.claims.finish(&controller, success()).await.unwrap();
    }
    recorded(&repository, &job, 1).await;
    let ended = repository.builds.build(&job, 1).await.unwrap();
    assert_eq!(ended.approval().is_some(), then == Then::Approve);
    assert!(ended.source().untrusted && ended.was_held());
    assert_tidy(&repository).await;
    let held = repository.store.coordination.children("/held").await.unwrap();
    assert_eq!(held, Vec::<String>::new(), "nothing is held any more");
}

/// "A whole held build", "a whole build", "an end without a record: any mount": whoever is killed after any write of a
/// trigger, an approval or an abort leaves one of these.
#[test]
fn a_held_build_outlasts_whoever_was_at_it() {
    for then in [Then::Approve, Then::Abort] {
        let mut writes = 1;
        loop {
            let (memory, dir) = (Memory::new(), tempfile::tempdir().unwrap());
            let killed = runtime().block_on(first_life(&memory, dir.path(), then, writes));
            runtime().block_on(second_life(&memory.crash(), dir.path(), then));
            if !killed {
                break;
            }
            writes += 1;
            assert!(writes < 100, "{then:?} has no end");
        }
        assert!(writes > 3, "{then:?}: {writes} writes");
    }
}

/// "Of an approval and an abort at the same moment one wins", and of those with the end of its time, and a newer build
/// of its ref.
#[test]
fn one_of_all_that_happen_to_a_held_build_wins() {
    runtime().block_on(async {
        for _ in 0..20 {
            let (memory, dir) = (Memory::new(), tempfile::tempdir().unwrap());
            let repository = open(&memory.mount(), dir.path()).await.unwrap();
            let job = job(&repository, "a").await.unwrap();
            repository
                .builds
                .trigger(&job, said().as_bytes(), poster())
                .await
                .unwrap();
            let later = crate::repository::core::now() + HELD_TIME;
            let newer = b"@ref=refs/pull/1/head";
            let (approved, aborted, swept, newer) = tokio::join!(
                repository.approve(&job, 1, COMMIT, poster()),
                act(&repository, &job, Then::Abort),
                repository.builds.sweep_held(later),
                repository.builds.trigger(&job, newer, poster()),
            );
            swept.unwrap();
            newer.unwrap();
            let build = repository.builds.build(&job, 1).await.unwrap();
            assert_eq!(build.approval().is_some(), approved.is_ok(), "{approved:?}");
            if approved.is_ok() {
                // Whoever aborts it after that aborts a build like any other.
                let state = build.state();
                assert!(["pending", "aborted"].contains(&state), "{state}: {aborted:?}");
            } else {
                recorded(&repository, &job, 1).await;
                let again = repository.approve(&job, 1, COMMIT, poster()).await;
                assert!(matches!(again, Err(Error::Busy(_) | Error::Stale(_))), "{again:?}");
            }
            assert_sound(&repository).await;
        }
    });
}

/// "It ends as aborted after 14 days by the clock of the mount that sees it", and not before.
#[test]
fn what_nobody_approves_ends_after_fourteen_days() {
    runtime().block_on(async {
        let (memory, dir) = (Memory::new(), tempfile::tempdir().unwrap());
        let repository = open(&memory.mount(), dir.path()).await.unwrap();
        let job = job(&repository, "a").await.unwrap();
        repository
            .builds
            .trigger(&job, said().as_bytes(), poster())
            .await
            .unwrap();
        let since = repository.builds.build(&job, 1).await.unwrap().triggered();
        repository.builds.sweep_held(since + HELD_TIME - 1).await.unwrap();
        assert_eq!(repository.builds.build(&job, 1).await.unwrap().state(), "held");
        repository.builds.sweep_held(since + HELD_TIME).await.unwrap();
        let ended = repository.builds.build(&job, 1).await.unwrap();
        assert_eq!(
            (ended.state(), repository.why(&ended).await.as_str()),
            ("aborted", "nobody approved it within 14 days")
        );
        recorded(&repository, &job, 1).await;
        assert_tidy(&repository).await;
    });
}

/// "Refused while an older mount lives": what it knows goes on.
#[test]
fn an_older_mount_keeps_strangers_out() {
    runtime().block_on(async {
        let (memory, dir) = (Memory::new(), tempfile::tempdir().unwrap());
        let mount = memory.mount();
        let (coordination, contents) = (mount.coordination(), mount.contents());
        crate::repository::format::make(&coordination, &contents, false)
            .await
            .unwrap();
        let stores = Stores {
            shared: true,
            ..Stores::alone(&mount)
        };
        let repository = stores.open("new", dir.path()).await.unwrap();
        let job = job(&repository, "a").await.unwrap();
        // One that is held, one that runs, and one that ended.
        let other = configured(&repository, "b", &CONFIG.replacen('{', r#"{"untrusted": "run","#, 1))
            .await
            .unwrap();
        repository
            .builds
            .trigger(&job, said().as_bytes(), poster())
            .await
            .unwrap();
        for n in [1, 2] {
            let said = format!("@trust=untrusted\n@ref=refs/pull/{n}/head");
            let made = repository.builds.trigger(&other, said.as_bytes(), poster()).await;
            assert_eq!(made.unwrap(), n);
        }
        let claims = &repository.claims;
        let controls = [1, 2].map(|n| control_key(&other, n));
        let running = claims.claim(&controls[0], claimant()).await.unwrap();
        let ending = claims.claim(&controls[1], claimant()).await.unwrap();
        claims.finish(&ending, success()).await.unwrap();
        recorded(&repository, &other, 2).await;
        let older = crate::repository::model::ops::create("/nodes/old", Bytes::from_static(br#"{"pid":1,"since":2}"#));
        coordination.commit(vec![older]).await.unwrap();
        let started = Instant::now();
        while repository.nodes.nodes().await.unwrap().len() < 2 {
            assert!(started.elapsed() < PATIENCE, "the older mount is told of");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        for refused in [
            repository.approve(&job, 1, COMMIT, poster()).await,
            post(&repository, &other, 1).await,
            repository.control(&other, 2, Word::Retry, poster()).await,
        ] {
            assert!(
                matches!(&refused, Err(Error::Busy(why)) if why.contains("mount old is older")),
                "{refused:?}"
            );
        }
        drop(running);
        let refused = repository.builds.trigger(&job, said().as_bytes(), poster()).await;
        assert!(
            matches!(&refused, Err(Error::Busy(why)) if why.contains("mount old is older")),
            "{refused:?}"
        );
        assert_eq!(repository.builds.trigger(&job, b"", poster()).await.unwrap(), 2);
    });
}

/// "One that can't be read keeps nobody waiting": its build is found by its own entry, and others are looked at.
#[test]
fn a_mark_that_cannot_be_read_holds_up_nothing() {
    runtime().block_on(async {
        let (memory, dir) = (Memory::new(), tempfile::tempdir().unwrap());
        let repository = open(&memory.mount(), dir.path()).await.unwrap();
        let job = job(&repository, "a").await.unwrap();
        for pull in [1, 2] {
            let said = format!("@trust=untrusted\n@ref=refs/pull/{pull}/head\n@commit={COMMIT}");
            repository
                .builds
                .trigger(&job, said.as_bytes(), poster())
                .await
                .unwrap();
        }
        let spoilt = ["1", "2"].map(|n| crate::storage::Op::Set {
            path: format!("/held/{}/{n}", job.uid()),
            data: Bytes::from_static(b"{"),
            version: None,
        });
        repository.store.coordination.commit(spoilt.into()).await.unwrap();
        let newer = b"@ref=refs/pull/1/head";
        assert_eq!(repository.builds.trigger(&job, newer, poster()).await.unwrap(), 3);
        let state = async |n| repository.builds.build(&job, n).await.unwrap().state();
        assert_eq!((state(1).await, state(2).await), ("aborted", "held"));
        let later = crate::repository::core::now() + HELD_TIME;
        repository.builds.sweep_held(later).await.unwrap();
        assert_eq!(state(2).await, "aborted");
        recorded(&repository, &job, 1).await;
        recorded(&repository, &job, 2).await;
    });
}

/// "Who comes back in another session is taken only if it may still write": the format may have been raised meanwhile.
#[test]
fn a_mount_that_was_away_is_let_in_by_the_format_of_now() {
    runtime().block_on(async {
        let (memory, dir) = (Memory::new(), tempfile::tempdir().unwrap());
        let mount = memory.mount();
        let (coordination, contents) = (mount.coordination(), mount.contents());
        crate::repository::format::make(&coordination, &contents, false)
            .await
            .unwrap();
        let stores = Stores {
            shared: true,
            ..Stores::alone(&mount)
        };
        let repository = stores.open("new", dir.path()).await.unwrap();
        repository.nodes.enter_node().await.unwrap();
        let job = job(&repository, "a").await.unwrap();
        let n = repository.builds.trigger(&job, b"", poster()).await.unwrap();
        let entry = coordination.get("/format").await.unwrap().unwrap();
        let mut format: serde_json::Value = serde_json::from_slice(&entry.data).unwrap();
        format["least_writer"] = 1000.into();
        let raised = crate::storage::Op::Set {
            path: "/format".to_owned(),
            data: format.to_string().into(),
            version: None,
        };
        coordination.commit(vec![raised]).await.unwrap();
        let refused = repository.nodes.enter_node().await;
        assert!(
            matches!(&refused, Err(Error::Invalid(why)) if why.contains("upgrade distcifs")),
            "{refused:?}"
        );
        // It takes no work that it could not end, and changes nothing that it may not know.
        repository.store.epochs.leave();
        let claimed = repository.claims.claim(&control_key(&job, n), claimant()).await;
        assert!(matches!(claimed, Err(Error::Io(_))), "{:?}", claimed.err());
        let aborted = repository.control(&job, n, Word::Abort, poster()).await;
        let refused = aborted.unwrap_err().to_string();
        assert!(refused.contains("upgrade distcifs"), "{refused}");
        let ops = || vec![crate::repository::model::ops::create("/held/x", Bytes::new())];
        let committed = repository.store.commit(ops()).await;
        assert!(matches!(committed, Err(Error::Io(_))), "{committed:?}");
        let settled = repository.store.commit_settled(ops(), "/held/x", |_| false).await;
        assert!(matches!(settled, Err(Error::Io(_))), "{settled:?}");
        assert!(repository.nodes.is_drained() && repository.nodes.drain_text().starts_with("drained\n"));
        // Let in again, as where the format was restored, it goes on.
        let restored = crate::storage::Op::Set {
            path: "/format".to_owned(),
            data: entry.data,
            version: None,
        };
        coordination.commit(vec![restored]).await.unwrap();
        repository.nodes.enter_node().await.unwrap();
        assert!(!repository.nodes.is_drained());
        repository
            .claims
            .claim(&control_key(&job, n), claimant())
            .await
            .unwrap();
    });
}

/// "Neither pushes out the job's own builds, nor keeps them waiting", also where builds of both wait, and however many
/// of the others do.
#[test]
fn strangers_who_wait_keep_no_own_build_waiting() {
    runtime().block_on(async {
        let (memory, dir) = (Memory::new(), tempfile::tempdir().unwrap());
        let here = open(&memory.mount(), dir.path()).await.unwrap();
        let config = CONFIG.replacen('{', r#"{"concurrency": 1, "untrusted": "run","#, 1);
        let job = configured(&here, "a", &config).await.unwrap();
        let trigger = async |text: &str| here.builds.trigger(&job, text.as_bytes(), poster()).await.unwrap();
        let strange = async |pull: u64| trigger(&format!("@trust=untrusted\n@ref=refs/pull/{pull}/head")).await;
        let key = |n| control_key(&job, n);
        let stranger = here.claims.claim(&key(strange(1).await), claimant()).await.unwrap();
        let own = here.claims.claim(&key(trigger("").await), claimant()).await.unwrap();
        let waiting = [strange(2).await, strange(3).await, trigger("").await];
        let waiter = here.clone();
        let waiter = tokio::spawn(async move {
            let asker = Asker {
                alive: Box::new(|()| true),
                may: Box::new(|_| true),
            };
            let labels = ["untrusted".to_owned()];
            let queue = name(CONTROL_QUEUE);
            let next = waiter.dispatcher.next(&queue, &labels, claimant(), asker, PATIENCE);
            next.await.unwrap()
        });
        let started = Instant::now();
        while !waiting.iter().all(|n| here.queue_index.is_parked(&key(*n))) {
            assert!(started.elapsed() < PATIENCE, "they are tried, and wait");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        here.claims.finish(&own, success()).await.unwrap();
        let next = waiter.await.unwrap().expect("a slot of the job's own builds is free");
        assert_eq!(next.ticket.part.as_ref().unwrap().build, waiting[2]);
        // And the other way round: the end of a stranger's build lets the next one of these begin.
        here.claims.finish(&stranger, success()).await.unwrap();
        let started = Instant::now();
        while here.queue_index.is_parked(&key(waiting[0])) {
            assert!(started.elapsed() < PATIENCE, "the next one is tried");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(here.queue_index.is_parked(&key(waiting[1])));
    });
}
