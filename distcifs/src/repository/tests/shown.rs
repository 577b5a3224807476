//! What is kept of builds that are looked at again and again: counted, not timed.

use super::*;
use crate::backend::embedded::Embedded;
use crate::repository::model::ops::set;

/// A look at a build of which nothing has changed reads no ticket and makes no text; each change is seen.
#[test]
fn an_unchanged_build_is_neither_read_nor_made_anew() {
    let (dir, runtime) = (tempfile::tempdir().unwrap(), runtime());
    runtime.block_on(async {
        let store = Embedded::open(&dir.path().join("store")).unwrap();
        let repository = open(&store, dir.path()).await.unwrap();
        let job = job(&repository, "hello").await.unwrap();
        let n = repository.builds.trigger(&job, b"", poster()).await.unwrap();
        let text = async || {
            let build = repository.builds.build(&job, n).await.unwrap();
            let bytes = repository.build_text(&build).await;
            serde_json::from_slice::<serde_json::Value>(&bytes).unwrap()
        };
        let counts = || (repository.store.entry_cache.looked.answers(), repository.shown.made());
        let settled = async || {
            // What the repository itself does after a change comes to its end.
            let begun = Instant::now();
            loop {
                let (one, _) = (text().await, ());
                let before = counts();
                for _ in 0..20 {
                    assert_eq!(text().await, one);
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                if counts() == before {
                    return one;
                }
                assert!(begun.elapsed() < PATIENCE, "it is made anew all the time");
            }
        };
        assert_eq!(settled().await["tasks"][0]["state"], "waiting");
        let controller = claim(&repository, &control_key(&job, n)).await.unwrap().unwrap();
        post(&repository, &job, n).await.unwrap();
        assert_eq!(text().await["tasks"][0]["state"], "posted");
        let task = claim(&repository, &task_key(&job, n)).await.unwrap().unwrap();
        assert_eq!(text().await["tasks"][0]["state"], "running");
        assert_eq!(settled().await["tasks"][0]["state"], "running");
        // Whoever else changes a ticket is told of, too.
        let entry = repository.store.get(&controller.key.path()).await.unwrap().unwrap();
        let before = counts().0;
        let ops = vec![set(controller.key.path(), entry.data, entry.version)];
        repository.store.coordination.commit(ops).await.unwrap();
        let begun = Instant::now();
        while counts().0 == before {
            text().await;
            assert!(begun.elapsed() < PATIENCE, "a change is never told");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        work(&repository, &task).await.unwrap();
        repository.claims.finish(&task, success()).await.unwrap();
        assert_eq!(text().await["tasks"][0]["state"], "success");
    });
}

/// Of a finished build the text is made once.
#[test]
fn the_text_of_a_finished_build_is_made_once() {
    let (dir, runtime) = (tempfile::tempdir().unwrap(), runtime());
    runtime.block_on(async {
        let store = Embedded::open(&dir.path().join("store")).unwrap();
        let repository = open(&store, dir.path()).await.unwrap();
        let job = job(&repository, "hello").await.unwrap();
        for n in [1, 2] {
            assert_eq!(repository.builds.trigger(&job, b"", poster()).await.unwrap(), n);
            build(&repository, &job, n).await.unwrap();
        }
        let text = async |n| {
            let build = repository.builds.build(&job, n).await.unwrap();
            repository.build_text(&build).await
        };
        let (one, two) = (text(1).await, text(2).await);
        let made = repository.shown.made();
        for _ in 0..10 {
            assert!(text(1).await == one && text(2).await == two);
        }
        assert_eq!(repository.shown.made(), made);
    });
}
