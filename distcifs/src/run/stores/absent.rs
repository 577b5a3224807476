//! In the place of a cluster's stores, where the program was built without them.

use std::path::Path;

use tokio::runtime::Handle;

use super::Stores;
use crate::run::cluster::ClusterOptions;

/// There is none.
pub(super) enum Session {}

/// Says what to build.
pub(super) fn open(
    _source: &Path,
    _options: &ClusterOptions,
    _session_file: Option<&Path>,
    _runtime: &Handle,
) -> Result<Stores, String> {
    Err(missing())
}

/// Says what to build.
pub(in crate::run) fn make_chroot(_source: &Path, _options: &ClusterOptions, _runtime: &Handle) -> Result<(), String> {
    Err(missing())
}

/// Can't be asked for.
pub(super) fn close(session: Session, _runtime: &Handle) {
    match session {}
}

fn missing() -> String {
    "this distcifs was built without Ceph and ZooKeeper, and can mount folders only: \
     build it with: cargo build --release --features ceph (it needs librados-dev)"
        .into()
}
