//! What is removed can be brought back for some days: whole, or not at all, whoever ends half-way.

use super::rename::{built, embedded, goes_on};
use super::*;
use crate::repository::control::Word;
use crate::repository::core::now;
use crate::repository::maintain::{Swept, Upkeep};
use crate::repository::model::record::Record;
use crate::repository::model::trash::Removal;
use crate::repository::trash::TrashItem;
use crate::storage::Object;

mod ends;

const HOUR: u64 = 3600 * 1000;
const DAY: u64 = 24 * HOUR;

async fn items(repository: &Arc<Repository>) -> Vec<TrashItem> {
    repository.builds.trash(&|_| true).await.unwrap()
}

async fn names(repository: &Arc<Repository>) -> Vec<String> {
    let items = items(repository).await;
    let short = |item: &TrashItem| match item.id.build {
        Some(n) => format!("{}/{n}", item.id.job),
        None => item.id.job.to_string(),
    };
    items.iter().map(short).collect()
}

async fn gc(repository: &Arc<Repository>) -> Swept {
    let upkeep = Upkeep::new(repository.store.coordination.clone(), repository.store.contents.clone());
    let swept = upkeep.sweep().await.unwrap();
    assert_eq!(swept.faults, []);
    swept
}

/// Nothing of any job is left in the stores once gc was there.
async fn assert_nothing_left(repository: &Arc<Repository>) {
    gc(repository).await;
    assert_eq!(assert_sound(repository).await, 0);
    for kind in ["chunk", "tree", "console", "job", "build"] {
        let mut listing = repository.store.contents.list(kind).await.unwrap();
        assert_eq!(listing.next().await.unwrap(), [], "{kind}");
    }
    for folder in ["/jobs", "/keys"] {
        assert!(repository.store.children(folder).await.unwrap().is_empty(), "{folder}");
    }
    for record in ["jobs", "trash"] {
        let object = Object::Record(record.into());
        let page = repository.store.contents.query(&object, "", "", 9).await.unwrap();
        assert_eq!(page.entries, [], "{record}");
    }
}

/// A removal so long ago.
fn ago(millis: u64) -> Removal {
    Removal {
        removed: now() - millis,
        until: now() + DAY,
        by: crate::repository::model::deed::Person {
            uid: 0,
            name: "root".into(),
        },
    }
}

/// "rmdir of a job moves it to the trash": there is none of it among the jobs, nothing can be begun there,
/// and gc leaves all that it has. A job that is made under its name is another.
#[test]
fn a_removed_job_comes_back_whole() {
    let (dir, runtime) = (tempfile::tempdir().unwrap(), runtime());
    runtime.block_on(async {
        let (repository, old) = built(embedded(dir.path()), dir.path()).await;
        repository.builds.trash_job(&old, 7, None).await.unwrap();
        assert!(repository.jobs.get("a").is_none() && repository.jobs.by_uid(old.uid()).is_none());
        let refused = repository.builds.trigger(&old, b"", poster()).await;
        assert!(matches!(refused, Err(Error::NotFound(_))), "{refused:?}");
        let refused = repository.control(&old, 1, Word::Retry, poster()).await;
        assert!(matches!(refused, Err(Error::NotFound(_))), "{refused:?}");
        let found = items(&repository).await;
        let [item] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!(
            (item.id.uid.as_str(), item.builds, item.state),
            (old.uid(), Some(1), None)
        );
        assert_eq!((item.removal.by.uid, item.access), (7, old.entry.access));
        assert_eq!(item.removal.until - item.removal.removed, 7 * DAY);
        assert!(
            repository
                .builds
                .trash(&|owner| owner != me().0)
                .await
                .unwrap()
                .is_empty()
        );
        gc(&repository).await;
        assert_sound(&repository).await;
        let new = job(&repository, "a").await.unwrap();
        assert_eq!(
            repository.builds.trigger(&new, b"@key=once", poster()).await.unwrap(),
            1
        );
        build(&repository, &new, 1).await.unwrap();
        let taken = repository.builds.restore_job(old.uid(), &name("a")).await;
        assert!(
            matches!(&taken, Err(Error::Exists(why)) if why.contains("--as")),
            "{taken:?}"
        );
        repository.builds.remove_job(&new, None).await.unwrap();
        gc(&repository).await;
        let back = repository.builds.restore_job(old.uid(), &name("b")).await.unwrap();
        assert_eq!((back.name.as_str(), back.uid()), ("b", old.uid()));
        assert!(items(&repository).await.is_empty());
        assert_eq!(goes_on(&repository, old.uid()).await.name.as_str(), "b");
        let gone = repository.builds.restore_job(old.uid(), &name("c")).await;
        assert!(matches!(gone, Err(Error::NotFound(_))), "{gone:?}");
    });
}

