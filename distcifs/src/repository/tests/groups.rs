//! Groups: builds of several jobs, and tasks, that share a bound; and newer builds that make an end of older ones.

use std::collections::BTreeMap;

use super::crash::{End, Place, after_each_write_of};
use super::shared::Servers;
use super::*;
use crate::backend::memory::Memory;
use crate::repository::control::Word;
use crate::repository::groups::Unused;
use crate::repository::maintain::Upkeep;
use crate::repository::model::claim::Cause;
use crate::repository::model::deed::Did;
use crate::repository::model::json::to_json;
use crate::repository::model::keys::{GROUPS, Key};
use crate::repository::model::ops::create;
use crate::repository::model::ticket::{CONTROL_QUEUE, Posted};
use crate::repository::queue_index::Asker;
use crate::storage::counted::{Call, Counted};

/// A configuration of one task, whose builds share a group, and whose task shares another.
const GROUPED: &str = r#"{"concurrency": {"group": "deploy"}, "tasks": [
    {"type": "execute-shell", "concurrency": {"group": "deploy"}, "params": {"script": "true\n"}}]}"#;

/// The same with what becomes of older ones.
fn superseding(word: &str) -> String {
    format!(
        r#"{{"concurrency": {{"group": "deploy", "supersede": "{word}"}},
            "tasks": [{{"type": "execute-shell", "params": {{"script": "true\n"}}}}]}}"#
    )
}

/// Mounts of one repository on servers in memory.
async fn mounts<const N: usize>(servers: &Servers, dir: &Path) -> [Arc<Repository>; N] {
    let mut mounts = Vec::new();
    for at in 0..N {
        let stores = servers.next().await;
        mounts.push(stores.open(&format!("mount-{at}"), dir).await.unwrap());
    }
    mounts.try_into().unwrap_or_else(|_| unreachable!())
}

