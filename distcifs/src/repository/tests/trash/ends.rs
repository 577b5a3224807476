//! A process that ends after any of its writes, while it removes, restores, moves or sweeps.

use super::super::crash::{ANY, Folder, Place, doomed};
use super::*;

/// The first life of a process does something to a job that was built once, and ends after so many writes
/// of it; then `after` looks at what is left, and knows whether it was done.
fn ended_after_each_write<B, D, A>(before: B, act: D, after: A)
where
    B: AsyncFn(&Arc<Repository>, &Job),
    D: AsyncFn(&Arc<Repository>, &Job) -> bool,
    A: AsyncFn(&Arc<Repository>, &Job, bool),
{
    let mut writes = 1;
    loop {
        let (dir, place) = (tempfile::tempdir().unwrap(), Folder(tempfile::tempdir().unwrap()));
        let first = runtime();
        let (job, done, over) = first.block_on(async {
            let store = doomed(place.first().await, ANY);
            let (repository, job) = built(store.stores(), dir.path()).await;
            before(&repository, &job).await;
            store.arm(writes);
            let done = act(&repository, &job).await;
            (job, done, store.is_over())
        });
        drop(first);
        runtime().block_on(async {
            let repository = place.next().await.open("next", dir.path()).await.unwrap();
            after(&repository, &job, done).await;
        });
        if !over {
            assert!(done && writes > 2, "{writes}");
            return;
        }
        writes += 1;
    }
}

/// Whether the job is there, or is in the trash and comes back; whole in either case.
async fn is_somewhere(repository: &Arc<Repository>, job: &Job) -> bool {
    assert_sound(repository).await;
    gc(repository).await;
    let there = repository.jobs.get("a").is_some();
    assert_eq!(names(repository).await.contains(&"a".to_owned()), !there);
    if !there {
        repository.builds.restore_job(job.uid(), &name("a")).await.unwrap();
    }
    goes_on(repository, job.uid()).await;
    there
}

/// "Any mount may die at any step": the job is there or in the trash, with all that it has.
#[test]
fn a_process_that_ends_while_it_removes_a_job_loses_nothing() {
    ended_after_each_write(
        async |_, _| {},
        async |repository, job| repository.builds.trash_job(job, 7, None).await.is_ok(),
        async |repository, job, done| {
            let there = is_somewhere(repository, job).await;
            assert!(!done || !there);
        },
    );
}

#[test]
fn a_process_that_ends_while_it_restores_a_job_loses_nothing() {
    ended_after_each_write(
        async |repository, job| {
            repository.builds.trash_build(job, 1, 7).await.unwrap();
            repository.builds.trash_job(job, 7, None).await.unwrap();
        },
        async |repository, job| repository.builds.restore_job(job.uid(), &name("a")).await.is_ok(),
        async |repository, job, done| {
            let there = is_somewhere(repository, job).await;
            assert!(!done || there);
        },
    );
}

#[test]
fn a_process_that_ends_while_it_moves_a_build_loses_nothing() {
    ended_after_each_write(
        async |_, _| {},
        async |repository, job| {
            let removed = repository.builds.trash_build(job, 1, 7).await.is_ok();
            removed && repository.builds.restore_build(job, 1).await.is_ok()
        },
        async |repository, job, _| {
            assert_sound(repository).await;
            gc(repository).await;
            let there = repository.builds.has_build(job, 1).await.unwrap();
            assert_eq!(names(repository).await.contains(&"a/1".to_owned()), !there);
            if !there {
                repository.builds.restore_build(job, 1).await.unwrap();
            }
            goes_on(repository, job.uid()).await;
        },
    );
}

/// "Each mount sweeps": what one has begun another, or gc, brings to its end.
#[test]
fn a_process_that_ends_while_it_sweeps_leaves_nothing_for_good() {
    ended_after_each_write(
        async |repository, job| {
            repository.builds.trash_build(job, 1, 7).await.unwrap();
            assert_eq!(repository.builds.trigger(job, b"", poster()).await.unwrap(), 2);
            build(repository, job, 2).await.unwrap();
            repository.builds.trash_job(job, 7, None).await.unwrap();
        },
        async |repository, _| {
            let swept = repository.builds.sweep_trash(now() + 8 * DAY).await.is_ok();
            let left = repository.builds.trash(&|_| true).await;
            swept && left.is_ok_and(|left| left.is_empty())
        },
        async |repository, _, _| {
            assert_sound(repository).await;
            repository.builds.sweep_trash(now() + 8 * DAY).await.unwrap();
            assert_eq!(names(repository).await, [""; 0]);
            assert_nothing_left(repository).await;
        },
    );
}