/// "rmdir of a build moves it to the trash": no number, link or retry leads to it, and its number is not
/// used again. It comes back as it was.
#[test]
fn a_removed_build_comes_back_whole() {
    let (dir, runtime) = (tempfile::tempdir().unwrap(), runtime());
    runtime.block_on(async {
        let (repository, job) = built(embedded(dir.path()), dir.path()).await;
        repository.builds.trash_build(&job, 1, 7).await.unwrap();
        assert!(!repository.builds.has_build(&job, 1).await.unwrap());
        assert_eq!(repository.builds.build_numbers(&job).await.unwrap(), [0_u64; 0]);
        assert_eq!(repository.builds.newest(&job, true).await.unwrap(), None);
        for word in [Word::Retry, Word::Keep] {
            let refused = repository.control(&job, 1, word, poster()).await;
            assert!(matches!(refused, Err(Error::NotFound(_))), "{word:?}: {refused:?}");
        }
        let again = repository.builds.trash_build(&job, 1, 7).await;
        assert!(matches!(again, Err(Error::NotFound(_))), "{again:?}");
        assert_eq!(names(&repository).await, ["a/1"]);
        gc(&repository).await;
        assert_sound(&repository).await;
        repository.builds.restore_build(&job, 1).await.unwrap();
        assert_whole(&repository, &job, 1).await;
        assert!(items(&repository).await.is_empty());
        let gone = repository.builds.restore_build(&job, 1).await;
        assert!(matches!(gone, Err(Error::NotFound(_))), "{gone:?}");
        goes_on(&repository, job.uid()).await;
    });
}

/// Somebody late writes the record, or what was kept of it, once more: the build stays in the trash.
#[test]
fn a_record_that_is_late_brings_nothing_back() {
    let (dir, runtime) = (tempfile::tempdir().unwrap(), runtime());
    runtime.block_on(async {
        let (repository, job) = built(embedded(dir.path()), dir.path()).await;
        let (record, revision) = repository.builds.stored_record(&job, 1).await.unwrap();
        repository.builds.trash_build(&job, 1, 7).await.unwrap();
        repository
            .builds
            .save_record(&job, 1, revision, record.unwrap())
            .await
            .unwrap();
        assert!(!repository.builds.has_build(&job, 1).await.unwrap());
        assert_eq!(repository.builds.indexed(&job).await.unwrap().len(), 0);
        repository.builds.restore_build(&job, 1).await.unwrap();
        assert_whole(&repository, &job, 1).await;
    });
}

