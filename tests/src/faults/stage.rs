//! A cluster that the tests of one binary share, in a network of its own, and pairs of mounts on it.

use std::fs::File;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use nix::sched::{CloneFlags, setns};

use super::network::{Network, SERVERS, alone};
use crate::cluster::Cluster;
use crate::mount::{Mount, TEST_LIMIT, Words};
use crate::repository::Repository;

/// The cluster and the network that it is in.
pub struct Stage {
    cluster: Cluster,
    network: File,
}

/// Two mounts of a repository of their own; the first can be cut off.
pub struct Pair {
    /// The one that something befalls.
    pub first: Mount,
    /// The one that sees it.
    pub second: Mount,
    /// The first one's.
    pub network: Network,
}

impl Stage {
    /// The one of this process: started by who asks first. This thread, and whatever it starts from
    /// now on, is in its network. `None`, loudly, where there can be none.
    pub fn enter() -> Option<&'static Stage> {
        static STAGE: OnceLock<Stage> = OnceLock::new();
        if !Cluster::available() || !Network::available() {
            return None;
        }
        let stage = STAGE.get_or_init(|| {
            alone();
            Stage {
                cluster: Cluster::fresh_at(SERVERS),
                network: File::open("/proc/thread-self/ns/net").expect("we have one"),
            }
        });
        setns(&stage.network, CloneFlags::CLONE_NEWNET).expect("root may enter a network");
        Some(stage)
    }

    /// The servers.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Mounts a new repository twice.
    pub fn pair(&self, session_timeout: Duration) -> Pair {
        static NUMBER: AtomicUsize = AtomicUsize::new(1);
        let network = Network::new(NUMBER.fetch_add(1, Ordering::Relaxed));
        let repository = Repository::on(&self.cluster);
        let after = vec![
            "-o".to_owned(),
            format!("session_timeout={}", session_timeout.as_secs()),
        ];
        let before = network.words();
        let mount = |node, before| {
            let after = after.clone();
            Mount::of(&repository, node, Words { before, after }, TEST_LIMIT)
        };
        Pair {
            first: mount("first", before),
            second: mount("second", Vec::new()),
            network,
        }
    }
}
