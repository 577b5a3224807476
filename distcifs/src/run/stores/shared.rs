//! The stores of a cluster: ZooKeeper and Ceph.

use std::path::Path;
use std::sync::Arc;

use tokio::runtime::Handle;

use super::Stores;
use crate::backend::zookeeper::{self, Zookeeper};
use crate::run::cluster::ClusterOptions;
use crate::storage::Contents;

/// What lasts as long as the mount.
pub(super) type Session = Zookeeper;

/// Opens them.
pub(super) fn open(
    source: &Path,
    options: &ClusterOptions,
    session_file: Option<&Path>,
    runtime: &Handle,
) -> Result<Stores, String> {
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
        session: Some(zookeeper),
    })
}

/// Ends the session.
pub(super) fn close(session: Session, runtime: &Handle) {
    runtime.block_on(session.close());
}

/// Makes the place for a repository with the coordinator.
pub(in crate::run) fn make_chroot(source: &Path, options: &ClusterOptions, runtime: &Handle) -> Result<(), String> {
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