/// "Of a removal and a retry one wins": a build that was retried while it was moved is there when it ends, and
/// while it runs.
#[test]
fn a_build_that_is_retried_while_it_is_removed_is_not_lost() {
    let (dir, runtime) = (tempfile::tempdir().unwrap(), runtime());
    runtime.block_on(async {
        let (repository, job) = built(embedded(dir.path()), dir.path()).await;
        let (record, revision) = repository.builds.stored_record(&job, 1).await.unwrap();
        let failed = Arc::new(Record {
            state: Verdict::Failure,
            ..(*record.unwrap()).clone()
        });
        repository.builds.save_record(&job, 1, revision, failed).await.unwrap();
        repository.control(&job, 1, Word::Retry, poster()).await.unwrap();
        // The other mount's move comes after the retry looked for it.
        repository.builds.move_build_line(&job, 1, &ago(0)).await.unwrap();
        assert!(repository.builds.has_build(&job, 1).await.unwrap());
        let control = crate::repository::model::ticket::control_key("a", 1, 1).unwrap();
        let controller = claim(&repository, &control).await.unwrap().expect("it is open");
        repository.claims.finish(&controller, success()).await.unwrap();
        while repository.builds.build(&job, 1).await.unwrap().live.is_some() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        assert_eq!(names(&repository).await, Vec::<String>::new());
        assert_whole(&repository, &job, 1).await;
        let indexed = repository.builds.indexed(&job).await.unwrap();
        assert_eq!(indexed.first().map(|(_, line)| line.state), Some(Verdict::Success));
    });
}

/// "All that was removed is listed, and swept when its time is over", of however many jobs.
#[test]
fn removed_builds_of_many_jobs_are_listed_and_swept() {
    let (dir, runtime) = (tempfile::tempdir().unwrap(), runtime());
    runtime.block_on(async {
        let repository = embedded(dir.path()).open("first", dir.path()).await.unwrap();
        let many = crate::repository::work::READS_MAX + 1;
        for n in 0..many {
            let job = job(&repository, &format!("j{n}")).await.unwrap();
            assert_eq!(repository.builds.trigger(&job, b"", poster()).await.unwrap(), 1);
            build(&repository, &job, 1).await.unwrap();
            repository.builds.trash_build(&job, 1, 7).await.unwrap();
        }
        let mut listed = names(&repository).await;
        listed.sort_unstable();
        let mut expected: Vec<_> = (0..many).map(|n| format!("j{n}/1")).collect();
        expected.sort_unstable();
        assert_eq!(listed, expected);
        repository.builds.sweep_trash(now() + 8 * DAY).await.unwrap();
        assert_eq!(names(&repository).await, Vec::<String>::new());
    });
}

/// "Where a build has both lines, because somebody was late who recorded it, it counts as there": what names it
/// leads to it, and what was in the trash goes with its time.
#[test]
fn a_build_with_both_lines_is_there() {
    let (dir, runtime) = (tempfile::tempdir().unwrap(), runtime());
    runtime.block_on(async {
        let (repository, job) = built(embedded(dir.path()), dir.path()).await;
        let line = repository.builds.index_line(&job, 1).await.unwrap();
        repository.builds.trash_build(&job, 1, 7).await.unwrap();
        assert!(repository.builds.record(&job, 1).await.unwrap().is_none());
        // It ended before it looked at the trash.
        repository.builds.change_index(&job, 1, line).await.unwrap();
        assert_eq!(repository.builds.newest(&job, true).await.unwrap(), Some(1));
        assert!(repository.builds.has_build(&job, 1).await.unwrap());
        assert_whole(&repository, &job, 1).await;
        repository.builds.sweep_trash(now() + 8 * DAY).await.unwrap();
        assert_eq!(names(&repository).await, [""; 0]);
        assert_whole(&repository, &job, 1).await;
        goes_on(&repository, job.uid()).await;
    });
}

