//! What a result stored goes again when it is refused, and what anybody else may refer to stays.

use std::os::unix::fs::symlink;

use super::super::fresh::{Fresh, Storing};
use super::*;
use crate::backend::embedded::Embedded;
use crate::repository::model::ops::set;
use crate::storage::Object;

/// How many blobs a store has, and their bytes.
fn blobs(dir: &Path) -> (usize, u64) {
    let list = |folder: &Path| -> Vec<std::fs::DirEntry> {
        let found = std::fs::read_dir(folder).into_iter().flatten();
        found.map(|entry| entry.unwrap()).collect()
    };
    let shards = ["chunk", "tree"]
        .into_iter()
        .flat_map(|kind| list(&dir.join("store/objects").join(kind)));
    let all = shards.flat_map(|shard| list(&shard.path()));
    // One that goes while they are counted is gone.
    let sizes = all.filter_map(|blob| blob.metadata().ok());
    sizes.fold((0, 0), |(count, bytes), blob| (count + 1, bytes + blob.len()))
}

/// A configuration of two tasks.
const TWO: &str = r#"{"tasks": [{"type": "execute-shell", "params": {"script": "true"}},
    {"type": "execute-shell", "params": {"script": "true"}}]}"#;

/// Bytes that no other file here has.
fn noise(length: usize, seed: u8) -> Vec<u8> {
    let mut out = vec![0; length];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut out);
    out
}

/// A repository with a claimed task of a build.
async fn claimed(dir: &Path) -> (Arc<Repository>, Job, Arc<Claim>, Arc<Claim>) {
    let store = Embedded::open(&dir.join("store")).unwrap();
    let repository = open(&store, dir).await.unwrap();
    let job = job(&repository, "hello").await.unwrap();
    let n = repository.builds.trigger(&job, b"", poster()).await.unwrap();
    let controller = claim(&repository, &control_key(&job, n)).await.unwrap().unwrap();
    post(&repository, &job, n).await.unwrap();
    let task = claim(&repository, &task_key(&job, n)).await.unwrap().unwrap();
    (repository, job, controller, task)
}

