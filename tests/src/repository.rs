//! What a test mounts: a folder, or with `DISTCIFS_STORE=cluster` a place of its own on a cluster
//! that it shares with the other tests.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::cluster::Cluster;
use crate::programs;

/// Chooses the stores of all tests that work on either.
const STORE: &str = "DISTCIFS_STORE";

/// A repository: nothing is left of it but what its store holds.
#[derive(Debug, Clone)]
pub struct Repository {
    source: String,
    options: Option<String>,
}

impl Repository {
    /// A new one where the environment says; `folder` holds it if it is a folder's.
    pub fn new(folder: &Path) -> Repository {
        if on_cluster() {
            Repository::on(Cluster::shared())
        } else {
            Repository::in_folder(folder)
        }
    }

    /// In a folder, whatever the environment says.
    pub fn in_folder(folder: &Path) -> Repository {
        Repository {
            source: folder.to_str().expect("a temporary path is text").to_owned(),
            options: None,
        }
    }

    /// A new one on a cluster: a path of ZooKeeper and a namespace of the pool of its own.
    pub fn on(cluster: &Cluster) -> Repository {
        let name = unused_name();
        let repository = Repository {
            source: cluster.source_named(&name),
            options: Some(format!("{},namespace={name}", cluster.options())),
        };
        let mut init = Command::new(programs::distcifs());
        init.args(["init", &repository.source]);
        init.args(repository.options.iter().flat_map(|options| ["-o", options]));
        let output = init.output().expect("distcifs runs");
        assert!(output.status.success(), "distcifs init: {output:?}");
        repository
    }

    /// What `distcifs mount` takes as source.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether several mounts may be on it.
    pub fn is_shared(&self) -> bool {
        self.options.is_some()
    }

    /// What follows `-o` for a mount named `node` that keeps what is its own in `state`; a folder
    /// needs neither.
    pub fn options(&self, node: &str, state: &Path) -> Option<String> {
        let options = self.options.as_ref()?;
        Some(format!("{options},node={node},state={}", state.display()))
    }
}

/// Whether the environment asks for a cluster.
pub fn on_cluster() -> bool {
    match std::env::var(STORE).as_deref() {
        Ok("cluster") => true,
        Ok("folder") | Err(_) => false,
        Ok(other) => panic!("{STORE}={other}: say folder or cluster"),
    }
}

/// A name that no other test has, also of other processes that use the cluster.
fn unused_name() -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("test-{}-{}-{number}", now.as_micros(), std::process::id())
}
