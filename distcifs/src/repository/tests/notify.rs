//! Notifications are made once, whoever dies, and are not kept for ever.

use super::crash::{ANY, End, Folder, after_each_write_of, doomed};
use super::*;
use crate::backend::embedded::Embedded;
use crate::backend::memory::Memory;
use crate::repository::core::now;
use crate::repository::model::notification::NOTIFY_QUEUE;

/// A configuration of one task, whose build tells of itself twice.
const CONFIG_THAT_TELLS: &str = r#"{"tasks": [{"type": "execute-shell", "params": {"script": "true\n"}}], "notify": [
    {"on": ["success", "held"], "type": "mail", "to": "a@example.org"}, {"on": ["*"], "type": "irc"}]}"#;

/// Their tickets, as the coordinator has them.
async fn told(repository: &Arc<Repository>) -> Vec<TicketKey> {
    let queue = name(NOTIFY_QUEUE);
    let ids = repository.store.coordination.children("/tickets/notify").await.unwrap();
    let key = |id: &String| TicketKey {
        queue: queue.clone(),
        id: crate::repository::names::TicketId::new(id).unwrap(),
    };
    let mut keys: Vec<TicketKey> = ids.iter().map(key).collect();
    keys.sort();
    keys
}

/// "None is lost or made twice": a build tells of its end once, after whichever write a process was killed
/// (`assert_once` of crash.rs counts).
#[test]
fn a_process_that_ends_after_any_write_tells_once() {
    after_each_write_of(CONFIG_THAT_TELLS, End::Killed, || Folder(tempfile::tempdir().unwrap()));
}

/// The same of one that waits for approval: it is told with its trigger.
#[test]
fn a_held_build_is_told_of_with_its_trigger() {
    let said = b"@trust=untrusted\n@ref=refs/pull/1/head\n@key=once";
    let mut writes = 1;
    loop {
        let (dir, memory, runtime) = (tempfile::tempdir().unwrap(), Memory::new(), runtime());
        let ended = runtime.block_on(async {
            let store = doomed(Stores::alone(&memory.mount()), ANY);
            let repository = store.stores().open("first", dir.path()).await.unwrap();
            let job = configured(&repository, "a", CONFIG_THAT_TELLS).await.unwrap();
            store.arm(writes);
            let _ = repository.builds.trigger(&job, said, poster()).await;
            store.is_over()
        });
        drop(runtime);
        super::runtime().block_on(async {
            let repository = Stores::alone(&memory.mount()).open("next", dir.path()).await.unwrap();
            let job = repository.jobs.get("a").unwrap();
            assert_eq!(repository.builds.trigger(&job, said, poster()).await.unwrap(), 1);
            assert_eq!(told(&repository).await.len(), 2, "after write {writes}");
            assert_sound(&repository).await;
        });
        if !ended {
            assert!(writes > 1, "no write was met");
            return;
        }
        writes += 1;
    }
}

/// "It goes with its end", in one commit: with a result, whatever that is, and without one when its workers died too
/// often. gc leaves nothing of it.
#[test]
fn a_notification_goes_with_its_end() {
    let (dir, runtime) = (tempfile::tempdir().unwrap(), runtime());
    runtime.block_on(async {
        let store = Embedded::open(&dir.path().join("store")).unwrap();
        let repository = open(&store, dir.path()).await.unwrap();
        let job = configured(&repository, "hello", CONFIG_THAT_TELLS).await.unwrap();
        let n = repository.builds.trigger(&job, b"", poster()).await.unwrap();
        build(&repository, &job, n).await.unwrap();
        let keys = told(&repository).await;
        assert_eq!(keys.len(), 2);
        let sent = repository.claims.claim(&keys[0], claimant()).await.unwrap();
        let mut console = sent.console.lock().await;
        console.append(&repository.consoles, &sent, b"sent\n").await.unwrap();
        drop(console);
        repository
            .claims
            .finish(&sent, TaskResult::read(b"failure\nno").unwrap())
            .await
            .unwrap();
        assert!(
            repository
                .store
                .coordination
                .get(&keys[0].path())
                .await
                .unwrap()
                .is_none()
        );
        for _ in 0..100 {
            let lost = repository.claims.claim(&keys[1], claimant()).await.unwrap();
            repository
                .claims
                .end_claim(&lost, crate::repository::model::claim::Cause::Died)
                .await;
        }
        assert!(repository.claims.claim(&keys[1], claimant()).await.is_err());
        assert!(told(&repository).await.is_empty());
        let upkeep = crate::repository::maintain::Upkeep::new(
            repository.store.coordination.clone(),
            repository.store.contents.clone(),
        );
        assert_eq!(upkeep.sweep().await.unwrap().faults, []);
        assert_eq!(assert_sound(&repository).await, 0);
    });
}

/// "What nobody sends goes after a week": an older one is taken away, unless somebody is at it.
#[test]
fn what_nobody_sends_goes_after_a_week() {
    let (dir, runtime) = (tempfile::tempdir().unwrap(), runtime());
    runtime.block_on(async {
        let store = Embedded::open(&dir.path().join("store")).unwrap();
        let repository = open(&store, dir.path()).await.unwrap();
        let job = configured(&repository, "hello", CONFIG_THAT_TELLS).await.unwrap();
        let n = repository.builds.trigger(&job, b"", poster()).await.unwrap();
        build(&repository, &job, n).await.unwrap();
        let keys = told(&repository).await;
        let held = repository.claims.claim(&keys[0], claimant()).await.unwrap();
        let week = 7 * 24 * 3600 * 1000;
        repository.builds.sweep_unsent(now()).await.unwrap();
        assert_eq!(told(&repository).await, keys);
        repository.builds.sweep_unsent(now() + week + 1000).await.unwrap();
        assert_eq!(told(&repository).await, keys[..1]);
        repository.claims.finish(&held, success()).await.unwrap();
        assert!(told(&repository).await.is_empty());
    });
}
