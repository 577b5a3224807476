//! A job gets another name: what stays, who wins a race, and what an end half-way leaves.

use super::crash::{Folder, Place, doomed};
use super::*;
use crate::backend::embedded::Embedded;
use crate::repository::model::event::Event;
use crate::repository::model::job::jobs_record;
use crate::storage::Updated;

/// A repository on a store of its own with the job `a`, one build of which has ended.
pub(super) async fn built(stores: Stores, dir: &Path) -> (Arc<Repository>, Job) {
    let repository = stores.open("first", dir).await.unwrap();
    let job = job(&repository, "a").await.unwrap();
    assert_eq!(
        repository.builds.trigger(&job, b"@key=once", poster()).await.unwrap(),
        1
    );
    build(&repository, &job, 1).await.unwrap();
    (repository, job)
}

pub(super) fn embedded(dir: &Path) -> Stores {
    Stores::alone(&Embedded::open(&dir.join("store")).unwrap())
}

/// What every job must hold to that was called `a` and may be called `b` now.
pub(super) async fn goes_on(repository: &Arc<Repository>, uid: &str) -> Job {
    let named: Vec<Job> = ["a", "b"].iter().filter_map(|name| repository.jobs.get(name)).collect();
    let [job] = named.as_slice() else {
        panic!("it has one name: {named:?}");
    };
    assert_eq!(job.uid(), uid);
    assert_whole(repository, job, 1).await;
    let again = repository.builds.trigger(job, b"@key=once", poster()).await.unwrap();
    assert_eq!(again, 1, "the keys of its triggers stay");
    assert_eq!(repository.builds.trigger(job, b"", poster()).await.unwrap(), 2);
    build(repository, job, 2).await.unwrap();
    assert_whole(repository, job, 2).await;
    assert_sound(repository).await;
    job.clone()
}

/// "the uid stays, and so does all that is kept under it".
#[test]
fn a_renamed_job_keeps_its_builds() {
    let (dir, runtime) = (tempfile::tempdir().unwrap(), runtime());
    runtime.block_on(async {
        let (repository, job) = built(embedded(dir.path()), dir.path()).await;
        let mut lines = repository.events.listen();
        repository.builds.rename_job(&job, &name("b"), None).await.unwrap();
        let line = loop {
            // What became of the build's tickets may be told first.
            let line = lines.recv().await.unwrap();
            if matches!(line, Event::JobRenamed { .. }) {
                break line;
            }
        };
        assert_eq!(line.to_string(), "job a renamed b");
        // As a mount does that has not heard of it.
        let refused = repository.builds.trigger(&job, b"", poster()).await;
        assert!(
            matches!(&refused, Err(Error::NotFound(what)) if what.ends_with("it is called b now")),
            "{refused:?}"
        );
        assert_eq!(goes_on(&repository, job.uid()).await.name.as_str(), "b");
    });
}

/// "EBUSY while a build is unfinished", "EEXIST onto a job".
#[test]
fn a_job_that_is_building_keeps_its_name() {
    let (dir, runtime) = (tempfile::tempdir().unwrap(), runtime());
    runtime.block_on(async {
        let (repository, first) = built(embedded(dir.path()), dir.path()).await;
        job(&repository, "c").await.unwrap();
        let taken = repository.builds.rename_job(&first, &name("c"), None).await;
        assert!(matches!(taken, Err(Error::Exists(_))), "{taken:?}");
        assert_eq!(repository.builds.trigger(&first, b"", poster()).await.unwrap(), 2);
        let busy = repository.builds.rename_job(&first, &name("b"), None).await;
        assert!(
            matches!(&busy, Err(Error::Busy(what)) if what.contains("build 2") && what.contains("abort")),
            "{busy:?}"
        );
        build(&repository, &first, 2).await.unwrap();
        repository.builds.rename_job(&first, &name("b"), None).await.unwrap();
        assert!(repository.jobs.get("a").is_none());
    });
}

/// "of a rename and a trigger one wins": one that was begun and stopped half-way changes nothing any more
/// once a build has begun under the old name.
#[test]
fn a_trigger_ends_a_rename_that_was_begun() {
    let (dir, runtime) = (tempfile::tempdir().unwrap(), runtime());
    runtime.block_on(async {
        let (repository, job) = built(embedded(dir.path()), dir.path()).await;
        let counter = repository.jobs.name_counter(&job, "b").await.unwrap();
        // Its last look at the list and at the counter was before this.
        let (_, seen) = repository.jobs.line(&job.name).await.unwrap();
        assert_eq!(repository.builds.trigger(&job, b"", poster()).await.unwrap(), 2);
        let late = repository
            .store
            .contents
            .update(&jobs_record(), Some(seen), Vec::new())
            .await;
        assert!(matches!(late, Ok(Updated::Mismatch { .. })), "{late:?}");
        let stopped = repository.jobs.move_line(&job, &name("b"), &counter, None).await;
        assert!(matches!(stopped, Err(Error::Busy(_))), "{stopped:?}");
        build(&repository, &job, 2).await.unwrap();
        assert_sound(&repository).await;
        // A retry is held to the name in the same way.
        repository.jobs.name_counter(&job, "b").await.unwrap();
        let word = crate::repository::control::Word::Abort;
        assert_eq!(repository.builds.trigger(&job, b"", poster()).await.unwrap(), 3);
        repository.control(&job, 3, word, poster()).await.unwrap();
        let counter = repository.jobs.name_counter(&job, "b").await.unwrap();
        let word = crate::repository::control::Word::Retry;
        repository.control(&job, 3, word, poster()).await.unwrap();
        let stopped = repository.jobs.move_line(&job, &name("b"), &counter, None).await;
        assert!(matches!(stopped, Err(Error::Busy(_))), "{stopped:?}");
    });
}

/// "a crash at each step leaves one or the other name": under that it builds on.
#[test]
fn a_process_that_ends_while_it_renames_leaves_one_name() {
    let mut writes = 1;
    loop {
        let (dir, place) = (tempfile::tempdir().unwrap(), Folder(tempfile::tempdir().unwrap()));
        let first = runtime();
        let (uid, renamed, over) = first.block_on(async {
            let store = doomed(place.first().await, "name");
            let (repository, job) = built(store.stores(), dir.path()).await;
            store.arm(writes);
            let renamed = repository.builds.rename_job(&job, &name("b"), None).await;
            (job.uid().to_owned(), renamed.is_ok(), store.is_over())
        });
        drop(first);
        runtime().block_on(async {
            let repository = place.next().await.open("next", dir.path()).await.unwrap();
            let job = goes_on(&repository, &uid).await;
            assert!(!renamed || job.name.as_str() == "b", "after {writes} writes");
        });
        if !over {
            assert!(renamed && writes > 2, "{writes}");
            break;
        }
        writes += 1;
    }
}
