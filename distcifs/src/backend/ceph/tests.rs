//! Tests of the pool on a real cluster: the suite of all stores, and what befalls a cluster.

use std::sync::atomic::{AtomicU64, Ordering};

use distcifs_tests::cluster::Cluster;

use super::{Ceph, Options};
use crate::storage::conformance;

mod faults;
mod marks;
mod notices;
mod opening;
mod speed;
mod standstill;
mod sums;

/// The cluster of this process; `None`, loudly, where its servers are not installed.
fn cluster() -> Option<&'static Cluster> {
    Cluster::available().then(Cluster::shared)
}

/// Options for a namespace that nobody else has.
pub(crate) fn options(cluster: &Cluster) -> Options {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    Options {
        conf: Some(cluster.dir().join("ceph.conf")),
        user: "distci".to_owned(),
        keyring: Some(cluster.dir().join("ceph.client.distci.keyring")),
        pool: "distci".to_owned(),
        namespace: format!("test-{}-{number}", std::process::id()),
        not_ceph: Vec::new(),
    }
}

#[tokio::test]
async fn contents_conform() {
    let Some(cluster) = cluster() else { return };
    let store = Ceph::connect(options(cluster)).unwrap();
    conformance::all_contents(&store).await;
}
