//! gc of a folder within the process that has it mounted: the same as beside many mounts, by the
//! epochs of one.

use std::time::Duration;

use super::*;
use crate::repository::Error;

/// How long a gc waits here for what nobody ends.
const SHORT: Duration = Duration::from_millis(200);

/// How long it waits for what a test ends.
const LONG: Duration = Duration::from_secs(30);

async fn is_there(scene: &Scene, object: &Object) -> bool {
    scene.store.size(object).await.unwrap().is_some()
}

async fn garbage(scene: &Scene, text: &'static str) -> Object {
    scene.put(Object::Chunk(Digest::of(text.as_bytes())), text).await
}

/// Waits until the mount is in that epoch.
async fn epoch(scene: &Scene, wanted: u64) {
    let begun = std::time::Instant::now();
    while scene.repository.store.pin_epoch().await.unwrap().epoch() < wanted {
        assert!(begun.elapsed() < LONG, "epoch {wanted} never begins");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_garbage_goes_and_what_is_put_meanwhile_stays() {
    let scene = scene().await;
    let (lone, reused, late) = (
        garbage(&scene, "lone").await,
        garbage(&scene, "reused").await,
        garbage(&scene, "late").await,
    );
    let pin = scene.repository.store.pin_epoch().await.unwrap();
    let (upkeep, repository) = (
        Upkeep::new(scene.store.coordination(), scene.store.contents()),
        scene.repository.clone(),
    );
    let gc = tokio::spawn(async move { upkeep.sweep_own(&repository, LONG).await });
    epoch(&scene, 1).await;
    // Found there already, while gc waits for what was begun before it.
    scene.repository.store.keep_body("reused".into()).await.unwrap();
    let next = scene.repository.store.pin_epoch().await.unwrap();
    tokio::time::sleep(SHORT).await;
    assert!(!gc.is_finished() && is_there(&scene, &lone).await);
    drop(pin);
    epoch(&scene, 2).await;
    // Between the two readings, and the second is waited for in its turn.
    scene.repository.store.keep_body("late".into()).await.unwrap();
    tokio::time::sleep(SHORT).await;
    assert!(!gc.is_finished() && is_there(&scene, &lone).await);
    drop(next);
    let swept = gc.await.unwrap().unwrap();
    assert_eq!((swept.faults.len(), swept.objects), (0, 1), "{swept}");
    assert!(!is_there(&scene, &lone).await);
    assert!(is_there(&scene, &reused).await && is_there(&scene, &late).await);
    for n in [1, 2] {
        assert_whole(&scene.repository, &scene.job, n).await;
    }
    let swept = scene.upkeep.sweep_own(&scene.repository, LONG).await.unwrap();
    assert_eq!(
        (swept.faults.len(), swept.objects),
        (0, 2),
        "nothing refers to them: {swept}"
    );
    let checked = scene.upkeep.check().await.unwrap();
    assert_eq!((checked.faults.len(), checked.orphans), (0, 0), "{checked}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_end_is_waited_for_in_vain_and_nothing_goes() {
    let scene = scene().await;
    let lone = garbage(&scene, "lone").await;
    let pin = scene.repository.store.pin_epoch().await.unwrap();
    let Err(Error::Busy(reason)) = scene.upkeep.sweep_own(&scene.repository, SHORT).await else {
        panic!("somebody stores something");
    };
    assert!(
        reason.contains("nothing was removed") && reason.contains("--wait"),
        "{reason}"
    );
    assert!(is_there(&scene, &lone).await);
    drop(pin);
    let swept = scene.upkeep.sweep_own(&scene.repository, LONG).await.unwrap();
    assert_eq!((swept.faults.len(), swept.objects), (0, 1), "{swept}");
}

/// A gc that is dropped in the middle leaves nothing that the next one stumbles over.
#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_given_up_costs_nothing() {
    let scene = scene().await;
    for text in ["a", "b", "c"] {
        garbage(&scene, text).await;
    }
    for after in [0, 1, 3, 10] {
        let sweep = scene.upkeep.sweep_own(&scene.repository, LONG);
        // It may have come to its end.
        let _ = tokio::time::timeout(Duration::from_millis(after), sweep).await;
    }
    let swept = scene.upkeep.sweep_own(&scene.repository, LONG).await.unwrap();
    assert!(swept.faults.is_empty(), "{swept}");
    let checked = scene.upkeep.check().await.unwrap();
    assert_eq!((checked.faults.len(), checked.orphans), (0, 0), "{checked}");
}
