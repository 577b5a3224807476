//! Opens what stands behind a source.

#[cfg(feature = "zookeeper")]
mod shared;
#[cfg(not(feature = "zookeeper"))]
#[path = "stores/absent.rs"]
mod shared;

use std::path::Path;
use std::sync::Arc;

use tokio::runtime::Handle;

use super::cluster::{ClusterOptions, is_cluster};
use crate::backend::embedded::Embedded;
use crate::storage::{Contents, Coordination};

pub(super) use shared::make_chroot;

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
    session: Option<shared::Session>,
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
        shared::open(source, options, session_file, runtime)
    }

    /// Those of a folder.
    pub(super) fn embedded(store: &Embedded, source: &Path) -> Stores {
        Stores {
            coordination: store.coordination(),
            contents: store.contents(),
            store: format!("embedded {}", source.display()),
            coordinator: "embedded".into(),
            folder: Some(store.clone()),
            session: None,
        }
    }

    /// Whether other mounts may be on them.
    pub(super) fn are_shared(&self) -> bool {
        self.session.is_some()
    }

    /// Lets go of them: a session ends now, and what it held is free at once.
    pub(super) fn close(self, runtime: &Handle) {
        if let Some(session) = self.session {
            shared::close(session, runtime);
        }
    }
}
