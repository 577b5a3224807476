//! Watches: which events come, in which order.

use tokio::time::timeout;

use super::PATIENCE;
use super::entries::{create, delete, done, ephemeral, home, mismatch, set};
use crate::storage::coordination::WATCH_LAG_MAX;
use crate::storage::{Change, Coordination, Event, Watch};

/// The next event.
async fn next(watch: &mut Watch) -> (String, Change) {
    match timeout(PATIENCE, watch.events.recv()).await {
        Ok(Some(Event::Changed { path, change })) => (path, change),
        other => panic!("an event was expected, not {other:?}"),
    }
}

/// Events of a watched entry and those below it come in the order of the commits.
pub async fn notifies_in_order(store: &dyn Coordination) {
    let home = home(store).await;
    let (path, below) = (format!("{home}/a"), format!("{home}/a/b"));
    done(store, vec![create(&path, "")]).await;
    let mut watch = store.watch(&path).await.unwrap();
    done(store, vec![set(&path, "1", None)]).await;
    done(store, vec![create(&below, "")]).await;
    for i in 0..20 {
        done(store, vec![set(&below, &i.to_string(), Some(i))]).await;
    }
    done(store, vec![delete(&below, None), delete(&path, None)]).await;
    done(store, vec![create(&path, "")]).await;
    done(store, vec![ephemeral(&below)]).await;
    assert_eq!(next(&mut watch).await, (path.clone(), Change::Set));
    assert_eq!(next(&mut watch).await, (below.clone(), Change::Created));
    for _ in 0..20 {
        assert_eq!(next(&mut watch).await, (below.clone(), Change::Set));
    }
    assert_eq!(next(&mut watch).await, (below.clone(), Change::Deleted));
    assert_eq!(next(&mut watch).await, (path.clone(), Change::Deleted));
    assert_eq!(next(&mut watch).await, (path, Change::Created));
    assert_eq!(next(&mut watch).await, (below, Change::Created));
}

/// A watch means the entry and what lies below it: no neighbour whose name begins alike, and
/// nothing above. Each of several watches is told, and one that was dropped hinders nobody.
pub async fn watches_whole_components(store: &dyn Coordination) {
    let home = home(store).await;
    let (path, like) = (format!("{home}/a"), format!("{home}/ab"));
    let mut watch = store.watch(&path).await.unwrap();
    let mut root = store.watch("/").await.unwrap();
    drop(store.watch(&path).await.unwrap());
    let mut second = store.watch(&path).await.unwrap();
    done(store, vec![create(&like, ""), set(&home, "1", None)]).await;
    done(store, vec![create(&path, "")]).await;
    assert_eq!(next(&mut watch).await, (path.clone(), Change::Created));
    assert_eq!(next(&mut second).await, (path.clone(), Change::Created));
    for wanted in [&like, &home, &path] {
        while next(&mut root).await.0 != *wanted {}
    }
}

/// A commit that is refused is told to nobody.
pub async fn notifies_nothing_of_a_mismatch(store: &dyn Coordination) {
    let home = home(store).await;
    let (path, end) = (format!("{home}/a"), format!("{home}/end"));
    let mut watch = store.watch(&home).await.unwrap();
    mismatch(store, 1, vec![create(&path, ""), set(&home, "", Some(9))]).await;
    done(store, vec![create(&end, "")]).await;
    assert_eq!(next(&mut watch).await, (end, Change::Created));
}

/// Whoever does not read for long is sent `Resync` in place of what does not fit, and hears again
/// of what happens after it has read that.
pub async fn tells_a_laggard_to_look_again(store: &dyn Coordination) {
    let home = home(store).await;
    let path = format!("{home}/a");
    done(store, vec![create(&path, "")]).await;
    let mut watch = store.watch(&path).await.unwrap();
    let burst = 1024;
    for _ in 0..(2 * WATCH_LAG_MAX).div_ceil(burst) {
        done(store, (0..burst).map(|_| set(&path, "x", None)).collect()).await;
    }
    let mut read = 0;
    loop {
        match timeout(PATIENCE, watch.events.recv()).await {
            Ok(Some(Event::Changed { change, .. })) => assert_eq!(change, Change::Set),
            Ok(Some(Event::Resync)) => break,
            other => panic!("an event or a resync was expected, not {other:?}"),
        }
        read += 1;
        assert!(read <= WATCH_LAG_MAX, "no resync among {read} events");
    }
    done(store, vec![delete(&path, None)]).await;
    loop {
        match timeout(PATIENCE, watch.events.recv()).await {
            Ok(Some(Event::Changed {
                change: Change::Deleted,
                ..
            })) => return,
            Ok(Some(_)) => {}
            other => panic!("the removal was to be told, not {other:?}"),
        }
    }
}
