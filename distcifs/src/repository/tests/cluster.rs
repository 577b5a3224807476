//! The same on real servers: ZooKeeper and Ceph, on which a process that is gone leaves a session
//! that lives on for a while, and one that is cut off lives on itself.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use distcifs_tests::Cluster;
use tokio::runtime::Runtime;

use super::crash::{End, Place, after_each_write};
use super::{Stores, faults, holes, runtime};
use crate::backend::ceph::tests::options as new_namespace;
use crate::backend::ceph::{Ceph, Options as Pool};
use crate::backend::zookeeper::tests::proxy::{Mode, Proxy};
use crate::backend::zookeeper::{self, Zookeeper};
use crate::repository::format;
use crate::storage::{Contents, Coordination};

/// How long a session outlives its process: short, as each death of one is waited for, and long
/// enough for a machine whose processors are all busy.
const SESSION_TIMEOUT: Duration = Duration::from_secs(3);

/// A repository of its own on the cluster; its first process reaches ZooKeeper through a proxy.
struct Servers {
    zookeeper: zookeeper::Options,
    ceph: Pool,
    proxy: Proxy,
}

/// What runs beside the processes of a test, whatever becomes of them.
fn outside() -> &'static Runtime {
    static OUTSIDE: OnceLock<Runtime> = OnceLock::new();
    OUTSIDE.get_or_init(runtime)
}

impl Servers {
    /// A new repository.
    fn new() -> Servers {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let cluster = Cluster::shared();
        let name = format!("unit-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let mut zookeeper = zookeeper::Options::parse(&cluster.source_named(&name)).unwrap();
        zookeeper.session_timeout = SESSION_TIMEOUT;
        zookeeper.credentials = Some(cluster.dir().join("zk.auth"));
        let ceph = new_namespace(cluster);
        outside().block_on(async {
            Zookeeper::init(&zookeeper).await.unwrap();
            let servers = Servers {
                proxy: Proxy::start(&zookeeper.hosts[0]).await,
                zookeeper,
                ceph,
            };
            let (coordination, contents) = servers.open().await;
            let (coordination, contents) = (coordination.coordination(), contents.contents());
            format::make(&coordination, &contents, false).await.unwrap();
            servers
        })
    }

    /// The stores, by the direct way.
    async fn open(&self) -> (Zookeeper, Ceph) {
        let zookeeper = Zookeeper::connect(&self.zookeeper).await.unwrap();
        (zookeeper, Ceph::connect(self.ceph.clone()).unwrap())
    }
}

fn shared(coordination: impl Coordination, contents: impl Contents) -> Stores {
    Stores {
        coordination: Arc::new(coordination),
        contents: Arc::new(contents),
        shared: true,
    }
}

impl Place for Servers {
    async fn first(&self) -> Stores {
        let mut options = self.zookeeper.clone();
        options.hosts = self.proxy.hosts();
        let zookeeper = Zookeeper::connect(&options).await.unwrap();
        shared(zookeeper, Ceph::connect(self.ceph.clone()).unwrap())
    }

    async fn next(&self) -> Stores {
        let (zookeeper, ceph) = self.open().await;
        shared(zookeeper, ceph)
    }

    fn cut(&self) {
        self.proxy.set(Mode::Cut);
    }

    fn heal(&self) {
        self.proxy.set(Mode::Pass);
    }
}

/// Its session, and the claims in it, outlive it: the next mount waits for their end and goes on.
#[test]
#[ignore = "needs a cluster: scripts/test conformance"]
fn a_mount_that_is_killed_after_any_write_loses_nothing() {
    if Cluster::available() {
        after_each_write(End::Killed, Servers::new);
    }
}

/// It writes on to Ceph, and to ZooKeeper as soon as it can again: the next mount, which has done its
/// work by then, and whoever looks afterwards see nothing of that.
#[test]
#[ignore = "needs a cluster: scripts/test conformance"]
fn a_mount_that_is_cut_off_after_any_write_loses_nothing() {
    if Cluster::available() {
        after_each_write(End::Cut, Servers::new);
    }
}

#[test]
#[ignore = "needs a cluster: scripts/test conformance"]
fn nothing_is_lost_or_done_twice_when_calls_fail() {
    if !Cluster::available() {
        return;
    }
    for seed in [1, 2] {
        let servers = Servers::new();
        runtime().block_on(async {
            let (zookeeper, ceph) = servers.open().await;
            faults::round(zookeeper, ceph, true, seed).await;
        });
    }
}

#[test]
#[ignore = "needs a cluster: scripts/test conformance"]
fn a_ticket_outlasts_a_store_that_is_away() {
    if !Cluster::available() {
        return;
    }
    let servers = Servers::new();
    runtime().block_on(async {
        let (zookeeper, ceph) = servers.open().await;
        faults::outlasts(zookeeper, ceph, true).await;
    });
}

#[test]
#[ignore = "needs a cluster: scripts/test conformance"]
fn a_claim_that_was_made_again_by_another_is_fenced() {
    if !Cluster::available() {
        return;
    }
    let servers = Servers::new();
    runtime().block_on(async {
        let stores = [servers.next().await, servers.next().await];
        holes::a_claim_made_again(stores).await;
    });
}
