//! The marks of blobs: never lowered, set anew by each put in a later epoch, and compared in the
//! operation that sweeps.

use bytes::Bytes;
use distcifs_tests::cluster::Cluster;
use tokio::task::JoinSet;

use super::{Ceph, Options, cluster, options};
use crate::storage::{Digest, Error, Object};

fn chunk(text: &str) -> (Object, Bytes) {
    (Object::Chunk(Digest::of(text.as_bytes())), text.to_owned().into())
}

fn mark(cluster: &Cluster, options: &Options, object: &Object) -> String {
    let words = ["-N", &options.namespace, "getxattr", &object.to_string(), "epoch"];
    cluster.rados(&words).unwrap().trim().to_owned()
}

#[tokio::test]
async fn a_mark_is_never_lowered_and_a_sweep_goes_by_it() {
    let Some(cluster) = cluster() else { return };
    let options = options(cluster);
    let [behind, ahead] = [(); 2].map(|()| Ceph::connect(options.clone()).unwrap().contents());
    let (object, bytes) = chunk("marked");
    assert!(behind.put(&object, bytes.clone()).await.unwrap());
    assert_eq!(mark(cluster, &options, &object), "0");
    ahead.enter(1_790_000_000_000);
    ahead.enter(7);
    assert!(!ahead.put(&object, bytes.clone()).await.unwrap());
    assert_eq!(mark(cluster, &options, &object), "1790000000000");
    assert!(!behind.put(&object, bytes.clone()).await.unwrap());
    assert_eq!(
        mark(cluster, &options, &object),
        "1790000000000",
        "by one who is behind"
    );
    for early in [0, 1, 999, 1_790_000_000_000] {
        assert_eq!(behind.sweep(&object, early).await, Ok(None), "{early}");
    }
    assert_eq!(ahead.read(&object, 0, 100).await.unwrap(), Some(bytes.clone()));
    // Cut short by somebody, and sent again by one who is behind.
    let (name, short) = (object.to_string(), tempfile::NamedTempFile::new().unwrap());
    std::fs::write(short.path(), "mar").unwrap();
    let words = ["-N", &options.namespace, "put", &name, short.path().to_str().unwrap()];
    cluster.rados(&words).unwrap();
    assert!(behind.put(&object, bytes.clone()).await.unwrap());
    assert_eq!(mark(cluster, &options, &object), "1790000000000");
    assert_eq!(ahead.sweep(&object, 1_790_000_000_001).await, Ok(Some(6)));
    assert_eq!(ahead.sweep(&object, 1_790_000_000_001).await, Ok(None), "it is gone");
    assert_eq!(ahead.read(&object, 0, 100).await.unwrap(), None);
    // One without a mark is nobody's to remove.
    cluster.rados(&words).unwrap();
    assert_eq!(ahead.sweep(&object, u64::MAX).await, Ok(None));
    let console = Object::Console("console.x.1".into());
    assert!(matches!(ahead.sweep(&console, 1).await, Err(Error::Refused { .. })));
}

/// Puts and sweeps of the same blob at the same moment: whoever was told that it is there finds it.
#[tokio::test(flavor = "multi_thread")]
async fn a_put_and_a_sweep_never_both_succeed() {
    let Some(cluster) = cluster() else { return };
    let options = options(cluster);
    let [mount, sweeper] = [(); 2].map(|()| Ceph::connect(options.clone()).unwrap().contents());
    let mut swept = 0;
    for epoch in 1..=40_u64 {
        let (object, bytes) = chunk("raced for");
        mount.enter(epoch);
        let mut running = JoinSet::new();
        for _ in 0..2 {
            let (sweeper, object) = (sweeper.clone(), object.clone());
            running.spawn(async move { sweeper.sweep(&object, epoch).await.map(|swept| swept.is_some()) });
        }
        mount.put(&object, bytes.clone()).await.unwrap();
        while let Some(done) = running.join_next().await {
            swept += usize::from(done.unwrap().unwrap());
        }
        assert_eq!(mount.read(&object, 0, 100).await.unwrap(), Some(bytes), "epoch {epoch}");
    }
    assert!(swept <= 40, "{swept}: each blob goes once");
}
