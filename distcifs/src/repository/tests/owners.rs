//! Who owns something is decided by what the stores hold at that moment, not by what was seen before.

use super::*;
use crate::backend::embedded::Embedded;

const ALICE: u32 = 4001;
const MALLORY: u32 = 4002;

fn owned(uid: u32) -> Access {
    Access {
        uid,
        gid: uid,
        mode: 0o1777,
    }
}

async fn opened(dir: &Path) -> Arc<Repository> {
    let store = Embedded::open(&dir.join("store")).unwrap();
    open(&store, dir).await.unwrap()
}

/// "Where that is sticky the job's own owner": who was that removes and renames nothing, whatever he knows
/// of the job, and the job has lost nothing by his try.
#[test]
fn a_former_owner_removes_and_renames_nothing() {
    let (dir, runtime) = (tempfile::tempdir().unwrap(), runtime());
    runtime.block_on(async {
        let repository = opened(dir.path()).await;
        // As it was when he asked.
        let his = job(&repository, "a").await.unwrap();
        let give = |entry: &mut crate::repository::model::job::JobEntry| {
            entry.access = owned(ALICE);
            Ok(())
        };
        repository.jobs.change(&his, give).await.unwrap();
        let of = Some(MALLORY);
        let removed = repository.builds.remove_job(&his, of).await;
        assert!(matches!(removed, Err(Error::NotPermitted(_))), "{removed:?}");
        let removed = repository.builds.trash_job(&his, MALLORY, of).await;
        assert!(matches!(removed, Err(Error::NotPermitted(_))), "{removed:?}");
        let renamed = repository.builds.rename_job(&his, &name("b"), of).await;
        assert!(matches!(renamed, Err(Error::NotPermitted(_))), "{renamed:?}");
        repository.tops.make_queue(&name("q"), owned(ALICE)).await.unwrap();
        let removed = repository.tops.remove_queue(&name("q"), of).await;
        assert!(matches!(removed, Err(Error::NotPermitted(_))), "{removed:?}");
        let job = repository.jobs.get("a").unwrap();
        assert_eq!(repository.builds.trigger(&job, b"", poster()).await.unwrap(), 1);
        build(&repository, &job, 1).await.unwrap();
        let of = Some(ALICE);
        repository.tops.remove_queue(&name("q"), of).await.unwrap();
        repository.builds.rename_job(&job, &name("b"), of).await.unwrap();
        repository
            .builds
            .remove_job(&repository.jobs.get("b").unwrap(), of)
            .await
            .unwrap();
        assert_eq!(repository.jobs.count(), 0);
    });
}

/// "A descriptor from before the chown can't be used to slip one in": what was opened under another owner is
/// not put in force, before the new one has switched the job on or after.
#[test]
fn what_was_opened_under_a_former_owner_is_not_put_in_force() {
    let (dir, runtime) = (tempfile::tempdir().unwrap(), runtime());
    runtime.block_on(async {
        let repository = opened(dir.path()).await;
        let job = job(&repository, "a").await.unwrap();
        let text = || Bytes::from_static(CONFIG.as_bytes());
        let mut held = repository.configs.lock(&job, true).await.unwrap();
        repository
            .configs
            .write(&job, &mut held, text(), MALLORY)
            .await
            .unwrap()
            .unwrap();
        let before = repository.configs.read_head(&job).await.unwrap().0.unwrap().mark();
        let give = |entry: &mut crate::repository::model::job::JobEntry| {
            entry.access.uid = ALICE;
            Ok(())
        };
        let given = repository.jobs.change(&job, give).await.unwrap();
        let late = repository.configs.write(&given, &mut held, text(), MALLORY).await;
        let Err(Error::Stale(said)) = late else {
            panic!("{late:?}")
        };
        assert!(said.contains("open it again") && !said.contains("claim"), "{said}");
        let now = repository.configs.read_head(&job).await.unwrap().0.unwrap().mark();
        assert_eq!(now, before);
        drop(held);
        let mut held = repository.configs.lock(&given, true).await.unwrap();
        let written = repository
            .configs
            .write(&given, &mut held, text(), ALICE)
            .await
            .unwrap();
        assert_eq!(written.unwrap().owner, Some(ALICE));
    });
}

/// "Who changes an owner or mode is decided by what the stores hold at that moment", of the top folders too: a
/// change that read the former owner does not undo one that came between.
#[test]
fn of_two_changes_of_a_top_folder_none_undoes_the_other() {
    let (dir, runtime) = (tempfile::tempdir().unwrap(), runtime());
    runtime.block_on(async {
        let repository = opened(dir.path()).await;
        let change = |access: Access| {
            let repository = repository.clone();
            async move {
                let set = |now: &mut Access| {
                    *now = access;
                    Ok(())
                };
                repository.tops.change_top("jobs", owned(0), set).await
            }
        };
        change(owned(MALLORY)).await.unwrap();
        let handle = tokio::runtime::Handle::current();
        let mode = repository.tops.change_top("jobs", owned(0), |now| {
            if now.uid != MALLORY {
                return Err(Error::NotPermitted("jobs".into()));
            }
            // Root gives the folder away after this look.
            std::thread::scope(|scope| {
                scope.spawn(|| handle.block_on(change(owned(ALICE))).unwrap());
            });
            now.mode = 0o777;
            Ok(())
        });
        let mode = mode.await;
        assert!(matches!(mode, Err(Error::NotPermitted(_))), "{mode:?}");
        assert_eq!(repository.tops.top_access("jobs").await.unwrap(), Some(owned(ALICE)));
    });
}