/// "Restoring a job brings its builds that were removed in the last hour before it": others stay in the trash.
#[test]
fn a_job_brings_what_was_removed_with_it() {
    let (dir, runtime) = (tempfile::tempdir().unwrap(), runtime());
    runtime.block_on(async {
        let (repository, job) = built(embedded(dir.path()), dir.path()).await;
        for n in 2..=4 {
            assert_eq!(repository.builds.trigger(&job, b"", poster()).await.unwrap(), n);
            build(&repository, &job, n).await.unwrap();
        }
        repository.builds.trash_build(&job, 1, 7).await.unwrap();
        repository.builds.restore_build(&job, 1).await.unwrap();
        let old = ago(2 * HOUR);
        repository.builds.move_build_line(&job, 1, &old).await.unwrap();
        repository.builds.trash_build(&job, 2, 7).await.unwrap();
        repository.builds.trash_build(&job, 3, 7).await.unwrap();
        repository.builds.trash_job(&job, 7, None).await.unwrap();
        assert_eq!(names(&repository).await, ["a"]);
        assert_eq!(items(&repository).await[0].builds, Some(3));
        // What comes with the job stays as long as that, whenever it would have gone itself.
        repository.builds.sweep_trash(now() + 2 * DAY).await.unwrap();
        gc(&repository).await;
        let back = repository.builds.restore_job(job.uid(), &name("a")).await.unwrap();
        assert_eq!(repository.builds.build_numbers(&back).await.unwrap(), [2, 3, 4]);
        for n in 2..=4 {
            assert_whole(&repository, &back, n).await;
        }
        assert!(items(&repository).await.is_empty(), "the first was over");
        assert_eq!(repository.builds.trigger(&back, b"", poster()).await.unwrap(), 5);
    });
}

/// "for `trash_days`": the time is that of the removal, and then it is gone, and gc frees it. 0: at once.
#[test]
fn what_is_over_is_swept() {
    let (dir, runtime) = (tempfile::tempdir().unwrap(), runtime());
    runtime.block_on(async {
        let (repository, first) = built(embedded(dir.path()), dir.path()).await;
        assert_eq!(repository.builds.trigger(&first, b"", poster()).await.unwrap(), 2);
        build(&repository, &first, 2).await.unwrap();
        let second = job(&repository, "b").await.unwrap();
        repository.builds.trash_build(&first, 2, 7).await.unwrap();
        repository.builds.trash_job(&second, 7, None).await.unwrap();
        repository.builds.keep_trash_for(1);
        repository.builds.sweep_trash(now() + 6 * DAY).await.unwrap();
        assert_eq!(names(&repository).await, ["b", "a/2"]);
        repository.builds.sweep_trash(now() + 8 * DAY).await.unwrap();
        assert_eq!(names(&repository).await, [""; 0]);
        assert!(gc(&repository).await.kept > 0);
        assert_eq!(assert_sound(&repository).await, 0);
        assert_whole(&repository, &first, 1).await;
        repository.builds.trash_job(&first, 7, None).await.unwrap();
        repository.builds.sweep_trash(now() + 2 * DAY).await.unwrap();
        assert_nothing_left(&repository).await;
        repository.builds.keep_trash_for(0);
        let third = job(&repository, "a").await.unwrap();
        repository.builds.trash_job(&third, 7, None).await.unwrap();
        assert_eq!(names(&repository).await, [""; 0]);
        assert_nothing_left(&repository).await;
    });
}

/// What is removed by hand is gone, and takes nothing else with it.
#[test]
fn what_is_discarded_is_gone() {
    let (dir, runtime) = (tempfile::tempdir().unwrap(), runtime());
    runtime.block_on(async {
        let (repository, job) = built(embedded(dir.path()), dir.path()).await;
        assert!(!repository.builds.discard_build(&job, 1, u64::MAX).await.unwrap());
        assert!(!repository.builds.discard_job(job.uid(), u64::MAX).await.unwrap());
        repository.builds.trash_build(&job, 1, 7).await.unwrap();
        assert!(repository.builds.discard_build(&job, 1, u64::MAX).await.unwrap());
        assert_eq!(
            repository.builds.trigger(&job, b"", poster()).await.unwrap(),
            2,
            "no number twice"
        );
        build(&repository, &job, 2).await.unwrap();
        repository.builds.trash_job(&job, 7, None).await.unwrap();
        assert!(repository.builds.discard_job(job.uid(), u64::MAX).await.unwrap());
        assert_nothing_left(&repository).await;
    });
}