/// Waits until something is so.
async fn until(what: &str, is: impl AsyncFn() -> bool) {
    let began = Instant::now();
    while !is().await {
        assert!(began.elapsed() < PATIENCE, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The job as another mount knows it, once it has heard of it.
async fn known(repository: &Arc<Repository>, text: &str) -> Job {
    until("a job is heard of", async || repository.jobs.get(text).is_some()).await;
    repository.jobs.get(text).unwrap()
}

async fn trigger(repository: &Arc<Repository>, job: &Job) -> u64 {
    repository.builds.trigger(job, b"", poster()).await.unwrap()
}

/// Claims a build's own ticket.
async fn control(repository: &Arc<Repository>, job: &Job, n: u64) -> Result<Arc<Claim>> {
    // What other mounts did is seen after this.
    repository.store.coordination.sync().await.unwrap();
    repository.claims.claim(&control_key(job, n), claimant()).await
}

/// The same as soon as this mount has heard that it may.
async fn control_soon(repository: &Arc<Repository>, job: &Job, n: u64) -> Arc<Claim> {
    let began = Instant::now();
    loop {
        match control(repository, job, n).await {
            Err(Error::Busy(why) | Error::Exists(why)) => assert!(began.elapsed() < PATIENCE, "{why}"),
            claimed => return claimed.unwrap(),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn is_busy<T>(claimed: &Result<T>) -> bool {
    matches!(claimed, Err(Error::Busy(_)))
}

async fn why(repository: &Arc<Repository>, job: &Job, n: u64) -> String {
    let build = repository.builds.build(job, n).await.unwrap();
    repository.why(&build).await
}

/// What a build is; `None`: this mount has not heard of it.
async fn state(repository: &Arc<Repository>, job: &Job, n: u64) -> Option<&'static str> {
    match repository.builds.build(job, n).await {
        Ok(build) => Some(build.state()),
        Err(Error::NotFound(_)) => None,
        Err(error) => panic!("{error}"),
    }
}

/// How many places are taken.
async fn places(repository: &Arc<Repository>) -> usize {
    let mut places = 0;
    repository.store.coordination.sync().await.unwrap();
    for group in repository.store.coordination.children(GROUPS).await.unwrap() {
        let path = Key::Group(&group).path();
        places += repository.store.coordination.children(&path).await.unwrap().len();
    }
    places
}

/// Somebody who waits for builds.
fn asker() -> Asker {
    Asker {
        alive: Box::new(|()| true),
        may: Box::new(|_| true),
    }
}

async fn next(repository: &Arc<Repository>) -> Option<Arc<Claim>> {
    let queue = name(CONTROL_QUEUE);
    repository
        .dispatcher
        .next(&queue, &[], claimant(), asker(), PATIENCE)
        .await
        .unwrap()
}

/// "A build starts if fewer hold a place than its `limit`, and no older one of its group waits. Older is who was
/// posted first. `why` names the builds that it waits for."
#[test]
fn builds_of_two_jobs_share_a_group_on_two_mounts() {
    let (dir, servers) = (tempfile::tempdir().unwrap(), Servers::new());
    runtime().block_on(async {
        let [here, there] = mounts(&servers, dir.path()).await;
        let a = configured(&here, "a", GROUPED).await.unwrap();
        let b = configured(&here, "b", GROUPED).await.unwrap();
        let lone = job(&here, "lone").await.unwrap();
        let b_there = known(&there, "b").await;
        let first = trigger(&here, &a).await;
        let second = trigger(&there, &b_there).await;
        let third = trigger(&here, &a).await;
        // A younger one never passes an older one, on whichever mount.
        assert!(is_busy(&control(&there, &b_there, second).await));
        assert!(is_busy(&control(&here, &a, third).await));
        let one = control(&here, &a, first).await.unwrap();
        assert_eq!((one.ticket.slot, places(&here).await), (Some(0), 1));
        for (mount, job, n) in [(&here, &b, second), (&there, &b_there, second), (&here, &a, third)] {
            assert!(is_busy(&control(mount, job, n).await));
            let words = "the group deploy (of 1); held by jobs/a/builds/1";
            until(words, async || why(mount, job, n).await.contains(words)).await;
        }
        let words = "older ones that wait: jobs/b/builds/1";
        until(words, async || why(&here, &a, third).await.contains(words)).await;
        // Who shares no group waits for none.
        let n = trigger(&here, &lone).await;
        let alone = control(&here, &lone, n).await.unwrap();
        assert_eq!(alone.ticket.slot, None);
        here.claims.finish(&one, success()).await.unwrap();
        assert!(is_busy(&control(&here, &a, third).await));
        let two = control_soon(&there, &b_there, second).await;
        there.claims.finish(&two, success()).await.unwrap();
        let three = control_soon(&here, &a, third).await;
        here.claims.finish(&three, success()).await.unwrap();
        assert_eq!(places(&here).await, 0);
    });
}

/// "A freed place wakes the oldest that waits": who waits in `.next` is given builds one after another, in the order
/// in which they were triggered, and never two at once.
#[test]
fn a_freed_place_wakes_the_oldest_on_any_mount() {
    let (dir, servers) = (tempfile::tempdir().unwrap(), Servers::new());
    runtime().block_on(async {
        let mounts: [_; 3] = mounts(&servers, dir.path()).await;
        let a = configured(&mounts[0], "a", GROUPED).await.unwrap();
        for mount in &mounts {
            known(mount, "a").await;
        }
        const BUILDS: usize = 12;
        let order = Arc::new(std::sync::Mutex::new(Vec::new()));
        let running = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let workers: Vec<_> = mounts
            .iter()
            .flat_map(|mount| [mount.clone(), mount.clone()])
            .map(|mount| {
                let (order, running) = (order.clone(), running.clone());
                tokio::spawn(async move {
                    while order.lock().unwrap().len() < BUILDS {
                        let queue = name(CONTROL_QUEUE);
                        let given = mount
                            .dispatcher
                            .next(&queue, &[], claimant(), asker(), Duration::from_millis(500))
                            .await;
                        let Some(claim) = given.unwrap() else { continue };
                        let before = running.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                        assert_eq!(before, 0, "two at once");
                        order.lock().unwrap().push(claim.ticket.part.as_ref().unwrap().build);
                        tokio::time::sleep(Duration::from_millis(3)).await;
                        running.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                        mount.claims.finish(&claim, success()).await.unwrap();
                    }
                })
            })
            .collect();
        for at in 0..BUILDS {
            let mount = &mounts[at % 3];
            let job = mount.jobs.get("a").unwrap();
            trigger(mount, &job).await;
        }
        for worker in workers {
            tokio::time::timeout(PATIENCE, worker).await.unwrap().unwrap();
        }
        let numbers: Vec<u64> = (1..=BUILDS as u64).collect();
        assert_eq!(*order.lock().unwrap(), numbers);
        until("all places are free", async || places(&mounts[0]).await == 0).await;
        drop(a);
    });
}

/// "A place is kept from the claim until the build has ended: also while a claim that was lost is made again."
#[test]
fn a_lost_claim_keeps_its_place() {
    let (dir, servers) = (tempfile::tempdir().unwrap(), Servers::new());
    runtime().block_on(async {
        let [here, there] = mounts(&servers, dir.path()).await;
        let a = configured(&here, "a", GROUPED).await.unwrap();
        let a_there = known(&there, "a").await;
        let (first, second) = (trigger(&here, &a).await, trigger(&here, &a).await);
        let lost = control(&here, &a, first).await.unwrap();
        here.claims.end_claim(&lost, Cause::Died).await;
        assert_eq!(places(&here).await, 1);
        assert!(is_busy(&control(&there, &a_there, second).await));
        let again = control_soon(&there, &a_there, first).await;
        assert_eq!((again.ticket.slot, places(&here).await), (Some(0), 1));
        there.claims.finish(&again, success()).await.unwrap();
        let after = control_soon(&there, &a_there, second).await;
        assert_eq!(places(&here).await, 1);
        there.claims.finish(&after, success()).await.unwrap();
        assert_eq!(places(&here).await, 0);
    });
}

/// "A task may have one of its own: only that task waits." Builds and tasks of one name are two groups.
#[test]
fn a_task_waits_for_a_place_in_a_group_of_tasks() {
    let (dir, servers) = (tempfile::tempdir().unwrap(), Servers::new());
    runtime().block_on(async {
        let [here] = mounts(&servers, dir.path()).await;
        let of_tasks = r#"{"parameters": {"where": "test"}, "tasks": [{"type": "execute-shell",
            "concurrency": {"group": "deploy-${where}"}, "params": {"script": "true\n"}}]}"#;
        let a = configured(&here, "a", of_tasks).await.unwrap();
        let b = configured(&here, "b", of_tasks).await.unwrap();
        let mut claims = Vec::new();
        for job in [&a, &b] {
            let n = trigger(&here, job).await;
            // No build of them waits.
            claims.push(control(&here, job, n).await.unwrap());
            post(&here, job, n).await.unwrap();
        }
        let elsewhere = here.builds.trigger(&b, b"where=prod", poster()).await.unwrap();
        claims.push(control(&here, &b, elsewhere).await.unwrap());
        post(&here, &b, elsewhere).await.unwrap();
        let task = |job: &Job, n| {
            let (here, key) = (here.clone(), task_key(job, n));
            async move { here.claims.claim(&key, claimant()).await }
        };
        let one = task(&a, 1).await.unwrap();
        assert!(is_busy(&task(&b, 1).await));
        let build = here.builds.build(&b, 1).await.unwrap();
        let waits = here.why_of_task(&build, 0).await;
        let words = "waits for a place in the group deploy-test (of 1); held by task 0 of jobs/a/builds/1";
        assert_eq!(waits, words);
        // Another place is another group.
        let other = task(&b, elsewhere).await.unwrap();
        work(&here, &one).await.unwrap();
        here.claims.finish(&one, success()).await.unwrap();
        let two = task(&b, 1).await.unwrap();
        for claim in [two, other] {
            here.claims.finish(&claim, success()).await.unwrap();
        }
        assert_eq!(places(&here).await, 0);
        for claim in claims {
            here.claims.finish(&claim, success()).await.unwrap();
        }
    });
}

/// A build that ends before its tasks do leaves none of their places behind.
#[test]
fn what_is_tidied_up_leaves_its_place() {
    let (dir, servers) = (tempfile::tempdir().unwrap(), Servers::new());
    runtime().block_on(async {
        let [here] = mounts(&servers, dir.path()).await;
        let a = configured(&here, "a", GROUPED).await.unwrap();
        let n = trigger(&here, &a).await;
        let controller = control(&here, &a, n).await.unwrap();
        post(&here, &a, n).await.unwrap();
        let _task = here.claims.claim(&task_key(&a, n), claimant()).await.unwrap();
        assert_eq!(places(&here).await, 2);
        here.claims.finish(&controller, success()).await.unwrap();
        until("it is tidied up", async || {
            here.builds.live_numbers(&a).await.unwrap().is_empty()
        })
        .await;
        assert_eq!(places(&here).await, 0);
        assert_sound(&here).await;
    });
}

/// "Groups that nobody uses go", and a place that no ticket knows of is freed by gc.
#[test]
fn nothing_stays_of_a_group_that_nobody_uses() {
    let (dir, servers) = (tempfile::tempdir().unwrap(), Servers::new());
    runtime().block_on(async {
        let [here] = mounts(&servers, dir.path()).await;
        let a = configured(&here, "a", GROUPED).await.unwrap();
        let n = trigger(&here, &a).await;
        let held = control(&here, &a, n).await.unwrap();
        let groups = &here.claims.groups;
        let mut unused = Unused::new();
        assert_eq!(
            groups.sweep(&mut unused, Duration::ZERO).await.unwrap(),
            0,
            "somebody holds a place"
        );
        // What a fault left: nobody's.
        let digest = &held.ticket.group.as_ref().unwrap().digest;
        let stray = Key::Place(digest, 7).path();
        let op = create(
            stray.as_str(),
            to_json(&serde_json::json!({"uid": "u", "build": 1, "queue": "q", "id": "x"})),
        );
        here.store.commit(vec![op]).await.unwrap();
        assert_eq!((assert_sound(&here).await, places(&here).await), (1, 2));
        let upkeep = Upkeep::new(here.store.coordination.clone(), here.store.contents.clone());
        upkeep.sweep().await.unwrap();
        assert_eq!((assert_sound(&here).await, places(&here).await), (0, 1));
        here.claims.finish(&held, success()).await.unwrap();
        let hour = Duration::from_secs(3600);
        assert_eq!(groups.sweep(&mut unused, hour).await.unwrap(), 0, "not for long yet");
        assert_eq!(unused.len(), 1);
        // A claim in between begins the time anew.
        let n = trigger(&here, &a).await;
        let held = control(&here, &a, n).await.unwrap();
        here.claims.finish(&held, success()).await.unwrap();
        let before = unused.clone();
        assert_eq!(groups.sweep(&mut unused, hour).await.unwrap(), 0);
        assert_ne!(before, unused);
        assert_eq!(groups.sweep(&mut unused, Duration::ZERO).await.unwrap(), 1);
        assert!(here.store.coordination.children(GROUPS).await.unwrap().is_empty());
        // And it begins anew.
        let n = trigger(&here, &a).await;
        let held = control(&here, &a, n).await.unwrap();
        here.claims.finish(&held, success()).await.unwrap();
    });
}

/// Its session, and the claims in it, outlive a mount: no place is lost or held for ever, whichever write was last.
#[test]
fn a_mount_that_is_killed_after_any_write_leaves_no_place_behind() {
    after_each_write_of(GROUPED, End::Killed, Servers::new);
}

#[test]
fn a_mount_that_is_cut_off_after_any_write_leaves_no_place_behind() {
    after_each_write_of(GROUPED, End::Cut, Servers::new);
}

/// "With `supersede` `pending` a newer build of the job ends those that wait, with `running` those that run too.
/// Their `why` says by which."
#[test]
fn a_newer_build_makes_an_end_of_older_ones() {
    for (word, first_state) in [("no", "running"), ("pending", "running"), ("running", "aborted")] {
        let (dir, servers) = (tempfile::tempdir().unwrap(), Servers::new());
        runtime().block_on(async {
            let [here, there] = mounts(&servers, dir.path()).await;
            let a = configured(&here, "a", &superseding(word)).await.unwrap();
            let b = configured(&here, "b", &superseding(word)).await.unwrap();
            let a_there = known(&there, "a").await;
            let first = trigger(&here, &a).await;
            let running = control(&here, &a, first).await.unwrap();
            post(&here, &a, first).await.unwrap();
            let of_b = trigger(&here, &b).await;
            let second = trigger(&there, &a_there).await;
            let third = trigger(&there, &a_there).await;
            let ended = async |n, expected: &str| {
                until(&format!("{word}: build {n} is {expected}"), async || {
                    state(&here, &a, n).await == Some(expected)
                })
                .await
            };
            if word == "running" {
                // As by abort: what is open ends, and build-control sees that it is to end the build.
                until("it is asked to stop", async || {
                    here.builds.build(&a, first).await.unwrap().aborting()
                })
                .await;
                let asked = here.builds.build(&a, first).await.unwrap();
                assert!(!asked.live.as_ref().unwrap().0.insist, "what runs always goes on");
                let aborted = TaskResult::read(b"aborted").unwrap();
                here.claims.finish(&running, aborted).await.unwrap();
            }
            ended(first, first_state).await;
            ended(second, if word == "no" { "pending" } else { "aborted" }).await;
            ended(third, "pending").await;
            assert_eq!(state(&here, &b, of_b).await, Some("pending"), "a build of another job");
            if word != "no" {
                let words = "superseded by build 3";
                until(words, async || why(&there, &a_there, second).await == words).await;
                let build = here.builds.build(&a, second).await.unwrap();
                assert_eq!(build.deeds().last().unwrap().did, Did::Superseded);
            }
            if word == "running" {
                // Whichever was heard of first.
                assert!(why(&here, &a, first).await.starts_with("superseded by build "));
            }
        });
    }
}

/// "A retry neither ends another build nor is ended by one that was triggered before it."
#[test]
fn a_retry_of_an_old_build_stands_beside_a_newer_one() {
    let (dir, servers) = (tempfile::tempdir().unwrap(), Servers::new());
    runtime().block_on(async {
        let [here] = mounts(&servers, dir.path()).await;
        let a = configured(&here, "a", &superseding("running")).await.unwrap();
        let old = trigger(&here, &a).await;
        let claim = control(&here, &a, old).await.unwrap();
        here.claims
            .finish(&claim, TaskResult::read(b"1").unwrap())
            .await
            .unwrap();
        until("it is recorded", async || {
            here.builds.live_numbers(&a).await.unwrap().is_empty()
        })
        .await;
        let newer = trigger(&here, &a).await;
        let runs = control(&here, &a, newer).await.unwrap();
        here.control(&a, old, Word::Retry, poster()).await.unwrap();
        // Both are looked at when another job's build has come and gone through the same.
        let b = configured(&here, "b", &superseding("running")).await.unwrap();
        let [one, two] = [trigger(&here, &b).await, trigger(&here, &b).await];
        until("one of another job is ended", async || {
            state(&here, &b, one).await == Some("aborted")
        })
        .await;
        let states = [state(&here, &a, old).await, state(&here, &a, newer).await];
        assert_eq!(states, [Some("pending"), Some("running")]);
        assert!(!here.builds.build(&a, newer).await.unwrap().aborting());
        // A build that comes after both ends both.
        let newest = trigger(&here, &a).await;
        until("the retry is ended", async || {
            state(&here, &a, old).await == Some("aborted")
        })
        .await;
        until("the other is asked to stop", async || {
            here.builds.build(&a, newer).await.unwrap().aborting()
        })
        .await;
        assert_eq!(state(&here, &a, newest).await, Some("pending"));
        here.claims
            .finish(&runs, TaskResult::read(b"aborted").unwrap())
            .await
            .unwrap();
        assert_eq!(state(&here, &b, two).await, Some("pending"));
    });
}

/// How often each thing was committed.
fn commits(calls: &[Call]) -> usize {
    calls.iter().filter(|call| call.verb == "commit").count()
}

/// "A waiting build that is superseded ends in one commit": of 1,000 pushes the newest waits, no worker is held by
/// one that does, and each of the others costs its trigger, its end, and that it is tidied up.
#[test]
fn a_storm_of_pushes_leaves_the_newest() {
    const PUSHES: u64 = 1000;
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let store = Counted::new(Memory::new().mount());
        let here = Stores::alone(&store).open("here", dir.path()).await.unwrap();
        let a = configured(&here, "a", &superseding("running")).await.unwrap();
        let first = trigger(&here, &a).await;
        let runs = control(&here, &a, first).await.unwrap();
        store.take();
        let waits = here.clone();
        let waits = tokio::spawn(async move { next(&waits).await });
        for _ in 1..PUSHES {
            trigger(&here, &a).await;
        }
        until("it is asked to stop", async || {
            here.builds.build(&a, first).await.unwrap().aborting()
        })
        .await;
        until("all but two are over", async || {
            here.builds.live_numbers(&a).await.unwrap().len() == 2
        })
        .await;
        assert_eq!(here.builds.live_numbers(&a).await.unwrap(), [first, PUSHES]);
        assert_eq!(here.claims.held.len(), 1, "nobody is held by one that waits");
        let made = commits(&store.take()) as u64;
        // One for the first one's abort; of the end of one a race may be lost to its claim.
        let most = 3 * (PUSHES - 1) + 32;
        assert!(made <= most, "{made} commits of {most}");
        here.claims
            .finish(&runs, TaskResult::read(b"aborted").unwrap())
            .await
            .unwrap();
        let given = tokio::time::timeout(PATIENCE, waits).await.unwrap().unwrap().unwrap();
        assert_eq!(given.ticket.part.as_ref().unwrap().build, PUSHES);
        here.claims.finish(&given, success()).await.unwrap();
        let mut ends: BTreeMap<String, usize> = BTreeMap::new();
        until("all is recorded", async || {
            here.builds.live_numbers(&a).await.unwrap().is_empty()
        })
        .await;
        for (_, indexed) in here.builds.indexed(&a).await.unwrap().iter() {
            *ends.entry(indexed.state.as_str().to_owned()).or_default() += 1;
        }
        assert_eq!(
            ends,
            BTreeMap::from([("aborted".into(), PUSHES as usize - 1), ("success".into(), 1)])
        );
        assert_eq!(places(&here).await, 0);
    });
}