/// Waits until a store has as many blobs as before.
async fn until_gone(dir: &Path, before: (usize, u64)) {
    let begun = Instant::now();
    while blobs(dir) != before {
        assert!(begun.elapsed() < PATIENCE, "{:?} where {before:?} were", blobs(dir));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// "What a result had stored is removed when it is refused": a claim that was taken away leaves nothing.
#[test]
fn a_result_of_a_lost_claim_leaves_nothing() {
    let (dir, runtime) = (tempfile::tempdir().unwrap(), runtime());
    runtime.block_on(async {
        let (repository, job, _controller, task) = claimed(dir.path()).await;
        work(&repository, &task).await.unwrap();
        let (workspace, artifacts) = (
            repository.claims.workspace_dir(&task).await.unwrap(),
            repository.claims.artifacts_dir(&task).await.unwrap(),
        );
        // In both folders: it is put twice by one claim.
        for folder in [&workspace, &artifacts] {
            std::fs::create_dir(folder.join("sub")).unwrap();
            std::fs::write(folder.join("sub/large"), noise(3 << 20, 1)).unwrap();
        }
        let before = blobs(dir.path());
        let entry = repository.store.get(&task.key.path()).await.unwrap().unwrap();
        let taken = vec![set(task.key.path(), entry.data.clone(), entry.version)];
        repository.store.commit(taken).await.unwrap();
        let refused = repository.claims.finish(&task, success()).await;
        assert!(matches!(refused, Err(Error::Stale(_))), "{refused:?}");
        until_gone(dir.path(), before).await;
        assert_eq!(assert_sound(&repository).await, 0, "and gc finds nothing");
        drop(job);
    });
}

/// A workspace that can't be stored leaves nothing either; what is mended is stored whole.
#[test]
fn a_workspace_that_can_not_be_stored_leaves_nothing() {
    let (dir, runtime) = (tempfile::tempdir().unwrap(), runtime());
    runtime.block_on(async {
        let (repository, job, controller, task) = claimed(dir.path()).await;
        work(&repository, &task).await.unwrap();
        let workspace = repository.claims.workspace_dir(&task).await.unwrap();
        std::fs::write(workspace.join("large"), noise(3 << 20, 2)).unwrap();
        let long = workspace.join("long");
        std::fs::create_dir(&long).unwrap();
        let (first, target) = (long.join("first"), "x".repeat(4000));
        symlink(target, &first).unwrap();
        for number in 0..16_500 {
            std::fs::hard_link(&first, long.join(format!("{number:0>200}"))).unwrap();
        }
        let before = blobs(dir.path());
        let refused = repository.claims.finish(&task, success()).await;
        assert!(matches!(refused, Err(Error::TooBig(_))), "{refused:?}");
        assert_eq!(blobs(dir.path()), before);
        std::fs::remove_dir_all(&long).unwrap();
        repository.claims.finish(&task, success()).await.unwrap();
        repository.claims.finish(&controller, success()).await.unwrap();
        build(&repository, &job, 1).await.unwrap();
        assert_whole(&repository, &job, 1).await;
        assert_sound(&repository).await;
    });
}

/// What another has put, or asked for, stays; what goes is put anew by whoever comes meanwhile.
#[test]
fn what_others_may_refer_to_stays() {
    let (dir, runtime) = (tempfile::tempdir().unwrap(), runtime());
    runtime.block_on(async {
        let store = Embedded::open(&dir.path().join("store")).unwrap();
        let repository = open(&store, dir.path()).await.unwrap();
        let fresh: &Arc<Fresh> = repository.attempts.fresh.as_ref().unwrap();
        let bytes = |seed| Bytes::from(noise(100, seed));
        let object = move |seed| Object::Chunk(Digest::of(&bytes(seed)));
        let (one, two) = (Storing::new(Some(fresh)), Storing::new(Some(fresh)));
        let (first, second) = (
            one.contents(&repository.store.contents),
            two.contents(&repository.store.contents),
        );
        // 10: there before; 11: put by another result; 12: by anybody; 13: asked for; 14: its alone, twice.
        repository.store.contents.put(&object(10), bytes(10)).await.unwrap();
        for seed in 10..=14 {
            first.put(&object(seed), bytes(seed)).await.unwrap();
        }
        second.put(&object(11), bytes(11)).await.unwrap();
        repository.store.contents.put(&object(12), bytes(12)).await.unwrap();
        assert!(repository.store.contents.size(&object(13)).await.unwrap().is_some());
        first.put(&object(14), bytes(14)).await.unwrap();
        let taken = fresh.take(one.by());
        assert_eq!(taken, [object(14)]);
        let again = {
            let contents = repository.store.contents.clone();
            tokio::spawn(async move { contents.put(&object(14), bytes(14)).await })
        };
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(!again.is_finished(), "it waits for the removal");
        assert_eq!(fresh.clone().remove(taken).await, 1);
        assert!(again.await.unwrap().unwrap(), "it was gone, and is put anew");
        for seed in 10..=14 {
            assert!(
                repository.store.contents.size(&object(seed)).await.unwrap().is_some(),
                "{seed}"
            );
        }
        second.put(&object(15), bytes(15)).await.unwrap();
        two.keep();
        assert_eq!(fresh.take(two.by()), []);
        assert_eq!(fresh.noted(), 0, "nothing is remembered of what is over");
    });
}

/// tree.md: "A workspace for which there is no room is ENOSPC …, and it is tried again after 5 s at the earliest. Where
/// only the store was away it is tried again after 1 s": by whoever asks first when it is back.
#[test]
fn a_workspace_is_made_soon_after_the_store_was_away() {
    use crate::storage::faults::{Faulty, Rates};
    let (dir, runtime) = (tempfile::tempdir().unwrap(), runtime());
    runtime.block_on(async {
        let store = Embedded::open(&dir.path().join("store")).unwrap();
        let rates = Rates {
            before: 1000,
            after: 0,
            delay: 0,
        };
        let faulty = Arc::new(Faulty::new(store.clone(), 1, rates));
        faulty.set_on(false);
        let stores = Stores {
            coordination: Arc::new(store),
            contents: faulty.clone(),
            shared: false,
        };
        let repository = stores.open("here", dir.path()).await.unwrap();
        let job = configured(&repository, "a", TWO).await.unwrap();
        let n = repository.builds.trigger(&job, b"", poster()).await.unwrap();
        let _controller = claim(&repository, &control_key(&job, n)).await.unwrap().unwrap();
        post(&repository, &job, n).await.unwrap();
        let first = claim(&repository, &task_key(&job, n)).await.unwrap().unwrap();
        work(&repository, &first).await.unwrap();
        repository.claims.finish(&first, success()).await.unwrap();
        let posted = repository.tickets.get(&task_key(&job, n)).await.unwrap().unwrap();
        let workspace = posted.ticket.outcome.unwrap().workspace.unwrap();
        // No folder is kept that the next could go on in.
        repository
            .attempts
            .forget_reusable(&[Digest::parse(&workspace).unwrap()]);
        let text = format!(r#"{{"job": "a", "build": {n}, "task": 1, "workspace": "{workspace}"}}"#);
        let request = TicketRequest::read(text.as_bytes()).unwrap();
        let key = TicketKey {
            queue: name("execute-shell"),
            id: repository
                .claims
                .post(&name("execute-shell"), request, poster())
                .await
                .unwrap(),
        };
        let claim = claim(&repository, &key).await.unwrap().unwrap();
        faulty.set_on(true);
        repository.claims.workspace_dir(&claim).await.unwrap_err();
        assert!(faulty.faults() > 0);
        faulty.set_on(false);
        let back = Instant::now();
        let made = loop {
            match repository.claims.workspace_dir(&claim).await {
                Ok(dir) => break dir,
                Err(error) => assert!(back.elapsed() < PATIENCE, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        assert_eq!(std::fs::read_to_string(made.join("made")).unwrap(), LINE);
    });
}