/// "EBUSY while something of it runs": of a trigger and a removal one wins.
#[test]
fn what_builds_is_not_removed() {
    let (dir, runtime) = (tempfile::tempdir().unwrap(), runtime());
    runtime.block_on(async {
        let (repository, job) = built(embedded(dir.path()), dir.path()).await;
        let key = format!(".trash/{}", job.uid());
        let counter = repository.jobs.name_counter(&job, &key).await.unwrap();
        // Begun, and a trigger came before its last look.
        assert_eq!(repository.builds.trigger(&job, b"", poster()).await.unwrap(), 2);
        let line = |entry: crate::repository::model::job::JobEntry| {
            Ok((crate::repository::model::json::to_json(&entry), entry))
        };
        let stopped = repository.jobs.shift(&job, ("a", key.as_str()), &counter, line).await;
        assert!(matches!(stopped, Err(Error::Busy(_))), "{stopped:?}");
        let busy = repository.builds.trash_job(&job, 7, None).await;
        assert!(
            matches!(&busy, Err(Error::Busy(what)) if what.contains("build 2") && what.contains("abort")),
            "{busy:?}"
        );
        let busy = repository.builds.trash_build(&job, 2, 7).await;
        assert!(
            matches!(&busy, Err(Error::Busy(what)) if what.contains("abort")),
            "{busy:?}"
        );
        build(&repository, &job, 2).await.unwrap();
        // Somebody has begun to retry it after the removal looked: what runs is not in the trash.
        repository.control(&job, 2, Word::Retry, poster()).await.unwrap();
        let busy = repository.builds.move_to_trash(&job, 2, &ago(0)).await;
        assert!(matches!(busy, Err(Error::Busy(_))), "{busy:?}");
        assert_eq!(names(&repository).await, [""; 0]);
        assert!(
            repository
                .builds
                .indexed(&job)
                .await
                .unwrap()
                .iter()
                .any(|(n, _)| *n == 2)
        );
        assert!(repository.jobs.get("a").is_some());
    });
}

/// "gc runs beside builds": it goes on where a job that it read in the trash was restored and triggered since.
#[test]
fn a_job_that_is_restored_and_builds_holds_up_no_gc() {
    let (dir, runtime) = (tempfile::tempdir().unwrap(), runtime());
    runtime.block_on(async {
        let (repository, job) = built(embedded(dir.path()), dir.path()).await;
        repository.builds.trash_job(&job, 7, None).await.unwrap();
        let list = Object::Record("jobs".into());
        let removed = repository.store.contents.query(&list, ".trash/", "", 9).await.unwrap();
        let (key, line) = removed.entries[0].clone();
        let job = repository.builds.restore_job(job.uid(), &name("a")).await.unwrap();
        assert_eq!(repository.builds.trigger(&job, b"", poster()).await.unwrap(), 2);
        // What it read before is what the list says now.
        let restored = repository
            .store
            .contents
            .query(&list, "a", "", 1)
            .await
            .unwrap()
            .entries;
        let there = ("a".to_owned(), Some(restored[0].1.clone()));
        let earlier = vec![("a".to_owned(), None), (key.clone(), Some(line))];
        repository.store.contents.update(&list, None, earlier).await.unwrap();
        assert_eq!(assert_sound(&repository).await, 0);
        gc(&repository).await;
        repository
            .store
            .contents
            .update(&list, None, vec![there, (key, None)])
            .await
            .unwrap();
        build(&repository, &job, 2).await.unwrap();
        assert_whole(&repository, &job, 2).await;
        assert_sound(&repository).await;
    });
}

