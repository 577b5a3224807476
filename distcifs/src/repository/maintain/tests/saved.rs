//! Backups of a real store, ended after each of their steps: at each moment it is the former backup
//! or the new one, and the next goes on from there.

use std::process::Command;

use super::*;
use crate::backend::embedded::{Archive, Copier, Placed, Rows};

/// Makes a backup up to a step; whether it came to its end before.
async fn save(store: &Embedded, dir: &Path, stop: usize) -> bool {
    let mut step = 0;
    let mut goes_on = || {
        step += 1;
        step <= stop
    };
    let archive = Archive::of_backup(dir).unwrap();
    if !goes_on() {
        return false;
    }
    archive.clean().unwrap();
    if !goes_on() {
        return false;
    }
    let _keeping = store.keep().unwrap();
    let index = archive.new_index();
    store.copy_index(&index, &|| {}).unwrap();
    if !goes_on() {
        return false;
    }
    let looked = Embedded::look(&store.dir(), &index).unwrap();
    let needed = Upkeep::new(looked.coordination(), looked.contents())
        .needed()
        .await
        .unwrap();
    drop(looked);
    assert_eq!(needed.faults, []);
    archive.begin(&needed.repository).unwrap();
    let copier = Copier::new(&store.dir(), archive.dir(), false);
    for object in needed.objects() {
        if !goes_on() {
            return false;
        }
        copier.bring([object].into_iter(), &|_| {}).unwrap();
    }
    if !goes_on() {
        return false;
    }
    archive.finish().unwrap();
    if !goes_on() {
        return false;
    }
    archive
        .prune(&|object| needed.has(object) || needed.consoles.contains(object))
        .unwrap();
    true
}

/// What a backup holds; all of it is whole.
async fn builds(dir: &Path) -> (usize, usize) {
    let placed = Placed::open(dir).unwrap();
    let store = Embedded::look(&placed.dir, &placed.index).unwrap();
    let checked = Upkeep::new(store.coordination(), store.contents())
        .check()
        .await
        .unwrap();
    assert_eq!(checked.faults, []);
    (checked.builds, checked.orphans)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_after_any_step_leaves_the_former_backup_or_the_new_one() {
    let scene = scene().await;
    let (former, dir) = (scene.dir.path().join("former"), scene.dir.path().join("saved"));
    assert!(save(&scene.store, &former, usize::MAX).await);
    assert_eq!(builds(&former).await, (2, 0));
    for n in [3, 4] {
        assert_eq!(
            scene
                .repository
                .builds
                .trigger(&scene.job, b"", poster())
                .await
                .unwrap(),
            n
        );
        build(&scene.repository, &scene.job, n).await.unwrap();
    }
    scene.repository.builds.remove_build(&scene.job, 1).await.unwrap();
    let mut seen = BTreeSet::new();
    for stop in 0.. {
        let copied = Command::new("cp").arg("-a").args([&former, &dir]).status().unwrap();
        assert!(copied.success());
        let ended = save(&scene.store, &dir, stop).await;
        let (found, _) = builds(&dir).await;
        seen.insert(found);
        // The next one goes on, and leaves nothing over.
        assert!(save(&scene.store, &dir, usize::MAX).await);
        assert_eq!(builds(&dir).await, (3, 0), "after an end at step {stop}");
        fs::remove_dir_all(&dir).unwrap();
        if ended {
            assert!(stop > 10, "it has more steps");
            break;
        }
    }
    assert_eq!(Vec::from_iter(seen), [2, 3], "the former one and the new one");
}

/// What is removed after the moment that is saved stays until the backup has ended.
#[tokio::test(flavor = "multi_thread")]
async fn consoles_that_are_removed_meanwhile_are_kept() {
    let scene = scene().await;
    let dir = scene.dir.path().join("saved");
    let archive = Archive::of_backup(&dir).unwrap();
    archive.clean().unwrap();
    let keeping = scene.store.keep().unwrap();
    let index = archive.new_index();
    scene.store.copy_index(&index, &|| {}).unwrap();
    for n in [1, 2] {
        scene.repository.builds.remove_build(&scene.job, n).await.unwrap();
    }
    let looked = Embedded::look(&scene.store.dir(), &index).unwrap();
    let needed = Upkeep::new(looked.coordination(), looked.contents())
        .needed()
        .await
        .unwrap();
    drop(looked);
    assert!(needed.consoles.len() >= 4, "{:?}", needed.consoles);
    archive.begin(&needed.repository).unwrap();
    let copier = Copier::new(&scene.store.dir(), archive.dir(), true);
    copier.bring(needed.objects(), &|_| {}).unwrap();
    archive.finish().unwrap();
    drop(archive);
    assert_eq!(builds(&dir).await, (2, 0));
    let kept = scene.store.dir().join("tmp/kept");
    assert!(kept.exists());
    drop(keeping);
    assert!(!kept.exists());
    let checked = scene.upkeep.check().await.unwrap();
    assert_eq!((checked.faults.len(), checked.builds), (0, 0), "{checked}");
}

/// Rows that are cut short, or are none, make no index.
#[test]
fn rows_that_are_damaged_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = Embedded::open(&dir.path().join("store")).unwrap();
    let mut rows = Vec::new();
    store
        .tell_rows(&mut |block| {
            rows.append(block);
            Some(true)
        })
        .unwrap();
    let make = |rows: &[u8]| {
        let path = dir.path().join("index");
        let made = Rows(rows).make_index(&path, &|| {});
        fs::remove_file(&path).unwrap();
        made
    };
    assert!(make(&rows).unwrap() > 0);
    for length in [0, 1, rows.len() / 2, rows.len() - 1] {
        assert!(make(&rows[..length]).is_err(), "{length} bytes");
    }
    let long = [&b"e\xff\xff\xff\xff\xff\xff\xff\xff"[..], &[0; 64]].concat();
    let odd = b"x\x01\0\0\0\x01\0\0\0ab.".to_vec();
    let text = b"e\x01\0\0\0\x01\0\0\0\xffb.".to_vec();
    let number = b"m\x01\0\0\0\x01\0\0\0ab.".to_vec();
    for wrong in [long, odd, text, number] {
        assert!(make(&wrong).is_err(), "{wrong:?}");
    }
    let given_up = store.tell_rows(&mut |_| None);
    assert!(given_up.is_err_and(|error| error.to_string().contains("nobody takes")));
}