/// A mount that dies between the newer build and the end of the older one leaves that to the next.
#[test]
fn the_next_mount_makes_an_end_of_older_ones() {
    let (dir, servers) = (tempfile::tempdir().unwrap(), Servers::new());
    runtime().block_on(async {
        let stores = servers.next().await;
        // One that follows no queue hears of no newer build.
        let deaf = Repository::open(Setup {
            coordination: stores.coordination,
            contents: stores.contents,
            node: name("deaf"),
            attempts: dir.path().join("deaf"),
            store: "test".into(),
            coordinator: "test".into(),
            shared: true,
        });
        let deaf = deaf.await.unwrap();
        let a = configured(&deaf, "a", &superseding("pending")).await.unwrap();
        let [one, two] = [trigger(&deaf, &a).await, trigger(&deaf, &a).await];
        assert_eq!(
            [state(&deaf, &a, one).await, state(&deaf, &a, two).await],
            [Some("pending"); 2]
        );
        let [here] = mounts(&servers, dir.path()).await;
        let a_here = known(&here, "a").await;
        until("the older one is ended", async || {
            state(&here, &a_here, one).await == Some("aborted")
        })
        .await;
        assert_eq!(state(&here, &a_here, two).await, Some("pending"));
    });
}

/// What is told of a place, for `why`, is what its ticket has.
#[test]
fn a_place_names_its_ticket() {
    let (dir, servers) = (tempfile::tempdir().unwrap(), Servers::new());
    runtime().block_on(async {
        let [here] = mounts(&servers, dir.path()).await;
        let a = configured(&here, "a", GROUPED).await.unwrap();
        let n = trigger(&here, &a).await;
        let held = control(&here, &a, n).await.unwrap();
        let digest = held.ticket.group.as_ref().unwrap().digest.clone();
        let holders = here.claims.groups.holders(&digest, 9).await.unwrap();
        assert_eq!(holders.len(), 1);
        let (place, holder) = &holders[0];
        assert_eq!(
            (*place, holder.as_ref().unwrap().ticket_path()),
            (0, control_key(&a, n).path())
        );
        let Posted { ticket, .. } = here.tickets.get(&control_key(&a, n)).await.unwrap().unwrap();
        assert_eq!(ticket.slot, Some(0));
        here.claims.finish(&held, success()).await.unwrap();
        assert_eq!(here.claims.groups.holders(&digest, 9).await.unwrap(), []);
    });
}
