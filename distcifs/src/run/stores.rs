//! Opens what stands behind a source.

use std::path::Path;
use std::sync::Arc;

use tokio::runtime::Handle;

use super::cluster::{ClusterOptions, is_cluster};
use crate::backend::embedded::Embedded;
use crate::backend::zookeeper::{self, Zookeeper};
use crate::storage::{Contents, Coordination};

/// The two stores of a source.
pub(super) struct Stores {
    /// Locks, tickets, claims, live builds.
    pub(super) coordination: Arc<dyn Coordination>,
    /// Everything that is kept.
    pub(super) contents: Arc<dyn Contents>,
    /// What the store calls itself, for `status`.
    pub(super) store: String,
    /// What the coordinator calls itself, for `status`.
    pub(super) coordinator: String,
    /// The store of a folder.
    pub(super) folder: Option<Embedded>,
    /// The session of a cluster, to be ended on purpose.
    zookeeper: Option<Zookeeper>,
}

impl Stores {
    /// Opens them. `session_file`: where a session's id is kept, for the next mount to end it.
    ///
    /// # Errors
    /// One line: what is wrong, and what to do.
    pub(super) fn open(
        source: &Path,
        options: &ClusterOptions,
        session_file: Option<&Path>,
        runtime: &Handle,
    ) -> Result<Stores, String> {
        if !is_cluster(source) {
            let store = Embedded::open(source).map_err(|error| error.to_string())?;
            return Ok(Stores::embedded(&store, source));
        }
        options.check(source)?;
        let mut coordinator = coordinator_of(source, options)?;
        coordinator.session_file = session_file.map(Path::to_owned);
        let contents = contents_of(options, coordinator.ports())?;
        let zookeeper = runtime
            .block_on(Zookeeper::connect(&coordinator))
            .map_err(|error| error.to_string())?;
        Ok(Stores {
            coordination: zookeeper.coordination(),
            contents,
            store: format!(
                "ceph pool {}, namespace {}",
                options.pool.as_deref().unwrap_or_default(),
                options.namespace
            ),
            coordinator: format!("zookeeper {coordinator}"),
            folder: None,
            zookeeper: Some(zookeeper),
        })
    }

    /// Those of a folder.
    pub(super) fn embedded(store: &Embedded, source: &Path) -> Stores {
        Stores {
            coordination: store.coordination(),
            contents: store.contents(),
            store: format!("embedded {}", source.display()),
            coordinator: "embedded".into(),
            folder: Some(store.clone()),
            zookeeper: None,
        }
    }

    /// Whether other mounts may be on them.
    pub(super) fn are_shared(&self) -> bool {
        self.zookeeper.is_some()
    }

    /// Lets go of them: a session ends now, and what it held is free at once.
    pub(super) fn close(self, runtime: &Handle) {
        if let Some(zookeeper) = self.zookeeper {
            runtime.block_on(zookeeper.close());
        }
    }
}

/// Makes the place for a repository with the coordinator.
pub(super) fn make_chroot(source: &Path, options: &ClusterOptions, runtime: &Handle) -> Result<(), String> {
    let coordinator = coordinator_of(source, options)?;
    runtime
        .block_on(Zookeeper::init(&coordinator))
        .map_err(|error| error.to_string())
}

/// What the coordinator is told of the options.
fn coordinator_of(source: &Path, options: &ClusterOptions) -> Result<zookeeper::Options, String> {
    let address = source.to_string_lossy();
    let mut coordinator = zookeeper::Options::parse(&address).map_err(|error| error.to_string())?;
    coordinator.session_timeout = options.session_timeout;
    coordinator.credentials.clone_from(&options.zk_auth);
    coordinator.tls = options.zk_ca.clone().map(|ca| zookeeper::Tls {
        ca,
        identity: options.zk_cert.clone().zip(options.zk_key.clone()),
    });
    Ok(coordinator)
}

#[cfg(feature = "ceph")]
fn contents_of(options: &ClusterOptions, not_ceph: Vec<u16>) -> Result<Arc<dyn Contents>, String> {
    use crate::backend::ceph::{Ceph, Options};
    let ceph = Ceph::connect(Options {
        conf: options.ceph_conf.clone(),
        user: options.ceph_user.clone(),
        keyring: options.ceph_keyring.clone(),
        pool: options.pool.clone().unwrap_or_default(),
        namespace: options.namespace.clone(),
        not_ceph,
    });
    Ok(ceph.map_err(|error| error.to_string())?.contents())
}

#[cfg(not(feature = "ceph"))]
fn contents_of(_options: &ClusterOptions, _not_ceph: Vec<u16>) -> Result<Arc<dyn Contents>, String> {
    Err("this distcifs was built without Ceph, and can mount folders only: \
         build it with: cargo build --release --features ceph (it needs librados-dev)"
        .into())
}