/// A job whose restoring would close a circle of downstream jobs stays where it is.
#[test]
fn a_job_comes_back_into_no_circle() {
    let (dir, runtime) = (tempfile::tempdir().unwrap(), runtime());
    runtime.block_on(async {
        let repository = embedded(dir.path()).open("first", dir.path()).await.unwrap();
        let [a, b] = [
            job(&repository, "a").await.unwrap(),
            job(&repository, "b").await.unwrap(),
        ];
        let configure = async |of: &Job, next: &str| {
            let text = format!(r#"{{"downstream_jobs": ["{next}"], "tasks": []}}"#);
            let mut held = repository.configs.lock(of, true).await.unwrap();
            let written = repository.configs.write(of, &mut held, text.into(), 0).await.unwrap();
            assert!(written.is_ok(), "{written:?}");
        };
        configure(&a, "b").await;
        repository.builds.trash_job(&a, 7, None).await.unwrap();
        configure(&b, "a").await;
        let circle = repository.builds.restore_job(a.uid(), &name("a")).await;
        assert!(matches!(circle, Err(Error::Invalid(_))), "{circle:?}");
        repository.builds.restore_job(a.uid(), &name("c")).await.unwrap();
    });
}

/// Two mounts: what one removes the other brings back, and the first goes on with it.
#[test]
fn another_mount_brings_back_what_one_removed() {
    let (dir, runtime) = (tempfile::tempdir().unwrap(), runtime());
    runtime.block_on(async {
        let store = crate::backend::embedded::Embedded::open(&dir.path().join("store")).unwrap();
        let stores = Stores {
            shared: true,
            ..Stores::alone(&store)
        };
        crate::repository::format::make(&stores.coordination, &stores.contents, false)
            .await
            .unwrap();
        let (one, job) = built(stores.clone(), dir.path()).await;
        let other = stores.open("second", dir.path()).await.unwrap();
        assert_whole(&other, &job, 1).await;
        one.builds.trash_build(&job, 1, 7).await.unwrap();
        assert!(!other.builds.has_build(&job, 1).await.unwrap());
        one.builds.trash_job(&job, 7, None).await.unwrap();
        assert!(other.jobs.find("b").await.unwrap().is_none());
        assert_eq!(names(&other).await, ["a"]);
        let back = other.builds.restore_job(job.uid(), &name("b")).await.unwrap();
        assert_whole(&other, &back, 1).await;
        let seen = one.jobs.find("b").await.unwrap().unwrap();
        assert_eq!(seen.uid(), job.uid());
        assert_whole(&one, &seen, 1).await;
        // Both sweep at once, and one restores meanwhile.
        one.builds.trash_job(&seen, 7, None).await.unwrap();
        let (later, b) = (now() + 8 * DAY, name("b"));
        let (here, there, restored) = tokio::join!(
            one.builds.sweep_trash(later),
            other.builds.sweep_trash(later),
            other.builds.restore_job(job.uid(), &b)
        );
        here.unwrap();
        there.unwrap();
        match restored {
            Ok(job) => assert_whole(&other, &job, 1).await,
            Err(Error::NotFound(_) | Error::Busy(_)) => {}
            Err(error) => panic!("{error:?}"),
        }
        assert_sound(&one).await;
    });
}

/// A line whose name can't be read holds up nothing else: neither the listing nor the sweep.
#[test]
fn a_damaged_line_is_left_out() {
    let (dir, runtime) = (tempfile::tempdir().unwrap(), runtime());
    runtime.block_on(async {
        let (repository, job) = built(embedded(dir.path()), dir.path()).await;
        repository.builds.trash_build(&job, 1, 7).await.unwrap();
        let line = r#"{"id": "0", "uid": 7, "gid": 0, "mode": 488, "created": 1, "name": "a/b", "builds": 0,
            "trash": {"removed": 1, "until": 2, "by": {"uid": 0, "name": ""}}}"#;
        // Its uid is before all others.
        for (record, key, text) in [("jobs", ".trash/0", line), ("trash", "0", "1")] {
            let change = vec![(key.to_owned(), Some(text.into()))];
            let object = Object::Record(record.into());
            repository.store.contents.update(&object, None, change).await.unwrap();
        }
        assert_eq!(names(&repository).await, ["a/1"]);
        repository.builds.sweep_trash(now() + 8 * DAY).await.unwrap();
        assert_eq!(names(&repository).await, [""; 0]);
    });
}
